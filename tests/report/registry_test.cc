#include "coordinator/report/registry.h"

#include <map>

#include "tests/matchers.h"

namespace assay::report {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

TEST(Registry, ReadsEveryField) {
  ASSERT_OK_AND_ASSIGN(Registry registry, ParseRegistry("r.json", R"({"note": "n", "models": [
    {"name": "bert", "priority": "critical", "arch_type": "encoder_only", "named_by": "registry"},
    {"name": "esm", "priority": "medium", "arch_type": "encoder_only", "named_by": "plan", "batch": 2}]})"));
  ASSERT_EQ(registry.models.size(), 2u);
  EXPECT_EQ(registry.note, "n");
  EXPECT_EQ(registry.models[0].priority, Priority::kCritical);
  EXPECT_FALSE(registry.models[0].named_by_plan);
  EXPECT_EQ(registry.models[0].batch, 0u);
  ASSERT_NE(registry.Find("esm"), nullptr);
  EXPECT_TRUE(registry.Find("esm")->named_by_plan);
  EXPECT_EQ(registry.Find("esm")->batch, 2u);
  EXPECT_EQ(registry.Find("nobody"), nullptr);
}

struct Refused {
  const char* what;
  const char* text;
  const char* message;
};

class RegistryRefuses : public ::testing::TestWithParam<Refused> {};

TEST_P(RegistryRefuses, NamingThePlace) {
  EXPECT_THAT(ParseRegistry("r.json", GetParam().text),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       AllOf(HasSubstr("r.json"), HasSubstr(GetParam().message))));
}

INSTANTIATE_TEST_SUITE_P(
    All, RegistryRefuses,
    ::testing::Values(
        Refused{"BrokenJson", "{\"models\": [", "parse error"}, Refused{"NotAnObject", "[]", "not an object"},
        Refused{"NoModels", "{}", "'models' is missing"},
        Refused{"UnknownTopField", R"({"models": [], "more": 1})", "unknown field 'more'"},
        Refused{
            "UnknownField",
            R"({"models": [{"name": "a", "priority": "low", "arch_type": "x", "named_by": "plan", "owner": 1}]})",
            "models[0] (a): unknown field 'owner'"},
        Refused{"UnknownPriority",
                R"({"models": [{"name": "a", "priority": "high", "arch_type": "x", "named_by": "plan"}]})",
                "priority 'high'"},
        Refused{"MissingPriority", R"({"models": [{"name": "a", "arch_type": "x", "named_by": "plan"}]})",
                "'priority' is missing"},
        Refused{"Hyphen",
                R"({"models": [{"name": "a-b", "priority": "low", "arch_type": "x", "named_by": "plan"}]})",
                "underscores only"},
        Refused{"UnknownNamer",
                R"({"models": [{"name": "a", "priority": "low", "arch_type": "x", "named_by": "me"}]})",
                "named_by 'me'"},
        Refused{
            "BatchOfText",
            R"({"models": [{"name": "a", "priority": "low", "arch_type": "x", "named_by": "plan", "batch": "1"}]})",
            "'batch'"},
        Refused{"Twice",
                R"({"models": [{"name": "a", "priority": "low", "arch_type": "x", "named_by": "plan"},
                               {"name": "a", "priority": "low", "arch_type": "x", "named_by": "plan"}]})",
                "'a' is given twice"}),
    [](const auto& info) { return std::string(info.param.what); });

TEST(Registry, SaysWhichFileIsNotThere) {
  EXPECT_THAT(LoadRegistry("no/such/registry.json"),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("no/such/registry.json")));
}

// The plan's own counts, on the committed file.
TEST(Registry, OfThePlanHas198Models) {
  ASSERT_OK_AND_ASSIGN(Registry registry, LoadRegistry("models/registry.json"));
  std::map<Priority, int> by_priority;
  int planned = 0;
  for (const TrackedModel& model : registry.models) {
    ++by_priority[model.priority];
    if (model.named_by_plan) ++planned;
    EXPECT_EQ(model.named_by_plan, model.batch != 0) << model.name;
  }
  EXPECT_EQ(registry.models.size(), 198u);
  EXPECT_EQ(by_priority[Priority::kCritical], 32);
  EXPECT_EQ(by_priority[Priority::kMedium], 139);
  EXPECT_EQ(by_priority[Priority::kLow], 27);
  EXPECT_EQ(planned, 62);
}

}  // namespace
}  // namespace assay::report
