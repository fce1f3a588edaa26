// The same model with the same weights and inputs on two kinds of device: their outputs held against each
// other.
#pragma once

#include <string>
#include <vector>

#include "assay/v1/batch.pb.h"

namespace assay::report {

enum class Parity {
  kAgree,
  kDiffer,
  // Rounding alone may turn a decision of the model at this dtype (OutputSummary.not_comparable), and they
  // differ.
  kNotComparable,
};

// One case of one model on two devices.
struct ParityCheck {
  const v1::Job* first = nullptr;  // the CPU's where one of them is
  const v1::Job* second = nullptr;
  std::string case_name;
  Parity parity = Parity::kAgree;
  // Of the figure that comes closest to what is allowed, or goes furthest beyond it.
  double error = 0;
  double allowed = 0;
  std::string message;  // that figure in words; of the worst where they differ
};

// Every pair of `jobs` of one model and dtype on different kinds of device, case by case, where both ran the
// same program with the same golden, weights and seed, and summarised their outputs. By model, then case.
// docs/tolerances.md, "Parity", has the rule. The jobs must outlive the result.
std::vector<ParityCheck> CompareDevices(const std::vector<const v1::Job*>& jobs);

// "agrees", "DIFFERS", "not comparable".
std::string ParityWord(Parity parity);
// "cuda NVIDIA H100": the kind of device that the job's test ran on.
std::string DeviceWord(const v1::Job& job);

}  // namespace assay::report
