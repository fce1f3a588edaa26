// Templates: the declared test of each family. Pure functions of files and values, safe from any thread.
#pragma once

#include <filesystem>
#include <map>
#include <set>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "assay/v1/template.pb.h"
#include "assay/v1/test.pb.h"

namespace assay::generator {

// One template file as its author wrote it: strictly parsed, each check well formed, nothing inherited yet.
// INVALID_ARGUMENT names `file` and what is wrong; the template's name must be the file's stem.
absl::StatusOr<v1::Template> ParseTemplate(absl::string_view file, absl::string_view text);

// The template `name` with everything that its bases give it. `parsed` holds all templates by name.
// A child starts from its base: set_up and limits are replaced field by field; a case or check of the same
// name is replaced where it stands, a new one goes to the end; `remove` takes a check out. In the result
// `base` is empty, and `remove` lists what was taken out and not added again, for a test to name as absent.
// INVALID_ARGUMENT: a cycle, a base that does not exist, a removed case or check that does not exist, a
// replacement of another kind, an incomplete root. NOT_FOUND: `name` itself.
absl::StatusOr<v1::Template> ResolveTemplate(const std::map<std::string, v1::Template>& parsed,
                                             absl::string_view name);

// Every *.textproto of `dir`, resolved, by name: those that a batch may name. Abstract ones only serve to be
// inherited from and are left out. FormatTextProto of a resolved template is the blob that its digest names.
// The first error found, with its file: as above, or NOT_FOUND where `dir` holds no template.
absl::StatusOr<std::map<std::string, v1::Template>> LoadTemplates(const std::filesystem::path& dir);

// The part of every test that its resolved template decides: set_up, limits, cases, and what was removed as
// absent.
v1::ModelTest PlannedTest(const v1::Template& resolved);

// The names of resolved templates, as ParseBatchFile takes them.
std::set<std::string> TemplateNames(const std::map<std::string, v1::Template>& resolved);

}  // namespace assay::generator
