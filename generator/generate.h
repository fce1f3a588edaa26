// Template + catalogue entry + job -> test. Pure functions, safe from any thread.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "assay/v1/batch.pb.h"
#include "assay/v1/catalogue.pb.h"
#include "assay/v1/result.pb.h"
#include "assay/v1/template.pb.h"
#include "assay/v1/test.pb.h"

namespace assay::generator {

struct JobSpec {
  v1::ModelRef model;  // normalised, as ParseBatchFile gives it
  v1::Target target;   // unset fields: the template's
  // SHA-256 in lower-case hex; an empty catalogue_digest or program_digest: there is none.
  std::string template_digest;
  std::string catalogue_digest;
  std::string program_digest;
  // Of a job with a checkpoint; null: there is none. They live as long as Generate runs.
  const v1::CheckpointRef* checkpoint = nullptr;          // resolved: exactly what is loaded
  const v1::ExportResult* export_result = nullptr;        // what was made for it; comes with `checkpoint`
  const v1::CheckpointEntry* checkpoint_entry = nullptr;  // what the project knows of it
};

// The test of `job`. `resolved` is a template as ResolveTemplate gives it, `entry` the model's catalogue
// entry or null (and then there is no catalogue_digest). The same arguments always give the same test, byte
// for byte under FormatTest, and VerifyTest finds no error in it. AUTO stays AUTO: it is decided where the
// test runs. INVALID_ARGUMENT, naming model and part: the entry is another model's or names another template,
// it speaks of a case or check that the template has not, a name or digest is malformed, the job asks for a
// device that the template rules out.
absl::StatusOr<v1::ModelTest> Generate(const v1::Template& resolved, const v1::CatalogueEntry* entry,
                                       const JobSpec& job);

// The file: a header comment that is a function of `test`, then canonical text.
std::string FormatTest(const v1::ModelTest& test);

// "test_hf_<name>.textproto".
std::string TestFileName(const v1::ModelRef& model);
std::string TestFileName(absl::string_view name);

}  // namespace assay::generator
