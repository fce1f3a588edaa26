// Sizes that are known only at run time follow Python's arithmetic.
#include "engine/symbolic.h"

#include <cstdint>
#include <limits>
#include <vector>

#include "tests/matchers.h"

namespace assay::engine {
namespace {

using ::testing::HasSubstr;

absl::StatusOr<c10::IValue> Evaluate(const char* name, const std::vector<c10::IValue>& arguments) {
  c10::IValue result;
  const absl::Status status = EvaluateSymbolic(*FindSymbolicFunction(name), arguments, &result);
  if (!status.ok()) return status;
  return result;
}

int64_t Integer(const char* name, const std::vector<c10::IValue>& arguments) {
  const auto result = Evaluate(name, arguments);
  EXPECT_TRUE(result.ok() && result->isInt()) << name;
  return result.ok() && result->isInt() ? result->toInt() : -999;
}

double Real(const char* name, const std::vector<c10::IValue>& arguments) {
  const auto result = Evaluate(name, arguments);
  EXPECT_TRUE(result.ok() && result->isDouble()) << name;
  return result.ok() && result->isDouble() ? result->toDouble() : -999;
}

bool Boolean(const char* name, const std::vector<c10::IValue>& arguments) {
  const auto result = Evaluate(name, arguments);
  EXPECT_TRUE(result.ok() && result->isBool()) << name;
  return result.ok() && result->isBool() && result->toBool();
}

constexpr int64_t kMin = std::numeric_limits<int64_t>::min();
constexpr int64_t kMax = std::numeric_limits<int64_t>::max();

TEST(SymbolicTest, IntegersStayIntegers) {
  EXPECT_EQ(Integer("add", {7, 2}), 9);
  EXPECT_EQ(Integer("sub", {7, 9}), -2);
  EXPECT_EQ(Integer("mul", {7, -2}), -14);
  EXPECT_EQ(Integer("neg", {7}), -7);
  EXPECT_EQ(Integer("max", {7, 9}), 9);
  EXPECT_EQ(Integer("min", {7, 9}), 7);
  EXPECT_EQ(Integer("int", {7.9}), 7);
  EXPECT_EQ(Integer("int", {-7.9}), -7);
}

TEST(SymbolicTest, FloorDivisionAndModulusRoundDownAsInPython) {
  EXPECT_EQ(Integer("floordiv", {7, 2}), 3);
  EXPECT_EQ(Integer("floordiv", {-7, 2}), -4);
  EXPECT_EQ(Integer("floordiv", {7, -2}), -4);
  EXPECT_EQ(Integer("floordiv", {-7, -2}), 3);
  EXPECT_EQ(Integer("mod", {7, 3}), 1);
  EXPECT_EQ(Integer("mod", {-7, 3}), 2);
  EXPECT_EQ(Integer("mod", {7, -3}), -2);
  EXPECT_EQ(Integer("mod", {kMin, -1}), 0);
  EXPECT_EQ(Real("floordiv", {-7.0, 2}), -4);
  EXPECT_EQ(Real("mod", {-7.5, 2}), 0.5);
}

TEST(SymbolicTest, TrueDivisionAndRealsGiveReals) {
  EXPECT_EQ(Real("truediv", {7, 2}), 3.5);
  EXPECT_EQ(Real("add", {7, 0.5}), 7.5);
  EXPECT_EQ(Real("float", {7}), 7.0);
}

TEST(SymbolicTest, ComparesIntegersExactly) {
  EXPECT_TRUE(Boolean("lt", {kMax - 1, kMax}));  // equal as doubles
  EXPECT_FALSE(Boolean("eq", {kMax - 1, kMax}));
  EXPECT_TRUE(Boolean("ne", {1, 2}));
  EXPECT_TRUE(Boolean("le", {2, 2}));
  EXPECT_TRUE(Boolean("gt", {2.5, 2}));
  EXPECT_TRUE(Boolean("ge", {2, 2}));
  EXPECT_TRUE(Boolean("not", {false}));
}

TEST(SymbolicTest, OverflowAndDivisionByZeroAreErrors) {
  for (const auto& [name, a, b] : std::vector<std::tuple<const char*, int64_t, int64_t>>{
           {"add", kMax, 1}, {"sub", kMin, 1}, {"mul", kMax, 2}, {"floordiv", kMin, -1}}) {
    EXPECT_THAT(Evaluate(name, {a, b}), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("overflow")))
        << name;
  }
  EXPECT_THAT(Evaluate("neg", {kMin}), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("overflow")));
  EXPECT_THAT(Evaluate("int", {1e300}), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("overflow")));
  for (const char* name : {"floordiv", "truediv", "mod"}) {
    EXPECT_THAT(Evaluate(name, {1, 0}), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("zero")))
        << name;
    EXPECT_THAT(Evaluate(name, {1.0, 0.0}), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("zero")))
        << name;
  }
}

TEST(SymbolicTest, RefusesWhatIsNoNumber) {
  EXPECT_THAT(Evaluate("add", {1, "x"}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("no number")));
  EXPECT_THAT(Evaluate("add", {1}), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("no number")));
  EXPECT_FALSE(FindSymbolicFunction("system").has_value());
}

}  // namespace
}  // namespace assay::engine
