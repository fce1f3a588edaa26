#include "hub/budget.h"

#include <sys/stat.h>
#include <sys/statvfs.h>

#include <algorithm>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <system_error>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "common/file.h"
#include "common/logging.h"
#include "common/status_macros.h"
#include "hub/lock.h"

namespace assay::hub {

namespace fs = std::filesystem;

namespace {

constexpr absl::string_view kIncomplete = ".incomplete";
constexpr absl::string_view kMine = ".mine";

std::string Amount(uint64_t bytes) {
  return absl::StrFormat("%.1f MiB", static_cast<double>(bytes) / (1 << 20));
}

// Names in a folder; none where there is no folder.
std::vector<std::string> List(const fs::path& folder) {
  std::vector<std::string> names;
  std::error_code error;
  for (fs::directory_iterator entry(folder, error), end; !error && entry != end; entry.increment(error)) {
    names.push_back(entry->path().filename().string());
  }
  return names;
}

struct BlobEntry {
  uint64_t size = 0;
  bool mine = false;
  std::string commit;  // that it was downloaded for; empty: not by Assay
};

struct SnapshotEntry {
  std::string commit;
  std::map<std::string, std::string> links;  // path below the snapshot → etag
  struct timespec last_use = {};
};

// One repository's folder as it is now.
struct Shelf {
  RepoCache repo;
  std::map<std::string, BlobEntry> blobs;  // by etag
  std::vector<SnapshotEntry> snapshots;
  bool Linked(const std::string& etag, const SnapshotEntry* except) const {
    return std::any_of(snapshots.begin(), snapshots.end(), [&](const SnapshotEntry& snapshot) {
      return &snapshot != except && std::any_of(snapshot.links.begin(), snapshot.links.end(),
                                                [&](const auto& link) { return link.second == etag; });
    });
  }
};

Shelf Look(const fs::path& cache_dir, const std::string& folder_name) {
  Shelf shelf{.repo = RepoCache(cache_dir, folder_name), .blobs = {}, .snapshots = {}};
  for (const std::string& name : List(shelf.repo.folder() / "blobs")) {
    std::error_code error;
    const uint64_t size = fs::file_size(shelf.repo.folder() / "blobs" / name, error);
    BlobEntry& blob = shelf.blobs[std::string(absl::StripSuffix(name, kIncomplete))];
    if (!error) blob.size = std::max(blob.size, size);
  }
  for (const std::string& name : List(shelf.repo.notes())) {
    if (!absl::EndsWith(name, kMine)) continue;
    const absl::StatusOr<std::string> text = ReadFile(shelf.repo.notes() / name, 1024);
    const std::vector<std::string> words = absl::StrSplit(text.ok() ? *text : "", ' ');
    uint64_t size = 0;
    if (words.size() != 2 || !absl::SimpleAtoi(words[0], &size)) continue;
    BlobEntry& blob = shelf.blobs[std::string(absl::StripSuffix(name, kMine))];
    blob.mine = true;
    blob.commit = words[1];
    blob.size = std::max(blob.size, size);
  }
  for (const std::string& commit : List(shelf.repo.folder() / "snapshots")) {
    SnapshotEntry snapshot{.commit = commit, .links = {}, .last_use = {}};
    const fs::path folder = shelf.repo.Snapshot(commit);
    std::error_code error;
    for (fs::recursive_directory_iterator entry(folder, error), end; !error && entry != end;
         entry.increment(error)) {
      std::error_code no_link;
      const fs::path target = fs::read_symlink(entry->path(), no_link);
      if (!no_link) {
        snapshot.links[entry->path().lexically_relative(folder).generic_string()] =
            target.filename().string();
      }
    }
    struct stat stat;
    if (::stat(shelf.repo.UseFile(commit).c_str(), &stat) == 0 || ::stat(folder.c_str(), &stat) == 0) {
      snapshot.last_use = stat.st_mtim;
    }
    shelf.snapshots.push_back(std::move(snapshot));
  }
  return shelf;
}

// All repositories of models in a cache. Used under the lock of the budget.
class Shelves {
 public:
  Shelves(const HubOptions& options) : options_(options) {
    std::set<std::string> names;
    for (const fs::path& folder : {options.cache_dir, options.cache_dir / ".locks" / "assay"}) {
      for (std::string& name : List(folder)) {
        if (absl::StartsWith(name, "models--")) names.insert(std::move(name));
      }
    }
    for (const std::string& name : names) shelves_.push_back(Look(options.cache_dir, name));
  }

  // Bytes that the budget is for.
  uint64_t Used() const {
    uint64_t used = 0;
    for (const Shelf& shelf : shelves_) {
      for (const auto& [etag, blob] : shelf.blobs) used += Counts(blob) ? blob.size : 0;
    }
    return used;
  }

  // Evicts the next thing in line; false where there is none.
  bool EvictOne() {
    for (Shelf& shelf : shelves_) {
      for (auto& [etag, blob] : shelf.blobs) {
        if (Counts(blob) && !shelf.Linked(etag, nullptr) && EvictUnlinked(shelf, etag)) return true;
      }
    }
    struct Candidate {
      Shelf* shelf;
      SnapshotEntry* snapshot;
    };
    std::vector<Candidate> line;
    for (Shelf& shelf : shelves_) {
      for (SnapshotEntry& snapshot : shelf.snapshots) {
        if (!tried_.contains({shelf.repo.folder().string(), snapshot.commit}))
          line.push_back({&shelf, &snapshot});
      }
    }
    std::sort(line.begin(), line.end(), [](const Candidate& a, const Candidate& b) {
      return std::pair(a.snapshot->last_use.tv_sec, a.snapshot->last_use.tv_nsec) <
             std::pair(b.snapshot->last_use.tv_sec, b.snapshot->last_use.tv_nsec);
    });
    for (const Candidate& candidate : line) {
      tried_.insert({candidate.shelf->repo.folder().string(), candidate.snapshot->commit});
      if (EvictSnapshot(*candidate.shelf, *candidate.snapshot)) return true;
    }
    return false;
  }

 private:
  bool Counts(const BlobEntry& blob) const { return blob.mine || options_.budget_covers_all; }

  // Removes content; the caller knows that nothing links to it. False where somebody is at it.
  bool Remove(Shelf& shelf, const std::string etag) {
    const absl::StatusOr<std::optional<FileLock>> lock =
        FileLock::Try(shelf.repo.BlobLock(etag), FileLock::kExclusive);
    if (!lock.ok() || !lock->has_value()) return false;
    std::error_code error;
    const fs::path blob = shelf.repo.Blob(etag);
    fs::remove(blob, error);
    if (error) return false;
    fs::remove(blob.string() + std::string(kIncomplete), error);
    fs::remove(shelf.repo.MineFile(etag), error);
    shelf.blobs.erase(etag);
    return true;
  }

  // What a download that never ended left, or one that was linked by a snapshot that is gone.
  bool EvictUnlinked(Shelf& shelf, const std::string& etag) {
    std::optional<FileLock> use;
    if (const std::string& commit = shelf.blobs[etag].commit; !commit.empty()) {
      absl::StatusOr<std::optional<FileLock>> lock =
          FileLock::Try(shelf.repo.UseFile(commit), FileLock::kExclusive);
      if (!lock.ok() || !lock->has_value()) return false;
      use = *std::move(lock);
    }
    spdlog::info("cache: evicting {} of {}, which nothing links to", etag, shelf.repo.folder().string());
    return Remove(shelf, etag);
  }

  // True where this made room.
  bool EvictSnapshot(Shelf& shelf, SnapshotEntry& snapshot) {
    const bool any = std::any_of(snapshot.links.begin(), snapshot.links.end(), [&](const auto& link) {
      const auto blob = shelf.blobs.find(link.second);
      return blob != shelf.blobs.end() && Counts(blob->second);
    });
    if (!any) return false;
    const absl::StatusOr<std::optional<FileLock>> use =
        FileLock::Try(shelf.repo.UseFile(snapshot.commit), FileLock::kExclusive);
    if (!use.ok() || !use->has_value()) return false;
    const fs::path folder = shelf.repo.Snapshot(snapshot.commit);
    spdlog::info("cache: evicting {}", folder.string());
    bool made_room = false;
    std::error_code error;
    for (auto link = snapshot.links.begin(); link != snapshot.links.end();) {
      const auto [path, etag] = *link;
      const auto blob = shelf.blobs.find(etag);
      if (blob == shelf.blobs.end() || !Counts(blob->second)) {
        ++link;
        continue;
      }
      fs::remove(folder / path, error);
      link = snapshot.links.erase(link);
      if (!shelf.Linked(etag, nullptr) && Remove(shelf, etag)) made_room = true;
    }
    RemoveEmptyFolders(folder);
    if (!fs::exists(folder, error)) Forget(shelf, snapshot.commit);
    return made_room;
  }

  static void RemoveEmptyFolders(const fs::path& folder) {
    std::error_code error;
    for (const std::string& name : List(folder)) {
      if (fs::is_directory(fs::symlink_status(folder / name, error))) RemoveEmptyFolders(folder / name);
    }
    fs::remove(folder, error);  // refuses where something is left
  }

  // A branch whose snapshot is gone would be a corrupt cache to the Python library.
  static void Forget(Shelf& shelf, const std::string& commit) {
    std::error_code error;
    const fs::path refs = shelf.repo.folder() / "refs";
    std::vector<fs::path> gone;
    for (fs::recursive_directory_iterator entry(refs, error), end; !error && entry != end;
         entry.increment(error)) {
      if (entry->is_regular_file(error) &&
          shelf.repo.Ref(entry->path().lexically_relative(refs).generic_string()) == commit) {
        gone.push_back(entry->path());
      }
    }
    for (const fs::path& ref : gone) fs::remove(ref, error);
    fs::remove_all(shelf.repo.folder() / ".no_exist" / commit, error);
    fs::remove(shelf.repo.notes() / (commit + ".json"), error);
  }

  const HubOptions& options_;
  std::vector<Shelf> shelves_;
  std::set<std::pair<std::string, std::string>> tried_;
};

}  // namespace

absl::Status MakeRoom(const HubOptions& options, const RepoCache& repo, const std::string& commit,
                      const std::vector<RemoteFile>& files, const std::function<bool()>& cancelled) {
  const absl::StatusOr<FileLock> lock =
      FileLock::Take(options.cache_dir / ".locks" / "assay" / "budget.lock", FileLock::kExclusive, cancelled);
  if (!lock.ok()) return lock.status();

  std::map<std::string, uint64_t> wanted;  // by etag, so that twins count once
  std::error_code error;
  for (const RemoteFile& file : files) {
    if (!fs::exists(repo.Blob(file.etag), error)) wanted[file.etag] = file.size;
  }
  uint64_t to_count = 0;  // not noted yet, so not in Used
  uint64_t to_write = 0;
  for (const auto& [etag, size] : wanted) {
    if (!fs::exists(repo.MineFile(etag), error)) to_count += size;
    const uint64_t there = fs::file_size(repo.Blob(etag).string() + std::string(kIncomplete), error);
    to_write += size - (error ? 0 : std::min(size, there));
  }
  const auto free_bytes = [&]() -> uint64_t {
    struct statvfs stat;
    if (::statvfs(options.cache_dir.c_str(), &stat) != 0) return UINT64_MAX;
    return static_cast<uint64_t>(stat.f_bavail) * stat.f_frsize;
  };
  const bool bounded = options.disk_budget_bytes > 0;
  std::optional<Shelves> shelves;
  if (bounded) shelves.emplace(options);
  while (true) {
    const uint64_t used = bounded ? shelves->Used() : 0;
    const bool in_budget = !bounded || used + to_count <= options.disk_budget_bytes;
    const uint64_t free = free_bytes();
    if (in_budget && to_write <= free) break;
    if (bounded && shelves->EvictOne()) continue;
    if (!in_budget) {
      return absl::ResourceExhaustedError(absl::StrCat(
          repo.folder().filename().string(), " needs ", Amount(to_count), " more, ", Amount(used),
          " of the cache's budget of ", Amount(options.disk_budget_bytes), " are taken and in use"));
    }
    return absl::ResourceExhaustedError(absl::StrCat(repo.folder().filename().string(), " needs ",
                                                     Amount(to_write), " more, ", options.cache_dir.string(),
                                                     " has ", Amount(free), " free"));
  }
  for (const auto& [etag, size] : wanted) {
    ASSAY_RETURN_IF_ERROR(WriteFileAtomically(repo.MineFile(etag), absl::StrCat(size, " ", commit)));
  }
  return absl::OkStatus();
}

}  // namespace assay::hub
