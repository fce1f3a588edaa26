#include "cli/follow.h"

#include <filesystem>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/file.h"
#include "common/id.h"
#include "common/status_macros.h"

namespace assay::cli {

namespace {
// What SubmitBatch takes.
constexpr size_t kMaxBatchFileBytes = size_t{1} << 20;
}  // namespace

absl::Status SubmitFiles(Connection& connection, const Submission& submission,
                         std::vector<v1::Batch>* batches, std::vector<v1::FileError>* errors) {
  std::vector<v1::SubmitBatchRequest> requests;
  std::vector<std::string> shown = submission.files;  // as the user knows them
  for (const std::string& file : submission.files) {
    v1::SubmitBatchRequest& request = requests.emplace_back();
    ASSAY_ASSIGN_OR_RETURN(*request.mutable_content(), ReadFile(file, kMaxBatchFileBytes));
    request.set_name(std::filesystem::path(file).filename().string());
  }
  for (const NamedBatch& text : submission.texts) {
    v1::SubmitBatchRequest& request = requests.emplace_back();
    request.set_content(text.content);
    request.set_name(text.name);
    shown.push_back(text.name);
  }
  for (size_t i = 0; i < requests.size(); ++i) {
    v1::SubmitBatchRequest& request = requests[i];
    request.set_submitter(submission.submitter);
    request.set_traceparent(submission.traceparent);
    request.set_profile(submission.profile);
    if (submission.targets.empty()) {
      *request.mutable_target() = submission.target;
    } else {
      *request.mutable_targets() = {submission.targets.begin(), submission.targets.end()};
    }
    *request.mutable_selector() = {submission.selector.begin(), submission.selector.end()};
    request.set_gpu_memory_bytes(submission.gpu_memory);
    if (submission.request_id.empty()) {
      request.set_request_id(NewUuid());
    } else {
      request.set_request_id(i == 0 ? submission.request_id
                                    : absl::StrCat(submission.request_id, "-", i + 1));
    }
  }
  for (size_t i = 0; i < requests.size(); ++i) {
    absl::StatusOr<v1::Batch> batch = connection.Submit(requests[i], errors);
    if (!batch.ok()) {
      // The coordinator knows a file by its name alone; whoever typed a path wants that.
      for (v1::FileError& error : *errors) {
        if (error.file() == requests[i].name()) error.set_file(shown[i]);
      }
      return absl::Status(batch.status().code(), absl::StrCat(shown[i], ": ", batch.status().message()));
    }
    batches->push_back(*std::move(batch));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<v1::GetBatchResponse>> Follow(Connection& connection,
                                                         const std::vector<std::string>& batch_ids,
                                                         const EventSink& show, Interrupt& interrupt) {
  interrupt.OnRaise([&connection] { connection.CancelWatches(); });
  std::vector<absl::Status> statuses(batch_ids.size());
  {
    std::vector<std::thread> watchers;
    for (size_t i = 0; i < batch_ids.size(); ++i) {
      watchers.emplace_back([&, i] { statuses[i] = connection.Watch(batch_ids[i], show); });
    }
    for (std::thread& watcher : watchers) watcher.join();
  }
  interrupt.OnRaise(nullptr);
  for (const absl::Status& status : statuses) ASSAY_RETURN_IF_ERROR(status);
  std::vector<v1::GetBatchResponse> ended;
  for (const std::string& batch_id : batch_ids) {
    ASSAY_ASSIGN_OR_RETURN(v1::GetBatchResponse batch, connection.GetBatch(batch_id));
    ended.push_back(std::move(batch));
  }
  return ended;
}

}  // namespace assay::cli
