#include "hub/content_hash.h"

#include <fcntl.h>
#include <openssl/evp.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <map>
#include <tuple>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/cleanup/cleanup.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"

namespace assay::hub {
namespace {

// What changes when a file's content does. The kind of hash is part of it.
using Identity = std::tuple<dev_t, ino_t, off_t, int64_t, int64_t, size_t>;

Identity IdentityOf(const struct stat& stat, size_t digits) {
  constexpr int64_t kNanoseconds = 1'000'000'000;
  return {stat.st_dev,
          stat.st_ino,
          stat.st_size,
          stat.st_mtim.tv_sec * kNanoseconds + stat.st_mtim.tv_nsec,
          stat.st_ctim.tv_sec * kNanoseconds + stat.st_ctim.tv_nsec,
          digits};
}

struct Memory {
  absl::Mutex mutex;
  std::map<Identity, std::string> hashes ABSL_GUARDED_BY(mutex);
};
Memory& TheMemory() {
  static Memory* memory = new Memory;
  return *memory;
}

void Remember(const Identity& identity, absl::string_view hash) {
  Memory& memory = TheMemory();
  absl::MutexLock lock(&memory.mutex);
  if (memory.hashes.size() > 100'000) memory.hashes.clear();  // costs reading again, no more
  memory.hashes[identity] = std::string(hash);
}

}  // namespace

struct ContentHash::Context {
  EVP_MD_CTX* evp = EVP_MD_CTX_new();
  ~Context() { EVP_MD_CTX_free(evp); }
};

ContentHash::ContentHash(absl::string_view expected, uint64_t size) : context_(new Context) {
  const bool git = IsGitSha1(expected);
  EVP_DigestInit_ex(context_->evp, git ? EVP_sha1() : EVP_sha256(), nullptr);
  if (git) {
    std::string header = absl::StrCat("blob ", size);
    header.push_back('\0');
    Update(header);
  }
}
ContentHash::~ContentHash() = default;

void ContentHash::Update(absl::string_view piece) {
  EVP_DigestUpdate(context_->evp, piece.data(), piece.size());
}

std::string ContentHash::FinishHex() {
  std::array<unsigned char, EVP_MAX_MD_SIZE> bytes;
  unsigned int size = 0;
  EVP_DigestFinal_ex(context_->evp, bytes.data(), &size);
  return absl::BytesToHexString(absl::string_view(reinterpret_cast<const char*>(bytes.data()), size));
}

absl::StatusOr<std::string> HashOfFile(const std::filesystem::path& path, absl::string_view expected,
                                       const std::function<bool()>& cancelled) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return absl::ErrnoToStatus(errno, absl::StrCat("cannot read ", path.string()));
  absl::Cleanup close = [fd] { ::close(fd); };
  struct stat before;
  if (::fstat(fd, &before) != 0) return absl::ErrnoToStatus(errno, path.string());
  if (!S_ISREG(before.st_mode))
    return absl::FailedPreconditionError(absl::StrCat(path.string(), " is no regular file"));
  const Identity identity = IdentityOf(before, expected.size());
  {
    Memory& memory = TheMemory();
    absl::MutexLock lock(&memory.mutex);
    if (const auto found = memory.hashes.find(identity); found != memory.hashes.end()) return found->second;
  }
  ContentHash hash(expected, static_cast<uint64_t>(before.st_size));
  std::vector<char> buffer(size_t{4} << 20);
  while (true) {
    if (cancelled && cancelled()) return absl::CancelledError("hashing was cancelled");
    const ssize_t got = ::read(fd, buffer.data(), buffer.size());
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return absl::ErrnoToStatus(errno, absl::StrCat("cannot read ", path.string()));
    if (got == 0) break;
    hash.Update(absl::string_view(buffer.data(), static_cast<size_t>(got)));
  }
  std::string hex = hash.FinishHex();
  struct stat after;
  // A file that changed under the hand is hashed again the next time.
  if (::fstat(fd, &after) == 0 && IdentityOf(after, expected.size()) == identity) Remember(identity, hex);
  return hex;
}

void RememberHash(int fd, absl::string_view hash) {
  struct stat stat;
  if (::fstat(fd, &stat) == 0) Remember(IdentityOf(stat, hash.size()), hash);
}

}  // namespace assay::hub
