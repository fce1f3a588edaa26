// The real assay-host with real programs: as a worker drives it, and from the command line.
#include <signal.h>
#include <unistd.h>

#include <filesystem>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/digest.h"
#include "common/file.h"
#include "common/textproto.h"
#include "engine/diagnosis.h"
#include "tests/engine/altered_program.h"
#include "tests/engine/real_checkpoint.h"
#include "tests/host/host_process.h"
#include "tests/matchers.h"

namespace assay::host {
namespace {

using engine::AppendToOutput;
using engine::ArgumentOf;
using engine::RealProgram;
using engine::WriteTest;
using engine::WrittenTest;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

constexpr char kChecks[] =
    "check { name: 'golden' golden {} } check { name: 'shapes' shapes {} } check { name: 'finite' finite {} "
    "} "
    "check { name: 'not_constant' not_constant {} } check { name: 'deterministic' deterministic {} }";

// Multiplies large matrices for minutes: a test that hangs.
v1::Program Endless() {
  v1::Program program = RealProgram("bert");
  int node = AppendToOutput(program, 0, "aten::new_ones");
  for (int i = 0; i < 2; ++i) ArgumentOf(program, node, "size").mutable_ints()->add_values(2048);
  for (int i = 0; i < 5000; ++i) {
    node = AppendToOutput(program, 0, "aten::matmul");
    v1::Argument self = ArgumentOf(program, node, "self");
    ArgumentOf(program, node, "other") = self;
  }
  return program;
}

v1::HostRequest Request(const std::string& id, const WrittenTest& written) {
  v1::HostRequest request;
  request.mutable_run()->set_id(id);
  *request.mutable_run()->mutable_test() = written.test;
  request.mutable_run()->set_program_path(written.options.program_path);
  return request;
}

v1::HostRequest Loading(const std::string& id, const WrittenTest& written) {
  v1::HostRequest request = Request(id, written);
  request.mutable_run()->set_checkpoint_dir(written.options.checkpoint_dir);
  for (const auto& [digest, path] : written.options.files) {
    v1::BlobFile& file = *request.mutable_run()->add_file();
    file.set_digest(digest);
    file.set_path(path);
  }
  return request;
}

// A tensor of 64 MiB, then one of twice the size, and so on.
v1::Program Hungry() {
  v1::Program program = RealProgram("bert");
  for (int i = 0; i < 16; ++i) {
    int node = AppendToOutput(program, 0, i == 0 ? "aten::new_ones" : "aten::cat");
    if (i == 0) {
      ArgumentOf(program, node, "size").mutable_ints()->add_values(int64_t{16} << 20);
      continue;
    }
    // cat([x, x]): twice the size each time.
    v1::NamedArgument& tensors = *program.mutable_graph()->mutable_nodes(node)->mutable_arguments(0);
    uint32_t value = tensors.value().value();
    tensors.set_name("tensors");
    tensors.mutable_value()->mutable_values()->add_values(value);
    tensors.mutable_value()->mutable_values()->add_values(value);
  }
  return program;
}

TEST(Serve, TellsDigestsOfOutputsWhereAskedTo) {
  HostProcess host, resident({"--resident"});
  host.Next();
  resident.Next();
  const WrittenTest written = WriteTest(RealProgram("bert"), kChecks);
  v1::HostRequest asked = Request("asked", written);
  asked.mutable_run()->set_want_output_digests(true);
  host.Send(asked);
  resident.Send(asked);
  const v1::TestResult first = host.ResultOf("asked"), second = resident.ResultOf("asked");
  EXPECT_EQ(first.outcome(), v1::PASSED) << first.message();
  ASSERT_GT(first.case_(0).output_digest_size(), 0);
  EXPECT_TRUE(IsDigest(first.case_(0).output_digest(0).digest()));
  EXPECT_FALSE(first.case_(0).output_digest(0).name().empty());
  ASSERT_EQ(second.case_(0).output_digest_size(), first.case_(0).output_digest_size());
  for (int i = 0; i < first.case_(0).output_digest_size(); ++i) {
    EXPECT_EQ(second.case_(0).output_digest(i).digest(), first.case_(0).output_digest(i).digest());
  }
  // Other weights give other bits.
  v1::HostRequest other = asked;
  other.mutable_run()->set_id("other");
  other.mutable_run()->mutable_test()->mutable_set_up()->set_seed(1234);
  host.Send(other);
  EXPECT_NE(host.ResultOf("other").case_(0).output_digest(0).digest(),
            first.case_(0).output_digest(0).digest());
  host.Send(Request("not asked", written));
  EXPECT_EQ(host.ResultOf("not asked").case_(0).output_digest_size(), 0);
}

TEST(Serve, SaysWhoItIsThenRunsATestAndTellsItsCases) {
  HostProcess host;
  v1::HostEvent ready = host.Next();
  ASSERT_TRUE(ready.has_ready());
  EXPECT_THAT(ready.ready().engine_build(), HasSubstr("assay"));
  EXPECT_FALSE(ready.ready().torch_version().empty());
  ASSERT_EQ(ready.ready().device_size(), 1);
  EXPECT_EQ(ready.ready().device(0).kind(), "cpu");
  EXPECT_FALSE(ready.ready().device(0).capability().empty());

  host.Send(Request("a", WriteTest(RealProgram("bert"), kChecks)));
  std::vector<v1::HostEvent> seen;
  v1::TestResult result = host.ResultOf("a", &seen);
  EXPECT_EQ(result.outcome(), v1::PASSED) << result.message();
  ASSERT_EQ(seen.size(), 3u);
  EXPECT_EQ(seen[0].case_started().name(), "test_model_with_mock");
  EXPECT_EQ(seen[1].case_result().evidence(), v1::GOLDEN);
  EXPECT_EQ(result.case_(0).check_size(), 5);
  EXPECT_GT(result.peak_memory_bytes(), 0u);

  host.CloseRequests();
  EXPECT_EQ(host.Wait(), 0);
}

TEST(Serve, ManyTestsAtOnceAllPass) {
  HostProcess host;
  std::vector<std::string> models = {"bert", "gpt2", "vit", "t5", "clip", "detr", "llama", "mamba"};
  for (const std::string& model : models) host.Send(Request(model, WriteTest(RealProgram(model), kChecks)));
  std::set<std::string> passed;
  while (passed.size() < models.size()) {
    v1::HostEvent event = host.Next();
    ASSERT_NE(event.kind_case(), v1::HostEvent::KIND_NOT_SET);
    if (!event.has_result()) continue;
    EXPECT_EQ(event.result().outcome(), v1::PASSED) << event.id() << ": " << event.result().message();
    EXPECT_TRUE(passed.insert(event.id()).second);
  }
}

TEST(Serve, AChildThatCrashesIsCrashedAndTheNextTestPasses) {
  HostProcess host;
  host.Send(Request("victim", WriteTest(Endless(), kChecks)));
  host.WaitForCase("victim");
  std::vector<pid_t> children = host.Children();
  ASSERT_THAT(children, SizeIs(1));
  kill(children[0], SIGSEGV);
  v1::TestResult result = host.ResultOf("victim");
  EXPECT_EQ(result.outcome(), v1::CRASHED);
  EXPECT_EQ(result.signal(), SIGSEGV);
  EXPECT_EQ(result.last_case(), "test_model_with_mock");
  host.Send(Request("next", WriteTest(RealProgram("bert"), kChecks)));
  EXPECT_EQ(host.ResultOf("next").outcome(), v1::PASSED);
}

TEST(Serve, AModelThatRunsTooLongIsTimedOut) {
  HostProcess host;
  WrittenTest written = WriteTest(Endless(), kChecks);
  written.test.mutable_limits()->set_timeout_ms(200);
  host.Send(Request("slow", written));
  v1::TestResult result = host.ResultOf("slow");
  EXPECT_EQ(result.outcome(), v1::TIMED_OUT);
  EXPECT_EQ(result.last_case(), "test_model_with_mock");
}

TEST(Serve, AModelThatNeedsTooMuchMemoryIsOutOfMemory) {
  HostProcess host;
  WrittenTest written = WriteTest(Hungry(), kChecks);
  written.test.mutable_limits()->set_memory_bytes(uint64_t{200} << 20);
  host.Send(Request("large", written));
  v1::TestResult result = host.ResultOf("large");
  EXPECT_EQ(result.outcome(), v1::OUT_OF_MEMORY) << result.message();
  EXPECT_EQ(result.last_case(), "test_model_with_mock");
}

TEST(Serve, ACancelledTestEndsAndItsProcessWithIt) {
  HostProcess host;
  host.Send(Request("long", WriteTest(Endless(), kChecks)));
  host.WaitForCase("long");
  v1::HostRequest cancel;
  cancel.mutable_cancel()->set_id("long");
  host.Send(cancel);
  EXPECT_EQ(host.ResultOf("long").outcome(), v1::CANCELLED);
  EXPECT_THAT(host.Children(), IsEmpty());
}

TEST(Serve, WhereTheWorkerIsGoneNothingIsLeft) {
  HostProcess host;
  host.Send(Request("long", WriteTest(Endless(), kChecks)));
  host.WaitForCase("long");
  std::vector<pid_t> children = host.Children();
  ASSERT_THAT(children, SizeIs(1));
  host.CloseRequests();
  EXPECT_EQ(host.Wait(), 0);
  EXPECT_TRUE(WaitUntilGone(children[0]));
}

TEST(Serve, AKilledHostTakesItsChildrenAlong) {
  HostProcess host;
  host.Send(Request("long", WriteTest(Endless(), kChecks)));
  host.WaitForCase("long");
  std::vector<pid_t> children = host.Children();
  ASSERT_THAT(children, SizeIs(1));
  host.Kill(SIGKILL);
  EXPECT_EQ(host.Wait(), -SIGKILL);
  EXPECT_TRUE(WaitUntilGone(children[0]));
}

TEST(Serve, StopsAtASignal) {
  HostProcess host;
  ASSERT_TRUE(host.Next().has_ready());
  host.Kill(SIGTERM);
  EXPECT_EQ(host.Wait(), 8);
}

TEST(Serve, GarbageInsteadOfRequestsEndsIt) {
  HostProcess host;
  ASSERT_TRUE(host.Next().has_ready());
  host.SendBytes(std::string(20, '\xff'));
  EXPECT_EQ(host.Wait(), 2);
}

// The way tests run on CUDA, with the CPU for want of a GPU: one process after another, a new one after a
// crash.
TEST(Serve, AResidentProcessSurvivesItsTestsAndIsReplacedAfterACrash) {
  HostProcess host({"--resident"});
  v1::HostEvent ready = host.Next();
  ASSERT_TRUE(ready.has_ready());
  EXPECT_EQ(ready.ready().device_size(), 1);
  host.Send(Request("one", WriteTest(RealProgram("bert"), kChecks)));
  EXPECT_EQ(host.ResultOf("one").outcome(), v1::PASSED);
  std::vector<pid_t> first = host.Children();
  host.Send(Request("two", WriteTest(RealProgram("vit"), kChecks)));
  EXPECT_EQ(host.ResultOf("two").outcome(), v1::PASSED);
  EXPECT_EQ(host.Children(), first);
  host.Send(Request("victim", WriteTest(Endless(), kChecks)));
  host.Send(Request("three", WriteTest(RealProgram("bert"), kChecks)));
  host.WaitForCase("victim");
  ASSERT_THAT(first, SizeIs(1));
  kill(first[0], SIGSEGV);
  EXPECT_EQ(host.ResultOf("victim").outcome(), v1::CRASHED);
  EXPECT_EQ(host.ResultOf("three").outcome(), v1::PASSED);
  EXPECT_NE(host.Children(), first);
}

// As the Hugging Face cache holds it: the snapshot links to files that lie elsewhere.
std::string IntoCache(const std::string& folder) {
  namespace fs = std::filesystem;
  const fs::path repository = fs::path(folder + "_cache") / "models--someone--fine-tuned";
  fs::create_directories(repository / "blobs");
  const fs::path snapshot = repository / "snapshots" / std::string(40, 'c');
  fs::create_directories(snapshot);
  const std::string blob(64, 'b');
  fs::rename(folder + "/model.safetensors", repository / "blobs" / blob);
  fs::create_symlink("../../blobs/" + blob, snapshot / "model.safetensors");
  return snapshot.string();
}

TEST(Loading, ACheckpointOfTheCacheIsReadThroughItsLinks) {
  HostProcess host;
  host.Next();
  WrittenTest written = engine::RealCheckpoint("bert").Write();
  written.options.checkpoint_dir = IntoCache(written.options.checkpoint_dir);
  v1::HostRequest request = Loading("a", written);
  request.mutable_run()->set_hub_verified(true);
  host.Send(request);
  v1::TestResult result = host.ResultOf("a");
  EXPECT_EQ(result.outcome(), v1::PASSED) << result.message();
  EXPECT_EQ(result.case_(0).evidence(), v1::GOLDEN);
  EXPECT_EQ(result.provenance().weights_trust(), v1::HUB_SHA256);
}

TEST(Loading, ALinkOutOfTheFolderIsAVerdictAndTheHostGoesOn) {
  HostProcess host;
  host.Next();
  WrittenTest written = engine::RealCheckpoint("bert").Write();
  const std::string weights = written.options.checkpoint_dir + "/model.safetensors";
  std::filesystem::rename(weights, written.options.checkpoint_dir + "_outside");
  std::filesystem::create_symlink(written.options.checkpoint_dir + "_outside", weights);
  host.Send(Loading("a", written));
  v1::TestResult result = host.ResultOf("a");
  EXPECT_EQ(result.outcome(), v1::FAILED);
  EXPECT_THAT(result.message(), HasSubstr("model.safetensors"));
  host.Send(Loading("b", engine::RealCheckpoint("bert").Write()));
  EXPECT_EQ(host.ResultOf("b").outcome(), v1::PASSED);
}

TEST(Loading, PagesOfACheckpointAreNotTheTestsOwnMemory) {
  HostProcess host;
  host.Next();
  engine::RealCheckpoint real("bert");
  constexpr int64_t kSide = int64_t{5} << 10;
  real.tensors.push_back({"another.weight", "F32", {kSide, kSide}, std::string(kSide * kSide * 4, '\x01')});
  WrittenTest written = real.Write();
  constexpr uint64_t kLimit = uint64_t{64} << 20;  // the checkpoint has 100 MiB
  written.test.mutable_limits()->set_memory_bytes(kLimit);
  host.Send(Loading("a", written));
  v1::TestResult result = host.ResultOf("a");
  EXPECT_EQ(result.outcome(), v1::PASSED) << result.message();
  EXPECT_EQ(result.case_(0).load().unexpected_count(), 1u);
#ifndef __SANITIZE_ADDRESS__
  // What AddressSanitizer keeps makes the process grow after the checkpoint was unmapped, which then counts.
  EXPECT_LT(result.peak_memory_bytes(), kLimit);
#endif
}

// Writes tests of programs as files beside their programs, in a folder of their own.
class RunCommand : public ::testing::Test {
 protected:
  RunCommand() : folder_(absl::StrCat(::testing::TempDir(), "run_command_", getpid())) {
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_);
  }
  // The program's file is linked under the name of its model.
  std::string Write(WrittenTest written) {
    const std::string& model = written.test.name();
    std::filesystem::copy_file(written.options.program_path, absl::StrCat(folder_, "/", model, ".assay"),
                               std::filesystem::copy_options::overwrite_existing);
    written.test.mutable_set_up()->set_device(v1::AUTO);
    std::string file = absl::StrCat(folder_, "/test_hf_", model, ".textproto");
    EXPECT_THAT(WriteFileAtomically(file, FormatTextProto(written.test)), IsOk());
    return file;
  }
  Finished RunTests(std::vector<std::string> arguments, const std::vector<std::string>& environment = {}) {
    arguments.insert(arguments.begin(), {"run", "--programs", folder_});
    return RunHost(arguments, environment);
  }
  std::string folder_;
};

TEST_F(RunCommand, PrintsALineATestAndEndsWithZero) {
  std::string bert = Write(WriteTest(RealProgram("bert"), kChecks));
  std::string vit = Write(WriteTest(RealProgram("vit"), kChecks));
  for (const char* how : {"--jobs=2", "--in-process", "--resident", "--device=cpu"}) {
    Finished finished = RunTests({how, "--test", bert, vit});
    EXPECT_EQ(finished.exit_code, 0) << finished.output;
    EXPECT_THAT(finished.output, HasSubstr("2 tests: 2 PASSED")) << how;
  }
}

TEST_F(RunCommand, AFailureIsShownWithItsOperatorAndEndsWithThree) {
  v1::Program bert = RealProgram("bert");
  ArgumentOf(bert, engine::NodeRunning(bert, "aten::gelu"), "approximate").set_text("tanh");
  Finished finished = RunTests({"--test", Write(WriteTest(bert, kChecks))});
  EXPECT_EQ(finished.exit_code, 3);
  EXPECT_THAT(finished.output, HasSubstr("FAILED"));
  EXPECT_THAT(finished.output, HasSubstr("first to differ: gelu (aten::gelu)"));
}

TEST_F(RunCommand, ACheckpointIsLoadedFromTheCommandLineAndSaid) {
  WrittenTest written = engine::RealCheckpoint("bert").Write();
  const std::string file = absl::StrCat(folder_, "/loading.textproto");
  ASSERT_THAT(WriteFileAtomically(file, FormatTextProto(written.test)), IsOk());
  const std::string blobs =
      std::filesystem::path(written.options.files.begin()->second).parent_path().string();
  Finished finished =
      RunTests({"-v", "--test", file, "--checkpoint", written.options.checkpoint_dir, "--blobs", blobs});
  EXPECT_EQ(finished.exit_code, 0) << finished.output;
  EXPECT_THAT(finished.output, HasSubstr(" bound, 0 missing"));
  EXPECT_THAT(finished.output, HasSubstr("PASSED golden error "));
  finished = RunTests({"--test", file, "--checkpoint", written.options.checkpoint_dir, "--file", "nonsense"});
  EXPECT_EQ(finished.exit_code, 2);
  EXPECT_THAT(finished.output, HasSubstr("is not DIGEST=PATH"));
}

TEST_F(RunCommand, AFileThatIsNoTestEndsWithTwoAndItsPlace) {
  std::string file = absl::StrCat(folder_, "/broken.textproto");
  ASSERT_THAT(WriteFileAtomically(file, "name: 'a'\nnonsense: 1\n"), IsOk());
  Finished finished = RunTests({"--test", file});
  EXPECT_EQ(finished.exit_code, 2);
  EXPECT_THAT(finished.output, HasSubstr("broken.textproto:2:"));
}

TEST_F(RunCommand, ANameThatLeavesTheFolderIsRefused) {
  WrittenTest written = WriteTest(RealProgram("bert"), kChecks);
  written.test.set_name("../bert");
  std::string file = absl::StrCat(folder_, "/path.textproto");
  ASSERT_THAT(WriteFileAtomically(file, FormatTextProto(written.test)), IsOk());
  Finished finished = RunTests({"--test", file});
  EXPECT_EQ(finished.exit_code, 2);
  EXPECT_THAT(finished.output, HasSubstr("is no file name"));
}

TEST_F(RunCommand, NothingPassedIsNotSuccess) {
  WrittenTest written = WriteTest(RealProgram("bert"), "check { name: 'bound' weights_bound {} }");
  written.test.mutable_case_(0)->set_weights(v1::REAL);
  Finished finished = RunTests({"--test", Write(written)});
  EXPECT_EQ(finished.exit_code, 4) << finished.output;
  EXPECT_THAT(finished.output, HasSubstr("SKIPPED"));
}

TEST_F(RunCommand, ADemandForCudaOnTheCpuIsUnsupported) {
  std::string file = Write(WriteTest(RealProgram("bert"), kChecks));
  Finished finished = RunTests({"--device", "cuda", "--test", file});
  // Where a GPU is there, the same line passes.
  if (finished.exit_code == 0) {
    EXPECT_THAT(finished.output, HasSubstr("cuda"));
  } else {
    EXPECT_EQ(finished.exit_code, 3);
    EXPECT_THAT(finished.output, HasSubstr("UNSUPPORTED"));
  }
}

// Tolerances allow what is legitimate between kinds of CPU: every program, with each set of kernels.
TEST_F(RunCommand, EveryProgramPassesWithEveryKindOfKernel) {
  std::vector<std::string> arguments = {"--test"};
  for (const auto& entry : std::filesystem::directory_iterator("models/programs")) {
    if (entry.path().extension() != ".assay") continue;
    v1::Program program = RealProgram(entry.path().stem());
    program.mutable_manifest()->set_model(entry.path().stem());
    arguments.push_back(Write(WriteTest(program, kChecks)));
  }
  ASSERT_GE(arguments.size(), 6u);
  std::string expected = absl::StrCat(arguments.size() - 1, " tests: ", arguments.size() - 1, " PASSED");
  const std::string best = engine::CpuCapability();
  std::vector<std::pair<const char*, const char*>> kinds = {{"default", "DEFAULT"}};
  if (best == "AVX2" || best == "AVX512") kinds.push_back({"avx2", "AVX2"});
  if (best == "AVX512") kinds.push_back({"avx512", "AVX512"});
  for (const auto& [variable, name] : kinds) {
    Finished finished = RunTests(arguments, {absl::StrCat("ATEN_CPU_CAPABILITY=", variable)});
    EXPECT_EQ(finished.exit_code, 0) << name << "\n" << finished.output;
    EXPECT_THAT(finished.output, HasSubstr(expected)) << name;
    EXPECT_THAT(finished.output, HasSubstr(absl::StrCat("cpu ", name))) << "the kernels were not switched";
  }
}

}  // namespace
}  // namespace assay::host
