#include "hub/http.h"

#include <curl/curl.h>

#include <algorithm>
#include <cctype>
#include <cmath>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace assay::hub {
namespace {

struct CurlUrlDeleter {
  void operator()(CURLU* url) const { curl_url_cleanup(url); }
};
using CurlUrl = std::unique_ptr<CURLU, CurlUrlDeleter>;

std::string Part(CURLU* url, CURLUPart part, unsigned flags) {
  char* text = nullptr;
  if (curl_url_get(url, part, &text, flags) != CURLUE_OK || text == nullptr) return "";
  std::string copy(text);
  curl_free(text);
  return copy;
}

absl::StatusOr<Url> FromCurl(CURLU* handle, const std::string& shown) {
  const std::string scheme = absl::AsciiStrToLower(Part(handle, CURLUPART_SCHEME, 0));
  const std::string host = absl::AsciiStrToLower(Part(handle, CURLUPART_HOST, 0));
  if ((scheme != "http" && scheme != "https") || host.empty()) {
    return absl::InvalidArgumentError(absl::StrCat("no http(s) URL: ", shown));
  }
  if (!Part(handle, CURLUPART_USER, 0).empty() || !Part(handle, CURLUPART_PASSWORD, 0).empty()) {
    return absl::InvalidArgumentError("a URL with user or password in it is refused");
  }
  Url url;
  url.text = Part(handle, CURLUPART_URL, 0);
  url.origin = absl::StrCat(scheme, "://", host, ":", Part(handle, CURLUPART_PORT, CURLU_DEFAULT_PORT));
  return url;
}

// What an exchange's callbacks share.
struct Exchange {
  const HttpRequest* request;
  HttpHead head;
  bool head_given = false;
  absl::Status failure;
};

// The head is complete once the body begins or the exchange ends.
bool GiveHead(Exchange& exchange) {
  if (exchange.head_given) return true;
  exchange.head_given = true;
  if (exchange.request->on_head) exchange.failure = exchange.request->on_head(exchange.head);
  return exchange.failure.ok();
}

size_t OnHeader(char* data, size_t size, size_t count, void* self) {
  Exchange& exchange = *static_cast<Exchange*>(self);
  const absl::string_view line = absl::StripAsciiWhitespace(absl::string_view(data, size * count));
  if (absl::StartsWith(line, "HTTP/")) {  // also the second one after "100 Continue" or a proxy's answer
    exchange.head = HttpHead();
    const size_t space = line.find(' ');
    if (space == absl::string_view::npos ||
        !absl::SimpleAtoi(line.substr(space + 1, 3), &exchange.head.status)) {
      exchange.failure = absl::UnavailableError("a status line that is none");
      return 0;
    }
    return size * count;
  }
  const size_t colon = line.find(':');
  if (colon != absl::string_view::npos) {
    exchange.head.headers[absl::AsciiStrToLower(line.substr(0, colon))] =
        std::string(absl::StripAsciiWhitespace(line.substr(colon + 1)));
  }
  return size * count;
}

size_t OnBody(char* data, size_t size, size_t count, void* self) {
  Exchange& exchange = *static_cast<Exchange*>(self);
  if (!GiveHead(exchange)) return 0;
  if (exchange.request->on_body) {
    exchange.failure = exchange.request->on_body(absl::string_view(data, size * count));
    if (!exchange.failure.ok()) return 0;
  }
  return size * count;
}

int OnProgress(void* self, curl_off_t, curl_off_t, curl_off_t, curl_off_t) {
  Exchange& exchange = *static_cast<Exchange*>(self);
  if (exchange.request->cancelled && exchange.request->cancelled()) {
    exchange.failure = absl::CancelledError("the download was cancelled");
    return 1;
  }
  return 0;
}

bool MeansUnreachable(CURLcode code, CURL* curl) {
  switch (code) {
    case CURLE_COULDNT_RESOLVE_PROXY:
    case CURLE_COULDNT_RESOLVE_HOST:
    case CURLE_COULDNT_CONNECT:
    case CURLE_SSL_CONNECT_ERROR:
    case CURLE_PEER_FAILED_VERIFICATION:
    case CURLE_SSL_CACERT_BADFILE:
    case CURLE_SSL_CERTPROBLEM:
    case CURLE_SSL_CIPHER:
      return true;
    case CURLE_OPERATION_TIMEDOUT: {
      curl_off_t connected = 0;  // microseconds until the connection stood; 0: it never did
      curl_easy_getinfo(curl, CURLINFO_CONNECT_TIME_T, &connected);
      return connected == 0;
    }
    default:
      return false;
  }
}

long Milliseconds(absl::Duration time) {
  if (time == absl::InfiniteDuration()) return 0;
  return std::max<long>(1, absl::ToInt64Milliseconds(time));
}

}  // namespace

absl::StatusOr<Url> ParseUrl(const std::string& text) {
  CurlUrl handle(curl_url());
  if (handle == nullptr || curl_url_set(handle.get(), CURLUPART_URL, text.c_str(), 0) != CURLUE_OK) {
    return absl::InvalidArgumentError(absl::StrCat("no URL: ", text));
  }
  return FromCurl(handle.get(), text);
}

absl::StatusOr<Url> ResolveUrl(const Url& base, const std::string& location) {
  CurlUrl handle(curl_url());
  if (handle == nullptr || curl_url_set(handle.get(), CURLUPART_URL, base.text.c_str(), 0) != CURLUE_OK ||
      curl_url_set(handle.get(), CURLUPART_URL, location.c_str(), 0) != CURLUE_OK) {
    return absl::InvalidArgumentError(absl::StrCat("a redirect leads to no URL: ", location));
  }
  return FromCurl(handle.get(), location);
}

std::string PercentEncode(absl::string_view text, absl::string_view keep) {
  std::string encoded;
  for (const char c : text) {
    if (absl::ascii_isalnum(c) || absl::string_view("-._~").find(c) != absl::string_view::npos ||
        keep.find(c) != absl::string_view::npos) {
      encoded += c;
    } else {
      absl::StrAppendFormat(&encoded, "%%%02X", static_cast<unsigned char>(c));
    }
  }
  return encoded;
}

std::string HttpHead::Get(const std::string& lower_case_name) const {
  const auto found = headers.find(lower_case_name);
  return found == headers.end() ? "" : found->second;
}

Http::Http(std::string ca_bundle) : ca_bundle_(std::move(ca_bundle)) {
  static const CURLcode initialised = curl_global_init(CURL_GLOBAL_DEFAULT);
  (void)initialised;  // a failure shows as a null handle in Do
}

Http::~Http() {
  absl::MutexLock lock(&mutex_);
  for (void* curl : idle_) curl_easy_cleanup(curl);
}

HttpResult Http::Do(const HttpRequest& request) {
  HttpResult result;
  result.url = request.url;
  CURL* curl = nullptr;
  {
    absl::MutexLock lock(&mutex_);
    if (!idle_.empty()) {
      curl = idle_.back();
      idle_.pop_back();
    }
  }
  if (curl == nullptr) curl = curl_easy_init();
  if (curl == nullptr) {
    result.status = absl::InternalError("libcurl does not start");
    return result;
  }
  curl_easy_reset(curl);  // keeps the connections

  Exchange exchange{.request = &request, .head = {}, .head_given = false, .failure = {}};
  char error[CURL_ERROR_SIZE] = "";
  curl_slist* headers = nullptr;
  for (const std::string& header : request.headers) headers = curl_slist_append(headers, header.c_str());
  curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, error);
  curl_easy_setopt(curl, CURLOPT_URL, request.url.text.c_str());
  curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, "http,https");
  curl_easy_setopt(curl, CURLOPT_FOLLOWLOCATION, 0L);
  curl_easy_setopt(curl, CURLOPT_NETRC, static_cast<long>(CURL_NETRC_IGNORED));
  curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);  // signals and threads do not mix
  curl_easy_setopt(curl, CURLOPT_NOBODY, request.head ? 1L : 0L);
  curl_easy_setopt(curl, CURLOPT_HTTPHEADER, headers);
  curl_easy_setopt(curl, CURLOPT_USERAGENT, "assay/0.1");
  curl_easy_setopt(curl, CURLOPT_SSL_VERIFYPEER, 1L);
  curl_easy_setopt(curl, CURLOPT_SSL_VERIFYHOST, 2L);
  curl_easy_setopt(curl, CURLOPT_SUPPRESS_CONNECT_HEADERS, 1L);
  curl_easy_setopt(curl, CURLOPT_BUFFERSIZE, 512L << 10);
  if (!ca_bundle_.empty()) curl_easy_setopt(curl, CURLOPT_CAINFO, ca_bundle_.c_str());
  curl_easy_setopt(curl, CURLOPT_TIMEOUT_MS, Milliseconds(request.timeout));
  curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT_MS, Milliseconds(request.connect_timeout));
  curl_easy_setopt(curl, CURLOPT_LOW_SPEED_LIMIT, 1024L);
  curl_easy_setopt(curl, CURLOPT_LOW_SPEED_TIME,
                   std::max(1L, static_cast<long>(std::ceil(absl::ToDoubleSeconds(request.stall)))));
  curl_easy_setopt(curl, CURLOPT_HEADERFUNCTION, &OnHeader);
  curl_easy_setopt(curl, CURLOPT_HEADERDATA, &exchange);
  curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, &OnBody);
  curl_easy_setopt(curl, CURLOPT_WRITEDATA, &exchange);
  curl_easy_setopt(curl, CURLOPT_NOPROGRESS, 0L);
  curl_easy_setopt(curl, CURLOPT_XFERINFOFUNCTION, &OnProgress);
  curl_easy_setopt(curl, CURLOPT_XFERINFODATA, &exchange);

  const CURLcode code = curl_easy_perform(curl);
  if (code == CURLE_OK) GiveHead(exchange);
  result.head = std::move(exchange.head);
  if (!exchange.failure.ok()) {
    result.status = exchange.failure;
  } else if (code != CURLE_OK) {
    result.unreachable = MeansUnreachable(code, curl);
    result.status = absl::UnavailableError(absl::StrCat(error[0] != '\0' ? error : curl_easy_strerror(code)));
  }
  curl_slist_free_all(headers);
  absl::MutexLock lock(&mutex_);
  idle_.push_back(curl);
  return result;
}

}  // namespace assay::hub
