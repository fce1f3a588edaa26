// What the tools of this folder do with the catalogue: each model's program and the mock case of its test.
#pragma once

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "assay/v1/program.pb.h"
#include "assay/v1/test.pb.h"

namespace assay::mutation {

// One model of the catalogue, as its generated test sees it.
struct CatalogueCase {
  std::string name;
  std::string template_name;
  std::string program_digest;
  v1::Program program;
  v1::Case mock;  // test_model_with_mock, float32 on the CPU
};

// Calls `use` for each of `names` that has a program (empty: every one), in the catalogue's order, and prints
// how it went, one line a model. How many went wrong. `root` has templates/ and models/. Errors: a template
// or an entry that cannot be read, a name that the catalogue has not.
absl::StatusOr<int> ForEachModel(const std::filesystem::path& root, const std::vector<std::string>& names,
                                 const std::function<absl::Status(CatalogueCase)>& use);

}  // namespace assay::mutation
