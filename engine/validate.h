// Everything about a program that can be judged without LibTorch.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "assay/v1/program.pb.h"
#include "common/dtype.h"

namespace assay::engine {

// OK if an engine may plan the program: known format, single assignment (a value is used only after the node
// that makes it), indexes in range, names once, sizes that agree with data, sane mock rules, a complete
// golden. Whether operators and arguments exist is for Plan::Build, which knows their schemas.
absl::Status ValidateProgram(const v1::Program& program);

// The graph alone: operators, modules, inputs, nodes, outputs and their numbering.
absl::Status ValidateGraph(const v1::Program& program);

}  // namespace assay::engine
