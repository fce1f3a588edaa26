#include "coordinator/store/postgres_notify.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "common/logging.h"
#include "common/status_macros.h"

namespace assay::coordinator {
namespace {

// PostgreSQL takes payloads of less than 8000 bytes.
constexpr size_t kMaxPayload = 7000;
constexpr char kEverything[] = "*";
constexpr absl::Duration kBetweenTries = absl::Milliseconds(200);

}  // namespace

PostgresBell::PostgresBell(std::string url, Options options, Heard heard)
    : url_(std::move(url)),
      options_(options),
      heard_(std::move(heard)),
      wake_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
  thread_ = std::thread([this] { Loop(); });
}

PostgresBell::~PostgresBell() {
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
  }
  (void)eventfd_write(wake_, 1);
  thread_.join();
  close(wake_);
}

void PostgresBell::Ring(const std::set<std::string>& batches) {
  if (batches.empty()) return;
  bool first;
  {
    absl::MutexLock lock(&mutex_);
    first = rung_.empty();
    rung_.insert(batches.begin(), batches.end());
  }
  if (first) (void)eventfd_write(wake_, 1);
}

absl::Status PostgresBell::Connect() {
  ASSAY_ASSIGN_OR_RETURN(connection_, PostgresConnection::Connect(url_, "assay-coordinator bell"));
  return connection_->Execute("LISTEN assay");
}

absl::Status PostgresBell::Send(const std::set<std::string>& batches) {
  std::string payload = absl::StrJoin(batches, " ");
  if (payload.size() > kMaxPayload) payload = kEverything;
  return connection_->Read("SELECT pg_notify('assay', $1)", PostgresParameters().Bytes(payload)).status();
}

absl::Status PostgresBell::Listen() {
  ASSAY_ASSIGN_OR_RETURN(std::vector<std::string> payloads, connection_->Notifications());
  std::set<std::string> batches;
  for (const std::string& payload : payloads) {
    if (payload == kEverything) {
      heard_(std::nullopt);
      return absl::OkStatus();
    }
    for (absl::string_view batch : absl::StrSplit(payload, ' ', absl::SkipEmpty())) batches.emplace(batch);
  }
  if (!batches.empty()) heard_(batches);
  return absl::OkStatus();
}

void PostgresBell::Wait(absl::Time until) {
  const int64_t left = absl::ToInt64Milliseconds(until - absl::Now()) + 1;
  std::array<pollfd, 2> fds = {
      {{wake_, POLLIN, 0}, {connection_ == nullptr ? -1 : connection_->socket(), POLLIN, 0}}};
  (void)poll(fds.data(), fds.size(), static_cast<int>(std::clamp<int64_t>(left, 0, 60'000)));
  eventfd_t rings;
  (void)eventfd_read(wake_, &rings);
}

void PostgresBell::Loop() {
  absl::Time next_poll = absl::Now(), next_try = absl::InfinitePast();
  bool said = false;
  while (true) {
    absl::Time until = next_poll;
    std::set<std::string> send;
    {
      absl::MutexLock lock(&mutex_);
      if (stopping_) return;
      // While nobody can be told, nothing is kept: everyone looks at everything when they are back.
      if (connection_ == nullptr || absl::Now() >= last_sent_ + options_.between) {
        send.swap(rung_);
      } else if (!rung_.empty()) {
        until = std::min(until, last_sent_ + options_.between);
      }
    }
    absl::Status status;
    if (connection_ == nullptr && absl::Now() >= next_try) {
      status = Connect();
      next_try = absl::Now() + kBetweenTries;
      if (status.ok()) {
        if (said) spdlog::info("database: listening again");
        said = false;
        heard_(std::nullopt);
        send.insert(kEverything);
      }
    }
    if (connection_ != nullptr && status.ok() && !send.empty()) {
      last_sent_ = absl::Now();
      status = Send(send);
    }
    if (connection_ != nullptr && status.ok()) status = Listen();
    if (!status.ok()) {
      // Once: the store says itself that the database is away.
      if (!std::exchange(said, true)) {
        spdlog::warn("database: not listening to other coordinators: {}", status.ToString());
      }
      connection_ = nullptr;
    }
    if (connection_ == nullptr) until = std::min(until, next_try);
    if (absl::Now() >= next_poll) {
      heard_(std::nullopt);
      next_poll = absl::Now() + options_.poll;
      continue;
    }
    Wait(until);
  }
}

}  // namespace assay::coordinator
