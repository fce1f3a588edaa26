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
#include "bench/mutation_faults.h"
#include "bench/mutation_score.h"
#include "common/digest.h"
#include "common/file.h"
#include "common/status_macros.h"
#include "engine/build.h"
#include "engine/mock.h"
#include "engine/program.h"
#include "engine/run_test.h"
#include "generator/catalogue.h"
#include "generator/generate.h"
#include "generator/templates.h"

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

absl::StatusOr<v1::Case> MockCaseOf(const v1::CatalogueEntry& entry, const v1::Template& resolved,
                                    const std::string& program_digest) {
  generator::JobSpec job;
  job.model.set_name(entry.name());
  job.model.set_original_name(entry.original_name());
  job.model.set_template_(entry.template_());
  job.model.set_task(entry.task());
  job.model.set_arch_type(entry.arch_type());
  job.target.set_device(v1::CPU);
  job.target.set_dtype(v1::FLOAT32);
  const std::string none = Sha256Hex("");  // whose digests they are does not matter here
  job.template_digest = none;
  job.catalogue_digest = none;
  job.program_digest = program_digest;
  ASSAY_ASSIGN_OR_RETURN(const v1::ModelTest test, generator::Generate(resolved, &entry, job));
  for (const v1::Case& one : test.case_()) {
    if (one.weights() == v1::MOCK) return one;
  }
  return absl::InvalidArgumentError("its test has no case with mock weights");
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

// True where it was scored, or had been before.
absl::StatusOr<bool> RunOne(const v1::CatalogueEntry& entry, const v1::Template& resolved,
                            const Options& options) {
  const auto path = options.root / "models" / "programs" / absl::StrCat(entry.name(), ".assay");
  ASSAY_ASSIGN_OR_RETURN(const std::string bytes, ReadFile(path));
  const std::string digest = Sha256Hex(bytes);
  ASSAY_ASSIGN_OR_RETURN(const v1::Case checks, MockCaseOf(entry, resolved, digest));
  const json made_from = {{"program", digest},
                          {"checks", Sha256Hex(checks.SerializeAsString())},
                          {"engine", engine::EngineBuild()},
                          {"seed", options.seed},
                          {"asked", options.faults},
                          {"fresh", options.fresh}};
  const auto output = options.output / absl::StrCat(entry.name(), ".json");
  if (const auto before = ReadFile(output); before.ok() && !options.baseline_only) {
    const json known = json::parse(*before, nullptr, /*allow_exceptions=*/false);
    if (!known.is_discarded() && known.value("made_from", json()) == made_from) return true;
  }
  ASSAY_ASSIGN_OR_RETURN(v1::Program program, engine::ParseProgram(bytes));
  // Faults are planted into the main graph: a variant, which has none, would give each of them away.
  program.clear_variant();
  ASSAY_ASSIGN_OR_RETURN(const auto subject, Subject::Make(std::move(program), checks, options.fresh));
  if (options.baseline_only) return true;
  ASSAY_ASSIGN_OR_RETURN(json result, Score(*subject, entry.name(), options));
  result["model"] = entry.name();
  result["template"] = entry.template_();
  result["made_from"] = made_from;
  ASSAY_RETURN_IF_ERROR(WriteFileAtomically(output, absl::StrCat(result.dump(1), "\n")));
  return true;
}

int Main(const Options& options) {
  const auto fail = [](const absl::Status& status) {
    std::fprintf(stderr, "assay-mutation: %s\n", std::string(status.message()).c_str());
    return 2;
  };
  const auto templates = generator::LoadTemplates(options.root / "templates");
  if (!templates.ok()) return fail(templates.status());
  const auto catalogue = generator::LoadCatalogue(options.root / "models" / "catalogue");
  if (!catalogue.ok()) return fail(catalogue.status());
  for (const std::string& name : options.names) {
    if (catalogue->count(name) == 0) {
      return fail(absl::NotFoundError(absl::StrCat("the catalogue has no ", name)));
    }
  }
  std::error_code error;
  std::filesystem::create_directories(options.output, error);
  int broken = 0;
  for (const auto& [name, entry] : *catalogue) {
    if (!options.names.empty() && std::count(options.names.begin(), options.names.end(), name) == 0) continue;
    if (!std::filesystem::exists(options.root / "models" / "programs" / absl::StrCat(name, ".assay")))
      continue;
    const auto found = templates->find(entry.template_());
    const auto done = found == templates->end()
                          ? absl::StatusOr<bool>(absl::NotFoundError("its template does not exist"))
                          : RunOne(entry, found->second, options);
    std::printf("%s: %s\n", name.c_str(), done.ok() ? "done" : std::string(done.status().message()).c_str());
    std::fflush(stdout);
    if (!done.ok()) ++broken;
  }
  return broken == 0 ? 0 : 3;
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
