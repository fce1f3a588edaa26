#include "cli/report_files.h"

#include <set>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/file.h"
#include "common/status_macros.h"

namespace assay::cli {
namespace {

namespace fs = std::filesystem;

absl::Status WriteReport(Connection& connection, const std::string& batch_id, v1::ReportFormat format,
                         const fs::path& path) {
  ASSAY_ASSIGN_OR_RETURN(std::string report, connection.GetReport(batch_id, format, 0));
  return WriteFileAtomically(path, report);
}

}  // namespace

absl::Status WriteReportFiles(Connection& connection, const std::vector<v1::GetBatchResponse>& batches,
                              const fs::path& dir) {
  ASSAY_RETURN_IF_ERROR(WriteReport(connection, "", v1::MARKDOWN, dir / "report.md"));
  ASSAY_RETURN_IF_ERROR(WriteReport(connection, "", v1::HTML, dir / "report.html"));
  ASSAY_RETURN_IF_ERROR(WriteReport(connection, "", v1::JSON, dir / "report.json"));
  ASSAY_RETURN_IF_ERROR(WriteReport(connection, "", v1::JUNIT, dir / "junit.xml"));
  ASSAY_RETURN_IF_ERROR(WriteReport(connection, "", v1::ROADMAP, dir / "ROADMAP.md"));
  std::set<std::string> names;
  for (const v1::GetBatchResponse& batch : batches) {
    std::string name = fs::path(batch.batch().name()).stem().string();
    // Two folders may each have a batch_1_models.json.
    if (!names.insert(name).second) absl::StrAppend(&name, "-", batch.batch().batch_id());
    ASSAY_RETURN_IF_ERROR(WriteReport(connection, batch.batch().batch_id(), v1::MARKDOWN,
                                      dir / "batches" / absl::StrCat(name, ".md")));
  }
  return absl::OkStatus();
}

}  // namespace assay::cli
