// The program and the golden that a case runs, from files whose digests the test names.
#pragma once

#include <map>
#include <string>

#include "absl/status/statusor.h"
#include "assay/v1/program.pb.h"
#include "assay/v1/test.pb.h"

namespace assay::engine {

// By SHA-256.
using FilesByDigest = std::map<std::string, std::string>;

struct CaseMaterial {
  v1::Program program;
  std::string program_digest;
  // Of a checkpoint; format 0 where the case has none, and then the golden is the program's own.
  v1::CheckpointGolden checkpoint;
  bool has_checkpoint_golden() const { return checkpoint.format() != 0; }
  const v1::Golden& golden() const {
    return has_checkpoint_golden() ? checkpoint.golden() : program.golden();
  }
};

// The content of a file, which must be that of the digest. UNAVAILABLE: it cannot be read, or is another's:
// the machine's fault, not the model's.
absl::StatusOr<std::string> ReadByDigest(const std::string& path, const std::string& digest);

// What a case with a program or a golden of its own runs; `common` is the test's program, for a case that
// only has a golden. UNAVAILABLE as ReadByDigest, or a file was not given. INVALID_ARGUMENT: a file is not
// what it should be, or proves nothing (ValidateEvidence).
absl::StatusOr<CaseMaterial> LoadMaterial(const v1::Case& test_case, const FilesByDigest& files,
                                          const v1::Program& common, const std::string& common_digest);

}  // namespace assay::engine
