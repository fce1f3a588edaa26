// Warns before a certificate ends that nobody has renewed.
#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "absl/time/time.h"
#include "common/pem.h"

namespace assay {

// How long before its end a certificate should have been replaced: 14 days, or a quarter of its life where
// that is less. What renews by itself does so when a third is left.
absl::Duration RenewalMargin(const CertificateFacts& facts);

// Not thread-safe.
class CertificateWatch {
 public:
  // `whose` for the log: "the server's".
  CertificateWatch(std::filesystem::path file, std::string whose);

  // Reads the file again and gives when its certificate ends; none: it cannot be read. Logs, once each, that
  // the end is near (a warning), that it has come or that the file cannot be read (errors), and that all is
  // well again. To be called now and then.
  std::optional<absl::Time> Look(absl::Time now);

 private:
  enum class State { kFine, kNear, kEnded, kUnreadable };

  const std::filesystem::path file_;
  const std::string whose_;
  State state_ = State::kFine;
};

}  // namespace assay
