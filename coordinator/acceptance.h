// What a node is asked to run before it is trusted with work.
#pragma once

#include <cstdint>

#include "assay/v1/worker.pb.h"
#include "coordinator/content.h"

namespace assay::coordinator {

inline constexpr uint32_t kAcceptanceRepetitions = 3;

// Of each architecture type the first model that has a program, on each device of the node, in float32.
v1::AcceptanceRequest NewSweep(const Content& content, uint32_t repetitions);

}  // namespace assay::coordinator
