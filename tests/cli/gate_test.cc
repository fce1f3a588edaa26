// `assay gate` as a user runs it, on committed programs and on ones in which a change is planted.
#include <filesystem>

#include "absl/strings/str_cat.h"
#include "common/file.h"
#include "engine/program.h"
#include "nlohmann/json.hpp"
#include "tests/cli/run_assay.h"
#include "tests/engine/altered_program.h"
#include "tests/matchers.h"

namespace assay::cli {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

namespace fs = std::filesystem;

constexpr char kPrograms[] = "models/programs";

// A folder with bert and gpt2 as they are committed.
std::string Untouched() {
  const std::string folder = NewFolder();
  for (const char* name : {"bert", "gpt2"}) {
    fs::copy_file(absl::StrCat(kPrograms, "/", name, ".assay"), absl::StrCat(folder, "/", name, ".assay"));
  }
  return folder;
}

// The same, with another activation in bert.
std::string Changed() {
  const std::string folder = Untouched();
  v1::Program bert = engine::RealProgram("bert");
  engine::SetOperator(bert, engine::NodeRunning(bert, "aten::gelu"), "aten::relu");
  const auto bytes = engine::SerializeProgram(bert);
  EXPECT_THAT(bytes, IsOk());
  EXPECT_THAT(WriteFileAtomically(folder + "/bert.assay", *bytes), IsOk());
  return folder;
}

TEST(Gate, NothingChanged) {
  const Ended same = RunAssay({"gate", "--from", kPrograms, "--to", Untouched(), "--model", "bert", "gpt2"});
  EXPECT_EQ(same.exit_code, 0) << same.err;
  EXPECT_THAT(same.out, HasSubstr("2 models: 2 the same to the bit"));
}

TEST(Gate, AChangeIsNamedInEveryFormat) {
  const std::string from = Untouched(), to = Changed();
  const Ended text = RunAssay({"gate", "--from", from, "--to", to});
  EXPECT_EQ(text.exit_code, 1) << text.err;
  EXPECT_THAT(text.out, AllOf(HasSubstr("gelu (aten::relu) in bert.encoder.layer.0.intermediate"),
                              HasSubstr("in place of: gelu (aten::gelu)"), HasSubstr("1 the same to the bit"),
                              HasSubstr("1 changed")));
  const Ended json = RunAssay({"gate", "--from", from, "--to", to, "-o", "json"});
  EXPECT_EQ(json.exit_code, 1);
  const auto parsed = nlohmann::json::parse(json.out);
  EXPECT_EQ(parsed["result"][0]["verdict"], "CHANGED");
  EXPECT_EQ(parsed["result"][0]["divergence"]["op"], "aten::relu");
  EXPECT_EQ(parsed["result"][1]["verdict"], "SAME");
  const std::string file = NewFolder() + "/gate";
  for (const auto& [format, has] : {std::pair("junit", "<failure type=\"CHANGED\""),
                                    std::pair("html", "<svg"), std::pair("markdown", "| bert | CHANGED |")}) {
    EXPECT_EQ(RunAssay({"gate", "--from", from, "--to", to, "-o", format, "--output", file}).exit_code, 1);
    ASSERT_OK_AND_ASSIGN(const std::string report, ReadFile(file));
    EXPECT_THAT(report, HasSubstr(has)) << format;
  }
}

TEST(Gate, WhatIsNotComparedFailsUnlessAllowed) {
  const std::string from = Untouched(), to = Untouched();
  fs::remove(to + "/gpt2.assay");
  const Ended missing = RunAssay({"gate", "--from", from, "--to", to});
  EXPECT_EQ(missing.exit_code, 3);
  EXPECT_THAT(missing.out, HasSubstr("only the from side has it"));
  EXPECT_EQ(RunAssay({"gate", "--from", from, "--to", to, "--allow-not-comparable"}).exit_code, 0);
  // Nor does allowing it make a green of nothing.
  EXPECT_EQ(
      RunAssay({"gate", "--from", from, "--to", to, "--allow-not-comparable", "--model", "gpt2"}).exit_code,
      4);
  ASSERT_THAT(WriteFileAtomically(to + "/gpt2.assay", "no program"), IsOk());
  const Ended broken = RunAssay({"gate", "--from", from, "--to", to});
  EXPECT_EQ(broken.exit_code, 3);
  EXPECT_THAT(broken.out, HasSubstr("gpt2.assay"));
  // One model's program under another's name.
  fs::copy_file(from + "/bert.assay", to + "/gpt2.assay", fs::copy_options::overwrite_existing);
  EXPECT_EQ(RunAssay({"gate", "--from", from, "--to", to, "--model", "gpt2"}).exit_code, 3);
}

TEST(Gate, BadInputIsRefused) {
  const std::string side = Untouched();
  for (const auto& [arguments, why] : std::vector<std::pair<std::vector<std::string>, std::string>>{
           {{"--from", side}, "--from and --to"},
           {{"--from", side, "--to", side + "/nowhere"}, "nowhere"},
           {{"--from", side, "--to", side, "--model", "unheard_of"}, "unheard_of"},
           {{"--bisect", side}, "two sides"},
           {{"--from", side, "--to", side, "--from-checkpoint", side}, "belong together"},
           {{"--record", side}, "--from"}}) {
    std::vector<std::string> all = {"gate"};
    all.insert(all.end(), arguments.begin(), arguments.end());
    const Ended refused = RunAssay(all);
    EXPECT_EQ(refused.exit_code, 2) << refused.out;
    EXPECT_THAT(refused.err, HasSubstr(why));
  }
}

TEST(Gate, ARecordingStandsForARun) {
  const std::string from = Untouched(), to = Changed(), recorded = NewFolder(), like = NewFolder();
  ASSERT_EQ(RunAssay({"gate", "--record", recorded, "--from", from}).exit_code, 0);
  EXPECT_EQ(RunAssay({"gate", "--from", recorded, "--to", from}).exit_code, 0);
  EXPECT_EQ(RunAssay({"gate", "--from", from, "--to", recorded}).exit_code, 0);
  const Ended changed = RunAssay({"gate", "--from", recorded, "--to", to});
  EXPECT_EQ(changed.exit_code, 1);
  EXPECT_THAT(changed.out, HasSubstr("gelu (aten::relu)"));
  // Two recordings, and no program any more.
  ASSERT_EQ(RunAssay({"gate", "--record", like, "--from", to, "--like", from}).exit_code, 0);
  const Ended both = RunAssay({"gate", "--from", recorded, "--to", like});
  EXPECT_EQ(both.exit_code, 1);
  EXPECT_THAT(both.out, HasSubstr("gelu (aten::relu)"));
  // Cut short, it is none.
  ASSERT_OK_AND_ASSIGN(const std::string bytes, ReadFile(recorded + "/bert.recording"));
  ASSERT_THAT(WriteFileAtomically(recorded + "/bert.recording", bytes.substr(0, bytes.size() / 2)), IsOk());
  EXPECT_EQ(RunAssay({"gate", "--from", recorded, "--to", from}).exit_code, 3);
}

TEST(Gate, AnotherBuildOfTheHostRunsItsSide) {
  const std::string side = Untouched();
  const std::string host = absl::StrCat(getenv("ASSAY_BUILD_DIR"), "/bin/assay-host");
  const Ended same = RunAssay({"gate", "--from", side, "--to", side, "--from-host", host, "--to-host", host});
  EXPECT_EQ(same.exit_code, 0) << same.out << same.err;
  EXPECT_THAT(same.out, HasSubstr("2 the same to the bit"));
}

// A build that gives other numbers and describes itself as another: here by the kernels that it takes.
TEST(Gate, TheSidesOfTwoHostsAreToldApart) {
  const std::string side = Untouched(), changed = Changed();
  const std::string host = NewFolder() + "/other-host";
  ASSERT_THAT(WriteFileAtomically(host, absl::StrCat("#!/bin/sh\nATEN_CPU_CAPABILITY=default exec ",
                                                     getenv("ASSAY_BUILD_DIR"), "/bin/assay-host \"$@\"\n")),
              IsOk());
  fs::permissions(host, fs::perms::owner_all);
  // Standard output is the report alone, whatever the other host has to say.
  const Ended same = RunAssay({"gate", "--from", side, "--to", side, "--to-host", host, "-o", "json"});
  EXPECT_EQ(same.exit_code, 0) << same.out << same.err;
  const auto parsed = nlohmann::json::parse(same.out);
  EXPECT_THAT(parsed["result"][0]["to"].get<std::string>(), HasSubstr("cpu DEFAULT"));
  EXPECT_THAT(parsed["result"][0]["from"].get<std::string>(), ::testing::Not(HasSubstr("DEFAULT")));
  EXPECT_THAT(parsed["result"][0]["note"].dump(), HasSubstr(", then DEFAULT"));
  const Ended text = RunAssay({"gate", "--from", side, "--to", changed, "--to-host", host});
  EXPECT_EQ(text.exit_code, 1);
  EXPECT_THAT(text.out, AllOf(HasSubstr("2 models: "), HasSubstr("cpu DEFAULT"), HasSubstr(", then DEFAULT"),
                              HasSubstr("gelu (aten::relu) in bert.encoder.layer.0.intermediate")));
  // A file against a file of another name.
  fs::rename(changed + "/bert.assay", changed + "/other.assay");
  const Ended files =
      RunAssay({"gate", "--from", side + "/bert.assay", "--to", changed + "/other.assay", "--to-host", host});
  EXPECT_EQ(files.exit_code, 1) << files.out << files.err;
}

TEST(Gate, WhatAnotherHostCouldNotRecordIsToldAndNeverStale) {
  const std::string side = Untouched(), broken = Untouched(), recorded = NewFolder();
  const std::string host = absl::StrCat(getenv("ASSAY_BUILD_DIR"), "/bin/assay-host");
  ASSERT_EQ(RunAssay({"gate", "--record", recorded, "--from", side}).exit_code, 0);
  ASSERT_THAT(WriteFileAtomically(broken + "/bert.assay", "no program"), IsOk());
  const Ended live = RunAssay({"gate", "--from", side, "--to", broken, "--to-host", host});
  EXPECT_EQ(live.exit_code, 3);
  EXPECT_THAT(live.out, HasSubstr("it could not be recorded: "));
  // Recorded again into the same folder: the recording of before does not stand for what failed now.
  EXPECT_EQ(RunAssay({"gate", "--record", recorded, "--from", broken}).exit_code, 3);
  const Ended later = RunAssay({"gate", "--from", side, "--to", recorded});
  EXPECT_EQ(later.exit_code, 3) << later.out;
  EXPECT_THAT(later.out, HasSubstr("it could not be recorded: "));
  ASSERT_EQ(RunAssay({"gate", "--record", recorded, "--from", side}).exit_code, 0);
  EXPECT_EQ(RunAssay({"gate", "--from", side, "--to", recorded}).exit_code, 0);
}

TEST(Gate, BisectionNamesTheFirstSideThatChanged) {
  const std::string first = Untouched(), second = Untouched(), skipped = Untouched(), third = Changed(),
                    fourth = Changed();
  ASSERT_THAT(WriteFileAtomically(skipped + "/bert.assay", "no program"), IsOk());
  const Ended found = RunAssay({"gate", "--bisect", first, second, skipped, third, fourth});
  EXPECT_EQ(found.exit_code, 1) << found.err;
  EXPECT_THAT(found.out,
              AllOf(HasSubstr(absl::StrCat("changed in ", third, ", not yet in ", second)),
                    HasSubstr(absl::StrCat("not comparable between them: ", skipped)),
                    HasSubstr("gelu (aten::relu)"), HasSubstr(absl::StrCat("not changed up to ", fourth))));
  EXPECT_EQ(RunAssay({"gate", "--bisect", first, second, "-o", "json"}).exit_code, 0);
}

}  // namespace
}  // namespace assay::cli
