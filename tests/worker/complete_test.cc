#include "worker/complete.h"

#include "tests/matchers.h"

namespace assay::worker {
namespace {

using ::testing::HasSubstr;

class Complete : public ::testing::Test {
 protected:
  Complete() {
    v1::Case& loading = *test_.add_case_();
    loading.set_name("test_model_loading");
    loading.set_weights(v1::REAL);
    loading.add_check()->set_name("weights_bound");
    loading.add_check()->set_name("golden");
    result_.set_outcome(v1::PASSED);
    v1::CaseResult& got = *result_.add_case_();
    got.set_name("test_model_loading");
    got.set_outcome(v1::PASSED);
    for (const char* name : {"weights_bound", "golden"}) {
      got.add_check()->set_name(name);
      got.mutable_check()->rbegin()->set_outcome(v1::PASSED);
    }
  }
  v1::CaseResult& got() { return *result_.mutable_case_(0); }
  v1::ModelTest test_;
  v1::TestResult result_;
};

TEST_F(Complete, APassThatAnswersEverything) { EXPECT_EQ(FaultOfPass(test_, result_), ""); }

TEST_F(Complete, ALackingCase) {
  test_.add_case_()->set_name("test_model_with_mock");
  EXPECT_EQ(FaultOfPass(test_, result_), "lacks case test_model_with_mock");
}

TEST_F(Complete, ALackingCheck) {
  got().mutable_check()->RemoveLast();
  EXPECT_EQ(FaultOfPass(test_, result_), "lacks check golden of case test_model_loading");
}

TEST_F(Complete, TheSameCheckTwiceIsNotTwoChecks) {
  got().mutable_check(1)->set_name("weights_bound");
  EXPECT_THAT(FaultOfPass(test_, result_), HasSubstr("twice"));
}

TEST_F(Complete, ACheckOrACaseThatDidNotPass) {
  got().mutable_check(1)->set_outcome(v1::FAILED);
  EXPECT_THAT(FaultOfPass(test_, result_), HasSubstr("check golden of case test_model_loading FAILED"));
  got().set_outcome(v1::FAILED);
  EXPECT_THAT(FaultOfPass(test_, result_), HasSubstr("case test_model_loading FAILED"));
}

TEST_F(Complete, ACheckpointThatIsThereIsNeverSkipped) {
  got().set_outcome(v1::SKIPPED);
  got().clear_check();
  EXPECT_EQ(FaultOfPass(test_, result_), "");
  test_.mutable_trained()->set_id("org/name");
  EXPECT_THAT(FaultOfPass(test_, result_), HasSubstr("was skipped"));
}

TEST_F(Complete, WhatIsNoPassNeedsNothing) {
  result_.set_outcome(v1::FAILED);
  result_.clear_case_();
  EXPECT_EQ(FaultOfPass(test_, result_), "");
}

}  // namespace
}  // namespace assay::worker
