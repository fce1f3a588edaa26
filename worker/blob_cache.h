// A bounded folder of blobs, each in a file named by its digest.
//
// What it hands out has been checked against its digest in this process: on its way in, or when a file of an
// earlier process is used for the first time. A file that is damaged or gone is fetched again.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"

namespace assay::worker {

class BlobCache;

// A blob in use: its file stays where it is while this lives. Movable; a moved-from Blob holds nothing.
class Blob {
 public:
  Blob() = default;
  Blob(Blob&& other) noexcept;
  Blob& operator=(Blob&& other) noexcept;
  ~Blob();

  const std::string& digest() const { return digest_; }
  std::filesystem::path path() const;
  // NOT_FOUND where somebody else took the file away.
  absl::StatusOr<std::string> Read() const;

 private:
  friend class BlobCache;
  Blob(BlobCache* cache, std::string digest) : cache_(cache), digest_(std::move(digest)) {}
  BlobCache* cache_ = nullptr;
  std::string digest_;
};

// Takes blobs that arrive in pieces, one after the other.
class BlobReceiver {
 public:
  virtual ~BlobReceiver() = default;
  // The next blob. INVALID_ARGUMENT: not asked for. RESOURCE_EXHAUSTED: larger than the whole cache.
  virtual absl::Status Begin(absl::string_view digest, uint64_t size) = 0;
  // A piece of the blob begun last. DATA_LOSS: longer than announced, or it is whole and its digest is wrong.
  virtual absl::Status Append(absl::string_view piece) = 0;
};

// Asks for blobs and gives what comes to the receiver; ends with the receiver's error, if it has one.
using FetchBlobs =
    std::function<absl::Status(const std::vector<std::string>& digests, BlobReceiver& receiver)>;

// Thread-safe. Must outlive its Blobs.
class BlobCache {
 public:
  // Makes the folder if need be, and takes over what an earlier process left in it.
  static absl::StatusOr<std::unique_ptr<BlobCache>> Open(std::filesystem::path folder, uint64_t budget_bytes,
                                                         FetchBlobs fetch);

  // The blobs of `digests`, in their order. Those that are missing are asked for in one call; a blob that
  // another thread is fetching is waited for. Never evicts a blob in use, so that the folder may exceed its
  // budget by what is in use.
  //   INVALID_ARGUMENT  something is no digest.
  //   DATA_LOSS         what was sent is not what its digest names, or not all of it came.
  //   else              the error of FetchBlobs or of the disk.
  absl::StatusOr<std::vector<Blob>> Get(const std::vector<std::string>& digests);

  uint64_t bytes() const;

 private:
  friend class Blob;
  class Incoming;

  enum class State { kOnDisk /* not checked yet */, kBusy /* one thread checks or fetches it */, kReady };
  struct Entry {
    State state = State::kBusy;
    uint64_t size = 0;      // of the file; 0 while fetching
    uint64_t last_use = 0;  // larger is later
    uint32_t users = 0;
  };

  BlobCache(std::filesystem::path folder, uint64_t budget_bytes, FetchBlobs fetch)
      : folder_(std::move(folder)), budget_bytes_(budget_bytes), fetch_(std::move(fetch)) {}

  absl::Status TakeOver();
  // Makes the blobs of `busy`, which are kBusy for this thread, kReady, or forgets them.
  absl::Status Settle(const std::vector<std::string>& busy);
  bool FileIsIntact(const std::string& digest) const;
  void Forget(const std::string& digest);
  void MarkReady(const std::string& digest, uint64_t size);
  void Release(const std::string& digest);
  void Evict() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const std::filesystem::path folder_;
  const uint64_t budget_bytes_;
  const FetchBlobs fetch_;

  mutable absl::Mutex mutex_;
  std::unordered_map<std::string, Entry> entries_ ABSL_GUARDED_BY(mutex_);
  uint64_t bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t clock_ ABSL_GUARDED_BY(mutex_) = 0;  // counts uses
};

}  // namespace assay::worker
