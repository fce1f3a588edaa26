#include "common/certificate_watch.h"

#include <algorithm>
#include <utility>

#include "common/file.h"
#include "common/logging.h"

namespace assay {

absl::Duration RenewalMargin(const CertificateFacts& facts) {
  return std::min<absl::Duration>(absl::Hours(14 * 24), (facts.not_after - facts.not_before) / 4);
}

CertificateWatch::CertificateWatch(std::filesystem::path file, std::string whose)
    : file_(std::move(file)), whose_(std::move(whose)) {}

std::optional<absl::Time> CertificateWatch::Look(absl::Time now) {
  const absl::StatusOr<std::string> pem = ReadFile(file_);
  const absl::StatusOr<CertificateFacts> facts =
      pem.ok() ? ReadCertificate(*pem) : absl::StatusOr<CertificateFacts>(pem.status());
  if (!facts.ok()) {
    if (std::exchange(state_, State::kUnreadable) != State::kUnreadable) {
      spdlog::error("cannot read {} certificate: {}", whose_, std::string(facts.status().message()));
    }
    return std::nullopt;
  }
  const State state = facts->not_after <= now                           ? State::kEnded
                      : facts->not_after - now <= RenewalMargin(*facts) ? State::kNear
                                                                        : State::kFine;
  if (std::exchange(state_, state) == state) return facts->not_after;
  const std::string end = absl::FormatTime("%Y-%m-%d %H:%M:%S", facts->not_after, absl::UTCTimeZone());
  if (state == State::kNear) {
    spdlog::warn("{} certificate {} ends at {} UTC: renew it (docs/security.md)", whose_, file_.string(),
                 end);
  } else if (state == State::kEnded) {
    spdlog::error("{} certificate {} has ended, at {} UTC: renew it (docs/security.md); no restart is needed",
                  whose_, file_.string(), end);
  } else {
    spdlog::info("{} certificate {} is good until {} UTC", whose_, file_.string(), end);
  }
  return facts->not_after;
}

}  // namespace assay
