// One repository in the Hugging Face cache
// (https://huggingface.co/docs/huggingface_hub/guides/manage-cache):
//
//   <cache>/models--owner--name/blobs/<etag>                 content
//   <cache>/models--owner--name/blobs/<etag>.incomplete      its beginning
//   <cache>/models--owner--name/snapshots/<commit>/<file>    relative link to a blob
//   <cache>/models--owner--name/refs/<revision>              a commit
//   <cache>/models--owner--name/.no_exist/<commit>/<file>    empty: known not to be in the repository
//   <cache>/.locks/models--owner--name/<etag>.lock           held while a blob is made
//
// What Assay notes for itself lies where the Python library does not look:
//
//   <cache>/.locks/assay/budget.lock                  held while room is made
//   <cache>/.locks/assay/models--owner--name/
//     <commit>.json    files of the repository at this commit, with their hashes
//     <commit>.use     time of change: last use; locked (shared) by who uses it
//     <etag>.mine      Assay downloaded this blob: "<size> <commit>"
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "hub/client.h"

namespace assay::hub {

// A path inside a repository that stays there: no empty part, no "." or "..", no backslash, no control
// character.
bool IsPlainName(const std::string& name);

// Paths and small files of one repository. Any thread may use it; changes of blobs and links need the blob's
// lock.
class RepoCache {
 public:
  // folder_name: "models--owner--name".
  RepoCache(std::filesystem::path cache_dir, std::string folder_name);
  static std::string FolderName(const std::string& id);

  const std::filesystem::path& folder() const { return folder_; }
  std::filesystem::path Blob(const std::string& etag) const { return folder_ / "blobs" / etag; }
  std::filesystem::path Snapshot(const std::string& commit) const { return folder_ / "snapshots" / commit; }
  std::filesystem::path BlobLock(const std::string& etag) const;
  std::filesystem::path UseFile(const std::string& commit) const { return notes_ / (commit + ".use"); }
  std::filesystem::path MineFile(const std::string& etag) const { return notes_ / (etag + ".mine"); }
  const std::filesystem::path& notes() const { return notes_; }

  // The commit that a branch or tag had when it was last asked for.
  std::optional<std::string> Ref(const std::string& revision) const;
  absl::Status SetRef(const std::string& revision, const std::string& commit) const;

  // The content behind a file of a snapshot. NOT_FOUND: not there. FAILED_PRECONDITION: its link leads out of
  // the repository's folder; both ends named.
  absl::StatusOr<std::filesystem::path> Content(const std::string& commit, const std::string& name) const;
  // Every file of a snapshot that is there, by name. FAILED_PRECONDITION as Content, for any of them.
  absl::StatusOr<std::set<std::string>> Names(const std::string& commit) const;
  // Points a file of a snapshot at a blob; whatever was there is replaced.
  absl::Status Link(const std::string& commit, const std::string& name, const std::string& etag) const;

  bool KnownAbsent(const std::string& commit, const std::string& name) const;
  // No matter where it fails: it only saves others a request.
  void MarkAbsent(const std::string& commit, const std::string& name) const;
  // True where a download began and has not ended, well or at all.
  bool HasIncomplete() const;

  std::optional<RepoInfo> Info(const std::string& commit) const;
  absl::Status SetInfo(const RepoInfo& info) const;
  absl::Status MarkUsed(const std::string& commit, absl::Time when) const;

 private:
  std::filesystem::path cache_dir_;
  std::string name_;
  std::filesystem::path folder_;
  std::filesystem::path notes_;
};

}  // namespace assay::hub
