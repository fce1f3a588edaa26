#include "engine/program.h"

#include <zstd.h>

#include <cstdint>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/digest.h"
#include "common/file.h"
#include "common/status_macros.h"
#include "engine/validate.h"

namespace assay::engine {
namespace {

constexpr absl::string_view kMagic("\x28\xb5\x2f\xfd", 4);

// `kind` is "program" or "golden".
absl::Status NotA(absl::string_view kind, absl::string_view why) {
  return absl::InvalidArgumentError(absl::StrCat("not a ", kind, " file: ", why));
}

// The content of the only frame. Sizes are checked before memory is taken for them.
absl::StatusOr<std::string> Decompress(absl::string_view kind, absl::string_view file,
                                       const ProgramLimits& limits) {
  if (file.size() > limits.max_file_bytes) {
    return absl::ResourceExhaustedError(absl::StrCat("the ", kind, " file has ", file.size(),
                                                     " bytes, the limit is ", limits.max_file_bytes));
  }
  // Skippable frames have another magic number: nothing may stand before the frame.
  if (file.substr(0, 4) != kMagic) return NotA(kind, "it does not begin with a zstd frame");
  const size_t frame = ZSTD_findFrameCompressedSize(file.data(), file.size());
  if (ZSTD_isError(frame)) {
    return NotA(kind,
                absl::StrCat("the zstd frame is cut short or damaged (", ZSTD_getErrorName(frame), ")"));
  }
  if (frame != file.size()) {
    return NotA(kind, absl::StrCat(file.size() - frame, " bytes follow the zstd frame"));
  }
  // Frame_Header_Descriptor, RFC 8878 section 3.1.1.1.1: bit 2 is Content_Checksum_flag.
  if ((static_cast<uint8_t>(file[4]) & 0x04) == 0) return NotA(kind, "the zstd frame has no checksum");
  const unsigned long long declared = ZSTD_getFrameContentSize(file.data(), file.size());
  if (declared == ZSTD_CONTENTSIZE_UNKNOWN || declared == ZSTD_CONTENTSIZE_ERROR) {
    return NotA(kind, "the zstd frame does not declare its content size");
  }
  if (declared > limits.max_content_bytes) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "the ", kind, " declares ", declared, " bytes of content, the limit is ", limits.max_content_bytes));
  }
  if (declared > limits.free_content_bytes && declared / limits.max_ratio > file.size()) {
    return absl::ResourceExhaustedError(
        absl::StrCat("the ", kind, " declares ", declared, " bytes of content in ", file.size(),
                     " bytes of file, more than ", limits.max_ratio, " times as much"));
  }
  std::string content(declared, '\0');
  const size_t got = ZSTD_decompress(content.data(), content.size(), file.data(), file.size());
  if (ZSTD_isError(got)) {
    return NotA(kind, absl::StrCat("the zstd frame is damaged (", ZSTD_getErrorName(got), ")"));
  }
  if (got != declared) return NotA(kind, "the zstd frame holds less than it declares");
  return content;
}

// One frame with content size and checksum.
absl::StatusOr<std::string> Compress(absl::string_view kind, const google::protobuf::Message& message) {
  std::string content;
  if (!message.SerializeToString(&content)) {
    return absl::InvalidArgumentError(
        absl::StrCat("the ", kind, " cannot be serialised: a text is no UTF-8, or it is too large"));
  }
  ZSTD_CCtx* context = ZSTD_createCCtx();
  if (context == nullptr) return absl::ResourceExhaustedError("no memory for a zstd context");
  ZSTD_CCtx_setParameter(context, ZSTD_c_checksumFlag, 1);
  std::string file(ZSTD_compressBound(content.size()), '\0');
  const size_t size = ZSTD_compress2(context, file.data(), file.size(), content.data(), content.size());
  ZSTD_freeCCtx(context);
  if (ZSTD_isError(size)) return absl::InternalError(ZSTD_getErrorName(size));
  file.resize(size);
  return file;
}

}  // namespace

absl::StatusOr<v1::Program> ParseProgram(absl::string_view file_bytes, const ProgramLimits& limits) {
  ASSAY_ASSIGN_OR_RETURN(const std::string content, Decompress("program", file_bytes, limits));
  v1::Program program;
  if (!program.ParseFromString(content)) return NotA("program", "its content is no assay.v1.Program message");
  ASSAY_RETURN_IF_ERROR(ValidateProgram(program));
  return program;
}

absl::StatusOr<v1::Program> ReadProgram(const std::filesystem::path& path, const ProgramLimits& limits) {
  ASSAY_ASSIGN_OR_RETURN(const std::string bytes, ReadFile(path, limits.max_file_bytes));
  absl::StatusOr<v1::Program> program = ParseProgram(bytes, limits);
  if (program.ok()) return program;
  return absl::Status(program.status().code(), absl::StrCat(path.string(), ": ", program.status().message()));
}

absl::StatusOr<std::string> SerializeProgram(const v1::Program& program) {
  return Compress("program", program);
}

absl::StatusOr<v1::CheckpointGolden> ParseCheckpointGolden(absl::string_view file_bytes,
                                                           const v1::Program& program,
                                                           absl::string_view program_digest,
                                                           const ProgramLimits& limits) {
  ASSAY_ASSIGN_OR_RETURN(const std::string content, Decompress("golden", file_bytes, limits));
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
  return Compress("golden", golden);
}

}  // namespace assay::engine
