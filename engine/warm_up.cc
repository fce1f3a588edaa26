// What a first test would otherwise load lazily: kernels' code, MKL's and oneDNN's own set-up.
#include <ATen/ops/add.h>
#include <ATen/ops/bmm.h>
#include <ATen/ops/conv2d.h>
#include <ATen/ops/embedding.h>
#include <ATen/ops/gelu.h>
#include <ATen/ops/layer_norm.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/zeros.h>
#include <c10/core/InferenceMode.h>
#include <c10/util/Exception.h>

#include "engine/run_test.h"
#include "spdlog/spdlog.h"

namespace assay::engine {

void WarmUp() {
  try {
    c10::InferenceMode inference;
    at::Tensor ids = at::zeros({2, 4}, at::kLong);
    at::Tensor hidden = at::embedding(at::ones({8, 16}), ids);
    hidden = at::linear(hidden, at::ones({16, 16}), at::zeros({16}));
    at::Tensor scores = at::softmax(at::bmm(hidden, hidden.transpose(1, 2)), -1);
    hidden = at::layer_norm(at::add(hidden, at::bmm(scores, hidden)), {16});
    hidden = at::gelu(hidden);
    at::conv2d(at::ones({1, 3, 8, 8}), at::ones({4, 3, 2, 2}), at::zeros({4}), 2);
  } catch (const c10::Error& error) {
    // Not a reason to stop: a test that needs the same will say so by name.
    spdlog::warn("warming up: {}", error.what_without_backtrace());
  }
}

}  // namespace assay::engine
