// Content is named by its SHA-256 (FIPS 180-4) in lower-case hex.
#pragma once

#include <memory>
#include <string>

#include "absl/strings/string_view.h"

namespace assay {

std::string Sha256Hex(absl::string_view content);

// True for exactly 64 lower-case hex digits. Check before a digest becomes part of a path.
bool IsDigest(absl::string_view text);
// True for exactly 40 lower-case hex digits: a commit, or what git names content by.
bool IsGitSha1(absl::string_view text);

// SHA-256 of content that arrives in pieces. Not thread-safe.
class Sha256 {
 public:
  Sha256();
  ~Sha256();
  void Update(absl::string_view piece);
  // Call once, last.
  std::string FinishHex();

 private:
  struct Context;
  std::unique_ptr<Context> context_;
};

}  // namespace assay
