#include "worker/labels.h"

#include <algorithm>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/file.h"
#include "common/logging.h"
#include "common/status_macros.h"
#include "common/utf8.h"

namespace assay::worker {
namespace {

constexpr size_t kMaxLabelBytes = 256;

absl::string_view KeyIn(absl::string_view label) { return label.substr(0, label.find('=')); }

bool IsUtf8(absl::string_view text) {
  while (!text.empty()) {
    const size_t bytes = FirstCharacter(text).bytes;
    if (bytes == 0) return false;
    text.remove_prefix(bytes);
  }
  return true;
}

bool SameFile(const struct stat& a, const struct stat& b) {
  return a.st_dev == b.st_dev && a.st_ino == b.st_ino && a.st_size == b.st_size &&
         a.st_mtim.tv_sec == b.st_mtim.tv_sec && a.st_mtim.tv_nsec == b.st_mtim.tv_nsec;
}

}  // namespace

absl::Status CheckLabel(absl::string_view label) {
  const bool printable = std::none_of(
      label.begin(), label.end(), [](char c) { return absl::ascii_iscntrl(static_cast<unsigned char>(c)); });
  if (label.find('=') == absl::string_view::npos || label.front() == '=' || !printable || !IsUtf8(label) ||
      label.size() > kMaxLabelBytes) {
    return absl::InvalidArgumentError(absl::StrCat("label '", label, "' is not key=value"));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<Labels>> Labels::Open(std::vector<std::string> fixed,
                                                     std::filesystem::path file) {
  for (const std::string& label : fixed) ASSAY_RETURN_IF_ERROR(CheckLabel(label));
  std::unique_ptr<Labels> labels(new Labels(std::move(fixed), std::move(file)));
  absl::MutexLock lock(&labels->mutex_);
  labels->current_ = labels->fixed_;
  if (!labels->file_.empty()) {
    ::stat(labels->file_.c_str(), &labels->seen_);
    ASSAY_RETURN_IF_ERROR(labels->Read());
  }
  return labels;
}

std::vector<std::string> Labels::Current(bool always) {
  absl::MutexLock lock(&mutex_);
  if (file_.empty()) return current_;
  // Before it is read: a change meanwhile is seen the next time.
  struct stat now = {};
  ::stat(file_.c_str(), &now);  // of a file that is gone: all zero
  if (!always && SameFile(now, seen_)) return current_;
  seen_ = now;
  const std::vector<std::string> before = current_;
  if (absl::Status read = Read(); !read.ok()) {
    spdlog::error("labels stay as they were: {}", std::string(read.message()));
  } else if (before != current_) {
    spdlog::info("labels from {}: {} of them", file_.string(), current_.size());
  }
  return current_;
}

absl::Status Labels::Read() {
  ASSAY_ASSIGN_OR_RETURN(const std::string text, ReadFile(file_));
  std::vector<std::string> labels = fixed_;
  size_t number = 0;
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    ++number;
    line = absl::StripAsciiWhitespace(line);
    if (line.empty() || line.front() == '#') continue;
    if (absl::Status good = CheckLabel(line); !good.ok()) {
      return absl::InvalidArgumentError(absl::StrCat(file_.string(), ":", number, ": ", good.message()));
    }
    const auto same = std::find_if(labels.begin(), labels.end(),
                                   [&](const std::string& label) { return KeyIn(label) == KeyIn(line); });
    if (same == labels.end()) {
      labels.emplace_back(line);
    } else {
      *same = std::string(line);
    }
  }
  current_ = std::move(labels);
  return absl::OkStatus();
}

}  // namespace assay::worker
