// One HTTP exchange over libcurl: TLS verified, connections kept, no redirect followed, so that the caller
// decides which host sees which header. Proxies are those of the environment (https_proxy, no_proxy, …), as
// libcurl reads them.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace assay::hub {

// Scheme, host and port decide who may see a token.
struct Url {
  std::string text;
  std::string origin;  // "https://host:443"
  bool operator==(const Url&) const = default;
};
// INVALID_ARGUMENT for anything but an absolute http(s) URL without user and password.
absl::StatusOr<Url> ParseUrl(const std::string& text);
// RFC 3986 section 5: where a Location header leads. INVALID_ARGUMENT as above.
absl::StatusOr<Url> ResolveUrl(const Url& base, const std::string& location);
// Everything but the unreserved characters of RFC 3986 and `keep` as %XX.
std::string PercentEncode(absl::string_view text, absl::string_view keep);

struct HttpHead {
  int status = 0;
  std::map<std::string, std::string> headers;  // names in lower case; the last of a name counts
  // Empty where there is none.
  std::string Get(const std::string& lower_case_name) const;
};

struct HttpRequest {
  bool head = false;  // HEAD, else GET
  Url url;
  std::vector<std::string> headers;                   // "Name: value"
  absl::Duration timeout = absl::InfiniteDuration();  // of the whole exchange
  absl::Duration connect_timeout = absl::Seconds(10);
  absl::Duration stall = absl::Seconds(10);  // under 1 KiB/s for so long is a failure
  // Once, before the body. An error ends the exchange with it.
  std::function<absl::Status(const HttpHead&)> on_head;
  // The body's pieces, in order. An error ends the exchange with it.
  std::function<absl::Status(absl::string_view)> on_body;
  std::function<bool()> cancelled;
};

struct HttpResult {
  // OK: an answer came, whatever its status. UNAVAILABLE: network or TLS, in libcurl's words. CANCELLED. Else
  // what on_head or on_body said.
  absl::Status status;
  bool unreachable = false;  // no connection came about, or TLS failed
  HttpHead head;
  Url url;  // that gave this answer
};

// Thread-safe: exchanges run side by side, each over a connection of its own.
class Http {
 public:
  // ca_bundle: file of trusted certificates; empty: the system's.
  explicit Http(std::string ca_bundle);
  ~Http();
  Http(const Http&) = delete;
  Http& operator=(const Http&) = delete;

  HttpResult Do(const HttpRequest& request);

 private:
  const std::string ca_bundle_;
  absl::Mutex mutex_;
  std::vector<void*> idle_ ABSL_GUARDED_BY(mutex_);  // CURL handles, with their connections
};

}  // namespace assay::hub
