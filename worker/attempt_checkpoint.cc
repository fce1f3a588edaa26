// What attempts with a checkpoint go through: finding it, the export stage, and its folder for the test.
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/logging.h"
#include "common/status_macros.h"
#include "worker/attempt.h"

namespace assay::worker {
namespace {

namespace fs = std::filesystem;

}  // namespace

absl::Status AttemptRunner::StartCheckpoints() {
  hub::HubOptions hub_options = options_.hub;
  hub_options.allow_pickle = !options_.exporter.folder.empty() && options_.exporter.allow_pickle;
  absl::StatusOr<std::unique_ptr<hub::Hub>> hub = hub::Hub::Open(hub_options);
  // A node that has no place for a cache can still run everything without a checkpoint.
  if (!hub.ok()) spdlog::error("no checkpoints from the hub: {}", hub.status().ToString());
  CheckpointPlaces places{options_.checkpoint_root, options_.checkpoint_folders,
                          options_.any_checkpoint_folder};
  finder_ = std::make_unique<CheckpointFinder>(std::move(places), std::move(hub), hub_options.offline);

  const fs::path scratch = options_.state_dir / "export";
  std::error_code error;
  fs::remove_all(scratch, error);  // what a process that was killed has left
  if (options_.exporter.folder.empty()) return absl::OkStatus();
  ExporterOptions exporter = options_.exporter;
  if (exporter.sandbox_binary.empty()) {
    exporter.sandbox_binary = options_.host_binary.parent_path() / "assay-sandbox";
  }
  ASSAY_ASSIGN_OR_RETURN(exporter_, Exporter::Start(std::move(exporter)));
  spdlog::info("takes export stages: {}", exporter_->identity().Text());
  stage_ = std::make_unique<ExportStage>(exporter_.get(), artifacts_, scratch);
  return absl::OkStatus();
}

bool AttemptRunner::IsOver(const Attempt& attempt) const {
  absl::MutexLock lock(&mutex_);
  return stopped_ || attempt.abandoned;
}

void AttemptRunner::PrepareExport(const std::shared_ptr<Attempt>& self, const PreparedFrom& from) {
  Attempt& attempt = *self;
  if (exporter_ == nullptr) {
    return Finish(
        self, ResultOf(v1::INFRASTRUCTURE_ERROR, absl::StrCat("worker ", options_.name, " has no exporter")));
  }
  if (!attempt.assignment.has_checkpoint()) {
    return Finish(self, ResultOf(v1::INFRASTRUCTURE_ERROR, "the assignment names no checkpoint to export"));
  }
  if (from.entry_text.has_value()) {
    auto entry = ReadCheckpointEntry(attempt.assignment, *from.entry_text);
    if (!entry.ok()) {
      return Finish(self, ResultOf(v1::INFRASTRUCTURE_ERROR, std::string(entry.status().message())));
    }
    attempt.entry_model_class = entry->model_class();
  }
  absl::MutexLock lock(&mutex_);
  if (attempt.abandoned) return;
  TellStarted(attempt);
  to_find_.push_back(self);
}

void AttemptRunner::FindCheckpointOf(const std::shared_ptr<Attempt>& self) {
  Attempt& attempt = *self;
  const v1::Assignment& assignment = attempt.assignment;
  const auto cancelled = [this, &attempt] { return IsOver(attempt); };
  attempt.stages.Enter("find");
  if (assignment.stage() == v1::STAGE_EXPORT) {
    const absl::Time start = absl::Now();
    absl::StatusOr<hub::Found> found = finder_->Find(assignment.checkpoint(), cancelled);
    absl::MutexLock lock(&mutex_);
    attempt.find_seconds = absl::ToDoubleSeconds(absl::Now() - start);
    attempt.found = std::move(found);
    if (!attempt.abandoned) to_export_.push_back(self);
    return;
  }
  const std::string& converted = assignment.export_().weights_blob();
  if (converted.empty()) {
    attempt.found = finder_->FindAgain(assignment.checkpoint(), cancelled);
    if (!attempt.found.ok()) {
      return Finish(
          self, ResultOf(v1::INFRASTRUCTURE_ERROR, absl::StrCat("checkpoint ", assignment.checkpoint().id(),
                                                                " is not to be had on worker ", options_.name,
                                                                ": ", attempt.found.status().ToString())));
    }
    attempt.checkpoint_dir = attempt.found->folder.string();
    attempt.hub_verified = attempt.found->verified;
  } else {
    // A folder as checkpoints have it; the file in it is the blob's.
    absl::StatusOr<ScratchFolder> folder = ScratchFolder::Make(options_.state_dir / "export");
    std::error_code error;
    if (folder.ok()) {
      fs::create_hard_link(attempt.PathOf(converted), folder->path() / "model.safetensors", error);
    }
    if (!folder.ok() || error) {
      return Finish(self, ResultOf(v1::INFRASTRUCTURE_ERROR,
                                   absl::StrCat("no folder for converted weights: ",
                                                folder.ok() ? error.message() : folder.status().ToString())));
    }
    attempt.converted = *std::move(folder);
    attempt.checkpoint_dir = attempt.converted.path().string();
    attempt.hub_verified = assignment.export_().hub_verified();
  }
  absl::MutexLock lock(&mutex_);
  if (!attempt.abandoned) AwaitSlot(self);
}

void AttemptRunner::Export(const std::shared_ptr<Attempt>& self) {
  Attempt& attempt = *self;
  attempt.stages.Enter("export");
  ExportJob job;
  job.assignment = attempt.assignment;
  job.found = std::move(attempt.found);
  job.offline = finder_->offline();
  job.fetch_seconds = attempt.find_seconds;
  job.catalogue = attempt.PathOf(attempt.assignment.catalogue_digest());
  job.entry = attempt.PathOf(attempt.assignment.checkpoint_entry_digest());
  job.program = attempt.PathOf(attempt.assignment.program_digest());
  job.entry_model_class = attempt.entry_model_class;
  job.log = [this, &attempt](absl::string_view text) {
    absl::MutexLock lock(&mutex_);
    attempt.log.Append(text);
  };
  job.cancelled = [this, &attempt] { return IsOver(attempt); };
  v1::TestResult result = stage_->Run(job);
  {
    absl::MutexLock lock(&mutex_);
    if (stopped_) return;  // cut short: for another worker
  }
  Finish(self, std::move(result));
}

}  // namespace assay::worker
