// What keeps messages on the control stream under their limit of 1 MiB, and logs within bounds.
#pragma once

#include <cstddef>
#include <string>

#include "absl/strings/string_view.h"
#include "assay/v1/result.pb.h"

namespace assay::worker {

// Leaves room for what surrounds a result in its message.
inline constexpr size_t kMaxResultBytes = size_t{900} << 10;
inline constexpr size_t kMaxLogBytes = size_t{1} << 20;

// Cuts texts, then leaves out checks that passed, then what else it must, until the message has at most
// `max_bytes`. Outcomes of the test and its cases always stay. True where it changed anything.
bool FitResult(v1::TestResult& result, size_t max_bytes = kMaxResultBytes);
bool FitCaseResult(v1::CaseResult& result, size_t max_bytes = kMaxResultBytes);

// Keeps the last kMaxLogBytes of what is appended. Not thread-safe.
class LogTail {
 public:
  explicit LogTail(size_t max_bytes = kMaxLogBytes) : max_bytes_(max_bytes) {}
  void Append(absl::string_view text);
  // With a first line that says how much was cut, if any was.
  std::string Take();

 private:
  const size_t max_bytes_;
  size_t cut_ = 0;
  std::string tail_;
};

}  // namespace assay::worker
