// assay-mutation: plants faults into the catalogue's programs and asks their generated tests about them. One
// JSON file a program; a program whose file is there, made from the same things, is not done again.
// bench/mutation runs it and makes the table.
#include <ATen/Parallel.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "bench/mock_case.h"
#include "bench/mutation_faults.h"
#include "bench/mutation_score.h"
#include "common/digest.h"
#include "common/file.h"
#include "common/status_macros.h"
#include "engine/build.h"
#include "engine/mock.h"
#include "engine/run_test.h"

namespace assay::mutation {
namespace {

using nlohmann::json;

struct Options {
  std::filesystem::path root = ".";
  std::filesystem::path output = "out/mutation";
  uint64_t seed = 1;
  int faults = 30;  // a program, of those that run
  int fresh = 32;
  std::vector<std::string> names;
  bool baseline_only = false;
};

std::string FingerprintOf(const v1::Program& program) {
  v1::Program plain = program;
  plain.clear_golden();
  std::string bytes;
  plain.SerializeToString(&bytes);
  return Sha256Hex(bytes);
}

// All faults in the order in which they are tried: the kinds in turn, each kind's places as the seed has it.
std::vector<Fault> InOrder(std::vector<Fault> faults, const std::string& model, uint64_t seed) {
  std::map<std::string, std::vector<std::pair<uint64_t, Fault>>> by_kind;
  for (Fault& fault : faults) {
    const uint64_t key =
        engine::MockKey(absl::StrCat(model, " ", fault.kind, " ", fault.place, " ", fault.variant), seed);
    by_kind[fault.kind].emplace_back(key, std::move(fault));
  }
  std::vector<std::pair<uint64_t, std::string>> kinds;
  for (auto& [kind, places] : by_kind) {
    std::sort(places.begin(), places.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
    kinds.emplace_back(engine::MockKey(absl::StrCat(model, " ", kind), seed), kind);
  }
  std::sort(kinds.begin(), kinds.end());
  std::vector<Fault> ordered;
  for (size_t turn = 0, added = 1; added > 0; ++turn) {
    added = 0;
    for (const auto& [key, kind] : kinds) {
      auto& places = by_kind[kind];
      if (turn >= places.size()) continue;
      ordered.push_back(std::move(places[turn].second));
      ++added;
    }
  }
  return ordered;
}

// JSON has no infinity.
double Finite(double value) { return std::isfinite(value) ? value : 1e300; }

json ToJson(const Trial& trial) {
  json row = {{"kind", trial.fault.kind},
              {"place", trial.fault.place},
              {"what", trial.fault.what},
              {"held_out", HeldOut(trial.fault.kind)},
              {"matters", trial.matters()},
              {"moved", Finite(trial.moved)},
              {"moved_by_error", Finite(trial.moved_by_error)},
              {"own_moved", Finite(trial.own_moved)}};
  if (trial.matters()) {
    row["caught"] = trial.caught;
    row["structural"] = trial.structural;
    row["seen_when_loaded"] = trial.seen_when_loaded;
    row["golden"] = trial.golden;
    row["diagnosed"] = trial.diagnosed;
    row["placed"] = trial.placed;
  }
  return row;
}

absl::StatusOr<json> Score(const Subject& subject, const std::string& model, const Options& options) {
  json rows = json::array();
  std::set<std::string> seen = {FingerprintOf(subject.program())};
  int run = 0, refused = 0, equal = 0;
  const std::vector<Fault> faults = AllFaults(subject.program());
  for (const Fault& fault : InOrder(faults, model, options.seed)) {
    if (run >= options.faults) break;
    const auto planted = Plant(subject.program(), fault);
    if (!planted.ok()) {
      if (!absl::IsInvalidArgument(planted.status())) return planted.status();
      ++equal;
      continue;
    }
    if (!seen.insert(FingerprintOf(*planted)).second) {
      ++equal;
      continue;
    }
    const Trial trial = subject.Try(fault);
    if (!trial.refused.empty()) {
      ++refused;
      continue;
    }
    ++run;
    rows.push_back(ToJson(trial));
  }
  return json{{"places", faults.size()},
              {"faults", rows},
              {"refused", refused},
              {"equal", equal},
              {"fresh", subject.fresh()}};
}

// Scores the model, unless it was scored before from the same things.
absl::Status RunOne(CatalogueCase one, const Options& options) {
  // The main graph alone: a fault planted there would be given away by variants, which have none.
  one.program.clear_variant();
  const json made_from = {
      {"program", one.program_digest},   {"checks", Sha256Hex(one.mock.SerializeAsString())},
      {"engine", engine::EngineBuild()}, {"seed", options.seed},
      {"asked", options.faults},         {"fresh", options.fresh}};
  const auto output = options.output / absl::StrCat(one.name, ".json");
  if (const auto before = ReadFile(output); before.ok() && !options.baseline_only) {
    const json known = json::parse(*before, nullptr, /*allow_exceptions=*/false);
    if (!known.is_discarded() && known.value("made_from", json()) == made_from) return absl::OkStatus();
  }
  ASSAY_ASSIGN_OR_RETURN(const auto subject, Subject::Make(std::move(one.program), one.mock, options.fresh));
  if (options.baseline_only) return absl::OkStatus();
  ASSAY_ASSIGN_OR_RETURN(json result, Score(*subject, one.name, options));
  result["model"] = one.name;
  result["template"] = one.template_name;
  result["made_from"] = made_from;
  return WriteFileAtomically(output, absl::StrCat(result.dump(1), "\n"));
}

int Main(const Options& options) {
  std::error_code error;
  std::filesystem::create_directories(options.output, error);
  const auto broken = ForEachModel(options.root, options.names,
                                   [&](CatalogueCase one) { return RunOne(std::move(one), options); });
  if (!broken.ok()) {
    std::fprintf(stderr, "assay-mutation: %s\n", std::string(broken.status().message()).c_str());
    return 2;
  }
  return *broken == 0 ? 0 : 3;
}

}  // namespace
}  // namespace assay::mutation

int main(int argc, char** argv) {
  CLI::App app("Faults planted into programs and weights, and what their tests see of them.",
               "assay-mutation");
  assay::mutation::Options options;
  app.add_option("names", options.names, "catalogue entries (default: all with a program)");
  app.add_option("--root", options.root, "folder with templates/ and models/");
  app.add_option("--output", options.output, "folder for one JSON file a program");
  app.add_option("--seed", options.seed, "which faults");
  app.add_option("--faults", options.faults, "faults a program")->check(CLI::Range(1, 100000));
  app.add_option("--fresh", options.fresh, "fresh inputs a fault is tried on")->check(CLI::Range(1, 1000));
  app.add_flag("--baseline", options.baseline_only, "only see that the right programs pass their checks");
  CLI11_PARSE(app, argc, argv);
  assay::engine::SetThreads(1);
  return assay::mutation::Main(options);
}
