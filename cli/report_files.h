// The reports of a run as files.
#pragma once

#include <filesystem>
#include <vector>

#include "absl/status/status.h"
#include "cli/connection.h"

namespace assay::cli {

// Writes to `dir` the reports over everything recorded (report.md, report.html, report.json, junit.xml and
// ROADMAP.md), and one for each of `batches` as batches/<name of its file>.md.
absl::Status WriteReportFiles(Connection& connection, const std::vector<v1::GetBatchResponse>& batches,
                              const std::filesystem::path& dir);

}  // namespace assay::cli
