// Where the checkpoints of jobs lie on this node.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "assay/v1/test.pb.h"
#include "hub/hub.h"

namespace assay::worker {

// <root>/<id> where it is a folder, else empty: also for an empty root, and for an id that is none of a hub
// (CheckCheckpointId): it comes from a catalogue and must not name anything outside the root.
std::filesystem::path FindCheckpoint(const std::filesystem::path& root, absl::string_view id);

struct CheckpointPlaces {
  std::filesystem::path root;                  // ids are looked for as <root>/<id> first; empty: not
  std::vector<std::filesystem::path> folders;  // absolute folders must lie below one of these …
  bool any_folder = false;                     // … or may lie anywhere
};

// Thread-safe, as its hub is.
class CheckpointFinder {
 public:
  // `hub` may be an error: then nothing is had from it, and the error says why.
  CheckpointFinder(CheckpointPlaces places, absl::StatusOr<std::unique_ptr<hub::Hub>> hub, bool offline)
      : places_(std::move(places)), hub_(std::move(hub)), offline_(offline) {}

  // A checkpoint as a job names it: a folder, or an id, which is taken from the places' root where it is
  // there and no revision but "main" is asked for, and from the hub else. With a commit: exactly that. Blocks
  // for as long as a download takes. Errors as hub::Hub::Find and hub::FindFolder; PERMISSION_DENIED also for
  // a folder where this worker opens none.
  absl::StatusOr<hub::Found> Find(const v1::CheckpointRef& checkpoint,
                                  const std::function<bool()>& cancelled) const;
  // What an export stage has found, again: a checkpoint without a commit is never looked for on the hub,
  // where "main" may have moved. NOT_FOUND where it is not there any more.
  absl::StatusOr<hub::Found> FindAgain(const v1::CheckpointRef& resolved,
                                       const std::function<bool()>& cancelled) const;

  // The hub is not asked, by this worker's configuration.
  bool offline() const { return offline_; }

 private:
  const CheckpointPlaces places_;
  const absl::StatusOr<std::unique_ptr<hub::Hub>> hub_;
  const bool offline_;
};

}  // namespace assay::worker
