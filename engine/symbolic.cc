#include "engine/symbolic.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>

namespace assay::engine {
namespace {

using F = SymbolicFunction;

constexpr std::array<std::pair<absl::string_view, F>, 18> kFunctions{{
    {"add", F::kAdd},
    {"sub", F::kSub},
    {"mul", F::kMul},
    {"floordiv", F::kFloorDiv},
    {"truediv", F::kTrueDiv},
    {"mod", F::kMod},
    {"neg", F::kNeg},
    {"eq", F::kEq},
    {"ne", F::kNe},
    {"lt", F::kLt},
    {"le", F::kLe},
    {"gt", F::kGt},
    {"ge", F::kGe},
    {"max", F::kMax},
    {"min", F::kMin},
    {"float", F::kFloat},
    {"int", F::kInt},
    {"not", F::kNot},
}};

absl::Status Overflow() { return absl::InvalidArgumentError("integer overflow in a symbolic size"); }
absl::Status ByZero() { return absl::InvalidArgumentError("division by zero in a symbolic size"); }

bool IsNumber(const c10::IValue& value) { return value.isInt() || value.isDouble() || value.isBool(); }
double Real(const c10::IValue& value) {
  if (value.isDouble()) return value.toDouble();
  return value.isBool() ? static_cast<double>(value.toBool()) : static_cast<double>(value.toInt());
}
int64_t Integer(const c10::IValue& value) {
  return value.isBool() ? static_cast<int64_t>(value.toBool()) : value.toInt();
}

absl::Status OfIntegers(F function, int64_t a, int64_t b, c10::IValue* result) {
  int64_t r = 0;
  switch (function) {
    case F::kAdd:
      if (__builtin_add_overflow(a, b, &r)) return Overflow();
      break;
    case F::kSub:
      if (__builtin_sub_overflow(a, b, &r)) return Overflow();
      break;
    case F::kMul:
      if (__builtin_mul_overflow(a, b, &r)) return Overflow();
      break;
    case F::kNeg:
      if (__builtin_sub_overflow(int64_t{0}, a, &r)) return Overflow();
      break;
    case F::kFloorDiv:
    case F::kMod: {
      if (b == 0) return ByZero();
      if (b == -1 && function == F::kMod) break;  // INT64_MIN / -1 and its remainder trap
      if (b == -1) {
        if (__builtin_sub_overflow(int64_t{0}, a, &r)) return Overflow();
        break;
      }
      const bool adjust = a % b != 0 && (a < 0) != (b < 0);
      r = function == F::kFloorDiv ? a / b - (adjust ? 1 : 0) : a % b + (adjust ? b : 0);
      break;
    }
    case F::kMax:
      r = std::max(a, b);
      break;
    default:
      r = std::min(a, b);
      break;
  }
  *result = r;
  return absl::OkStatus();
}

absl::Status OfReals(F function, double a, double b, c10::IValue* result) {
  switch (function) {
    case F::kAdd:
      *result = a + b;
      break;
    case F::kSub:
      *result = a - b;
      break;
    case F::kMul:
      *result = a * b;
      break;
    case F::kNeg:
      *result = -a;
      break;
    case F::kFloorDiv:
      if (b == 0) return ByZero();
      *result = std::floor(a / b);
      break;
    case F::kMod:
      if (b == 0) return ByZero();
      *result = a - std::floor(a / b) * b;
      break;
    case F::kMax:
      *result = std::max(a, b);
      break;
    default:
      *result = std::min(a, b);
      break;
  }
  return absl::OkStatus();
}

}  // namespace

std::optional<SymbolicFunction> FindSymbolicFunction(absl::string_view name) {
  for (const auto& [known, function] : kFunctions) {
    if (known == name) return function;
  }
  return std::nullopt;
}

size_t Arity(SymbolicFunction function) {
  switch (function) {
    case F::kNeg:
    case F::kFloat:
    case F::kInt:
    case F::kNot:
      return 1;
    default:
      return 2;
  }
}

absl::Status EvaluateSymbolic(SymbolicFunction function, absl::Span<const c10::IValue> arguments,
                              c10::IValue* result) {
  if (arguments.size() != Arity(function) || !std::all_of(arguments.begin(), arguments.end(), IsNumber)) {
    return absl::InvalidArgumentError("a symbolic function of something that is no number");
  }
  const c10::IValue& first = arguments.front();
  const c10::IValue& last = arguments.back();  // the same one if there is one
  const double a = Real(first), b = Real(last);
  const bool real = first.isDouble() || last.isDouble();
  switch (function) {
    case F::kTrueDiv:
      if (b == 0) return ByZero();
      *result = a / b;
      return absl::OkStatus();
    // Integers are compared as integers: a double does not hold them all.
    case F::kEq:
      *result = real ? a == b : Integer(first) == Integer(last);
      return absl::OkStatus();
    case F::kNe:
      *result = real ? a != b : Integer(first) != Integer(last);
      return absl::OkStatus();
    case F::kLt:
      *result = real ? a < b : Integer(first) < Integer(last);
      return absl::OkStatus();
    case F::kLe:
      *result = real ? a <= b : Integer(first) <= Integer(last);
      return absl::OkStatus();
    case F::kGt:
      *result = real ? a > b : Integer(first) > Integer(last);
      return absl::OkStatus();
    case F::kGe:
      *result = real ? a >= b : Integer(first) >= Integer(last);
      return absl::OkStatus();
    case F::kFloat:
      *result = a;
      return absl::OkStatus();
    case F::kInt:
      if (!real) {
        *result = Integer(first);
      } else if (std::abs(a) < 0x1p63) {  // false for NaN
        *result = static_cast<int64_t>(a);
      } else {
        return Overflow();
      }
      return absl::OkStatus();
    case F::kNot:
      *result = a == 0;
      return absl::OkStatus();
    default:
      if (real) return OfReals(function, a, b, result);
      return OfIntegers(function, Integer(first), Integer(last), result);
  }
}

}  // namespace assay::engine
