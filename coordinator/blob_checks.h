// What every store of blobs asks of digests and of what comes.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "common/digest.h"
#include "common/status_macros.h"

namespace assay::coordinator {

inline absl::Status CheckDigest(absl::string_view digest) {
  if (IsDigest(digest)) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("'", digest, "' is no SHA-256 digest"));
}

inline absl::Status CheckAnnounced(absl::string_view digest, uint64_t size, uint64_t most) {
  ASSAY_RETURN_IF_ERROR(CheckDigest(digest));
  if (size > most) {
    return absl::ResourceExhaustedError(
        absl::StrCat("blob ", digest, " has ", size, " bytes; at most ", most, " are taken"));
  }
  return absl::OkStatus();
}

inline absl::Status NoBlob(absl::string_view digest) {
  return absl::NotFoundError(absl::StrCat("no blob ", digest));
}

// Compares what came with what was announced.
class Announced {
 public:
  Announced(absl::string_view digest, uint64_t size) : digest_(digest), left_(size) {}
  absl::Status Append(absl::string_view chunk) {
    if (chunk.size() > left_) {
      return absl::InvalidArgumentError(absl::StrCat("blob ", digest_, " is longer than announced"));
    }
    left_ -= chunk.size();
    sha_.Update(chunk);
    return absl::OkStatus();
  }
  absl::Status Finish() {
    if (left_ > 0) {
      return absl::InvalidArgumentError(absl::StrCat("blob ", digest_, " ends ", left_, " bytes too early"));
    }
    if (const std::string found = sha_.FinishHex(); found != digest_) {
      return absl::InvalidArgumentError(absl::StrCat("blob ", digest_, " has the digest ", found));
    }
    return absl::OkStatus();
  }
  const std::string& digest() const { return digest_; }

 private:
  std::string digest_;
  uint64_t left_;
  Sha256 sha_;
};

}  // namespace assay::coordinator
