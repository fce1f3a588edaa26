#include "coordinator/access/audit.h"

#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "common/logging.h"
#include "common/status_macros.h"
#include "coordinator/store/record_rules.h"

namespace assay::coordinator {
namespace {

// Entries of one write.
constexpr size_t kMaxAtOnce = 500;

}  // namespace

absl::Status RecordChange(Store& store, v1::AuditEntry entry, absl::string_view target) {
  *entry.mutable_time() = ToTimestamp(store.Now());
  entry.set_target(absl::CEscape(target.substr(0, kMaxAuditTarget)));
  entry.set_outcome("OK");
  return store.AddAudit(entry);
}

AuditLog::AuditLog(Writer* writer, const Clock* clock) : writer_(writer), clock_(clock) {}

void AuditLog::Refused(v1::AuditEntry entry) {
  const absl::Time now = clock_->Now();
  *entry.mutable_time() = ToTimestamp(now);
  {
    absl::MutexLock lock(&mutex_);
    Key key{entry.who(), entry.what(), entry.outcome()};
    if (windows_.size() >= kMaxRefusals && windows_.count(key) == 0) {
      key = {"", "", ""};
      entry.clear_target();
      entry.set_who("-");
      entry.set_what("(several)");
    }
    auto [window, first] = windows_.try_emplace(key);
    if (!first) {
      ++window->second.more;
      window->second.newest = std::move(entry);
      return;
    }
    window->second.until = now + kWindow;
  }
  Append(std::move(entry));
  Write(writer_, waiting_);
}

void AuditLog::Tick() {
  CloseWindows(false);
  Write(writer_, waiting_);
}

void AuditLog::Flush() {
  CloseWindows(true);
  Write(writer_, waiting_);
}

void AuditLog::CloseWindows(bool all) {
  const absl::Time now = clock_->Now();
  std::vector<v1::AuditEntry> counts;
  {
    absl::MutexLock lock(&mutex_);
    for (auto it = windows_.begin(); it != windows_.end();) {
      Window& window = it->second;
      if (!all && window.until > now) {
        ++it;
        continue;
      }
      if (window.more > 0) {
        v1::AuditEntry entry = std::move(window.newest);
        entry.set_detail(absl::StrCat(window.more, " more within a minute; the last one: ", entry.detail()));
        counts.push_back(std::move(entry));
      }
      it = windows_.erase(it);
    }
  }
  for (v1::AuditEntry& entry : counts) Append(std::move(entry));
}

void AuditLog::Append(v1::AuditEntry entry) {
  absl::MutexLock lock(&waiting_->mutex);
  if (waiting_->entries.size() >= kMaxWaiting) {
    if (waiting_->dropped++ == 0) {
      spdlog::error("the audit log cannot be written, and {} entries wait: further ones are lost",
                    kMaxWaiting);
    }
    return;
  }
  waiting_->entries.push_back(std::move(entry));
}

void AuditLog::Write(Writer* writer, std::shared_ptr<Waiting> waiting) {
  auto batch = std::make_shared<std::vector<v1::AuditEntry>>();
  {
    absl::MutexLock lock(&waiting->mutex);
    if (waiting->writing || waiting->entries.empty()) return;
    waiting->writing = true;
    const size_t count = std::min(waiting->entries.size(), kMaxAtOnce);
    batch->assign(waiting->entries.begin(), waiting->entries.begin() + static_cast<ptrdiff_t>(count));
  }
  writer->Ask<bool>(
      [batch](Store& store) -> absl::StatusOr<bool> {
        for (const v1::AuditEntry& entry : *batch) ASSAY_RETURN_IF_ERROR(store.AddAudit(entry));
        return true;
      },
      [writer, waiting, batch](absl::StatusOr<bool> written) {
        {
          absl::MutexLock lock(&waiting->mutex);
          waiting->writing = false;
          if (!written.ok()) {
            spdlog::warn("cannot write the audit log, will try again: {}",
                         std::string(written.status().message()));
            return;
          }
          waiting->entries.erase(waiting->entries.begin(),
                                 waiting->entries.begin() + static_cast<ptrdiff_t>(batch->size()));
          if (waiting->dropped > 0) {
            spdlog::error("the audit log can be written again; {} entries are lost", waiting->dropped);
            waiting->dropped = 0;
          }
        }
        Write(writer, waiting);
      });
}

}  // namespace assay::coordinator
