// Everything about a program that can be judged without LibTorch.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "assay/v1/program.pb.h"

namespace assay::engine {

// Bytes of one element; 0 for a number that is no ScalarType (proto3 enums are open).
size_t ItemSize(v1::ScalarType dtype);
bool IsFloatingPoint(v1::ScalarType dtype);
// "float32", "int64", …; "ScalarType(99)" for a number that is none.
std::string DtypeName(v1::ScalarType dtype);

// Elements of a tensor. INVALID_ARGUMENT, beginning with `what`: a negative size, too many dimensions, more
// elements than 2^40.
absl::StatusOr<int64_t> ElementCount(absl::string_view what,
                                     const google::protobuf::RepeatedField<int64_t>& shape);

// OK if an engine may plan the program: known format, single assignment (a value is used only after the node
// that makes it), indexes in range, names once, sizes that agree with data, sane mock rules, a complete
// golden. Whether operators and arguments exist is for Plan::Build, which knows their schemas.
absl::Status ValidateProgram(const v1::Program& program);

// The graph alone: operators, modules, inputs, nodes, outputs and their numbering.
absl::Status ValidateGraph(const v1::Program& program);

}  // namespace assay::engine
