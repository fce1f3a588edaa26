#include "bench/mock_case.h"

#include <algorithm>
#include <cstdio>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/digest.h"
#include "common/file.h"
#include "common/status_macros.h"
#include "engine/program.h"
#include "generator/catalogue.h"
#include "generator/generate.h"
#include "generator/templates.h"

namespace assay::mutation {
namespace {

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

}  // namespace

absl::StatusOr<int> ForEachModel(const std::filesystem::path& root, const std::vector<std::string>& names,
                                 const std::function<absl::Status(CatalogueCase)>& use) {
  ASSAY_ASSIGN_OR_RETURN(const auto templates, generator::LoadTemplates(root / "templates"));
  ASSAY_ASSIGN_OR_RETURN(const auto catalogue, generator::LoadCatalogue(root / "models" / "catalogue"));
  for (const std::string& name : names) {
    if (catalogue.count(name) == 0) {
      return absl::NotFoundError(absl::StrCat("the catalogue has no ", name));
    }
  }
  int broken = 0;
  for (const auto& [name, entry] : catalogue) {
    if (!names.empty() && std::count(names.begin(), names.end(), name) == 0) continue;
    const auto path = root / "models" / "programs" / absl::StrCat(name, ".assay");
    if (!std::filesystem::exists(path)) continue;
    const v1::CatalogueEntry& of_model = entry;
    const absl::Status done = [&]() -> absl::Status {
      const auto found = templates.find(of_model.template_());
      if (found == templates.end()) return absl::NotFoundError("its template does not exist");
      CatalogueCase one;
      one.name = of_model.name();
      one.template_name = of_model.template_();
      ASSAY_ASSIGN_OR_RETURN(const std::string bytes, ReadFile(path));
      one.program_digest = Sha256Hex(bytes);
      ASSAY_ASSIGN_OR_RETURN(one.mock, MockCaseOf(of_model, found->second, one.program_digest));
      ASSAY_ASSIGN_OR_RETURN(one.program, engine::ParseProgram(bytes));
      return use(std::move(one));
    }();
    std::printf("%s: %s\n", name.c_str(), done.ok() ? "done" : std::string(done.message()).c_str());
    std::fflush(stdout);
    if (!done.ok()) ++broken;
  }
  return broken;
}

}  // namespace assay::mutation
