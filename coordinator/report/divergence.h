// What a diagnosis found, for each format. docs/diagnosis.md. Pure and thread-safe.
#pragma once

#include <string>
#include <vector>

#include "assay/v1/result.pb.h"
#include "nlohmann/json_fwd.hpp"

namespace assay::report {

// "linear_3 (aten.linear.default) in model.layers.0.mlp, error 0.5"; empty where there is none.
std::string DivergenceText(const v1::Divergence& divergence);

// "weights: weight a.b is not what its mock rule gives"; empty where a result of the first release says
// nothing.
std::string FaultText(const v1::Divergence& divergence);

// Everything but the growth, a line each, the first being DivergenceText behind "first divergence: "; empty
// where there is none.
std::vector<std::string> DivergenceLines(const v1::Divergence& divergence);

// An object of the same; null where there is none. Numbers that are not finite are the texts "inf", "-inf",
// "nan".
nlohmann::ordered_json DivergenceJson(const v1::Divergence& divergence);

// The growth as an inline SVG: relative error by operator on a logarithmic scale, what was allowed, and the
// first to differ. Its colours are the variables of the report's style. Empty where there are fewer than two
// points.
std::string GrowthPlot(const v1::Divergence& divergence);

}  // namespace assay::report
