#include "engine/alter.h"

#include <ATen/ops/equal.h>
#include <ATen/ops/tensor.h>
#include <gtest/gtest.h>

#include <vector>

#include "tests/matchers.h"

namespace assay::engine {
namespace {

v1::InputSpec Ids() {
  v1::InputSpec spec;
  spec.set_name("input_ids");
  spec.set_id_low(10);
  spec.set_id_high(20);
  return spec;
}

at::Tensor Rows(std::vector<int64_t> values) {
  return at::tensor(values, at::TensorOptions().dtype(at::kLong)).reshape({2, 4});
}

TEST(ChangePositions, MovesOrdinaryIdsAndLeavesSpecialOnesBesideThem) {
  const at::Tensor input = Rows({1, 11, 19, 2, 1, 12, 2, 0});
  ASSERT_OK_AND_ASSIGN(const at::Tensor changed, ChangePositions(input, Ids(), 1, 4));
  EXPECT_TRUE(at::equal(changed, Rows({1, 12, 10, 2, 1, 13, 2, 0})));
}

TEST(ChangePositions, ChangesPaddingWhereThereIsNothingElse) {
  const at::Tensor input = Rows({1, 11, 2, 0, 1, 2, 0, 0});
  ASSERT_OK_AND_ASSIGN(const at::Tensor changed, ChangePositions(input, Ids(), 3, 4));
  EXPECT_TRUE(at::equal(changed, Rows({1, 11, 2, 10, 1, 2, 0, 10})));
}

}  // namespace
}  // namespace assay::engine
