// The half of AdminService that is about workers.
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "coordinator/acceptance.h"
#include "coordinator/roster.h"
#include "coordinator/services/admin_service.h"
#include "coordinator/services/grpc_status.h"

namespace assay::coordinator {
namespace {

constexpr uint32_t kMaxRepetitions = 100;

// NOT_FOUND: nobody has seen it.
absl::StatusOr<v1::WorkerSummary> SeenWorker(Store& store, const Fleet& fleet,
                                             const Dispatcher::Options& options, const std::string& name) {
  ASSAY_ASSIGN_OR_RETURN(Roster roster, ReadRoster(store, fleet, options.name, options.require_acceptance));
  for (v1::WorkerSummary& worker : roster.workers) {
    if (worker.name() == name) return std::move(worker);
  }
  return absl::NotFoundError(absl::StrCat("no worker '", name, "' was ever seen"));
}

// The stream of a worker that is connected here and takes orders.
absl::StatusOr<std::shared_ptr<WorkerLink>> LinkOf(Fleet& fleet, const v1::WorkerSummary& worker) {
  Session* session = fleet.Find(worker.name());
  if (session == nullptr) {
    return absl::FailedPreconditionError(
        worker.connected() ? absl::StrCat("worker '", worker.name(), "' is connected to coordinator ",
                                          worker.coordinator(), ": ask that one")
                           : absl::StrCat("worker '", worker.name(), "' is not connected"));
  }
  if (session->protocol < 2) {
    return absl::FailedPreconditionError(absl::StrCat("worker '", worker.name(), "' speaks protocol 1 (",
                                                      session->hello.build(), "): upgrade it"));
  }
  return session->link;
}

// Answers with the worker as it then is.
template <typename Response>
std::function<void(absl::StatusOr<v1::WorkerSummary>)> AnswerTo(grpc::ServerUnaryReactor* reactor,
                                                                Response* response) {
  return [reactor, response](absl::StatusOr<v1::WorkerSummary> worker) {
    if (worker.ok()) *response->mutable_worker() = *std::move(worker);
    reactor->Finish(ToGrpc(worker.status()));
  };
}

}  // namespace

grpc::ServerUnaryReactor* AdminService::CordonWorker(grpc::CallbackServerContext* context,
                                                     const v1::CordonWorkerRequest* request,
                                                     v1::CordonWorkerResponse* response) {
  auto* reactor = context->DefaultReactor();
  rooms_.dispatcher->AskFleet<v1::WorkerSummary>(
      [this, worker = request->worker(), reason = request->reason()](
          Store& store, Fleet& fleet) -> absl::StatusOr<v1::WorkerSummary> {
        ASSAY_RETURN_IF_ERROR(SeenWorker(store, fleet, rooms_.dispatcher->options(), worker).status());
        ASSAY_RETURN_IF_ERROR(store.PutCordon(worker, reason));
        ASSAY_ASSIGN_OR_RETURN(const auto cordons, store.ListCordons());
        fleet.Cordon(cordons);
        return SeenWorker(store, fleet, rooms_.dispatcher->options(), worker);
      },
      AnswerTo(reactor, response));
  return reactor;
}

grpc::ServerUnaryReactor* AdminService::UncordonWorker(grpc::CallbackServerContext* context,
                                                       const v1::UncordonWorkerRequest* request,
                                                       v1::UncordonWorkerResponse* response) {
  auto* reactor = context->DefaultReactor();
  rooms_.dispatcher->AskFleet<v1::WorkerSummary>(
      [this, worker = request->worker()](Store& store, Fleet& fleet) -> absl::StatusOr<v1::WorkerSummary> {
        ASSAY_RETURN_IF_ERROR(SeenWorker(store, fleet, rooms_.dispatcher->options(), worker).status());
        ASSAY_RETURN_IF_ERROR(store.RemoveCordon(worker).status());
        ASSAY_ASSIGN_OR_RETURN(const auto cordons, store.ListCordons());
        fleet.Cordon(cordons);
        return SeenWorker(store, fleet, rooms_.dispatcher->options(), worker);
      },
      AnswerTo(reactor, response));
  return reactor;
}

grpc::ServerUnaryReactor* AdminService::DrainWorker(grpc::CallbackServerContext* context,
                                                    const v1::DrainWorkerRequest* request,
                                                    v1::DrainWorkerResponse* response) {
  auto* reactor = context->DefaultReactor();
  rooms_.dispatcher->AskFleet<v1::WorkerSummary>(
      [this, worker = request->worker()](Store& store, Fleet& fleet) -> absl::StatusOr<v1::WorkerSummary> {
        ASSAY_ASSIGN_OR_RETURN(v1::WorkerSummary seen,
                               SeenWorker(store, fleet, rooms_.dispatcher->options(), worker));
        ASSAY_ASSIGN_OR_RETURN(const std::shared_ptr<WorkerLink> link, LinkOf(fleet, seen));
        v1::CoordinatorMessage message;
        message.mutable_desired()->set_drain(true);
        link->Send(std::move(message));
        return seen;
      },
      AnswerTo(reactor, response));
  return reactor;
}

grpc::ServerUnaryReactor* AdminService::AcceptWorker(grpc::CallbackServerContext* context,
                                                     const v1::AcceptWorkerRequest* request,
                                                     v1::AcceptWorkerResponse* response) {
  auto* reactor = context->DefaultReactor();
  const uint32_t repetitions = request->repetitions() == 0 ? kAcceptanceRepetitions : request->repetitions();
  if (repetitions > kMaxRepetitions) {
    reactor->Finish(grpc::Status(grpc::StatusCode::INVALID_ARGUMENT,
                                 absl::StrCat("repetitions: at most ", kMaxRepetitions)));
    return reactor;
  }
  auto order = std::make_shared<const v1::AcceptanceRequest>(
      NewSweep(*rooms_.dispatcher->options().content, repetitions));
  rooms_.dispatcher->AskFleet<std::string>(
      [this, order, worker = request->worker()](Store& store, Fleet& fleet) -> absl::StatusOr<std::string> {
        ASSAY_ASSIGN_OR_RETURN(v1::WorkerSummary seen,
                               SeenWorker(store, fleet, rooms_.dispatcher->options(), worker));
        ASSAY_RETURN_IF_ERROR(LinkOf(fleet, seen).status());
        if (seen.acceptance().state() == v1::AcceptanceReport::RUNNING) {
          return absl::FailedPreconditionError(
              absl::StrCat("a sweep of worker '", worker, "' is under way (", seen.acceptance().id(), ")"));
        }
        fleet.OrderSweep(*fleet.Find(worker), *order);
        return order->id();
      },
      [reactor, response](absl::StatusOr<std::string> id) {
        if (id.ok()) response->set_id(*std::move(id));
        reactor->Finish(ToGrpc(id.status()));
      });
  return reactor;
}

}  // namespace assay::coordinator
