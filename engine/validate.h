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
// golden or none. Whether operators and arguments exist is for Plan::Build, which knows their schemas.
absl::Status ValidateProgram(const v1::Program& program);

// The graph alone: operators, modules, inputs, nodes, outputs and their numbering.
absl::Status ValidateGraph(const v1::Program& program);

enum class GoldenForm {
  kComplete,
  kMayHaveInputsOnly,  // of a checkpoint that eager could not run: no outputs, no trace
};

// A golden against a program that passed ValidateProgram: its inputs, outputs and trace are the program's,
// with data of their shape and dtype.
absl::Status ValidateGolden(const v1::Program& program, const v1::Golden& golden, GoldenForm form);

// Everything about a checkpoint's golden that can be judged by its program: its golden (which may have inputs
// only), and answers that can be read off the program's outputs. Digests are for the caller to compare.
absl::Status ValidateCheckpointGolden(const v1::Program& program, const v1::CheckpointGolden& golden);

}  // namespace assay::engine
