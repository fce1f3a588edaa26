// Scalar functions on sizes that are known only at run time: operators "sym::add", "sym::floordiv", ….
#pragma once

#include <ATen/core/ivalue.h>

#include <cstddef>
#include <cstdint>
#include <optional>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace assay::engine {

enum class SymbolicFunction : uint8_t {
  kAdd,
  kSub,
  kMul,
  kFloorDiv,
  kTrueDiv,
  kMod,
  kNeg,
  kEq,
  kNe,
  kLt,
  kLe,
  kGt,
  kGe,
  kMax,
  kMin,
  kFloat,
  kInt,
  kNot,
};

// The function of "sym::<name>", given "<name>".
std::optional<SymbolicFunction> FindSymbolicFunction(absl::string_view name);

// 1 or 2.
size_t Arity(SymbolicFunction function);

// Python's semantics: integers stay integers but for true division, floor division and modulus round towards
// minus infinity. Arguments are ints, doubles or bools. INVALID_ARGUMENT: integer overflow, division by zero,
// an argument of another kind.
absl::Status EvaluateSymbolic(SymbolicFunction function, absl::Span<const c10::IValue> arguments,
                              c10::IValue* result);

}  // namespace assay::engine
