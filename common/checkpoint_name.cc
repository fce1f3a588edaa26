#include "common/checkpoint_name.h"

#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace assay {
namespace {

bool IsNameCharacter(char c) { return absl::ascii_isalnum(c) || c == '.' || c == '_' || c == '-'; }

absl::Status Bad(absl::string_view text, absl::string_view what, absl::string_view why) {
  return absl::InvalidArgumentError(
      absl::StrCat("'", absl::CHexEscape(text.substr(0, 200)), "' is no ", what, ": ", why));
}

}  // namespace

// The rules of the hub for names:
// https://huggingface.co/docs/huggingface_hub/package_reference/utilities#validators
absl::Status CheckCheckpointId(absl::string_view id) {
  constexpr absl::string_view kWhat = "name of a checkpoint, such as owner/name";
  const std::vector<absl::string_view> parts = absl::StrSplit(id, '/');
  if (parts.size() > 2) return Bad(id, kWhat, "it has more than one '/'");
  for (const absl::string_view part : parts) {
    if (part.empty() || part.size() > 96) return Bad(id, kWhat, "each part has 1 to 96 characters");
    for (const char c : part) {
      if (!IsNameCharacter(c)) return Bad(id, kWhat, "only letters, digits, '.', '_' and '-' are allowed");
    }
    if (part.front() == '.' || part.front() == '-' || part.back() == '.' || part.back() == '-') {
      return Bad(id, kWhat, "'.' and '-' begin or end no part");
    }
  }
  if (absl::StrContains(id, "..") || absl::StrContains(id, "--")) {
    return Bad(id, kWhat, "'..' and '--' are not allowed");
  }
  return absl::OkStatus();
}

absl::Status CheckRevision(absl::string_view revision) {
  constexpr absl::string_view kWhat = "revision (branch, tag or commit)";
  if (revision.empty() || revision.size() > 200) return Bad(revision, kWhat, "it has 1 to 200 characters");
  for (const absl::string_view part : absl::StrSplit(revision, '/')) {
    if (part.empty()) return Bad(revision, kWhat, "it has an empty part");
    if (part.front() == '.' || part.front() == '-') return Bad(revision, kWhat, "'.' and '-' begin no part");
    for (const char c : part) {
      if (!IsNameCharacter(c) && c != '+') {
        return Bad(revision, kWhat, "only letters, digits, '.', '_', '-', '+' and '/' are allowed");
      }
    }
  }
  if (absl::StrContains(revision, "..")) return Bad(revision, kWhat, "'..' is not allowed");
  return absl::OkStatus();
}

}  // namespace assay
