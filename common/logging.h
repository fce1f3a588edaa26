// One logger for every binary: lines to standard error, so that standard output stays the program's answer.
//
// What a line is about goes into fields, not into its words: `batch`, `job`, `attempt`, `worker` are then
// found by whoever searches logs. As text they stand behind the message: "… info result counted job=b1.bert
// attempt=2".
#pragma once

#include <initializer_list>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "spdlog/spdlog.h"

namespace assay {

// level: "debug", "info", "warn" or "error"; format: "text" or "json", an object a line with time (RFC 3339,
// UTC, milliseconds), level, program, message and the fields, and with `build` in the first one.
// INVALID_ARGUMENT for anything else. Call once, at start.
absl::Status StartLogging(absl::string_view program, absl::string_view level,
                          absl::string_view format = "text");

using LogField = std::pair<absl::string_view, std::string>;

// Every line that this thread logs while it lives has these fields; scopes nest, the innermost one last.
// Fields with an empty value are left out. For one thread, on the stack.
class LogScope {
 public:
  explicit LogScope(std::vector<LogField> fields);
  ~LogScope();
  LogScope(const LogScope&) = delete;
  LogScope& operator=(const LogScope&) = delete;

 private:
  const size_t before_;
};

// One line with these fields: LogWith(spdlog::level::info, {{"job", id}}, "queued again after {} s",
// seconds).
template <typename... Args>
void LogWith(spdlog::level::level_enum level, std::initializer_list<LogField> fields,
             spdlog::format_string_t<Args...> format, Args&&... args) {
  if (!spdlog::should_log(level)) return;
  const LogScope scope{std::vector<LogField>(fields)};
  spdlog::log(level, format, std::forward<Args>(args)...);
}

}  // namespace assay
