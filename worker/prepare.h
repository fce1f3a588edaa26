// From an assignment and its blobs to the test that runs. Pure; safe from any thread.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "assay/v1/catalogue.pb.h"
#include "assay/v1/test.pb.h"
#include "assay/v1/worker.pb.h"

namespace assay::worker {

struct PreparedTest {
  v1::ModelTest test;
  std::string digest;  // SHA-256 of its canonical text
};

// The digests of an assignment's blobs, those that are there: template, catalogue entry, program and
// checkpoint's entry; for a test also what its export stage made. Each once.
std::vector<std::string> BlobsOf(const v1::Assignment& assignment);

// Texts of an assignment's blobs; absent: there is none.
struct PreparedFrom {
  std::string template_text;
  std::optional<std::string> catalogue_text;
  std::optional<std::string> entry_text;  // the checkpoint's entry
};

// Generates and verifies the test.
//   DATA_LOSS         a blob is not what this worker can read (of another version, perhaps).
//   INVALID_ARGUMENT  template, entry and job do not give a valid test; the message names what is wrong.
absl::StatusOr<PreparedTest> PrepareTest(const v1::Assignment& assignment, const PreparedFrom& from);

// The checkpoint's entry. DATA_LOSS where it cannot be read.
absl::StatusOr<v1::CheckpointEntry> ReadCheckpointEntry(const v1::Assignment& assignment,
                                                        absl::string_view text);

}  // namespace assay::worker
