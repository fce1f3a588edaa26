// The command line of `assay gate`.
#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

#include "cli/gate.h"

namespace assay::cli {

struct GateArguments {
  GateOptions options;
  std::string from, to, like, record;
  std::vector<std::string> sides;
};

// `arguments` is filled when the command line is parsed, and lives as long as `gate`.
void AddGateOptions(CLI::App* gate, GateArguments& arguments);

ExitCode RunGate(const GateArguments& arguments);

}  // namespace assay::cli
