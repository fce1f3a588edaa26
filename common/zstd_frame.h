// Files of exactly one zstd frame (RFC 8878), with content size and checksum, from bytes that nobody vouches
// for: programs and goldens. Pure, safe from any thread.
#pragma once

#include <cstddef>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace assay {

// What a file may cost before anything of it is believed.
struct FrameLimits {
  size_t max_file_bytes = size_t{256} << 20;
  size_t max_content_bytes = size_t{512} << 20;
  // Content beyond free_content_bytes may be at most max_ratio times the file: masks and tables of constants
  // compress very well, but a small file must not become gigabytes.
  size_t free_content_bytes = size_t{16} << 20;
  size_t max_ratio = 400;
};

// The content. `kind` is what the file should be, for messages: "program", "golden". Sizes are checked before
// memory is taken for them. INVALID_ARGUMENT: not one whole frame of that form; RESOURCE_EXHAUSTED: beyond
// the limits.
absl::StatusOr<std::string> DecompressFrame(absl::string_view kind, absl::string_view file,
                                            const FrameLimits& limits = {});

// Such a file.
absl::StatusOr<std::string> CompressFrame(absl::string_view content);

}  // namespace assay
