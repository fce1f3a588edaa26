#include "common/digest.h"

#include <openssl/evp.h>

#include "absl/strings/escaping.h"

namespace assay {
namespace {

bool IsLowerHex(absl::string_view text, size_t digits) {
  return text.size() == digits && text.find_first_not_of("0123456789abcdef") == absl::string_view::npos;
}

}  // namespace

struct Sha256::Context {
  EVP_MD_CTX* evp = EVP_MD_CTX_new();
  ~Context() { EVP_MD_CTX_free(evp); }
};

Sha256::Sha256() : context_(std::make_unique<Context>()) {
  EVP_DigestInit_ex(context_->evp, EVP_sha256(), nullptr);
}
Sha256::~Sha256() = default;

void Sha256::Update(absl::string_view piece) { EVP_DigestUpdate(context_->evp, piece.data(), piece.size()); }

std::string Sha256::FinishHex() {
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned int size = 0;
  EVP_DigestFinal_ex(context_->evp, digest, &size);
  return absl::BytesToHexString(absl::string_view(reinterpret_cast<char*>(digest), size));
}

std::string Sha256Hex(absl::string_view content) {
  Sha256 hash;
  hash.Update(content);
  return hash.FinishHex();
}

bool IsDigest(absl::string_view text) { return IsLowerHex(text, 64); }

bool IsGitSha1(absl::string_view text) { return IsLowerHex(text, 40); }

}  // namespace assay
