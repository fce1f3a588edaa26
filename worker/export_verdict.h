// What is said of a job before, or instead of, its export: pure functions of the job and the files that it
// names, safe from any thread.
#pragma once

#include <filesystem>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "assay/v1/result.pb.h"
#include "worker/export_stage.h"

namespace assay::worker {

inline constexpr char kNoWeights[] = "NO_WEIGHTS";

// Why an export stage ends before its time.
struct Verdict {
  v1::Outcome outcome = v1::OUTCOME_UNSPECIFIED;  // unspecified: it goes on
  std::string message;
  std::string reason;
  int signal = 0;
  bool over() const { return outcome != v1::OUTCOME_UNSPECIFIED; }
};

Verdict Infrastructure(absl::string_view what, const absl::Status& status);

// What a checkpoint that was not found means for its job.
Verdict OfFinding(const ExportJob& job);

// FAILED where the catalogue's program of the job's model was exported from another model type. `whose`
// begins the message; no catalogue's program: any type will do.
Verdict OfModelType(const ExportJob& job, absl::string_view whose, const std::string& type);

// Of `text`, the checkpoint's config.json in `file`: no JSON object, the checkpoint's own code wanted, no
// model type, or another one than the catalogue's.
Verdict OfConfig(const ExportJob& job, const std::filesystem::path& file, const std::string& text);

}  // namespace assay::worker
