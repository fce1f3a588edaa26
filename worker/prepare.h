// From an assignment and its blobs to the test that runs. Pure; safe from any thread.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "assay/v1/test.pb.h"
#include "assay/v1/worker.pb.h"

namespace assay::worker {

struct PreparedTest {
  v1::ModelTest test;
  std::string digest;  // SHA-256 of its canonical text
};

// The digests of an assignment's blobs: template, catalogue entry and program, those that are there.
std::vector<std::string> BlobsOf(const v1::Assignment& assignment);

// Generates and verifies the test; `catalogue_text` is absent where the model has no catalogue entry.
//   DATA_LOSS         a blob is not what this worker can read (of another version, perhaps).
//   INVALID_ARGUMENT  template, entry and job do not give a valid test; the message names what is wrong.
absl::StatusOr<PreparedTest> PrepareTest(const v1::Assignment& assignment, absl::string_view template_text,
                                         std::optional<absl::string_view> catalogue_text);

}  // namespace assay::worker
