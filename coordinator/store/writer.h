// Group commit: one thread owns the store and runs everything that others ask of it, many requests in one
// transaction. A request's answer is given only when what it did, and all that it saw, is durable.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/random/random.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "coordinator/store/store.h"

namespace assay::coordinator {

// Thread-safe, but for the two callbacks, which are set before anything is asked.
class Writer {
 public:
  struct Options {
    // While the medium is away (a full disk, a database that is gone) it is tried again after so long, each
    // time longer and with jitter; what is asked meanwhile waits for the next try.
    absl::Duration first_pause = absl::Milliseconds(10), longest_pause = absl::Milliseconds(500);
    // A group after one of many requests, or of decisions that many follow from, begins so long after that
    // one began, unless it is full before: fewer commits, each of more. Nothing waits where little is asked.
    absl::Duration pace = absl::Milliseconds(8);
  };
  explicit Writer(std::unique_ptr<Store> store) : Writer(std::move(store), Options()) {}
  Writer(std::unique_ptr<Store> store, Options options);
  // As Stop.
  ~Writer();
  Writer(const Writer&) = delete;
  Writer& operator=(const Writer&) = delete;

  // Runs on the writer's thread once at the end of each group in which something was asked, inside its
  // transaction: the place for decisions that follow from all of it. An error takes the whole group back.
  void BeforeCommit(std::function<absl::Status(Store&)> hook) { before_commit_ = std::move(hook); }
  // Runs on the writer's thread after each commit, after the answers: the batches that got events.
  // Also called with none.
  void AfterCommit(std::function<void(const std::set<std::string>&)> hook) {
    after_commit_ = std::move(hook);
  }

  // From within AfterCommit: so many requests are about to follow from what was just committed.
  void Expect(size_t requests) { expected_ += requests; }

  // Hears of each group: of how many requests it was, how long its transaction took, and whether it was
  // committed. On the writer's thread; must not wait. Set before anything is asked.
  void ObserveGroups(std::function<void(size_t requests, absl::Duration took, bool committed)> observer) {
    observer_ = std::move(observer);
  }

  // Runs `work` in some transaction, then `done` with what it returned. Both run on the writer's thread and
  // must not wait for the writer. `work` may run more than once, each time on a store that has not seen it:
  // after a failed group its members are tried one by one, until it shows that the medium is away. Where the
  // medium fails, `done` gets that error and nothing has changed; after Stop, UNAVAILABLE.
  // Requests run in their order. `touches`: what it is going to change, as far as that is known: taken for
  // the whole group at once (Store::Take).
  template <typename T>
  void Ask(std::function<absl::StatusOr<T>(Store&)> work, std::function<void(absl::StatusOr<T>)> done,
           Touches touches = {});

  // As Ask, of what changes nothing. It runs before all of its group that may, so that nothing has to be
  // written for it to be seen: it sees what was committed before it was asked, and perhaps more.
  template <typename T>
  void Read(std::function<absl::StatusOr<T>(Store&)> work, std::function<void(absl::StatusOr<T>)> done);

  // As Ask, and waits. Not from the writer's thread.
  template <typename T>
  absl::StatusOr<T> Call(std::function<absl::StatusOr<T>(Store&)> work, Touches touches = {});

  // Finishes what was asked, then stops. Repeating it does nothing.
  void Stop();

 private:
  // The answer is kept inside until it may be given.
  struct Request {
    std::function<absl::Status(Store&)> run;
    std::function<void(absl::Status transaction)> answer;
    Touches touches;
    bool reads = false;
  };

  template <typename T>
  static Request RequestOf(std::function<absl::StatusOr<T>(Store&)> work,
                           std::function<void(absl::StatusOr<T>)> done);
  void Enqueue(Request request);
  void Loop();
  // The next requests to run; none: it is to stop.
  std::vector<Request> NextGroup();
  // Takes out of the group those that change nothing, and runs them without what would follow from them: they
  // may succeed where nothing can be written.
  void RunReads(std::vector<Request>& group);
  // One of the group may be to blame for its failure: alone, it fails alone.
  void RunSingly(std::vector<Request> group);
  void Refuse(std::vector<Request>& group, const absl::Status& status);
  // One line in the log when the medium goes, and one when it is back.
  void MediumIsAway(const absl::Status& status);
  void MediumIsBack();
  // Runs the requests in one transaction, and with `decide` what is to be done before each commit. An error:
  // all was taken back and nothing was answered.
  absl::Status RunGroup(std::vector<Request>& group, bool decide);
  // As RunGroup, some times over where another coordinator was in the way.
  absl::Status RunUntilAlone(std::vector<Request>& group, bool decide = true);

  const Options options_;
  // Of the writer's thread.
  std::unique_ptr<Store> store_;
  std::chrono::steady_clock::time_point next_group_;  // not before, unless the queue is full
  size_t expected_ = 0;
  absl::Time away_since_ = absl::InfiniteFuture();
  absl::Duration pause_;  // while it is away
  size_t refused_ = 0;    // while it is away
  absl::BitGen random_;

  std::function<absl::Status(Store&)> before_commit_;
  std::function<void(const std::set<std::string>&)> after_commit_;
  std::function<void(size_t, absl::Duration, bool)> observer_;
  absl::Mutex mutex_;
  std::vector<Request> queue_ ABSL_GUARDED_BY(mutex_);
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Mutex join_mutex_;
  std::thread thread_ ABSL_GUARDED_BY(join_mutex_);
};

// Errors of the domain leave the transaction usable, others do not. See store.h.
bool IsErrorOfTheDomain(const absl::Status& status);

template <typename T>
Writer::Request Writer::RequestOf(std::function<absl::StatusOr<T>(Store&)> work,
                                  std::function<void(absl::StatusOr<T>)> done) {
  auto result = std::make_shared<absl::StatusOr<T>>(absl::UnavailableError("not run"));
  Request request;
  request.run = [work = std::move(work), result](Store& store) {
    *result = work(store);
    if (!result->ok() && !IsErrorOfTheDomain(result->status())) return result->status();
    return absl::OkStatus();
  };
  request.answer = [done = std::move(done), result](absl::Status transaction) {
    if (transaction.ok()) {
      done(std::move(*result));
    } else {
      done(std::move(transaction));
    }
  };
  return request;
}

template <typename T>
void Writer::Ask(std::function<absl::StatusOr<T>(Store&)> work, std::function<void(absl::StatusOr<T>)> done,
                 Touches touches) {
  Request request = RequestOf<T>(std::move(work), std::move(done));
  request.touches = std::move(touches);
  Enqueue(std::move(request));
}

template <typename T>
void Writer::Read(std::function<absl::StatusOr<T>(Store&)> work,
                  std::function<void(absl::StatusOr<T>)> done) {
  Request request = RequestOf<T>(std::move(work), std::move(done));
  request.reads = true;
  Enqueue(std::move(request));
}

template <typename T>
absl::StatusOr<T> Writer::Call(std::function<absl::StatusOr<T>(Store&)> work, Touches touches) {
  absl::Mutex mutex;
  bool ready = false;
  absl::StatusOr<T> answer = absl::UnavailableError("no answer");
  Ask<T>(
      std::move(work),
      [&](absl::StatusOr<T> result) {
        absl::MutexLock lock(&mutex);
        answer = std::move(result);
        ready = true;
      },
      std::move(touches));
  absl::MutexLock lock(&mutex);
  mutex.Await(absl::Condition(&ready));
  return answer;
}

}  // namespace assay::coordinator
