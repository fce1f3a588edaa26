// Runs the real `assay` binary, as a user would.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

namespace assay::cli {

struct Ended {
  int exit_code = -1;  // -1: ended by a signal
  std::string out, err;
};

// bin/assay of the build folder with these arguments; `environment` holds "NAME=value" to be added.
Ended RunAssay(const std::vector<std::string>& arguments, const std::vector<std::string>& environment = {});

// The same with standard output and error on a pseudo-terminal of 80 columns: all of it is in `out`.
Ended RunAssayOnTerminal(const std::vector<std::string>& arguments,
                         const std::vector<std::string>& environment = {});

// One that runs while the test does something else.
class RunningAssay {
 public:
  explicit RunningAssay(const std::vector<std::string>& arguments,
                        const std::vector<std::string>& environment = {});
  // Until `text` stands in its standard output, or that ends.
  void AwaitOutput(const std::string& text);
  void Signal(int signal);
  Ended Wait();

 private:
  pid_t pid_ = -1;
  int out_ = -1;
  std::string out_so_far_, err_path_;
};

// A new folder below the test's temporary one.
std::string NewFolder();

}  // namespace assay::cli
