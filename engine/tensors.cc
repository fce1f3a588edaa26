#include "engine/tensors.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/where.h>

#include <cstring>
#include <limits>
#include <string>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "engine/mock.h"
#include "engine/validate.h"

namespace assay::engine {
namespace {

absl::StatusOr<at::Tensor> Empty(absl::string_view name, v1::ScalarType dtype,
                                 const google::protobuf::RepeatedField<int64_t>& shape) {
  ASSAY_RETURN_IF_ERROR(ElementCount(name, shape).status());
  ASSAY_ASSIGN_OR_RETURN(const at::ScalarType scalar_type, TorchDtype(dtype));
  try {
    return at::empty(at::IntArrayRef(shape.data(), shape.size()), at::TensorOptions().dtype(scalar_type));
  } catch (const c10::Error& error) {
    return absl::ResourceExhaustedError(absl::StrCat(name, ": ", error.what_without_backtrace()));
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError(absl::StrCat(name, ": out of memory"));
  }
}

absl::StatusOr<at::Tensor> FromBytes(absl::string_view name, v1::ScalarType dtype,
                                     const google::protobuf::RepeatedField<int64_t>& shape,
                                     absl::string_view bytes) {
  ASSAY_ASSIGN_OR_RETURN(at::Tensor tensor, Empty(name, dtype, shape));
  if (bytes.size() != tensor.nbytes()) {
    return absl::InvalidArgumentError(absl::StrCat(
        name, ": ", bytes.size(), " bytes of data, but its shape and dtype need ", tensor.nbytes()));
  }
  if (!bytes.empty()) std::memcpy(tensor.mutable_data_ptr(), bytes.data(), bytes.size());
  return tensor;
}

}  // namespace

absl::StatusOr<at::ScalarType> TorchDtype(v1::ScalarType dtype) {
  switch (dtype) {
    case v1::BYTE:
      return at::ScalarType::Byte;
    case v1::CHAR:
      return at::ScalarType::Char;
    case v1::SHORT:
      return at::ScalarType::Short;
    case v1::INT:
      return at::ScalarType::Int;
    case v1::LONG:
      return at::ScalarType::Long;
    case v1::HALF:
      return at::ScalarType::Half;
    case v1::FLOAT:
      return at::ScalarType::Float;
    case v1::DOUBLE:
      return at::ScalarType::Double;
    case v1::BOOL:
      return at::ScalarType::Bool;
    case v1::BFLOAT16:
      return at::ScalarType::BFloat16;
    default:
      return absl::UnimplementedError(absl::StrCat("unknown dtype number ", static_cast<int>(dtype)));
  }
}

absl::StatusOr<at::Tensor> MakeTensor(const v1::Tensor& tensor) {
  return FromBytes(tensor.name(), tensor.dtype(), tensor.shape(), tensor.data());
}

absl::StatusOr<at::Tensor> MakeMockTensor(absl::string_view name, uint64_t seed, const v1::MockRule& rule,
                                          v1::ScalarType dtype,
                                          const google::protobuf::RepeatedField<int64_t>& shape) {
  ASSAY_ASSIGN_OR_RETURN(at::Tensor tensor, Empty(name, dtype, shape));
  ASSAY_RETURN_IF_ERROR(FillMock(name, seed, rule, dtype, absl::MakeConstSpan(shape.data(), shape.size()),
                                 tensor.mutable_data_ptr()));
  return tensor;
}

absl::StatusOr<std::vector<at::Tensor>> GoldenInputs(const v1::Program& program) {
  return GoldenInputs(program.manifest(), program.golden());
}

absl::StatusOr<std::vector<at::Tensor>> GoldenInputs(const v1::Manifest& manifest, const v1::Golden& golden) {
  if (golden.inputs_size() != manifest.inputs_size()) {
    return absl::InvalidArgumentError("the golden does not have one input per input of the program");
  }
  std::vector<at::Tensor> inputs;
  for (int i = 0; i < manifest.inputs_size(); ++i) {
    const v1::InputSpec& spec = manifest.inputs(i);
    const v1::GoldenInput& source = golden.inputs(i);
    absl::StatusOr<at::Tensor> input =
        source.has_rule()
            ? MakeMockTensor(spec.name(), manifest.mock_seed(), source.rule(), spec.dtype(), spec.shape())
            : FromBytes(spec.name(), spec.dtype(), spec.shape(), source.data());
    if (!input.ok()) return std::move(input).status();
    inputs.push_back(*std::move(input));
  }
  return inputs;
}

absl::StatusOr<std::vector<at::Tensor>> GoldenOutputs(const v1::Program& program) {
  return GoldenOutputs(program.golden());
}

absl::StatusOr<std::vector<at::Tensor>> GoldenOutputs(const v1::Golden& golden) {
  std::vector<at::Tensor> outputs;
  for (const v1::GoldenOutput& recorded : golden.outputs()) {
    ASSAY_ASSIGN_OR_RETURN(at::Tensor output, MakeTensor(recorded.tensor()));
    outputs.push_back(std::move(output));
  }
  return outputs;
}

at::Tensor Place(const at::Tensor& tensor, const Placement& placement) {
  at::Tensor placed = tensor;
  if (placement.dtype != at::ScalarType::Float && tensor.scalar_type() == at::ScalarType::Float) {
    // A finite number stays finite: masks hold float32's lowest number, and a row of infinities is NaN to
    // softmax.
    const double largest = placement.dtype == at::ScalarType::Half
                               ? static_cast<double>(std::numeric_limits<c10::Half>::max())
                               : static_cast<double>(std::numeric_limits<c10::BFloat16>::max());
    placed = at::where(at::isfinite(tensor), tensor.clamp(-largest, largest), tensor).to(placement.dtype);
  }
  if (placed.device() != placement.device) placed = placed.to(placement.device);
  return placed;
}

}  // namespace assay::engine
