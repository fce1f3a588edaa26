#include "worker/spool.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <tuple>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "common/digest.h"
#include "common/file.h"
#include "common/logging.h"
#include "common/status_macros.h"
#include "worker/subprocess.h"

namespace assay::worker {
namespace {

constexpr absl::string_view kMagic = "assay-spool";
constexpr absl::string_view kSuffix = ".result";

std::string Encode(const SpooledResult& spooled) {
  const std::string result = spooled.result.SerializeAsString();
  const std::string body = absl::StrCat(result, spooled.log);
  return absl::StrCat(kMagic, " 1 ", Sha256Hex(body), " ", result.size(), "\n", body);
}

absl::StatusOr<SpooledResult> Decode(absl::string_view content) {
  const size_t newline = content.find('\n');
  if (newline == absl::string_view::npos) return absl::DataLossError("no header");
  const std::vector<absl::string_view> header = absl::StrSplit(content.substr(0, newline), ' ');
  if (header.size() != 4 || header[0] != kMagic) return absl::DataLossError("no spool header");
  if (header[1] != "1") return absl::DataLossError(absl::StrCat("spool version ", header[1]));
  const absl::string_view body = content.substr(newline + 1);
  if (Sha256Hex(body) != header[2]) return absl::DataLossError("its digest is not the one in its header");
  size_t size = 0;
  if (!absl::SimpleAtoi(header[3], &size) || size > body.size()) return absl::DataLossError("a wrong size");
  SpooledResult spooled;
  if (!spooled.result.ParseFromArray(body.data(), static_cast<int>(size))) {
    return absl::DataLossError("no AttemptResult");
  }
  spooled.log = std::string(body.substr(size));
  return spooled;
}

}  // namespace

AttemptKey KeyOf(const v1::AttemptRef& ref) { return {ref.job_id(), ref.attempt()}; }

v1::AttemptRef RefOf(const AttemptKey& key) {
  v1::AttemptRef ref;
  ref.set_job_id(key.first);
  ref.set_attempt(key.second);
  return ref;
}

absl::StatusOr<std::unique_ptr<Spool>> Spool::Open(std::filesystem::path folder, absl::Duration sync_after) {
  std::unique_ptr<Spool> spool(new Spool(std::move(folder), sync_after));
  ASSAY_RETURN_IF_ERROR(spool->TakeOver());
  spool->syncer_ = std::thread([s = spool.get()] { s->SyncLoop(); });
  return spool;
}

Spool::~Spool() {
  {
    absl::MutexLock lock(&mutex_);
    stopped_ = true;
  }
  if (syncer_.joinable()) syncer_.join();
}

absl::Status Spool::TakeOver() {
  std::error_code error;
  std::filesystem::create_directories(folder_, error);
  if (error) return absl::ErrnoToStatus(error.value(), absl::StrCat("cannot make spool ", folder_.string()));
  std::vector<std::filesystem::path> found;
  for (const auto& file : std::filesystem::directory_iterator(folder_, error)) {
    std::error_code type_error;
    if (file.is_directory(type_error)) continue;
    const std::string name = file.path().filename().string();
    if (name.ends_with(std::string(kSuffix))) {
      found.push_back(file.path());
    } else if (name.starts_with(".")) {
      ::unlink(file.path().c_str());  // half written by a process that was killed
    }
  }
  if (error) return absl::ErrnoToStatus(error.value(), absl::StrCat("cannot read spool ", folder_.string()));
  absl::MutexLock lock(&mutex_);
  for (const std::filesystem::path& file : found) {
    absl::StatusOr<SpooledResult> spooled = ReadOne(file);
    if (!spooled.ok()) {
      MoveAside(file, spooled.status());
      continue;
    }
    files_[KeyOf(spooled->result.attempt())] = file;
  }
  return absl::OkStatus();
}

// A job id comes from outside: its digest makes a safe file name.
std::filesystem::path Spool::FileOf(const AttemptKey& key) const {
  return folder_ / absl::StrCat(Sha256Hex(absl::StrCat(key.first, "/", key.second)), kSuffix);
}

absl::StatusOr<SpooledResult> Spool::ReadOne(const std::filesystem::path& file) const {
  ASSAY_ASSIGN_OR_RETURN(const std::string content, ReadFile(file));
  ASSAY_ASSIGN_OR_RETURN(SpooledResult spooled, Decode(content));
  if (FileOf(KeyOf(spooled.result.attempt())) != file) return absl::DataLossError("another attempt's result");
  return spooled;
}

void Spool::MoveAside(const std::filesystem::path& file, const absl::Status& why) const {
  const std::filesystem::path aside = folder_ / "corrupt" / file.filename();
  std::error_code error;
  std::filesystem::create_directories(aside.parent_path(), error);
  std::filesystem::rename(file, aside, error);
  spdlog::error("spooled result {} is unreadable ({}); moved to {}: its job will run again", file.string(),
                why.ToString(), aside.string());
}

absl::Status Spool::Put(const SpooledResult& spooled) {
  const AttemptKey key = KeyOf(spooled.result.attempt());
  if (Has(key)) return absl::OkStatus();
  const std::filesystem::path file = FileOf(key);
  ASSAY_RETURN_IF_ERROR(WriteFileAtomically(file, Encode(spooled)));
  absl::MutexLock lock(&mutex_);
  files_[key] = file;
  unsynced_.emplace_back(absl::Now() + sync_after_, file);
  return absl::OkStatus();
}

void Spool::Drop(const AttemptKey& key) {
  absl::MutexLock lock(&mutex_);
  auto at = files_.find(key);
  if (at == files_.end()) return;
  ::unlink(at->second.c_str());
  files_.erase(at);
}

absl::StatusOr<SpooledResult> Spool::Get(const AttemptKey& key) {
  if (!Has(key)) return absl::NotFoundError(absl::StrCat("no spooled result of job ", key.first));
  const std::filesystem::path file = FileOf(key);
  absl::StatusOr<SpooledResult> spooled = ReadOne(file);
  if (spooled.ok()) return spooled;
  absl::MutexLock lock(&mutex_);
  if (files_.erase(key) == 0) return absl::NotFoundError("dropped meanwhile");
  MoveAside(file, spooled.status());
  return absl::DataLossError(spooled.status().message());
}

std::vector<AttemptKey> Spool::Keys() const {
  absl::MutexLock lock(&mutex_);
  std::vector<AttemptKey> keys;
  for (const auto& [key, file] : files_) keys.push_back(key);
  return keys;
}

bool Spool::Has(const AttemptKey& key) const {
  absl::MutexLock lock(&mutex_);
  return files_.count(key) > 0;
}

size_t Spool::size() const {
  absl::MutexLock lock(&mutex_);
  return files_.size();
}

void Spool::SyncLoop() {
  absl::MutexLock lock(&mutex_);
  while (!stopped_) {
    auto something = [this]()
                         ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return stopped_ || !unsynced_.empty(); };
    mutex_.Await(absl::Condition(&something));
    if (stopped_) return;
    // Most results are acknowledged, and gone, before their time comes.
    const absl::Time due = unsynced_.front().first;
    mutex_.AwaitWithDeadline(absl::Condition(&stopped_), due);
    if (stopped_) return;
    std::vector<std::filesystem::path> files;
    for (const absl::Time now = absl::Now(); !unsynced_.empty() && unsynced_.front().first <= now;) {
      files.push_back(std::move(unsynced_.front().second));
      unsynced_.pop_front();
    }
    mutex_.Unlock();
    bool any = false;
    for (const std::filesystem::path& file : files) {
      const Fd fd(::open(file.c_str(), O_RDONLY | O_CLOEXEC));
      if (!fd.open()) continue;
      any = true;
      if (::fsync(fd.get()) != 0) spdlog::error("cannot sync {}: errno {}", file.string(), errno);
    }
    if (any) {
      const Fd fd(::open(folder_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
      if (fd.open()) ::fsync(fd.get());
    }
    mutex_.Lock();
  }
}

}  // namespace assay::worker
