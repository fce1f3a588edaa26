// Protobuf text format with errors that name the place.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "google/protobuf/message.h"

namespace assay {

struct TextError {
  int line = 0;    // from 1
  int column = 0;  // from 1
  std::string message;
};

// Strict: unknown fields, unknown enum values and repeated singular fields are errors. The parser stops at
// the first syntax error. Empty: parsed.
std::vector<TextError> ParseTextProto(absl::string_view text, google::protobuf::Message& message);

// As above; INVALID_ARGUMENT "file:line:column: message", one error a line.
absl::Status ParseTextProto(absl::string_view file, absl::string_view text,
                            google::protobuf::Message& message);

// The one canonical form: fields in order of their numbers, repeated scalars on one line in brackets, UTF-8
// unescaped, two spaces an indentation. ParseTextProto reads it back to an equal message.
std::string FormatTextProto(const google::protobuf::Message& message);

}  // namespace assay
