// Folders that go with what they were made for, and files read where they lie.
#pragma once

#include <cstddef>
#include <filesystem>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

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

// A file mapped, read-only; the file must not shrink while this lives. Links are not followed.
class MappedContent {
 public:
  static absl::StatusOr<MappedContent> Open(const std::filesystem::path& path);
  MappedContent(MappedContent&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  MappedContent& operator=(MappedContent&&) = delete;
  ~MappedContent();
  absl::string_view content() const { return absl::string_view(static_cast<const char*>(data_), size_); }

 private:
  MappedContent() = default;
  void* data_ = nullptr;
  size_t size_ = 0;
};

// SHA-256 of a file, or of what a link leads to.
absl::StatusOr<std::string> FileDigest(const std::filesystem::path& path);

}  // namespace assay::worker
