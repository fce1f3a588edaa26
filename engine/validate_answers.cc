// The checkpoint golden's part of engine/validate.h.
#include <algorithm>
#include <cmath>
#include <string>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "engine/validate.h"

namespace assay::engine {
namespace {

// Texts come out of a tokenizer's files, which nobody vouches for, and end up in reports.
constexpr size_t kMaxName = 1000;
constexpr size_t kMaxText = size_t{64} << 10;
constexpr size_t kMaxLabel = 4096;
constexpr int kMaxAnswers = 256;
constexpr size_t kMaxLabels = 100'000;
constexpr uint32_t kMaxShown = 100;

template <typename... Parts>
absl::Status Invalid(const Parts&... parts) {
  return absl::InvalidArgumentError(absl::StrCat(parts...));
}

template <typename Specs>
const typename Specs::value_type* Named(const Specs& specs, const std::string& name) {
  const auto found =
      std::find_if(specs.begin(), specs.end(), [&](const auto& s) { return s.name() == name; });
  return found == specs.end() ? nullptr : &*found;
}

absl::StatusOr<const v1::OutputSpec*> FloatOutput(const v1::Manifest& manifest, const std::string& name) {
  const v1::OutputSpec* output = Named(manifest.outputs(), name);
  if (output == nullptr) return Invalid("the program has no output '", name, "'");
  if (!IsFloatingPoint(output->dtype())) return Invalid("output '", name, "' is not floating point");
  return output;
}

absl::Status CheckTop(const v1::Answer::Top& top, const v1::Manifest& manifest) {
  ASSAY_ASSIGN_OR_RETURN(const v1::OutputSpec* output, FloatOutput(manifest, top.output()));
  if (output->shape_size() < 1 || top.index_size() != output->shape_size() - 1) {
    return Invalid(top.index_size(), " indexes into output '", top.output(), "' of ", output->shape_size(),
                   " dimensions; all but the last are needed");
  }
  for (int i = 0; i < top.index_size(); ++i) {
    if (top.index(i) >= output->shape(i)) {
      return Invalid("index ", top.index(i), " of ", output->shape(i), " in dimension ", i, " of '",
                     top.output(), "'");
    }
  }
  // The largest of one number is always the same.
  if (output->shape(output->shape_size() - 1) < 2) return Invalid("'", top.output(), "' has one class only");
  if (top.count() < 1 || top.count() > kMaxShown) return Invalid("a count of ", top.count());
  return absl::OkStatus();
}

absl::Status CheckGreedy(const v1::Answer::Greedy& greedy, const v1::Manifest& manifest) {
  ASSAY_ASSIGN_OR_RETURN(const v1::OutputSpec* output, FloatOutput(manifest, greedy.output()));
  if (output->shape_size() != 3)
    return Invalid("'", greedy.output(), "' is not [batch, sequence, vocabulary]");
  const int64_t batch = output->shape(0), length = output->shape(1), vocabulary = output->shape(2);
  if (greedy.row() >= batch) return Invalid("row ", greedy.row(), " of ", batch);
  if (greedy.token().empty()) return Invalid("it decodes no token");
  if (greedy.token_size() > length || greedy.first() > length - greedy.token_size()) {
    return Invalid(greedy.token_size(), " tokens from position ", greedy.first(), " on, of ", length);
  }
  const auto known = [&](int64_t id) { return id >= 0 && id < vocabulary; };
  absl::flat_hash_set<int64_t> never(greedy.suppressed().begin(), greedy.suppressed().end());
  absl::flat_hash_set<int64_t> not_first(greedy.suppressed_first().begin(), greedy.suppressed_first().end());
  if (never.size() > kMaxLabels || not_first.size() > kMaxLabels)
    return Invalid("too many suppressed tokens");
  if (!std::all_of(never.begin(), never.end(), known) ||
      !std::all_of(not_first.begin(), not_first.end(), known)) {
    return Invalid("a suppressed token outside the vocabulary of ", vocabulary);
  }
  for (int i = 0; i < greedy.token_size(); ++i) {
    const int64_t id = greedy.token(i);
    if (!known(id)) return Invalid("token ", id, " outside the vocabulary of ", vocabulary);
    if (never.contains(id) || (i == 0 && not_first.contains(id)))
      return Invalid("token ", id, " is suppressed");
  }
  if (greedy.text().empty() || greedy.text().size() > kMaxText) {
    return Invalid("a text of ", greedy.text().size(), " bytes");
  }
  return absl::OkStatus();
}

absl::Status CheckNearest(const v1::Answer::Nearest& nearest, const v1::Manifest& manifest) {
  ASSAY_ASSIGN_OR_RETURN(const v1::OutputSpec* output, FloatOutput(manifest, nearest.output()));
  const bool sequence = !nearest.mask().empty();
  if (output->shape_size() != (sequence ? 3 : 2)) {
    return Invalid("'", nearest.output(), "' has ", output->shape_size(), " dimensions, ",
                   sequence ? "[batch, sequence, width] is needed with a mask"
                            : "[batch, width] is needed without a mask");
  }
  if (sequence) {
    const v1::InputSpec* mask = Named(manifest.inputs(), nearest.mask());
    if (mask == nullptr) return Invalid("the program has no input '", nearest.mask(), "'");
    if (mask->shape_size() != 2 || mask->shape(0) != output->shape(0) || mask->shape(1) != output->shape(1)) {
      return Invalid("mask '", nearest.mask(), "' is not [batch, sequence] of '", nearest.output(), "'");
    }
  }
  // Of two rows, the other one is always the nearest.
  if (output->shape(0) < 3)
    return Invalid("'", nearest.output(), "' has fewer than three rows to choose from");
  if (nearest.row() >= output->shape(0)) return Invalid("row ", nearest.row(), " of ", output->shape(0));
  return absl::OkStatus();
}

absl::Status CheckAnswer(const v1::Answer& answer, const v1::Manifest& manifest, bool reference) {
  if (answer.question().size() > kMaxText)
    return Invalid("a question of ", answer.question().size(), " bytes");
  if (answer.expected().size() > kMaxText)
    return Invalid("an expected text of ", answer.expected().size(), " bytes");
  if (reference && answer.expected().empty()) return Invalid("no expected text, though eager has run");
  if (answer.label().size() > kMaxLabels) return Invalid(answer.label().size(), " labels");
  for (const auto& [id, text] : answer.label()) {
    if (text.size() > kMaxLabel) return Invalid("label ", id, " has ", text.size(), " bytes");
  }
  switch (answer.kind_case()) {
    case v1::Answer::kTop:
      return CheckTop(answer.top(), manifest);
    case v1::Answer::kGreedy:
      return CheckGreedy(answer.greedy(), manifest);
    case v1::Answer::kNearest:
      return CheckNearest(answer.nearest(), manifest);
    case v1::Answer::KIND_NOT_SET:
      break;
  }
  return Invalid("no kind, or one that this engine does not know");
}

}  // namespace

absl::Status ValidateCheckpointGolden(const v1::Program& program, const v1::CheckpointGolden& golden) {
  ASSAY_RETURN_IF_ERROR(ValidateGolden(program, golden.golden(), GoldenForm::kMayHaveInputsOnly));
  if (golden.answer_size() > kMaxAnswers) return Invalid("the golden has ", golden.answer_size(), " answers");
  absl::flat_hash_set<absl::string_view> names;
  for (const v1::Answer& answer : golden.answer()) {
    if (answer.name().empty()) return Invalid("an answer without a name");
    if (answer.name().size() > kMaxName)
      return Invalid("an answer with a name of ", answer.name().size(), " bytes");
    if (!names.insert(answer.name()).second) return Invalid("answer '", answer.name(), "' is there twice");
    const absl::Status status =
        CheckAnswer(answer, program.manifest(), /*reference=*/!golden.golden().outputs().empty());
    if (!status.ok()) return Invalid("answer '", answer.name(), "': ", status.message());
  }
  return absl::OkStatus();
}

}  // namespace assay::engine
