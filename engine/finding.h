// What a check found. Internal to the engine's checks.
#pragma once

#include <algorithm>
#include <string>
#include <utility>

namespace assay::engine {

// What a check found: the worst of everything that it compared.
struct Finding {
  bool held = true;
  std::string message;  // of the first thing that did not hold
  double error = 0;
  double tolerance = 0;
  bool measured = false;  // error and tolerance say something
  // Why there was nothing to check: neither held nor broken.
  std::string nothing;

  void Measure(double found, double allowed) {
    // The pair that comes closest to its bound, or goes furthest beyond it, is the one to show.
    bool worse = !measured || found * std::max(tolerance, 1e-300) > error * std::max(allowed, 1e-300);
    if (worse) {
      error = found;
      tolerance = allowed;
    }
    measured = true;
  }
  void Break(std::string why) {
    if (held) message = std::move(why);
    held = false;
  }
};

}  // namespace assay::engine
