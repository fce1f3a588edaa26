// Facts about element types and shapes that programs and checkpoints share. Pure, safe from any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "assay/v1/program.pb.h"

namespace assay {

// Bytes of one element; 0 for a number that is no ScalarType (proto3 enums are open).
size_t ItemSize(v1::ScalarType dtype);
bool IsFloatingPoint(v1::ScalarType dtype);
// "float32", "int64", …; "ScalarType(99)" for a number that is none.
std::string DtypeName(v1::ScalarType dtype);

// Elements of a tensor. INVALID_ARGUMENT, beginning with `what`: a negative size, too many dimensions, more
// elements than 2^40.
absl::StatusOr<int64_t> ElementCount(absl::string_view what,
                                     const google::protobuf::RepeatedField<int64_t>& shape);

}  // namespace assay
