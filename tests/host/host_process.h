// The real assay-host as its users start it: as a worker does, over two pipes, and from the command line.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include "assay/v1/host.pb.h"
#include "common/framing.h"
#include "host/pipe.h"

namespace assay::host {

// Path of the binary that this build made.
std::string HostBinary();

struct Finished {
  int exit_code = -1;  // minus the signal where one ended it
  std::string output;  // standard output and error
};
// Runs `assay-host <arguments>` to its end, with `environment` ("NAME=value") added.
Finished RunHost(const std::vector<std::string>& arguments, const std::vector<std::string>& environment = {});

// A serving host. Every wait ends the test process after a minute, so that a host that does not answer shows.
class HostProcess {
 public:
  explicit HostProcess(const std::vector<std::string>& arguments = {});
  // Kills it where it still runs.
  ~HostProcess();

  void Send(const v1::HostRequest& request);
  void SendBytes(const std::string& bytes);
  void CloseRequests();
  // The next event; one without a kind where the stream ends.
  v1::HostEvent Next();
  // Events up to the result of `id`, which it gives; all that came are appended to `seen`.
  v1::TestResult ResultOf(const std::string& id, std::vector<v1::HostEvent>* seen = nullptr);
  // Reads events until one is a CaseStarted of `id`.
  void WaitForCase(const std::string& id);

  pid_t pid() const { return pid_; }
  std::vector<pid_t> Children() const;
  void Kill(int signal_number);
  // Exit code, or minus the signal.
  int Wait();

 private:
  pid_t pid_ = -1;
  int requests_ = -1;
  int events_ = -1;
  FrameReader frames_{kMaxMessageBytes};
};

// True once the process `pid` is gone or a zombie.
bool WaitUntilGone(pid_t pid);

}  // namespace assay::host
