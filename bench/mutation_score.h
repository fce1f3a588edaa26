// What the checks of a model's generated test do about one planted fault.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "assay/v1/program.pb.h"
#include "assay/v1/result.pb.h"
#include "assay/v1/test.pb.h"
#include "bench/mutation_faults.h"
#include "bench/mutation_inputs.h"
#include "engine/plan.h"

namespace assay::mutation {

struct Trial {
  Fault fault;
  // The program no longer plans or runs: any test sees that, so it is counted neither way.
  std::string refused;
  // How far the outputs move beyond what a right run may, over the fresh inputs; above 1 the fault matters.
  double moved = 0;
  // Likewise by the model's legitimate error itself, without the room that other kernels are given.
  double moved_by_error = 0;
  double own_moved = 0;                 // likewise as `moved`, with the golden's inputs
  std::vector<std::string> caught;      // checks of the test that fail
  std::vector<std::string> structural;  // of them, without a golden: those that fail all the same
  // Of a fault in a weight: planted when it is loaded, so that its source is right, the structural checks see
  // it.
  bool seen_when_loaded = false;
  bool golden = false;    // the golden check is among `caught`
  std::string diagnosed;  // node that the diagnosis names; empty: none
  bool placed = false;    // it is one of Places()
  bool matters() const { return refused.empty() && moved > 1; }
};

// One model's program and mock case, its right outputs for fresh inputs known. Not thread-safe.
class Subject {
 public:
  // FAILED_PRECONDITION: the right program does not pass its own checks, with and without a golden, and says
  // which; then a score would say nothing. Errors of the engine as they are.
  static absl::StatusOr<std::unique_ptr<Subject>> Make(v1::Program program, v1::Case checks, int fresh);

  Trial Try(const Fault& fault) const;

  const v1::Program& program() const { return program_; }
  int fresh() const { return static_cast<int>(fresh_.size()); }

 private:
  struct Sample {
    FreshInputs given;
    std::vector<at::Tensor> right;
  };
  Subject(v1::Program program, v1::Case checks) : program_(std::move(program)), checks_(std::move(checks)) {}
  absl::Status Prepare(int fresh);
  // The checks that fail, and why. `source`: whose rules the weights are by. `structural`: without the
  // golden's outputs.
  std::vector<v1::CheckResult> Failing(const v1::Program& program, const engine::Plan& plan,
                                       const std::vector<at::Tensor>& outputs, const engine::Weights& weights,
                                       const v1::Manifest& source, bool structural) const;

  const v1::Program program_;
  const v1::Case checks_;
  v1::Golden inputs_only_;
  engine::Weights weights_;
  std::vector<at::Tensor> inputs_;
  std::vector<at::Tensor> right_;
  std::vector<Sample> fresh_;
};

// A check that compares with nothing that eager gave.
bool IsStructural(const v1::Check& check);

}  // namespace assay::mutation
