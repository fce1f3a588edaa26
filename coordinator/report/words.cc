#include "coordinator/report/words.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace assay::report {

std::string OutcomeWord(v1::Outcome outcome) {
  if (outcome == v1::OUTCOME_UNSPECIFIED || !v1::Outcome_IsValid(outcome)) return "UNKNOWN";
  return v1::Outcome_Name(outcome);
}

std::string JobWord(const v1::Job& job) {
  if (job.state() == v1::DONE) return OutcomeWord(job.result().outcome());
  return job.state() == v1::RUNNING ? "RUNNING" : "QUEUED";
}

absl::string_view EvidenceWord(v1::Evidence evidence) {
  switch (evidence) {
    case v1::GOLDEN:
      return "golden";
    case v1::STRUCTURAL:
      return "structural";
    default:
      return "";
  }
}

absl::string_view WeightsWord(v1::WeightsKind weights) {
  switch (weights) {
    case v1::REAL:
      return "real";
    case v1::SYNTHETIC:
      return "synthetic";
    case v1::MOCK:
      return "mock";
    default:
      return "";
  }
}

absl::string_view DtypeWord(v1::Dtype dtype) {
  switch (dtype) {
    case v1::DTYPE_BFLOAT16:
      return "bfloat16";
    case v1::FLOAT16:
      return "float16";
    default:
      return "float32";
  }
}

v1::Dtype DtypeOf(const v1::Job& job) {
  const v1::Dtype ran = job.result().provenance().dtype();
  return ran != v1::DTYPE_UNSPECIFIED ? ran : job.target().dtype();
}

std::string DeviceOf(const v1::Job& job) {
  const std::string& kind = job.result().provenance().device().kind();
  if (!kind.empty()) return kind;
  switch (job.target().device()) {
    case v1::CPU:
      return "cpu";
    case v1::CUDA:
      return "cuda";
    default:
      return "auto";
  }
}

std::string TargetOf(const v1::Job& job) { return absl::StrCat(DeviceOf(job), "/", DtypeWord(DtypeOf(job))); }

std::string TimeText(absl::Time time) {
  return absl::FormatTime("%Y-%m-%d %H:%M:%S", time, absl::UTCTimeZone());
}

std::string TimeText(const google::protobuf::Timestamp& time) {
  if (time.seconds() == 0 && time.nanos() == 0) return "-";
  return TimeText(TimeOf(time));
}

std::string SecondsText(double seconds) { return absl::StrFormat("%.3f s", seconds); }

std::string BytesText(uint64_t bytes) {
  if (bytes == 0) return "-";
  return absl::StrFormat("%.1f MiB", static_cast<double>(bytes) / (1 << 20));
}

std::string Percent(size_t part, size_t of) {
  if (of == 0) return "-";
  return absl::StrFormat("%.1f %%", 100.0 * static_cast<double>(part) / static_cast<double>(of));
}

std::string TestFileOf(absl::string_view model) { return absl::StrCat("test_hf_", model, ".textproto"); }

std::string Shorten(absl::string_view text, size_t length) {
  if (text.size() <= length) return std::string(text);
  size_t end = length;
  // Continuation bytes of UTF-8 are 10xxxxxx.
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) --end;
  return absl::StrCat(text.substr(0, end), "…");
}

}  // namespace assay::report
