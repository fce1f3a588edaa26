// What must hold of a test and of its parts: one set of rules for templates, catalogue entries and test
// files. Pure functions, safe from any thread.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "assay/v1/test.pb.h"
#include "google/protobuf/message.h"

namespace assay::generator {

inline constexpr absl::string_view kLoadingCase = "test_model_loading";
inline constexpr absl::string_view kMockCase = "test_model_with_mock";

// Larger templates, entries and tests are refused, in bytes.
inline constexpr size_t kMaxTextBytes = size_t{1} << 20;

// Most that a test may ask for.
inline constexpr uint64_t kMaxMemoryBytes = uint64_t{1} << 44;
inline constexpr uint32_t kMaxTimeoutMs = 24 * 60 * 60 * 1000;

// One step from a message to one of its fields; index is -1 for a field that is not repeated.
struct Step {
  std::string field;
  int index = -1;
};
using Path = std::vector<Step>;

// "case[1].check[0].golden"; empty for the message itself.
std::string FormatPath(const Path& path);
Path Join(Path path, std::string field, int index = -1);

struct Problem {
  Path path;
  std::string message;
};

// INVALID_ARGUMENT "<what>: <path>: <message>", one problem a line; OK where there is none.
absl::Status ProblemsToStatus(absl::string_view what, const std::vector<Problem>& problems);

// Each appends what it finds wrong with the part that stands at `path`.
// Every string: UTF-8, no control characters, at most 4096 bytes.
void ExamineStrings(const google::protobuf::Message& message, const Path& path,
                    std::vector<Problem>* problems);
void ExamineCaseName(absl::string_view name, const Path& path, std::vector<Problem>* problems);
void ExamineCheck(const v1::Check& check, const Path& path, std::vector<Problem>* problems);
void ExamineOriginalName(absl::string_view original, absl::string_view name, const Path& path,
                         std::vector<Problem>* problems);
void ExamineArchType(absl::string_view arch_type, const Path& path, std::vector<Problem>* problems);
// A dotted Python name such as "transformers.BertForMaskedLM".
void ExamineClass(absl::string_view name, const Path& path, std::vector<Problem>* problems);
// An id of the hub (CheckCheckpointId), or empty.
void ExamineCheckpoint(absl::string_view id, const Path& path, std::vector<Problem>* problems);

// An id as above or an absolute folder without "..", a revision such as a branch, tag or commit, a commit in
// 40 and a weights digest in 64 hex digits. All but the id may be empty.
void ExamineCheckpointRef(const v1::CheckpointRef& ref, const Path& path, std::vector<Problem>* problems);
// SHA-256 in 64 lower-case hex digits, or empty.
void ExamineDigest(absl::string_view digest, const Path& path, std::vector<Problem>* problems);
// Each has an answer's name and a text, and each answer is known once.
void ExamineKnownAnswers(const google::protobuf::RepeatedPtrField<v1::KnownAnswer>& known, const Path& path,
                         const std::string& field, std::vector<Problem>* problems);

// A whole test: all of the above, and how the parts belong together.
std::vector<Problem> ExamineTest(const v1::ModelTest& test);

// set_up, limits, cases and absent checks alone: the part of a test that its template decides. That the
// loading case has a golden to be held against is only known of a whole test.
std::vector<Problem> ExaminePlanned(const v1::ModelTest& test);

// The kind's field name: "golden", "causality", …; empty where none is set.
std::string KindOf(const v1::Check& check);

// The program's inputs and outputs that a check names; empty: it is about all of them, or about weights.
std::vector<std::string> TensorNamesOf(const v1::Check& check);

}  // namespace assay::generator
