#include "engine/case_material.h"

#include "absl/strings/str_cat.h"
#include "common/digest.h"
#include "common/file.h"
#include "common/status_macros.h"
#include "engine/evidence.h"
#include "engine/program.h"
#include "engine/tolerance.h"

namespace assay::engine {
namespace {

absl::StatusOr<std::string> ReadGiven(const FilesByDigest& files, absl::string_view what,
                                      const std::string& digest) {
  const auto file = files.find(digest);
  if (file == files.end()) {
    return absl::UnavailableError(absl::StrCat("the case's ", what, " ", digest, " was not given"));
  }
  return ReadByDigest(file->second, digest);
}

}  // namespace

absl::StatusOr<std::string> ReadByDigest(const std::string& path, const std::string& digest) {
  absl::StatusOr<std::string> bytes = ReadFile(path);
  if (!bytes.ok()) return absl::UnavailableError(bytes.status().message());
  const std::string found = Sha256Hex(*bytes);
  if (found != digest) {
    return absl::UnavailableError(
        absl::StrCat(path, " has the digest ", found, "; the test was made for ", digest));
  }
  return bytes;
}

absl::StatusOr<CaseMaterial> LoadMaterial(const v1::Case& test_case, const FilesByDigest& files,
                                          const v1::Program& common, const std::string& common_digest) {
  CaseMaterial material;
  if (test_case.program_digest().empty()) {
    material.program = common;
    material.program_digest = common_digest;
  } else {
    ASSAY_ASSIGN_OR_RETURN(const std::string bytes, ReadGiven(files, "program", test_case.program_digest()));
    ASSAY_ASSIGN_OR_RETURN(material.program, ParseProgram(bytes));
    material.program_digest = test_case.program_digest();
  }
  if (!test_case.golden_digest().empty()) {
    ASSAY_ASSIGN_OR_RETURN(const std::string bytes, ReadGiven(files, "golden", test_case.golden_digest()));
    ASSAY_ASSIGN_OR_RETURN(material.checkpoint,
                           ParseCheckpointGolden(bytes, material.program, material.program_digest));
  }
  ASSAY_RETURN_IF_ERROR(
      ValidateEvidence(material.program, material.golden(),
                       material.has_checkpoint_golden() ? kMaxTrainedRoundingShare : kMaxRoundingShare));
  return material;
}

}  // namespace assay::engine
