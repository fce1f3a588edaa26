// Whether a graph's literals are those of its configuration. No LibTorch here.
#pragma once

#include "assay/v1/program.pb.h"
#include "assay/v1/test.pb.h"
#include "engine/finding.h"

namespace assay::engine {

// Of Manifest.config_json, sub-configurations included:
// - the epsilon of every norm is one that the configuration names, or PyTorch's or transformers' default for
//   a layer that is built without one (1e-5, 1e-6; 1e-12
//   in BERT's kin);
// - gelu has its tanh form only where the configuration names a function that does;
// - rotary frequencies ("…inv_freq") are base^(-2i/d), d the rotated width, for a base that it names, where
// it asks for no scaling.
// - constants called "…position_ids" count by one.
// Has nothing to say (Finding::nothing) where there is no such literal. A configuration that is no JSON
// object breaks it.
Finding CheckConfiguration(const v1::Check::Configuration& check, const v1::Program& program);

}  // namespace assay::engine
