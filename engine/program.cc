#include "engine/program.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/digest.h"
#include "common/file.h"
#include "common/status_macros.h"
#include "engine/validate.h"

namespace assay::engine {
namespace {

// `kind` is "program" or "golden".
absl::Status NotA(absl::string_view kind, absl::string_view why) {
  return absl::InvalidArgumentError(absl::StrCat("not a ", kind, " file: ", why));
}

absl::StatusOr<std::string> Serialize(absl::string_view kind, const google::protobuf::Message& message) {
  std::string content;
  if (!message.SerializeToString(&content)) {
    return absl::InvalidArgumentError(
        absl::StrCat("the ", kind, " cannot be serialised: a text is no UTF-8, or it is too large"));
  }
  return CompressFrame(content);
}

}  // namespace

absl::StatusOr<v1::Program> ParseProgram(absl::string_view file_bytes, const FrameLimits& limits) {
  ASSAY_ASSIGN_OR_RETURN(const std::string content, DecompressFrame("program", file_bytes, limits));
  v1::Program program;
  if (!program.ParseFromString(content)) return NotA("program", "its content is no assay.v1.Program message");
  ASSAY_RETURN_IF_ERROR(ValidateProgram(program));
  return program;
}

absl::StatusOr<v1::Program> ReadProgram(const std::filesystem::path& path, const FrameLimits& limits) {
  ASSAY_ASSIGN_OR_RETURN(const std::string bytes, ReadFile(path, limits.max_file_bytes));
  absl::StatusOr<v1::Program> program = ParseProgram(bytes, limits);
  if (program.ok()) return program;
  return absl::Status(program.status().code(), absl::StrCat(path.string(), ": ", program.status().message()));
}

absl::StatusOr<std::string> SerializeProgram(const v1::Program& program) {
  return Serialize("program", program);
}

absl::StatusOr<v1::CheckpointGolden> ParseCheckpointGolden(absl::string_view file_bytes,
                                                           const v1::Program& program,
                                                           absl::string_view program_digest,
                                                           const FrameLimits& limits) {
  ASSAY_ASSIGN_OR_RETURN(const std::string content, DecompressFrame("golden", file_bytes, limits));
  v1::CheckpointGolden golden;
  if (!golden.ParseFromString(content)) {
    return NotA("golden", "its content is no assay.v1.CheckpointGolden message");
  }
  if (golden.format() != 1) {
    return absl::UnimplementedError(
        absl::StrCat("golden format ", golden.format(), ": this build reads format 1"));
  }
  // First of all: what follows would blame the golden's parts for another program's.
  if (golden.program_digest() != program_digest) {
    return absl::InvalidArgumentError(absl::StrCat("the golden is of the program ", golden.program_digest(),
                                                   ", this case runs the program ", program_digest));
  }
  // Inputs alone are of no weights.
  if (!golden.golden().outputs().empty() && !IsDigest(golden.weights_digest())) {
    return NotA("golden", "it does not say of which weights it is");
  }
  ASSAY_RETURN_IF_ERROR(ValidateCheckpointGolden(program, golden));
  return golden;
}

absl::StatusOr<std::string> SerializeCheckpointGolden(const v1::CheckpointGolden& golden) {
  return Serialize("golden", golden);
}

}  // namespace assay::engine
