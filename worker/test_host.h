// Keeps one assay-host process alive and gives it tests.
//
// The process may crash, hang or talk nonsense: every test given to Run() still ends in exactly one
// TestFinished(), and the next test gets a fresh process.
#pragma once

#include <deque>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <variant>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "assay/v1/host.pb.h"
#include "assay/v1/result.pb.h"
#include "common/framing.h"
#include "worker/subprocess.h"

namespace assay::worker {

// Called on the host's own thread, with no lock held. May call Run() and Cancel().
class HostListener {
 public:
  virtual ~HostListener() = default;
  virtual void HostStarted(const v1::HostReady& ready) = 0;
  // It died; it comes back after a pause.
  virtual void HostLost(const std::string& why) = 0;
  // case_started, case_result or log of a test.
  virtual void TestEvent(const std::string& id, const v1::HostEvent& event) = 0;
  virtual void TestFinished(const std::string& id, v1::TestResult result) = 0;
};

struct TestHostOptions {
  std::filesystem::path binary;
  std::vector<std::string> arguments;    // beside --events-fd
  std::vector<std::string> environment;  // all that the process sees
  absl::Duration start_limit = absl::Seconds(60);
  absl::Duration grace = absl::Seconds(10);            // beyond the test's own limit
  absl::Duration default_timeout = absl::Minutes(10);  // of a test that names none
  absl::Duration min_backoff = absl::Milliseconds(50);
  absl::Duration max_backoff = absl::Seconds(5);
  // After so many starts in a row that failed, waiting tests are given up instead of kept waiting.
  int start_attempts = 5;
};

// Thread-safe.
class TestHost {
 public:
  TestHost(TestHostOptions options, HostListener* listener);
  ~TestHost();  // as Stop()

  // Until the process is ready for the first time.
  //   FAILED_PRECONDITION  its first start failed; the message has its last output.
  absl::Status WaitUntilReady();

  // request.id must be new. Tests run at once, as many as are given.
  void Run(v1::RunTest request);
  // Ends in TestFinished with CANCELLED, unless the test's own result was quicker. Unknown id: nothing.
  void Cancel(std::string id);
  // Ends the process once no test runs in it, and starts another; tests given meanwhile wait for that one.
  // `why` is logged, and told to HostLost().
  void Replace(std::string why);
  // Kills the process. Tests that run end without TestFinished.
  void Stop();

 private:
  struct Running {
    absl::Time deadline;  // SteadyNow()
    absl::Duration limit;
    std::string last_case;
    bool cancelled = false;
    bool overdue = false;
  };
  struct Replacement {
    std::string why;
  };
  using Command = std::variant<v1::RunTest, std::string /* id to cancel */, Replacement>;

  void Loop();
  // One life of the process. Why it ended; `ready` tells whether it got as far as HostReady.
  std::string Serve(bool& ready);
  // The next three may say why the process cannot be kept.
  absl::Status ReadEvents(Subprocess& process, bool& ready);
  absl::Status Handle(const v1::HostEvent& event, bool& ready);
  absl::Status WriteRequests(Subprocess& process);
  void ReadOutput(Subprocess& process);
  void TakeCommands();
  void TakeCancel(const std::string& id);
  void SendPending();
  bool MarkOverdue(absl::Time now);
  absl::Time NextDeadline() const;
  // Ends every test that was with the process, by what is known of its death.
  void EndRunning(const std::string& why);
  void EndPending(const std::string& why);
  void Wake();
  bool Stopped() ABSL_LOCKS_EXCLUDED(mutex_);
  void SetFirstStart(absl::Status status) ABSL_LOCKS_EXCLUDED(mutex_);

  const TestHostOptions options_;
  HostListener* const listener_;
  Fd wake_;  // eventfd

  absl::Mutex mutex_;
  std::deque<Command> commands_ ABSL_GUARDED_BY(mutex_);
  bool stopped_ ABSL_GUARDED_BY(mutex_) = false;
  bool first_start_known_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Status first_start_ ABSL_GUARDED_BY(mutex_);

  // The loop's own.
  std::map<std::string, Running> running_;
  std::deque<v1::RunTest> pending_;  // not yet with the process
  std::string outgoing_;
  std::string replace_;  // why the process is to be replaced; empty: it is not
  FrameReader frames_;
  std::string output_tail_;

  absl::Mutex join_mutex_;
  std::thread thread_;  // last: starts when all else stands
};

}  // namespace assay::worker
