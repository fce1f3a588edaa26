// What both halves of the client, questions (client.cc) and files (download.cc), make of an answer.
#pragma once

#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "hub/client.h"
#include "hub/http.h"

namespace assay::hub {

struct Client::Try {
  absl::Status status = absl::OkStatus();
  bool again = false;                                 // there is sense in another try
  bool progress = false;                              // it brought something new
  bool unreachable = false;                           // the hub itself, not another host
  std::optional<absl::Duration> wait = std::nullopt;  // the server's wish
};

// What a server says is shown, but only so much of it, and in one line.
std::string Shown(absl::string_view text);
// Seconds or a date (RFC 9110 section 10.2.3).
std::optional<absl::Duration> RetryAfter(const HttpHead& head, absl::Time now);
// A failure that may be over soon.
bool IsPassing(int status);
// A refusal for good: NOT_FOUND or PERMISSION_DENIED, with what the user can do; else UNAVAILABLE.
absl::Status Refusal(const HttpHead& head, bool with_token);

}  // namespace assay::hub
