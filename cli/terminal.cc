#include "cli/terminal.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <cstdlib>

#include "absl/strings/string_view.h"

namespace assay::cli {

Terminal TerminalOf(std::FILE* file) {
  Terminal terminal;
  const int fd = fileno(file);
  const char* term = std::getenv("TERM");
  terminal.live = isatty(fd) != 0 && term != nullptr && absl::string_view(term) != "dumb";
  const char* no_color = std::getenv("NO_COLOR");
  terminal.colour = terminal.live && (no_color == nullptr || *no_color == '\0');
  winsize size = {};
  if (ioctl(fd, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) terminal.columns = size.ws_col;
  return terminal;
}

}  // namespace assay::cli
