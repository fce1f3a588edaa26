// Commands about who may do what, and what was done. Each writes its answer and gives the process's exit
// code.
#pragma once

#include <cstddef>
#include <string>

#include "cli/connection.h"
#include "common/exit_code.h"

namespace assay::cli {

struct NewToken {
  std::string name;
  std::string role;    // "read", "submit", "work", "admin" or "join"
  double days = 0;     // 0: as the coordinator has it
  std::string output;  // a file of mode 0600; empty: standard output
};
ExitCode CreateTokenCommand(const ConnectionOptions& options, const NewToken& token);
ExitCode TokensCommand(const ConnectionOptions& options, bool json);
ExitCode RevokeTokenCommand(const ConnectionOptions& options, const std::string& id);
// Newest first; 0: all.
ExitCode AuditCommand(const ConnectionOptions& options, size_t limit, bool json);

}  // namespace assay::cli
