#include "common/dtype.h"

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace assay {
namespace {

constexpr int kMaxDimensions = 32;
constexpr int64_t kMaxElements = int64_t{1} << 40;

template <typename... Parts>
absl::Status Wrong(const Parts&... parts) {
  return absl::InvalidArgumentError(absl::StrCat(parts...));
}

}  // namespace

size_t ItemSize(v1::ScalarType dtype) {
  switch (dtype) {
    case v1::BYTE:
    case v1::CHAR:
    case v1::BOOL:
      return 1;
    case v1::SHORT:
    case v1::HALF:
    case v1::BFLOAT16:
      return 2;
    case v1::INT:
    case v1::FLOAT:
      return 4;
    case v1::LONG:
    case v1::DOUBLE:
      return 8;
    default:
      return 0;
  }
}

bool IsFloatingPoint(v1::ScalarType dtype) {
  return dtype == v1::FLOAT || dtype == v1::DOUBLE || dtype == v1::HALF || dtype == v1::BFLOAT16;
}

std::string DtypeName(v1::ScalarType dtype) {
  switch (dtype) {
    case v1::BYTE:
      return "uint8";
    case v1::CHAR:
      return "int8";
    case v1::SHORT:
      return "int16";
    case v1::INT:
      return "int32";
    case v1::LONG:
      return "int64";
    case v1::HALF:
      return "float16";
    case v1::FLOAT:
      return "float32";
    case v1::DOUBLE:
      return "float64";
    case v1::BOOL:
      return "bool";
    case v1::BFLOAT16:
      return "bfloat16";
    default:
      return absl::StrCat("ScalarType(", static_cast<int>(dtype), ")");
  }
}

absl::StatusOr<int64_t> ElementCount(absl::string_view what,
                                     const google::protobuf::RepeatedField<int64_t>& shape) {
  if (shape.size() > kMaxDimensions) return Wrong(what, ": ", shape.size(), " dimensions");
  int64_t count = 1;
  bool empty = false;
  for (const int64_t size : shape) {
    if (size < 0) return Wrong(what, ": a dimension of size ", size);
    if (size == 0) {
      empty = true;
    } else if (__builtin_mul_overflow(count, size, &count) || count > kMaxElements) {
      return Wrong(what, ": shape [", absl::StrJoin(shape, ", "), "] has more than 2^40 elements");
    }
  }
  return empty ? 0 : count;
}

}  // namespace assay
