// How reports write values: the same words in every format.
#pragma once

#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "assay/v1/batch.pb.h"
#include "assay/v1/result.pb.h"
#include "common/timestamp.h"

namespace assay::report {

// "PASSED"; "UNKNOWN" for a value this build does not know.
std::string OutcomeWord(v1::Outcome outcome);
// Of a job that is not done: "QUEUED", "RUNNING"; of one that is: its outcome.
std::string JobWord(const v1::Job& job);

// "golden", "structural", "" where none is recorded.
absl::string_view EvidenceWord(v1::Evidence evidence);
// "real", "synthetic", "mock", "".
absl::string_view WeightsWord(v1::WeightsKind weights);
// "float32", "bfloat16", "float16"; unset is float32, the default of a batch.
absl::string_view DtypeWord(v1::Dtype dtype);
// That the job ran in, else that it asks for.
v1::Dtype DtypeOf(const v1::Job& job);

// The device that a job ran on ("cpu", "cuda"); where its result does not tell, the one it was to run on, and
// "auto" where that was left open.
std::string DeviceOf(const v1::Job& job);
// "cpu/float32".
std::string TargetOf(const v1::Job& job);

// UTC. "2026-01-02 03:04:05"; "-" for an unset time.
std::string TimeText(const google::protobuf::Timestamp& time);
std::string TimeText(absl::Time time);

// "0.031 s".
std::string SecondsText(double seconds);
// "12.5 MiB"; "-" for 0, which means that it was not measured.
std::string BytesText(uint64_t bytes);
// "31.3 %"; "-" where `of` is 0.
std::string Percent(size_t part, size_t of);

// The file that the model's test is generated into, e.g. "test_hf_command_r.textproto".
std::string TestFileOf(absl::string_view model);

// At most `length` bytes, cut between characters, with "…" where something was cut.
std::string Shorten(absl::string_view text, size_t length);

}  // namespace assay::report
