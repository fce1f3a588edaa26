#include "engine/operators.h"

#include <ATen/core/function_schema.h>
#include <ATen/core/jit_type.h>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace assay::engine {
namespace {

// Operators with a leading underscore are LibTorch's internals; some trust their callers where a public
// operator checks (_reshape_alias takes any strides). These are the ones that torch.export leaves of public
// functions.
bool IsKnownInternal(absl::string_view name) {
  static const auto* const known = new absl::flat_hash_set<absl::string_view>{
      "__and__",
      "__lshift__",
      "__or__",
      "__rshift__",
      "__xor__",
      "_adaptive_avg_pool2d",
      "_adaptive_avg_pool3d",
      "_cdist_forward",
      "_convolution",
      "_embedding_bag_forward_only",
      "_fft_c2c",
      "_fft_c2r",
      "_fft_r2c",
      "_grouped_mm",
      "_linalg_det",
      "_linalg_eigh",
      "_linalg_slogdet",
      "_linalg_solve_ex",
      "_linalg_svd",
      "_local_scalar_dense",
      "_log_softmax",
      "_native_batch_norm_legit.no_stats",
      "_native_batch_norm_legit_no_training",
      "_prelu_kernel",
      "_safe_softmax",
      "_scaled_dot_product_flash_attention_for_cpu",
      "_softmax",
      "_to_copy",
      "_trilinear",
      "_unsafe_view",
      "_upsample_bicubic2d_aa",
      "_upsample_bilinear2d_aa",
      "_upsample_nearest_exact1d",
      "_upsample_nearest_exact2d",
      "_upsample_nearest_exact3d",
      "_weight_norm",
      "_weight_norm_interface",
  };
  return known->contains(name);
}

bool IsKnownType(const c10::Type& type) {
  switch (type.kind()) {
    case c10::TypeKind::OptionalType:
      return IsKnownType(*type.castRaw<c10::OptionalType>()->getElementType());
    case c10::TypeKind::ListType:
      return IsKnownType(*type.castRaw<c10::ListType>()->getElementType());
    case c10::TypeKind::TensorType:
    case c10::TypeKind::IntType:
    case c10::TypeKind::SymIntType:
    case c10::TypeKind::FloatType:
    case c10::TypeKind::SymFloatType:
    case c10::TypeKind::BoolType:
    case c10::TypeKind::SymBoolType:
    case c10::TypeKind::NumberType:
    case c10::TypeKind::StringType:
    case c10::TypeKind::DeviceObjType:
    case c10::TypeKind::GeneratorType:  // always None: a program has no form for one
    case c10::TypeKind::ScalarTypeType:
    case c10::TypeKind::LayoutType:
    case c10::TypeKind::MemoryFormatType:
      return true;
    default:
      return false;
  }
}

// A program is data from elsewhere, so it reaches only what computes tensors from tensors:
// - the aten namespace, not what other libraries register in this process;
// - functional operators: none that writes to an argument, which would change weights that runs share;
// - no internals but known ones, and no backward kernels, which trust indices that a forward pass made;
// - no argument of another kind than tensors, numbers, and names of modes: no storages, no script objects;
// - not from_file, the only one of the remaining operators whose text argument names something outside the
//   process (all others with a text argument take a mode: gelu, div, pad, einsum, …).
// Returns why not; empty if it may.
std::string WhyNot(absl::string_view name, absl::string_view full_name, const c10::FunctionSchema& schema) {
  if (name == "from_file") return "it opens files";
  if (schema.is_mutable()) return "it writes to an argument, but programs are functional";
  if (absl::StartsWith(name, "_") && !IsKnownInternal(name) && !IsKnownInternal(full_name)) {
    return "it is internal to LibTorch";
  }
  if (absl::StrContains(name, "backward")) return "it belongs to training";
  for (const c10::Argument& argument : schema.arguments()) {
    if (!IsKnownType(*argument.real_type())) {
      return absl::StrCat("its argument ", argument.name(), " is of a kind that programs do not have");
    }
  }
  for (const c10::Argument& result : schema.returns()) {
    if (!IsKnownType(*result.real_type())) return "its result is of a kind that programs do not have";
  }
  return "";
}

}  // namespace

std::string OperatorName(const v1::Operator& op) {
  return op.overload().empty() ? op.name() : absl::StrCat(op.name(), ".", op.overload());
}

absl::StatusOr<c10::OperatorHandle> ResolveOperator(const v1::Operator& op) {
  const std::string full_name = OperatorName(op);
  absl::string_view name = op.name();
  if (!absl::StartsWith(name, "aten::")) {
    return absl::UnimplementedError(
        absl::StrCat("operator ", full_name, " may not be used by programs: it is not in namespace aten"));
  }
  name.remove_prefix(6);
  const std::optional<c10::OperatorHandle> handle =
      c10::Dispatcher::singleton().findSchema({op.name(), op.overload()});
  if (!handle.has_value()) {
    return absl::UnimplementedError(absl::StrCat("operator ", full_name, " is unknown to this LibTorch"));
  }
  const std::string why = WhyNot(name, absl::string_view(full_name).substr(6), handle->schema());
  if (why.empty()) return *handle;
  return absl::UnimplementedError(
      absl::StrCat("operator ", full_name, " may not be used by programs: ", why));
}

bool IsView(const c10::FunctionSchema& schema) {
  if (schema.returns().empty()) return false;
  const c10::AliasInfo* alias = schema.returns()[0].alias_info();
  return alias != nullptr && !alias->isWrite();
}

}  // namespace assay::engine
