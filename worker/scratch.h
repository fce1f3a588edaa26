// Folders that go with what they were made for.
#pragma once

#include <filesystem>
#include <utility>

#include "absl/status/statusor.h"

namespace assay::worker {

// A folder of its own that goes with the object.
class ScratchFolder {
 public:
  static absl::StatusOr<ScratchFolder> Make(const std::filesystem::path& parent);
  ScratchFolder() = default;
  ScratchFolder(ScratchFolder&& other) noexcept : path_(std::exchange(other.path_, {})) {}
  ScratchFolder& operator=(ScratchFolder&& other) noexcept;
  ~ScratchFolder();
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

}  // namespace assay::worker
