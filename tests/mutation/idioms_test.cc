// Each rule of the idioms check: a right program holds it, one with a fault of a kind that it is for does
// not, and who is exempt from it is not asked.
#include <string>

#include "absl/strings/match.h"
#include "bench/mutation_faults.h"
#include "engine/check_idioms.h"
#include "tests/engine/altered_program.h"
#include "tests/matchers.h"

namespace assay::mutation {
namespace {

using engine::RealProgram;
using ::testing::HasSubstr;

struct Rule {
  const char* rule;  // as an exemption names it
  const char* model;
  const char* kind;  // of a fault
  const char* what;  // it says of itself
};

const Rule kRules[] = {
    {"sine_and_cosine", "llama", "op.other_function", "aten::cos becomes aten::sin"},
    {"half_turn", "llama", "op.drop_operator", "aten::neg"},
    {"half_turn", "llama", "op.swap_operands", "joined"},
    {"epsilon", "llama", "op.other_function", "aten::rsqrt"},
    {"activation", "bert", "op.other_function", "aten::gelu becomes aten::silu"},
    {"gate", "gpt2", "op.other_function", "aten::tanh"},
    {"counting/1", "camembert", "op.shift_position", "0 becomes 1"},
    {"counting", "ctrl", "op.shift_position", "is counted from one"},
    {"padding_offset", "camembert", "op.shift_position", "1 becomes 2"},
    {"causal_mask", "llama", "op.shift_mask", "aten::le"},
    {"place", "dinov2", "op.shift_slice", "the place that is chosen"},
    {"one_minus", "bert", "op.drop_scale", "-3.4"},
    {"scores", "bert", "op.drop_scale", ""},
    {"linear_of_linear", "bert", "op.drop_operator", "aten::gelu"},
    {"convolution_of_norm", "resnet", "op.drop_operator", "aten::relu"},
    {"difference", "gpt2", "op.sign", "a sum becomes a difference"},
};

TEST(Idioms, EachRuleFindsAFaultOfItsKindAndNoneInTheRightProgram) {
  for (const Rule& rule : kRules) {
    SCOPED_TRACE(testing::Message() << rule.rule << " in " << rule.model);
    const v1::Program right = RealProgram(rule.model);
    const engine::Finding holds = engine::CheckIdioms({}, right);
    EXPECT_TRUE(holds.held) << holds.message;
    int found = 0;
    v1::Check::Idioms exempt;
    exempt.add_except()->set_name(rule.rule);
    for (const Fault& fault : AllFaults(right)) {
      if (fault.kind != rule.kind || !absl::StrContains(fault.what, rule.what)) continue;
      const auto planted = Plant(right, fault);
      if (!planted.ok()) continue;
      const engine::Finding broken = engine::CheckIdioms({}, *planted);
      if (broken.held || !absl::StartsWith(broken.message, rule.rule)) continue;
      ++found;
      const engine::Finding silent = engine::CheckIdioms(exempt, *planted);
      EXPECT_TRUE(silent.held || !absl::StartsWith(silent.message, rule.rule)) << silent.message;
    }
    EXPECT_GT(found, 0);
  }
}

}  // namespace
}  // namespace assay::mutation
