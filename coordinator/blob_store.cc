#include "coordinator/blob_store.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <map>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "common/file.h"
#include "common/id.h"
#include "common/status_macros.h"
#include "coordinator/blob_checks.h"

namespace assay::coordinator {
namespace {

namespace fs = std::filesystem;

absl::Status SystemError(absl::string_view what, const fs::path& path) {
  return absl::UnavailableError(absl::StrCat(what, " ", path.string(), ": ", std::strerror(errno)));
}

// So that a name in the folder lasts as long as what mentions it.
absl::Status SyncFolder(const fs::path& path) {
  const int folder = open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (folder < 0) return SystemError("opening", path);
  const int synced = fsync(folder);
  close(folder);
  return synced == 0 ? absl::OkStatus() : SystemError("syncing", path);
}

absl::Status MakeFolder(const fs::path& path) {
  std::error_code error;
  fs::create_directories(path, error);
  return error ? absl::UnavailableError(absl::StrCat(path.string(), ": ", error.message()))
               : absl::OkStatus();
}

// When a file was last touched; InfiniteFuture where it is not there.
absl::Time TouchedAt(const fs::path& path) {
  struct stat found;
  if (stat(path.c_str(), &found) != 0) return absl::InfiniteFuture();
  return absl::TimeFromTimespec(found.st_mtim);
}

void RemoveOlder(const fs::path& dir, absl::Time before) {
  std::error_code error;
  for (const fs::directory_entry& entry : fs::directory_iterator(dir, error)) {
    if (TouchedAt(entry.path()) < before) fs::remove(entry.path(), error);
  }
}

class FileSource final : public BlobSource {
 public:
  FileSource(int fd, uint64_t size) : fd_(fd), size_(size) {}
  ~FileSource() override { close(fd_); }
  uint64_t size() const override { return size_; }
  absl::StatusOr<std::string> Read(uint64_t offset, size_t size) const override {
    std::string bytes(std::min<uint64_t>(size, size_ - std::min(offset, size_)), '\0');
    size_t have = 0;
    while (have < bytes.size()) {
      const ssize_t got =
          pread(fd_, bytes.data() + have, bytes.size() - have, static_cast<off_t>(offset + have));
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) return absl::UnavailableError(absl::StrCat("reading a blob: ", std::strerror(errno)));
      if (got == 0) return absl::DataLossError("a blob's file became shorter");
      have += static_cast<size_t>(got);
    }
    return bytes;
  }

 private:
  const int fd_;
  const uint64_t size_;
};

class FileSink final : public BlobSink {
 public:
  FileSink(int fd, fs::path incoming, fs::path final_path, absl::string_view digest, uint64_t size)
      : fd_(fd), incoming_(std::move(incoming)), final_(std::move(final_path)), announced_(digest, size) {}
  ~FileSink() override {
    if (fd_ >= 0) close(fd_);
    if (!renamed_) unlink(incoming_.c_str());
  }
  absl::Status Append(absl::string_view chunk) override {
    ASSAY_RETURN_IF_ERROR(announced_.Append(chunk));
    while (!chunk.empty()) {
      const ssize_t wrote = write(fd_, chunk.data(), chunk.size());
      if (wrote < 0 && errno == EINTR) continue;
      if (wrote < 0) return SystemError("writing", incoming_);
      chunk.remove_prefix(static_cast<size_t>(wrote));
    }
    return absl::OkStatus();
  }
  absl::Status Finish() override {
    ASSAY_RETURN_IF_ERROR(announced_.Finish());
    if (fsync(fd_) != 0) return SystemError("syncing", incoming_);
    ASSAY_RETURN_IF_ERROR(MakeFolder(final_.parent_path()));
    if (rename(incoming_.c_str(), final_.c_str()) != 0) return SystemError("renaming", incoming_);
    renamed_ = true;
    return SyncFolder(final_.parent_path());
  }

 private:
  int fd_;
  const fs::path incoming_;
  const fs::path final_;
  Announced announced_;
  bool renamed_ = false;
};

class FolderBlobStore final : public BlobStore {
 public:
  explicit FolderBlobStore(fs::path dir) : dir_(std::move(dir)) {}

  absl::StatusOr<std::unique_ptr<BlobSink>> Create(absl::string_view digest, uint64_t size) override {
    ASSAY_RETURN_IF_ERROR(CheckAnnounced(digest, size, kMaxBlobBytes));
    fs::path incoming = dir_ / "incoming" / NewUuid();
    const int fd = open(incoming.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0640);
    if (fd < 0) return SystemError("creating", incoming);
    return std::make_unique<FileSink>(fd, std::move(incoming), PathOf(digest), digest, size);
  }

  absl::StatusOr<std::shared_ptr<const BlobSource>> Open(absl::string_view digest) const override {
    ASSAY_RETURN_IF_ERROR(CheckDigest(digest));
    const fs::path path = PathOf(digest);
    const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (fd < 0 && errno == ENOENT) return NoBlob(digest);
    if (fd < 0) return SystemError("opening", path);
    const off_t size = lseek(fd, 0, SEEK_END);
    return std::make_shared<FileSource>(fd, static_cast<uint64_t>(std::max<off_t>(0, size)));
  }

  absl::StatusOr<std::string> Bind(absl::string_view key, absl::string_view digest) override {
    ASSAY_RETURN_IF_ERROR(CheckDigest(key));
    ASSAY_RETURN_IF_ERROR(CheckDigest(digest));
    if (!fs::exists(PathOf(digest))) return NoBlob(digest);
    // Against this process as well: the lock belongs to the opened file.
    const fs::path lock_path = dir_ / "keys.lock";
    const int lock = open(lock_path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0640);
    if (lock < 0) return SystemError("opening", lock_path);
    const absl::Cleanup unlock = [lock] { close(lock); };
    if (flock(lock, LOCK_EX) != 0) return SystemError("locking", lock_path);
    ASSAY_ASSIGN_OR_RETURN(std::optional<std::string> known, Lookup(key));
    if (known) return *std::move(known);
    ASSAY_RETURN_IF_ERROR(WriteFileAtomically(KeyPathOf(key), digest, /*durable=*/true));
    return std::string(digest);
  }

  absl::StatusOr<std::optional<std::string>> Lookup(absl::string_view key) const override {
    ASSAY_RETURN_IF_ERROR(CheckDigest(key));
    absl::StatusOr<std::string> digest = ReadFile(KeyPathOf(key));
    if (absl::IsNotFound(digest.status())) return std::nullopt;
    ASSAY_RETURN_IF_ERROR(digest.status());
    // A file that is no key (a disk's fault) is as good as none: it is written again.
    if (!IsDigest(*digest)) return std::nullopt;
    const fs::path path = PathOf(*digest);
    const absl::Time touched = TouchedAt(path);
    if (touched == absl::InfiniteFuture()) return std::nullopt;
    // Gone meanwhile, it is gone: who wants it finds out.
    if (touched < absl::Now() - kTouchedWithin) utimensat(AT_FDCWD, path.c_str(), nullptr, 0);
    return *std::move(digest);
  }

  absl::StatusOr<SweptBlobs> Sweep(absl::Duration untouched,
                                   const std::function<bool(const std::string&)>& keep) override {
    const absl::Time before = absl::Now() - std::max(untouched, kLeastUntouched);
    RemoveOlder(dir_ / "incoming", before);
    SweptBlobs swept;
    std::error_code error;
    for (const fs::directory_entry& entry : fs::recursive_directory_iterator(dir_, error)) {
      const std::string name = entry.path().filename().string();
      if (!IsDigest(name) || entry.path() != PathOf(name) || keep(name)) continue;
      if (TouchedAt(entry.path()) >= before) continue;
      // Out of the way first: whoever stores or touches it from here on does so to a file that stays, or is
      // seen to have touched this one.
      const fs::path aside = dir_ / "incoming" / NewUuid();
      if (rename(entry.path().c_str(), aside.c_str()) != 0) continue;
      if (TouchedAt(aside) >= before) {
        (void)link(aside.c_str(), entry.path().c_str());  // stored again meanwhile, it is there
      } else {
        ++swept.blobs;
        swept.bytes += fs::file_size(aside, error);
      }
      unlink(aside.c_str());
    }
    if (error) return absl::UnavailableError(absl::StrCat(dir_.string(), ": ", error.message()));
    for (const fs::directory_entry& entry : fs::recursive_directory_iterator(dir_ / "keys", error)) {
      if (!entry.is_regular_file(error) || TouchedAt(entry.path()) >= before) continue;
      absl::StatusOr<std::string> digest = ReadFile(entry.path());
      if (digest.ok() && !(IsDigest(*digest) && fs::exists(PathOf(*digest)))) unlink(entry.path().c_str());
    }
    return swept;
  }

 private:
  fs::path PathOf(absl::string_view digest) const {
    const std::string name(digest);
    return dir_ / name.substr(0, 2) / name.substr(2, 2) / name;
  }
  fs::path KeyPathOf(absl::string_view key) const {
    const std::string name(key);
    return dir_ / "keys" / name.substr(0, 2) / name;
  }
  const fs::path dir_;
};

class MemorySource final : public BlobSource {
 public:
  explicit MemorySource(std::shared_ptr<const std::string> bytes) : bytes_(std::move(bytes)) {}
  uint64_t size() const override { return bytes_->size(); }
  absl::StatusOr<std::string> Read(uint64_t offset, size_t size) const override {
    return bytes_->substr(std::min<uint64_t>(offset, bytes_->size()), size);
  }

 private:
  const std::shared_ptr<const std::string> bytes_;
};

class MemoryBlobStore final : public BlobStore {
 public:
  absl::StatusOr<std::unique_ptr<BlobSink>> Create(absl::string_view digest, uint64_t size) override {
    ASSAY_RETURN_IF_ERROR(CheckAnnounced(digest, size, kMaxMemoryBlobBytes));
    return std::make_unique<Sink>(*this, digest, size);
  }
  absl::StatusOr<std::shared_ptr<const BlobSource>> Open(absl::string_view digest) const override {
    ASSAY_RETURN_IF_ERROR(CheckDigest(digest));
    absl::MutexLock lock(&mutex_);
    auto found = blobs_.find(std::string(digest));
    if (found == blobs_.end()) return NoBlob(digest);
    return NewMemoryBlob(found->second);
  }
  absl::StatusOr<std::string> Bind(absl::string_view key, absl::string_view digest) override {
    ASSAY_RETURN_IF_ERROR(CheckDigest(key));
    ASSAY_RETURN_IF_ERROR(CheckDigest(digest));
    absl::MutexLock lock(&mutex_);
    if (blobs_.count(std::string(digest)) == 0) return NoBlob(digest);
    return keys_.try_emplace(std::string(key), digest).first->second;
  }
  absl::StatusOr<std::optional<std::string>> Lookup(absl::string_view key) const override {
    ASSAY_RETURN_IF_ERROR(CheckDigest(key));
    absl::MutexLock lock(&mutex_);
    auto found = keys_.find(std::string(key));
    if (found == keys_.end()) return std::nullopt;
    touched_[found->second] = absl::Now();
    return found->second;
  }
  absl::StatusOr<SweptBlobs> Sweep(absl::Duration untouched,
                                   const std::function<bool(const std::string&)>& keep) override {
    const absl::Time before = absl::Now() - std::max(untouched, kLeastUntouched);
    absl::MutexLock lock(&mutex_);
    SweptBlobs swept;
    for (auto blob = blobs_.begin(); blob != blobs_.end();) {
      if (touched_[blob->first] >= before || keep(blob->first)) {
        ++blob;
        continue;
      }
      ++swept.blobs;
      swept.bytes += blob->second->size();
      touched_.erase(blob->first);
      blob = blobs_.erase(blob);
    }
    for (auto key = keys_.begin(); key != keys_.end();) {
      key = blobs_.count(key->second) == 0 ? keys_.erase(key) : std::next(key);
    }
    return swept;
  }

 private:
  class Sink final : public BlobSink {
   public:
    Sink(MemoryBlobStore& store, absl::string_view digest, uint64_t size)
        : store_(store), announced_(digest, size) {}
    absl::Status Append(absl::string_view chunk) override {
      ASSAY_RETURN_IF_ERROR(announced_.Append(chunk));
      absl::StrAppend(&bytes_, chunk);
      return absl::OkStatus();
    }
    absl::Status Finish() override {
      ASSAY_RETURN_IF_ERROR(announced_.Finish());
      absl::MutexLock lock(&store_.mutex_);
      store_.touched_[announced_.digest()] = absl::Now();
      store_.blobs_[announced_.digest()] = std::make_shared<const std::string>(std::move(bytes_));
      return absl::OkStatus();
    }

   private:
    MemoryBlobStore& store_;
    Announced announced_;
    std::string bytes_;
  };

  mutable absl::Mutex mutex_;
  std::map<std::string, std::shared_ptr<const std::string>> blobs_ ABSL_GUARDED_BY(mutex_);
  mutable std::map<std::string, absl::Time> touched_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, std::string> keys_ ABSL_GUARDED_BY(mutex_);  // a key's digest
};

}  // namespace

absl::StatusOr<std::unique_ptr<BlobStore>> OpenFolderBlobStore(const fs::path& dir, bool shared) {
  std::error_code error;
  if (shared) {
    RemoveOlder(dir / "incoming", absl::Now() - kLeastUntouched);
  } else {
    fs::remove_all(dir / "incoming", error);
  }
  ASSAY_RETURN_IF_ERROR(MakeFolder(dir / "incoming"));
  return std::make_unique<FolderBlobStore>(dir);
}

std::unique_ptr<BlobStore> NewMemoryBlobStore() { return std::make_unique<MemoryBlobStore>(); }

std::shared_ptr<const BlobSource> NewMemoryBlob(std::shared_ptr<const std::string> bytes) {
  return std::make_shared<MemorySource>(std::move(bytes));
}

}  // namespace assay::coordinator
