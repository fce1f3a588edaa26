#include "cli/reduce.h"

#include <stdlib.h>

#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <system_error>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "assay/v1/test.pb.h"
#include "cli/host_process.h"
#include "cli/job_material.h"
#include "cli/output.h"
#include "common/digest.h"
#include "common/file.h"
#include "common/status_macros.h"
#include "common/textproto.h"

namespace assay::cli {
namespace {

namespace fs = std::filesystem;

// The failing case alone: its golden check, as it ran.
v1::ModelTest TestOf(const JobMaterial& material, const v1::Program& program) {
  const v1::CaseResult& of = material.Case();
  const v1::Provenance& from = material.job.result().provenance();
  v1::ModelTest test;
  test.set_name(program.manifest().model());
  v1::SetUp& set_up = *test.mutable_set_up();
  set_up.set_device(from.device().kind() == "cuda" ? v1::CUDA : v1::CPU);
  set_up.set_dtype(from.dtype() == v1::DTYPE_UNSPECIFIED ? v1::FLOAT32 : from.dtype());
  v1::Case& one = *test.add_case_();
  one.set_name(of.name());
  v1::Check& check = *one.add_check();
  check.set_name("golden");
  check.mutable_golden();
  if (of.weights() == v1::MOCK) {
    one.set_weights(v1::MOCK);
    set_up.set_seed(from.mock_seed());
    test.set_program_digest(Sha256Hex(material.program));
    return test;
  }
  one.set_weights(v1::REAL);
  one.set_program_digest(Sha256Hex(material.program));
  if (!material.golden.empty()) one.set_golden_digest(Sha256Hex(material.golden));
  return test;
}

absl::StatusOr<ExitCode> Reduce(const ReduceOptions& options) {
  ASSAY_ASSIGN_OR_RETURN(const JobMaterial material, FindMaterial(options.connection, options.folder_or_job));
  ASSAY_ASSIGN_OR_RETURN(const v1::Program program, ProgramOf(material));
  const v1::ModelTest test = TestOf(material, program);
  std::string temporary = (fs::temp_directory_path() / "assay-reduce-XXXXXX").string();
  if (mkdtemp(temporary.data()) == nullptr)
    return absl::ErrnoToStatus(errno, absl::StrCat("making ", temporary));
  const fs::path folder = temporary;
  const auto clean = absl::MakeCleanup([&folder] {
    std::error_code error;
    fs::remove_all(folder, error);
  });
  ASSAY_RETURN_IF_ERROR(WriteFileAtomically(folder / absl::StrCat(test.name(), ".assay"), material.program));
  ASSAY_RETURN_IF_ERROR(WriteFileAtomically(folder / Sha256Hex(material.program), material.program));
  if (!material.golden.empty()) {
    ASSAY_RETURN_IF_ERROR(WriteFileAtomically(folder / Sha256Hex(material.golden), material.golden));
  }
  ASSAY_RETURN_IF_ERROR(WriteFileAtomically(folder / "test.textproto", FormatTextProto(test)));
  const std::string output =
      options.output.empty() ? absl::StrCat(test.name(), "_reduced.assay") : options.output;
  // What is there afterwards was made now.
  const fs::path made = folder / "reduced";
  std::vector<std::string> arguments = {"run",         (folder / "test.textproto").string(),
                                        "--programs",  folder.string(),
                                        "--blobs",     folder.string(),
                                        "--device",    test.set_up().device() == v1::CUDA ? "cuda" : "cpu",
                                        "--reduce-to", made.string()};
  if (test.case_(0).weights() == v1::REAL) {
    std::string checkpoint = options.checkpoint;
    const std::string& id = material.job.result().provenance().checkpoint().id();
    if (checkpoint.empty() && fs::path(id).is_absolute()) checkpoint = id;
    if (checkpoint.empty()) {
      return absl::InvalidArgumentError(
          absl::StrCat("the job loaded ", id, ": --checkpoint DIR says where its weights lie here"));
    }
    arguments.insert(arguments.end(), {"--checkpoint", checkpoint});
  }
  ASSAY_ASSIGN_OR_RETURN(const int code, RunHost(options.host_binary, arguments));
  std::error_code error;
  if (!fs::is_regular_file(made, error)) {
    std::fprintf(stderr, "assay: nothing was written: %s\n",
                 code == kExitOk ? "the case passes on this machine" : "the host says above why not");
    return code == kExitUsage ? kExitUsage : kExitNoTests;
  }
  ASSAY_ASSIGN_OR_RETURN(const std::string bytes, ReadFile(made));
  ASSAY_RETURN_IF_ERROR(WriteFileAtomically(output, bytes));
  ASSAY_RETURN_IF_ERROR(
      Write("", absl::StrCat(output, ", ", bytes.size(), " bytes: assay run --program ", output, "\n")));
  return kExitOk;
}

}  // namespace

ExitCode ReduceCommand(const ReduceOptions& options) {
  const absl::StatusOr<ExitCode> code = Reduce(options);
  return code.ok() ? *code : Complain(code.status());
}

ExitCode RunProgramsCommand(const std::vector<std::string>& programs, const std::string& host_binary,
                            const std::string& dtype) {
  std::vector<std::string> arguments = {"program", "--dtype", dtype};
  arguments.insert(arguments.end(), programs.begin(), programs.end());
  const absl::StatusOr<int> code = RunHost(host_binary, arguments);
  return code.ok() ? static_cast<ExitCode>(*code) : Complain(code.status());
}

}  // namespace assay::cli
