// What this engine is, for provenance. No LibTorch in this header.
#pragma once

#include <string>

namespace assay::engine {

// E.g. "assay 0.1.0+22aa52d0f1c3, torch 2.13.0, g++ 12.2.0".
std::string EngineBuild();

// Version of the LibTorch that is loaded, e.g. "2.13.0".
std::string TorchVersion();

}  // namespace assay::engine
