#include "engine/check_answers.h"

#include <c10/util/Exception.h>

#include <algorithm>
#include <new>
#include <set>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"
#include "engine/answers.h"
#include "engine/tensors.h"

namespace assay::engine {
namespace {

using Tensors = std::vector<at::Tensor>;

// `expected` holds the golden's outputs; empty where eager did not run: what is known is then all there is to
// compare with.
void CheckAnswer(const v1::Answer& answer, const v1::Check::Answers& answers, const BoundCase& bound,
                 const Tensors& expected, Finding& finding) {
  const v1::Manifest& manifest = bound.program.manifest();
  const std::string what = absl::StrCat("answer '", ForPeople(answer.name()), "': ");
  auto read = ReadOff(answer, manifest, bound.inputs, bound.outputs);
  if (!read.ok()) return finding.Break(absl::StrCat(what, read.status().message()));
  bool compared = false;
  if (!expected.empty()) {
    compared = true;
    // A label or a text that was exchanged shows by the golden's own numbers.
    auto eager = ReadOff(answer, manifest, bound.inputs, expected);
    if (!eager.ok() || eager->choice != answer.expected()) {
      finding.Break(absl::StrCat(
          what, "the golden expects '", ForPeople(answer.expected()), "', and its own outputs say '",
          eager.ok() ? ForPeople(eager->choice) : std::string(eager.status().message()), "'"));
    }
  }
  if (!answer.expected().empty()) {
    compared = true;
    if (read->choice != answer.expected()) {
      finding.Break(absl::StrCat(what, "'", ForPeople(read->choice), "' where eager answered '",
                                 ForPeople(answer.expected()), "'"));
    }
  }
  for (const v1::KnownAnswer& known : answers.known()) {
    if (known.answer() != answer.name()) continue;
    compared = true;
    if (known.text() != read->choice) {
      finding.Break(absl::StrCat(what, "'", ForPeople(read->choice), "' where it is known to be '",
                                 ForPeople(known.text()), "'"));
    }
  }
  if (!compared) finding.Break(absl::StrCat(what, "there is nothing to compare it with"));
}

}  // namespace

absl::StatusOr<Finding> CheckAnswers(const v1::Check::Answers& answers, const BoundCase& bound) {
  Finding finding;
  if (bound.checkpoint == nullptr) {
    return absl::InvalidArgumentError("there is no golden with an answer to compare with");
  }
  if (bound.checkpoint->answer().empty() && answers.known().empty()) {
    finding.nothing = "the golden has no answer: nothing of its inputs or outputs can be put in words";
    return finding;
  }
  std::set<std::string> names;
  for (const v1::Answer& answer : bound.checkpoint->answer()) names.insert(answer.name());
  for (const v1::KnownAnswer& known : answers.known()) {
    if (names.count(known.answer()) > 0) continue;
    finding.Break(absl::StrCat("known answer '", known.answer(), "': the golden has no such answer"));
  }
  ASSAY_ASSIGN_OR_RETURN(const Tensors expected, GoldenOutputs(bound.golden));
  for (const v1::Answer& answer : bound.checkpoint->answer()) {
    CheckAnswer(answer, answers, bound, expected, finding);
  }
  return finding;
}

std::vector<v1::AnswerResult> AnswersOf(const BoundCase& bound, const v1::Case& test_case) {
  std::vector<v1::AnswerResult> results;
  if (bound.checkpoint == nullptr) return results;
  std::set<std::string> known;
  for (const v1::Check& check : test_case.check()) {
    for (const v1::KnownAnswer& answer : check.answers().known()) known.insert(answer.answer());
  }
  for (const v1::Answer& answer : bound.checkpoint->answer()) {
    v1::AnswerResult result;
    try {
      auto read = ReadOff(answer, bound.program.manifest(), bound.inputs, bound.outputs);
      if (!read.ok()) continue;
      result.set_text(read->shown);
    } catch (const c10::Error&) {
      continue;
    } catch (const std::bad_alloc&) {
      continue;
    }
    result.set_name(ForPeople(answer.name()));
    result.set_question(ForPeople(answer.question()));
    result.set_expected(ForPeople(answer.expected()));
    result.set_known(known.count(answer.name()) > 0);
    results.push_back(std::move(result));
  }
  return results;
}

}  // namespace assay::engine
