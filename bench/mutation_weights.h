// Faults in weights and constants: what a bad conversion or a bad loader does to them.
#pragma once

#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "assay/v1/program.pb.h"
#include "bench/mutation_faults.h"

namespace assay::mutation {

// Appends every fault that has a place in a weight or constant of `used`, names of the graph's inputs.
void WeightFaults(const v1::Program& program, const std::set<std::string>& used, std::vector<Fault>& found);

// INVALID_ARGUMENT: it would change nothing.
absl::Status PlantInWeight(v1::Program& program, const Fault& fault);

}  // namespace assay::mutation
