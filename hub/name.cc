#include "hub/name.h"

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/status_macros.h"

namespace assay::hub {
namespace {

bool IsNameCharacter(char c) { return absl::ascii_isalnum(c) || c == '.' || c == '_' || c == '-'; }

}  // namespace

// The rules of the hub for names:
// https://huggingface.co/docs/huggingface_hub/package_reference/utilities#validators
absl::Status CheckId(absl::string_view id) {
  const auto bad = [&](absl::string_view why) {
    return absl::InvalidArgumentError(
        absl::StrCat("'", id.substr(0, 200), "' is no name of a checkpoint, such as owner/name: ", why));
  };
  const std::vector<absl::string_view> parts = absl::StrSplit(id, '/');
  if (parts.size() != 2) return bad("it has not one '/'");
  for (const absl::string_view part : parts) {
    if (part.empty() || part.size() > 96) return bad("each part has 1 to 96 characters");
    for (const char c : part) {
      if (!IsNameCharacter(c)) return bad("only letters, digits, '.', '_' and '-' are allowed");
    }
    if (part.front() == '.' || part.front() == '-' || part.back() == '.' || part.back() == '-') {
      return bad("'.' and '-' begin or end no part");
    }
  }
  if (absl::StrContains(id, "..") || absl::StrContains(id, "--")) return bad("'..' and '--' are not allowed");
  return absl::OkStatus();
}

absl::Status CheckRevision(absl::string_view revision) {
  const auto bad = [&](absl::string_view why) {
    return absl::InvalidArgumentError(
        absl::StrCat("'", revision.substr(0, 200), "' is no revision (branch, tag or commit): ", why));
  };
  if (revision.empty() || revision.size() > 200) return bad("it has 1 to 200 characters");
  for (const absl::string_view part : absl::StrSplit(revision, '/')) {
    if (part.empty()) return bad("it has an empty part");
    if (part.front() == '.' || part.front() == '-') return bad("'.' and '-' begin no part");
    for (const char c : part) {
      if (!IsNameCharacter(c) && c != '+')
        return bad("only letters, digits, '.', '_', '-', '+' and '/' are allowed");
    }
  }
  if (absl::StrContains(revision, "..")) return bad("'..' is not allowed");
  return absl::OkStatus();
}

absl::StatusOr<Name> ParseName(absl::string_view text) {
  const size_t at = text.find('@');
  Name name{.id = std::string(text.substr(0, at)), .revision = "main"};
  if (at != absl::string_view::npos) name.revision = std::string(text.substr(at + 1));
  ASSAY_RETURN_IF_ERROR(CheckId(name.id));
  ASSAY_RETURN_IF_ERROR(CheckRevision(name.revision));
  return name;
}

}  // namespace assay::hub
