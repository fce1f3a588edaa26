// Programs from bytes that nobody vouches for. No LibTorch here. All functions are pure and thread-safe.
#pragma once

#include <filesystem>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "assay/v1/program.pb.h"
#include "common/zstd_frame.h"

namespace assay::engine {

// Decompresses, parses and validates. A file is one zstd frame (common/zstd_frame.h).
// INVALID_ARGUMENT names what is wrong and where (node and operator, weight, constant, golden entry);
// UNIMPLEMENTED: a format number that this build does not know; RESOURCE_EXHAUSTED: beyond the limits.
absl::StatusOr<v1::Program> ParseProgram(absl::string_view file_bytes, const FrameLimits& limits = {});

// ParseProgram of a file; errors name the path.
absl::StatusOr<v1::Program> ReadProgram(const std::filesystem::path& path, const FrameLimits& limits = {});

// The file form of a program: what ParseProgram reads. For tests and tools; programs are written by
// exporter/.
absl::StatusOr<std::string> SerializeProgram(const v1::Program& program);

// A checkpoint's golden: the same form of file, under the same limits, validated against the program that it
// must be of (ValidateCheckpointGolden). Whether it is of the weights at hand is for the caller, who knows
// their digest. Errors as ParseProgram's; INVALID_ARGUMENT names both digests where it is of another program.
absl::StatusOr<v1::CheckpointGolden> ParseCheckpointGolden(absl::string_view file_bytes,
                                                           const v1::Program& program,
                                                           absl::string_view program_digest,
                                                           const FrameLimits& limits = {});

// The file form of a checkpoint's golden. For tests and tools.
absl::StatusOr<std::string> SerializeCheckpointGolden(const v1::CheckpointGolden& golden);

}  // namespace assay::engine
