// Commands that need no coordinator: generate and verify.
#pragma once

#include <string>
#include <vector>

#include "assay/v1/batch.pb.h"
#include "common/exit_code.h"

namespace assay::cli {

// Writes the test file of each model of the batch files into `output_dir`: the same bytes that a worker
// generates, but for a model with a checkpoint: its loading case is completed by what an export makes, which
// is said on standard error. Nothing is written unless every file is accepted.
ExitCode GenerateCommand(const std::vector<std::string>& batch_files, const std::string& output_dir,
                         const std::string& content_dir, const v1::Target& target);

// Verifies every *.textproto of `directory`: each error as file:line:column on standard error, kExitUsage
// where there is one, kExitNoTests where there is no file.
ExitCode VerifyCommand(const std::string& directory);

}  // namespace assay::cli
