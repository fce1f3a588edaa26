// Content by digest (SHA-256, lower-case hex): a folder, or memory. What is written once never changes. Some
// of it is known under keys as well, which are digests of what it was made from.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace assay::coordinator {

// Larger blobs are refused, in bytes: the weights of a checkpoint that was converted are the largest. They go
// to and from a folder in pieces; a store in memory takes less.
inline constexpr uint64_t kMaxBlobBytes = uint64_t{8} << 30;
inline constexpr uint64_t kMaxMemoryBlobBytes = uint64_t{1} << 30;

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

struct SweptBlobs {
  size_t blobs = 0;
  uint64_t bytes = 0;
};

// Thread-safe.
class BlobStore {
 public:
  virtual ~BlobStore() = default;
  // INVALID_ARGUMENT: not a digest. RESOURCE_EXHAUSTED: larger than the store takes.
  virtual absl::StatusOr<std::unique_ptr<BlobSink>> Create(absl::string_view digest, uint64_t size) = 0;
  // INVALID_ARGUMENT: not a digest. NOT_FOUND.
  virtual absl::StatusOr<std::shared_ptr<const BlobSource>> Open(absl::string_view digest) const = 0;

  // Makes a stored blob known under the key too, and gives the digest of the key's blob: the first one stays,
  // until it is gone. Durable when it returns, where the store is. INVALID_ARGUMENT: a key that is no digest.
  // NOT_FOUND: no such blob.
  virtual absl::StatusOr<std::string> Bind(absl::string_view key, absl::string_view digest) = 0;
  // The digest of the key's blob; unset where the key is unknown or its blob is gone. INVALID_ARGUMENT: a key
  // that is no digest.
  virtual absl::StatusOr<std::optional<std::string>> Lookup(absl::string_view key) const = 0;

  // Drops the blobs that `keep` does not keep and that were neither stored nor looked up by a key for
  // `untouched`, which is at least kLeastUntouched: whoever was told of one has that long to name it. Also
  // what is left of uploads that nobody went on with for as long. Others may use the store meanwhile.
  virtual absl::StatusOr<SweptBlobs> Sweep(absl::Duration untouched,
                                           const std::function<bool(const std::string& digest)>& keep) = 0;
};

// By so much what says when a blob was last touched may be behind.
inline constexpr absl::Duration kTouchedWithin = absl::Hours(1);
inline constexpr absl::Duration kLeastUntouched = absl::Hours(2);

// dir/ab/cd/abcd…; keys as files of a digest each in dir/keys/ab/abcd…; unfinished ones in dir/incoming,
// which is emptied at start. `shared`: several coordinators use the folder, whose file system has flock(2),
// and only what is old is taken from dir/incoming.
absl::StatusOr<std::unique_ptr<BlobStore>> OpenFolderBlobStore(const std::filesystem::path& dir,
                                                               bool shared = false);
std::unique_ptr<BlobStore> NewMemoryBlobStore();

// A blob that is these bytes.
std::shared_ptr<const BlobSource> NewMemoryBlob(std::shared_ptr<const std::string> bytes);

}  // namespace assay::coordinator
