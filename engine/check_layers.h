// Whether the layers of a model are computed alike. No LibTorch here: a graph is compared with itself.
#pragma once

#include "assay/v1/program.pb.h"
#include "assay/v1/test.pb.h"
#include "engine/finding.h"

namespace assay::engine {

// Layers are alike where their module paths differ in a number alone and their weights have the same names
// and shapes. Each module of such a layer must be computed as that of another layer is: the same operators
// with the same literals, wired alike. What depends on no weight and no token (masks, positions, sizes) is
// computed once and shared, or not, as the exporter has it, and is left out. Has nothing to say
// (Finding::nothing) of a program without two layers alike.
Finding CheckRepeatedLayers(const v1::Check::RepeatedLayers& check, const v1::Program& program);

}  // namespace assay::engine
