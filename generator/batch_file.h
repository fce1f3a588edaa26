// Batch files as users write them: {arch_type: [{name, template, task, original_name?, checkpoint?,
// weights_digest?}]}, the name being optional beside a checkpoint. Pure, safe from any thread.
#pragma once

#include <set>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "assay/v1/batch.pb.h"
#include "assay/v1/coordinator.pb.h"

namespace assay::generator {

// Larger files are refused, in bytes.
inline constexpr size_t kMaxBatchFileBytes = size_t{1} << 20;

struct BatchFile {
  // In the file's order, names normalised and unique. ModelRef.checkpoint is set where the entry names one:
  // id, revision (what stood behind '@'), weights_digest (pinned).
  std::vector<v1::ModelRef> models;
};

// The batch, whole or not at all. `file` is only for the errors. `template_names` are those a batch may name.
// INVALID_ARGUMENT with the errors' text; `errors`, where given, then holds either the first syntax error or
// every semantic error in the order of their places. Lines and columns count from 1, columns in characters;
// FileError.field is like "decoder_only[3].template".
absl::StatusOr<BatchFile> ParseBatchFile(absl::string_view file, absl::string_view content,
                                         const std::set<std::string>& template_names,
                                         std::vector<v1::FileError>* errors);

}  // namespace assay::generator
