// A program's way from build to outputs in one call, for tests that are about one step of it.
#pragma once

#include <vector>

#include "absl/status/statusor.h"
#include "assay/v1/program.pb.h"
#include "engine/plan.h"

namespace assay::engine {

// Builds, binds mock weights and runs.
absl::StatusOr<std::vector<at::Tensor>> RunProgram(const v1::Program& program,
                                                   const std::vector<at::Tensor>& inputs,
                                                   Observer* observer = nullptr,
                                                   const Placement& placement = {});

}  // namespace assay::engine
