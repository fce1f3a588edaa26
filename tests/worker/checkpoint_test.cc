// Jobs with checkpoints through the whole agent: export stage, test stage, and what is not to be had.
#include "worker/checkpoint.h"

#include <unistd.h>

#include "tests/worker/content.h"
#include "tests/worker/fake_coordinator.h"
#include "tests/worker/fake_export.h"
#include "worker/agent.h"

namespace assay::worker {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;

class CheckpointTest : public ::testing::Test {
 protected:
  CheckpointTest() {
    fs::remove_all(folder_);
    fake_ = std::make_unique<FakeExport>(folder_);
  }
  ~CheckpointTest() override {
    agent_.reset();
    fs::remove_all(folder_);
  }

  AgentOptions Options() const {
    AgentOptions options;
    options.coordinator = coordinator_.address();
    options.name = "node";
    options.state_dir = folder_ / "state";
    options.host_binary = std::string(std::getenv("ASSAY_BUILD_DIR")) + "/bin/fake-host";
    options.hub.cache_dir = folder_ / "hub";
    options.hub.offline = true;
    options.checkpoint_folders = {folder_ / "checkpoint"};
    options.cpu_only = true;
    return options;
  }
  void StartAgent(const AgentOptions& options) { ASSERT_OK_AND_ASSIGN(agent_, Agent::Start(options)); }
  void StartExporter() {
    AgentOptions options = Options();
    options.exporter = fake_->Options();
    StartAgent(options);
  }

  v1::Assignment Assign(v1::Stage stage) {
    v1::Assignment assignment = AssignmentOf("echo");
    assignment.set_stage(stage);
    assignment.set_template_digest(coordinator_.AddBlob(std::string(kTemplate)));
    assignment.mutable_checkpoint()->set_id(fake_->checkpoint().string());
    return assignment;
  }
  v1::TestResult RunOne(const v1::Assignment& assignment) {
    coordinator_.Start(assignment);
    return coordinator_.AwaitResult(KeyOf(assignment.attempt())).result();
  }
  // The test that follows an export, as a coordinator assigns it.
  v1::Assignment AssignTest() {
    v1::Assignment assignment = Assign(v1::STAGE_TEST);
    v1::ExportResult& made = *assignment.mutable_export_();
    made.set_model_class("transformers.GPT2LMHeadModel");
    made.set_program_digest(coordinator_.AddBlob("full size program"));
    made.set_golden_digest(coordinator_.AddBlob("golden"));
    return assignment;
  }

  const fs::path folder_ = fs::path(::testing::TempDir()) / ("checkpoint_test." + std::to_string(::getpid()));
  std::unique_ptr<FakeExport> fake_;
  FakeCoordinator coordinator_;
  std::unique_ptr<Agent> agent_;
};

TEST_F(CheckpointTest, AWorkerWithAnExporterSaysSo) {
  StartExporter();
  const v1::Hello hello = coordinator_.AwaitHello(1);
  ASSERT_EQ(hello.label_size(), 1);
  EXPECT_EQ(hello.label(0), "exporter=4.0");
}

TEST_F(CheckpointTest, AnExportStageIsAnAttemptWithResultAndLog) {
  StartExporter();
  const v1::Assignment assignment = Assign(v1::STAGE_EXPORT);
  coordinator_.Start(assignment);
  const v1::AttemptResult attempt = coordinator_.AwaitResult(KeyOf(assignment.attempt()));
  const v1::TestResult& result = attempt.result();
  ASSERT_EQ(result.outcome(), v1::PASSED) << result.message();
  EXPECT_EQ(result.export_().program_digest(), fake_->program_digest());
  EXPECT_FALSE(coordinator_.Blob(result.export_().program_digest()).empty());
  EXPECT_FALSE(coordinator_.Blob(result.export_().golden_digest()).empty());
  EXPECT_THAT(coordinator_.Blob(attempt.log_digest()),
              AllOf(HasSubstr(fake_->weights_digest()), HasSubstr("RAN good")));
  EXPECT_TRUE(coordinator_.AwaitEvent(KeyOf(assignment.attempt())).has_started());
}

TEST_F(CheckpointTest, AnAbandonedExportIsKilled) {
  fake_->Behave("hang");
  StartExporter();
  const v1::Assignment hanging = Assign(v1::STAGE_EXPORT);
  coordinator_.Start(hanging);
  coordinator_.AwaitEvent(KeyOf(hanging.attempt()));
  coordinator_.Abandon(KeyOf(hanging.attempt()));
  // The only slot for exports comes free again.
  v1::Assignment next = Assign(v1::STAGE_EXPORT);
  next.mutable_attempt()->set_attempt(2);
  next.mutable_checkpoint()->set_id("/nowhere");
  EXPECT_EQ(RunOne(next).outcome(), v1::INFRASTRUCTURE_ERROR);
  EXPECT_EQ(coordinator_.Results(KeyOf(hanging.attempt())), 0);
}

TEST_F(CheckpointTest, AWorkerWithoutAnExporterTakesNoExportStage) {
  StartAgent(Options());
  const v1::TestResult result = RunOne(Assign(v1::STAGE_EXPORT));
  EXPECT_EQ(result.outcome(), v1::INFRASTRUCTURE_ERROR);
  EXPECT_THAT(result.message(), HasSubstr("has no exporter"));
}

TEST_F(CheckpointTest, ATestGetsTheCheckpointAndWhatItsExportMade) {
  StartAgent(Options());
  const v1::Assignment assignment = AssignTest();
  const v1::TestResult result = RunOne(assignment);
  ASSERT_EQ(result.outcome(), v1::PASSED) << result.message();
  EXPECT_THAT(result.message(), HasSubstr("checkpoint=" + fake_->checkpoint().string() + "\nhub_verified=0"));
  for (const std::string& digest :
       {assignment.export_().program_digest(), assignment.export_().golden_digest()}) {
    EXPECT_THAT(result.message(), HasSubstr("file " + digest + " " + (folder_ / "state/blobs").string()));
  }
}

TEST_F(CheckpointTest, ConvertedWeightsAreAFolderWithTheBlobInIt) {
  StartAgent(Options());
  v1::Assignment assignment = AssignTest();
  assignment.mutable_export_()->set_weights_blob(coordinator_.AddBlob("tensors"));
  assignment.mutable_export_()->set_hub_verified(true);
  const v1::TestResult result = RunOne(assignment);
  ASSERT_EQ(result.outcome(), v1::PASSED) << result.message();
  EXPECT_THAT(result.message(), HasSubstr("checkpoint=" + (folder_ / "state/export").string()));
  EXPECT_THAT(result.message(), HasSubstr("hub_verified=1"));
}

TEST_F(CheckpointTest, ATestWhoseCheckpointIsNotHereIsNoVerdictOnTheModel) {
  StartAgent(Options());
  v1::Assignment assignment = AssignTest();
  assignment.mutable_checkpoint()->set_id("org/name");
  assignment.mutable_checkpoint()->set_commit(std::string(40, 'a'));
  const v1::TestResult result = RunOne(assignment);
  EXPECT_EQ(result.outcome(), v1::INFRASTRUCTURE_ERROR);
  EXPECT_THAT(result.message(), AllOf(HasSubstr("org/name"), HasSubstr("worker node")));
}

TEST_F(CheckpointTest, AnExporterThatIsNotThereIsNoStart) {
  AgentOptions options = Options();
  options.exporter = fake_->Options();
  options.exporter.folder = folder_ / "nowhere";
  EXPECT_THAT(Agent::Start(options),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("no exporter with a .venv")));
}

// Finds what it is told to find, and remembers what it was asked for.
class FakeHub final : public hub::Hub {
 public:
  explicit FakeHub(std::vector<std::string>* asked) : asked_(asked) {}
  absl::StatusOr<hub::Found> Find(const std::string& id, const std::string& revision, hub::Need,
                                  const hub::FindOptions&) override {
    asked_->push_back(absl::StrCat(id, "@", revision));
    return hub::Found{"from the hub", "", "", {}, true, nullptr};
  }

 private:
  std::vector<std::string>* const asked_;
};

class Finding : public CheckpointTest {
 protected:
  CheckpointFinder Finder(CheckpointPlaces places) {
    return CheckpointFinder(std::move(places), std::make_unique<FakeHub>(&asked_), false);
  }
  static v1::CheckpointRef Ref(const std::string& id, const std::string& revision = "",
                               const std::string& commit = "") {
    v1::CheckpointRef ref;
    ref.set_id(id);
    ref.set_revision(revision);
    ref.set_commit(commit);
    return ref;
  }
  const std::function<bool()> never_ = [] { return false; };
  std::vector<std::string> asked_;
};

TEST_F(Finding, AFolderIsOpenedOnlyBelowThoseAllowed) {
  const v1::CheckpointRef ref = Ref(fake_->checkpoint().string());
  EXPECT_THAT(Finder({}).Find(ref, never_),
              StatusIs(absl::StatusCode::kPermissionDenied, HasSubstr("--checkpoints")));
  EXPECT_THAT(Finder({{}, {folder_ / "home"}, false}).Find(ref, never_),
              StatusIs(absl::StatusCode::kPermissionDenied, HasSubstr(ref.id())));
  EXPECT_THAT(Finder({{}, {folder_}, false}).Find(ref, never_), IsOk());
  EXPECT_THAT(Finder({{}, {}, true}).Find(ref, never_), IsOk());
}

TEST_F(Finding, TheRootIsLookedInFirstAndOnlyForWhatMayBeThere) {
  fs::create_directories(folder_ / "root/org");
  fs::copy(fake_->checkpoint(), folder_ / "root/org/name", fs::copy_options::recursive);
  const CheckpointFinder finder = Finder({folder_ / "root", {}, false});
  ASSERT_OK_AND_ASSIGN(hub::Found found, finder.Find(Ref("org/name"), never_));
  EXPECT_EQ(found.folder, fs::canonical(folder_ / "root/org/name"));
  EXPECT_FALSE(found.verified);
  EXPECT_THAT(asked_, ::testing::IsEmpty());
  EXPECT_THAT(finder.Find(Ref("org/name", "v2"), never_), IsOk());
  EXPECT_THAT(finder.Find(Ref("org/name", "main", std::string(40, 'a')), never_), IsOk());
  EXPECT_THAT(finder.Find(Ref("org/other"), never_), IsOk());
  EXPECT_THAT(asked_,
              ::testing::ElementsAre("org/name@v2", "org/name@" + std::string(40, 'a'), "org/other@"));
}

TEST_F(Finding, WhatWasFoundWithoutACommitIsNotTakenFromTheHub) {
  EXPECT_THAT(Finder({}).FindAgain(Ref("org/name"), never_),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("org/name")));
  EXPECT_THAT(Finder({}).FindAgain(Ref("org/name", "", std::string(40, 'a')), never_), IsOk());
}

TEST_F(Finding, ACacheThatCannotBeOpenedIsNamed) {
  const CheckpointFinder finder({}, absl::PermissionDeniedError("/cache"), false);
  EXPECT_THAT(finder.Find(Ref("org/name"), never_),
              StatusIs(absl::StatusCode::kInternal, HasSubstr("/cache")));
}

}  // namespace
}  // namespace assay::worker
