#include "coordinator/explain_job.h"

#include <algorithm>
#include <set>
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/status_macros.h"
#include "coordinator/store/record_rules.h"

namespace assay::coordinator {
namespace {

// Jobs of one kind and submitter that are counted as ahead.
constexpr size_t kCounted = 10'000;

std::string ClockText(const google::protobuf::Timestamp& time) {
  return absl::FormatTime("%H:%M:%S", absl::FromUnixSeconds(time.seconds()), absl::UTCTimeZone());
}

// Why a worker that could take the job does not take it now.
std::string WhyNotNow(const Ask& ask, const WorkerView& worker, const Slots& slots) {
  if (!worker.closed.empty()) return worker.closed;
  const std::vector<Slots::DeviceUse> uses = slots.UseOf(worker.name);
  bool slot_free = false;
  for (size_t i = 0; i < uses.size(); ++i) {
    const DeviceView& device = worker.devices[i];
    if (!CouldTake(worker, device, ask.device, ask.needs_exporter, ask.requirement)) continue;
    if (uses[i].attempts >= device.slots) continue;
    slot_free = true;
    const uint64_t needs = device.cuda ? ask.requirement.gpu_memory : ask.requirement.memory;
    if (device.memory == 0 || (!device.cuda && needs == 0)) return "";
    if (needs == 0 ? uses[i].attempts == 0
                   : uses[i].memory + std::min(needs, device.memory) <= device.memory) {
      return "";
    }
  }
  if (!slot_free) return "no slot is free";
  return ask.device != v1::CPU && ask.requirement.gpu_memory == 0
             ? "needs a GPU alone, as its need is not known; on each something runs"
             : "what runs there leaves too little memory";
}

}  // namespace

absl::StatusOr<v1::ExplainJobResponse> ExplainJob(Store& store, const Roster& roster,
                                                  const std::vector<WorkerView>& pools,
                                                  const std::string& job_id) {
  v1::ExplainJobResponse response;
  ASSAY_ASSIGN_OR_RETURN(*response.mutable_job(), store.GetJob(job_id));
  const v1::Job& job = response.job();
  const char* stage = StageOf(job) == v1::STAGE_EXPORT ? "its export " : "";
  if (job.state() == v1::DONE) {
    response.add_reason(absl::StrCat("has ended: ", v1::Outcome_Name(job.result().outcome()), " at ",
                                     ClockText(job.end_time())));
    return response;
  }
  if (job.state() == v1::RUNNING) {
    response.add_reason(absl::StrCat(stage, "runs on ", job.worker(), " since ", ClockText(job.start_time()),
                                     " (attempt ", job.attempt(), ")"));
    return response;
  }

  const Ask ask = AskOf(job);
  std::set<std::string> manned;  // pools with a worker
  std::vector<std::string> busy;
  for (const auto& [name, worker] : roster.slots.views()) {
    v1::WorkerFit& fit = *response.add_worker();
    fit.set_name(name);
    const std::string never = WhyNever(ask, worker);
    fit.set_could_run(never.empty());
    fit.set_why_not(never.empty() ? WhyNotNow(ask, worker, roster.slots) : never);
    if (never.empty() && worker.closed.empty()) busy.push_back(name);
    for (const std::string& label : worker.labels) manned.insert(label);
  }
  for (const WorkerView& pool : pools) {
    if (manned.count(absl::StrCat("pool=", pool.name)) > 0) continue;
    v1::WorkerFit& fit = *response.add_worker();
    fit.set_name(pool.name);
    fit.set_pool(true);
    fit.set_why_not(WhyNever(ask, pool));
    fit.set_could_run(fit.why_not().empty());
    if (fit.could_run()) fit.set_why_not("has no worker connected");
  }
  const std::string why = WhyNobodyTakes(ask, PointersTo(roster.slots.views()), pools);
  if (!why.empty()) {
    response.add_reason(why);
    response.mutable_job()->set_waiting(why);
    return response;
  }

  // Those that go before it where they could take the same worker. Fair shares between submitters may still
  // put it first.
  ASSAY_ASSIGN_OR_RETURN(const std::vector<QueuedJob> queued, store.Queued(kCounted));
  auto self =
      std::find_if(queued.begin(), queued.end(), [&](const QueuedJob& one) { return one.job_id == job_id; });
  if (self != queued.end()) {
    auto rank = [](const QueuedJob& one) {
      return std::make_tuple(one.priority, -one.expected_seconds, one.order);
    };
    std::map<std::tuple<v1::DeviceChoice, bool, std::string>, bool> competes;
    uint32_t ahead = 0;
    for (const QueuedJob& one : queued) {
      if (rank(one) >= rank(*self)) continue;
      auto [same, fresh] = competes.try_emplace({one.device, one.needs_exporter, one.route});
      if (fresh) {
        same->second = std::any_of(busy.begin(), busy.end(), [&](const std::string& name) {
          return WhyNever(AskOf(one), *roster.slots.Find(name)).empty();
        });
      }
      ahead += same->second ? 1 : 0;
    }
    response.set_jobs_ahead(ahead);
  }
  response.add_reason(absl::StrCat(stage, "waits for a slot: ", busy.size(),
                                   busy.size() == 1 ? " worker could take it" : " workers could take it"));
  if (job.attempts_size() > 0) {
    std::vector<std::string> lost;
    for (const v1::AttemptSummary& attempt : job.attempts()) {
      lost.push_back(absl::StrCat(attempt.worker(), ": ", attempt.message()));
    }
    response.add_reason(absl::StrCat("was tried before: ", absl::StrJoin(lost, "; ")));
  }
  return response;
}

}  // namespace assay::coordinator
