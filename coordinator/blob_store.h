// Content by digest (SHA-256, lower-case hex): a folder, or memory. What is written once never changes.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace assay::coordinator {

// Larger blobs are refused, in bytes.
inline constexpr uint64_t kMaxBlobBytes = uint64_t{64} << 20;

// A blob on its way in. Dropped without Finish, it leaves nothing behind. Not thread-safe.
class BlobSink {
 public:
  virtual ~BlobSink() = default;
  // INVALID_ARGUMENT: more than was announced.
  virtual absl::Status Append(absl::string_view chunk) = 0;
  // Stores the blob, durably where the store is durable. INVALID_ARGUMENT: not the digest or the size that
  // was announced; nothing is stored.
  virtual absl::Status Finish() = 0;
};

// A blob to read. Thread-safe.
class BlobSource {
 public:
  virtual ~BlobSource() = default;
  virtual uint64_t size() const = 0;
  // At most `size` bytes from `offset`; fewer only at the end.
  virtual absl::StatusOr<std::string> Read(uint64_t offset, size_t size) const = 0;
};

// Thread-safe.
class BlobStore {
 public:
  virtual ~BlobStore() = default;
  // INVALID_ARGUMENT: not a digest. RESOURCE_EXHAUSTED: larger than kMaxBlobBytes.
  virtual absl::StatusOr<std::unique_ptr<BlobSink>> Create(absl::string_view digest, uint64_t size) = 0;
  // INVALID_ARGUMENT: not a digest. NOT_FOUND.
  virtual absl::StatusOr<std::shared_ptr<const BlobSource>> Open(absl::string_view digest) const = 0;
};

// dir/ab/cd/abcd…; unfinished ones in dir/incoming, which is emptied at start.
absl::StatusOr<std::unique_ptr<BlobStore>> OpenFolderBlobStore(const std::filesystem::path& dir);
std::unique_ptr<BlobStore> NewMemoryBlobStore();

// A blob that is these bytes.
std::shared_ptr<const BlobSource> NewMemoryBlob(std::shared_ptr<const std::string> bytes);

}  // namespace assay::coordinator
