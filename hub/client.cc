#include "hub/client.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "absl/random/random.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "common/logging.h"
#include "common/status_macros.h"
#include "hub/answer.h"
#include "hub/content_hash.h"

namespace assay::hub {
namespace {

constexpr size_t kMaxInfoBytes = size_t{64} << 20;
constexpr int kMaxRedirects = 8;
constexpr int kMaxTries = 200;  // of one request, however much each brought

// W/"…" or "…" (RFC 9110 section 8.8.3).
std::string Unquoted(absl::string_view etag) {
  absl::ConsumePrefix(&etag, "W/");
  absl::ConsumePrefix(&etag, "\"");
  absl::ConsumeSuffix(&etag, "\"");
  return std::string(etag);
}

bool IsRedirect(int status) {
  return status == 301 || status == 302 || status == 303 || status == 307 || status == 308;
}

}  // namespace

const RemoteFile* RepoInfo::Find(const std::string& name) const {
  for (const RemoteFile& file : files) {
    if (file.name == name) return &file;
  }
  return nullptr;
}

Client::Client(const HubOptions& options, Url endpoint)
    : options_(options), endpoint_(std::move(endpoint)), http_(options.ca_bundle) {}

absl::Status Client::Sleep(absl::Duration time, const Cancelled& cancelled) {
  // In slices, so that nobody waits for minutes for a cancelled job.
  constexpr absl::Duration kSlice = absl::Milliseconds(250);
  while (time > absl::ZeroDuration()) {
    if (cancelled && cancelled()) return absl::CancelledError("the download was cancelled");
    const absl::Duration slice = cancelled ? std::min(time, kSlice) : time;
    options_.sleep(slice);
    time -= slice;
  }
  return absl::OkStatus();
}

absl::Status Client::Repeat(const std::string& what, const Cancelled& cancelled,
                            const std::function<Try()>& attempt) {
  int failures = 0;
  absl::BitGen random;
  for (int tries = 1;; ++tries) {
    {
      absl::MutexLock lock(&mutex_);
      if (options_.clock->Now() < unreachable_until_) {
        return absl::UnavailableError(absl::StrCat(what, ": the hub ", endpoint_.text,
                                                   " could not be reached a moment ago: ", unreachable_why_));
      }
    }
    const Try result = attempt();
    if (result.status.ok()) return absl::OkStatus();
    if (!result.again)
      return absl::Status(result.status.code(), absl::StrCat(what, ": ", result.status.message()));
    failures = result.progress ? 1 : failures + 1;
    // A host that takes no connection is not asked as often: each time costs the whole time-out.
    const bool enough = failures > (result.unreachable ? std::min(options_.retries, 1) : options_.retries);
    if (enough || tries >= kMaxTries) {
      if (result.unreachable) {
        absl::MutexLock lock(&mutex_);
        unreachable_until_ = options_.clock->Now() + options_.breaker;
        unreachable_why_ = std::string(result.status.message());
      }
      return absl::Status(result.status.code(),
                          absl::StrCat(what, ": ", result.status.message(), " (", tries, " tries)"));
    }
    absl::Duration wait = options_.backoff * static_cast<double>(1 << std::min(failures - 1, 16));
    wait = std::min(wait, options_.max_wait) * absl::Uniform(random, 0.5, 1.0);
    if (result.wait.has_value()) {
      if (*result.wait > options_.max_wait) {
        return absl::UnavailableError(absl::StrCat(what, ": ", result.status.message(),
                                                   ", and asks to come back in ",
                                                   absl::FormatDuration(*result.wait)));
      }
      wait = std::max(wait, *result.wait);
    }
    spdlog::debug("{}: {}; again in {}", what, std::string(result.status.message()),
                  absl::FormatDuration(wait));
    ASSAY_RETURN_IF_ERROR(Sleep(wait, cancelled));
  }
}

HttpResult Client::Exchange(HttpRequest request, bool stop_at_elsewhere) {
  const std::vector<std::string> headers = request.headers;
  const auto on_head = std::move(request.on_head);
  const auto on_body = std::move(request.on_body);
  for (int hop = 0;; ++hop) {
    request.headers = headers;
    request.headers.push_back("Accept-Encoding: identity");  // lengths and ranges are of the content itself
    // The one place where the token meets a request.
    if (!options_.token.empty() && request.url.origin == endpoint_.origin) {
      request.headers.push_back(absl::StrCat("Authorization: Bearer ", options_.token));
    }
    // The body of a redirect is nobody's.
    bool redirect = false;
    uint64_t discarded = 0;
    request.on_head = [&](const HttpHead& head) -> absl::Status {
      redirect = IsRedirect(head.status);
      return redirect || !on_head ? absl::OkStatus() : on_head(head);
    };
    request.on_body = [&](absl::string_view piece) -> absl::Status {
      if (!redirect) return on_body ? on_body(piece) : absl::OkStatus();
      discarded += piece.size();
      return discarded > (1 << 20) ? absl::UnavailableError("a redirect with a body without end")
                                   : absl::OkStatus();
    };
    HttpResult result = http_.Do(request);
    result.unreachable = result.unreachable && request.url.origin == endpoint_.origin;
    if (!result.status.ok() || !redirect) return result;
    const absl::StatusOr<Url> next = ResolveUrl(request.url, result.head.Get("location"));
    if (!next.ok()) {
      result.status = absl::UnavailableError(next.status().message());
      return result;
    }
    if (stop_at_elsewhere && next->origin != request.url.origin) return result;
    if (absl::StartsWith(request.url.origin, "https:") && !absl::StartsWith(next->origin, "https:")) {
      result.status =
          absl::UnavailableError(absl::StrCat("a redirect from https to ", next->origin, " is refused"));
      return result;
    }
    if (hop >= kMaxRedirects) {
      result.status = absl::UnavailableError("redirects without end");
      return result;
    }
    request.url = *next;
  }
}

absl::StatusOr<RepoInfo> Client::Info(const std::string& id, const std::string& revision,
                                      const Cancelled& cancelled) {
  const std::string what = absl::StrCat(id, "@", revision);
  std::string body;
  HttpRequest request;
  const absl::StatusOr<Url> url =
      ParseUrl(absl::StrCat(endpoint_.text, "/api/models/", PercentEncode(id, "/"), "/revision/",
                            PercentEncode(revision, ""), "?blobs=true"));
  if (!url.ok()) return url.status();
  request.url = *url;
  request.stall = options_.metadata_timeout;
  request.connect_timeout = options_.metadata_timeout;
  request.cancelled = cancelled;
  request.on_body = [&](absl::string_view piece) -> absl::Status {
    if (body.size() + piece.size() > kMaxInfoBytes)
      return absl::FailedPreconditionError("a file list without end");
    body.append(piece.data(), piece.size());
    return absl::OkStatus();
  };
  RepoInfo info;
  const auto attempt = [&]() -> Try {
    body.clear();
    HttpResult result = Exchange(request, false);
    if (!result.status.ok()) {
      return {.status = result.status,
              .again = absl::IsUnavailable(result.status),
              .unreachable = result.unreachable};
    }
    if (result.head.status == 200) {
      // A body that was cut where its length was not given shows here.
      const nlohmann::json json = nlohmann::json::parse(body, nullptr, false);
      const auto text = [](const nlohmann::json& object, const char* key) {
        const auto found = object.find(key);
        return found != object.end() && found->is_string() ? found->get<std::string>() : std::string();
      };
      const auto number = [](const nlohmann::json& object, const char* key) -> uint64_t {
        const auto found = object.find(key);
        return found != object.end() && found->is_number_unsigned() ? found->get<uint64_t>() : 0;
      };
      if (json.is_object() && IsGitSha1(text(json, "sha")) && json.contains("siblings") &&
          json["siblings"].is_array()) {
        info = RepoInfo{.commit = text(json, "sha"), .files = {}};
        for (const nlohmann::json& sibling : json["siblings"]) {
          if (!sibling.is_object()) continue;
          RemoteFile file{.name = text(sibling, "rfilename"),
                          .size = number(sibling, "size"),
                          .etag = text(sibling, "blobId")};
          if (const auto lfs = sibling.find("lfs"); lfs != sibling.end() && lfs->is_object()) {
            file.etag = text(*lfs, "sha256");
            file.size = number(*lfs, "size");
          }
          if (!file.name.empty()) info.files.push_back(std::move(file));
        }
        return {};
      }
      return {.status = absl::UnavailableError(absl::StrCat(
                  endpoint_.text, " does not answer as a hub does: no commit and list of files")),
              .again = true};
    }
    if (IsPassing(result.head.status)) {
      return {.status = absl::UnavailableError(absl::StrCat("the hub answers ", result.head.status)),
              .again = true,
              .wait = RetryAfter(result.head, options_.clock->Now())};
    }
    return {.status = Refusal(result.head, !options_.token.empty())};
  };
  ASSAY_RETURN_IF_ERROR(Repeat(what, cancelled, attempt));
  if (IsGitSha1(revision) && info.commit != revision) {
    return absl::UnavailableError(absl::StrCat(what, ": the hub answers with another commit, ", info.commit));
  }
  return info;
}

Url Client::FileUrl(const std::string& id, const std::string& commit, const std::string& name) const {
  // Its parts are checked or encoded, so it parses where the endpoint did.
  absl::StatusOr<Url> url = ParseUrl(absl::StrCat(endpoint_.text, "/", PercentEncode(id, "/"), "/resolve/",
                                                  commit, "/", PercentEncode(name, "/")));
  return url.ok() ? *std::move(url) : Url();
}

absl::StatusOr<RemoteFile> Client::Metadata(const std::string& id, const std::string& commit,
                                            const std::string& name, const Cancelled& cancelled) {
  const std::string what = absl::StrCat(id, "@", commit, "/", name);
  RemoteFile file{.name = name, .size = 0, .etag = ""};
  HttpRequest request;
  request.head = true;
  request.url = FileUrl(id, commit, name);
  request.timeout = options_.metadata_timeout;
  request.connect_timeout = options_.metadata_timeout;
  request.cancelled = cancelled;
  const auto attempt = [&]() -> Try {
    // The hub itself says what a file is; where it sends for the content is another host's business.
    HttpResult result = Exchange(request, true);
    if (!result.status.ok()) {
      return {.status = result.status,
              .again = absl::IsUnavailable(result.status),
              .unreachable = result.unreachable};
    }
    if (result.head.status == 200 || IsRedirect(result.head.status)) {
      const auto either = [&](const char* linked, const char* plain) {
        const std::string value = result.head.Get(linked);
        return value.empty() ? result.head.Get(plain) : value;
      };
      file.etag = Unquoted(either("x-linked-etag", "etag"));
      if (result.head.Get("x-repo-commit") != commit) {
        return {.status = absl::UnavailableError(absl::StrCat("the hub answers for another commit: '",
                                                              Shown(result.head.Get("x-repo-commit")), "'"))};
      }
      if (!IsContentHash(file.etag)) {
        return {.status = absl::UnavailableError(
                    absl::StrCat("the hub gives no hash of the content, but ETag '", Shown(file.etag), "'"))};
      }
      if (!absl::SimpleAtoi(either("x-linked-size", "content-length"), &file.size)) {
        return {.status = absl::UnavailableError("the hub gives no length")};
      }
      return {};
    }
    if (IsPassing(result.head.status)) {
      return {.status = absl::UnavailableError(absl::StrCat("the hub answers ", result.head.status)),
              .again = true,
              .wait = RetryAfter(result.head, options_.clock->Now())};
    }
    return {.status = Refusal(result.head, !options_.token.empty())};
  };
  const absl::Status status = Repeat(what, cancelled, attempt);
  if (!status.ok()) return status;
  return file;
}

}  // namespace assay::hub
