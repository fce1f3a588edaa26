#include "coordinator/services/batch_service.h"

#include <algorithm>
#include <iterator>
#include <memory>
#include <set>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "common/digest.h"
#include "common/id.h"
#include "common/status_macros.h"
#include "coordinator/job_life.h"
#include "coordinator/needs.h"
#include "coordinator/report/report.h"
#include "coordinator/services/blob_stream.h"
#include "coordinator/services/grpc_status.h"
#include "coordinator/store/record_rules.h"
#include "generator/batch_file.h"

namespace assay::coordinator {
namespace {

constexpr uint32_t kDefaultPage = 50;
constexpr uint32_t kMaxPage = 1000;
constexpr size_t kMaxNameBytes = 1024;
constexpr int kMaxSelectors = 32;
constexpr uint64_t kMaxGpuMemory = uint64_t{1} << 50;

// "b20261122-063550-7f3a9c": sorts by time, and can be said on the telephone.
std::string NewBatchId(absl::Time now) {
  return absl::StrCat(absl::FormatTime("b%Y%m%d-%H%M%S-", now, absl::UTCTimeZone()), NewUuid().substr(0, 6));
}

// Of all that makes two requests the same. What the first release knew is as it was then.
std::string RequestDigest(const v1::SubmitBatchRequest& request, const BatchSubmission& submission) {
  Sha256 digest;
  auto add = [&digest](const std::string& part) {
    digest.Update(absl::StrCat(part.size(), ":"));
    digest.Update(part);
  };
  for (const std::string& part :
       {request.name(), request.content(), request.submitter(), submission.target.SerializeAsString()}) {
    add(part);
  }
  if (submission.targets.size() > 1 || !submission.selector.empty() || submission.gpu_memory > 0) {
    for (const v1::Target& target : submission.targets) add(target.SerializeAsString());
    for (const std::string& label : submission.selector) add(absl::StrCat("+", label));
    add(absl::StrCat(submission.gpu_memory));
  }
  if (request.profile()) add("profile");
  return digest.FinishHex();
}

absl::StatusOr<v1::Target> Completed(v1::Target target) {
  if (target.device() == v1::DEVICE_CHOICE_UNSPECIFIED) target.set_device(v1::AUTO);
  if (target.dtype() == v1::DTYPE_UNSPECIFIED) target.set_dtype(v1::FLOAT32);
  if (!v1::DeviceChoice_IsValid(target.device()) || !v1::Dtype_IsValid(target.dtype())) {
    return absl::InvalidArgumentError("target: a device or dtype that this coordinator does not know");
  }
  return target;
}

// What the batch is run on and asks of workers.
absl::Status ReadAsks(const v1::SubmitBatchRequest& request, BatchSubmission& submission) {
  if (request.has_target() && request.targets_size() > 0) {
    return absl::InvalidArgumentError("target and targets are both set: name all of them in targets");
  }
  if (request.targets_size() > kMaxTargets) {
    return absl::InvalidArgumentError(absl::StrCat("targets: at most ", kMaxTargets));
  }
  std::set<std::string> words;
  for (const v1::Target& target : request.targets()) {
    ASSAY_ASSIGN_OR_RETURN(submission.targets.emplace_back(), Completed(target));
    const std::string word = TargetWord(submission.targets.back());
    if (!words.insert(word).second) {
      return absl::InvalidArgumentError(absl::StrCat("targets: ", word, " is there twice"));
    }
  }
  if (submission.targets.empty()) {
    ASSAY_ASSIGN_OR_RETURN(submission.targets.emplace_back(), Completed(request.target()));
  }
  submission.target = submission.targets.front();
  if (request.selector_size() > kMaxSelectors) {
    return absl::InvalidArgumentError(absl::StrCat("selector: at most ", kMaxSelectors, " labels"));
  }
  for (const std::string& label : request.selector()) {
    ASSAY_RETURN_IF_ERROR(CheckSelector(label));
    submission.selector.push_back(label);
  }
  std::sort(submission.selector.begin(), submission.selector.end());
  submission.selector.erase(std::unique(submission.selector.begin(), submission.selector.end()),
                            submission.selector.end());
  submission.gpu_memory = request.gpu_memory_bytes();
  if (submission.gpu_memory > kMaxGpuMemory) {
    return absl::InvalidArgumentError(absl::StrCat("gpu_memory_bytes: at most ", MemoryText(kMaxGpuMemory)));
  }
  if (submission.gpu_memory > 0 &&
      std::all_of(submission.targets.begin(), submission.targets.end(),
                  [](const v1::Target& target) { return target.device() == v1::CPU; })) {
    return absl::InvalidArgumentError("gpu_memory_bytes is set, but no target may be on a GPU");
  }
  return absl::OkStatus();
}

// `errors` are for the status's details.
absl::StatusOr<BatchSubmission> SubmissionOf(const v1::SubmitBatchRequest& request, const Content& content,
                                             absl::Time now, std::vector<v1::FileError>* errors) {
  if (std::max({request.name().size(), request.submitter().size(), request.request_id().size()}) >
      kMaxNameBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("name, submitter or request_id is longer than ", kMaxNameBytes, " bytes"));
  }
  if (request.content().size() > generator::kMaxBatchFileBytes) {
    return absl::InvalidArgumentError(absl::StrCat("the file has ", request.content().size(),
                                                   " bytes; at most ", generator::kMaxBatchFileBytes,
                                                   " are taken: split it"));
  }
  BatchSubmission submission;
  ASSAY_RETURN_IF_ERROR(ReadAsks(request, submission));
  ASSAY_ASSIGN_OR_RETURN(generator::BatchFile file,
                         generator::ParseBatchFile(request.name().empty() ? "batch" : request.name(),
                                                   request.content(), content.template_names(), errors));
  submission.request_id = request.request_id().empty() ? NewUuid() : request.request_id();
  submission.request_digest = RequestDigest(request, submission);
  submission.batch_id = NewBatchId(now);
  submission.name = request.name();
  submission.submitter = request.submitter();
  for (v1::ModelRef& model : file.models) {
    const Priority priority = content.PriorityOf(model.name());
    model.set_profile(request.profile());
    submission.jobs.push_back({std::move(model), priority, std::nullopt});
  }
  return submission;
}

// A status travels in trailers, of which clients take 8 KiB unless told otherwise: more would lose them all.
constexpr size_t kMaxDetailsBytes = 4096;
constexpr size_t kMaxMessageBytes = 1024;

grpc::Status RefusedStatus(const absl::Status& status, const std::vector<v1::FileError>& errors) {
  if (errors.empty()) return ToGrpc(status);
  v1::BatchRefused refused;
  size_t bytes = 0;
  for (const v1::FileError& error : errors) {
    bytes += error.ByteSizeLong() + 8;
    if (bytes > kMaxDetailsBytes) {
      v1::FileError& more = *refused.add_error();
      more.set_file(error.file());
      more.set_line(error.line());
      more.set_column(error.column());
      more.set_message(
          absl::StrCat("and ", errors.size() - refused.error_size() + 1, " more errors from here on"));
      break;
    }
    *refused.add_error() = error;
  }
  std::string message(status.message());
  if (message.size() > kMaxMessageBytes) {
    message =
        absl::StrCat("the batch is refused: ", errors.size(), errors.size() == 1 ? " error" : " errors");
  }
  return grpc::Status(static_cast<grpc::StatusCode>(status.code()), message, refused.SerializeAsString());
}

// Everything recorded, for a report.
struct Records {
  std::vector<v1::Batch> batches;
  std::vector<v1::Job> jobs;
};

absl::StatusOr<Records> ReadRecords(Store& store) {
  Records records;
  uint64_t before = 0;
  do {
    ASSAY_ASSIGN_OR_RETURN(BatchPage page, store.ListBatches(kMaxPage, before));
    for (v1::Batch& batch : page.batches) {
      ASSAY_ASSIGN_OR_RETURN(std::vector<v1::Job> jobs, store.ListJobs(batch.batch_id()));
      std::move(jobs.begin(), jobs.end(), std::back_inserter(records.jobs));
      records.batches.push_back(std::move(batch));
    }
    before = page.next;
  } while (before != 0);
  return records;
}

// Of the stage's counted attempt; unspecified: of the last stage that has ended. Empty: there is none.
std::string LogDigestOf(const v1::Job& job, v1::Stage stage) {
  if (job.state() == v1::DONE && (stage == v1::STAGE_UNSPECIFIED || stage == StageOf(job))) {
    return job.log_digest();
  }
  std::string last;
  for (const v1::StageRecord& ended : job.ended_stage()) {
    if (stage == v1::STAGE_UNSPECIFIED || stage == ended.stage()) last = ended.log_digest();
  }
  return last;
}

}  // namespace

grpc::ServerUnaryReactor* BatchService::SubmitBatch(grpc::CallbackServerContext* context,
                                                    const v1::SubmitBatchRequest* request,
                                                    v1::SubmitBatchResponse* response) {
  auto* reactor = context->DefaultReactor();
  std::vector<v1::FileError> errors;
  absl::StatusOr<BatchSubmission> submission =
      SubmissionOf(*request, *rooms_.content, rooms_.clock->Now(), &errors);
  if (!submission.ok()) {
    reactor->Finish(RefusedStatus(submission.status(), errors));
    return reactor;
  }
  const SubmitTrace trace(request->traceparent());
  submission->traceparent = trace.traceparent();
  rooms_.dispatcher->Submit(*std::move(submission),
                            rooms_.access->ChangeOf(*context, "BatchService.SubmitBatch"),
                            [reactor, response, trace](absl::StatusOr<v1::Batch> batch) {
                              trace.Ended(batch);
                              if (batch.ok()) *response->mutable_batch() = *std::move(batch);
                              reactor->Finish(ToGrpc(batch.status()));
                            });
  return reactor;
}

grpc::ServerWriteReactor<v1::BatchEvent>* BatchService::WatchBatch(grpc::CallbackServerContext*,
                                                                   const v1::WatchBatchRequest* request) {
  return WatchStream::Start(rooms_.board, rooms_.writer, *request);
}

grpc::ServerUnaryReactor* BatchService::GetBatch(grpc::CallbackServerContext* context,
                                                 const v1::GetBatchRequest* request,
                                                 v1::GetBatchResponse* response) {
  auto* reactor = context->DefaultReactor();
  rooms_.dispatcher->GetBatch(request->batch_id(), [reactor, response](absl::StatusOr<BatchView> view) {
    if (view.ok()) {
      *response->mutable_batch() = std::move(view->batch);
      for (v1::Job& job : view->jobs) *response->add_job() = std::move(job);
    }
    reactor->Finish(ToGrpc(view.status()));
  });
  return reactor;
}

grpc::ServerUnaryReactor* BatchService::ListBatches(grpc::CallbackServerContext* context,
                                                    const v1::ListBatchesRequest* request,
                                                    v1::ListBatchesResponse* response) {
  auto* reactor = context->DefaultReactor();
  uint64_t before = 0;
  if (!request->page_token().empty() && (!absl::SimpleAtoi(request->page_token(), &before) || before == 0)) {
    reactor->Finish(
        grpc::Status(grpc::StatusCode::INVALID_ARGUMENT,
                     absl::StrCat("page_token '", request->page_token(), "' was not given here")));
    return reactor;
  }
  const uint32_t size = request->page_size() == 0 ? kDefaultPage : std::min(request->page_size(), kMaxPage);
  rooms_.reader->Read<BatchPage>([size, before](Store& store) { return store.ListBatches(size, before); },
                                 [reactor, response](absl::StatusOr<BatchPage> page) {
                                   if (page.ok()) {
                                     for (v1::Batch& batch : page->batches)
                                       *response->add_batch() = std::move(batch);
                                     if (page->next != 0)
                                       response->set_next_page_token(absl::StrCat(page->next));
                                   }
                                   reactor->Finish(ToGrpc(page.status()));
                                 });
  return reactor;
}

grpc::ServerUnaryReactor* BatchService::CancelBatch(grpc::CallbackServerContext* context,
                                                    const v1::CancelBatchRequest* request,
                                                    v1::CancelBatchResponse* response) {
  auto* reactor = context->DefaultReactor();
  rooms_.dispatcher->Cancel(request->batch_id(),
                            rooms_.access->ChangeOf(*context, "BatchService.CancelBatch"),
                            [reactor, response](absl::StatusOr<v1::Batch> batch) {
                              if (batch.ok()) *response->mutable_batch() = *std::move(batch);
                              reactor->Finish(ToGrpc(batch.status()));
                            });
  return reactor;
}

grpc::ServerUnaryReactor* BatchService::GetReport(grpc::CallbackServerContext* context,
                                                  const v1::GetReportRequest* request,
                                                  v1::GetReportResponse* response) {
  auto* reactor = context->DefaultReactor();
  rooms_.reader->Read<Records>(&ReadRecords, [this, reactor, request,
                                              response](absl::StatusOr<Records> records) {
    if (!records.ok()) return reactor->Finish(ToGrpc(records.status()));
    // std::function wants to be copied.
    auto shared = std::make_shared<Records>(*std::move(records));
    rooms_.background->Run([this, reactor, request, response, shared] {
      report::ReportInput input;
      input.registry = rooms_.content->registry();
      input.catalogue = rooms_.content->catalogue();
      input.batches = std::move(shared->batches);
      input.jobs = std::move(shared->jobs);
      input.now = rooms_.clock->Now();
      input.batch_id = request->batch_id();
      absl::StatusOr<std::string> report = report::RenderReport(input, request->format(), request->size());
      if (report.ok()) response->set_content(*std::move(report));
      reactor->Finish(ToGrpc(report.status()));
    });
  });
  return reactor;
}

grpc::ServerWriteReactor<v1::GetLogsResponse>* BatchService::GetLogs(grpc::CallbackServerContext*,
                                                                     const v1::GetLogsRequest* request) {
  auto digest = std::make_shared<std::string>();
  auto sent = std::make_shared<bool>(false);
  auto* stream = new BlobStream<v1::GetLogsResponse>(
      [this, digest, sent]() -> absl::StatusOr<std::shared_ptr<const BlobSource>> {
        if (std::exchange(*sent, true)) return nullptr;
        return rooms_.blobs->Open(*digest);
      },
      [](bool, uint64_t, std::string chunk, v1::GetLogsResponse& message) {
        message.set_chunk(std::move(chunk));
      });
  rooms_.writer->Read<v1::Job>(
      [job_id = request->job_id()](Store& store) { return store.GetJob(job_id); },
      [stream, digest, stage = request->stage()](absl::StatusOr<v1::Job> job) {
        if (!job.ok()) return stream->Fail(job.status());
        *digest = LogDigestOf(*job, stage);
        if (digest->empty()) {
          return stream->Fail(absl::NotFoundError(absl::StrCat("job '", job->job_id(), "' has no log yet")));
        }
        stream->Begin();
      });
  return stream;
}

grpc::ServerUnaryReactor* BatchService::ListWorkers(grpc::CallbackServerContext* context,
                                                    const v1::ListWorkersRequest*,
                                                    v1::ListWorkersResponse* response) {
  auto* reactor = context->DefaultReactor();
  rooms_.dispatcher->ListWorkers([reactor, response](absl::StatusOr<v1::ListWorkersResponse> workers) {
    if (workers.ok()) *response = *std::move(workers);
    reactor->Finish(ToGrpc(workers.status()));
  });
  return reactor;
}

grpc::ServerUnaryReactor* BatchService::ExplainJob(grpc::CallbackServerContext* context,
                                                   const v1::ExplainJobRequest* request,
                                                   v1::ExplainJobResponse* response) {
  auto* reactor = context->DefaultReactor();
  rooms_.dispatcher->ExplainJob(request->job_id(),
                                [reactor, response](absl::StatusOr<v1::ExplainJobResponse> why) {
                                  if (why.ok()) *response = *std::move(why);
                                  reactor->Finish(ToGrpc(why.status()));
                                });
  return reactor;
}

}  // namespace assay::coordinator
