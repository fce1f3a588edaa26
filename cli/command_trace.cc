#include "cli/command_trace.h"

#include <cstdlib>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"

namespace assay::cli {

CommandTrace::CommandTrace(std::string command) : command_(std::move(command)), start_(absl::Now()) {
  if (const char* outer = std::getenv("TRACEPARENT"); outer != nullptr) parent_ = TraceContext::Parse(outer);
  if (Tracer::Global().on()) {
    own_ = parent_ ? parent_->Child() : Tracer::Global().Begin();
    traceparent_ = own_->Traceparent();
  } else if (parent_) {
    traceparent_ = parent_->Traceparent();
  }
}

ExitCode CommandTrace::Ended(ExitCode code) const {
  if (!own_) return code;
  Span span;
  span.context = *own_;
  if (parent_) span.parent = parent_->span;
  span.service = "assay";
  span.name = absl::StrCat("assay ", command_);
  span.kind = SpanKind::kClient;
  span.start = start_;
  span.end = absl::Now();
  if (code != kExitOk) span.error = absl::StrCat("exit code ", static_cast<int>(code));
  Tracer::Global().Record(std::move(span));
  Tracer::Global().Flush(absl::Seconds(1));
  return code;
}

}  // namespace assay::cli
