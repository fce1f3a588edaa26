// `assay repro`: a Python script that shows a job's difference with transformers and torch alone.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "cli/connection.h"
#include "cli/job_material.h"
#include "common/exit_code.h"

namespace assay::cli {

// The script: builds the model from the configuration that was exported (or loads the checkpoint at its
// commit), fills it with the very weights and inputs, and prints, at the places that the job's result has,
// the job's numbers, the golden's and eager's beside each other. It ends with 1 where the job's number is not
// eager's, with 3 where eager here is not the golden's either.
//
// UNIMPLEMENTED: the model is not of transformers. FAILED_PRECONDITION: the case kept no summary of its
// outputs.
absl::StatusOr<std::string> ReproScript(const JobMaterial& material);

// Writes it to `output` (empty: standard output).
ExitCode ReproCommand(const ConnectionOptions& connection, const std::string& folder_or_job,
                      const std::string& output);

}  // namespace assay::cli
