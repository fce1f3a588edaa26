#include "hub/cache.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <nlohmann/json.hpp>
#include <system_error>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "common/file.h"
#include "common/id.h"
#include "common/status_macros.h"
#include "hub/content_hash.h"

namespace assay::hub {

namespace fs = std::filesystem;

namespace {

absl::Status MakeFolders(const fs::path& folder) {
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) return absl::ErrnoToStatus(error.value(), absl::StrCat("cannot make ", folder.string()));
  return absl::OkStatus();
}

}  // namespace

bool IsPlainName(const std::string& name) {
  if (name.empty() || name.size() > 1024) return false;
  for (const char c : name) {
    if (absl::ascii_iscntrl(c) || c == '\\') return false;
  }
  for (const absl::string_view part : absl::StrSplit(name, '/')) {
    if (part.empty() || part == "." || part == ".." || part.size() > 255) return false;
  }
  return true;
}

RepoCache::RepoCache(fs::path cache_dir, std::string folder_name)
    : cache_dir_(std::move(cache_dir)),
      name_(std::move(folder_name)),
      folder_(cache_dir_ / name_),
      notes_(cache_dir_ / ".locks" / "assay" / name_) {}

std::string RepoCache::FolderName(const std::string& id) {
  return absl::StrCat("models--", absl::StrReplaceAll(id, {{"/", "--"}}));
}

fs::path RepoCache::BlobLock(const std::string& etag) const {
  return cache_dir_ / ".locks" / name_ / (etag + ".lock");
}

std::optional<std::string> RepoCache::Ref(const std::string& revision) const {
  const absl::StatusOr<std::string> text = ReadFile(folder_ / "refs" / revision, 1024);
  if (!text.ok()) return std::nullopt;
  std::string commit(absl::StripAsciiWhitespace(*text));
  if (!IsGitSha1(commit)) return std::nullopt;
  return commit;
}

absl::Status RepoCache::SetRef(const std::string& revision, const std::string& commit) const {
  if (revision == commit || Ref(revision) == commit) return absl::OkStatus();
  // Made elsewhere and moved: whatever lies in refs/ counts as a revision.
  const fs::path beside = notes_ / absl::StrCat("ref-", NewUuid());
  const fs::path path = folder_ / "refs" / revision;
  ASSAY_RETURN_IF_ERROR(MakeFolders(path.parent_path()));
  ASSAY_RETURN_IF_ERROR(WriteFileAtomically(beside, commit));
  std::error_code error;
  fs::rename(beside, path, error);
  if (error) return absl::ErrnoToStatus(error.value(), absl::StrCat("cannot write ", path.string()));
  return absl::OkStatus();
}

absl::StatusOr<fs::path> RepoCache::Content(const std::string& commit, const std::string& name) const {
  const fs::path pointer = Snapshot(commit) / name;
  std::error_code error;
  const fs::path root = fs::canonical(folder_, error);
  if (error) return absl::NotFoundError(absl::StrCat("no ", folder_.string()));
  // weakly: where a link leads matters also when nothing is there.
  const fs::path content = fs::weakly_canonical(pointer, error);
  if (error) return absl::FailedPreconditionError(absl::StrCat(pointer.string(), ": ", error.message()));
  if (!LiesBelow(content, root)) {
    return absl::FailedPreconditionError(absl::StrCat(
        pointer.string(), " leads out of its repository's folder, to ", content.string(), ": refused"));
  }
  const fs::file_status status = fs::status(content, error);
  if (!fs::exists(status)) return absl::NotFoundError(absl::StrCat("no ", pointer.string()));
  if (!fs::is_regular_file(status)) {
    return absl::FailedPreconditionError(absl::StrCat(pointer.string(), " is no regular file"));
  }
  return content;
}

absl::StatusOr<std::set<std::string>> RepoCache::Names(const std::string& commit) const {
  std::set<std::string> names;
  const fs::path snapshot = Snapshot(commit);
  std::error_code error;
  // A folder of the snapshot could be a link too, so it is not walked into but judged as a file is.
  for (fs::recursive_directory_iterator entry(snapshot, fs::directory_options::none, error), end;
       !error && entry != end; entry.increment(error)) {
    if (entry->is_directory(error) && !entry->is_symlink(error)) continue;
    const std::string name = entry->path().lexically_relative(snapshot).generic_string();
    const absl::StatusOr<fs::path> content = Content(commit, name);
    if (absl::IsNotFound(content.status())) continue;
    if (!content.ok()) return content.status();
    names.insert(name);
  }
  if (error && error != std::errc::no_such_file_or_directory) {
    return absl::ErrnoToStatus(error.value(), absl::StrCat("cannot list ", snapshot.string()));
  }
  return names;
}

absl::Status RepoCache::Link(const std::string& commit, const std::string& name,
                             const std::string& etag) const {
  const fs::path pointer = Snapshot(commit) / name;
  ASSAY_RETURN_IF_ERROR(MakeFolders(pointer.parent_path()));
  const fs::path target = Blob(etag).lexically_relative(pointer.parent_path());
  std::error_code error;
  if (fs::is_symlink(pointer, error) && fs::read_symlink(pointer, error) == target) return absl::OkStatus();
  const fs::path beside = notes_ / absl::StrCat("link-", NewUuid());
  ASSAY_RETURN_IF_ERROR(MakeFolders(notes_));
  fs::create_symlink(target, beside, error);
  if (!error) fs::rename(beside, pointer, error);
  if (error) return absl::ErrnoToStatus(error.value(), absl::StrCat("cannot link ", pointer.string()));
  return absl::OkStatus();
}

bool RepoCache::KnownAbsent(const std::string& commit, const std::string& name) const {
  std::error_code error;
  return fs::exists(folder_ / ".no_exist" / commit / name, error);
}

void RepoCache::MarkAbsent(const std::string& commit, const std::string& name) const {
  const fs::path path = folder_ / ".no_exist" / commit / name;
  if (!MakeFolders(path.parent_path()).ok()) return;
  const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666);
  if (fd >= 0) ::close(fd);
}

bool RepoCache::HasIncomplete() const {
  std::error_code error;
  for (fs::directory_iterator entry(folder_ / "blobs", error), end; !error && entry != end;
       entry.increment(error)) {
    if (absl::EndsWith(entry->path().filename().string(), ".incomplete")) return true;
  }
  return false;
}

std::optional<RepoInfo> RepoCache::Info(const std::string& commit) const {
  const absl::StatusOr<std::string> text = ReadFile(notes_ / (commit + ".json"), size_t{64} << 20);
  if (!text.ok()) return std::nullopt;
  const nlohmann::json json = nlohmann::json::parse(*text, nullptr, false);
  RepoInfo info{.commit = commit, .files = {}};
  // A note that cannot be read is none: the hub is asked again.
  if (!json.is_array()) return std::nullopt;
  for (const nlohmann::json& row : json) {
    if (!row.is_array() || row.size() != 3 || !row[0].is_string() || !row[1].is_number_unsigned() ||
        !row[2].is_string()) {
      return std::nullopt;
    }
    info.files.push_back({row[0].get<std::string>(), row[1].get<uint64_t>(), row[2].get<std::string>()});
  }
  return info;
}

absl::Status RepoCache::SetInfo(const RepoInfo& info) const {
  nlohmann::json json = nlohmann::json::array();
  for (const RemoteFile& file : info.files) json.push_back({file.name, file.size, file.etag});
  // Names that are no UTF-8 are replaced, which IsPlainName then makes no file of.
  return WriteFileAtomically(notes_ / (info.commit + ".json"),
                             json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
}

absl::Status RepoCache::MarkUsed(const std::string& commit, absl::Time when) const {
  ASSAY_RETURN_IF_ERROR(MakeFolders(notes_));
  const fs::path path = UseFile(commit);
  const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666);
  if (fd < 0) return absl::ErrnoToStatus(errno, absl::StrCat("cannot write ", path.string()));
  const timespec time = absl::ToTimespec(when);
  const timespec times[2] = {time, time};
  const int failed = ::futimens(fd, times) == 0 ? 0 : errno;
  ::close(fd);
  if (failed != 0) return absl::ErrnoToStatus(failed, absl::StrCat("cannot note the use in ", path.string()));
  return absl::OkStatus();
}

}  // namespace assay::hub
