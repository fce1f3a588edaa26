#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "hub/answer.h"
#include "hub/client.h"
#include "hub/content_hash.h"

namespace assay::hub {

// How much of a file is there, and its hash so far.
struct PartialFile {
  uint64_t size = 0;
  std::unique_ptr<ContentHash> hash;
  bool fresh = true;    // all of it came in one go, from the first byte
  int wrong = 0;        // how often length or hash were wrong, fetched anew
  std::string because;  // how
};

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
      result.status = Refusal(answer.head, !options_.token.empty());
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
