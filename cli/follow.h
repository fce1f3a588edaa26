// Submitting batch files and following batches to their end: what submit, watch and run have in common.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "assay/v1/coordinator.pb.h"
#include "cli/checkpoint_batch.h"
#include "cli/connection.h"
#include "cli/interrupt.h"

namespace assay::cli {

struct Submission {
  std::vector<std::string> files;
  std::vector<NamedBatch> texts;  // batches that stand in no file, after the files
  std::string request_id;         // of the first file; the others' are made from it. Empty: new ones
  std::string submitter;
  v1::Target target;
  bool profile = false;     // results carry the operators that took longest
  std::string traceparent;  // of the command's span; empty: it is not traced
  // Each model is run on each of these; empty: on `target` alone.
  std::vector<v1::Target> targets;
  std::vector<std::string> selector;
  uint64_t gpu_memory = 0;  // bytes; 0: the coordinator predicts it
};

// One batch a file, in the files' order, those before the first error. Nothing is submitted unless every file
// can be read. `errors` holds what is wrong with a file that is refused.
absl::Status SubmitFiles(Connection& connection, const Submission& submission,
                         std::vector<v1::Batch>* batches, std::vector<v1::FileError>* errors);

// Called from several threads, one a batch.
using EventSink = std::function<void(const v1::BatchEvent&)>;

// Watches all batches at once until each has ended, and gives their jobs as they then are, batch by batch.
// CANCELLED where `interrupt` was raised; the batches run on.
absl::StatusOr<std::vector<v1::GetBatchResponse>> Follow(Connection& connection,
                                                         const std::vector<std::string>& batch_ids,
                                                         const EventSink& show, Interrupt& interrupt);

}  // namespace assay::cli
