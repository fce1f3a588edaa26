// From a checkpoint alone to a batch of one: template and task come from what the project knows of it, else
// from its configuration through the catalogue.
#pragma once

#include <map>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "assay/v1/catalogue.pb.h"

namespace assay::cli {

struct CheckpointWish {
  std::string checkpoint;     // "owner/name[@revision]" or an absolute folder
  std::string template_name;  // empty: to be found
  std::string task;           // likewise
};

struct NamedBatch {
  std::string name;     // as a file's, "all_minilm_l6_v2.json"
  std::string content;  // as a user would have written it
};

// The batch. `entries` is by checkpoint id, `catalogue` by model name. `config` is the checkpoint's
// config.json; empty: it has none, or none is needed. Pure, thread-safe. INVALID_ARGUMENT, saying what is to
// be given, where the checkpoint's name is malformed, its configuration is no JSON object, or template or
// task cannot be told.
absl::StatusOr<NamedBatch> BatchOfCheckpoint(const CheckpointWish& wish,
                                             const std::map<std::string, v1::CheckpointEntry>& entries,
                                             const std::map<std::string, v1::CatalogueEntry>& catalogue,
                                             absl::string_view config);

// True where the batch can be made without the checkpoint's configuration.
bool NeedsNoConfig(const CheckpointWish& wish, const std::map<std::string, v1::CheckpointEntry>& entries);

}  // namespace assay::cli
