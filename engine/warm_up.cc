// What every test would otherwise set up for itself in its own process: MKL's, oneDNN's and OpenSSL's own
// state, and Protobuf's reflection.
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
#include <malloc.h>

#include "common/digest.h"
#include "engine/run_test.h"
#include "spdlog/spdlog.h"

namespace assay::engine {
namespace {

class NoSink final : public TestSink {
 public:
  void CaseStarted(absl::string_view) override {}
  void CaseFinished(const v1::CaseResult&) override {}
  void Log(absl::string_view) override {}
};

// A test that is looked at whole and then finds that it has no program.
void LookAtATest() {
  v1::ModelTest test;
  test.mutable_set_up()->set_device(v1::CPU);
  test.mutable_set_up()->set_dtype(v1::FLOAT32);
  test.mutable_limits()->set_timeout_ms(1);
  v1::Case& c = *test.add_case_();
  c.set_weights(v1::MOCK);
  c.add_check()->mutable_golden()->mutable_tolerance()->set_scale(0);
  test.add_absent()->set_reason("none");
  NoSink sink;
  RunTest(test, {}, sink);
  Sha256Hex("");
}

}  // namespace

void KeepMemory() {
  mallopt(M_MMAP_THRESHOLD, 64 << 20);
  mallopt(M_TRIM_THRESHOLD, 256 << 20);
  mallopt(M_TOP_PAD, 8 << 20);
}

void WarmUp() {
  LookAtATest();
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
