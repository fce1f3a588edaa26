#include "worker/result_limits.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace assay::worker {
namespace {

constexpr absl::string_view kCut = " [cut]";

void CutText(std::string& text, size_t max) {
  if (text.size() <= max) return;
  size_t end = max;
  // Not within a UTF-8 sequence: a string field must stay valid.
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) --end;
  text.resize(end);
  text.append(kCut.data(), kCut.size());
}

void CutTexts(v1::CaseResult& result, size_t max) {
  CutText(*result.mutable_message(), max);
  CutText(*result.mutable_reason(), max);
  if (result.has_divergence()) {
    CutText(*result.mutable_divergence()->mutable_detail(), max);
    CutText(*result.mutable_divergence()->mutable_node(), max);
    CutText(*result.mutable_divergence()->mutable_op(), max);
    CutText(*result.mutable_divergence()->mutable_module(), max);
    CutText(*result.mutable_divergence()->mutable_fault_reason(), max);
  }
  for (v1::CheckResult& check : *result.mutable_check()) CutText(*check.mutable_message(), max);
}

// What is there to be looked at, not to be counted.
void DropPictures(v1::CaseResult& result) {
  if (result.has_divergence()) result.mutable_divergence()->clear_growth();
}

void DropPassedChecks(v1::CaseResult& result) {
  auto* checks = result.mutable_check();
  checks->erase(std::remove_if(checks->begin(), checks->end(),
                               [](const v1::CheckResult& check) { return check.outcome() == v1::PASSED; }),
                checks->end());
  absl::StrAppend(result.mutable_message(), " [checks that passed were left out]");
}

void DropChecks(v1::CaseResult& result) {
  result.clear_check();
  CutText(*result.mutable_message(), 256);
  absl::StrAppend(result.mutable_message(), " [all checks were left out]");
}

template <typename Message, typename ForEachCase>
bool Fit(Message& message, size_t max_bytes, ForEachCase for_each_case) {
  if (message.ByteSizeLong() <= max_bytes) return false;
  for_each_case(DropPictures);
  if (message.ByteSizeLong() <= max_bytes) return true;
  for (size_t max : {16384, 4096, 1024, 256}) {
    for_each_case([max](v1::CaseResult& result) { CutTexts(result, max); });
    if (message.ByteSizeLong() <= max_bytes) return true;
  }
  for_each_case(DropPassedChecks);
  if (message.ByteSizeLong() <= max_bytes) return true;
  for_each_case(DropChecks);
  return true;
}

}  // namespace

bool FitResult(v1::TestResult& result, size_t max_bytes) {
  if (result.ByteSizeLong() <= max_bytes) return false;
  CutText(*result.mutable_message(), 16384);
  CutText(*result.mutable_output_tail(), 4096);
  Fit(result, max_bytes, [&result](auto change) {
    for (v1::CaseResult& one : *result.mutable_case_()) change(one);
  });
  return true;
}

bool FitCaseResult(v1::CaseResult& result, size_t max_bytes) {
  return Fit(result, max_bytes, [&result](auto change) { change(result); });
}

void LogTail::Append(absl::string_view text) {
  tail_.append(text.data(), text.size());
  // Cut rarely, so that a chatty test costs no more than twice its bytes.
  if (tail_.size() > 2 * max_bytes_) {
    cut_ += tail_.size() - max_bytes_;
    tail_.erase(0, tail_.size() - max_bytes_);
  }
}

std::string LogTail::Take() {
  if (tail_.size() > max_bytes_) {
    cut_ += tail_.size() - max_bytes_;
    tail_.erase(0, tail_.size() - max_bytes_);
  }
  if (cut_ == 0) return std::move(tail_);
  return absl::StrCat("[", cut_, " bytes before this were cut]\n", tail_);
}

}  // namespace assay::worker
