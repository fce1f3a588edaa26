// Matchers for absl::Status and absl::StatusOr, which Debian's Abseil does not carry.
#pragma once

#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace assay {

inline const absl::Status& StatusOf(const absl::Status& status) { return status; }
template <typename T>
const absl::Status& StatusOf(const absl::StatusOr<T>& result) {
  return result.status();
}

// EXPECT_THAT(DoIt(), IsOk());
MATCHER(IsOk, "is OK") {
  *result_listener << StatusOf(arg).ToString();
  return StatusOf(arg).ok();
}

// EXPECT_THAT(Read(), StatusIs(absl::StatusCode::kNotFound, HasSubstr("x.json")));
MATCHER_P2(StatusIs, code, message_matcher, "has the status code and message") {
  *result_listener << StatusOf(arg).ToString();
  return StatusOf(arg).code() == code &&
         ::testing::Matches(message_matcher)(std::string(StatusOf(arg).message()));
}
template <typename Code>
auto StatusIs(Code code) {
  return StatusIs(code, ::testing::_);
}

// EXPECT_THAT(Read(), IsOkAndHolds("text"));
MATCHER_P(IsOkAndHolds, value_matcher, "is OK and holds") {
  if (!arg.ok()) {
    *result_listener << arg.status().ToString();
    return false;
  }
  return ::testing::ExplainMatchResult(::testing::MatcherCast<decltype(*arg)>(value_matcher), *arg,
                                       result_listener);
}

}  // namespace assay

#define ASSAY_TEST_CONCAT_INNER(a, b) a##b
#define ASSAY_TEST_CONCAT(a, b) ASSAY_TEST_CONCAT_INNER(a, b)
// ASSERT_OK_AND_ASSIGN(auto x, MakeX());
#define ASSERT_OK_AND_ASSIGN(target, expression) \
  ASSERT_OK_AND_ASSIGN_INNER(ASSAY_TEST_CONCAT(assay_result_, __LINE__), target, expression)
#define ASSERT_OK_AND_ASSIGN_INNER(result, target, expression) \
  auto result = (expression);                                  \
  ASSERT_TRUE(result.ok()) << result.status();                 \
  target = *std::move(result)
