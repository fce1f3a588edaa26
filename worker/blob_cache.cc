#include "worker/blob_cache.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <optional>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/digest.h"
#include "common/file.h"
#include "common/logging.h"
#include "common/status_macros.h"
#include "worker/subprocess.h"

namespace assay::worker {

Blob::Blob(Blob&& other) noexcept
    : cache_(std::exchange(other.cache_, nullptr)), digest_(std::move(other.digest_)) {}

Blob& Blob::operator=(Blob&& other) noexcept {
  if (this != &other) {
    if (cache_ != nullptr) cache_->Release(digest_);
    cache_ = std::exchange(other.cache_, nullptr);
    digest_ = std::move(other.digest_);
  }
  return *this;
}

Blob::~Blob() {
  if (cache_ != nullptr) cache_->Release(digest_);
}

std::filesystem::path Blob::path() const { return cache_->folder_ / digest_; }

absl::StatusOr<std::string> Blob::Read() const { return ReadFile(path()); }

// Writes each blob beside its place and renames it when its digest is right.
class BlobCache::Incoming final : public BlobReceiver {
 public:
  Incoming(BlobCache& cache, const std::vector<std::string>& wanted)
      : cache_(cache), wanted_(wanted.begin(), wanted.end()) {}
  ~Incoming() override { Discard(); }

  absl::Status Begin(absl::string_view digest, uint64_t size) override {
    if (hash_.has_value()) {
      return absl::DataLossError(absl::StrCat("blob ", digest_, " stops short by ", left_, " bytes"));
    }
    if (wanted_.erase(std::string(digest)) == 0) {
      return absl::InvalidArgumentError(absl::StrCat("blob ", digest, " was not asked for"));
    }
    if (size > cache_.budget_bytes_) {
      return absl::ResourceExhaustedError(
          absl::StrCat("blob ", digest, " has ", size, " bytes; the cache holds ", cache_.budget_bytes_));
    }
    digest_ = std::string(digest);
    size_ = left_ = size;
    part_ = cache_.folder_ / absl::StrCat(".", digest_, ".part");
    file_ = Fd(::open(part_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0444));
    if (!file_.open()) return absl::ErrnoToStatus(errno, absl::StrCat("cannot write ", part_.string()));
    hash_.emplace();
    return left_ == 0 ? Finish() : absl::OkStatus();
  }

  absl::Status Append(absl::string_view piece) override {
    if (piece.empty()) return absl::OkStatus();
    if (!hash_.has_value() || piece.size() > left_) {
      return absl::DataLossError(absl::StrCat("blob ", digest_, " is longer than announced"));
    }
    hash_->Update(piece);
    left_ -= piece.size();
    while (!piece.empty()) {
      const ssize_t wrote = ::write(file_.get(), piece.data(), piece.size());
      if (wrote < 0 && errno == EINTR) continue;
      if (wrote < 0) return absl::ErrnoToStatus(errno, absl::StrCat("cannot write ", part_.string()));
      piece.remove_prefix(static_cast<size_t>(wrote));
    }
    return left_ == 0 ? Finish() : absl::OkStatus();
  }

  // True where the blob came whole, and is ready.
  bool Delivered(const std::string& digest) const { return delivered_.count(digest) > 0; }

 private:
  absl::Status Finish() {
    const std::string got = hash_->FinishHex();
    hash_.reset();
    file_.Close();
    if (got != digest_) {
      ::unlink(part_.c_str());
      return absl::DataLossError(absl::StrCat("blob ", digest_, " arrived with the digest ", got));
    }
    if (::rename(part_.c_str(), (cache_.folder_ / digest_).c_str()) != 0) {
      return absl::ErrnoToStatus(errno, absl::StrCat("cannot write blob ", digest_));
    }
    delivered_.insert(digest_);
    cache_.MarkReady(digest_, size_);
    return absl::OkStatus();
  }

  void Discard() {
    if (file_.open()) ::unlink(part_.c_str());
  }

  BlobCache& cache_;
  std::set<std::string> wanted_, delivered_;
  std::string digest_;
  std::filesystem::path part_;
  uint64_t size_ = 0, left_ = 0;
  Fd file_;
  std::optional<Sha256> hash_;  // set while a blob is on its way
};

absl::StatusOr<std::unique_ptr<BlobCache>> BlobCache::Open(std::filesystem::path folder,
                                                           uint64_t budget_bytes, FetchBlobs fetch) {
  std::unique_ptr<BlobCache> cache(new BlobCache(std::move(folder), budget_bytes, std::move(fetch)));
  ASSAY_RETURN_IF_ERROR(cache->TakeOver());
  return cache;
}

absl::Status BlobCache::TakeOver() {
  std::error_code error;
  std::filesystem::create_directories(folder_, error);
  if (error) {
    return absl::ErrnoToStatus(error.value(), absl::StrCat("cannot make the blob cache ", folder_.string()));
  }
  struct Found {
    timespec used;
    std::string name;
    uint64_t size;
  };
  std::vector<Found> found;
  for (const auto& file : std::filesystem::directory_iterator(folder_, error)) {
    const std::string name = file.path().filename().string();
    struct stat info {};
    if (::lstat(file.path().c_str(), &info) != 0 || !S_ISREG(info.st_mode)) continue;
    if (IsDigest(name)) {
      found.push_back({info.st_mtim, name, static_cast<uint64_t>(info.st_size)});
    } else if (name.size() > 5 && name.ends_with(".part")) {
      ::unlink(file.path().c_str());  // of a process that was killed
    }
  }
  if (error) {
    return absl::ErrnoToStatus(error.value(), absl::StrCat("cannot read the blob cache ", folder_.string()));
  }
  std::sort(found.begin(), found.end(), [](const Found& a, const Found& b) {
    return std::pair(a.used.tv_sec, a.used.tv_nsec) < std::pair(b.used.tv_sec, b.used.tv_nsec);
  });
  absl::MutexLock lock(&mutex_);
  for (const Found& file : found) {
    entries_[file.name] = Entry{State::kOnDisk, file.size, ++clock_, 0};
    bytes_ += file.size;
  }
  Evict();
  return absl::OkStatus();
}

absl::StatusOr<std::vector<Blob>> BlobCache::Get(const std::vector<std::string>& digests) {
  for (const std::string& digest : digests) {
    if (!IsDigest(digest)) return absl::InvalidArgumentError(absl::StrCat("'", digest, "' is no digest"));
  }
  std::vector<Blob> blobs(digests.size());
  while (true) {
    // Everything that is this thread's to fetch is settled before it waits for others: no two threads can
    // wait for each other.
    std::vector<std::string> mine;
    std::string others;
    {
      absl::MutexLock lock(&mutex_);
      for (size_t i = 0; i < digests.size(); ++i) {
        if (blobs[i].cache_ != nullptr) continue;
        auto [at, added] = entries_.try_emplace(digests[i]);
        Entry& entry = at->second;
        // The stat is cheap, and a file that was taken away is found here instead of in the test.
        struct stat info {};
        if (!added && entry.state == State::kReady && entry.users == 0 &&
            (::stat((folder_ / digests[i]).c_str(), &info) != 0 ||
             static_cast<uint64_t>(info.st_size) != entry.size)) {
          entry.state = State::kOnDisk;
        }
        if (added || entry.state == State::kOnDisk) {
          entry.state = State::kBusy;
          mine.push_back(digests[i]);
        } else if (entry.state == State::kReady) {
          ++entry.users;
          entry.last_use = ++clock_;
          blobs[i] = Blob(this, digests[i]);
        } else if (std::find(mine.begin(), mine.end(), digests[i]) == mine.end()) {
          others = digests[i];
        }
      }
      if (mine.empty()) {
        if (others.empty()) return blobs;
        auto settled = [this, &others]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
          auto at = entries_.find(others);
          return at == entries_.end() || at->second.state != State::kBusy;
        };
        mutex_.Await(absl::Condition(&settled));
        continue;
      }
    }
    ASSAY_RETURN_IF_ERROR(Settle(mine));
  }
}

absl::Status BlobCache::Settle(const std::vector<std::string>& busy) {
  std::vector<std::string> wanted;
  for (const std::string& digest : busy) {
    struct stat info {};
    if (::stat((folder_ / digest).c_str(), &info) == 0) {
      if (FileIsIntact(digest)) {
        ::utimensat(AT_FDCWD, (folder_ / digest).c_str(), nullptr, 0);  // for the order after a restart
        MarkReady(digest, static_cast<uint64_t>(info.st_size));
        continue;
      }
      spdlog::warn("blob {} is damaged on disk; it is fetched again", digest);
    }
    wanted.push_back(digest);
  }
  if (wanted.empty()) return absl::OkStatus();
  Incoming incoming(*this, wanted);
  absl::Status status = fetch_(wanted, incoming);
  for (const std::string& digest : wanted) {
    if (incoming.Delivered(digest)) continue;
    Forget(digest);
    if (status.ok()) status = absl::DataLossError(absl::StrCat("blob ", digest, " did not arrive whole"));
  }
  return status;
}

bool BlobCache::FileIsIntact(const std::string& digest) const {
  const Fd file(::open((folder_ / digest).c_str(), O_RDONLY | O_CLOEXEC));
  if (!file.open()) return false;
  Sha256 hash;
  char buffer[65536];
  ssize_t got;
  while ((got = ::read(file.get(), buffer, sizeof(buffer))) > 0 || (got < 0 && errno == EINTR)) {
    if (got > 0) hash.Update(absl::string_view(buffer, static_cast<size_t>(got)));
  }
  return got == 0 && hash.FinishHex() == digest;
}

void BlobCache::Forget(const std::string& digest) {
  absl::MutexLock lock(&mutex_);
  auto at = entries_.find(digest);
  if (at == entries_.end() || at->second.state != State::kBusy) return;
  bytes_ -= at->second.size;
  ::unlink((folder_ / digest).c_str());
  entries_.erase(at);
}

void BlobCache::MarkReady(const std::string& digest, uint64_t size) {
  absl::MutexLock lock(&mutex_);
  Entry& entry = entries_[digest];
  bytes_ = bytes_ - entry.size + size;
  entry.size = size;
  entry.state = State::kReady;
  entry.last_use = ++clock_;
  Evict();
}

void BlobCache::Release(const std::string& digest) {
  absl::MutexLock lock(&mutex_);
  --entries_.at(digest).users;
  Evict();
}

void BlobCache::Evict() {
  while (bytes_ > budget_bytes_) {
    auto oldest = entries_.end();
    for (auto at = entries_.begin(); at != entries_.end(); ++at) {
      // The newest is what somebody is about to use.
      if (at->second.users > 0 || at->second.state == State::kBusy || at->second.last_use == clock_) continue;
      if (oldest == entries_.end() || at->second.last_use < oldest->second.last_use) oldest = at;
    }
    if (oldest == entries_.end()) return;
    ::unlink((folder_ / oldest->first).c_str());
    bytes_ -= oldest->second.size;
    entries_.erase(oldest);
  }
}

uint64_t BlobCache::bytes() const {
  absl::MutexLock lock(&mutex_);
  return bytes_;
}

}  // namespace assay::worker
