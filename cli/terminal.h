// Where the answer goes: a person's terminal, or a file, pipe or log.
#pragma once

#include <cstdio>

namespace assay::cli {

struct Terminal {
  // The cursor may be moved: a terminal, and TERM is not "dumb".
  bool live = false;
  // Colours are welcome: live, and NO_COLOR (no-color.org) is unset or empty.
  bool colour = false;
  int columns = 80;
};

// What `file` (stdout, stderr) is, by the environment as it is now.
Terminal TerminalOf(std::FILE* file);

}  // namespace assay::cli
