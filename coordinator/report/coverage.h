// Coverage: for each tracked model, what recorded results show. Sets of names, never a counter that is added
// to.
#pragma once

#include <set>
#include <string>
#include <utility>
#include <vector>

#include "coordinator/report/real.h"
#include "coordinator/report/report.h"
#include "generator/rules.h"

namespace assay::report {

// The case whose passing is mock evidence, and no other: a loading case that fell back to mock weights is
// none.
using generator::kMockCase;

// What the newest result of a model on one target shows. A cancelled job says nothing about a model, so it
// decides only where there is no other. A result that does not tell its device (its worker was lost before it
// could) stands for every device that it might have run on.
struct TargetResult {
  std::string device;            // "cpu"
  std::string target;            // "cpu/float32"
  const v1::Job* job = nullptr;  // the newest; never null; lives in the ReportInput, as the two others do
  // The newest whose test ran; a failed export says nothing of an architecture. May be null.
  const v1::Job* test_job = nullptr;
  // The newest that tried a checkpoint, where what came after it tried none and passed. May be null.
  const v1::Job* real_job = nullptr;
  bool flaky = false;           // test_job passed, after a failure at the same inputs
  bool full_precision = false;  // float32, and no simulated device. Others are shown, and cover no model
  // Of test_job. Needs a test that ran to its end, a program, and test_model_with_mock PASSED with mock
  // weights, every check of it holding; the golden that was compared shows in an error within its tolerance.
  bool mock_passed = false;
  RealGrade real = RealGrade::kNone;  // of real_job
  // The whole test PASSED, and in it a golden was compared: with mock weights, or with trained ones that
  // count.
  bool covered = false;

  bool real_passed() const { return real == RealGrade::kReal; }
};

struct ModelCoverage {
  TrackedModel model;
  const v1::CatalogueEntry* entry = nullptr;  // nullptr: the catalogue has none
  // Tracked, and in no catalogue: only checkpoints whose model type is the model's name are of it.
  bool type_by_name = false;
  std::string template_name;          // of the newest result, else of the catalogue; may be empty
  std::string original_name;          // empty: the same as the name
  std::vector<TargetResult> results;  // by target
  bool generated = false;             // some result names the digest of its test
  // When a result covered the model for the first time, be it superseded since; none: InfiniteFuture.
  absl::Time first_covered = absl::InfiniteFuture();
  bool mock_passed = false;
  RealGrade real = RealGrade::kNone;  // the best of its targets
  bool covered = false;
  bool flaky = false;
  std::string why_missing;  // of a model that is not covered

  bool real_passed() const { return real == RealGrade::kReal; }
};

// Names by what was shown of them. real_passed alone is real coverage; a name is in one of the four that
// speak of checkpoints, the best that was shown: real_passed; real_unverified (nothing vouches for the
// weights); real_structural (no golden); synthetic (random values, which are never real).
struct Tally {
  std::set<std::string> tracked, generated, verified, mock_passed, real_passed, real_unverified,
      real_structural, synthetic, covered;
};

using TallyByWord = std::vector<std::pair<std::string, Tally>>;

struct Coverage {
  std::vector<ModelCoverage> models;  // in the registry's order
  Tally total;
  TallyByWord by_priority, by_arch_type, by_template;
  // What the results on this kind of device show, half precision apart ("cpu/bfloat16"); tracked are all
  // models, for each may be run on each.
  TallyByWord by_device;
  // Ran, but stand in no registry; never part of the sets above.
  std::vector<ModelCoverage> untracked;

  // Tracked or not; nullptr: neither tracked nor run.
  const ModelCoverage* Find(absl::string_view name) const;
};

// What points into `input` lives as long as that.
Coverage ComputeCoverage(const ReportInput& input);

// The checks of a model: those that its result records, and those that its catalogue entry declares to be
// impossible, which are possible for the family.
struct CheckCount {
  size_t applied = 0;
  size_t possible = 0;
};
CheckCount CountChecks(const v1::Job& job, const v1::CatalogueEntry* entry);

}  // namespace assay::report
