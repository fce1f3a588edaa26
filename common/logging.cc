#include "common/logging.h"

#include <chrono>
#include <ctime>
#include <memory>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/build_info.h"
#include "common/utf8.h"
#include "spdlog/formatter.h"
#include "spdlog/pattern_formatter.h"
#include "spdlog/sinks/stdout_sinks.h"

namespace assay {
namespace {

// Sinks format on the thread that logs, so its fields are at hand.
thread_local std::vector<LogField> fields_of_thread;

void AppendJsonText(absl::string_view text, std::string& out) {
  out += '"';
  while (!text.empty()) {
    const Utf8Character character = FirstCharacter(text);
    if (character.bytes == 0) {
      // A byte that is no UTF-8 would make the whole line unreadable to whoever parses it.
      out += "\\ufffd";
      text.remove_prefix(1);
      continue;
    }
    if (character.code == '"' || character.code == '\\') {
      out += '\\';
      out += static_cast<char>(character.code);
    } else if (character.code == '\n') {
      out += "\\n";
    } else if (character.code < 0x20 || character.code == 0x7f) {
      absl::StrAppendFormat(&out, "\\u%04x", character.code);
    } else {
      absl::StrAppend(&out, text.substr(0, character.bytes));
    }
    text.remove_prefix(character.bytes);
  }
  out += '"';
}

std::string TimeOf(const spdlog::details::log_msg& line) {
  const auto since = line.time.time_since_epoch();
  const auto milliseconds = std::chrono::duration_cast<std::chrono::milliseconds>(since).count();
  const std::time_t seconds = static_cast<std::time_t>(milliseconds / 1000);
  std::tm utc{};
  gmtime_r(&seconds, &utc);
  char day[32];
  std::strftime(day, sizeof(day), "%Y-%m-%dT%H:%M:%S", &utc);
  return absl::StrFormat("%s.%03dZ", day, milliseconds % 1000);
}

absl::string_view View(const spdlog::string_view_t& text) { return {text.data(), text.size()}; }

class JsonFormatter final : public spdlog::formatter {
 public:
  void format(const spdlog::details::log_msg& line, spdlog::memory_buf_t& out) override {
    std::string text = absl::StrCat("{\"time\":\"", TimeOf(line), "\",\"level\":\"");
    const spdlog::string_view_t level = spdlog::level::to_string_view(line.level);
    absl::StrAppend(&text, View(level), "\",\"program\":");
    AppendJsonText(View(line.logger_name), text);
    text += ",\"message\":";
    AppendJsonText(View(line.payload), text);
    for (size_t i = 0; i < fields_of_thread.size(); ++i) {
      const auto& [name, value] = fields_of_thread[i];
      // A name that an inner scope has as well is the inner one's: names in an object are unique.
      bool again = false;
      for (size_t later = i + 1; later < fields_of_thread.size(); ++later) {
        again |= fields_of_thread[later].first == name;
      }
      if (again) continue;
      text += ',';
      AppendJsonText(name, text);
      text += ':';
      AppendJsonText(value, text);
    }
    text += "}\n";
    out.append(text.data(), text.data() + text.size());
  }
  std::unique_ptr<spdlog::formatter> clone() const override { return std::make_unique<JsonFormatter>(); }
};

// The fields of a text line: " job=b1.bert attempt=2".
class FieldsFlag final : public spdlog::custom_flag_formatter {
 public:
  void format(const spdlog::details::log_msg&, const std::tm&, spdlog::memory_buf_t& out) override {
    for (const auto& [name, value] : fields_of_thread) {
      std::string text = absl::StrCat(" ", name, "=");
      // Quoted where a reader could not tell where it ends, or where it would forge another line.
      if (value.find_first_of(" \"=\n\r\t") == std::string::npos) {
        text += value;
      } else {
        AppendJsonText(value, text);
      }
      out.append(text.data(), text.data() + text.size());
    }
  }
  std::unique_ptr<spdlog::custom_flag_formatter> clone() const override {
    return std::make_unique<FieldsFlag>();
  }
};

}  // namespace

LogScope::LogScope(std::vector<LogField> fields) : before_(fields_of_thread.size()) {
  for (LogField& field : fields) {
    if (!field.second.empty()) fields_of_thread.push_back(std::move(field));
  }
}

LogScope::~LogScope() { fields_of_thread.resize(before_); }

absl::Status StartLogging(absl::string_view program, absl::string_view level, absl::string_view format) {
  spdlog::level::level_enum parsed;
  if (level == "debug") {
    parsed = spdlog::level::debug;
  } else if (level == "info") {
    parsed = spdlog::level::info;
  } else if (level == "warn") {
    parsed = spdlog::level::warn;
  } else if (level == "error") {
    parsed = spdlog::level::err;
  } else {
    return absl::InvalidArgumentError(absl::StrCat("log level '", level, "': debug, info, warn or error"));
  }
  std::unique_ptr<spdlog::formatter> formatter;
  if (format == "json") {
    formatter = std::make_unique<JsonFormatter>();
  } else if (format == "text") {
    auto pattern = std::make_unique<spdlog::pattern_formatter>(spdlog::pattern_time_type::utc);
    pattern->add_flag<FieldsFlag>('*').set_pattern("%Y-%m-%dT%H:%M:%S.%eZ %n %l %v%*");
    formatter = std::move(pattern);
  } else {
    return absl::InvalidArgumentError(absl::StrCat("log format '", format, "': text or json"));
  }
  auto logger = std::make_shared<spdlog::logger>(std::string(program),
                                                 std::make_shared<spdlog::sinks::stderr_sink_mt>());
  logger->set_level(parsed);
  logger->set_formatter(std::move(formatter));
  logger->flush_on(spdlog::level::warn);
  spdlog::set_default_logger(std::move(logger));
  LogWith(spdlog::level::debug, {{"build", BuildVersion()}}, "logging starts");
  return absl::OkStatus();
}

}  // namespace assay
