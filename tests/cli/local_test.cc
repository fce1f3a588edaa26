// Commands that need no coordinator, on the committed templates, catalogue and batches.
#include <filesystem>

#include "absl/strings/str_cat.h"
#include "common/file.h"
#include "tests/cli/run_assay.h"
#include "tests/matchers.h"

namespace assay::cli {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

namespace fs = std::filesystem;

size_t CountFiles(const std::string& folder) {
  return static_cast<size_t>(std::distance(fs::directory_iterator(folder), fs::directory_iterator()));
}

TEST(Generate, WritesTestsThatVerifyAccepts) {
  const std::string folder = NewFolder() + "/tests";
  const Ended generated =
      RunAssay({"generate", "--batch-file", "models/batches/batch_1_models.json", "--output-dir", folder});
  ASSERT_EQ(generated.exit_code, 0) << generated.err;
  EXPECT_EQ(CountFiles(folder), 10u);
  ASSERT_OK_AND_ASSIGN(std::string test, ReadFile(folder + "/test_hf_command_r.textproto"));
  EXPECT_THAT(test, AllOf(HasSubstr("command-r"), HasSubstr("test_model_with_mock")));

  const Ended verified = RunAssay({"verify", "--directory", folder});
  EXPECT_EQ(verified.exit_code, 0) << verified.err;
  EXPECT_THAT(verified.out, HasSubstr("10 of 10"));

  // And names the place of what is wrong.
  ASSERT_THAT(WriteFileAtomically(folder + "/test_hf_command_r.textproto", test + "nonsense {\n"), IsOk());
  const Ended refused = RunAssay({"verify", "--directory", folder});
  EXPECT_EQ(refused.exit_code, 2);
  EXPECT_THAT(refused.out, HasSubstr("9 of 10"));
  EXPECT_THAT(refused.err,
              ::testing::ContainsRegex("test_hf_command_r\\.textproto:[0-9]+:[0-9]+: .*nonsense"));
}

TEST(Generate, TakesAllSixBatchesAtOnce) {
  const std::string folder = NewFolder() + "/tests";
  std::vector<std::string> arguments = {"generate", "--output-dir", folder, "--cpu-only", "--batch-file"};
  for (int batch = 1; batch <= 6; ++batch) {
    arguments.push_back(absl::StrCat("models/batches/batch_", batch, "_models.json"));
  }
  const Ended ended = RunAssay(arguments);
  EXPECT_EQ(ended.exit_code, 0) << ended.err;
  EXPECT_EQ(CountFiles(folder), 62u);
  ASSERT_OK_AND_ASSIGN(std::string test, ReadFile(folder + "/test_hf_olmo.textproto"));
  EXPECT_THAT(test, HasSubstr("device: CPU"));
}

TEST(Generate, WritesNothingForARefusedFile) {
  const std::string folder = NewFolder();
  const std::string file = folder + "/bad.json";
  ASSERT_THAT(WriteFileAtomically(
                  file, "{\"vision\": [{\"name\": \"a\", \"template\": \"no_such\", \"task\": \"t\"}]}"),
              IsOk());
  const Ended ended = RunAssay({"generate", "--batch-file", "models/batches/batch_1_models.json", file,
                                "--output-dir", folder + "/tests"});
  EXPECT_EQ(ended.exit_code, 2);
  EXPECT_THAT(ended.err, AllOf(HasSubstr(file + ":1:"), HasSubstr("no_such")));
  EXPECT_FALSE(fs::exists(folder + "/tests"));
}

TEST(ContentDir, ThatIsGivenIsTakenOrRefused) {
  const std::string empty = NewFolder();
  const std::vector<std::string> arguments = {
      "generate", "--batch-file", "models/batches/batch_1_models.json", "--output-dir", empty + "/tests"};
  const Ended ended = RunAssay(arguments, {absl::StrCat("ASSAY_CONTENT_DIR=", empty)});
  EXPECT_EQ(ended.exit_code, 2);
  EXPECT_THAT(ended.err, HasSubstr(empty));
}

TEST(Verify, OfNothingIsNoTests) {
  EXPECT_EQ(RunAssay({"verify", "--directory", NewFolder()}).exit_code, 4);
  const Ended missing = RunAssay({"verify", "--directory", "/no/such/folder"});
  EXPECT_EQ(missing.exit_code, 2);
  EXPECT_THAT(missing.err, HasSubstr("/no/such/folder"));
}

}  // namespace
}  // namespace assay::cli
