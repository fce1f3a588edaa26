// Answers on standard output: tables for people, JSON for machines, files where asked.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "assay/v1/coordinator.pb.h"
#include "common/exit_code.h"
#include "google/protobuf/message.h"

namespace assay::cli {

// Columns padded to their widest cell, two spaces apart; control characters replaced.
std::string Table(const std::vector<std::vector<std::string>>& rows);

// Four spaces before each, a line feed after it; control characters replaced, cut after 400 bytes.
std::string Indented(const std::vector<std::string>& lines);

// proto3 JSON with the proto's field names, fields at their defaults included, one line feed at the end.
// INTERNAL where the message has a value that JSON cannot hold.
absl::StatusOr<std::string> ToJson(const google::protobuf::Message& message);

// The same on one line.
absl::StatusOr<std::string> ToJsonLine(const google::protobuf::Message& message);

// To `path`, atomically; to standard output where it is empty. UNAVAILABLE or what the system says where it
// cannot be written (a full disk, a closed pipe).
absl::Status Write(const std::string& path, absl::string_view content);

// "assay: <message>" on standard error; the exit code that goes with the status.
ExitCode Complain(const absl::Status& status);
// "file:line:column: field: message" on standard error, one a line.
void ComplainOf(const std::vector<v1::FileError>& errors);

// How a run ends: kExitTestsFailed where some job has any verdict but PASSED, or one model's outputs on two
// kinds of device differ (report/parity.h); else kExitInfrastructure where some could not be tried; else
// kExitInterrupted where some were cancelled; kExitNoTests where none ran.
ExitCode ExitCodeOfJobs(const std::vector<v1::Job>& jobs);

// "batch 1234 (batch_1_models.json): 9 PASSED, 1 FAILED of 10".
std::string BatchLine(const v1::Batch& batch);

}  // namespace assay::cli
