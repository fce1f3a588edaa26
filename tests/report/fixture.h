// Recorded results, made by hand: what a coordinator would hand to a report.
#pragma once

#include <string>

#include "coordinator/report/report.h"

namespace assay::report {

// 2025-04-12 12:00:00 UTC: batches 1 and 2 of the plan are overdue, batch 3 is not.
absl::Time TestNow();

// The protobuf timestamp `seconds` after TestNow's day began.
google::protobuf::Timestamp At(int64_t seconds);

TrackedModel Tracked(const std::string& name, Priority priority, const std::string& arch_type,
                     uint32_t batch = 0);

// A case that ended so, with one check named "golden" of the same outcome, or with none where it was skipped.
v1::CaseResult MakeCase(const std::string& name, v1::Outcome outcome, v1::WeightsKind weights,
                        v1::Evidence evidence);

// A done job on the CPU: loading SKIPPED for want of weights, mock PASSED with a golden, provenance complete.
v1::Job PassedJob(const std::string& job_id, const std::string& model, int64_t end_seconds);
// The same with another outcome: its mock case ended so too where that is a case's outcome (FAILED), else it
// has no mock case. `device` is empty where the result tells none.
v1::Job FailedJob(const std::string& job_id, const std::string& model, int64_t end_seconds,
                  v1::Outcome outcome, const std::string& device = "cpu");

// PassedJob of a trained checkpoint: exported, loaded with the hub's SHA-256, compared with its golden, and
// one known answer given. Everything that real coverage asks for.
v1::Job RealJob(const std::string& job_id, const std::string& model, int64_t end_seconds);
// The same, ended by its export, which came to `outcome`.
v1::Job FailedExport(const std::string& job_id, const std::string& model, int64_t end_seconds,
                     v1::Outcome outcome);

// What a team with checkpoints sees: one that counts, and each kind that does not.
ReportInput CheckpointInput();

// Seven tracked models of every priority and one that is not tracked; two batches; every outcome.
ReportInput MixedInput();

}  // namespace assay::report
