#include "coordinator/report/report.h"

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "coordinator/report/renderers.h"

namespace assay::report {

absl::StatusOr<std::string> RenderReport(const ReportInput& input, v1::ReportFormat format, uint32_t size) {
  ASSAY_ASSIGN_OR_RETURN(const Scope scope, MakeScope(input));
  switch (format) {
    case v1::TEXT:
      return RenderText(scope);
    case v1::JSON:
      return RenderJson(scope);
    case v1::JUNIT:
      return RenderJunit(scope);
    case v1::MARKDOWN:
      return RenderMarkdown(scope);
    case v1::HTML:
      return RenderHtml(scope);
    case v1::ROADMAP:
      return RenderRoadmap(scope);
    case v1::NEXT_BATCH:
      return RenderNextBatch(scope, size == 0 ? 10 : size);
    default:
      return absl::InvalidArgumentError(absl::StrCat("unknown report format ", static_cast<int>(format)));
  }
}

}  // namespace assay::report
