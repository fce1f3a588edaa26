// Arguments of a program as the operator's schema wants them. Internal to the engine.
#pragma once

#include <ATen/core/function_schema.h>

#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "assay/v1/program.pb.h"
#include "engine/code.h"
#include "engine/tensors.h"

namespace assay::engine {

// What is known of a value before any run.
enum class ValueKind : uint8_t { kTensor, kInteger, kReal, kBoolean, kScalar };

// Writes sources, literals and lists into `code` as arguments are coerced. One per plan being built.
class Coercer {
 public:
  // `kinds` grows as values are defined; values below `fixed_count` for which `is_fixed` holds are weights
  // and constants. All references must outlive this.
  Coercer(const Placement& placement, const std::vector<ValueKind>& kinds, const std::vector<bool>& is_fixed,
          Code& code)
      : placement_(placement), kinds_(kinds), is_fixed_(is_fixed), code_(code) {}

  // Appends one source per argument of the schema: what the node gives, else the schema's default.
  // INVALID_ARGUMENT names the argument: missing, unknown, or of a kind that the operator does not take.
  absl::Status CoerceArguments(const v1::Node& node, const c10::FunctionSchema& schema);

  // Appends the arguments of a symbolic function: scalars only.
  absl::Status CoerceSymbolic(const v1::Node& node, SymbolicFunction function);

 private:
  using Type = c10::Type;
  absl::StatusOr<ArgumentSource> Coerce(const v1::Argument& argument, const c10::Argument& formal);
  absl::StatusOr<ArgumentSource> CoerceValue(uint32_t value, const Type& type, int list_size);
  absl::StatusOr<ArgumentSource> CoerceNumber(const at::Scalar& number, const Type& type, int list_size);
  absl::StatusOr<ArgumentSource> CoerceTensors(const std::vector<uint32_t>& values_plus_one,
                                               const Type& type);
  ArgumentSource Default(const c10::FunctionSchema& schema, const c10::Argument& formal);
  ArgumentSource Literal(c10::IValue value);
  ArgumentSource List(ArgumentSource::Kind kind, std::vector<ListItem> items);
  double PlaceReal(double value) const;

  const Placement& placement_;
  const std::vector<ValueKind>& kinds_;
  const std::vector<bool>& is_fixed_;
  Code& code_;
};

}  // namespace assay::engine
