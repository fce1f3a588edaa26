#include "hub/answer.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace assay::hub {

std::string Shown(absl::string_view text) {
  std::string line(text.substr(0, 200));
  for (char& c : line) {
    if (!absl::ascii_isprint(c)) c = ' ';
  }
  return line;
}

std::optional<absl::Duration> RetryAfter(const HttpHead& head, absl::Time now) {
  const std::string text = head.Get("retry-after");
  int64_t seconds = 0;
  if (absl::SimpleAtoi(text, &seconds) && seconds >= 0) return absl::Seconds(seconds);
  absl::Time date;
  if (!text.empty() && absl::ParseTime("%a, %d %b %Y %H:%M:%S GMT", text, &date, nullptr)) {
    return std::max(absl::ZeroDuration(), date - now);
  }
  return std::nullopt;
}

bool IsPassing(int status) { return status == 408 || status == 429 || status >= 500; }

// A refusal for good. The hub says 401 also for what does not exist, so that nobody learns names of private
// ones.
absl::Status Refusal(const HttpHead& head, bool with_token) {
  const std::string code = head.Get("x-error-code");
  const std::string said = Shown(head.Get("x-error-message"));
  const std::string tail = said.empty() ? "" : absl::StrCat(" (the hub: ", said, ")");
  if (code == "GatedRepo") {
    return absl::PermissionDeniedError(absl::StrCat(
        "gated: accept its licence on its page on the hub, and set HF_TOKEN to a token of that account",
        tail));
  }
  if (code == "RevisionNotFound") return absl::NotFoundError(absl::StrCat("no such revision", tail));
  if (code == "EntryNotFound") return absl::NotFoundError(absl::StrCat("no such file", tail));
  if (code == "RepoNotFound" || head.status == 404) {
    return absl::NotFoundError(absl::StrCat(
        "no such repository on the hub",
        with_token ? ", or the token (HF_TOKEN) may not see it" : ", or it is private: set HF_TOKEN", tail));
  }
  if (head.status == 401) {
    return absl::PermissionDeniedError(absl::StrCat(
        with_token ? "the hub does not take the token (HF_TOKEN)"
                   : "the hub wants a token: set HF_TOKEN, and accept the licence if it is gated",
        tail));
  }
  if (head.status == 403) {
    return absl::PermissionDeniedError(absl::StrCat(
        "the hub refuses access: set HF_TOKEN to a token that may read it, and accept the licence if it "
        "is gated",
        tail));
  }
  return absl::UnavailableError(absl::StrCat("the hub answers ", head.status, tail));
}

}  // namespace assay::hub
