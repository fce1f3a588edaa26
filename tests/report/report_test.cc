// Every format, on the same recorded results. Texts that people read are held against files in data/; run
// with ASSAY_UPDATE_GOLDENS=1 to write them anew, and read the difference.
#include "coordinator/report/report.h"

#include <cstdlib>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "common/file.h"
#include "nlohmann/json.hpp"
#include "tests/matchers.h"
#include "tests/report/fixture.h"

namespace assay::report {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

struct Golden {
  const char* file;
  const char* batch_id;
  v1::ReportFormat format;
};

class ReportText : public ::testing::TestWithParam<Golden> {};

TEST_P(ReportText, IsAsInTheGoldenFile) {
  ReportInput input = absl::StartsWith(GetParam().file, "checkpoints") ? CheckpointInput() : MixedInput();
  input.batch_id = GetParam().batch_id;
  ASSERT_OK_AND_ASSIGN(std::string text, RenderReport(input, GetParam().format, 3));
  const std::string path = absl::StrCat("tests/report/data/", GetParam().file);
  if (std::getenv("ASSAY_UPDATE_GOLDENS") != nullptr) {
    ASSERT_THAT(WriteFileAtomically(path, text), IsOk());
  }
  ASSERT_OK_AND_ASSIGN(std::string golden, ReadFile(path));
  EXPECT_EQ(text, golden);
}

INSTANTIATE_TEST_SUITE_P(
    All, ReportText,
    ::testing::Values(Golden{"all.txt", "", v1::TEXT}, Golden{"batch_a.txt", "batch-a", v1::TEXT},
                      Golden{"all.md", "", v1::MARKDOWN}, Golden{"batch_a.md", "batch-a", v1::MARKDOWN},
                      Golden{"batch_b.md", "batch-b", v1::MARKDOWN}, Golden{"all.html", "", v1::HTML},
                      Golden{"batch_b.html", "batch-b", v1::HTML}, Golden{"all_junit.xml", "", v1::JUNIT},
                      Golden{"batch_a_junit.xml", "batch-a", v1::JUNIT},
                      Golden{"batch_b_junit.xml", "batch-b", v1::JUNIT},
                      Golden{"checkpoints.txt", "", v1::TEXT}, Golden{"checkpoints.md", "", v1::MARKDOWN},
                      Golden{"checkpoints_junit.xml", "", v1::JUNIT}, Golden{"roadmap.md", "", v1::ROADMAP},
                      Golden{"next_batch.json", "", v1::NEXT_BATCH}),
    [](const auto& info) {
      std::string name = info.param.file;
      for (char& c : name) c = c == '.' ? '_' : c;
      return name;
    });

TEST(Report, TellsInEveryFormatWhereAndWhyACheckFailed) {
  for (v1::ReportFormat format : {v1::MARKDOWN, v1::HTML, v1::JUNIT, v1::JSON}) {
    ASSERT_OK_AND_ASSIGN(std::string text, RenderReport(MixedInput(), format));
    SCOPED_TRACE(v1::ReportFormat_Name(format));
    for (const char* fact : {"linear_3", "weights", "is not what its mock rule gives", "transpose"}) {
      EXPECT_THAT(text, HasSubstr(fact));
    }
    if (format == v1::JSON) continue;
    EXPECT_THAT(text, Not(HasSubstr("</svg><script>"))) << "a name must not leave its place";
  }
  ASSERT_OK_AND_ASSIGN(std::string html, RenderReport(MixedInput(), v1::HTML));
  EXPECT_THAT(html,
              AllOf(HasSubstr("<svg "), HasSubstr("<polyline "), HasSubstr("&lt;/svg&gt;&lt;script&gt;")));
  ASSERT_OK_AND_ASSIGN(std::string json, RenderReport(MixedInput(), v1::JSON));
  EXPECT_THAT(json, HasSubstr("\"inf\"")) << "an infinity that JSON has no number for";
}

// The same facts in every format that people read.
TEST(Report, TellsInEveryFormatWhatACheckpointShowed) {
  for (v1::ReportFormat format : {v1::TEXT, v1::MARKDOWN, v1::HTML, v1::JUNIT, v1::JSON}) {
    ASSERT_OK_AND_ASSIGN(std::string text, RenderReport(CheckpointInput(), format));
    SCOPED_TRACE(v1::ReportFormat_Name(format));
    EXPECT_THAT(text, HasSubstr(format == v1::JSON ? "0123456789abcdef" : "makers/bert@0123456789ab"));
    EXPECT_THAT(text, HasSubstr("hub SHA-256"));
    EXPECT_THAT(text, HasSubstr("Paris (81 %), Lyon (4 %)"));
    EXPECT_THAT(text, HasSubstr("no golden: structural checks only"));
    EXPECT_THAT(text, HasSubstr("PASSED (synthetic weights)"));
    EXPECT_THAT(text, HasSubstr("PASSED (unverified weights)"));
    EXPECT_THAT(text, HasSubstr("PASSED (bfloat16)"));
    EXPECT_THAT(text, HasSubstr("a.b.weight; nearest: a.c.weight"));
    EXPECT_THAT(text, HasSubstr("trust_remote_code"));
    if (format != v1::JUNIT) {
      EXPECT_THAT(text, HasSubstr("critical"));
    }
    if (format == v1::TEXT) {
      EXPECT_THAT(text, HasSubstr("[NOT MET] 3."));
    }
    if (format == v1::MARKDOWN) {
      EXPECT_THAT(text, HasSubstr("**NOT MET**. 0 of 4 (0.0 %)"));
    }
  }
}

TEST(Report, OfAnUnknownBatchIsRefused) {
  ReportInput input = MixedInput();
  input.batch_id = "batch-z";
  EXPECT_THAT(RenderReport(input, v1::TEXT), StatusIs(absl::StatusCode::kNotFound, HasSubstr("batch-z")));
}

TEST(Report, InAnUnknownFormatIsRefused) {
  EXPECT_THAT(RenderReport(MixedInput(), v1::REPORT_FORMAT_UNSPECIFIED),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("format")));
}

TEST(Report, OfNothingIsWrittenInEveryFormat) {
  ReportInput input;
  input.now = TestNow();
  for (v1::ReportFormat format : {v1::TEXT, v1::JSON, v1::JUNIT, v1::MARKDOWN, v1::HTML, v1::ROADMAP}) {
    ASSERT_OK_AND_ASSIGN(std::string text, RenderReport(input, format));
    EXPECT_THAT(text, Not(HasSubstr("nan")));
  }
}

TEST(Report, DoesNotDependOnTheOrderOfItsInput) {
  ReportInput input = MixedInput(), reversed = MixedInput();
  std::reverse(reversed.jobs.begin(), reversed.jobs.end());
  std::reverse(reversed.batches.begin(), reversed.batches.end());
  for (v1::ReportFormat format : {v1::TEXT, v1::JSON, v1::JUNIT, v1::MARKDOWN, v1::HTML, v1::ROADMAP}) {
    ASSERT_OK_AND_ASSIGN(std::string a, RenderReport(input, format));
    ASSERT_OK_AND_ASSIGN(std::string b, RenderReport(reversed, format));
    EXPECT_EQ(a, b);
  }
}

class JunitXml : public ::testing::TestWithParam<const char*> {};

TEST_P(JunitXml, FitsTheSchemaThatViewersRead) {
  ReportInput input = absl::string_view(GetParam()) == "checkpoints" ? CheckpointInput() : MixedInput();
  if (absl::StartsWith(GetParam(), "batch")) input.batch_id = GetParam();
  ASSERT_OK_AND_ASSIGN(std::string text, RenderReport(input, v1::JUNIT));
  const std::string path = absl::StrCat(::testing::TempDir(), "/junit_", GetParam(), ".xml");
  ASSERT_THAT(WriteFileAtomically(path, text), IsOk());
  EXPECT_EQ(std::system(absl::StrCat("xmllint --noout --schema tests/report/data/junit.xsd ", path).c_str()),
            0);
}

INSTANTIATE_TEST_SUITE_P(All, JunitXml, ::testing::Values("", "batch-a", "batch-b", "checkpoints"),
                         [](const auto& info) { return absl::StrCat("Batch", info.index); });

TEST(JunitSchema, RefusesWhatViewersCannotRead) {
  const std::string path = absl::StrCat(::testing::TempDir(), "/junit_bad.xml");
  ASSERT_THAT(WriteFileAtomically(path, "<testsuites><testsuite name=\"a\"><case/></testsuite></testsuites>"),
              IsOk());
  EXPECT_NE(std::system(absl::StrCat("xmllint --noout --schema tests/report/data/junit.xsd ", path).c_str()),
            0);
}

TEST(Junit, TellsOutcomesApart) {
  ASSERT_OK_AND_ASSIGN(std::string text, RenderReport(MixedInput(), v1::JUNIT));
  EXPECT_THAT(text, AllOf(HasSubstr("<failure message="), HasSubstr("type=\"CRASHED\""),
                          HasSubstr("type=\"INFRASTRUCTURE_ERROR\""), HasSubstr("type=\"UNSUPPORTED\""),
                          HasSubstr("<skipped message=\"NO_WEIGHTS\"/>"), HasSubstr("FLAKY")));
  EXPECT_THAT(text, Not(HasSubstr("\x1b")));
}

TEST(Json, NamesTheModelsBehindEveryFigure) {
  ASSERT_OK_AND_ASSIGN(std::string text, RenderReport(MixedInput(), v1::JSON));
  const auto json = nlohmann::json::parse(text);
  EXPECT_EQ(json["coverage"]["total"]["covered"]["count"], 2);
  EXPECT_EQ(json["coverage"]["total"]["covered"]["models"], nlohmann::json({"command_r", "gptj"}));
  EXPECT_EQ(json["coverage"]["by_priority"]["critical"]["tracked"]["count"], 2);
  bool seen = false;
  for (const auto& job : json["jobs"]) {
    if (job["job_id"] != "job-1") continue;
    seen = true;
    EXPECT_EQ(job["provenance"]["test_digest"].get<std::string>().size(), 64u);
    EXPECT_EQ(job["cases"][0]["reason"], "NO_WEIGHTS");
  }
  EXPECT_TRUE(seen);
}

TEST(Json, ReplacesBytesThatAreNotText) {
  ReportInput input = MixedInput();
  input.jobs[1].mutable_result()->set_message("cut \xe6\xbc");
  ASSERT_OK_AND_ASSIGN(std::string text, RenderReport(input, v1::JSON));
  EXPECT_NO_THROW(nlohmann::json::parse(text));
}

TEST(NextBatch, IsRefusedWhenNothingIsMissing) {
  ReportInput input = MixedInput();
  input.registry.models = {*input.registry.Find("command_r")};
  EXPECT_THAT(RenderReport(input, v1::NEXT_BATCH, 10),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("covered")));
}

class HtmlText : public ::testing::TestWithParam<bool> {};
INSTANTIATE_TEST_SUITE_P(All, HtmlText, ::testing::Bool());

TEST_P(HtmlText, ClosesWhatItOpens) {
  // Apart from the document type and the meta elements it is XML, which is stricter than HTML.
  ASSERT_OK_AND_ASSIGN(std::string text,
                       RenderReport(GetParam() ? CheckpointInput() : MixedInput(), v1::HTML));
  text.erase(0, text.find("<body>"));
  text.erase(text.find("</html>"));
  absl::StrReplaceAll({{"<br>", "<br/>"}}, &text);
  const std::string path = absl::StrCat(::testing::TempDir(), "/report_body.xml");
  ASSERT_THAT(WriteFileAtomically(path, text), IsOk());
  EXPECT_EQ(std::system(absl::StrCat("xmllint --noout ", path).c_str()), 0);
}

TEST(Html, NeedsNothingBesideIt) {
  ASSERT_OK_AND_ASSIGN(std::string text, RenderReport(MixedInput(), v1::HTML));
  for (const char* outside : {"http://", "https://", "src=", "<link", "<script", "@import", "url("}) {
    EXPECT_THAT(text, Not(HasSubstr(outside)));
  }
  EXPECT_THAT(text, HasSubstr("prefers-color-scheme:dark"));
}

}  // namespace
}  // namespace assay::report
