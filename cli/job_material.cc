#include "cli/job_material.h"

#include <algorithm>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "assay/v1/coordinator.grpc.pb.h"
#include "common/digest.h"
#include "common/file.h"
#include "common/status_macros.h"
#include "common/textproto.h"
#include "common/zstd_frame.h"
#include "grpcpp/grpcpp.h"

namespace assay::cli {
namespace {

namespace fs = std::filesystem;

constexpr char kJobFile[] = "job.textproto";
constexpr char kProgramFile[] = "program.assay";
constexpr char kGoldenFile[] = "golden.assay";

// By digest, each checked against it.
absl::StatusOr<std::string> Download(Connection& connection, const std::string& digest) {
  const auto stub = v1::BlobService::NewStub(connection.channel());
  grpc::ClientContext context;
  context.set_deadline(absl::ToChronoTime(absl::Now() + connection.options().deadline));
  v1::DownloadRequest request;
  request.add_digest(digest);
  const auto reader = stub->Download(&context, request);
  std::string content;
  for (v1::DownloadResponse response; reader->Read(&response);) content.append(response.chunk());
  const grpc::Status status = reader->Finish();
  if (!status.ok()) return ToAbsl(status, connection.options().address);
  if (Sha256Hex(content) != digest) {
    return absl::DataLossError(absl::StrCat("what came for ", digest, " is not that"));
  }
  return content;
}

// The digests of a case's program and golden (empty: the program's own).
std::pair<std::string, std::string> DigestsOf(const v1::Job& job, const v1::CaseResult& of) {
  const v1::Provenance& from = job.result().provenance();
  const bool trained = of.weights() == v1::REAL || of.weights() == v1::SYNTHETIC;
  if (!trained || from.checkpoint_program_digest().empty()) return {from.program_digest(), ""};
  return {from.checkpoint_program_digest(), from.golden_digest()};
}

const v1::CaseResult* FindCase(const v1::Job& job) {
  const auto& cases = job.result().case_();
  const auto first = [&](auto holds) -> const v1::CaseResult* {
    const auto found = std::find_if(cases.begin(), cases.end(), holds);
    return found == cases.end() ? nullptr : &*found;
  };
  if (const auto* found = first([](const auto& one) { return one.has_divergence(); })) return found;
  if (const auto* found = first([](const auto& one) { return one.outcome() == v1::FAILED; })) return found;
  return first([](const auto& one) { return one.outcome() != v1::SKIPPED; });
}

}  // namespace

const v1::CaseResult& JobMaterial::Case() const { return *FindCase(job); }

absl::StatusOr<JobMaterial> FetchMaterial(Connection& connection, v1::Job job) {
  JobMaterial material;
  material.job = std::move(job);
  const v1::CaseResult* of = FindCase(material.job);
  if (material.job.state() != v1::DONE || of == nullptr) {
    return absl::FailedPreconditionError(
        absl::StrCat("no case of job ", material.job.job_id(), " has run: there is nothing to look into"));
  }
  const auto [program, golden] = DigestsOf(material.job, *of);
  if (program.empty()) {
    return absl::FailedPreconditionError(absl::StrCat("job ", material.job.job_id(), " has no program"));
  }
  ASSAY_ASSIGN_OR_RETURN(material.program, Download(connection, program));
  if (!golden.empty()) {
    ASSAY_ASSIGN_OR_RETURN(material.golden, Download(connection, golden));
  }
  return material;
}

absl::StatusOr<JobMaterial> FetchMaterial(Connection& connection, const std::string& job_id) {
  ASSAY_ASSIGN_OR_RETURN(v1::ExplainJobResponse found, connection.ExplainJob(job_id));
  if (found.job().state() == v1::DONE && found.job().result().case__size() == 0) {
    // The answer to why may leave the result out: a batch's has it.
    ASSAY_ASSIGN_OR_RETURN(const v1::GetBatchResponse batch, connection.GetBatch(found.job().batch_id()));
    for (const v1::Job& job : batch.job()) {
      if (job.job_id() == job_id) return FetchMaterial(connection, job);
    }
  }
  return FetchMaterial(connection, std::move(*found.mutable_job()));
}

absl::Status WriteMaterial(const JobMaterial& material, const fs::path& folder) {
  ASSAY_RETURN_IF_ERROR(WriteFileAtomically(folder / kProgramFile, material.program));
  if (!material.golden.empty())
    ASSAY_RETURN_IF_ERROR(WriteFileAtomically(folder / kGoldenFile, material.golden));
  return WriteFileAtomically(folder / kJobFile, FormatTextProto(material.job));
}

absl::StatusOr<JobMaterial> ReadMaterial(const fs::path& folder) {
  JobMaterial material;
  ASSAY_ASSIGN_OR_RETURN(const std::string text, ReadFile(folder / kJobFile));
  ASSAY_RETURN_IF_ERROR(ParseTextProto((folder / kJobFile).string(), text, material.job));
  const v1::CaseResult* of = FindCase(material.job);
  if (of == nullptr) {
    return absl::FailedPreconditionError(
        absl::StrCat((folder / kJobFile).string(), ": no case of it has run"));
  }
  const auto [program, golden] = DigestsOf(material.job, *of);
  const auto read = [&](const char* name, const std::string& digest) -> absl::StatusOr<std::string> {
    ASSAY_ASSIGN_OR_RETURN(std::string content, ReadFile(folder / name));
    if (Sha256Hex(content) == digest) return content;
    return absl::InvalidArgumentError(
        absl::StrCat((folder / name).string(), ": not what the job ran on, which has the digest ", digest));
  };
  ASSAY_ASSIGN_OR_RETURN(material.program, read(kProgramFile, program));
  if (!golden.empty()) {
    ASSAY_ASSIGN_OR_RETURN(material.golden, read(kGoldenFile, golden));
  }
  return material;
}

absl::StatusOr<JobMaterial> FindMaterial(const ConnectionOptions& options, const std::string& folder_or_job) {
  std::error_code error;
  if (fs::is_regular_file(fs::path(folder_or_job) / kJobFile, error)) return ReadMaterial(folder_or_job);
  if (fs::is_directory(folder_or_job, error)) {
    return absl::InvalidArgumentError(absl::StrCat(folder_or_job, " has no ", kJobFile));
  }
  Connection connection(options);
  return FetchMaterial(connection, folder_or_job);
}

absl::StatusOr<v1::Program> ProgramOf(const JobMaterial& material) {
  ASSAY_ASSIGN_OR_RETURN(const std::string content, DecompressFrame("program", material.program));
  v1::Program program;
  if (!program.ParseFromString(content)) return absl::InvalidArgumentError("the program is no message");
  return program;
}

absl::StatusOr<v1::Golden> GoldenOf(const JobMaterial& material, const v1::Program& program) {
  if (material.golden.empty()) return program.golden();
  ASSAY_ASSIGN_OR_RETURN(const std::string content, DecompressFrame("golden", material.golden));
  v1::CheckpointGolden golden;
  if (!golden.ParseFromString(content)) return absl::InvalidArgumentError("the golden is no message");
  return golden.golden();
}

}  // namespace assay::cli
