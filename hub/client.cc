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
#include "hub/content_hash.h"

namespace assay::hub {
namespace {

constexpr size_t kMaxInfoBytes = size_t{64} << 20;
constexpr int kMaxRedirects = 8;
constexpr int kMaxTries = 200;  // of one request, however much each brought

// What a server says is shown, but only so much of it, and in one line.
std::string Shown(absl::string_view text) {
  std::string line(text.substr(0, 200));
  for (char& c : line) {
    if (!absl::ascii_isprint(c)) c = ' ';
  }
  return line;
}

// W/"…" or "…" (RFC 9110 section 8.8.3).
std::string Unquoted(absl::string_view etag) {
  absl::ConsumePrefix(&etag, "W/");
  absl::ConsumePrefix(&etag, "\"");
  absl::ConsumeSuffix(&etag, "\"");
  return std::string(etag);
}

// Seconds or a date (RFC 9110 section 10.2.3).
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

bool IsRedirect(int status) {
  return status == 301 || status == 302 || status == 303 || status == 307 || status == 308;
}
bool IsPassing(int status) { return status == 408 || status == 429 || status >= 500; }

// A refusal for good. The hub says 401 also for what does not exist, so that nobody learns names of private
// ones.
absl::Status Refusal(const std::string& what, const HttpHead& head, bool with_token) {
  const std::string code = head.Get("x-error-code");
  const std::string said = Shown(head.Get("x-error-message"));
  const std::string tail = said.empty() ? "" : absl::StrCat(" (the hub: ", said, ")");
  if (code == "GatedRepo") {
    return absl::PermissionDeniedError(absl::StrCat(
        what,
        " is gated: accept its licence on its page on the hub, and set HF_TOKEN to a token of that account",
        tail));
  }
  if (code == "RevisionNotFound") return absl::NotFoundError(absl::StrCat(what, ": no such revision", tail));
  if (code == "EntryNotFound") return absl::NotFoundError(absl::StrCat(what, ": no such file", tail));
  if (code == "RepoNotFound" || head.status == 404) {
    return absl::NotFoundError(absl::StrCat(
        what, ": no such repository on the hub",
        with_token ? ", or the token may not see it" : ", or it is private: set HF_TOKEN", tail));
  }
  if (head.status == 401) {
    return absl::PermissionDeniedError(absl::StrCat(
        what,
        with_token ? ": the hub does not take the token (HF_TOKEN)"
                   : ": the hub wants a token: set HF_TOKEN, and accept the licence if it is gated",
        tail));
  }
  if (head.status == 403) {
    return absl::PermissionDeniedError(
        absl::StrCat(what,
                     ": the hub refuses access: set HF_TOKEN to a token that may read it, and accept the "
                     "licence if it is gated",
                     tail));
  }
  return absl::UnavailableError(absl::StrCat(what, ": the hub answers ", head.status, tail));
}

}  // namespace

const RemoteFile* RepoInfo::Find(const std::string& name) const {
  for (const RemoteFile& file : files) {
    if (file.name == name) return &file;
  }
  return nullptr;
}

struct Client::Try {
  absl::Status status = absl::OkStatus();
  bool again = false;                                 // there is sense in another try
  bool progress = false;                              // it brought something new
  bool unreachable = false;                           // the hub itself, not another host
  std::optional<absl::Duration> wait = std::nullopt;  // the server's wish
};

// How much of a file is there, and its hash so far.
struct PartialFile {
  uint64_t size = 0;
  std::unique_ptr<ContentHash> hash;
  bool fresh = true;    // all of it came in one go, from the first byte
  int wrong = 0;        // how often length or hash were wrong, fetched anew
  std::string because;  // how
};

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
    if (result.status.ok() || !result.again) return result.status;
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
    return {.status = Refusal(what, result.head, !options_.token.empty())};
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
    return {.status = Refusal(what, result.head, !options_.token.empty())};
  };
  const absl::Status status = Repeat(what, cancelled, attempt);
  if (!status.ok()) return status;
  return file;
}

Client::Try Client::FetchOnce(const Url& url, const RemoteFile& file, int fd, PartialFile& partial,
                              const Cancelled& cancelled) {
  Try result;
  // Begins anew, for nothing of what is there can be trusted.
  const auto start_over = [&]() -> absl::Status {
    if (::ftruncate(fd, 0) != 0)
      return absl::ErrnoToStatus(errno, absl::StrCat("cannot truncate ", file.name));
    partial.size = 0;
    partial.hash = std::make_unique<ContentHash>(file.etag, file.size);
    partial.fresh = true;
    return absl::OkStatus();
  };
  // Length or hash is wrong: what is there came from here and is a lie, or it came from an earlier try and is
  // spoilt.
  const auto wrong = [&](const std::string& because) -> absl::Status {
    const bool was_fresh = partial.fresh;
    ASSAY_RETURN_IF_ERROR(start_over());
    partial.because = because;
    if (was_fresh) ++partial.wrong;
    if (partial.wrong >= 2) {
      return absl::DataLossError(absl::StrCat(because, ", also when fetched anew"));
    }
    return absl::OkStatus();
  };

  if (partial.hash == nullptr || partial.size > file.size) {
    result.status = start_over();
    if (!result.status.ok()) return result;
  }
  HttpRequest request;
  request.url = url;
  request.stall = options_.stall_timeout;
  request.connect_timeout = options_.metadata_timeout;
  request.cancelled = cancelled;
  if (partial.size > 0) {
    request.headers.push_back(absl::StrCat("Range: bytes=", partial.size, "-"));
    partial.fresh = false;
  }
  bool content = false;  // of the file, not of an error page
  uint64_t ignored = 0;
  std::string lie;
  request.on_head = [&](const HttpHead& head) -> absl::Status {
    content = head.status == 200 || head.status == 206;
    if (!content) return absl::OkStatus();
    uint64_t length = 0;
    const bool has_length = absl::SimpleAtoi(head.Get("content-length"), &length);
    if (head.status == 200 && partial.size > 0)
      ASSAY_RETURN_IF_ERROR(start_over());  // ranges are not for this server
    if (head.status == 206) {
      // bytes 100-199/200 (RFC 9110 section 14.4)
      if (!absl::StartsWith(head.Get("content-range"), absl::StrCat("bytes ", partial.size, "-"))) {
        lie = absl::StrCat("asked for the bytes from ", partial.size, ", the server sends ",
                           Shown(head.Get("content-range")));
      }
    }
    if (has_length && length != file.size - partial.size) {
      lie = absl::StrCat("the hub says ", file.size, " bytes, the server sends ", partial.size + length);
    }
    return lie.empty() ? absl::OkStatus() : absl::DataLossError(lie);
  };
  request.on_body = [&](absl::string_view piece) -> absl::Status {
    if (!content) {
      ignored += piece.size();
      return ignored > (1 << 20) ? absl::UnavailableError("an error page without end") : absl::OkStatus();
    }
    if (piece.size() > file.size - partial.size) {
      lie = absl::StrCat("the hub says ", file.size, " bytes, the server sends more");
      return absl::DataLossError(lie);
    }
    partial.hash->Update(piece);
    while (!piece.empty()) {
      const ssize_t wrote = ::pwrite(fd, piece.data(), piece.size(), static_cast<off_t>(partial.size));
      if (wrote < 0 && errno == EINTR) continue;
      if (wrote < 0) {
        const absl::Status failed = absl::ErrnoToStatus(errno, absl::StrCat("cannot write ", file.name));
        partial.hash = nullptr;  // it has seen more than the file
        return errno == ENOSPC || errno == EDQUOT ? absl::ResourceExhaustedError(failed.message()) : failed;
      }
      partial.size += static_cast<uint64_t>(wrote);
      piece.remove_prefix(static_cast<size_t>(wrote));
      result.progress = true;
    }
    return absl::OkStatus();
  };

  // All of it may be there already, when only the last step was missing.
  HttpResult answer;
  if (partial.size < file.size || file.size == 0) {
    answer = Exchange(request, false);
  } else {
    partial.fresh = false;
    content = true;
    answer.head.status = 200;
  }
  if (!lie.empty()) {
    result.status = wrong(lie);
    if (result.status.ok()) result.status = absl::UnavailableError(lie);
    result.again = absl::IsUnavailable(result.status);
    return result;
  }
  if (!answer.status.ok()) {
    result.status = answer.status;
    result.again = absl::IsUnavailable(answer.status);
    result.unreachable = answer.unreachable;
    return result;
  }
  if (!content) {
    if (answer.head.status == 416) {  // what is there is not the beginning of it
      result.status = wrong("the server has no bytes from where the last try ended");
      if (result.status.ok()) result.status = absl::UnavailableError("what was there of it did not fit");
      result.again = absl::IsUnavailable(result.status);
    } else if (IsPassing(answer.head.status)) {
      result.status = absl::UnavailableError(absl::StrCat("the server answers ", answer.head.status));
      result.again = true;
      result.wait = RetryAfter(answer.head, options_.clock->Now());
    } else if (answer.url.origin != endpoint_.origin) {
      // Where the hub sends for content, a signed address may have run out: the hub gives a new one.
      result.status =
          absl::UnavailableError(absl::StrCat(answer.url.origin, " answers ", answer.head.status));
      result.again = true;
    } else {
      result.status = Refusal(file.name, answer.head, !options_.token.empty());
    }
    return result;
  }
  if (partial.size < file.size) {
    result.status =
        absl::UnavailableError(absl::StrCat("cut after ", partial.size, " of ", file.size, " bytes"));
    result.again = true;
    return result;
  }
  const std::string hash = partial.hash->FinishHex();
  if (hash == file.etag) {
    result.status = absl::OkStatus();
    return result;
  }
  const std::string because = absl::StrCat("the hub says ", file.etag, ", the content has ", hash);
  result.status = wrong(because);
  if (result.status.ok()) result.status = absl::UnavailableError(because);
  result.again = absl::IsUnavailable(result.status);
  return result;
}

absl::Status Client::Fetch(const std::string& id, const std::string& commit, const RemoteFile& file, int fd,
                           const Cancelled& cancelled) {
  const std::string what = absl::StrCat(id, "@", commit, "/", file.name);
  struct stat stat;
  if (::fstat(fd, &stat) != 0) return absl::ErrnoToStatus(errno, what);
  PartialFile partial;
  partial.size = static_cast<uint64_t>(stat.st_size);
  if (partial.size <= file.size) {
    // Where an earlier try ended, what it left is hashed first.
    partial.hash = std::make_unique<ContentHash>(file.etag, file.size);
    partial.fresh = partial.size == 0;
    std::vector<char> buffer(size_t{4} << 20);
    for (uint64_t at = 0; at < partial.size;) {
      if (cancelled && cancelled()) return absl::CancelledError("the download was cancelled");
      const ssize_t got = ::pread(fd, buffer.data(), buffer.size(), static_cast<off_t>(at));
      if (got < 0 && errno == EINTR) continue;
      if (got <= 0)
        return absl::ErrnoToStatus(got < 0 ? errno : EIO,
                                   absl::StrCat("cannot read what is there of ", what));
      partial.hash->Update(absl::string_view(buffer.data(), static_cast<size_t>(got)));
      at += static_cast<uint64_t>(got);
    }
  }
  const Url url = FileUrl(id, commit, file.name);
  return Repeat(what, cancelled, [&] { return FetchOnce(url, file, fd, partial, cancelled); });
}

}  // namespace assay::hub
