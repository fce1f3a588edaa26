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

PreparedFrom From() { return {std::string(kTemplate), CatalogueText("gpt_x"), std::nullopt}; }

TEST(Prepare, GivesTheTestAndTheDigestOfItsFile) {
  ASSERT_OK_AND_ASSIGN(PreparedTest prepared, PrepareTest(Assigned(), From()));
  EXPECT_EQ(prepared.digest, Sha256Hex(generator::FormatTest(prepared.test)));
  EXPECT_EQ(prepared.test.name(), "gpt_x");
  EXPECT_EQ(prepared.test.template_digest(), Assigned().template_digest());
  EXPECT_EQ(prepared.test.catalogue_digest(), Assigned().catalogue_digest());
  EXPECT_EQ(prepared.test.program_digest(), Assigned().program_digest());
}

TEST(Prepare, TheTargetDecidesTheDevice) {
  v1::Assignment assignment = Assigned();
  assignment.mutable_target()->set_device(v1::CPU);
  ASSERT_OK_AND_ASSIGN(PreparedTest prepared, PrepareTest(assignment, From()));
  EXPECT_EQ(prepared.test.set_up().device(), v1::CPU);
}

TEST(Prepare, AModelWithoutACatalogueEntryHasATestToo) {
  v1::Assignment assignment = Assigned();
  assignment.clear_catalogue_digest();
  EXPECT_THAT(PrepareTest(assignment, {std::string(kTemplate), std::nullopt, std::nullopt}), IsOk());
}

TEST(Prepare, ATemplateOfANewerVersionCannotBeRead) {
  EXPECT_THAT(PrepareTest(Assigned(), {"name: \"gpt2\"\nnovelty: 1\n", CatalogueText("gpt_x"), std::nullopt}),
              StatusIs(absl::StatusCode::kDataLoss, HasSubstr("gpt2.textproto:2")));
}

TEST(Prepare, ACatalogueEntryOfANewerVersionCannotBeRead) {
  EXPECT_THAT(PrepareTest(Assigned(),
                          {std::string(kTemplate), CatalogueText("gpt_x") + "novelty: 1\n", std::nullopt}),
              StatusIs(absl::StatusCode::kDataLoss, HasSubstr("novelty")));
}

TEST(Prepare, NamesWhatDoesNotFitTogether) {
  v1::Assignment assignment = Assigned();
  assignment.mutable_model()->set_template_("bert");
  EXPECT_THAT(PrepareTest(assignment, From()),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("no test can be generated")));
}

TEST(Prepare, ACheckpointsCaseHasWhatItsExportMade) {
  v1::Assignment assignment = Assigned();
  assignment.set_stage(v1::STAGE_TEST);
  assignment.mutable_checkpoint()->set_id("org/name");
  assignment.mutable_checkpoint()->set_commit(std::string(40, 'a'));
  v1::ExportResult& made = *assignment.mutable_export_();
  made.set_model_class("transformers.GPT2LMHeadModel");
  made.set_program_digest(Sha256Hex("full size"));
  made.set_golden_digest(Sha256Hex("golden"));
  ASSERT_OK_AND_ASSIGN(PreparedTest prepared, PrepareTest(assignment, From()));
  EXPECT_EQ(prepared.test.trained().commit(), std::string(40, 'a'));
  ASSERT_EQ(prepared.test.case__size(), 2);
  EXPECT_EQ(prepared.test.case_(0).program_digest(), made.program_digest());
  EXPECT_EQ(prepared.test.case_(0).golden_digest(), made.golden_digest());
  EXPECT_EQ(prepared.test.case_(1).program_digest(), "");
}

TEST(Prepare, ListsTheBlobsThatAreThere) {
  v1::Assignment assignment = Assigned();
  EXPECT_THAT(BlobsOf(assignment), ElementsAre(assignment.template_digest(), assignment.catalogue_digest(),
                                               assignment.program_digest()));
  v1::ExportResult& made = *assignment.mutable_export_();
  made.set_program_digest(Sha256Hex("full size"));
  made.set_golden_digest(Sha256Hex("golden"));
  assignment.set_checkpoint_entry_digest(Sha256Hex("entry"));
  EXPECT_THAT(
      BlobsOf(assignment),
      ElementsAre(assignment.template_digest(), assignment.catalogue_digest(), assignment.program_digest(),
                  assignment.checkpoint_entry_digest(), made.program_digest(), made.golden_digest()));
  assignment.clear_export_();
  assignment.clear_checkpoint_entry_digest();
  assignment.clear_program_digest();
  EXPECT_THAT(BlobsOf(assignment), ElementsAre(assignment.template_digest(), assignment.catalogue_digest()));
}

}  // namespace
}  // namespace assay::worker
