#include "generator/textproto_folder.h"

#include <set>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "common/file.h"
#include "common/status_macros.h"
#include "generator/names.h"

namespace assay::generator {

absl::Status ForEachTextProto(
    const std::filesystem::path& dir,
    const std::function<absl::Status(const std::string& file, absl::string_view text)>& take) {
  std::error_code error;
  std::set<std::filesystem::path> files;
  for (std::filesystem::directory_iterator it(dir, error), end; !error && it != end; it.increment(error)) {
    if (it->path().extension() == ".textproto") files.insert(it->path());
  }
  if (error) return absl::NotFoundError(absl::StrCat(dir.string(), ": ", error.message()));
  for (const std::filesystem::path& file : files) {
    ASSAY_ASSIGN_OR_RETURN(const std::string text, ReadFile(file, kMaxTextBytes));
    ASSAY_RETURN_IF_ERROR(take(file.string(), text));
  }
  return absl::OkStatus();
}

void ExamineNameInFile(absl::string_view name, absl::string_view file, std::vector<Problem>* problems) {
  const std::string stem = std::filesystem::path(std::string(file)).stem().string();
  if (IsName(name) && name == stem) return;
  problems->push_back(
      {Join({}, "name"), absl::StrCat("must be the file's stem, ", Quoted(stem),
                                      " (lower-case letters, digits, underscores), is ", Quoted(name))});
}

}  // namespace assay::generator
