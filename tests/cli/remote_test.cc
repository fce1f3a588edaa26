// The real binary against a coordinator that says what the test wants.
#include <signal.h>

#include "absl/strings/str_cat.h"
#include "common/file.h"
#include "nlohmann/json.hpp"
#include "tests/cli/fake_coordinator.h"
#include "tests/cli/run_assay.h"
#include "tests/matchers.h"

namespace assay::cli {
namespace {

using ::testing::AllOf;
using ::testing::ContainsRegex;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

std::string FileWith(const std::string& name, const std::string& content) {
  const std::string path = absl::StrCat(NewFolder(), "/", name);
  EXPECT_TRUE(WriteFileAtomically(path, content).ok());
  return path;
}

size_t Count(const std::string& text, const std::string& what) {
  size_t count = 0;
  for (size_t at = text.find(what); at != std::string::npos; at = text.find(what, at + 1)) ++count;
  return count;
}

TEST(Usage, IsRefusedWithTwo) {
  EXPECT_EQ(RunAssay({}).exit_code, 2);
  EXPECT_EQ(RunAssay({"fly"}).exit_code, 2);
  const Ended ended = RunAssay({"report", "-o", "pdf"});
  EXPECT_EQ(ended.exit_code, 2);
  EXPECT_THAT(ended.err, HasSubstr("pdf"));
  EXPECT_THAT(ended.out, IsEmpty());
  EXPECT_EQ(RunAssay({"next-batch", "--size", "0"}).exit_code, 2);
  EXPECT_EQ(RunAssay({"--help"}).exit_code, 0);
}

TEST(Address, ThatNobodyServesIsInfrastructure) {
  std::string address;
  {
    FakeCoordinator gone;
    address = gone.address();
  }
  const Ended ended = RunAssay({"batches", "--address", address});
  EXPECT_EQ(ended.exit_code, 5);
  EXPECT_THAT(ended.err, HasSubstr(address));
  EXPECT_EQ(RunAssay({"batches"}, {absl::StrCat("ASSAY_ADDRESS=", address)}).exit_code, 5);
}

TEST(Submit, SendsTheFileByteForByteAndPrintsTheId) {
  FakeCoordinator coordinator;
  const std::string file = FileWith("x.json", "{\"a\" :\r\n []}\n");
  const Ended ended = RunAssay({"submit", "--batch-file", file, "--address", coordinator.address(),
                                "--cpu-only", "--dtype", "bfloat16", "--submitter", "ana"});
  EXPECT_EQ(ended.exit_code, 0) << ended.err;
  EXPECT_THAT(ended.out, HasSubstr("b1  x.json"));
  ASSERT_EQ(coordinator.submits().size(), 1u);
  const v1::SubmitBatchRequest request = coordinator.submits()[0];
  EXPECT_EQ(request.content(), "{\"a\" :\r\n []}\n");
  EXPECT_EQ(request.name(), "x.json");
  EXPECT_EQ(request.submitter(), "ana");
  EXPECT_EQ(request.target().device(), v1::CPU);
  EXPECT_EQ(request.target().dtype(), v1::DTYPE_BFLOAT16);
  EXPECT_EQ(request.request_id().size(), 36u);
}

TEST(Submit, SendsTargetsLabelsAndMemory) {
  FakeCoordinator coordinator;
  const std::string file = FileWith("x.json", "{}");
  const Ended ended = RunAssay({"submit", "--batch-file", file, "--address", coordinator.address(),
                                "--target", "cpu", "--target", "cuda-bfloat16", "--selector", "gpu=H100",
                                "--selector", "zone=a", "--gpu-memory", "1.5"});
  EXPECT_EQ(ended.exit_code, 0) << ended.err;
  ASSERT_EQ(coordinator.submits().size(), 1u);
  const v1::SubmitBatchRequest request = coordinator.submits()[0];
  EXPECT_FALSE(request.has_target());
  ASSERT_EQ(request.targets_size(), 2);
  EXPECT_EQ(request.targets(0).device(), v1::CPU);
  EXPECT_EQ(request.targets(0).dtype(), v1::FLOAT32);
  EXPECT_EQ(request.targets(1).device(), v1::CUDA);
  EXPECT_EQ(request.targets(1).dtype(), v1::DTYPE_BFLOAT16);
  ASSERT_EQ(request.selector_size(), 2);
  EXPECT_EQ(request.selector(1), "zone=a");
  EXPECT_EQ(request.gpu_memory_bytes(), uint64_t{3} << 29);
  const Ended wrong = RunAssay({"submit", "--batch-file", file, "--target", "tpu-float32"});
  EXPECT_EQ(wrong.exit_code, 2);
  EXPECT_THAT(wrong.err, HasSubstr("'tpu-float32': cpu, cuda or auto is wanted"));
  EXPECT_EQ(RunAssay({"submit", "--batch-file", file, "--target", "cpu", "--cpu-only"}).exit_code, 2);
}

TEST(Why, SaysWhatTheCoordinatorSays) {
  FakeCoordinator coordinator;
  const Ended ended = RunAssay({"why", "b1.bert", "--address", coordinator.address()});
  EXPECT_EQ(ended.exit_code, 0) << ended.err;
  EXPECT_THAT(ended.out, AllOf(HasSubstr("b1.bert"), HasSubstr("needs 40 GiB of GPU memory"),
                               HasSubstr("3 jobs go before it"), HasSubstr("pool h100")));
}

TEST(Submit, TriesAgainWithTheSameRequestIdWhileUnavailable) {
  FakeCoordinator coordinator;
  coordinator.unavailable_submits = 2;
  const Ended ended =
      RunAssay({"submit", "--batch-file", FileWith("x.json", "{}"), "--address", coordinator.address()});
  EXPECT_EQ(ended.exit_code, 0) << ended.err;
  const auto submits = coordinator.submits();
  ASSERT_EQ(submits.size(), 3u);
  EXPECT_EQ(submits[0].request_id(), submits[1].request_id());
  EXPECT_EQ(submits[0].request_id(), submits[2].request_id());
  EXPECT_EQ(submits[0].target().device(), v1::AUTO);
}

TEST(Submit, AsksTheNextCoordinatorWithTheSameRequestIdWhereOneDoesNotAnswer) {
  FakeCoordinator first, second;
  first.unavailable_submits = 1000;  // it may have taken the batch, and died before it said so
  const Ended ended = RunAssay({"submit", "--batch-file", FileWith("x.json", "{}"), "--address",
                                first.address() + "," + second.address()});
  EXPECT_EQ(ended.exit_code, 0) << ended.err;
  ASSERT_EQ(first.submits().size(), 1u);
  ASSERT_EQ(second.submits().size(), 1u);
  EXPECT_EQ(first.submits()[0].request_id(), second.submits()[0].request_id());
}

TEST(Watch, GoesOnAtTheNextCoordinatorAfterTheLastEventSeen) {
  FakeCoordinator first, second;
  for (FakeCoordinator* one : {&first, &second}) {
    one->jobs = {DoneJob("bert", v1::PASSED), DoneJob("vit", v1::PASSED), DoneJob("mamba", v1::PASSED)};
  }
  first.break_watch_after = 2;
  const Ended ended = RunAssay({"watch", "b1", "--address", first.address() + "," + second.address()});
  EXPECT_EQ(ended.exit_code, 0) << ended.err;
  ASSERT_EQ(first.watches().size(), 1u);
  ASSERT_EQ(second.watches().size(), 1u);
  EXPECT_EQ(second.watches()[0].after_sequence(), 2u);
}

TEST(Submit, GivesUpInTheEnd) {
  FakeCoordinator coordinator;
  coordinator.unavailable_submits = 1000;
  const Ended ended =
      RunAssay({"submit", "--batch-file", FileWith("x.json", "{}"), "--address", coordinator.address()});
  EXPECT_EQ(ended.exit_code, 5);
  EXPECT_THAT(ended.err, HasSubstr("does not answer"));
  EXPECT_EQ(coordinator.submits().size(), 5u);
}

TEST(Submit, GivesEachFileItsOwnBatchAndRequestId) {
  FakeCoordinator coordinator;
  const Ended ended = RunAssay({"submit", "--batch-file", FileWith("x.json", "{}"), FileWith("y.json", "{}"),
                                "--request-id", "mine", "--address", coordinator.address()});
  EXPECT_EQ(ended.exit_code, 0) << ended.err;
  EXPECT_THAT(ended.out, AllOf(HasSubstr("b1  x.json"), HasSubstr("b2  y.json")));
  ASSERT_EQ(coordinator.submits().size(), 2u);
  EXPECT_EQ(coordinator.submits()[0].request_id(), "mine");
  EXPECT_EQ(coordinator.submits()[1].request_id(), "mine-2");
}

TEST(Submit, ShowsEveryErrorOfARefusedFileWithItsPlace) {
  FakeCoordinator coordinator;
  v1::BatchRefused refused;
  for (int line : {3, 9}) {
    v1::FileError& error = *refused.add_error();
    error.set_file("x.json");
    error.set_line(line);
    error.set_column(7);
    error.set_field("vision[0].template");
    error.set_message("no template 'vat'");
  }
  coordinator.submit_status =
      grpc::Status(grpc::StatusCode::INVALID_ARGUMENT, "refused", refused.SerializeAsString());
  const std::string file = FileWith("x.json", "{}");
  const Ended ended = RunAssay({"submit", "--batch-file", file, "--address", coordinator.address()});
  EXPECT_EQ(ended.exit_code, 2);
  EXPECT_THAT(ended.err, HasSubstr(absl::StrCat(file, ":3:7: vision[0].template: no template 'vat'\n")));
  EXPECT_THAT(ended.err, HasSubstr(absl::StrCat(file, ":9:7: ")));
  EXPECT_THAT(ended.out, IsEmpty());
  EXPECT_EQ(coordinator.submits().size(), 1u);  // a file that is wrong is not sent again
}

TEST(Submit, SubmitsNothingWhereAFileIsNotThere) {
  FakeCoordinator coordinator;
  const Ended ended = RunAssay({"submit", "--batch-file", FileWith("x.json", "{}"), "no/such.json",
                                "--address", coordinator.address()});
  EXPECT_EQ(ended.exit_code, 2);
  EXPECT_THAT(ended.err, HasSubstr("no/such.json"));
  EXPECT_TRUE(coordinator.submits().empty());
}

TEST(Submit, AnswersInJson) {
  FakeCoordinator coordinator;
  coordinator.jobs = {DoneJob("llama_3", v1::PASSED)};
  const Ended ended = RunAssay({"submit", "--batch-file", FileWith("x.json", "{}"), "--watch", "-o", "json",
                                "--address", coordinator.address()});
  EXPECT_EQ(ended.exit_code, 0) << ended.err;
  const auto json = nlohmann::json::parse(ended.out);
  EXPECT_EQ(json["batch"][0]["batch_id"], "b1");
  EXPECT_EQ(json["batch"][0]["done"], 1);
  EXPECT_THAT(ended.err, HasSubstr("llama_3"));  // progress does not stand in the answer
}

TEST(Watch, PrintsOneLineAFinishedJobAndNoControlSequence) {
  FakeCoordinator coordinator;
  coordinator.jobs = {DoneJob("llama_3", v1::PASSED), DoneJob("olmo", v1::FAILED, 1)};
  const Ended ended = RunAssay({"watch", "b1", "--address", coordinator.address()});
  EXPECT_EQ(ended.exit_code, 3);
  EXPECT_THAT(ended.out, ContainsRegex("PASSED +llama_3 +0\\.03 s +11 checks\n"));
  EXPECT_THAT(ended.out, ContainsRegex("FAILED +olmo .*off by 0\\.5\n"));
  EXPECT_THAT(ended.out, HasSubstr("1 PASSED, 1 FAILED of 2"));
  EXPECT_THAT(ended.out, Not(HasSubstr("\x1b")));
  EXPECT_THAT(ended.out, Not(HasSubstr("\r")));
}

TEST(Watch, GivesTheExitCodeOfWhatHappened) {
  const std::pair<v1::Outcome, int> expected[] = {{v1::PASSED, 0},    {v1::SKIPPED, 4},
                                                  {v1::CRASHED, 3},   {v1::UNSUPPORTED, 3},
                                                  {v1::CANCELLED, 8}, {v1::INFRASTRUCTURE_ERROR, 5}};
  for (const auto& [outcome, code] : expected) {
    FakeCoordinator coordinator;
    coordinator.jobs = {DoneJob("olmo", outcome)};
    EXPECT_EQ(RunAssay({"watch", "b1", "--address", coordinator.address()}).exit_code, code)
        << v1::Outcome_Name(outcome);
  }
}

TEST(Watch, GoesOnWhereTheStreamBroke) {
  FakeCoordinator coordinator;
  coordinator.jobs = {DoneJob("a", v1::PASSED), DoneJob("b", v1::PASSED), DoneJob("c", v1::PASSED)};
  coordinator.break_watch_after = 2;
  const Ended ended = RunAssay({"watch", "b1", "--address", coordinator.address()});
  EXPECT_EQ(ended.exit_code, 0) << ended.err;
  ASSERT_EQ(coordinator.watches().size(), 2u);
  EXPECT_EQ(coordinator.watches()[0].after_sequence(), 0u);
  EXPECT_EQ(coordinator.watches()[1].after_sequence(), 2u);
  EXPECT_EQ(Count(ended.out, " checks"), 3u);  // nothing missed, nothing twice
}

TEST(Watch, OfAnUnknownBatchIsTheUsersToMend) {
  FakeCoordinator coordinator;
  const Ended ended = RunAssay({"watch", "nobody", "--address", coordinator.address()});
  EXPECT_EQ(ended.exit_code, 2);
  EXPECT_THAT(ended.err, HasSubstr("no batch 'nobody'"));
}

TEST(Watch, LeavesTheBatchRunningWhenInterrupted) {
  FakeCoordinator coordinator;
  coordinator.hold_watch = true;
  v1::Job running = DoneJob("olmo", v1::PASSED);
  running.set_state(v1::RUNNING);
  coordinator.jobs = {running};
  RunningAssay assay({"watch", "b1", "--address", coordinator.address()});
  coordinator.watching.WaitForNotification();
  assay.Signal(SIGINT);
  const Ended ended = assay.Wait();
  coordinator.release.Notify();
  EXPECT_EQ(ended.exit_code, 8);
  EXPECT_THAT(ended.err, HasSubstr("goes on with: b1"));
  EXPECT_TRUE(coordinator.cancels().empty());
}

TEST(Watch, RedrawsALineOnATerminalInColour) {
  FakeCoordinator coordinator;
  coordinator.jobs = {DoneJob("llama_3", v1::PASSED), DoneJob("olmo", v1::FAILED, 1)};
  const Ended ended = RunAssayOnTerminal({"watch", "b1", "--address", coordinator.address()}, {"TERM=xterm"});
  EXPECT_EQ(ended.exit_code, 3);
  EXPECT_THAT(ended.out,
              AllOf(HasSubstr("1/2  1 PASSED"), HasSubstr("\r\x1b[K"), HasSubstr("\x1b[32mPASSED")));
}

TEST(Watch, HasNoColourWhereNoneIsWanted) {
  FakeCoordinator coordinator;
  coordinator.jobs = {DoneJob("llama_3", v1::PASSED), DoneJob("olmo", v1::FAILED, 1)};
  const Ended plain =
      RunAssayOnTerminal({"watch", "b1", "--address", coordinator.address()}, {"TERM=xterm", "NO_COLOR=1"});
  EXPECT_THAT(plain.out, AllOf(HasSubstr("\r\x1b[K"), Not(HasSubstr("\x1b[32m"))));
  const Ended dumb = RunAssayOnTerminal({"watch", "b1", "--address", coordinator.address()}, {"TERM=dumb"});
  EXPECT_THAT(dumb.out, AllOf(HasSubstr("PASSED"), Not(HasSubstr("\x1b"))));
}

TEST(Batches, ReadsEveryPage) {
  FakeCoordinator coordinator;
  const Ended ended = RunAssay({"batches", "--limit", "0", "--address", coordinator.address()});
  EXPECT_EQ(ended.exit_code, 0) << ended.err;
  EXPECT_THAT(ended.out, ContainsRegex("b4 .*\n.*b3 .*\n.*b2 .*\n.*b1 "));
  const Ended json = RunAssay({"batches", "-o", "json", "--limit", "0", "--address", coordinator.address()});
  EXPECT_EQ(nlohmann::json::parse(json.out)["batch"].size(), 4u);
}

TEST(Show, ListsTheJobs) {
  FakeCoordinator coordinator;
  coordinator.jobs = {DoneJob("olmo", v1::FAILED, 1)};
  const Ended ended = RunAssay({"show", "b1", "--address", coordinator.address()});
  EXPECT_EQ(ended.exit_code, 0) << ended.err;
  EXPECT_THAT(ended.out, ContainsRegex("FAILED +olmo .*job-olmo .*off by 0\\.5"));
  const Ended json = RunAssay({"show", "b1", "-o", "json", "--address", coordinator.address()});
  EXPECT_EQ(nlohmann::json::parse(json.out)["job"][0]["job_id"], "job-olmo");
}

v1::Job CheckpointJob() {
  v1::Job job = DoneJob("bert", v1::PASSED);
  job.mutable_model()->mutable_checkpoint()->set_id("makers/bert");
  v1::CaseResult& loading = *job.mutable_result()->add_case_();
  loading.set_name("test_model_loading");
  loading.set_outcome(v1::PASSED);
  loading.set_weights(v1::REAL);
  loading.set_evidence(v1::STRUCTURAL);
  loading.set_no_golden("too large for the exporter");
  loading.mutable_load()->set_format("safetensors");
  loading.mutable_load()->set_bound(12);
  loading.mutable_load()->set_unexpected_count(1);
  loading.mutable_load()->add_unexpected("pooler\x1b[31m.weight");
  v1::AnswerResult& answer = *loading.add_answer();
  answer.set_question("The capital of France is ___");
  answer.set_text("Paris (81 %)");
  answer.set_expected("Paris");
  answer.set_known(true);
  job.mutable_result()->mutable_provenance()->set_weights_trust(v1::UNVERIFIED);
  v1::StageRecord& ended = *job.add_ended_stage();
  ended.set_stage(v1::STAGE_EXPORT);
  ended.mutable_result()->set_outcome(v1::PASSED);
  ended.mutable_result()->set_seconds(12.3);
  ended.mutable_result()->mutable_export_()->set_program_cached(true);
  ended.mutable_result()->mutable_export_()->set_no_golden("too large for the exporter");
  return job;
}

TEST(Show, SaysWhatACheckpointShowed) {
  FakeCoordinator coordinator;
  v1::Job waiting = DoneJob("llama", v1::OUTCOME_UNSPECIFIED);
  waiting.set_state(v1::QUEUED);
  waiting.clear_result();
  waiting.mutable_model()->mutable_checkpoint()->set_id("makers/llama");
  waiting.set_waiting("needs a worker labelled exporter");
  coordinator.jobs = {CheckpointJob(), waiting, DoneJob("olmo", v1::PASSED)};
  const Ended shown = RunAssay({"show", "b1", "--address", coordinator.address()});
  EXPECT_EQ(shown.exit_code, 0) << shown.err;
  EXPECT_THAT(shown.out,
              HasSubstr("checkpoint makers/bert: PASSED (no golden: structural checks only, unverified "
                        "weights, known answers not checked), evidence structural, trust unverified"));
  EXPECT_THAT(shown.out, HasSubstr("export PASSED in 12.300 s (program cached, no golden"));
  EXPECT_THAT(shown.out, HasSubstr("loaded 12 bound, 1 unexpected; safetensors"));
  EXPECT_THAT(shown.out, HasSubstr("The capital of France is ___ -> Paris (81 %) [eager: Paris, known]"));
  EXPECT_THAT(shown.out, HasSubstr("waits: needs a worker labelled exporter"));
  EXPECT_THAT(shown.out, Not(HasSubstr("\x1b")));
  EXPECT_EQ(Count(shown.out, "olmo"), 2u);  // its row: model and job
  const Ended watched = RunAssay({"watch", "b1", "--address", coordinator.address()});
  EXPECT_THAT(watched.out, HasSubstr("    answer The capital of France"));
}

TEST(Logs, MayBeOfTheExport) {
  FakeCoordinator coordinator;
  coordinator.log = "x";
  EXPECT_EQ(RunAssay({"logs", "j1", "--stage", "export", "--address", coordinator.address()}).exit_code, 0);
  EXPECT_EQ(RunAssay({"logs", "j1", "--address", coordinator.address()}).exit_code, 0);
  EXPECT_EQ(RunAssay({"logs", "j1", "--stage", "other", "--address", coordinator.address()}).exit_code, 2);
  ASSERT_EQ(coordinator.log_requests().size(), 2u);
  EXPECT_EQ(coordinator.log_requests()[0].stage(), v1::STAGE_EXPORT);
  EXPECT_EQ(coordinator.log_requests()[1].stage(), v1::STAGE_UNSPECIFIED);
}

TEST(Cancel, AsksOnce) {
  FakeCoordinator coordinator;
  const Ended ended = RunAssay({"cancel", "b7", "--address", coordinator.address()});
  EXPECT_EQ(ended.exit_code, 0) << ended.err;
  EXPECT_THAT(ended.out, HasSubstr("cancelled"));
  ASSERT_EQ(coordinator.cancels().size(), 1u);
  EXPECT_EQ(coordinator.cancels()[0].batch_id(), "b7");
  EXPECT_FALSE(coordinator.cancels()[0].request_id().empty());
}

TEST(Report, WritesWhatTheCoordinatorGives) {
  FakeCoordinator coordinator;
  coordinator.reports = {{v1::HTML, "<html>"}, {v1::ROADMAP, "# Roadmap\n"}};
  const std::string output = absl::StrCat(NewFolder(), "/new/report.html");
  Ended ended = RunAssay(
      {"report", "--batch", "b1", "-o", "html", "--output", output, "--address", coordinator.address()});
  EXPECT_EQ(ended.exit_code, 0) << ended.err;
  EXPECT_THAT(ReadFile(output), IsOkAndHolds("<html>"));
  EXPECT_THAT(ended.out, IsEmpty());
  ended = RunAssay({"roadmap", "--address", coordinator.address()});
  EXPECT_EQ(ended.out, "# Roadmap\n");
  ended = RunAssay({"report", "--address", coordinator.address()});
  EXPECT_EQ(ended.exit_code, 2);  // this coordinator has no text
  const auto requests = coordinator.report_requests();
  ASSERT_EQ(requests.size(), 3u);
  EXPECT_EQ(requests[0].batch_id(), "b1");
  EXPECT_EQ(requests[1].batch_id(), "");
}

TEST(Report, SaysWhenItCannotBeWritten) {
  FakeCoordinator coordinator;
  coordinator.reports = {{v1::TEXT, "text"}};
  const std::string not_a_folder = FileWith("file", "");
  const Ended ended = RunAssay(
      {"report", "--output", absl::StrCat(not_a_folder, "/report.txt"), "--address", coordinator.address()});
  EXPECT_NE(ended.exit_code, 0);
  EXPECT_THAT(ended.err, HasSubstr(not_a_folder));
}

TEST(NextBatch, NamesModelsWithoutACatalogueEntry) {
  FakeCoordinator coordinator;
  coordinator.reports = {
      {v1::NEXT_BATCH, R"({"speech": [{"name": "hubert", "template": "wav2vec2", "task": "t"}]})"},
      {v1::JSON,
       R"({"models": [{"name": "hubert", "catalogued": false}, {"name": "other", "catalogued": false}]})"}};
  const Ended ended = RunAssay({"next-batch", "--size", "1", "--address", coordinator.address()});
  EXPECT_EQ(ended.exit_code, 0) << ended.err;
  EXPECT_EQ(ended.out, coordinator.reports[v1::NEXT_BATCH]);
  EXPECT_THAT(ended.err, AllOf(HasSubstr("hubert"), Not(HasSubstr("other"))));
  EXPECT_EQ(coordinator.report_requests()[0].size(), 1u);
}

TEST(Logs, ArePrintedAsTheyAre) {
  FakeCoordinator coordinator;
  coordinator.log = "one\ntwo";
  EXPECT_EQ(RunAssay({"logs", "j1", "--address", coordinator.address()}).out, "one\ntwo");
  coordinator.log.clear();
  EXPECT_EQ(RunAssay({"logs", "j1", "--address", coordinator.address()}).exit_code, 2);
}

TEST(Interrupt, OfAnyCommandExitsWithEight) {
  FakeCoordinator coordinator;
  coordinator.hold_log = true;
  coordinator.log = "started\n";
  RunningAssay assay({"logs", "j1", "--address", coordinator.address()});
  assay.AwaitOutput("started\n");
  assay.Signal(SIGINT);
  EXPECT_EQ(assay.Wait().exit_code, 8);
  coordinator.release.Notify();
}

TEST(Workers, AreListed) {
  FakeCoordinator coordinator;
  const Ended ended = RunAssay({"workers", "--address", coordinator.address()});
  EXPECT_THAT(ended.out, ContainsRegex("node-1 +draining +2 x cpu Test CPU"));
  const Ended json = RunAssay({"workers", "-o", "json", "--address", coordinator.address()});
  EXPECT_EQ(nlohmann::json::parse(json.out)["worker"][0]["running_job"][0], "j1");
}

}  // namespace
}  // namespace assay::cli
