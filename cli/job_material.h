// What a job ran on, brought together: its record, its program and golden. For `assay repro` and `assay
// reduce`.
#pragma once

#include <filesystem>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "assay/v1/batch.pb.h"
#include "assay/v1/program.pb.h"
#include "cli/connection.h"

namespace assay::cli {

struct JobMaterial {
  v1::Job job;
  // The case that is looked into: the first with a divergence, else the first that failed, else the first
  // that ran. Points into `job`.
  const v1::CaseResult& Case() const;
  std::string program;  // the file's bytes, of that case's program
  std::string golden;   // of its golden; empty: the program's own
};

// From a coordinator. NOT_FOUND: no such job, or a file of it is no longer kept. FAILED_PRECONDITION: it has
// not run, or nothing of it did.
absl::StatusOr<JobMaterial> FetchMaterial(Connection& connection, const std::string& job_id);
absl::StatusOr<JobMaterial> FetchMaterial(Connection& connection, v1::Job job);

// As `assay run` leaves it for each job that failed: job.textproto, program.assay and, where there is one,
// golden.assay.
absl::Status WriteMaterial(const JobMaterial& material, const std::filesystem::path& folder);
absl::StatusOr<JobMaterial> ReadMaterial(const std::filesystem::path& folder);

// Of a folder that is one of WriteMaterial, else of the job of that id.
absl::StatusOr<JobMaterial> FindMaterial(const ConnectionOptions& connection,
                                         const std::string& folder_or_job);

// The messages in the files.
absl::StatusOr<v1::Program> ProgramOf(const JobMaterial& material);
// The checkpoint's, or the program's own.
absl::StatusOr<v1::Golden> GoldenOf(const JobMaterial& material, const v1::Program& program);

}  // namespace assay::cli
