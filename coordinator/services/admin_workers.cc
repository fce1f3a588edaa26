// The half of AdminService that is about workers.
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/id.h"
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

// Of a worker that is connected somewhere and takes orders: for the process that runs under its name now.
absl::StatusOr<WorkerOrder> OrderOf(Store& store, const v1::WorkerSummary& worker) {
  if (!worker.connected()) {
    return absl::FailedPreconditionError(absl::StrCat("worker '", worker.name(), "' is not connected"));
  }
  if (worker.protocol() < 2) {
    return absl::FailedPreconditionError(
        absl::StrCat("worker '", worker.name(), "' speaks protocol 1 (", worker.build(), "): upgrade it"));
  }
  ASSAY_ASSIGN_OR_RETURN(const std::optional<WorkerRecord> record, store.FindWorker(worker.name()));
  WorkerOrder order;
  order.id = NewUuid();
  order.worker = worker.name();
  order.wanted.set_instance(record->instance);
  return order;
}

// The sweep that was ordered of this process and has not come to its end; empty: none.
absl::StatusOr<std::string> SweepUnderWay(Store& store, const v1::WorkerSummary& worker,
                                          const WorkerOrder& now) {
  if (worker.acceptance().state() == v1::AcceptanceReport::RUNNING) return worker.acceptance().id();
  ASSAY_ASSIGN_OR_RETURN(const std::vector<WorkerOrder> orders, store.ListOrders());
  for (const WorkerOrder& order : orders) {
    if (order.worker == now.worker && order.wanted.instance() == now.wanted.instance() &&
        order.wanted.has_accept() && order.wanted.accept().id() != worker.acceptance().id()) {
      return order.wanted.accept().id();
    }
  }
  return std::string();
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

template <typename Response>
grpc::ServerUnaryReactor* AdminService::ChangeCordon(
    grpc::CallbackServerContext* context, Response* response, const char* rpc, std::string worker,
    std::function<absl::Status(Store&, const std::string& worker)> change_it) {
  auto* reactor = context->DefaultReactor();
  rooms_.dispatcher->AskFleet<v1::WorkerSummary>(
      [this, worker = std::move(worker), change_it = std::move(change_it),
       change = rooms_.access->ChangeOf(*context, rpc)](Store& store,
                                                        Fleet& fleet) -> absl::StatusOr<v1::WorkerSummary> {
        ASSAY_RETURN_IF_ERROR(SeenWorker(store, fleet, rooms_.dispatcher->options(), worker).status());
        ASSAY_RETURN_IF_ERROR(change_it(store, worker));
        ASSAY_RETURN_IF_ERROR(RecordChange(store, change, worker));
        ASSAY_RETURN_IF_ERROR(TakeCordons(store, fleet));
        return SeenWorker(store, fleet, rooms_.dispatcher->options(), worker);
      },
      AnswerTo(reactor, response));
  return reactor;
}

grpc::ServerUnaryReactor* AdminService::CordonWorker(grpc::CallbackServerContext* context,
                                                     const v1::CordonWorkerRequest* request,
                                                     v1::CordonWorkerResponse* response) {
  return ChangeCordon(context, response, "AdminService.CordonWorker", request->worker(),
                      [reason = request->reason()](Store& store, const std::string& worker) {
                        return store.PutCordon(worker, reason);
                      });
}

grpc::ServerUnaryReactor* AdminService::UncordonWorker(grpc::CallbackServerContext* context,
                                                       const v1::UncordonWorkerRequest* request,
                                                       v1::UncordonWorkerResponse* response) {
  return ChangeCordon(
      context, response, "AdminService.UncordonWorker", request->worker(),
      [](Store& store, const std::string& worker) { return store.RemoveCordon(worker).status(); });
}

grpc::ServerUnaryReactor* AdminService::DrainWorker(grpc::CallbackServerContext* context,
                                                    const v1::DrainWorkerRequest* request,
                                                    v1::DrainWorkerResponse* response) {
  auto* reactor = context->DefaultReactor();
  rooms_.dispatcher->AskFleet<v1::WorkerSummary>(
      [this, worker = request->worker(),
       change = rooms_.access->ChangeOf(*context, "AdminService.DrainWorker")](
          Store& store, Fleet& fleet) -> absl::StatusOr<v1::WorkerSummary> {
        ASSAY_ASSIGN_OR_RETURN(v1::WorkerSummary seen,
                               SeenWorker(store, fleet, rooms_.dispatcher->options(), worker));
        ASSAY_ASSIGN_OR_RETURN(WorkerOrder order, OrderOf(store, seen));
        order.wanted.set_drain(true);
        // Also of one that says it drains: it may have paused, or have said so on an earlier stream.
        ASSAY_RETURN_IF_ERROR(store.AddOrder(order));
        ASSAY_RETURN_IF_ERROR(RecordChange(store, change, worker));
        rooms_.dispatcher->OrdersChanged();
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
  auto sweep = std::make_shared<const v1::AcceptanceRequest>(
      NewSweep(*rooms_.dispatcher->options().content, repetitions));
  rooms_.dispatcher->AskFleet<std::string>(
      [this, sweep, worker = request->worker(),
       change = rooms_.access->ChangeOf(*context, "AdminService.AcceptWorker")](
          Store& store, Fleet& fleet) -> absl::StatusOr<std::string> {
        ASSAY_ASSIGN_OR_RETURN(v1::WorkerSummary seen,
                               SeenWorker(store, fleet, rooms_.dispatcher->options(), worker));
        ASSAY_ASSIGN_OR_RETURN(WorkerOrder order, OrderOf(store, seen));
        ASSAY_ASSIGN_OR_RETURN(const std::string under_way, SweepUnderWay(store, seen, order));
        if (!under_way.empty()) {
          return absl::FailedPreconditionError(
              absl::StrCat("a sweep of worker '", worker, "' is under way (", under_way, ")"));
        }
        *order.wanted.mutable_accept() = *sweep;
        ASSAY_RETURN_IF_ERROR(store.AddOrder(order));
        ASSAY_RETURN_IF_ERROR(RecordChange(store, change, worker));
        rooms_.dispatcher->OrdersChanged();
        return sweep->id();
      },
      [reactor, response](absl::StatusOr<std::string> id) {
        if (id.ok()) response->set_id(*std::move(id));
        reactor->Finish(ToGrpc(id.status()));
      });
  return reactor;
}

}  // namespace assay::coordinator
