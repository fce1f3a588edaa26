// An agent in this process, a coordinator that does what a test tells it to, and test hosts that only
// pretend.
#pragma once

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <memory>
#include <string>

#include "gtest/gtest.h"
#include "tests/matchers.h"
#include "tests/worker/content.h"
#include "tests/worker/fake_coordinator.h"
#include "worker/agent.h"
#include "worker/subprocess.h"

namespace assay::worker {

inline Gpu TestGpu(const std::string& id, uint64_t memory_bytes = 0) {
  Gpu gpu;
  gpu.info.set_kind("cuda");
  gpu.info.set_id(id);
  gpu.info.set_name("a GPU");
  gpu.info.set_memory_bytes(memory_bytes);
  gpu.visible = id;
  return gpu;
}

// An agent with hosts that only pretend, and its coordinator.
class AgentTest : public ::testing::Test {
 protected:
  AgentTest() : folder_(::testing::TempDir() + "/agent_test." + std::to_string(::getpid())) {
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_);
    template_digest_ = coordinator_.AddBlob(std::string(kTemplate));
    program_digest_ = coordinator_.AddBlob("program");
  }
  ~AgentTest() override {
    agent_.reset();
    std::filesystem::remove_all(folder_);
  }

  AgentOptions Options() const {
    AgentOptions options;
    options.coordinator = coordinator_.address();
    options.name = "node";
    options.state_dir = folder_ / "state";
    options.host_binary = std::string(std::getenv("ASSAY_BUILD_DIR")) + "/bin/fake-host";
    options.checkpoint_root = folder_ / "checkpoints";
    options.hub.cache_dir = folder_ / "hub";
    options.hub.offline = true;
    options.cpu_only = true;
    options.min_backoff = absl::Milliseconds(5);
    options.max_backoff = absl::Milliseconds(50);
    options.labels = {"pool=a"};
    return options;
  }
  void StartAgent(AgentOptions options) { ASSERT_OK_AND_ASSIGN(agent_, Agent::Start(std::move(options))); }
  void StartAgent() { StartAgent(Options()); }

  // `model` chooses what the host does; see fake_host.cc.
  v1::Assignment Assign(const std::string& model, const std::string& deviation = "") {
    v1::Assignment assignment = AssignmentOf(model);
    assignment.set_template_digest(template_digest_);
    assignment.set_catalogue_digest(coordinator_.AddBlob(CatalogueText(model, deviation)));
    assignment.set_program_digest(program_digest_);
    return assignment;
  }
  static AttemptKey Key(const v1::Assignment& assignment) { return KeyOf(assignment.attempt()); }
  v1::TestResult RunOne(const v1::Assignment& assignment) {
    coordinator_.Start(assignment);
    return coordinator_.AwaitResult(Key(assignment)).result();
  }
  // A pipe that a "gate" test waits for.
  std::string MakeGate() {
    const std::string gate = folder_ / ("gate" + std::to_string(gates_++));
    EXPECT_EQ(::mkfifo(gate.c_str(), 0600), 0);
    return gate;
  }
  static void Open(const std::string& gate) {
    const Fd writer(::open(gate.c_str(), O_WRONLY));
    EXPECT_TRUE(writer.open());
  }
  void DrainAgent() {
    agent_->Drain();
    agent_->Wait();
  }

  const std::filesystem::path folder_;
  FakeCoordinator coordinator_;
  std::string template_digest_, program_digest_;
  int gates_ = 0;
  std::unique_ptr<Agent> agent_;
};

}  // namespace assay::worker
