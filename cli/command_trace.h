// The span of a command, in which everything that it sets off lies.
#pragma once

#include <optional>
#include <string>

#include "absl/time/time.h"
#include "common/exit_code.h"
#include "common/trace.h"

namespace assay::cli {

class CommandTrace {
 public:
  // Below the span that the environment's TRACEPARENT names (a CI job's), else the beginning of a trace.
  explicit CommandTrace(std::string command);

  // For requests; empty: nothing is traced.
  const std::string& traceparent() const { return traceparent_; }

  // Tells of it and waits, at most a second, until a collector has taken it. Returns `code`.
  ExitCode Ended(ExitCode code) const;

 private:
  const std::string command_;
  const absl::Time start_;
  std::optional<TraceContext> parent_;
  std::optional<TraceContext> own_;
  std::string traceparent_;
};

}  // namespace assay::cli
