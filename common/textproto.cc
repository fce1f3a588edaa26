#include "common/textproto.h"

#include "absl/strings/str_cat.h"
#include "google/protobuf/io/tokenizer.h"
#include "google/protobuf/io/zero_copy_stream_impl_lite.h"
#include "google/protobuf/text_format.h"

namespace assay {
namespace {

class ErrorList final : public google::protobuf::io::ErrorCollector {
 public:
  void AddError(int line, int column, const std::string& message) override {
    errors.push_back({line + 1, column + 1, message});
  }
  void AddWarning(int line, int column, const std::string& message) override {
    AddError(line, column, message);
  }

  std::vector<TextError> errors;
};

}  // namespace

std::vector<TextError> ParseTextProto(absl::string_view text, google::protobuf::Message& message) {
  ErrorList list;
  google::protobuf::TextFormat::Parser parser;
  parser.RecordErrorsTo(&list);
  parser.SetRecursionLimit(64);
  google::protobuf::io::ArrayInputStream stream(text.data(), static_cast<int>(text.size()));
  const bool parsed = parser.Parse(&stream, &message);
  if (!parsed && list.errors.empty()) list.errors.push_back({1, 1, "not a text-format message"});
  return std::move(list.errors);
}

absl::Status ParseTextProto(absl::string_view file, absl::string_view text,
                            google::protobuf::Message& message) {
  std::string all;
  for (const TextError& error : ParseTextProto(text, message)) {
    absl::StrAppend(&all, all.empty() ? "" : "\n", file, ":", error.line, ":", error.column, ": ",
                    error.message);
  }
  return all.empty() ? absl::OkStatus() : absl::InvalidArgumentError(all);
}

std::string FormatTextProto(const google::protobuf::Message& message) {
  google::protobuf::TextFormat::Printer printer;
  printer.SetUseUtf8StringEscaping(true);
  printer.SetUseShortRepeatedPrimitives(true);
  std::string text;
  printer.PrintToString(message, &text);
  return text;
}

}  // namespace assay
