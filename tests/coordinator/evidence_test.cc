// What a result must bear out before it counts: each row is one lie, or the truth.
#include "coordinator/store/evidence.h"

#include <functional>

#include "tests/coordinator/samples.h"
#include "tests/matchers.h"

namespace assay::coordinator {
namespace {

using ::testing::HasSubstr;

struct Lie {
  const char* name;
  std::function<void(v1::TestResult&)> tell;
  std::string doubt;  // part of the message; empty: it is believed
};

void Expect(const JobRecord& record, v1::TestResult result, const Lie& lie) {
  SCOPED_TRACE(lie.name);
  lie.tell(result);
  const v1::Outcome said = result.outcome();
  const v1::TestResult examined = Examined(record, result);
  if (lie.doubt.empty()) {
    EXPECT_EQ(examined.outcome(), said) << examined.message();
    return;
  }
  EXPECT_EQ(examined.outcome(), v1::INFRASTRUCTURE_ERROR);
  EXPECT_THAT(examined.message(), HasSubstr(lie.doubt));
}

JobRecord InExport(bool default_checkpoint) {
  BatchRecord batch;
  batch.batch.set_batch_id("b1");
  const BatchSubmission submission =
      default_checkpoint ? DefaultSubmission("b1", {"bert"}) : CheckpointSubmission("b1", {"bert"});
  JobRecord record = NewJobRecord(batch, submission.jobs[0], submission.target, 0, absl::UnixEpoch());
  StartAttempt(record, "w", absl::UnixEpoch(), absl::UnixEpoch());
  record.assigned = Given(record.job);
  return record;
}

JobRecord InTest(const v1::AttemptResult& exported) {
  JobRecord record = InExport(/*default_checkpoint=*/true);
  EndStage(record, exported.result(), "", absl::UnixEpoch());
  StartAttempt(record, "w", absl::UnixEpoch(), absl::UnixEpoch());
  record.assigned = Given(record.job);
  return record;
}

TEST(EvidenceTest, OutcomesThatNoWorkerDecides) {
  const JobRecord record = InTest(Exported("b1.bert", 1));
  for (int outcome : {0, static_cast<int>(v1::CANCELLED), 99}) {
    Expect(record, ResultWithCheckpoint("b1.bert", 2, v1::PASSED).result(),
           {"undecided", [&](v1::TestResult& r) { r.set_outcome(static_cast<v1::Outcome>(outcome)); },
            "no outcome of its own"});
  }
}

TEST(EvidenceTest, OfAnExport) {
  const Lie lies[] = {
      {"the truth", [](v1::TestResult&) {}, ""},
      {"no golden", [](v1::TestResult& r) { r.mutable_export_()->clear_golden_digest(); }, ""},
      {"a local folder", [](v1::TestResult& r) { r.mutable_export_()->mutable_checkpoint()->clear_commit(); },
       ""},
      {"nothing made", [](v1::TestResult& r) { r.clear_export_(); }, "names no program"},
      {"no program", [](v1::TestResult& r) { r.mutable_export_()->clear_program_digest(); },
       "names no program"},
      {"a path for a program",
       [](v1::TestResult& r) { r.mutable_export_()->set_program_digest("../../etc/passwd"); },
       "names no program"},
      {"no digest for a golden", [](v1::TestResult& r) { r.mutable_export_()->set_golden_digest("golden"); },
       "'golden', which is no digest"},
      {"another checkpoint",
       [](v1::TestResult& r) { r.mutable_export_()->mutable_checkpoint()->set_id("acme/other"); },
       "'acme/tiny' was asked for"},
      {"no commit", [](v1::TestResult& r) { r.mutable_export_()->mutable_checkpoint()->set_commit("main"); },
       "which is no commit"},
      {"a failure with nothing to show",
       [](v1::TestResult& r) {
         r.set_outcome(v1::FAILED);
         r.clear_export_();
       },
       ""},
      {"skipped", [](v1::TestResult& r) { r.set_outcome(v1::SKIPPED); }, "cannot be skipped"},
  };
  for (const Lie& lie : lies) {
    Expect(InExport(/*default_checkpoint=*/false), Exported("b1.bert", 1).result(), lie);
  }
  Expect(InExport(/*default_checkpoint=*/true), Exported("b1.bert", 1).result(),
         {"a default one skipped", [](v1::TestResult& r) { r.set_outcome(v1::SKIPPED); }, ""});
  JobRecord pinned = InExport(false);
  pinned.job.mutable_model()->mutable_checkpoint()->set_revision(std::string(40, 'd'));
  Expect(pinned, Exported("b1.bert", 1).result(), {"another commit", [](v1::TestResult&) {}, "and dddd"});
}

TEST(EvidenceTest, OfATestWithACheckpoint) {
  const Lie lies[] = {
      {"the truth", [](v1::TestResult&) {}, ""},
      {"no case", [](v1::TestResult& r) { r.clear_case_(); }, "without a case that did"},
      {"only a case that was skipped",
       [](v1::TestResult& r) {
         for (v1::CaseResult& one : *r.mutable_case_()) one.set_outcome(v1::SKIPPED);
       },
       "without a case that did"},
      {"a case that failed", [](v1::TestResult& r) { r.mutable_case_(0)->set_outcome(v1::FAILED); },
       "test_model_with_mock is FAILED"},
      {"a case without an outcome", [](v1::TestResult& r) { r.mutable_case_(0)->clear_outcome(); },
       "test_model_with_mock is OUTCOME_UNSPECIFIED"},
      {"a check that failed",
       [](v1::TestResult& r) {
         v1::CheckResult& check = *r.mutable_case_(1)->add_check();
         check.set_name("golden");
         check.set_outcome(v1::FAILED);
       },
       "check golden of test_model_loading is FAILED"},
      {"a check that was skipped",
       [](v1::TestResult& r) { r.mutable_case_(1)->add_check()->set_outcome(v1::SKIPPED); }, ""},
      {"no checkpoint was loaded", [](v1::TestResult& r) { r.mutable_case_(1)->set_outcome(v1::SKIPPED); },
       "without a case that loaded the checkpoint"},
      {"mock weights for the checkpoint's",
       [](v1::TestResult& r) { r.mutable_case_(1)->set_weights(v1::MOCK); },
       "without a case that loaded the checkpoint"},
      {"synthetic weights are loaded too",
       [](v1::TestResult& r) { r.mutable_case_(1)->set_weights(v1::SYNTHETIC); }, ""},
      {"skipped altogether", [](v1::TestResult& r) { r.set_outcome(v1::SKIPPED); }, "cannot be skipped"},
      {"another template", [](v1::TestResult& r) { r.mutable_provenance()->set_template_digest("other"); },
       "ran with template 'other'"},
      {"another catalogue entry",
       [](v1::TestResult& r) { r.mutable_provenance()->set_catalogue_digest("other"); },
       "ran with catalogue entry 'other'"},
      {"another program", [](v1::TestResult& r) { r.mutable_provenance()->set_program_digest("other"); },
       "ran with program 'other'"},
      {"another program of the checkpoint",
       [](v1::TestResult& r) { r.mutable_provenance()->set_checkpoint_program_digest("other"); },
       "ran with checkpoint's program 'other'"},
      {"the model's own program for the checkpoint's",
       [](v1::TestResult& r) {
         r.mutable_provenance()->set_checkpoint_program_digest(r.provenance().program_digest());
       },
       "ran with checkpoint's program ''"},
      {"no golden", [](v1::TestResult& r) { r.mutable_provenance()->clear_golden_digest(); },
       "ran with checkpoint's golden ''"},
      {"other weights", [](v1::TestResult& r) { r.mutable_provenance()->set_weights_digest("other"); },
       "ran with weights 'other'"},
      {"weights that nobody pinned",
       [](v1::TestResult& r) { r.mutable_provenance()->set_weights_trust(v1::PINNED); }, "calls weights"},
      {"a failure on another template",
       [](v1::TestResult& r) {
         r.set_outcome(v1::FAILED);
         r.mutable_provenance()->set_template_digest("other");
       },
       ""},
  };
  for (const Lie& lie : lies) {
    Expect(InTest(Exported("b1.bert", 1)), ResultWithCheckpoint("b1.bert", 2, v1::PASSED).result(), lie);
  }
}

TEST(EvidenceTest, OfWeightsThatArePinned) {
  JobRecord record = InTest(Exported("b1.bert", 1));
  v1::TestResult result = ResultWithCheckpoint("b1.bert", 2, v1::PASSED).result();
  result.mutable_provenance()->set_weights_trust(v1::PINNED);
  record.assigned.mutable_checkpoint()->set_weights_digest(Sha256Hex("weights"));
  Expect(record, result, {"weights alone", [](v1::TestResult&) {}, "pinned is ''"});
  record.assigned.mutable_checkpoint()->set_config_digest(Sha256Hex("another configuration"));
  Expect(record, result, {"another configuration", [](v1::TestResult&) {}, "its configuration is"});
  record.assigned.mutable_checkpoint()->set_config_digest(Sha256Hex("configuration"));
  Expect(record, result, {"those", [](v1::TestResult&) {}, ""});
  record.assigned.mutable_checkpoint()->set_weights_digest(Sha256Hex("others"));
  Expect(record, result, {"others", [](v1::TestResult&) {}, "pinned are '" + Sha256Hex("others")});
}

TEST(EvidenceTest, OfWeightsThatTheHubVouchesFor) {
  JobRecord record = InTest(Exported("b1.bert", 1));
  record.assigned.mutable_checkpoint()->set_id("acme/tiny");
  record.assigned.mutable_checkpoint()->set_commit(std::string(40, 'c'));
  v1::TestResult result = ResultWithCheckpoint("b1.bert", 2, v1::PASSED).result();
  result.mutable_provenance()->set_weights_trust(v1::HUB_SHA256);
  *result.mutable_provenance()->mutable_checkpoint() = record.assigned.checkpoint();
  const auto loaded = [](v1::TestResult& r) { return r.mutable_provenance()->mutable_checkpoint(); };
  Expect(record, result, {"the truth", [](v1::TestResult&) {}, ""});
  Expect(record, result,
         {"another checkpoint", [&](v1::TestResult& r) { loaded(r)->set_id("acme/other"); },
          "loaded checkpoint 'acme/other'"});
  Expect(record, result,
         {"another commit", [&](v1::TestResult& r) { loaded(r)->set_commit("dddd"); }, "at 'dddd'"});
  Expect(record, result,
         {"none", [](v1::TestResult& r) { r.mutable_provenance()->clear_checkpoint(); },
          "loaded checkpoint ''"});
  record.assigned.mutable_checkpoint()->clear_commit();
  Expect(record, result,
         {"a folder", [&](v1::TestResult& r) { loaded(r)->clear_commit(); }, "they are of no commit"});
}

TEST(EvidenceTest, OfATestWithoutACheckpoint) {
  const Lie lies[] = {
      {"the truth", [](v1::TestResult&) {}, ""},
      {"weights at the worker, loaded by the model's own program",
       [](v1::TestResult& r) {
         r.mutable_provenance()->set_checkpoint_program_digest(Sha256Hex("model's program"));
       },
       ""},
      {"a checkpoint's program that it was not given",
       [](v1::TestResult& r) { r.mutable_provenance()->set_checkpoint_program_digest("other"); },
       "ran with checkpoint's program 'other'"},
      {"skipped", [](v1::TestResult& r) { r.set_outcome(v1::SKIPPED); }, ""},
  };
  for (const Lie& lie : lies) {
    JobRecord record = InTest(Exported("b1.bert", 1, v1::SKIPPED));
    record.assigned.set_program_digest(Sha256Hex("model's program"));
    v1::TestResult result = Result("b1.bert", 2, v1::PASSED).result();
    result.mutable_provenance()->set_program_digest(Sha256Hex("model's program"));
    Expect(record, result, lie);
  }
}

TEST(EvidenceTest, WhatTheWorkerSaidIsKept) {
  v1::TestResult result = Result("b1.bert", 1, v1::PASSED).result();
  result.clear_case_();
  result.set_message("all is well");
  EXPECT_THAT(Examined(InTest(Exported("b1.bert", 1, v1::SKIPPED)), result).message(),
              HasSubstr("all is well"));
}

}  // namespace
}  // namespace assay::coordinator
