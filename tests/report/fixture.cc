#include "tests/report/fixture.h"

#include <limits>
#include <utility>

#include "common/digest.h"

namespace assay::report {

absl::Time TestNow() {
  return absl::FromCivil(absl::CivilSecond(2025, 4, 12, 12, 0, 0), absl::UTCTimeZone());
}

google::protobuf::Timestamp At(int64_t seconds) {
  google::protobuf::Timestamp time;
  time.set_seconds(absl::ToUnixSeconds(absl::FromCivil(absl::CivilDay(2025, 4, 12), absl::UTCTimeZone())) +
                   seconds);
  return time;
}

TrackedModel Tracked(const std::string& name, Priority priority, const std::string& arch_type,
                     uint32_t batch) {
  TrackedModel model;
  model.name = name;
  model.priority = priority;
  model.arch_type = arch_type;
  model.batch = batch;
  model.named_by_plan = batch != 0;
  return model;
}

v1::CaseResult MakeCase(const std::string& name, v1::Outcome outcome, v1::WeightsKind weights,
                        v1::Evidence evidence) {
  v1::CaseResult one;
  one.set_name(name);
  one.set_outcome(outcome);
  one.set_weights(weights);
  one.set_evidence(evidence);
  one.set_seconds(0.01);
  if (outcome == v1::SKIPPED) {
    one.set_reason("NO_WEIGHTS");
    return one;
  }
  v1::CheckResult& check = *one.add_check();
  check.set_name("golden");
  check.set_outcome(outcome);
  check.set_error(outcome == v1::PASSED ? 1e-7 : 0.5);
  check.set_tolerance(1e-5);
  if (outcome != v1::PASSED) check.set_message("logits[1, 2]: 0.75, golden 0.25");
  return one;
}

v1::Job PassedJob(const std::string& job_id, const std::string& model, int64_t end_seconds) {
  v1::Job job;
  job.set_job_id(job_id);
  job.set_batch_id("batch-a");
  job.mutable_model()->set_name(model);
  job.mutable_model()->set_template_("gpt2");
  job.mutable_model()->set_task("text-generation");
  job.mutable_model()->set_arch_type("decoder_only");
  job.mutable_target()->set_device(v1::AUTO);
  job.mutable_target()->set_dtype(v1::FLOAT32);
  job.set_state(v1::DONE);
  job.set_attempt(1);
  job.set_worker("worker-1");
  *job.mutable_create_time() = At(0);
  *job.mutable_start_time() = At(end_seconds - 1);
  *job.mutable_end_time() = At(end_seconds);
  job.set_log_digest(Sha256Hex("log of " + job_id));
  v1::AttemptSummary& attempt = *job.add_attempts();
  attempt.set_attempt(1);
  attempt.set_worker("worker-1");
  attempt.set_outcome(v1::PASSED);
  v1::TestResult& result = *job.mutable_result();
  result.set_outcome(v1::PASSED);
  result.set_seconds(0.031);
  result.set_peak_memory_bytes(64 << 20);
  *result.add_case_() = MakeCase("test_model_loading", v1::SKIPPED, v1::REAL, v1::EVIDENCE_UNSPECIFIED);
  *result.add_case_() = MakeCase("test_model_with_mock", v1::PASSED, v1::MOCK, v1::GOLDEN);
  v1::Provenance& from = *result.mutable_provenance();
  from.set_test_digest(Sha256Hex("test of " + model));
  from.set_template_digest(Sha256Hex("template gpt2"));
  from.set_catalogue_digest(Sha256Hex("entry of " + model));
  from.set_program_digest(Sha256Hex("program of " + model));
  from.set_mock_seed(7);
  from.set_engine_build("0.1.0");
  from.set_torch_version("2.13.0");
  from.set_worker("worker-1");
  from.mutable_device()->set_kind("cpu");
  from.mutable_device()->set_name("Test CPU");
  from.mutable_device()->set_capability("AVX512");
  return job;
}

v1::Job FailedJob(const std::string& job_id, const std::string& model, int64_t end_seconds,
                  v1::Outcome outcome, const std::string& device) {
  v1::Job job = PassedJob(job_id, model, end_seconds);
  job.mutable_attempts(0)->set_outcome(outcome);
  v1::TestResult& result = *job.mutable_result();
  result.set_outcome(outcome);
  result.mutable_case_()->RemoveLast();
  if (outcome == v1::FAILED) {
    *result.add_case_() = MakeCase("test_model_with_mock", v1::FAILED, v1::MOCK, v1::GOLDEN);
  }
  result.mutable_provenance()->mutable_device()->set_kind(device);
  return job;
}

v1::Job RealJob(const std::string& job_id, const std::string& model, int64_t end_seconds) {
  v1::Job job = PassedJob(job_id, model, end_seconds);
  v1::CheckpointRef& asked = *job.mutable_model()->mutable_checkpoint();
  asked.set_id("makers/" + model);
  asked.set_revision("main");
  v1::TestResult& result = *job.mutable_result();
  v1::CaseResult& loading = *result.mutable_case_(0);
  loading = MakeCase("test_model_loading", v1::PASSED, v1::REAL, v1::GOLDEN);
  v1::CheckResult& answers = *loading.add_check();
  answers.set_name("answers");
  answers.set_outcome(v1::PASSED);
  v1::AnswerResult& answer = *loading.add_answer();
  answer.set_name("capital");
  answer.set_question("The capital of France is [MASK].");
  answer.set_text("Paris (81 %), Lyon (4 %)");
  answer.set_expected("Paris");
  answer.set_known(true);
  v1::LoadReport& load = *loading.mutable_load();
  load.set_format("safetensors, 2 shards");
  load.set_bound(199);
  load.set_tied_count(1);
  load.add_tied("lm_head.weight = embed.weight");
  load.set_converted_count(3);
  load.set_unexpected_count(1);
  load.add_unexpected("pooler.dense.weight");
  load.set_bytes(uint64_t{512} << 20);
  load.set_seconds(0.25);
  v1::Provenance& from = *result.mutable_provenance();
  from.set_weights_digest(Sha256Hex("weights of " + model));
  from.set_weights_trust(v1::HUB_SHA256);
  from.set_golden_digest(Sha256Hex("golden of " + model));
  from.set_checkpoint_program_digest(Sha256Hex("big program of " + model));
  *from.mutable_checkpoint() = asked;
  from.mutable_checkpoint()->set_commit("0123456789abcdef0123456789abcdef01234567");
  from.set_dtype(v1::FLOAT32);
  job.set_stage(v1::STAGE_TEST);
  job.set_attempt(2);
  job.mutable_attempts(0)->set_attempt(2);
  v1::StageRecord& ended = *job.add_ended_stage();
  ended.set_stage(v1::STAGE_EXPORT);
  ended.set_attempt(1);
  ended.set_worker("exporter-1");
  ended.mutable_result()->set_outcome(v1::PASSED);
  ended.mutable_result()->set_seconds(12.3);
  v1::ExportResult& made = *ended.mutable_result()->mutable_export_();
  *made.mutable_checkpoint() = from.checkpoint();
  made.set_model_class("transformers." + model + "_ForTest");
  made.set_model_type(model);
  made.set_program_digest(from.checkpoint_program_digest());
  made.set_program_cached(true);
  made.set_golden_digest(from.golden_digest());
  made.set_exporter("assay-exporter 0123, transformers 4.57.6, torch 2.13.0");
  return job;
}

v1::Job FailedExport(const std::string& job_id, const std::string& model, int64_t end_seconds,
                     v1::Outcome outcome) {
  v1::Job job = RealJob(job_id, model, end_seconds);
  job.set_stage(v1::STAGE_EXPORT);
  job.clear_ended_stage();
  job.mutable_attempts(0)->set_outcome(outcome);
  job.clear_result();
  job.mutable_result()->set_outcome(outcome);
  job.mutable_result()->set_message("export: the configuration wants trust_remote_code | <refused>");
  job.mutable_result()->set_seconds(1.5);
  return job;
}

ReportInput CheckpointInput() {
  ReportInput input;
  input.now = TestNow();
  input.registry.models = {
      Tracked("bert", Priority::kCritical, "encoder_only"),
      Tracked("llama", Priority::kCritical, "decoder_only"),
      Tracked("albert", Priority::kMedium, "encoder_only"),
      Tracked("olmo", Priority::kMedium, "decoder_only", 1),
      Tracked("esm", Priority::kMedium, "encoder_only", 2),
      Tracked("gptj", Priority::kMedium, "decoder_only"),
      Tracked("falcon", Priority::kLow, "decoder_only"),
      Tracked("bloom", Priority::kLow, "decoder_only"),
  };
  v1::Batch& batch = input.batches.emplace_back();
  batch.set_batch_id("batch-a");
  batch.set_name("real.json");
  *batch.mutable_create_time() = At(0);
  *batch.mutable_end_time() = At(60);
  batch.set_total(8);
  batch.set_done(8);

  input.jobs.push_back(RealJob("job-1", "bert", 10));
  v1::Job synthetic = RealJob("job-2", "llama", 11);
  synthetic.mutable_result()->mutable_case_(0)->set_weights(v1::SYNTHETIC);
  synthetic.mutable_result()->mutable_case_(0)->clear_answer();
  input.jobs.push_back(synthetic);
  v1::Job structural = RealJob("job-3", "albert", 12);
  v1::CaseResult& loading = *structural.mutable_result()->mutable_case_(0);
  loading.set_evidence(v1::STRUCTURAL);
  loading.set_no_golden("needs 60 GiB, the exporter has 16");
  loading.clear_answer();
  loading.mutable_check(0)->set_name("finite");
  structural.mutable_ended_stage(0)->mutable_result()->mutable_export_()->set_no_golden(loading.no_golden());
  input.jobs.push_back(structural);
  v1::Job unverified = RealJob("job-4", "olmo", 13);
  unverified.mutable_result()->mutable_provenance()->set_weights_trust(v1::UNVERIFIED);
  input.jobs.push_back(unverified);
  v1::Job wrong = RealJob("job-5", "esm", 14);
  wrong.mutable_attempts(0)->set_outcome(v1::FAILED);
  wrong.mutable_result()->set_outcome(v1::FAILED);
  v1::CaseResult& unbound = *wrong.mutable_result()->mutable_case_(0);
  unbound = MakeCase("test_model_loading", v1::FAILED, v1::REAL, v1::STRUCTURAL);
  unbound.mutable_check(0)->set_name("weights_bound");
  unbound.mutable_check(0)->set_message("1 weight is missing");
  unbound.mutable_load()->set_format("safetensors");
  unbound.mutable_load()->set_bound(198);
  unbound.mutable_load()->set_missing_count(2);
  unbound.mutable_load()->add_missing("a.b.weight; nearest: a.c.weight");
  input.jobs.push_back(wrong);
  input.jobs.push_back(FailedExport("job-6", "gptj", 15, v1::UNSUPPORTED));
  v1::Job skipped = PassedJob("job-7", "falcon", 16);
  skipped.mutable_default_checkpoint()->set_id("makers/falcon");
  v1::StageRecord& ended = *skipped.add_ended_stage();
  ended.set_stage(v1::STAGE_EXPORT);
  ended.mutable_result()->set_outcome(v1::SKIPPED);
  ended.mutable_result()->set_message("makers/falcon is not in the cache, and the hub is offline");
  input.jobs.push_back(skipped);
  v1::Job half = RealJob("job-8", "bloom", 17);
  half.mutable_target()->set_dtype(v1::DTYPE_BFLOAT16);
  half.mutable_result()->mutable_provenance()->set_dtype(v1::DTYPE_BFLOAT16);
  input.jobs.push_back(half);
  return input;
}

ReportInput MixedInput() {
  ReportInput input;
  input.now = TestNow();
  input.registry.models = {
      Tracked("bert", Priority::kCritical, "encoder_only"),
      Tracked("gptj", Priority::kCritical, "decoder_only"),
      Tracked("command_r", Priority::kMedium, "decoder_only", 1),
      Tracked("olmo", Priority::kMedium, "decoder_only", 1),
      Tracked("esm", Priority::kMedium, "encoder_only", 2),
      Tracked("dinat", Priority::kMedium, "vision", 3),
      Tracked("clap", Priority::kLow, "multimodal"),
  };
  auto add_entry = [&](const std::string& name, const std::string& template_name, const std::string& task) {
    v1::CatalogueEntry& entry = input.catalogue[name];
    entry.set_name(name);
    entry.set_template_(template_name);
    entry.set_task(task);
    entry.set_model_class("transformers." + name + "_ForTest");
    return &entry;
  };
  add_entry("bert", "bert", "fill-mask");
  v1::CatalogueEntry* command_r = add_entry("command_r", "gpt2", "text-generation");
  command_r->set_original_name("command-r");
  add_entry("olmo", "gpt2", "text-generation");
  v1::CatalogueEntry* esm = add_entry("esm", "bert", "fill-mask");
  v1::NotApplicable* absent = esm->add_not_applicable();
  absent->set_case_name("test_model_with_mock");
  absent->set_check("padding_invariance");
  absent->set_reason("its position ids depend on the padding | by design");
  v1::CatalogueEntry* dinat = add_entry("dinat", "vit", "image-classification");
  dinat->add_patch("natten");
  dinat->set_note("tiny windows");
  dinat->set_deviation("neighbourhood attention in plain torch");

  for (const auto& [id, name] :
       {std::pair{"batch-a", "batch_1_models.json"}, {"batch-b", "again|<b>.json"}}) {
    v1::Batch& batch = input.batches.emplace_back();
    batch.set_batch_id(id);
    batch.set_name(name);
    batch.set_submitter("ana");
    *batch.mutable_create_time() = At(0);
  }
  input.batches[0].set_total(5);
  input.batches[0].set_done(5);
  *input.batches[0].mutable_end_time() = At(60);
  input.batches[1].set_total(5);
  input.batches[1].set_done(4);

  v1::Job passed = PassedJob("job-1", "command_r", 10);
  passed.mutable_model()->set_original_name("command-r");
  input.jobs.push_back(passed);

  v1::Job failed = FailedJob("job-2", "olmo", 11, v1::FAILED);
  v1::Divergence& divergence = *failed.mutable_result()->mutable_case_(1)->mutable_divergence();
  divergence.set_node("linear_3");
  divergence.set_op("aten.linear.default");
  divergence.set_module("model.layers.0.mlp");
  divergence.set_error(0.5);
  divergence.set_check("golden");
  divergence.set_from(v1::GOLDEN_TRACE);
  divergence.set_fault(v1::FAULT_WEIGHTS);
  divergence.set_fault_reason("weight <model.layers.0.mlp> is not what its mock rule gives");
  divergence.add_suspect("transpose_2");
  divergence.set_seconds(0.012);
  v1::ValueStatistics& given = *divergence.add_output();
  given.set_name("linear_3");
  given.set_source("operator");
  given.set_dtype("Float");
  given.add_shape(2);
  given.add_shape(8);
  given.set_mean(0.25);
  given.set_std(1.5);
  given.set_min(-2);
  given.set_max(3);
  given.set_nan(1);
  given.add_samples(0.5);
  given.set_expected(true);
  given.set_expected_mean(0.125);
  given.set_expected_abs_max(2.5);
  given.add_expected_samples(1);
  const std::pair<const char*, double> growth[] = {
      {"embedding", 0}, {"linear_3", 0.2}, {"</svg><script>", std::numeric_limits<double>::infinity()}};
  for (const auto& [name, error] : growth) {
    v1::GrowthPoint& point = *divergence.add_growth();
    point.set_name(name);
    point.set_module("model.layers.0.mlp");
    point.set_error(error);
    point.set_allowed(1e-6);
  }
  input.jobs.push_back(failed);

  v1::Job crashed = FailedJob("job-3", "esm", 12, v1::CRASHED);
  crashed.mutable_model()->set_template_("bert");
  crashed.mutable_model()->set_arch_type("encoder_only");
  crashed.mutable_model()->set_task("fill-mask");
  crashed.mutable_result()->set_signal(11);
  crashed.mutable_result()->set_last_case("test_model_with_mock");
  crashed.mutable_result()->set_output_tail("``` \x1b[31m<&>]]>\nsegfault\n");
  v1::AttemptSummary& second = *crashed.add_attempts();
  second.set_attempt(2);
  second.set_worker("worker-2");
  second.set_outcome(v1::CRASHED);
  crashed.set_attempt(2);
  input.jobs.push_back(crashed);

  v1::Job unsupported = FailedJob("job-4", "dinat", 13, v1::UNSUPPORTED);
  unsupported.mutable_model()->set_template_("vit");
  unsupported.mutable_model()->set_arch_type("vision");
  unsupported.mutable_result()->mutable_provenance()->clear_program_digest();
  unsupported.mutable_result()->clear_case_();
  unsupported.mutable_result()->set_message("no program for dinat");
  input.jobs.push_back(unsupported);
  input.jobs.push_back(FailedJob("job-5", "gptj", 14, v1::TIMED_OUT));

  v1::Job untracked = PassedJob("job-6", "my_own", 15);
  v1::Job flaky = PassedJob("job-7", "gptj", 16);
  v1::Job cancelled = FailedJob("job-8", "command_r", 17, v1::CANCELLED);
  v1::Job lost = FailedJob("job-9", "bert", 18, v1::INFRASTRUCTURE_ERROR, "");
  lost.mutable_result()->clear_case_();
  lost.mutable_result()->clear_provenance();
  lost.mutable_result()->set_message("worker lost 3 times: worker-1, worker-2");
  v1::Job running = PassedJob("job-10", "olmo", 0);
  running.set_state(v1::RUNNING);
  running.clear_result();
  running.clear_end_time();
  for (v1::Job* job : {&untracked, &flaky, &cancelled, &lost, &running}) {
    job->set_batch_id("batch-b");
    input.jobs.push_back(*job);
  }
  return input;
}

}  // namespace assay::report
