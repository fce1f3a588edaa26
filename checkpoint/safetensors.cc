#include "checkpoint/safetensors.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "checkpoint/names.h"
#include "common/dtype.h"
#include "common/status_macros.h"

namespace assay::checkpoint {
namespace {

using Json = nlohmann::json;

// The limit of the reference implementation (safetensors, MAX_HEADER_SIZE).
constexpr uint64_t kMaxHeaderBytes = 100'000'000;
constexpr size_t kMaxShards = 10'000;
constexpr size_t kMaxDimensions = 16;

template <typename... Parts>
absl::Status Invalid(const Parts&... parts) {
  return absl::InvalidArgumentError(absl::StrCat(parts...));
}

// JSON with duplicate keys refused, which the library would settle silently, and with depth bounded: neither
// form goes deeper than an array in an object in an object.
absl::StatusOr<Json> ParseJson(absl::string_view text) {
  std::vector<std::set<std::string>> open_objects;
  std::string fault;
  const auto watch = [&](int depth, Json::parse_event_t event, Json& parsed) {
    if (depth > 8 && fault.empty()) fault = "nested too deep";
    if (!fault.empty()) return false;  // what follows is read, and dropped
    if (event == Json::parse_event_t::object_start) {
      open_objects.emplace_back();
    } else if (event == Json::parse_event_t::object_end) {
      if (!open_objects.empty()) open_objects.pop_back();
    } else if (event == Json::parse_event_t::key && !open_objects.empty()) {
      const std::string& key = parsed.get_ref<const std::string&>();
      if (!open_objects.back().insert(key).second) fault = absl::StrCat("the name ", key, " is there twice");
    }
    return true;
  };
  try {
    Json json = Json::parse(text.begin(), text.end(), watch);
    if (!fault.empty()) return Invalid(fault);
    return json;
  } catch (const Json::exception& error) {
    return Invalid(error.what());
  }
}

struct DtypeRow {
  absl::string_view name;
  size_t bytes;
  v1::ScalarType dtype;  // unspecified: programs do not have it
};

// The format's dtypes of whole bytes, https://github.com/huggingface/safetensors (safetensors/src/tensor.rs).
constexpr DtypeRow kDtypes[] = {
    {"BOOL", 1, v1::BOOL},
    {"U8", 1, v1::BYTE},
    {"I8", 1, v1::CHAR},
    {"I16", 2, v1::SHORT},
    {"F16", 2, v1::HALF},
    {"BF16", 2, v1::BFLOAT16},
    {"I32", 4, v1::INT},
    {"F32", 4, v1::FLOAT},
    {"I64", 8, v1::LONG},
    {"F64", 8, v1::DOUBLE},
    {"U16", 2, v1::SCALAR_TYPE_UNSPECIFIED},
    {"U32", 4, v1::SCALAR_TYPE_UNSPECIFIED},
    {"U64", 8, v1::SCALAR_TYPE_UNSPECIFIED},
    {"F8_E5M2", 1, v1::SCALAR_TYPE_UNSPECIFIED},
    {"F8_E4M3", 1, v1::SCALAR_TYPE_UNSPECIFIED},
    {"F8_E8M0", 1, v1::SCALAR_TYPE_UNSPECIFIED},
    {"C64", 8, v1::SCALAR_TYPE_UNSPECIFIED},
};

// A whole number out of JSON; negative, fractional and other values are refused.
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
  if (shape->size() > kMaxDimensions) return Invalid("it has ", shape->size(), " dimensions");
  google::protobuf::RepeatedField<int64_t> sizes;
  for (const Json& item : *shape) {
    uint64_t size = 0;
    if (!ReadCount(item, &size) || size > (uint64_t{1} << 40)) return Invalid("a bad size in its shape");
    sizes.Add(static_cast<int64_t>(size));
    section.tensor.shape.push_back(static_cast<int64_t>(size));
  }
  ASSAY_ASSIGN_OR_RETURN(const int64_t count, ElementCount("it", sizes));
  const uint64_t bytes = static_cast<uint64_t>(count) * row->bytes;
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

// The format wants the data section covered exactly: no overlaps, no holes, nothing at the end.
struct Extent {
  uint64_t begin;
  uint64_t end;
  const std::string* name;
  bool operator<(const Extent& other) const {
    return std::pair(begin, end) < std::pair(other.begin, other.end);
  }
};

absl::Status CheckCover(std::vector<Extent> extents, uint64_t size) {
  std::sort(extents.begin(), extents.end());
  uint64_t covered = 0;
  const std::string* before = nullptr;
  for (const Extent& extent : extents) {
    if (extent.begin < covered) {
      return Invalid("tensor ", *extent.name, ": it overlaps ", *before, " at byte ", extent.begin,
                     " of the data");
    }
    if (extent.begin > covered) {
      return Invalid("tensor ", *extent.name, ": a hole before it, from byte ", covered, " of the data to ",
                     extent.begin);
    }
    covered = extent.end;
    before = extent.name;
  }
  if (covered == size) return absl::OkStatus();
  return Invalid(size - covered, " bytes of data belong to no tensor");
}

}  // namespace

absl::StatusOr<SafetensorsFile> ReadSafetensors(absl::Span<const uint8_t> bytes,
                                                const std::shared_ptr<const void>& owner) {
  if (bytes.size() < 8) return Invalid("too short for a safetensors file");
  uint64_t header_bytes = 0;
  for (int i = 7; i >= 0; --i) header_bytes = header_bytes << 8 | bytes[static_cast<size_t>(i)];
  if (header_bytes > kMaxHeaderBytes) {
    return Invalid("a header of ", header_bytes, " bytes, more than the format's ", kMaxHeaderBytes);
  }
  if (header_bytes > bytes.size() - 8) {
    return Invalid("a header of ", header_bytes, " bytes in a file of ", bytes.size());
  }
  absl::StatusOr<Json> header =
      ParseJson(absl::string_view(reinterpret_cast<const char*>(bytes.data()) + 8, header_bytes));
  if (!header.ok()) return Invalid("header: ", header.status().message());
  if (!header->is_object()) return Invalid("the header is no JSON object");
  const absl::Span<const uint8_t> data = bytes.subspan(8 + header_bytes);

  SafetensorsFile file;
  std::vector<Extent> extents;
  for (const auto& [name, json] : header->items()) {
    if (name == "__metadata__") {
      if (!json.is_object()) return Invalid("__metadata__ is no object");
      // Trained checkpoints do not have the key, so that a marker that is misspelled hides nothing.
      file.synthetic = json.contains("assay.weights");
      continue;
    }
    ASSAY_RETURN_IF_ERROR(CheckTensorName(name));
    absl::StatusOr<Section> section = ReadEntry(json, data);
    if (!section.ok()) return Invalid("tensor ", name, ": ", section.status().message());
    section->tensor.owner = owner;
    const auto added = file.tensors.emplace(name, std::move(section->tensor)).first;
    extents.push_back({section->begin, section->end, &added->first});
  }
  ASSAY_RETURN_IF_ERROR(CheckCover(std::move(extents), data.size()));
  return file;
}

absl::StatusOr<std::map<std::string, std::string>> ReadIndex(absl::string_view text) {
  ASSAY_ASSIGN_OR_RETURN(const Json json, ParseJson(text));
  const auto map = json.is_object() ? json.find("weight_map") : json.end();
  if (!json.is_object() || map == json.end() || !map->is_object()) return Invalid("it has no weight_map");
  std::map<std::string, std::string> shard_of;
  std::set<std::string> shards;
  for (const auto& [name, shard] : map->items()) {
    ASSAY_RETURN_IF_ERROR(CheckTensorName(name));
    if (!shard.is_string()) return Invalid("tensor ", name, " has no file name");
    const std::string& file = shard.get_ref<const std::string&>();
    // A checkpoint is data: it names files of its own folder only.
    if (file.empty() || file.find('/') != std::string::npos || file.find('\0') != std::string::npos ||
        file == "." || file == "..") {
      return Invalid("tensor ", name, " is in '", file, "', which is no file name");
    }
    shards.insert(file);
    shard_of.emplace(name, file);
  }
  if (shards.size() > kMaxShards) return Invalid(shards.size(), " shards");
  return shard_of;
}

}  // namespace assay::checkpoint
