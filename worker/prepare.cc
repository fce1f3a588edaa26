#include "worker/prepare.h"

#include "absl/strings/str_cat.h"
#include "assay/v1/catalogue.pb.h"
#include "assay/v1/template.pb.h"
#include "common/digest.h"
#include "common/textproto.h"
#include "generator/catalogue.h"
#include "generator/generate.h"
#include "generator/verify.h"

namespace assay::worker {

std::vector<std::string> BlobsOf(const v1::Assignment& assignment) {
  std::vector<std::string> digests;
  for (const std::string* digest :
       {&assignment.template_digest(), &assignment.catalogue_digest(), &assignment.program_digest()}) {
    if (!digest->empty()) digests.push_back(*digest);
  }
  return digests;
}

absl::StatusOr<PreparedTest> PrepareTest(const v1::Assignment& assignment, absl::string_view template_text,
                                         std::optional<absl::string_view> catalogue_text) {
  v1::Template resolved;
  if (absl::Status read =
          ParseTextProto(assignment.model().template_() + ".textproto", template_text, resolved);
      !read.ok()) {
    return absl::DataLossError(absl::StrCat("the template cannot be read: ", read.message()));
  }
  v1::CatalogueEntry entry;
  if (catalogue_text.has_value()) {
    auto read = generator::ParseCatalogueEntry(assignment.model().name() + ".textproto", *catalogue_text);
    if (!read.ok()) {
      return absl::DataLossError(
          absl::StrCat("the catalogue entry cannot be read: ", read.status().message()));
    }
    entry = *std::move(read);
  }
  generator::JobSpec job;
  job.model = assignment.model();
  job.target = assignment.target();
  job.template_digest = assignment.template_digest();
  job.catalogue_digest = assignment.catalogue_digest();
  job.program_digest = assignment.program_digest();
  auto test = generator::Generate(resolved, catalogue_text.has_value() ? &entry : nullptr, job);
  if (!test.ok()) {
    return absl::InvalidArgumentError(absl::StrCat("no test can be generated: ", test.status().message()));
  }
  const std::string text = generator::FormatTest(*test);
  std::string faults;
  for (const v1::FileError& error : generator::VerifyTest(generator::TestFileName(job.model), text)) {
    absl::StrAppend(&faults, faults.empty() ? "" : "\n", generator::FormatFileError(error));
  }
  if (!faults.empty()) {
    return absl::InvalidArgumentError(absl::StrCat("the generated test is not valid: ", faults));
  }
  return PreparedTest{*std::move(test), Sha256Hex(text)};
}

}  // namespace assay::worker
