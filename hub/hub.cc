#include "hub/hub.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <map>
#include <optional>
#include <set>
#include <system_error>
#include <thread>
#include <tuple>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/cleanup/cleanup.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "common/checkpoint_name.h"
#include "common/digest.h"
#include "common/file.h"
#include "common/logging.h"
#include "common/status_macros.h"
#include "hub/budget.h"
#include "hub/cache.h"
#include "hub/client.h"
#include "hub/content_hash.h"
#include "hub/lock.h"
#include "hub/selection.h"

namespace assay::hub {

namespace fs = std::filesystem;

namespace {

using Cancelled = std::function<bool()>;

// Calls work(0) … work(count - 1), `parallel` at a time. After the first error the rest is not begun, and
// what runs sees `stop`; that error is returned.
absl::Status InParallel(size_t count, int parallel, const Cancelled& cancelled,
                        const std::function<absl::Status(size_t, const Cancelled& stop)>& work) {
  std::atomic<size_t> next = 0;
  std::atomic<bool> failed = false;
  absl::Mutex mutex;
  absl::Status first;
  const Cancelled stop = [&] { return failed.load() || (cancelled && cancelled()); };
  const auto run = [&] {
    while (!failed.load()) {
      const size_t at = next.fetch_add(1);
      if (at >= count) return;
      const absl::Status status = work(at, stop);
      if (status.ok()) continue;
      absl::MutexLock lock(&mutex);
      if (!failed.exchange(true)) first = status;
    }
  };
  std::vector<std::thread> threads;
  for (size_t i = 1; i < std::min(count, static_cast<size_t>(std::max(1, parallel))); ++i)
    threads.emplace_back(run);
  run();
  for (std::thread& thread : threads) thread.join();
  return first;
}

std::set<std::string> PlainNames(const RepoInfo& info) {
  std::set<std::string> names;
  for (const RemoteFile& file : info.files) {
    if (IsPlainName(file.name)) names.insert(file.name);
  }
  return names;
}

// One Find, from the first look into the cache to the last file's hash.
class Search {
 public:
  Search(const HubOptions& options, Client& client, std::string id, std::string revision, Need need,
         const FindOptions& find_options)
      : options_(options),
        client_(client),
        id_(std::move(id)),
        revision_(std::move(revision)),
        need_(need),
        find_options_(find_options),
        repo_(options.cache_dir, RepoCache::FolderName(id_)) {}

  absl::StatusOr<Found> Run() {
    std::optional<RepoInfo> info;
    absl::Status absent = absl::OkStatus();  // what is missing in the cache
    if (IsGitSha1(revision_)) {
      const absl::StatusOr<Found> found = FromCache(revision_, options_.offline);
      // Spoilt or incomplete: the hub has it whole.
      if (!absl::IsNotFound(found.status()) && !absl::IsDataLoss(found.status())) return found;
      if (options_.offline && absl::IsDataLoss(found.status())) return found;
      absent = found.status();
      info = repo_.Info(revision_);
    }
    absl::Status network = absl::OkStatus();
    if (options_.offline) {
      network = absl::UnavailableError("offline (HF_HUB_OFFLINE)");
    } else {
      if (!info.has_value()) {
        absl::StatusOr<RepoInfo> asked = client_.Info(id_, revision_, find_options_.cancelled);
        if (asked.ok()) info = *std::move(asked);
        network = asked.status();
      }
      if (info.has_value()) {
        absl::StatusOr<Found> found = FromHub(*info);
        if (found.ok()) return found;
        network = found.status();
      }
      if (!absl::IsUnavailable(network)) return network;
    }
    const std::optional<std::string> commit = IsGitSha1(revision_) ? revision_ : repo_.Ref(revision_);
    if (commit.has_value()) {
      absl::StatusOr<Found> found = FromCache(*commit, true);
      if (found.ok()) {
        if (!options_.offline) {
          spdlog::warn("{}@{}: taken from the cache as it was at {}, since: {}", id_, revision_, *commit,
                       std::string(network.message()));
        }
        return found;
      }
      if (!absl::IsNotFound(found.status())) return found.status();
      absent = found.status();
    }
    return absl::UnavailableError(
        absl::StrCat(id_, "@", revision_, " is not in the cache ", options_.cache_dir.string(),
                     absent.ok() ? "" : absl::StrCat(" (", absl::string_view(absent.message()), ")"),
                     ", and: ", network.message()));
  }

 private:
  // What is there is enough, or NOT_FOUND; DATA_LOSS: a file's content is not what its name says. `lenient`:
  // there is nobody to ask whether the repository has more.
  absl::StatusOr<Found> FromCache(const std::string& commit, bool lenient) {
    std::error_code error;
    if (!fs::exists(repo_.Snapshot(commit), error)) {
      return absl::NotFoundError(absl::StrCat("no ", repo_.Snapshot(commit).string()));
    }
    const std::shared_ptr<const void> in_use = Use(commit);
    ASSAY_ASSIGN_OR_RETURN(const std::set<std::string> there, repo_.Names(commit));
    const std::optional<RepoInfo> info = repo_.Info(commit);
    const std::set<std::string> names = info.has_value() ? PlainNames(*info) : there;

    std::vector<std::string> weights;
    if (need_ == Need::kEverything) {
      const std::string index_name = WeightIndex(names, find_options_, options_.allow_pickle);
      std::string index;
      if (!index_name.empty()) {
        if (!there.contains(index_name)) return absl::NotFoundError(absl::StrCat("no ", index_name));
        ASSAY_ASSIGN_OR_RETURN(index, ReadSmall(commit, index_name));
        weights.push_back(index_name);
      }
      absl::StatusOr<std::vector<std::string>> files =
          WeightFiles(names, index, find_options_, options_.allow_pickle);
      if (!files.ok()) {
        // Without the hub's list, what is not there may not have been downloaded. A cache full of pickles is
        // told.
        const bool pickles = absl::StrContains(files.status().message(), "pickles");
        if (info.has_value() || (lenient && pickles)) return InThisCheckpoint(commit, files.status());
        return absl::NotFoundError(files.status().message());
      }
      weights.insert(weights.end(), files->begin(), files->end());
    }
    const std::vector<std::string> small = SmallFiles(names, need_);
    ASSAY_RETURN_IF_ERROR(CheckConfig(commit, names, weights, info.has_value()));
    for (const auto* files : {&small, &std::as_const(weights)}) {
      for (const std::string& name : *files) {
        if (!there.contains(name)) return absl::NotFoundError(absl::StrCat("no ", name));
      }
    }
    if (!info.has_value() && !lenient && need_ != Need::kConfig) {
      std::set<std::string> absent;
      for (const std::string& name : WellKnownFiles()) {
        if (repo_.KnownAbsent(commit, name)) absent.insert(name);
      }
      if (repo_.HasIncomplete() || !LooksComplete(there, absent)) {
        return absl::NotFoundError("perhaps not all files of tokenizer and processor");
      }
    }
    return Assemble(commit, small, weights, info, in_use);
  }

  // Downloads what is missing or spoilt.
  absl::StatusOr<Found> FromHub(RepoInfo info) {
    const std::shared_ptr<const void> in_use = Use(info.commit);
    ASSAY_RETURN_IF_ERROR(repo_.Names(info.commit).status());
    const std::set<std::string> names = PlainNames(info);
    std::vector<std::string> weights;
    std::string index_name;
    if (need_ == Need::kEverything) {
      index_name = WeightIndex(names, find_options_, options_.allow_pickle);
      if (index_name.empty()) {
        absl::StatusOr<std::vector<std::string>> files =
            WeightFiles(names, "", find_options_, options_.allow_pickle);
        if (!files.ok()) return InThisCheckpoint(info.commit, files.status());
        weights = *std::move(files);
      }
    }
    std::vector<std::string> small = SmallFiles(names, need_);
    if (!index_name.empty()) small.push_back(index_name);
    ASSAY_RETURN_IF_ERROR(CheckConfig(info.commit, names, weights, true));
    ASSAY_RETURN_IF_ERROR(repo_.SetInfo(info));
    // What the commit's list says without hash the file's own answer says.
    ASSAY_RETURN_IF_ERROR(Complete(info, small));
    ASSAY_RETURN_IF_ERROR(Download(info, small, options_.max_small_file_bytes));
    if (!index_name.empty()) {
      ASSAY_ASSIGN_OR_RETURN(const std::string index, ReadSmall(info.commit, index_name));
      absl::StatusOr<std::vector<std::string>> files =
          WeightFiles(names, index, find_options_, options_.allow_pickle);
      if (!files.ok()) return InThisCheckpoint(info.commit, files.status());
      weights = *std::move(files);
    }
    ASSAY_RETURN_IF_ERROR(Complete(info, weights));
    ASSAY_RETURN_IF_ERROR(Download(info, weights, options_.max_weight_file_bytes));
    for (const std::string& name : WellKnownFiles()) {
      if (!names.contains(name)) repo_.MarkAbsent(info.commit, name);
    }
    ASSAY_RETURN_IF_ERROR(repo_.SetRef(revision_, info.commit));
    return Assemble(info.commit, small, weights, info, in_use);
  }

  absl::Status CheckConfig(const std::string& commit, const std::set<std::string>& names,
                           const std::vector<std::string>& weights, bool names_are_all) const {
    const bool gguf =
        weights.size() == 1 && absl::EndsWith(weights.front(), ".gguf");  // has its config inside
    if (names.contains("config.json") || gguf) return absl::OkStatus();
    if (!names_are_all) return absl::NotFoundError("no config.json");
    return InThisCheckpoint(commit, absl::FailedPreconditionError("there is no config.json"));
  }

  absl::Status InThisCheckpoint(const std::string& commit, const absl::Status& status) const {
    return absl::Status(status.code(), absl::StrCat(id_, "@", commit, ": ", status.message()));
  }

  absl::StatusOr<std::string> ReadSmall(const std::string& commit, const std::string& name) const {
    ASSAY_ASSIGN_OR_RETURN(const fs::path content, repo_.Content(commit, name));
    return ReadFile(content, options_.max_small_file_bytes);
  }

  // A cache that cannot be written to is not evicted from either, so there the lock is not missed.
  std::shared_ptr<const void> Use(const std::string& commit) const {
    absl::StatusOr<FileLock> lock =
        FileLock::Take(repo_.UseFile(commit), FileLock::kShared, find_options_.cancelled);
    if (!lock.ok()) {
      spdlog::debug("{}", std::string(lock.status().message()));
      return nullptr;
    }
    return std::make_shared<FileLock>(*std::move(lock));
  }

  absl::Status Complete(RepoInfo& info, const std::vector<std::string>& names) {
    for (RemoteFile& file : info.files) {
      if (IsContentHash(file.etag) || std::find(names.begin(), names.end(), file.name) == names.end())
        continue;
      ASSAY_ASSIGN_OR_RETURN(file, client_.Metadata(id_, info.commit, file.name, find_options_.cancelled));
    }
    return absl::OkStatus();
  }

  // True where the file is there with the content that the hub says.
  absl::StatusOr<bool> IsThere(const RepoInfo& info, const RemoteFile& file, const Cancelled& stop) const {
    const absl::StatusOr<fs::path> content = repo_.Content(info.commit, file.name);
    if (absl::IsNotFound(content.status())) return false;
    if (!content.ok()) return content.status();
    ASSAY_ASSIGN_OR_RETURN(const std::string hash, HashOfFile(*content, file.etag, stop));
    return hash == file.etag;
  }

  absl::Status Download(const RepoInfo& info, const std::vector<std::string>& names, uint64_t max_bytes) {
    std::vector<RemoteFile> missing;
    absl::Mutex mutex;
    ASSAY_RETURN_IF_ERROR(InParallel(
        names.size(), options_.parallel, find_options_.cancelled,
        [&](size_t at, const Cancelled& stop) -> absl::Status {
          const RemoteFile& file = *info.Find(names[at]);
          if (file.size > max_bytes) {
            return InThisCheckpoint(info.commit, absl::FailedPreconditionError(absl::StrCat(
                                                     file.name, " has ", file.size, " bytes, more than the ",
                                                     max_bytes, " that are allowed")));
          }
          ASSAY_ASSIGN_OR_RETURN(const bool is_there, IsThere(info, file, stop));
          if (is_there) return absl::OkStatus();
          absl::MutexLock lock(&mutex);
          missing.push_back(file);
          return absl::OkStatus();
        }));
    if (missing.empty()) return absl::OkStatus();
    // The largest first, so that no thread is left with it at the end.
    std::sort(missing.begin(), missing.end(),
              [](const RemoteFile& a, const RemoteFile& b) { return a.size > b.size; });
    ASSAY_RETURN_IF_ERROR(MakeRoom(options_, repo_, info.commit, missing, find_options_.cancelled));
    return InParallel(
        missing.size(), options_.parallel, find_options_.cancelled,
        [&](size_t at, const Cancelled& stop) { return DownloadFile(info.commit, missing[at], stop); });
  }

  absl::Status DownloadFile(const std::string& commit, const RemoteFile& file, const Cancelled& stop) {
    // Whoever else wants this content, in this process or another, waits here and then finds it.
    const absl::StatusOr<FileLock> lock =
        FileLock::Take(repo_.BlobLock(file.etag), FileLock::kExclusive, stop);
    if (!lock.ok()) return lock.status();
    const fs::path blob = repo_.Blob(file.etag);
    const absl::StatusOr<std::string> hash = HashOfFile(blob, file.etag, stop);
    if (hash.ok() && *hash == file.etag) return repo_.Link(commit, file.name, file.etag);
    if (!hash.ok() && !absl::IsNotFound(hash.status())) return hash.status();
    if (hash.ok()) {
      spdlog::warn("{} is spoilt, its content has {}: fetched anew", blob.string(), *hash);
    }
    std::error_code error;
    fs::create_directories(blob.parent_path(), error);
    const fs::path incomplete = blob.string() + ".incomplete";
    const int fd = ::open(incomplete.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666);
    if (fd < 0) return absl::ErrnoToStatus(errno, absl::StrCat("cannot write ", incomplete.string()));
    absl::Cleanup close = [fd] { ::close(fd); };
    const absl::Status fetched = client_.Fetch(id_, commit, file, fd, stop);
    if (!fetched.ok()) {
      // Its beginning is worth keeping for the next time, unless it is a lie.
      if (absl::IsDataLoss(fetched)) fs::remove(incomplete, error);
      return fetched;
    }
    fs::rename(incomplete, blob, error);
    if (error) return absl::ErrnoToStatus(error.value(), absl::StrCat("cannot rename ", incomplete.string()));
    RememberHash(fd, file.etag);
    return repo_.Link(commit, file.name, file.etag);
  }

  // DATA_LOSS where the snapshot has a file that its commit has not: readers choose among all that lie there,
  // so a model.safetensors beside the shards would be loaded in their stead, with nobody to vouch for it.
  absl::Status RefuseStrangers(const std::string& commit, const RepoInfo& info) const {
    ASSAY_ASSIGN_OR_RETURN(const std::set<std::string> there, repo_.Names(commit));
    for (const std::string& name : there) {
      if (info.Find(name) != nullptr) continue;
      const bool is_read = absl::EndsWith(name, ".safetensors") || absl::EndsWith(name, ".gguf") ||
                           absl::EndsWith(name, ".index.json") ||
                           !SmallFiles({name}, Need::kTokenizer).empty();
      if (!is_read) continue;
      return absl::DataLossError(absl::StrCat((repo_.Snapshot(commit) / name).string(), " is spoilt: ", id_,
                                              " has no such file at ", commit));
    }
    return absl::OkStatus();
  }

  // Hashes every file and says what there is.
  absl::StatusOr<Found> Assemble(const std::string& commit, std::vector<std::string> small,
                                 const std::vector<std::string>& weights, const std::optional<RepoInfo>& info,
                                 std::shared_ptr<const void> in_use) {
    Found found;
    found.folder = repo_.Snapshot(commit);
    found.root = repo_.folder();
    found.commit = commit;
    found.in_use = std::move(in_use);
    for (const std::vector<std::string>* names : {&std::as_const(small), &weights}) {
      for (const std::string& name : *names) {
        found.files.push_back({.name = name,
                               .path = found.folder / name,
                               .hub_sha256 = "",
                               .weights = names == &weights && !absl::EndsWith(name, ".json")});
      }
    }
    std::sort(found.files.begin(), found.files.end(),
              [](const FoundFile& a, const FoundFile& b) { return a.name < b.name; });
    if (info.has_value()) ASSAY_RETURN_IF_ERROR(RefuseStrangers(commit, *info));
    std::atomic<bool> unchecked = false;
    std::error_code error;
    const fs::path blobs = fs::weakly_canonical(repo_.folder() / "blobs", error);
    ASSAY_RETURN_IF_ERROR(InParallel(
        found.files.size(), options_.parallel, find_options_.cancelled,
        [&](size_t at, const Cancelled& stop) -> absl::Status {
          FoundFile& file = found.files[at];
          ASSAY_ASSIGN_OR_RETURN(const fs::path content, repo_.Content(commit, file.name));
          // The hub's list where there is one, else the blob's name, which is what the hub gave.
          const RemoteFile* remote = info.has_value() ? info->Find(file.name) : nullptr;
          std::string expected = remote != nullptr ? remote->etag : "";
          if (!IsContentHash(expected))
            expected = content.parent_path() == blobs ? content.filename().string() : "";
          if (!IsContentHash(expected)) {
            unchecked = true;
            return absl::OkStatus();
          }
          ASSAY_ASSIGN_OR_RETURN(const std::string hash, HashOfFile(content, expected, stop));
          if (hash != expected) {
            return absl::DataLossError(absl::StrCat(file.path.string(), " is spoilt: the hub says ", expected,
                                                    ", its content has ", hash));
          }
          if (IsDigest(expected)) file.hub_sha256 = expected;
          return absl::OkStatus();
        }));
    bool any = false;
    // A configuration or an index that anybody may have changed decides what the weights come to.
    found.verified = !unchecked;
    for (const FoundFile& file : found.files) {
      any = any || file.weights;
      if (file.weights && file.hub_sha256.empty()) found.verified = false;
    }
    found.verified = found.verified && any;
    if (const absl::Status used = repo_.MarkUsed(commit, options_.clock->Now()); !used.ok()) {
      spdlog::debug("{}", std::string(used.message()));  // a cache that cannot be written to
    }
    return found;
  }

  const HubOptions& options_;
  Client& client_;
  const std::string id_;
  const std::string revision_;
  const Need need_;
  const FindOptions& find_options_;
  const RepoCache repo_;
};

class CachingHub final : public Hub {
 public:
  CachingHub(HubOptions options, Url endpoint)
      : options_(std::move(options)), client_(options_, std::move(endpoint)) {}

  absl::StatusOr<Found> Find(const std::string& id, const std::string& revision, Need need,
                             const FindOptions& find_options) override {
    const std::string asked = revision.empty() ? "main" : revision;
    ASSAY_RETURN_IF_ERROR(CheckCheckpointId(id));
    ASSAY_RETURN_IF_ERROR(CheckRevision(asked));
    if (!find_options.gguf_file.empty() && !IsPlainName(find_options.gguf_file)) {
      return absl::InvalidArgumentError(absl::StrCat("'", find_options.gguf_file, "' is no name of a file"));
    }
    const Key key{id, asked, need, find_options.gguf_file};
    // Who comes while the same is being looked for takes part in its result.
    while (true) {
      std::shared_ptr<Flight> flight;
      bool first = false;
      {
        absl::MutexLock lock(&mutex_);
        std::shared_ptr<Flight>& slot = flights_[key];
        first = slot == nullptr;
        if (first) slot = std::make_shared<Flight>();
        flight = slot;
      }
      if (first) {
        absl::StatusOr<Found> found = Search(options_, client_, id, asked, need, find_options).Run();
        absl::MutexLock lock(&mutex_);
        flight->found = found;
        flight->landed = true;
        flights_.erase(key);
        return found;
      }
      absl::MutexLock lock(&mutex_);
      while (!mutex_.AwaitWithTimeout(absl::Condition(&flight->landed), absl::Milliseconds(100))) {
        if (find_options.cancelled && find_options.cancelled()) {
          return absl::CancelledError(absl::StrCat("waiting for ", id, " was cancelled"));
        }
      }
      // Another's cancelling is not this one's.
      if (!absl::IsCancelled(flight->found.status())) return flight->found;
    }
  }

 private:
  using Key = std::tuple<std::string, std::string, Need, std::string>;
  struct Flight {
    bool landed = false;
    absl::StatusOr<Found> found = absl::UnknownError("on its way");
  };

  const HubOptions options_;
  Client client_;
  absl::Mutex mutex_;
  std::map<Key, std::shared_ptr<Flight>> flights_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace

absl::StatusOr<std::unique_ptr<Hub>> Hub::Open(HubOptions options) {
  if (options.cache_dir.empty()) return absl::InvalidArgumentError("no folder for the cache of checkpoints");
  while (options.endpoint.ends_with('/')) options.endpoint.pop_back();
  ASSAY_ASSIGN_OR_RETURN(Url endpoint, ParseUrl(options.endpoint));
  endpoint.text = options.endpoint;
  for (const char c : options.token) {
    if (!absl::ascii_isgraph(c))
      return absl::InvalidArgumentError("the token (HF_TOKEN) has a character that none has");
  }
  std::error_code error;
  fs::create_directories(options.cache_dir, error);
  if (!fs::is_directory(options.cache_dir, error)) {
    return absl::InvalidArgumentError(absl::StrCat("cannot make the folder ", options.cache_dir.string()));
  }
  options.cache_dir = fs::canonical(options.cache_dir, error);
  if (error) return absl::ErrnoToStatus(error.value(), options.cache_dir.string());
  return std::make_unique<CachingHub>(std::move(options), std::move(endpoint));
}

}  // namespace assay::hub
