// What workers' streams bring, and what they are answered.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/build_info.h"
#include "common/logging.h"
#include "common/status_macros.h"
#include "coordinator/acceptance.h"
#include "coordinator/dispatcher.h"
#include "coordinator/roster.h"

namespace assay::coordinator {
namespace {

std::vector<std::string> JobsOf(const google::protobuf::RepeatedPtrField<v1::AttemptRef>& attempts) {
  std::vector<std::string> jobs;
  for (const v1::AttemptRef& attempt : attempts) jobs.push_back(attempt.job_id());
  return jobs;
}

std::vector<HeldAttempt> HeldBy(const std::string& worker,
                                const google::protobuf::RepeatedPtrField<v1::AttemptRef>& attempts) {
  std::vector<HeldAttempt> held;
  for (const v1::AttemptRef& attempt : attempts) held.push_back({attempt, worker});
  return held;
}

// The worker keeps what it has not been answered for, and says so again when it connects again.
absl::Status ReconnectLater(const absl::Status& why) {
  return absl::UnavailableError(absl::StrCat("not recorded, connect again: ", why.message()));
}

}  // namespace

void Dispatcher::CheckProducts(v1::TestResult& test) const {
  if (test.outcome() != v1::PASSED || !test.has_export_()) return;
  const v1::ExportResult& made = test.export_();
  for (const std::string& digest : {made.program_digest(), made.golden_digest(), made.weights_blob()}) {
    if (digest.empty()) continue;
    if (absl::Status status = options_.blobs->Open(digest).status(); !status.ok()) {
      test.set_outcome(v1::INFRASTRUCTURE_ERROR);
      test.set_message(absl::StrCat("what the export made is not here: ", status.message()));
      break;
    }
  }
}

absl::Status Dispatcher::PutWorker(Store& store, const Session& session) {
  return store.PutWorker({SummaryOf(session, options_.name, store.Now()), session.hello.instance(),
                          options_.name, store.Now() + options_.lease});
}

void Dispatcher::Connected(std::shared_ptr<WorkerLink> link, v1::Hello hello, std::function<void()> done) {
  struct Outcome {
    AdoptedAttempts attempts;
    std::shared_ptr<WorkerLink> before;
    bool same_instance = false;
  };
  auto before = std::make_shared<std::shared_ptr<WorkerLink>>();
  writer_->Ask<Outcome>(
      [this, link, hello, before](Store& store) -> absl::StatusOr<Outcome> {
        Outcome outcome;
        const absl::Time now = store.Now();
        ASSAY_ASSIGN_OR_RETURN(std::optional<WorkerRecord> known, store.FindWorker(hello.worker()));
        outcome.same_instance = known && known->instance == hello.instance();
        const std::vector<v1::AttemptRef> named(hello.attempt().begin(), hello.attempt().end());
        ASSAY_ASSIGN_OR_RETURN(outcome.attempts, store.AdoptAttempts(hello.worker(), !outcome.same_instance,
                                                                     named, now, now + options_.lease));
        // Before it may be given anything: this coordinator may have started just now.
        ASSAY_RETURN_IF_ERROR(TakeCordons(store, fleet_));
        // Run twice, the second time finds this very link.
        if (auto older = fleet_.Join(link, hello, Now())) *before = std::move(older);
        Session& session = *fleet_.Find(link.get());
        // A sweep of its own that it failed; one that was seen before has been decided on.
        if (!known || known->summary.acceptance().id() != hello.acceptance().id()) {
          ASSAY_RETURN_IF_ERROR(CordonRejected(store, session));
        }
        ASSAY_RETURN_IF_ERROR(PutWorker(store, session));
        for (const RunningAttempt& attempt : outcome.attempts.keep) fleet_.Occupy(attempt);
        wake_ = orders_changed_ = true;
        return outcome;
      },
      [this, link, hello, before, done](absl::StatusOr<Outcome> outcome) {
        if (*before) {
          (*before)->Close(
              absl::AlreadyExistsError(absl::StrCat("worker '", hello.worker(), "' has connected again")));
        }
        if (!outcome.ok()) {
          fleet_.Leave(link.get());
          link->Close(ReconnectLater(outcome.status()));
          done();
          return;
        }
        life_.WorkerConnected(hello, outcome->same_instance, outcome->attempts, absl::Now());
        v1::CoordinatorMessage message;
        v1::Welcome& welcome = *message.mutable_welcome();
        welcome.set_coordinator(options_.name);
        welcome.set_build(BuildVersion());
        welcome.set_protocol(std::min(hello.protocol(), kNewestProtocol));
        welcome.set_lease_ms(static_cast<uint32_t>(absl::ToInt64Milliseconds(options_.lease)));
        welcome.set_heartbeat_ms(
            static_cast<uint32_t>(std::max<int64_t>(1, absl::ToInt64Milliseconds(options_.lease / 3))));
        link->Send(std::move(message));
        v1::DesiredState desired;
        for (const v1::AttemptRef& attempt : outcome->attempts.abandon) *desired.add_abandon() = attempt;
        if (Session* session = fleet_.Find(link.get())) {
          fleet_.Send(*session, std::move(desired));
          if (options_.require_acceptance && session->protocol >= 2 && !session->cordoned &&
              !IsAccepted(hello.acceptance(), hello.device())) {
            fleet_.OrderSweep(*session, NewSweep(*options_.content, kAcceptanceRepetitions));
          }
        }
        done();
      },
      {JobsOf(hello.attempt()), {}, {hello.worker()}, {}});
}

void Dispatcher::Received(std::shared_ptr<WorkerLink> link, std::shared_ptr<v1::WorkerMessage> message,
                          std::function<void()> done) {
  auto results = [&message](auto first, auto end) {
    auto kept =
        std::make_shared<std::pair<std::shared_ptr<v1::WorkerMessage>, std::vector<v1::AttemptResult*>>>();
    for (; first != end; ++first) kept->second.push_back(&*first);
    kept->first = std::move(message);
    return ReceivedResults(kept, &kept->second);
  };
  switch (message->kind_case()) {
    case v1::WorkerMessage::kHeartbeat:
      return Heartbeat(std::move(link), {message, &message->heartbeat()}, std::move(done));
    case v1::WorkerMessage::kEvent:
      return Progress(std::move(link), {message, &message->event()}, std::move(done));
    case v1::WorkerMessage::kResult: {
      v1::AttemptResult* one = message->mutable_result();
      return Results(std::move(link), results(one, one + 1), /*together=*/false, std::move(done));
    }
    case v1::WorkerMessage::kResults: {
      auto& all = *message->mutable_results()->mutable_result();
      return Results(std::move(link), results(all.begin(), all.end()), /*together=*/true, std::move(done));
    }
    case v1::WorkerMessage::kHello:
      link->Close(absl::InvalidArgumentError("a second Hello on one stream"));
      break;
    case v1::WorkerMessage::kAcceptance:
      return Acceptance(std::move(link), std::move(*message->mutable_acceptance()), std::move(done));
    case v1::WorkerMessage::KIND_NOT_SET:
      break;  // of a newer worker: nothing that this coordinator would have to know
  }
  done();
}

void Dispatcher::Heartbeat(std::shared_ptr<WorkerLink> link, std::shared_ptr<const v1::Heartbeat> heartbeat,
                           std::function<void()> done) {
  using Refs = std::vector<v1::AttemptRef>;
  writer_->Ask<Refs>(
      [this, link, heartbeat](Store& store) -> absl::StatusOr<Refs> {
        Session* session = fleet_.Find(link.get());
        if (session == nullptr) return Refs();  // replaced by a newer stream
        if (fleet_.Heard(*session, *heartbeat, Now())) {
          wake_ = orders_changed_ = true;
          ASSAY_RETURN_IF_ERROR(PutWorker(store, *session));
        }
        return store.ExtendLeases(session->hello.worker(),
                                  Refs(heartbeat->attempt().begin(), heartbeat->attempt().end()),
                                  store.Now() + options_.lease);
      },
      [this, link, done](absl::StatusOr<Refs> others) {
        Session* session = fleet_.Find(link.get());
        if (others.ok() && session != nullptr) {  // else the next heartbeat comes before the lease ends
          v1::DesiredState desired;
          for (const v1::AttemptRef& attempt : *others) *desired.add_abandon() = attempt;
          // Whatever was decided before it drained went ahead of this: nothing more comes, and it may leave.
          const bool nothing_more = session->drains && others->empty() && session->acks.empty();
          if (nothing_more) {
            v1::CoordinatorMessage message;
            message.mutable_desired();
            session->link->Send(std::move(message));
          } else {
            fleet_.Send(*session, std::move(desired));
          }
        }
        done();
      },
      Touches{{}, HeldBy(link->worker(), heartbeat->attempt()), {}, {}});
}

void Dispatcher::Progress(std::shared_ptr<WorkerLink> link, std::shared_ptr<const v1::AttemptEvent> event,
                          std::function<void()> done) {
  // That an attempt started was recorded when it was assigned.
  if (!event->has_case_result()) return done();
  writer_->Ask<bool>(
      [link, event](Store& store) -> absl::StatusOr<bool> {
        ASSAY_RETURN_IF_ERROR(
            store.RecordProgress(event->attempt(), event->case_result(), store.Now(), link->worker()));
        return true;
      },
      // Of a stale attempt there is nothing to tell. What the medium lost here comes again with the result.
      [done](absl::StatusOr<bool>) { done(); }, {{event->attempt().job_id()}, {}, {}, {}});
}

void Dispatcher::Results(std::shared_ptr<WorkerLink> link, ReceivedResults results, bool together,
                         std::function<void()> done) {
  using Acks = std::vector<v1::ResultAck>;
  Touches touches;
  for (v1::AttemptResult* result : *results) {
    touches.attempts.push_back({result->attempt(), link->worker()});
    CheckProducts(*result->mutable_result());
  }
  // What became of each, and of its job where somebody wants to know.
  struct Left {
    absl::StatusOr<v1::ResultAck> ack;
    std::optional<v1::Job> job;
  };
  auto left = std::make_shared<std::pair<std::vector<Left>, absl::Time>>();
  writer_->Ask<Acks>(
      [this, link, results, left](Store& store) -> absl::StatusOr<Acks> {
        Acks acks;
        left->first.clear();
        left->second = store.Now();
        for (const v1::AttemptResult* received : *results) {
          const v1::AttemptResult& result = *received;
          absl::StatusOr<v1::ResultAck> ack = store.CommitResult(result, store.Now(), link->worker());
          if (!ack.ok() && !IsErrorOfTheDomain(ack.status())) return ack.status();
          Left& became = left->first.emplace_back(Left{ack, std::nullopt});
          if (ack.ok() && life_.WantsJobs()) {
            absl::StatusOr<v1::Job> job = store.GetJob(result.attempt().job_id());
            if (job.ok()) became.job = *std::move(job);
          }
          if (ack.ok()) {
            acks.push_back(*std::move(ack));
          } else {
            *acks.emplace_back().mutable_attempt() = result.attempt();
            acks.back().set_reason(std::string(ack.status().message()));
          }
          // What another worker holds goes on there.
          Session* session = fleet_.Find(link->worker());
          if (session != nullptr && session->running.count(result.attempt().job_id()) > 0) {
            fleet_.Free(result.attempt());
            wake_ = true;
          }
        }
        return acks;
      },
      [this, link, together, results, left, done](absl::StatusOr<Acks> acks) {
        if (!acks.ok()) {
          link->Close(ReconnectLater(acks.status()));
          return done();
        }
        for (size_t i = 0; i < left->first.size(); ++i) {
          const Left& became = left->first[i];
          life_.Answered(*(*results)[i], became.ack, became.job ? &*became.job : nullptr, left->second);
        }
        // A worker that has connected again meanwhile sends them again.
        if (Session* session = fleet_.Find(link.get()))
          fleet_.Acknowledge(*session, *std::move(acks), together);
        done();
      },
      std::move(touches));
}

void Dispatcher::Acceptance(std::shared_ptr<WorkerLink> link, v1::AcceptanceReport report,
                            std::function<void()> done) {
  writer_->Ask<bool>(
      [this, link, report](Store& store) -> absl::StatusOr<bool> {
        Session* session = fleet_.Find(link.get());
        if (session == nullptr) return false;
        fleet_.Accepted(*session, report);
        wake_ = orders_changed_ = true;
        ASSAY_RETURN_IF_ERROR(CordonRejected(store, *session));
        ASSAY_RETURN_IF_ERROR(PutWorker(store, *session));
        return true;
      },
      [done](absl::StatusOr<bool>) { done(); });
}

absl::Status Dispatcher::CordonRejected(Store& store, const Session& session) {
  const v1::AcceptanceReport& report = session.hello.acceptance();
  if (report.state() != v1::AcceptanceReport::REJECTED) return absl::OkStatus();
  std::string reason = absl::StrCat("rejected by acceptance sweep ", report.id());
  if (report.finding_size() > 0) {
    absl::StrAppend(&reason, ": ", report.finding(0).model(), " on ", report.finding(0).device_id(), ": ",
                    report.finding(0).message());
  }
  spdlog::warn("worker {} is cordoned: {}", session.hello.worker(), reason);
  ASSAY_RETURN_IF_ERROR(store.PutCordon(session.hello.worker(), reason));
  return TakeCordons(store, fleet_);
}

void Dispatcher::Disconnected(std::shared_ptr<WorkerLink> link) {
  writer_->Ask<bool>(
      [this, link](Store& store) -> absl::StatusOr<bool> {
        Session* session = fleet_.Find(link.get());
        if (session == nullptr) return false;
        const Session left = *session;
        const std::string& name = left.hello.worker();
        fleet_.Leave(link.get());
        LogWith(spdlog::level::info, {{"worker", name}}, "worker disconnected");
        wake_ = true;
        ASSAY_ASSIGN_OR_RETURN(std::optional<WorkerRecord> known, store.FindWorker(name));
        // Where it has connected to another coordinator meanwhile, that one speaks for it. What it holds was
        // taken before this was read: the other one cannot extend its leases now and have them cut after.
        if (known && known->coordinator != options_.name) return false;
        const absl::Time now = store.Now();
        ASSAY_RETURN_IF_ERROR(store.PutWorker({SummaryOf(left, options_.name, now), left.hello.instance(),
                                               options_.name, absl::InfinitePast()}));
        ASSAY_RETURN_IF_ERROR(store.ShortenLeases(name, now + options_.disconnect_grace));
        return true;
      },
      [](absl::StatusOr<bool>) {}, {{}, {}, {link->worker()}, {}});
}

}  // namespace assay::coordinator
