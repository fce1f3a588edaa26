#include "generator/checkpoint_ref.h"

#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "generator/names.h"
#include "generator/rules.h"

namespace assay::generator {

absl::StatusOr<v1::CheckpointRef> ParseCheckpointName(absl::string_view text) {
  v1::CheckpointRef ref;
  if (absl::StartsWith(text, "/")) {
    while (text.size() > 1 && absl::EndsWith(text, "/")) text.remove_suffix(1);
    ref.set_id(std::string(text));
  } else {
    const size_t at = text.find('@');
    ref.set_id(std::string(text.substr(0, at)));
    if (at != absl::string_view::npos) {
      if (at + 1 == text.size()) {
        return absl::InvalidArgumentError(absl::StrCat("names no revision after '@': ", Quoted(text)));
      }
      ref.set_revision(std::string(text.substr(at + 1)));
    }
  }
  std::vector<Problem> problems;
  ExamineStrings(ref, {}, &problems);
  if (problems.empty()) ExamineCheckpointRef(ref, {}, &problems);
  if (problems.empty()) return ref;
  return absl::InvalidArgumentError(absl::StrJoin(problems, "; ", [](std::string* out, const Problem& one) {
    // "revision must be …"; what is wrong with the id is wrong with the whole.
    const std::string path = FormatPath(one.path);
    absl::StrAppend(out, path == "id" || path.empty() ? "" : absl::StrCat(path, " "), one.message);
  }));
}

absl::StatusOr<std::string> NameOfCheckpoint(absl::string_view id) {
  std::string name;
  for (const char c : id.substr(id.find_last_of('/') + 1)) {  // npos + 1 is 0
    if (absl::ascii_isalnum(c)) {
      name += absl::ascii_tolower(c);
    } else if (!name.empty() && name.back() != '_') {
      name += '_';
    }
  }
  while (!name.empty() && name.back() == '_') name.pop_back();
  if (!IsName(name)) {
    return absl::InvalidArgumentError(absl::StrCat("no model name of at most ", kMaxNameLength,
                                                   " letters, digits and underscores can be ",
                                                   "made of the last part of ", Quoted(id), ": give a name"));
  }
  return name;
}

}  // namespace assay::generator
