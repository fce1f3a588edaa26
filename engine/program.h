// Programs from bytes that nobody vouches for. No LibTorch here. All functions are pure and thread-safe.
#pragma once

#include <cstddef>
#include <filesystem>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "assay/v1/program.pb.h"

namespace assay::engine {

// What a program's or a golden's file may cost before anything of it is believed.
struct ProgramLimits {
  size_t max_file_bytes = size_t{256} << 20;
  size_t max_content_bytes = size_t{512} << 20;
  // Content beyond free_content_bytes may be at most max_ratio times the file: masks and tables of constants
  // compress very well, but a small file must not become gigabytes.
  size_t free_content_bytes = size_t{16} << 20;
  size_t max_ratio = 400;
};

// Decompresses, parses and validates. A file is exactly one zstd frame with content size and checksum.
// INVALID_ARGUMENT names what is wrong and where (node and operator, weight, constant, golden entry);
// UNIMPLEMENTED: a format number that this build does not know; RESOURCE_EXHAUSTED: beyond the limits.
absl::StatusOr<v1::Program> ParseProgram(absl::string_view file_bytes, const ProgramLimits& limits = {});

// ParseProgram of a file; errors name the path.
absl::StatusOr<v1::Program> ReadProgram(const std::filesystem::path& path, const ProgramLimits& limits = {});

// The file form of a program: what ParseProgram reads. For tests and tools; programs are written by
// exporter/.
absl::StatusOr<std::string> SerializeProgram(const v1::Program& program);

// A checkpoint's golden: the same form of file, under the same limits, validated against the program that it
// must be of (ValidateCheckpointGolden). Whether it is of the weights at hand is for the caller, who knows
// their digest. Errors as ParseProgram's; INVALID_ARGUMENT names both digests where it is of another program.
absl::StatusOr<v1::CheckpointGolden> ParseCheckpointGolden(absl::string_view file_bytes,
                                                           const v1::Program& program,
                                                           absl::string_view program_digest,
                                                           const ProgramLimits& limits = {});

// The file form of a checkpoint's golden. For tests and tools.
absl::StatusOr<std::string> SerializeCheckpointGolden(const v1::CheckpointGolden& golden);

}  // namespace assay::engine
