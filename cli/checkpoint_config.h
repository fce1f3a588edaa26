// Where a checkpoint's config.json is read from before anything runs.
#pragma once

#include <filesystem>
#include <string>

#include "absl/status/statusor.h"
#include "assay/v1/test.pb.h"
#include "hub/hub.h"

namespace assay::cli {

// The text of config.json: of the folder that `checkpoint` is, of <checkpoint_root>/<id> (where a root is
// given), else as the hub's client finds it in its cache or fetches it. Empty: the checkpoint is there and
// has none (GGUF). Else what the client says, or NOT_FOUND where there is no such folder.
absl::StatusOr<std::string> ReadCheckpointConfig(const v1::CheckpointRef& checkpoint,
                                                 const std::filesystem::path& checkpoint_root,
                                                 const hub::HubOptions& options);

}  // namespace assay::cli
