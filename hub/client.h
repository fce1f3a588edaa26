// The hub's interface: what a repository holds at a revision, and its files, each with its length and hash
// verified (https://huggingface.co/docs/hub/api). The token goes to the endpoint's own origin and nowhere
// else.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "hub/http.h"
#include "hub/hub.h"

namespace assay::hub {

// A file of a repository at a commit.
struct RemoteFile {
  std::string name;
  uint64_t size = 0;
  // The name of its blob in the cache: SHA-256 for files of Git LFS, else git's SHA-1.
  std::string etag;
};

// Immutable: a commit does not change.
struct RepoInfo {
  std::string commit;
  std::vector<RemoteFile> files;
  const RemoteFile* Find(const std::string& name) const;
};

// Thread-safe. Requests that fail for the moment are tried again: 429 after Retry-After, 408, 5xx and a
// broken network after a wait that doubles.
class Client {
 public:
  using Cancelled = std::function<bool()>;

  // The endpoint must be a URL that ParseUrl takes.
  Client(const HubOptions& options, Url endpoint);

  // The repository at a branch, tag or commit. Errors as Hub::Find's.
  absl::StatusOr<RepoInfo> Info(const std::string& id, const std::string& revision,
                                const Cancelled& cancelled);

  // What the hub says of one file at a commit: length and hash. Errors as Hub::Find's; NOT_FOUND: no such
  // file.
  absl::StatusOr<RemoteFile> Metadata(const std::string& id, const std::string& commit,
                                      const std::string& name, const Cancelled& cancelled);

  // Brings a file's content into `fd`, going on where an earlier try ended, with length and hash as `file`
  // says when this returns OK. The caller holds the lock of the blob. DATA_LOSS: wrong even when fetched
  // anew.
  absl::Status Fetch(const std::string& id, const std::string& commit, const RemoteFile& file, int fd,
                     const Cancelled& cancelled);

 private:
  struct Try;
  // Calls `attempt` until it succeeds or there is no more sense in it.
  absl::Status Repeat(const std::string& what, const Cancelled& cancelled,
                      const std::function<Try()>& attempt);
  // One exchange, redirects followed; `stop_at_elsewhere`: not to another origin (then the redirect is the
  // answer).
  HttpResult Exchange(HttpRequest request, bool stop_at_elsewhere);
  absl::Status Sleep(absl::Duration time, const Cancelled& cancelled);
  Try FetchOnce(const Url& url, const RemoteFile& file, int fd, struct PartialFile& partial,
                const Cancelled& cancelled);
  Url FileUrl(const std::string& id, const std::string& commit, const std::string& name) const;

  const HubOptions options_;
  const Url endpoint_;
  Http http_;
  absl::Mutex mutex_;
  // A hub that cannot be connected to is left alone until then, so that not every job waits for a time-out of
  // its own.
  absl::Time unreachable_until_ ABSL_GUARDED_BY(mutex_) = absl::InfinitePast();
  std::string unreachable_why_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace assay::hub
