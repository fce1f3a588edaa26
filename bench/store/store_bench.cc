// Job lives a second of a store alone: submitted, leased, ended, each durable, in groups as the writer makes
// them.
#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/exit_code.h"
#include "common/id.h"
#include "common/status_macros.h"
#include "coordinator/store/memory_store.h"
#include "coordinator/store/postgres_store.h"
#include "coordinator/store/sqlite_store.h"

namespace assay::coordinator {
namespace {

struct Options {
  std::string store = "sqlite", database, folder = "/tmp";
  int jobs = 100'000, batch = 1000, group = 200, result_bytes = 0;
};

absl::StatusOr<std::unique_ptr<Store>> Open(const Options& options, const std::string& file) {
  if (options.store == "memory") return NewMemoryStore(3);
  if (options.store == "sqlite") return OpenSqliteStore(file, 3);
  if (options.store == "postgres") return OpenPostgresStore(options.database, 3);
  return absl::InvalidArgumentError("--store: sqlite, memory or postgres");
}

absl::Status SubmitAll(Store& store, const Options& options, const std::string& prefix,
                       std::vector<std::string>& jobs) {
  for (int first = 0; first < options.jobs; first += options.batch) {
    BatchSubmission submission;
    submission.batch_id = absl::StrCat(prefix, first);
    submission.request_id = submission.batch_id;
    submission.request_digest = "d";
    submission.submitter = "bench";
    submission.target.set_device(v1::CPU);
    submission.target.set_dtype(v1::FLOAT32);
    for (int i = first; i < first + options.batch && i < options.jobs; ++i) {
      NewJob& job = submission.jobs.emplace_back();
      job.model.set_name(absl::StrCat("model_", i % options.batch));
      job.model.set_template_("bert");
      jobs.push_back(absl::StrCat(submission.batch_id, ".", job.model.name()));
    }
    ASSAY_RETURN_IF_ERROR(store.Begin());
    ASSAY_RETURN_IF_ERROR(store.SubmitBatch(submission, store.Now()).status());
    ASSAY_RETURN_IF_ERROR(store.Commit());
  }
  return absl::OkStatus();
}

v1::Assignment Given(const v1::Job& job) {
  v1::Assignment given;
  given.mutable_attempt()->set_job_id(job.job_id());
  given.mutable_attempt()->set_attempt(job.attempt());
  given.set_template_digest(std::string(64, 'a'));
  given.set_catalogue_digest(std::string(64, 'b'));
  given.set_program_digest(std::string(64, 'c'));
  given.set_stage(v1::STAGE_TEST);
  return given;
}

// Each transaction ends what the one before it started, and starts as many.
absl::Status LiveAll(Store& store, const Options& options, const std::vector<std::string>& jobs) {
  std::vector<v1::AttemptResult> ending;
  for (size_t next = 0; next < jobs.size() || !ending.empty();) {
    ASSAY_RETURN_IF_ERROR(store.Begin());
    Touches touches;
    for (const v1::AttemptResult& result : ending) touches.attempts.push_back({result.attempt(), "worker-1"});
    ASSAY_RETURN_IF_ERROR(store.Take(touches));
    for (const v1::AttemptResult& result : ending) {
      ASSAY_ASSIGN_OR_RETURN(v1::ResultAck ack, store.CommitResult(result, store.Now(), "worker-1"));
      if (!ack.counted()) return absl::InternalError(absl::StrCat("not counted: ", ack.reason()));
    }
    ending.clear();
    ASSAY_RETURN_IF_ERROR(store.Queued(static_cast<size_t>(options.group)).status());
    const size_t end = std::min(jobs.size(), next + static_cast<size_t>(options.group));
    ASSAY_RETURN_IF_ERROR(store.TakeQueued(
        {jobs.begin() + static_cast<std::ptrdiff_t>(next), jobs.begin() + static_cast<std::ptrdiff_t>(end)}));
    for (; next < end; ++next) {
      ASSAY_ASSIGN_OR_RETURN(v1::Assignment given, store.Lease(jobs[next], "worker-1", store.Now(),
                                                               store.Now() + absl::Seconds(10), Given));
      v1::AttemptResult& result = ending.emplace_back();
      *result.mutable_attempt() = given.attempt();
      v1::TestResult& test = *result.mutable_result();
      test.set_outcome(v1::PASSED);
      test.set_seconds(0.5);
      v1::CaseResult& one = *test.add_case_();
      one.set_name("test_model_with_mock");
      one.set_outcome(v1::PASSED);
      if (options.result_bytes > 0)
        one.set_message(std::string(static_cast<size_t>(options.result_bytes), 'x'));
      v1::Provenance& provenance = *test.mutable_provenance();
      provenance.set_template_digest(given.template_digest());
      provenance.set_catalogue_digest(given.catalogue_digest());
      provenance.set_program_digest(given.program_digest());
      provenance.set_test_digest(std::string(64, 'd'));
    }
    ASSAY_RETURN_IF_ERROR(store.Commit());
  }
  return absl::OkStatus();
}

absl::Status Run(const Options& options) {
  const std::string prefix = absl::StrCat("b", NewUuid().substr(0, 8), "-");
  const std::string file = (std::filesystem::path(options.folder) / (prefix + "bench.db")).string();
  ASSAY_ASSIGN_OR_RETURN(std::unique_ptr<Store> store, Open(options, file));
  std::vector<std::string> jobs;
  const absl::Time start = absl::Now();
  ASSAY_RETURN_IF_ERROR(SubmitAll(*store, options, prefix, jobs));
  const absl::Time submitted = absl::Now();
  ASSAY_RETURN_IF_ERROR(LiveAll(*store, options, jobs));
  const absl::Time end = absl::Now();
  for (const char* suffix : {"", "-wal", "-shm"}) std::filesystem::remove(file + suffix);
  const double all = absl::ToDoubleSeconds(end - start);
  std::cout << options.store << ": " << static_cast<int>(options.jobs / all) << " job lives a second ("
            << options.jobs << " in " << all << " s, of which submitting "
            << absl::ToDoubleSeconds(submitted - start) << " s; " << options.group << " a transaction, "
            << options.result_bytes << " bytes more a result)\n";
  return absl::OkStatus();
}

}  // namespace
}  // namespace assay::coordinator

int main(int argc, char** argv) {
  assay::coordinator::Options options;
  CLI::App app("Job lives a second of a store alone.", "assay-store-bench");
  app.add_option("--store", options.store, "sqlite, memory or postgres")->capture_default_str();
  app.add_option("--database", options.database, "postgres://…, an empty database");
  app.add_option("--folder", options.folder, "where the SQLite file is made, and removed again")
      ->capture_default_str();
  app.add_option("--jobs", options.jobs)->capture_default_str();
  app.add_option("--batch", options.batch, "jobs a batch")->capture_default_str();
  app.add_option("--group", options.group, "jobs a transaction")->capture_default_str();
  app.add_option("--result-bytes", options.result_bytes, "of a result beyond a no-op's")
      ->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  if (absl::Status status = assay::coordinator::Run(options); !status.ok()) {
    std::cerr << "assay-store-bench: " << status.message() << "\n";
    return assay::ExitCodeOf(status);
  }
  return assay::kExitOk;
}
