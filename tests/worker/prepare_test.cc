#include "worker/prepare.h"

#include "common/digest.h"
#include "generator/generate.h"
#include "tests/matchers.h"
#include "tests/worker/content.h"

namespace assay::worker {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

v1::Assignment Assigned() {
  v1::Assignment assignment = AssignmentOf("gpt_x");
  assignment.set_template_digest(Sha256Hex(kTemplate));
  assignment.set_catalogue_digest(Sha256Hex(CatalogueText("gpt_x")));
  assignment.set_program_digest(Sha256Hex("program"));
  return assignment;
}

TEST(Prepare, GivesTheTestAndTheDigestOfItsFile) {
  ASSERT_OK_AND_ASSIGN(PreparedTest prepared, PrepareTest(Assigned(), kTemplate, CatalogueText("gpt_x")));
  EXPECT_EQ(prepared.digest, Sha256Hex(generator::FormatTest(prepared.test)));
  EXPECT_EQ(prepared.test.name(), "gpt_x");
  EXPECT_EQ(prepared.test.template_digest(), Assigned().template_digest());
  EXPECT_EQ(prepared.test.catalogue_digest(), Assigned().catalogue_digest());
  EXPECT_EQ(prepared.test.program_digest(), Assigned().program_digest());
}

TEST(Prepare, TheTargetDecidesTheDevice) {
  v1::Assignment assignment = Assigned();
  assignment.mutable_target()->set_device(v1::CPU);
  ASSERT_OK_AND_ASSIGN(PreparedTest prepared, PrepareTest(assignment, kTemplate, CatalogueText("gpt_x")));
  EXPECT_EQ(prepared.test.set_up().device(), v1::CPU);
}

TEST(Prepare, AModelWithoutACatalogueEntryHasATestToo) {
  v1::Assignment assignment = Assigned();
  assignment.clear_catalogue_digest();
  EXPECT_THAT(PrepareTest(assignment, kTemplate, std::nullopt), IsOk());
}

TEST(Prepare, ATemplateOfANewerVersionCannotBeRead) {
  EXPECT_THAT(PrepareTest(Assigned(), "name: \"gpt2\"\nnovelty: 1\n", CatalogueText("gpt_x")),
              StatusIs(absl::StatusCode::kDataLoss, HasSubstr("gpt2.textproto:2")));
}

TEST(Prepare, ACatalogueEntryOfANewerVersionCannotBeRead) {
  EXPECT_THAT(PrepareTest(Assigned(), kTemplate, CatalogueText("gpt_x") + "novelty: 1\n"),
              StatusIs(absl::StatusCode::kDataLoss, HasSubstr("novelty")));
}

TEST(Prepare, NamesWhatDoesNotFitTogether) {
  v1::Assignment assignment = Assigned();
  assignment.mutable_model()->set_template_("bert");
  EXPECT_THAT(PrepareTest(assignment, kTemplate, CatalogueText("gpt_x")),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("no test can be generated")));
}

TEST(Prepare, ListsTheBlobsThatAreThere) {
  v1::Assignment assignment = Assigned();
  EXPECT_THAT(BlobsOf(assignment), ElementsAre(assignment.template_digest(), assignment.catalogue_digest(),
                                               assignment.program_digest()));
  assignment.clear_program_digest();
  EXPECT_THAT(BlobsOf(assignment), ElementsAre(assignment.template_digest(), assignment.catalogue_digest()));
}

}  // namespace
}  // namespace assay::worker
