// Which operators a program may name, and how they are found.
#pragma once

#include <ATen/core/dispatch/Dispatcher.h>

#include <string>

#include "absl/status/statusor.h"
#include "assay/v1/program.pb.h"

namespace assay::engine {

// "aten::add.Tensor", "aten::linear".
std::string OperatorName(const v1::Operator& op);

// The dispatcher's handle. UNIMPLEMENTED: this LibTorch has no such operator, or programs may not use it (the
// rule is in operators.cc). Thread-safe. Handles stay valid for the life of the process.
absl::StatusOr<c10::OperatorHandle> ResolveOperator(const v1::Operator& op);

// True if the result only looks at an argument's memory, so that it has no values of its own.
bool IsView(const c10::FunctionSchema& schema);

}  // namespace assay::engine
