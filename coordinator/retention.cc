#include "coordinator/retention.h"

#include <algorithm>
#include <map>
#include <set>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/digest.h"
#include "common/status_macros.h"
#include "coordinator/report/coverage.h"
#include "coordinator/report/words.h"
#include "coordinator/store/record_rules.h"
#include "google/protobuf/descriptor.h"

namespace assay::coordinator {
namespace {

constexpr size_t kPage = 50;

// Everything that is recorded; batches newest first.
struct Records {
  std::vector<v1::Batch> batches;
  std::vector<v1::Job> jobs;
  absl::Time now;
};

absl::StatusOr<Records> Load(const InTransaction& run) {
  Records records;
  uint64_t before = 0;
  do {
    std::vector<v1::Batch> batches;
    std::vector<v1::Job> jobs;
    uint64_t next = 0;
    ASSAY_RETURN_IF_ERROR(run([&](Store& store) -> absl::Status {
      jobs.clear();
      ASSAY_ASSIGN_OR_RETURN(BatchPage page, store.ListBatches(kPage, before));
      for (const v1::Batch& batch : page.batches) {
        ASSAY_ASSIGN_OR_RETURN(std::vector<v1::Job> some, store.ListJobs(batch.batch_id()));
        std::move(some.begin(), some.end(), std::back_inserter(jobs));
      }
      batches = std::move(page.batches);
      next = page.next;
      records.now = store.Now();
      return absl::OkStatus();
    }));
    std::move(batches.begin(), batches.end(), std::back_inserter(records.batches));
    std::move(jobs.begin(), jobs.end(), std::back_inserter(records.jobs));
    before = next;
  } while (before != 0);
  return records;
}

report::ReportInput InputOf(const Records& records, const Content& content,
                            const std::set<std::string>& without) {
  report::ReportInput input;
  input.registry = content.registry();
  input.catalogue = content.catalogue();
  input.now = records.now;
  for (const v1::Batch& batch : records.batches) {
    if (without.count(batch.batch_id()) == 0) input.batches.push_back(batch);
  }
  for (const v1::Job& job : records.jobs) {
    if (without.count(job.batch_id()) == 0) input.jobs.push_back(job);
  }
  return input;
}

// Batches with a job that what is said of a model rests on.
std::set<std::string> BatchesThatCoverageRestsOn(const report::ReportInput& input,
                                                 const report::Coverage& coverage) {
  std::set<std::string> batches;
  std::map<std::string, std::vector<const v1::Job*>> by_model;
  for (const v1::Job& job : input.jobs) by_model[job.model().name()].push_back(&job);
  auto keep = [&](const report::ModelCoverage& model) {
    for (const report::TargetResult& result : model.results) {
      for (const v1::Job* job : {result.job, result.test_job, result.real_job}) {
        if (job != nullptr) batches.insert(job->batch_id());
      }
    }
    // The newest that was generated, and whatever ended when the model was covered first.
    const v1::Job* generated = nullptr;
    for (const v1::Job* job : by_model[model.model.name]) {
      if (TimeOf(job->end_time()) == model.first_covered) batches.insert(job->batch_id());
      if (job->result().provenance().test_digest().empty()) continue;
      if (generated == nullptr || TimeOf(job->end_time()) > TimeOf(generated->end_time())) generated = job;
    }
    if (generated != nullptr) batches.insert(generated->batch_id());
  };
  for (const report::ModelCoverage& model : coverage.models) keep(model);
  for (const report::ModelCoverage& model : coverage.untracked) keep(model);
  return batches;
}

bool SaysTheSame(const report::Coverage& a, const report::Coverage& b) {
  auto sets = [](const report::Tally& tally) {
    return std::tie(tally.tracked, tally.generated, tally.verified, tally.mock_passed, tally.real_passed,
                    tally.real_unverified, tally.real_structural, tally.synthetic, tally.covered);
  };
  if (sets(a.total) != sets(b.total) || a.untracked.size() != b.untracked.size()) return false;
  if (a.by_device.size() != b.by_device.size()) return false;
  for (size_t i = 0; i < a.by_device.size(); ++i) {
    if (a.by_device[i].first != b.by_device[i].first ||
        sets(a.by_device[i].second) != sets(b.by_device[i].second)) {
      return false;
    }
  }
  return std::equal(a.models.begin(), a.models.end(), b.models.begin(), b.models.end(),
                    [](const report::ModelCoverage& x, const report::ModelCoverage& y) {
                      return x.first_covered == y.first_covered && x.why_missing == y.why_missing;
                    });
}

// Of each model and target the last so many jobs, by when they were submitted.
std::set<std::string> BatchesOfTheLastRuns(const std::vector<v1::Job>& jobs, uint32_t keep_runs) {
  std::map<std::string, std::vector<const v1::Job*>> runs;
  for (const v1::Job& job : jobs) {
    runs[absl::StrCat(job.model().name(), " ", TargetKey(job.target()))].push_back(&job);
  }
  std::set<std::string> batches;
  for (auto& [key, of_key] : runs) {
    std::stable_sort(of_key.begin(), of_key.end(), [](const v1::Job* a, const v1::Job* b) {
      return TimeOf(a->create_time()) > TimeOf(b->create_time());
    });
    for (size_t i = 0; i < of_key.size() && i < keep_runs; ++i) batches.insert(of_key[i]->batch_id());
  }
  return batches;
}

// Every digest that a message names, whatever the field.
void CollectDigests(const google::protobuf::Message& message, std::set<std::string>& digests) {
  const google::protobuf::Reflection& reflection = *message.GetReflection();
  std::vector<const google::protobuf::FieldDescriptor*> fields;
  reflection.ListFields(message, &fields);
  for (const auto* field : fields) {
    const int count = field->is_repeated() ? reflection.FieldSize(message, field) : 1;
    for (int i = 0; i < count; ++i) {
      if (field->cpp_type() == google::protobuf::FieldDescriptor::CPPTYPE_MESSAGE) {
        CollectDigests(field->is_repeated() ? reflection.GetRepeatedMessage(message, field, i)
                                            : reflection.GetMessage(message, field),
                       digests);
      } else if (field->cpp_type() == google::protobuf::FieldDescriptor::CPPTYPE_STRING) {
        std::string text = field->is_repeated() ? reflection.GetRepeatedString(message, field, i)
                                                : reflection.GetString(message, field);
        if (IsDigest(text)) digests.insert(std::move(text));
      }
    }
  }
}

absl::StatusOr<size_t> DropWorkers(const InTransaction& run, absl::Duration keep) {
  size_t dropped = 0;
  ASSAY_RETURN_IF_ERROR(run([&](Store& store) -> absl::Status {
    dropped = 0;
    const absl::Time before = store.Now() - keep;
    ASSAY_ASSIGN_OR_RETURN(std::vector<WorkerRecord> workers, store.ListWorkers());
    for (const WorkerRecord& worker : workers) {
      if (TimeOf(worker.summary.last_seen()) >= before || worker.believed_until >= before) continue;
      ASSAY_RETURN_IF_ERROR(store.DropWorker(worker.summary.name()));
      ++dropped;
    }
    return absl::OkStatus();
  }));
  return dropped;
}

}  // namespace

absl::StatusOr<size_t> DropEndedTokens(const InTransaction& run, absl::Duration keep) {
  size_t dropped = 0;
  ASSAY_RETURN_IF_ERROR(run([&](Store& store) -> absl::Status {
    dropped = 0;
    const absl::Time before = store.Now() - keep;
    ASSAY_ASSIGN_OR_RETURN(const std::vector<TokenRecord> tokens, store.ListTokens());
    for (const TokenRecord& token : tokens) {
      if (!token.info.has_expire_time() || TimeOf(token.info.expire_time()) >= before) continue;
      ASSAY_RETURN_IF_ERROR(store.DropToken(token.info.id()));
      ++dropped;
    }
    return absl::OkStatus();
  }));
  return dropped;
}

absl::StatusOr<Pruned> Prune(const InTransaction& run, BlobStore& blobs, const Content& content,
                             const Retention& retention) {
  if (!retention.keep_runs && !retention.keep_for) {
    return absl::InvalidArgumentError("a number of runs or of days to keep is wanted");
  }
  if (retention.keep_runs == 0u && !retention.keep_for) {
    return absl::InvalidArgumentError("at least 1 run is kept");
  }
  ASSAY_ASSIGN_OR_RETURN(Records records, Load(run));
  const report::ReportInput all = InputOf(records, content, {});
  const report::Coverage coverage = report::ComputeCoverage(all);
  std::set<std::string> keep = BatchesThatCoverageRestsOn(all, coverage);
  if (retention.keep_runs) keep.merge(BatchesOfTheLastRuns(records.jobs, *retention.keep_runs));

  std::set<std::string> drop;
  for (const v1::Batch& batch : records.batches) {
    const bool late = retention.keep_for && batch.has_end_time() &&
                      TimeOf(batch.end_time()) >= records.now - *retention.keep_for;
    if (batch.has_end_time() && !late && keep.count(batch.batch_id()) == 0) drop.insert(batch.batch_id());
  }
  const report::ReportInput rest = InputOf(records, content, drop);
  if (!SaysTheSame(coverage, report::ComputeCoverage(rest))) {
    return absl::InternalError("dropping these batches would change coverage: nothing was dropped");
  }

  Pruned pruned;
  for (const std::string& batch : drop) {
    absl::Status dropped = run([&](Store& store) { return store.DropBatch(batch); });
    if (absl::IsNotFound(dropped)) continue;  // another coordinator was quicker
    ASSAY_RETURN_IF_ERROR(dropped);
    ++pruned.batches;
  }
  pruned.jobs = all.jobs.size() - rest.jobs.size();
  ASSAY_ASSIGN_OR_RETURN(pruned.workers, DropWorkers(run, retention.keep_workers));
  ASSAY_ASSIGN_OR_RETURN(pruned.tokens, DropEndedTokens(run, retention.keep_tokens));
  ASSAY_RETURN_IF_ERROR(
      run([&](Store& store) { return store.DropAudit(store.Now() - retention.keep_audit); }));

  // What was named since the records were read was stored or looked up lately, and stays for that.
  std::set<std::string> named;
  for (const v1::Job& job : rest.jobs) CollectDigests(job, named);
  ASSAY_ASSIGN_OR_RETURN(pruned.blobs, blobs.Sweep(retention.keep_blobs, [&](const std::string& digest) {
    return named.count(digest) > 0;
  }));
  return pruned;
}

}  // namespace assay::coordinator
