// Did a change alter a model's numbers, and from which operator on? docs/gate.md.
#pragma once

#include "assay/v1/gate.pb.h"
#include "engine/tensors.h"

namespace assay::engine {

// Two recordings of one model held against each other: outputs for the verdict, operators for the place.
// Whatever keeps them from being compared is a NOT_COMPARABLE with its reason, never an error.
// `same_weights`: both must have been given the same (false: two checkpoints, whose weights are what is asked
// about). No exceptions.
v1::GateResult CompareRecordings(const v1::Recording& from, const v1::Recording& to, bool same_weights);

// "transformers 4.57.6; torch 2.13.0, cpu AVX512, float32".
std::string SideText(const v1::Recording& recording);

// CPU or CUDA and the dtype of a recording; the coarser of two.
Placement PlacementOf(const v1::Provenance& provenance);
Placement CoarserOf(const Placement& a, const Placement& b);

}  // namespace assay::engine
