#include "checkpoint/checkpoint.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/digest.h"
#include "common/dtype.h"
#include "common/file.h"
#include "common/status_macros.h"

namespace assay::checkpoint {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

// The limit of the reference implementation (safetensors, MAX_HEADER_SIZE).
constexpr uint64_t kMaxHeaderBytes = 100'000'000;
constexpr size_t kMaxIndexBytes = size_t{100} << 20;
constexpr size_t kMaxShards = 10'000;

template <typename... Parts>
absl::Status Invalid(const Parts&... parts) {
  return absl::InvalidArgumentError(absl::StrCat(parts...));
}

// A file in memory, read-only; unmapped with the last reference.
class MappedFile {
 public:
  static absl::StatusOr<std::shared_ptr<const MappedFile>> Open(const fs::path& path) {
    const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (fd < 0) return absl::ErrnoToStatus(errno, path.string());
    struct stat info {};
    if (fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) {
      close(fd);
      return Invalid(path.string(), ": not a regular file");
    }
    const size_t size = static_cast<size_t>(info.st_size);
    void* start = size == 0 ? nullptr : mmap(nullptr, size, PROT_READ, MAP_PRIVATE, fd, 0);
    const int error = errno;
    close(fd);
    if (start == MAP_FAILED) return absl::ErrnoToStatus(error, path.string());
    return std::shared_ptr<const MappedFile>(new MappedFile(static_cast<const uint8_t*>(start), size));
  }
  ~MappedFile() {
    if (start_ != nullptr) munmap(const_cast<uint8_t*>(start_), size_);
  }
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const uint8_t* data() const { return start_; }
  size_t size() const { return size_; }

 private:
  MappedFile(const uint8_t* start, size_t size) : start_(start), size_(size) {}
  const uint8_t* start_;
  size_t size_;
};

// JSON with duplicate keys refused: the library would silently keep the last.
absl::StatusOr<Json> ParseJson(absl::string_view text) {
  std::vector<std::set<std::string>> open_objects;
  std::string twice;
  const auto watch = [&](int, Json::parse_event_t event, Json& parsed) {
    if (event == Json::parse_event_t::object_start) {
      open_objects.emplace_back();
    } else if (event == Json::parse_event_t::object_end) {
      open_objects.pop_back();
    } else if (event == Json::parse_event_t::key && twice.empty()) {
      const std::string& key = parsed.get_ref<const std::string&>();
      if (!open_objects.back().insert(key).second) twice = key;
    }
    return true;
  };
  try {
    Json json = Json::parse(text.begin(), text.end(), watch);
    if (!twice.empty()) return Invalid("the name ", twice, " is there twice");
    return json;
  } catch (const Json::exception& error) {
    return Invalid(error.what());
  }
}

struct DtypeRow {
  absl::string_view name;
  size_t bits;
  v1::ScalarType dtype;  // unspecified: programs do not have it
};

// The format's dtypes, https://github.com/huggingface/safetensors (safetensors/src/tensor.rs, enum Dtype).
constexpr DtypeRow kDtypes[] = {
    {"BOOL", 8, v1::BOOL},
    {"U8", 8, v1::BYTE},
    {"I8", 8, v1::CHAR},
    {"I16", 16, v1::SHORT},
    {"F16", 16, v1::HALF},
    {"BF16", 16, v1::BFLOAT16},
    {"I32", 32, v1::INT},
    {"F32", 32, v1::FLOAT},
    {"I64", 64, v1::LONG},
    {"F64", 64, v1::DOUBLE},
    {"U16", 16, v1::SCALAR_TYPE_UNSPECIFIED},
    {"U32", 32, v1::SCALAR_TYPE_UNSPECIFIED},
    {"U64", 64, v1::SCALAR_TYPE_UNSPECIFIED},
    {"F8_E5M2", 8, v1::SCALAR_TYPE_UNSPECIFIED},
    {"F8_E4M3", 8, v1::SCALAR_TYPE_UNSPECIFIED},
    {"F8_E8M0", 8, v1::SCALAR_TYPE_UNSPECIFIED},
    {"C64", 64, v1::SCALAR_TYPE_UNSPECIFIED},
};

// A whole number of bytes or elements out of JSON; negative, fractional and other values are refused.
bool ReadCount(const Json& json, uint64_t* count) {
  if (!json.is_number_unsigned()) return false;
  *count = json.get<uint64_t>();
  return true;
}

struct Section {
  CheckpointTensor tensor;
  uint64_t begin = 0;
  uint64_t end = 0;
};

absl::StatusOr<Section> ReadEntry(const Json& json, absl::Span<const uint8_t> data) {
  Section section;
  if (!json.is_object()) return Invalid("it is no object");
  const auto dtype = json.find("dtype"), shape = json.find("shape"), offsets = json.find("data_offsets");
  if (dtype == json.end() || !dtype->is_string()) return Invalid("it has no dtype");
  if (shape == json.end() || !shape->is_array()) return Invalid("it has no shape");
  if (offsets == json.end() || !offsets->is_array() || offsets->size() != 2 ||
      !ReadCount((*offsets)[0], &section.begin) || !ReadCount((*offsets)[1], &section.end)) {
    return Invalid("it has no two data_offsets");
  }
  section.tensor.dtype_name = dtype->get<std::string>();
  const auto* row = std::find_if(std::begin(kDtypes), std::end(kDtypes), [&](const DtypeRow& known) {
    return known.name == section.tensor.dtype_name;
  });
  if (row == std::end(kDtypes)) return Invalid("unknown dtype ", section.tensor.dtype_name);
  section.tensor.dtype = row->dtype;
  google::protobuf::RepeatedField<int64_t> sizes;
  for (const Json& item : *shape) {
    uint64_t size = 0;
    if (!ReadCount(item, &size) || size > (uint64_t{1} << 40)) return Invalid("a bad size in its shape");
    sizes.Add(static_cast<int64_t>(size));
    section.tensor.shape.push_back(static_cast<int64_t>(size));
  }
  ASSAY_ASSIGN_OR_RETURN(const int64_t count, ElementCount("it", sizes));
  const uint64_t bytes = static_cast<uint64_t>(count) * (row->bits / 8);
  if (section.begin > section.end || section.end > data.size()) {
    return Invalid("data_offsets [", section.begin, ", ", section.end, "] in ", data.size(),
                   " bytes of data");
  }
  if (section.end - section.begin != bytes) {
    return Invalid("its data_offsets span ", section.end - section.begin, " bytes, its shape and dtype need ",
                   bytes);
  }
  section.tensor.data = data.subspan(section.begin, bytes);
  return section;
}

// The tensors of one file.
absl::Status ReadFileInto(const fs::path& path, std::map<std::string, CheckpointTensor>& tensors,
                          bool& synthetic) {
  ASSAY_ASSIGN_OR_RETURN(const std::shared_ptr<const MappedFile> file, MappedFile::Open(path));
  const std::string place = path.string();
  if (file->size() < 8) return Invalid(place, ": too short for a safetensors file");
  uint64_t header_bytes = 0;
  for (int i = 7; i >= 0; --i) header_bytes = header_bytes << 8 | file->data()[i];
  if (header_bytes > kMaxHeaderBytes || header_bytes > file->size() - 8) {
    return Invalid(place, ": a header of ", header_bytes, " bytes in a file of ", file->size());
  }
  absl::StatusOr<Json> header =
      ParseJson(absl::string_view(reinterpret_cast<const char*>(file->data()) + 8, header_bytes));
  if (!header.ok()) return Invalid(place, ": header: ", header.status().message());
  if (!header->is_object()) return Invalid(place, ": the header is no JSON object");
  const absl::Span<const uint8_t> data(file->data() + 8 + header_bytes, file->size() - 8 - header_bytes);

  std::vector<std::pair<uint64_t, uint64_t>> sections;
  for (const auto& [name, json] : header->items()) {
    if (name == "__metadata__") {
      if (!json.is_object()) return Invalid(place, ": __metadata__ is no object");
      // Trained checkpoints do not have the key, so that a marker that is misspelled hides nothing.
      synthetic = synthetic || json.contains("assay.weights");
      continue;
    }
    absl::StatusOr<Section> section = ReadEntry(json, data);
    if (!section.ok()) return Invalid(place, ": tensor ", name, ": ", section.status().message());
    section->tensor.owner = file;
    sections.emplace_back(section->begin, section->end);
    if (!tensors.emplace(name, std::move(section->tensor)).second) {
      return Invalid(place, ": tensor ", name, " is in another shard, too");
    }
  }
  // The format wants the data section covered exactly: no overlaps, no holes, nothing at the end.
  std::sort(sections.begin(), sections.end());
  uint64_t covered = 0;
  for (const auto& [begin, end] : sections) {
    if (begin != covered) {
      return Invalid(place, ": ", begin < covered ? "tensors overlap" : "a hole between tensors", " at byte ",
                     begin, " of the data");
    }
    covered = end;
  }
  if (covered == data.size()) return absl::OkStatus();
  return Invalid(place, ": ", data.size() - covered, " bytes of data belong to no tensor");
}

// Shard names of an index, and which tensors it promises in which.
absl::StatusOr<std::map<std::string, std::string>> ReadIndex(const fs::path& path) {
  ASSAY_ASSIGN_OR_RETURN(const std::string text, ReadFile(path, kMaxIndexBytes));
  absl::StatusOr<Json> json = ParseJson(text);
  if (!json.ok()) return Invalid(path.string(), ": ", json.status().message());
  const auto map = json->is_object() ? json->find("weight_map") : json->end();
  if (!json->is_object() || map == json->end() || !map->is_object()) {
    return Invalid(path.string(), ": it has no weight_map");
  }
  std::map<std::string, std::string> shard_of;
  for (const auto& [name, shard] : map->items()) {
    if (!shard.is_string()) return Invalid(path.string(), ": ", name, " has no file name");
    const std::string file = shard.get<std::string>();
    // A checkpoint is data: it names files of its own folder only.
    if (file.empty() || file != fs::path(file).filename().string() || file == "." || file == "..") {
      return Invalid(path.string(), ": ", name, " is in '", file, "', which is no file name");
    }
    shard_of.emplace(name, file);
  }
  return shard_of;
}

std::string SpecText(const v1::WeightSpec& spec) {
  return absl::StrCat(DtypeName(spec.dtype()), " [", absl::StrJoin(spec.shape(), ", "), "]");
}

std::string SomeOf(absl::string_view what, const std::vector<std::string>& names) {
  constexpr size_t kShown = 5;
  if (names.empty()) return "";
  const auto end = names.begin() + static_cast<std::ptrdiff_t>(std::min(kShown, names.size()));
  return absl::StrCat(names.size(), " ", what, ": ", absl::StrJoin(names.begin(), end, ", "),
                      names.size() > kShown ? ", …" : "");
}

}  // namespace

absl::StatusOr<Checkpoint> Checkpoint::Open(const fs::path& folder) {
  const fs::path single = folder / "model.safetensors";
  const fs::path index = folder / "model.safetensors.index.json";
  std::error_code ignored;
  Checkpoint checkpoint;
  if (fs::exists(single, ignored)) {
    ASSAY_RETURN_IF_ERROR(ReadFileInto(single, checkpoint.tensors_, checkpoint.synthetic_));
    return checkpoint;
  }
  if (!fs::exists(index, ignored)) {
    return absl::NotFoundError(
        absl::StrCat(folder.string(), ": neither model.safetensors nor model.safetensors.index.json"));
  }
  ASSAY_ASSIGN_OR_RETURN(const auto shard_of, ReadIndex(index));
  std::set<std::string> shards;
  for (const auto& [name, shard] : shard_of) shards.insert(shard);
  if (shards.size() > kMaxShards) return Invalid(index.string(), ": ", shards.size(), " shards");
  for (const std::string& shard : shards) {
    std::map<std::string, CheckpointTensor> tensors;
    absl::Status read = ReadFileInto(folder / shard, tensors, checkpoint.synthetic_);
    // The index is there, so a shard that is not is a damaged checkpoint, not an absent one.
    if (absl::IsNotFound(read)) return Invalid(index.string(), ": shard ", shard, " is missing");
    if (!read.ok()) return read;
    for (auto& [name, tensor] : tensors) {
      if (!checkpoint.tensors_.emplace(name, std::move(tensor)).second) {
        return Invalid((folder / shard).string(), ": tensor ", name, " is in another shard, too");
      }
    }
    for (const auto& [name, promised] : shard_of) {
      if (promised == shard && tensors.count(name) == 0) {
        return Invalid(index.string(), ": tensor ", name, " is not in ", shard);
      }
    }
  }
  return checkpoint;
}

const CheckpointTensor* Checkpoint::Find(const v1::Manifest& manifest, const std::string& weight) const {
  if (const auto found = tensors_.find(weight); found != tensors_.end()) return &found->second;
  for (const v1::TiedWeight& tied : manifest.tied()) {
    if (tied.weight() != weight) continue;
    if (const auto found = tensors_.find(tied.alias()); found != tensors_.end()) return &found->second;
  }
  return nullptr;
}

Fit Checkpoint::Match(const v1::Manifest& manifest) const {
  Fit fit;
  std::set<std::string> known;
  for (const v1::TiedWeight& tied : manifest.tied()) known.insert(tied.alias());
  for (const v1::WeightSpec& spec : manifest.weights()) {
    known.insert(spec.name());
    const CheckpointTensor* stored = Find(manifest, spec.name());
    if (stored == nullptr) {
      fit.missing.push_back(spec.name());
    } else if (stored->dtype != spec.dtype() || !std::equal(stored->shape.begin(), stored->shape.end(),
                                                            spec.shape().begin(), spec.shape().end())) {
      fit.mismatched.push_back(absl::StrCat(spec.name(), ": ", SpecText(spec), " in the program, ",
                                            stored->dtype_name, " [", absl::StrJoin(stored->shape, ", "),
                                            "] in the checkpoint"));
    }
  }
  for (const auto& [name, tensor] : tensors_) {
    if (known.count(name) == 0) fit.unexpected.push_back(name);
  }
  return fit;
}

std::string Fit::Describe() const {
  std::vector<std::string> parts;
  for (std::string part :
       {SomeOf("missing", missing), SomeOf("mismatched", mismatched), SomeOf("unexpected", unexpected)}) {
    if (!part.empty()) parts.push_back(std::move(part));
  }
  return parts.empty() ? "every weight is there, and nothing else" : absl::StrJoin(parts, "; ");
}

std::string Checkpoint::Digest() const {
  Sha256 digest;
  for (const auto& [name, tensor] : tensors_) {
    // Lengths first, so that no two checkpoints run together to the same bytes.
    digest.Update(absl::StrCat(name.size(), ":", name, tensor.dtype_name, "[",
                               absl::StrJoin(tensor.shape, ","), "]", tensor.data.size(), ":"));
    digest.Update(absl::string_view(reinterpret_cast<const char*>(tensor.data.data()), tensor.data.size()));
  }
  return digest.FinishHex();
}

}  // namespace assay::checkpoint
