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
  double rms_error = 0;
  double rms_tolerance = 0;
  bool rms_measured = false;  // likewise
  // Set with held == false: rounding alone could have done it, so that it proves no fault.
  bool not_comparable = false;
  std::string note;  // how it was judged, where not by the rule of the day
  // Why there was nothing to check: neither held nor broken.
  std::string nothing;
  std::string reason;  // of `nothing`, as CheckResult.reason

  void Measure(double found, double allowed) {
    // The pair that comes closest to its bound, or goes furthest beyond it, is the one to show.
    bool worse = !measured || found * std::max(tolerance, 1e-300) > error * std::max(allowed, 1e-300);
    if (worse) {
      error = found;
      tolerance = allowed;
    }
    measured = true;
  }
  void MeasureRms(double found, double allowed) {
    bool worse =
        !rms_measured || found * std::max(rms_tolerance, 1e-300) > rms_error * std::max(allowed, 1e-300);
    if (worse) {
      rms_error = found;
      rms_tolerance = allowed;
    }
    rms_measured = true;
  }
  void Break(std::string why) {
    // What proves a fault outweighs what does not.
    if (held || not_comparable) message = std::move(why);
    held = false;
    not_comparable = false;
  }
  void BreakWithoutProof(std::string why) {
    if (!held) return;
    Break(std::move(why));
    not_comparable = true;
  }
};

}  // namespace assay::engine
