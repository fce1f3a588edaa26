#include "cli/local_commands.h"

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <map>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "cli/content_dir.h"
#include "cli/output.h"
#include "common/file.h"
#include "common/status_macros.h"
#include "coordinator/content.h"
#include "generator/batch_file.h"
#include "generator/generate.h"
#include "generator/rules.h"
#include "generator/templates.h"
#include "generator/verify.h"

namespace assay::cli {
namespace {

namespace fs = std::filesystem;

// File name to text. `errors`: what is wrong with batch files that are refused.
absl::StatusOr<std::map<std::string, std::string>> GenerateAll(const std::vector<std::string>& batch_files,
                                                               const fs::path& content_dir,
                                                               const v1::Target& target,
                                                               std::vector<v1::FileError>* errors,
                                                               std::vector<std::string>* unexported) {
  ASSAY_ASSIGN_OR_RETURN(auto templates, generator::LoadTemplates(content_dir / "templates"));
  ASSAY_ASSIGN_OR_RETURN(auto content, coordinator::Content::Load(content_dir));
  std::map<std::string, std::string> tests;
  absl::Status refused = absl::OkStatus();
  for (const std::string& file : batch_files) {
    ASSAY_ASSIGN_OR_RETURN(std::string text, ReadFile(file, generator::kMaxBatchFileBytes));
    std::vector<v1::FileError> of_file;
    absl::StatusOr<generator::BatchFile> batch =
        generator::ParseBatchFile(file, text, content->template_names(), &of_file);
    errors->insert(errors->end(), of_file.begin(), of_file.end());
    if (!batch.ok()) {
      refused = batch.status();
      continue;
    }
    for (const v1::ModelRef& model : batch->models) {
      const coordinator::JobDigests digests = content->DigestsOf(model);
      generator::JobSpec job;
      job.model = model;
      job.target = target;
      job.template_digest = digests.template_digest;
      job.catalogue_digest = digests.catalogue_digest;
      job.program_digest = digests.program_digest;
      if (model.has_checkpoint()) unexported->push_back(model.name());
      auto entry = content->catalogue().find(model.name());
      ASSAY_ASSIGN_OR_RETURN(
          const v1::ModelTest test,
          generator::Generate(templates.at(model.template_()),
                              entry == content->catalogue().end() ? nullptr : &entry->second, job));
      if (!tests.emplace(generator::TestFileName(model), generator::FormatTest(test)).second) {
        return absl::InvalidArgumentError(
            absl::StrCat(file, ": model ", model.name(), " is in another batch file too"));
      }
    }
  }
  ASSAY_RETURN_IF_ERROR(refused);
  return tests;
}

}  // namespace

ExitCode GenerateCommand(const std::vector<std::string>& batch_files, const std::string& output_dir,
                         const std::string& content_dir, const v1::Target& target) {
  absl::StatusOr<fs::path> content = FindContentDir(content_dir);
  if (!content.ok()) return Complain(content.status());
  std::vector<v1::FileError> errors;
  std::vector<std::string> unexported;
  absl::StatusOr<std::map<std::string, std::string>> tests =
      GenerateAll(batch_files, *content, target, &errors, &unexported);
  if (!errors.empty()) {
    ComplainOf(errors);
    return kExitUsage;
  }
  if (!tests.ok()) return Complain(tests.status());
  for (const auto& [name, text] : *tests) {
    const fs::path path = fs::path(output_dir) / name;
    const absl::Status written = WriteFileAtomically(path, text);
    if (!written.ok()) return Complain(written);
    std::printf("%s\n", path.c_str());
  }
  if (!unexported.empty()) {
    std::fprintf(stderr, "assay: without what an export makes for the checkpoints of: %s\n",
                 absl::StrJoin(unexported, " ").c_str());
  }
  if (tests->empty()) {
    std::fprintf(stderr, "assay: the batch files name no models\n");
    return kExitNoTests;
  }
  return kExitOk;
}

ExitCode VerifyCommand(const std::string& directory) {
  std::vector<fs::path> files;
  std::error_code error;
  for (fs::directory_iterator file(directory, error), end; !error && file != end; file.increment(error)) {
    if (file->path().extension() == ".textproto") files.push_back(file->path());
  }
  if (error) return Complain(absl::NotFoundError(absl::StrCat(directory, ": ", error.message())));
  std::sort(files.begin(), files.end());
  std::vector<v1::FileError> errors;
  size_t bad = 0;
  for (const fs::path& file : files) {
    absl::StatusOr<std::string> text = ReadFile(file, generator::kMaxTextBytes);
    if (!text.ok()) return Complain(text.status());
    const std::vector<v1::FileError> of_file = generator::VerifyTest(file.string(), *text);
    if (!of_file.empty()) ++bad;
    errors.insert(errors.end(), of_file.begin(), of_file.end());
  }
  ComplainOf(errors);
  if (files.empty()) {
    std::fprintf(stderr, "assay: no *.textproto in %s\n", directory.c_str());
    return kExitNoTests;
  }
  std::printf("%zu of %zu test files are valid\n", files.size() - bad, files.size());
  return errors.empty() ? kExitOk : kExitUsage;
}

}  // namespace assay::cli
