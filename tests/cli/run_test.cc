// `assay run` with its own coordinator, worker and test host, on committed programs.
#include <signal.h>

#include <filesystem>

#include "absl/strings/str_cat.h"
#include "common/file.h"
#include "nlohmann/json.hpp"
#include "tests/cli/run_assay.h"
#include "tests/matchers.h"

namespace assay::cli {
namespace {

using ::testing::AllOf;
using ::testing::ContainsRegex;
using ::testing::HasSubstr;

namespace fs = std::filesystem;

std::string BatchOf(const std::string& model, const std::string& template_name) {
  const std::string path = absl::StrCat(NewFolder(), "/mine.json");
  EXPECT_TRUE(
      WriteFileAtomically(path, absl::StrCat(R"({"encoder_only": [{"name": ")", model, R"(", "template": ")",
                                             template_name, R"(", "task": "fill-mask"}]})"))
          .ok());
  return path;
}

TEST(Run, RunsABatchAndWritesItsReports) {
  const std::string output = absl::StrCat(NewFolder(), "/out"), temporary = NewFolder();
  const Ended ended = RunAssay(
      {"run", "--batch-file", "models/batches/batch_1_models.json", "--cpu-only", "--output-dir", output},
      {absl::StrCat("TMPDIR=", temporary)});
  ASSERT_EQ(ended.exit_code, 0) << ended.out << ended.err;
  EXPECT_THAT(ended.out,
              AllOf(ContainsRegex("PASSED +command_r +[0-9.]+ s +[0-9]+ checks"),
                    HasSubstr("10 PASSED of 10"), ContainsRegex("tracked models +198 +10 +10 +10 ")));
  for (const char* file :
       {"report.md", "report.html", "junit.xml", "ROADMAP.md", "batches/batch_1_models.md"}) {
    EXPECT_TRUE(fs::exists(absl::StrCat(output, "/", file))) << file;
  }
  ASSERT_OK_AND_ASSIGN(std::string report, ReadFile(absl::StrCat(output, "/report.json")));
  const auto json = nlohmann::json::parse(report);
  EXPECT_EQ(json["coverage"]["total"]["covered"]["count"], 10);
  EXPECT_EQ(json["coverage"]["by_device"]["cpu"]["mock_passed"]["count"], 10);
  EXPECT_TRUE(fs::is_empty(temporary));  // nothing is left behind
}

TEST(Run, OfAModelWithoutAProgramDoesNotPass) {
  const Ended ended = RunAssay(
      {"run", "--batch-file", BatchOf("no_such_model", "bert"), "--cpu-only", "--output-dir", NewFolder()});
  EXPECT_EQ(ended.exit_code, 3) << ended.err;
  EXPECT_THAT(ended.out, ContainsRegex("UNSUPPORTED +no_such_model"));
}

TEST(Run, RefusesAWrongFileWithItsPlace) {
  const std::string file = BatchOf("bert", "no_such_template");
  const Ended ended = RunAssay({"run", "--batch-file", file, "--output-dir", NewFolder()});
  EXPECT_EQ(ended.exit_code, 2);
  EXPECT_THAT(ended.err, AllOf(HasSubstr(absl::StrCat(file, ":1:")), HasSubstr("no_such_template")));
}

TEST(Run, SaysWhenThereIsNoTestHost) {
  const Ended ended = RunAssay({"run", "--batch-file", BatchOf("bert", "bert"), "--host-binary",
                                "/no/such/host", "--output-dir", NewFolder()});
  EXPECT_NE(ended.exit_code, 0);
  EXPECT_THAT(ended.err, HasSubstr("/no/such/host"));
}

TEST(Run, NeedsABatchOrACheckpoint) {
  EXPECT_EQ(RunAssay({"run", "--output-dir", NewFolder()}).exit_code, 2);
  const Ended ended = RunAssay({"run", "--batch-file", BatchOf("bert", "bert"), "--template", "bert"});
  EXPECT_EQ(ended.exit_code, 2);
  EXPECT_THAT(ended.err, HasSubstr("--checkpoint"));
}

TEST(Run, OfACheckpointSaysWhatIsMissing) {
  const std::string folder = NewFolder() + "/my-bert";
  ASSERT_TRUE(WriteFileAtomically(folder + "/config.json",
                                  R"({"model_type": "nobody", "architectures": ["NobodyKnows"]})")
                  .ok());
  const Ended unknown = RunAssay({"run", "--checkpoint", folder, "--output-dir", NewFolder()});
  EXPECT_EQ(unknown.exit_code, 2);
  EXPECT_THAT(unknown.err, AllOf(HasSubstr("give --template and --task"), HasSubstr("NobodyKnows")));

  const Ended malformed = RunAssay({"run", "--checkpoint", "a/b/c", "--output-dir", NewFolder()});
  EXPECT_EQ(malformed.exit_code, 2);
  EXPECT_THAT(malformed.err, HasSubstr("owner/name"));

  // Both in a batch file and by itself a checkpoint needs an exporter, and that is said before anything
  // starts.
  const std::string empty = fs::path(NewFolder()).lexically_normal().string();
  const std::string batch = NewFolder() + "/mine.json";
  ASSERT_TRUE(WriteFileAtomically(batch, "{\"encoder_only\": [{\"checkpoint\": \"" + folder +
                                             "\", \"template\": \"bert\", \"task\": \"fill-mask\"}]}")
                  .ok());
  for (const std::vector<std::string>& what :
       {std::vector<std::string>{"--checkpoint", folder, "--template", "bert", "--task", "fill-mask"},
        std::vector<std::string>{"--batch-file", batch}}) {
    std::vector<std::string> arguments = {"run", "--exporter", empty, "--output-dir", NewFolder()};
    arguments.insert(arguments.end(), what.begin(), what.end());
    const Ended ended = RunAssay(arguments);
    EXPECT_NE(ended.exit_code, 0);
    EXPECT_THAT(ended.err, AllOf(HasSubstr("a checkpoint needs the exporter"), HasSubstr(empty + "/.venv"),
                                 HasSubstr(empty + "/setup")));
  }
}

TEST(Run, StopsEverythingWhenInterrupted) {
  const std::string output = absl::StrCat(NewFolder(), "/out"), temporary = NewFolder();
  std::vector<std::string> arguments = {"run",          "--cpu-only", "--slots",     "1",
                                        "--output-dir", output,       "--batch-file"};
  for (int batch = 1; batch <= 6; ++batch) {
    arguments.push_back(absl::StrCat("models/batches/batch_", batch, "_models.json"));
  }
  RunningAssay assay(arguments, {absl::StrCat("TMPDIR=", temporary)});
  assay.AwaitOutput("checks\n");  // one of 62 has ended
  assay.Signal(SIGTERM);
  const Ended ended = assay.Wait();
  EXPECT_EQ(ended.exit_code, 8) << ended.err;
  EXPECT_THAT(ended.err, HasSubstr("everything is stopped"));
  EXPECT_FALSE(fs::exists(output));
  EXPECT_TRUE(fs::is_empty(temporary));
}

}  // namespace
}  // namespace assay::cli
