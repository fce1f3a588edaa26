#include "checkpoint/gguf.h"

#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "checkpoint/decode.h"
#include "checkpoint/names.h"
#include "common/dtype.h"
#include "common/status_macros.h"

namespace assay::checkpoint {
namespace {

constexpr size_t kMaxKeyBytes = 65535;  // the specification's
constexpr size_t kMaxTextBytes = 4096;
constexpr int kMaxArrayDepth = 4;
constexpr uint32_t kMaxDimensions = 4;  // the specification's
constexpr uint64_t kMaxAlignment = 1 << 20;

template <typename... Parts>
absl::Status Invalid(const Parts&... parts) {
  return absl::InvalidArgumentError(absl::StrCat(parts...));
}
template <typename... Parts>
absl::Status Unread(const Parts&... parts) {
  return absl::UnimplementedError(absl::StrCat(parts...));
}

// The specification's gguf_metadata_value_type.
enum ValueType : uint32_t {
  kUint8,
  kInt8,
  kUint16,
  kInt16,
  kUint32,
  kInt32,
  kFloat32,
  kBool,
  kString,
  kArray,
  kUint64,
  kInt64,
  kFloat64,
};

// Bytes of a value of fixed size; 0 for the others.
size_t SizeOf(uint32_t type) {
  switch (type) {
    case kUint8:
    case kInt8:
    case kBool:
      return 1;
    case kUint16:
    case kInt16:
      return 2;
    case kUint32:
    case kInt32:
    case kFloat32:
      return 4;
    case kUint64:
    case kInt64:
    case kFloat64:
      return 8;
    default:
      return 0;
  }
}

struct TypeRow {
  uint32_t number;
  absl::string_view name;
  bool read;
  Encoding encoding;
  v1::ScalarType dtype;
};

// The specification's ggml_type.
constexpr TypeRow kTypes[] = {
    {0, "F32", true, Encoding::kPlain, v1::FLOAT},
    {1, "F16", true, Encoding::kPlain, v1::HALF},
    {2, "Q4_0", true, Encoding::kQ4_0, v1::SCALAR_TYPE_UNSPECIFIED},
    {3, "Q4_1", true, Encoding::kQ4_1, v1::SCALAR_TYPE_UNSPECIFIED},
    {8, "Q8_0", true, Encoding::kQ8_0, v1::SCALAR_TYPE_UNSPECIFIED},
    {12, "Q4_K", true, Encoding::kQ4_K, v1::SCALAR_TYPE_UNSPECIFIED},
    {14, "Q6_K", true, Encoding::kQ6_K, v1::SCALAR_TYPE_UNSPECIFIED},
    {24, "I8", true, Encoding::kPlain, v1::CHAR},
    {25, "I16", true, Encoding::kPlain, v1::SHORT},
    {26, "I32", true, Encoding::kPlain, v1::INT},
    {27, "I64", true, Encoding::kPlain, v1::LONG},
    {28, "F64", true, Encoding::kPlain, v1::DOUBLE},
    {30, "BF16", true, Encoding::kPlain, v1::BFLOAT16},
    {6, "Q5_0", false, Encoding::kPlain, v1::SCALAR_TYPE_UNSPECIFIED},
    {7, "Q5_1", false, Encoding::kPlain, v1::SCALAR_TYPE_UNSPECIFIED},
    {9, "Q8_1", false, Encoding::kPlain, v1::SCALAR_TYPE_UNSPECIFIED},
    {10, "Q2_K", false, Encoding::kPlain, v1::SCALAR_TYPE_UNSPECIFIED},
    {11, "Q3_K", false, Encoding::kPlain, v1::SCALAR_TYPE_UNSPECIFIED},
    {13, "Q5_K", false, Encoding::kPlain, v1::SCALAR_TYPE_UNSPECIFIED},
    {15, "Q8_K", false, Encoding::kPlain, v1::SCALAR_TYPE_UNSPECIFIED},
    {16, "IQ2_XXS", false, Encoding::kPlain, v1::SCALAR_TYPE_UNSPECIFIED},
    {17, "IQ2_XS", false, Encoding::kPlain, v1::SCALAR_TYPE_UNSPECIFIED},
    {18, "IQ3_XXS", false, Encoding::kPlain, v1::SCALAR_TYPE_UNSPECIFIED},
    {19, "IQ1_S", false, Encoding::kPlain, v1::SCALAR_TYPE_UNSPECIFIED},
    {20, "IQ4_NL", false, Encoding::kPlain, v1::SCALAR_TYPE_UNSPECIFIED},
    {21, "IQ3_S", false, Encoding::kPlain, v1::SCALAR_TYPE_UNSPECIFIED},
    {22, "IQ2_S", false, Encoding::kPlain, v1::SCALAR_TYPE_UNSPECIFIED},
    {23, "IQ4_XS", false, Encoding::kPlain, v1::SCALAR_TYPE_UNSPECIFIED},
    {29, "IQ1_M", false, Encoding::kPlain, v1::SCALAR_TYPE_UNSPECIFIED},
    {34, "TQ1_0", false, Encoding::kPlain, v1::SCALAR_TYPE_UNSPECIFIED},
    {35, "TQ2_0", false, Encoding::kPlain, v1::SCALAR_TYPE_UNSPECIFIED},
    {39, "MXFP4", false, Encoding::kPlain, v1::SCALAR_TYPE_UNSPECIFIED},
};

// Reads forward through the head of the file; every read is checked against what is left.
class Cursor {
 public:
  explicit Cursor(absl::Span<const uint8_t> bytes) : bytes_(bytes) {}

  size_t position() const { return position_; }

  // A little-endian number.
  template <typename Number>
  absl::Status Read(absl::string_view what, Number* number) {
    if (bytes_.size() - position_ < sizeof *number) return Invalid("the file ends in ", what);
    std::memcpy(number, bytes_.data() + position_, sizeof *number);
    position_ += sizeof *number;
    return absl::OkStatus();
  }

  absl::Status Skip(absl::string_view what, uint64_t count, uint64_t size) {
    const uint64_t left = bytes_.size() - position_;
    if (size != 0 && count > left / size) return Invalid("the file ends in ", what);
    position_ += static_cast<size_t>(count * size);
    return absl::OkStatus();
  }

  absl::Status ReadText(absl::string_view what, absl::string_view* text) {
    uint64_t length = 0;
    ASSAY_RETURN_IF_ERROR(Read(what, &length));
    const size_t start = position_;
    ASSAY_RETURN_IF_ERROR(Skip(what, length, 1));
    *text =
        absl::string_view(reinterpret_cast<const char*>(bytes_.data()) + start, static_cast<size_t>(length));
    return absl::OkStatus();
  }

 private:
  absl::Span<const uint8_t> bytes_;
  size_t position_ = 0;
};

bool IsPrintable(absl::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return c > 0x20 && c < 0x7f; });
}

// Past one array, whose elements are of no interest.
absl::Status SkipArray(Cursor& cursor, absl::string_view key, int depth) {
  if (depth > kMaxArrayDepth) return Invalid(key, ": arrays nested too deep");
  uint32_t type = 0;
  uint64_t count = 0;
  ASSAY_RETURN_IF_ERROR(cursor.Read(key, &type));
  ASSAY_RETURN_IF_ERROR(cursor.Read(key, &count));
  if (const size_t size = SizeOf(type); size != 0) return cursor.Skip(key, count, size);
  if (type != kString && type != kArray) return Invalid(key, ": no value type ", type);
  // Each takes eight bytes at least, so the file's length bounds the loop.
  for (uint64_t i = 0; i < count; ++i) {
    absl::string_view ignored;
    ASSAY_RETURN_IF_ERROR(type == kString ? cursor.ReadText(key, &ignored)
                                          : SkipArray(cursor, key, depth + 1));
  }
  return absl::OkStatus();
}

template <typename Stored, typename Kept>
absl::Status ReadScalar(Cursor& cursor, absl::string_view key, GgufValue* value) {
  Stored stored{};
  ASSAY_RETURN_IF_ERROR(cursor.Read(key, &stored));
  *value = static_cast<Kept>(stored);
  return absl::OkStatus();
}

// `kept` is false for values that are passed over.
absl::Status ReadValue(Cursor& cursor, absl::string_view key, GgufValue* value, bool* kept) {
  uint32_t type = 0;
  ASSAY_RETURN_IF_ERROR(cursor.Read(key, &type));
  *kept = true;
  switch (type) {
    case kUint8:
      return ReadScalar<uint8_t, uint64_t>(cursor, key, value);
    case kUint16:
      return ReadScalar<uint16_t, uint64_t>(cursor, key, value);
    case kUint32:
      return ReadScalar<uint32_t, uint64_t>(cursor, key, value);
    case kUint64:
      return ReadScalar<uint64_t, uint64_t>(cursor, key, value);
    case kInt8:
      return ReadScalar<int8_t, int64_t>(cursor, key, value);
    case kInt16:
      return ReadScalar<int16_t, int64_t>(cursor, key, value);
    case kInt32:
      return ReadScalar<int32_t, int64_t>(cursor, key, value);
    case kInt64:
      return ReadScalar<int64_t, int64_t>(cursor, key, value);
    case kFloat32:
      return ReadScalar<float, double>(cursor, key, value);
    case kFloat64:
      return ReadScalar<double, double>(cursor, key, value);
    case kBool: {
      uint8_t truth = 0;
      ASSAY_RETURN_IF_ERROR(cursor.Read(key, &truth));
      if (truth > 1) return Invalid(key, ": a bool that is neither 0 nor 1");
      *value = truth == 1;
      return absl::OkStatus();
    }
    case kString: {
      absl::string_view text;
      ASSAY_RETURN_IF_ERROR(cursor.ReadText(key, &text));
      *kept = text.size() <= kMaxTextBytes;
      if (*kept) *value = std::string(text);
      return absl::OkStatus();
    }
    case kArray:
      *kept = false;
      return SkipArray(cursor, key, 1);
    default:
      return Invalid(key, ": no value type ", type);
  }
}

absl::Status ReadMetadata(Cursor& cursor, uint64_t count, std::map<std::string, GgufValue>& metadata) {
  for (uint64_t i = 0; i < count; ++i) {
    absl::string_view key;
    ASSAY_RETURN_IF_ERROR(cursor.ReadText("a metadata key", &key));
    if (key.empty() || key.size() > kMaxKeyBytes || !IsPrintable(key)) {
      return Invalid("metadata key ", i, " is empty, too long or not ASCII");
    }
    GgufValue value;
    bool kept = false;
    ASSAY_RETURN_IF_ERROR(ReadValue(cursor, key, &value, &kept));
    if (kept && !metadata.emplace(std::string(key), std::move(value)).second) {
      return Invalid("the metadata key ", key, " is there twice");
    }
  }
  return absl::OkStatus();
}

struct Placed {
  CheckpointTensor tensor;
  std::string name;
  uint64_t offset = 0;  // from the start of the data
  uint64_t bytes = 0;
};

absl::Status ReadShape(Cursor& cursor, const std::string& name, CheckpointTensor& tensor) {
  uint32_t dimensions = 0;
  ASSAY_RETURN_IF_ERROR(cursor.Read(name, &dimensions));
  if (dimensions == 0 || dimensions > kMaxDimensions) {
    return Invalid("tensor ", name, ": ", dimensions, " dimensions");
  }
  for (uint32_t i = 0; i < dimensions; ++i) {
    uint64_t size = 0;
    ASSAY_RETURN_IF_ERROR(cursor.Read(name, &size));
    if (size == 0 || size > (uint64_t{1} << 40)) return Invalid("tensor ", name, ": a bad size in its shape");
    tensor.shape.push_back(static_cast<int64_t>(size));
  }
  std::reverse(tensor.shape.begin(), tensor.shape.end());
  return absl::OkStatus();
}

absl::StatusOr<Placed> ReadInfo(Cursor& cursor, uint64_t alignment) {
  Placed placed;
  absl::string_view name;
  ASSAY_RETURN_IF_ERROR(cursor.ReadText("a tensor's name", &name));
  ASSAY_RETURN_IF_ERROR(CheckTensorName(name));
  if (!IsPrintable(name)) return Invalid("a tensor's name that is not ASCII");
  placed.name = std::string(name);
  CheckpointTensor& tensor = placed.tensor;
  ASSAY_RETURN_IF_ERROR(ReadShape(cursor, placed.name, tensor));
  uint32_t type = 0;
  ASSAY_RETURN_IF_ERROR(cursor.Read(name, &type));
  ASSAY_RETURN_IF_ERROR(cursor.Read(name, &placed.offset));
  const auto* row = std::find_if(std::begin(kTypes), std::end(kTypes),
                                 [&](const TypeRow& known) { return known.number == type; });
  if (row == std::end(kTypes)) return Invalid("tensor ", name, ": no tensor type ", type);
  if (!row->read) return Unread("tensor ", name, ": ", row->name, " is not read");
  tensor.dtype = row->dtype;
  tensor.dtype_name = std::string(row->name);
  tensor.encoding = row->encoding;
  google::protobuf::RepeatedField<int64_t> sizes(tensor.shape.begin(), tensor.shape.end());
  ASSAY_ASSIGN_OR_RETURN(const int64_t count, ElementCount(absl::StrCat("tensor ", name), sizes));
  const BlockSize block = BlockOf(tensor.encoding, tensor.dtype);
  if (static_cast<uint64_t>(tensor.shape.back()) % block.elements != 0) {
    return Invalid("tensor ", name, ": rows of ", tensor.shape.back(), " are no whole blocks of ",
                   tensor.dtype_name);
  }
  placed.bytes = static_cast<uint64_t>(count) / block.elements * block.bytes;
  if (placed.offset % alignment != 0) {
    return Invalid("tensor ", name, ": its offset ", placed.offset, " is no multiple of ", alignment);
  }
  return placed;
}

uint64_t AlignUp(uint64_t value, uint64_t alignment) {
  return value + (alignment - value % alignment) % alignment;
}

// Tensors lie in turn, with less than an alignment between them and at the end.
absl::Status Place(std::vector<Placed> infos, absl::Span<const uint8_t> data, uint64_t alignment,
                   const std::shared_ptr<const void>& owner, Tensors& tensors) {
  std::sort(infos.begin(), infos.end(), [](const Placed& a, const Placed& b) { return a.offset < b.offset; });
  uint64_t end = 0;
  for (Placed& info : infos) {
    if (info.offset > data.size() || info.bytes > data.size() - info.offset) {
      return Invalid("tensor ", info.name, ": bytes ", info.offset, " to ", info.offset + info.bytes, " of ",
                     data.size(), " bytes of data");
    }
    if (info.offset < end) return Invalid("tensor ", info.name, ": it overlaps another one");
    if (info.offset > AlignUp(end, alignment)) {
      return Invalid("tensor ", info.name, ": a hole before it, from byte ", end, " of the data to ",
                     info.offset);
    }
    end = info.offset + info.bytes;
    info.tensor.data = data.subspan(info.offset, info.bytes);
    info.tensor.owner = owner;
    if (!tensors.emplace(info.name, std::move(info.tensor)).second) {
      return Invalid("the tensor ", info.name, " is there twice");
    }
  }
  if (data.size() <= AlignUp(end, alignment)) return absl::OkStatus();
  return Invalid(data.size() - end, " bytes of data belong to no tensor");
}

absl::StatusOr<uint64_t> Alignment(const GgufFile& file) {
  const auto found = file.metadata.find("general.alignment");
  if (found == file.metadata.end()) return 32;
  const uint64_t* alignment = std::get_if<uint64_t>(&found->second);
  if (alignment == nullptr || *alignment == 0 || *alignment % 8 != 0 || *alignment > kMaxAlignment) {
    return Invalid("general.alignment is no multiple of 8 up to ", kMaxAlignment);
  }
  return *alignment;
}

}  // namespace

absl::StatusOr<GgufFile> ReadGguf(absl::Span<const uint8_t> bytes, const std::shared_ptr<const void>& owner) {
  GgufFile file;
  Cursor cursor(bytes);
  char magic[4] = {};
  ASSAY_RETURN_IF_ERROR(cursor.Read("its magic number", &magic));
  if (std::memcmp(magic, "GGUF", 4) != 0) return Invalid("no GGUF file: it does not begin with GGUF");
  ASSAY_RETURN_IF_ERROR(cursor.Read("its version", &file.version));
  if (file.version != 0 && (file.version & 0xffff) == 0) return Unread("a big-endian GGUF file is not read");
  if (file.version != 2 && file.version != 3) return Unread("GGUF version ", file.version, " is not read");
  uint64_t tensor_count = 0, metadata_count = 0;
  ASSAY_RETURN_IF_ERROR(cursor.Read("its counts", &tensor_count));
  ASSAY_RETURN_IF_ERROR(cursor.Read("its counts", &metadata_count));
  ASSAY_RETURN_IF_ERROR(ReadMetadata(cursor, metadata_count, file.metadata));
  if (const auto split = file.metadata.find("split.count"); split != file.metadata.end()) {
    const uint64_t* parts = std::get_if<uint64_t>(&split->second);
    if (parts == nullptr || *parts > 1) return Unread("a GGUF file that is one of several is not read");
  }
  ASSAY_ASSIGN_OR_RETURN(const uint64_t alignment, Alignment(file));
  std::vector<Placed> infos;
  for (uint64_t i = 0; i < tensor_count; ++i) {
    ASSAY_ASSIGN_OR_RETURN(Placed info, ReadInfo(cursor, alignment));
    infos.push_back(std::move(info));
  }
  if (infos.empty()) return Invalid("it has no tensors");
  const uint64_t start = AlignUp(cursor.position(), alignment);
  if (start > bytes.size()) return Invalid("the file ends before its data");
  ASSAY_RETURN_IF_ERROR(Place(std::move(infos), bytes.subspan(start), alignment, owner, file.tensors));
  return file;
}

absl::StatusOr<Tensors> ReadGgufTensors(absl::Span<const uint8_t> bytes,
                                        const std::shared_ptr<const void>& owner) {
  ASSAY_ASSIGN_OR_RETURN(GgufFile file, ReadGguf(bytes, owner));
  ASSAY_RETURN_IF_ERROR(NameTensors(file));
  return std::move(file.tensors);
}

}  // namespace assay::checkpoint
