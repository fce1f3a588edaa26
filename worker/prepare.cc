#include "worker/prepare.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "assay/v1/catalogue.pb.h"
#include "assay/v1/template.pb.h"
#include "common/digest.h"
#include "common/status_macros.h"
#include "common/textproto.h"
#include "generator/catalogue.h"
#include "generator/generate.h"
#include "generator/verify.h"

namespace assay::worker {

std::vector<std::string> BlobsOf(const v1::Assignment& assignment) {
  std::vector<std::string> digests;
  const auto add = [&digests](const std::string& digest) {
    if (!digest.empty() && std::find(digests.begin(), digests.end(), digest) == digests.end()) {
      digests.push_back(digest);
    }
  };
  add(assignment.template_digest());
  add(assignment.catalogue_digest());
  add(assignment.program_digest());
  add(assignment.checkpoint_entry_digest());
  if (assignment.stage() != v1::STAGE_EXPORT) {
    add(assignment.export_().program_digest());
    add(assignment.export_().golden_digest());
    add(assignment.export_().weights_blob());
  }
  return digests;
}

absl::StatusOr<v1::CheckpointEntry> ReadCheckpointEntry(const v1::Assignment& assignment,
                                                        absl::string_view text) {
  const std::string what = absl::StrCat("the entry of checkpoint ", assignment.checkpoint().id());
  v1::CheckpointEntry entry;
  // Its file's name is not known here, only its content; the coordinator has verified both.
  if (absl::Status read = ParseTextProto(what, text, entry); !read.ok()) {
    return absl::DataLossError(absl::StrCat(what, " cannot be read: ", read.message()));
  }
  return entry;
}

absl::StatusOr<PreparedTest> PrepareTest(const v1::Assignment& assignment, const PreparedFrom& from) {
  v1::Template resolved;
  if (absl::Status read =
          ParseTextProto(assignment.model().template_() + ".textproto", from.template_text, resolved);
      !read.ok()) {
    return absl::DataLossError(absl::StrCat("the template cannot be read: ", read.message()));
  }
  v1::CatalogueEntry entry;
  if (from.catalogue_text.has_value()) {
    auto read =
        generator::ParseCatalogueEntry(assignment.model().name() + ".textproto", *from.catalogue_text);
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
  v1::CheckpointEntry checkpoint_entry;
  if (assignment.has_checkpoint() && assignment.has_export_()) {
    job.checkpoint = &assignment.checkpoint();
    job.export_result = &assignment.export_();
    if (from.entry_text.has_value()) {
      ASSAY_ASSIGN_OR_RETURN(checkpoint_entry, ReadCheckpointEntry(assignment, *from.entry_text));
      job.checkpoint_entry = &checkpoint_entry;
    }
  }
  auto test = generator::Generate(resolved, from.catalogue_text.has_value() ? &entry : nullptr, job);
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
