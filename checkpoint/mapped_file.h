// Files of a checkpoint folder, in memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace assay::checkpoint {

// Where a file of a folder really is. INVALID_ARGUMENT: a link out of the folder that is not a Hugging Face
// cache's own (from models--*/snapshots/* into models--*/blobs/). NOT_FOUND: no such file.
absl::StatusOr<std::filesystem::path> ResolveInside(const std::filesystem::path& folder,
                                                    const std::string& name);

// A file in memory, read-only; unmapped with the last reference. If the file is cut short meanwhile, reading
// what is gone raises SIGBUS.
class MappedFile {
 public:
  // Not through a link: who follows links has resolved them. NOT_FOUND, INVALID_ARGUMENT (no regular file) or
  // what the system says; the message names the path.
  static absl::StatusOr<std::shared_ptr<const MappedFile>> Open(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  absl::Span<const uint8_t> bytes() const { return {start_, size_}; }
  absl::string_view text() const { return {reinterpret_cast<const char*>(start_), size_}; }

 private:
  MappedFile(const uint8_t* start, size_t size) : start_(start), size_(size) {}
  const uint8_t* start_;
  size_t size_;
};

}  // namespace assay::checkpoint
