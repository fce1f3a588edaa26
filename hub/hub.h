// Finding and fetching checkpoints: a name such as "owner/name@revision" becomes a folder on this machine.
// Files lie in the Hugging Face cache, in the layout that its Python library reads and writes
// (https://huggingface.co/docs/huggingface_hub/guides/manage-cache), and both may use one cache at the same
// time. What is there at a pinned commit costs no network. No LibTorch here.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "common/clock.h"

namespace assay::hub {

struct HubOptions {
  std::string endpoint = "https://huggingface.co";
  std::filesystem::path cache_dir;  // the folder that holds models--owner--name; Open makes it
  std::string token;                // sent to the endpoint's own scheme, host and port, nowhere else
  bool offline = false;             // no network at all

  // What Assay itself has downloaded into the cache may take so many bytes; 0: any amount. What has not been
  // used for longest is evicted first, never what a Found still holds.
  uint64_t disk_budget_bytes = 0;
  // True: the budget is for everything in the cache, and what other programs downloaded is evicted too.
  bool budget_covers_all = false;

  bool allow_pickle = false;  // fetch pytorch_model*.bin where a repository has nothing else
  int parallel = 4;           // files on their way, or being hashed, at once; for one Find
  int retries = 5;            // of a request that fails without bringing anything new
  absl::Duration metadata_timeout = absl::Seconds(10);  // HF_HUB_ETAG_TIMEOUT: a request that moves no file
  absl::Duration stall_timeout = absl::Seconds(10);     // HF_HUB_DOWNLOAD_TIMEOUT: a file that stands still
  absl::Duration backoff = absl::Milliseconds(500);     // before the first retry; doubles, with jitter
  absl::Duration max_wait = absl::Minutes(2);  // longest wait before a retry; Retry-After beyond it: give up
  absl::Duration breaker = absl::Seconds(30);  // how long a hub that cannot be connected to is left alone
  uint64_t max_small_file_bytes = uint64_t{256} << 20;  // of a config, tokenizer or index
  uint64_t max_weight_file_bytes = uint64_t{1} << 40;
  std::string ca_bundle;  // file of trusted certificates; empty: the system's

  // For tests. `sleep` must return early or late as it likes, but not throw.
  const Clock* clock = &Clock::System();
  std::function<void(absl::Duration)> sleep = [](absl::Duration time) { absl::SleepFor(time); };

  // As Python's huggingface_hub reads its environment: HF_HUB_CACHE, HUGGINGFACE_HUB_CACHE, HF_HOME,
  // XDG_CACHE_HOME, HF_TOKEN, HUGGING_FACE_HUB_TOKEN, HF_TOKEN_PATH (a file, default HF_HOME/token),
  // HF_HUB_DISABLE_IMPLICIT_TOKEN, HF_HUB_OFFLINE, TRANSFORMERS_OFFLINE, HF_ENDPOINT, HF_HUB_ETAG_TIMEOUT,
  // HF_HUB_DOWNLOAD_TIMEOUT; further REQUESTS_CA_BUNDLE, CURL_CA_BUNDLE and SSL_CERT_FILE.
  static HubOptions FromEnvironment();
};

enum class Need {
  kConfig,      // config.json and generation_config.json
  kTokenizer,   // and the files of tokenizer and processor
  kEverything,  // and the weights
};

struct FoundFile {
  std::string name;            // in the repository, e.g. "model-00001-of-00002.safetensors"
  std::filesystem::path path;  // absolute; for the cache a link in the snapshot
  std::string hub_sha256;      // empty where the hub gives none (small files, folders)
  bool weights = false;
};

struct Found {
  std::filesystem::path folder;  // with config.json in it, unless it is GGUF alone
  // What `folder`'s links lead to lies below this folder (a repository's folder in the cache, else `folder`
  // itself): a sandbox that shows the checkpoint shows this, read-only.
  std::filesystem::path root;
  std::string commit;            // 40 hex digits; empty for a local folder
  std::vector<FoundFile> files;  // that the need asks for, ordered by name
  // Every weight file was hashed, by this process, and has the SHA-256 that the hub gives (in the cache: the
  // name of its blob). False where no weights were asked for, and for a local folder.
  bool verified = false;
  // As long as a copy of this lives the snapshot is not evicted, by this process or another.
  std::shared_ptr<const void> in_use;
};

struct FindOptions {
  // A GGUF file of the repository to fetch instead of safetensors; empty: safetensors, else the GGUF file
  // whose quantisation is the most exact that Assay reads.
  std::string gguf_file;
  // Asked often, from several threads; true ends Find with CANCELLED. May be empty.
  std::function<bool()> cancelled;
};

// Thread-safe. However many threads and processes want a file, one downloads it, the others wait for it.
class Hub {
 public:
  // INVALID_ARGUMENT: an endpoint that is no http(s) URL, or no cache_dir.
  static absl::StatusOr<std::unique_ptr<Hub>> Open(HubOptions options);
  virtual ~Hub() = default;

  // id, revision: as common/checkpoint_name.h has them; no revision: "main". With a commit of 40 hex digits
  // whose files are in the cache there is no network at all; another revision is resolved by the hub, or,
  // offline or where the hub cannot be reached, by what the cache remembers of it.
  //
  // INVALID_ARGUMENT: id or revision malformed.
  // NOT_FOUND: the hub knows no such repository, revision or gguf_file.
  // PERMISSION_DENIED: gated or private; the message says how to get in.
  // FAILED_PRECONDITION: the checkpoint itself is refused: no config.json, no weights, pickles alone, an
  // index that names a missing file, a link that leads out of the repository's folder, a file beyond the
  // limits.
  // UNAVAILABLE: network, 5xx, 429 after retries, or offline and not in the cache; the message says which.
  // RESOURCE_EXHAUSTED: disk or budget. DATA_LOSS: hash or length wrong even after a fresh fetch; names the
  // file. CANCELLED: FindOptions.cancelled. Else what the file system says.
  virtual absl::StatusOr<Found> Find(const std::string& id, const std::string& revision, Need need,
                                     const FindOptions& find_options = {}) = 0;
};

// A local folder. Its canonical path must lie below one of `roots` (none: anywhere), and what links in it
// lead to must lie below the folder itself or, for a snapshot in a cache, below its repository's folder.
// Lists config, tokenizer and weight files that are there; whether they make a checkpoint is for their reader
// to say. INVALID_ARGUMENT: not absolute. NOT_FOUND: no such folder. PERMISSION_DENIED: below none of the
// roots. FAILED_PRECONDITION: a link that leads out; named.
absl::StatusOr<Found> FindFolder(const std::filesystem::path& path,
                                 const std::vector<std::filesystem::path>& roots);

}  // namespace assay::hub
