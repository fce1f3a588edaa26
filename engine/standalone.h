// A program on its own: run with mock weights and held against its golden, without a test around it.
#pragma once

#include "absl/status/statusor.h"
#include "assay/v1/program.pb.h"
#include "assay/v1/result.pb.h"
#include "engine/tensors.h"

namespace assay::engine {

// One golden check, with its diagnosis where it fails and there is a trace. Proves nothing about a model: the
// result counts as nothing's coverage. Errors are those of what cannot be run at all.
absl::StatusOr<v1::CaseResult> RunStandalone(const v1::Program& program, const Placement& placement);

}  // namespace assay::engine
