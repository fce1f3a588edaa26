// The two hashes by which the hub, and blobs in its cache, name content: SHA-256 (64 hex digits, files of Git
// LFS) and git's SHA-1 of "blob <size>\0" and the content (40 hex digits, all other files;
// https://git-scm.com/book/en/v2/Git-Internals-Git-Objects).
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "common/digest.h"

namespace assay::hub {

inline bool IsContentHash(absl::string_view text) { return IsDigest(text) || IsGitSha1(text); }

// Content that arrives in pieces. Not thread-safe.
class ContentHash {
 public:
  // Of the kind of `expected` (IsContentHash); git's hash needs the size beforehand.
  ContentHash(absl::string_view expected, uint64_t size);
  ~ContentHash();
  void Update(absl::string_view piece);
  // Call once, last.
  std::string FinishHex();

 private:
  struct Context;
  std::unique_ptr<Context> context_;
};

// Hash of a file, of the kind of `expected`. Reads it once: a process remembers by device, inode, size, and
// times of change. NOT_FOUND: no such file; CANCELLED. Thread-safe.
absl::StatusOr<std::string> HashOfFile(const std::filesystem::path& path, absl::string_view expected,
                                       const std::function<bool()>& cancelled);
// What was just hashed while it was written through `fd` need not be read again.
void RememberHash(int fd, absl::string_view hash);

}  // namespace assay::hub
