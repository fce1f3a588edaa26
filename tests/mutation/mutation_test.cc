// The mutation tool: what it says of faults whose effect is known.
#include <algorithm>
#include <string>
#include <vector>

#include "bench/mutation_faults.h"
#include "bench/mutation_score.h"
#include "tests/engine/altered_program.h"
#include "tests/matchers.h"

namespace assay::mutation {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

Fault FaultOf(const v1::Program& program, const std::string& kind, const std::string& place) {
  for (const Fault& fault : AllFaults(program)) {
    if (fault.kind == kind && fault.place == place) return fault;
  }
  ADD_FAILURE() << kind << " " << place;
  return {};
}

v1::Case Checks(bool golden) {
  v1::Case checks;
  checks.set_weights(v1::MOCK);
  v1::Check& finite = *checks.add_check();
  finite.set_name("finite");
  finite.mutable_finite();
  if (!golden) return checks;
  v1::Check& check = *checks.add_check();
  check.set_name("golden");
  check.mutable_golden();
  return checks;
}

TEST(Mutation, AFaultThatMattersIsCaughtPlacedOrSurvivesAWeakTest) {
  const v1::Program bert = engine::RealProgram("bert");
  ASSERT_OK_AND_ASSIGN(const auto whole, Subject::Make(bert, Checks(true), 4));
  ASSERT_OK_AND_ASSIGN(const auto weak, Subject::Make(bert, Checks(false), 4));
  const Fault fault = FaultOf(bert, "op.other_function", "gelu");
  const Trial caught = whole->Try(fault);
  EXPECT_TRUE(caught.matters());
  EXPECT_THAT(caught.caught, ElementsAre("golden"));
  EXPECT_THAT(caught.structural, IsEmpty());
  EXPECT_EQ(caught.diagnosed, "gelu");
  EXPECT_TRUE(caught.placed);
  const Trial survived = weak->Try(fault);
  EXPECT_TRUE(survived.matters());
  EXPECT_THAT(survived.caught, IsEmpty());
}

TEST(Mutation, AFaultWithoutEffectDoesNotMatter) {
  const v1::Program bert = engine::RealProgram("bert");
  ASSERT_OK_AND_ASSIGN(const auto subject, Subject::Make(bert, Checks(true), 4));
  EXPECT_FALSE(subject->Try(FaultOf(bert, "op.epsilon", "layer_norm")).matters());
}

TEST(Mutation, FaultsAreTheSameEachTime) {
  const v1::Program bert = engine::RealProgram("bert");
  const std::vector<Fault> first = AllFaults(bert), second = AllFaults(bert);
  ASSERT_EQ(first.size(), second.size());
  for (size_t i = 0; i < first.size(); ++i) EXPECT_EQ(first[i].what, second[i].what);
}

}  // namespace
}  // namespace assay::mutation
