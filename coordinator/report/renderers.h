// One function a format. Each writes the whole of a scope; all are pure.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "coordinator/report/scope.h"

namespace assay::report {

std::string RenderText(const Scope& scope);
std::string RenderJson(const Scope& scope);
std::string RenderJunit(const Scope& scope);
std::string RenderMarkdown(const Scope& scope);
std::string RenderHtml(const Scope& scope);
// Markdown, over everything.
std::string RenderRoadmap(const Scope& scope);
// FAILED_PRECONDITION where every tracked model is covered.
absl::StatusOr<std::string> RenderNextBatch(const Scope& scope, uint32_t size);

}  // namespace assay::report
