#include "checkpoint/checkpoint.h"

#include <algorithm>
#include <map>
#include <set>
#include <system_error>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "checkpoint/gguf.h"
#include "checkpoint/inspect.h"
#include "checkpoint/mapped_file.h"
#include "checkpoint/safetensors.h"
#include "common/file.h"
#include "common/status_macros.h"

namespace assay::checkpoint {
namespace {

namespace fs = std::filesystem;

constexpr char kSingle[] = "model.safetensors";
constexpr char kIndex[] = "model.safetensors.index.json";
constexpr size_t kMaxIndexBytes = size_t{100} << 20;

template <typename... Parts>
absl::Status Invalid(const Parts&... parts) {
  return absl::InvalidArgumentError(absl::StrCat(parts...));
}

absl::Status In(const fs::path& file, const absl::Status& status) {
  return absl::Status(status.code(), absl::StrCat(file.string(), ": ", status.message()));
}

// A link that leads nowhere counts: the file is meant to be there.
bool HasFile(const fs::path& path) {
  std::error_code ignored;
  return fs::symlink_status(path, ignored).type() != fs::file_type::not_found &&
         fs::symlink_status(path, ignored).type() != fs::file_type::none;
}

// As ResolveInside, but that a link to nothing is damage, not absence: a blob of a cache is gone.
absl::StatusOr<fs::path> Resolve(const fs::path& folder, const std::string& name) {
  absl::StatusOr<fs::path> place = ResolveInside(folder, name);
  if (absl::IsNotFound(place.status()) && HasFile(folder / name)) {
    return Invalid((folder / name).string(), ": a link that leads nowhere");
  }
  return place;
}

absl::StatusOr<std::shared_ptr<const MappedFile>> MapInside(const fs::path& folder, const std::string& name) {
  ASSAY_ASSIGN_OR_RETURN(const fs::path place, Resolve(folder, name));
  return MappedFile::Open(place);
}

absl::StatusOr<SafetensorsFile> OpenSafetensors(const fs::path& folder, const std::string& name) {
  ASSAY_ASSIGN_OR_RETURN(const std::shared_ptr<const MappedFile> file, MapInside(folder, name));
  absl::StatusOr<SafetensorsFile> read = ReadSafetensors(file->bytes(), file);
  if (!read.ok()) return In(folder / name, read.status());
  return read;
}

absl::StatusOr<std::map<std::string, std::string>> OpenIndex(const fs::path& folder) {
  ASSAY_ASSIGN_OR_RETURN(const fs::path place, Resolve(folder, kIndex));
  ASSAY_ASSIGN_OR_RETURN(const std::string text, ReadFile(place, kMaxIndexBytes));
  auto shard_of = ReadIndex(text);
  if (!shard_of.ok()) return In(folder / kIndex, shard_of.status());
  return shard_of;
}

// All shards of an index, each with exactly the tensors that the index says.
absl::StatusOr<SafetensorsFile> OpenShards(const fs::path& folder, size_t* shard_count) {
  ASSAY_ASSIGN_OR_RETURN(const auto shard_of, OpenIndex(folder));
  std::map<std::string, std::set<std::string>> promised;
  for (const auto& [name, shard] : shard_of) promised[shard].insert(name);
  *shard_count = promised.size();
  SafetensorsFile all;
  for (const auto& [shard, names] : promised) {
    absl::StatusOr<SafetensorsFile> read = OpenSafetensors(folder, shard);
    // The index is there, so a shard that is not is a damaged checkpoint, not an absent one.
    if (absl::IsNotFound(read.status())) {
      return Invalid((folder / kIndex).string(), ": shard ", shard, " is missing, with tensor ",
                     *names.begin());
    }
    if (!read.ok()) return read.status();
    all.synthetic = all.synthetic || read->synthetic;
    for (auto& [name, tensor] : read->tensors) {
      const auto entry = shard_of.find(name);
      if (entry == shard_of.end()) {
        return Invalid((folder / shard).string(), ": tensor ", name, " is not in the index");
      }
      if (entry->second != shard) {
        return Invalid((folder / shard).string(), ": tensor ", name, " is in ", entry->second,
                       " by the index");
      }
      all.tensors.emplace(name, std::move(tensor));
    }
    for (const std::string& name : names) {
      if (read->tensors.count(name) == 0) {
        return Invalid((folder / kIndex).string(), ": tensor ", name, " is not in ", shard);
      }
    }
  }
  return all;
}

std::string GgufFormat(const Tensors& tensors) {
  std::map<std::string, size_t> types;
  for (const auto& [name, tensor] : tensors) ++types[tensor.dtype_name];
  std::vector<std::pair<size_t, std::string>> by_count;
  for (const auto& [type, count] : types) by_count.emplace_back(count, type);
  std::sort(by_count.rbegin(), by_count.rend());
  return absl::StrCat(
      "GGUF (",
      absl::StrJoin(by_count, ", ", [](std::string* out, const auto& item) { out->append(item.second); }),
      ")");
}

bool IsGguf(absl::string_view name) { return absl::EndsWith(name, ".gguf"); }

bool IsPickle(absl::string_view name) {
  return absl::EndsWith(name, ".pt") || absl::EndsWith(name, ".pth") || absl::EndsWith(name, ".ckpt") ||
         (absl::StartsWith(name, "pytorch_model") && absl::EndsWith(name, ".bin"));
}

// Names of files in a folder, in order.
std::vector<std::string> FilesThat(bool (*matches)(absl::string_view), const fs::path& folder) {
  std::vector<std::string> files;
  std::error_code error;
  for (fs::directory_iterator entry(folder, error), end; !error && entry != end; entry.increment(error)) {
    std::string name = entry->path().filename().string();
    if (matches(name)) files.push_back(std::move(name));
  }
  std::sort(files.begin(), files.end());
  return files;
}

absl::StatusOr<Tensors> OpenGguf(const fs::path& folder, const std::string& name) {
  ASSAY_ASSIGN_OR_RETURN(const std::shared_ptr<const MappedFile> file, MapInside(folder, name));
  absl::StatusOr<Tensors> tensors = ReadGgufTensors(file->bytes(), file);
  if (!tensors.ok()) return In(folder / name, tensors.status());
  return tensors;
}

}  // namespace

absl::StatusOr<Checkpoint> Checkpoint::Open(const fs::path& folder) {
  Checkpoint checkpoint;
  SafetensorsFile file;
  if (HasFile(folder / kSingle)) {
    ASSAY_ASSIGN_OR_RETURN(file, OpenSafetensors(folder, kSingle));
    checkpoint.format_ = "safetensors";
  } else if (HasFile(folder / kIndex)) {
    size_t shards = 0;
    ASSAY_ASSIGN_OR_RETURN(file, OpenShards(folder, &shards));
    checkpoint.format_ = absl::StrCat("safetensors, ", shards, shards == 1 ? " shard" : " shards");
  } else if (const auto ggufs = FilesThat(IsGguf, folder); ggufs.size() == 1) {
    ASSAY_ASSIGN_OR_RETURN(file.tensors, OpenGguf(folder, ggufs.front()));
    checkpoint.format_ = GgufFormat(file.tensors);
  } else if (ggufs.size() > 1) {
    return Invalid(folder.string(), ": ", ggufs.size(),
                   " GGUF files, and no way to tell which: ", absl::StrJoin(ggufs, ", "));
  } else if (const auto pickles = FilesThat(IsPickle, folder); !pickles.empty()) {
    return absl::FailedPreconditionError(absl::StrCat(
        (folder / pickles.front()).string(),
        ": weights as a pickle, which is a program that runs when it is read: refused. Convert them to "
        "safetensors, or have the operator allow the conversion in an exporter's sandbox"));
  } else {
    return absl::NotFoundError(
        absl::StrCat(folder.string(), ": neither ", kSingle, " nor ", kIndex, " nor a GGUF file"));
  }
  checkpoint.tensors_ = std::move(file.tensors);
  checkpoint.synthetic_ = file.synthetic;
  return checkpoint;
}

uint64_t Checkpoint::bytes() const {
  uint64_t sum = 0;
  for (const auto& [name, tensor] : tensors_) sum += tensor.data.size();
  return sum;
}

std::string Checkpoint::Digest() const { return DigestTensors(tensors_); }

Inspection Checkpoint::Inspect(const Fit& fit, int threads) const {
  Inspection inspection;
  // The library's own initialisation writes tables of zeros, and random values have nothing to be sound
  // about.
  inspection.digest = DigestAndInspect(tensors_, fit, !synthetic_, threads, &inspection.defects);
  return inspection;
}

Fit Checkpoint::Match(const v1::Manifest& manifest) const {
  return MatchTensors(tensors_, format_, manifest);
}

}  // namespace assay::checkpoint
