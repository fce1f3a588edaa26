#include "engine/exact_math.h"

#include <ATen/Context.h>

#include <cstdlib>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace assay::engine {
namespace {

// NVIDIA's libraries look at it beneath every switch of LibTorch's; 0 is "never".
constexpr char kOverride[] = "NVIDIA_TF32_OVERRIDE";

absl::Status StillOn(absl::string_view what) {
  return absl::UnavailableError(absl::StrCat(what, " cannot be turned off: results would not be exact"));
}

bool ReducesCoarsely(at::CuBLASReductionOption option) {
  return option == at::CuBLASReductionOption::AllowReducedPrecisionWithSplitK;
}

}  // namespace

absl::Status DemandExactMath() {
  at::Context& context = at::globalContext();
  context.setAllowTF32CuDNN(false);
  context.setAllowTF32CuBLAS(false);
  // Setting it warns where there is no such device.
  if (context.allowTF32OneDNN()) context.setAllowTF32OneDNN(false);
  context.setAllowFP16ReductionCuBLAS(false);
  context.setAllowBF16ReductionCuBLAS(false);
  context.setAllowFP16AccumulationCuBLAS(false);
  context.setAllowFP16BF16ReductionMathSDP(false);
  context.setAllowFP16ReductionCPU(false);

  if (context.allowTF32CuBLAS() || context.float32MatmulPrecision() != at::Float32MatmulPrecision::HIGHEST) {
    return StillOn("TensorFloat-32 in matrix products (cuBLAS)");
  }
  for (const at::Float32Op op : {at::Float32Op::CONV, at::Float32Op::RNN}) {
    if (context.allowTF32CuDNN(op)) return StillOn("TensorFloat-32 in convolutions (cuDNN)");
  }
  if (context.allowTF32OneDNN()) return StillOn("TensorFloat-32 on the CPU (oneDNN)");
  if (ReducesCoarsely(context.allowFP16ReductionCuBLAS()) ||
      ReducesCoarsely(context.allowBF16ReductionCuBLAS())) {
    return StillOn("summing in half precision (cuBLAS)");
  }
  if (context.allowFP16AccumulationCuBLAS()) return StillOn("float16 accumulators (cuBLAS)");
  if (context.allowFP16BF16ReductionMathSDP()) return StillOn("summing attention in half precision");
  if (context.allowFP16ReductionCPU()) return StillOn("summing in float16 on the CPU");

  const char* forced = std::getenv(kOverride);
  if (forced != nullptr && absl::string_view(forced) != "0") {
    return absl::UnavailableError(absl::StrCat(
        kOverride, "=", forced, " may turn TensorFloat-32 on beneath LibTorch: unset it, or set it to 0"));
  }
  return absl::OkStatus();
}

}  // namespace assay::engine
