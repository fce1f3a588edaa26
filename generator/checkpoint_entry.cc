#include "generator/checkpoint_entry.h"

#include <algorithm>
#include <set>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/status_macros.h"
#include "common/textproto.h"
#include "generator/names.h"
#include "generator/rules.h"
#include "generator/textproto_folder.h"

namespace assay::generator {
namespace {

// A file of models/samples/ by its own name, so that no entry reaches out of that folder.
bool IsPlainFileName(absl::string_view name) {
  return !name.empty() && name.size() <= kMaxNameLength && name[0] != '.' &&
         std::all_of(name.begin(), name.end(),
                     [](char c) { return absl::ascii_isalnum(c) || c == '_' || c == '-' || c == '.'; });
}

void ExamineSample(const v1::Sample& sample, const Path& at, std::vector<Problem>* problems) {
  const auto add = [&](Path path, std::string message) {
    problems->push_back({std::move(path), std::move(message)});
  };
  if (!sample.answer().empty() && !IsName(sample.answer())) {
    add(Join(at, "answer"),
        absl::StrCat("must be lower-case letters, digits and underscores, is ", Quoted(sample.answer())));
  }
  const auto examine_file = [&](const std::string& file, const char* field) {
    if (!file.empty() && !IsPlainFileName(file)) {
      add(Join(at, field),
          absl::StrCat("must be the plain name of a file in models/samples/, is ", Quoted(file)));
    }
  };
  examine_file(sample.picture(), "picture");
  examine_file(sample.speech(), "speech");
  if (!sample.picture().empty() && !sample.speech().empty()) add(at, "has a picture and speech: one of them");
  if (!sample.text().empty() && !sample.token().empty()) add(at, "has text and tokens: one of them");
  if (sample.text().empty() && sample.token().empty() && sample.picture().empty() &&
      sample.speech().empty()) {
    add(at, "puts nothing in: text, token, picture or speech");
  }
  for (int i = 0; i < sample.token_size(); ++i) {
    if (sample.token(i).empty()) add(Join(at, "token", i), "is empty");
  }
}

std::vector<Problem> ExamineEntry(const v1::CheckpointEntry& entry, absl::string_view file) {
  std::vector<Problem> problems;
  const auto add = [&](Path path, std::string message) {
    problems.push_back({std::move(path), std::move(message)});
  };
  ExamineStrings(entry, {}, &problems);
  ExamineNameInFile(entry.name(), file, &problems);
  if (entry.checkpoint().empty()) add(Join({}, "checkpoint"), "is missing: the id that batches name it by");
  ExamineCheckpoint(entry.checkpoint(), Join({}, "checkpoint"), &problems);
  if (!entry.model().empty() && !IsName(entry.model())) {
    add(Join({}, "model"), absl::StrCat("must name a tracked model, is ", Quoted(entry.model())));
  }
  if (!entry.template_().empty() && !IsName(entry.template_())) {
    add(Join({}, "template"), absl::StrCat("must name a template, is ", Quoted(entry.template_())));
  }
  if (!entry.task().empty() && !IsTask(entry.task())) {
    add(Join({}, "task"), absl::StrCat("must be like 'fill-mask', is ", Quoted(entry.task())));
  }
  if (!entry.model_class().empty()) ExamineClass(entry.model_class(), Join({}, "model_class"), &problems);
  ExamineDigest(entry.weights_digest(), Join({}, "weights_digest"), &problems);
  ExamineDigest(entry.config_digest(), Join({}, "config_digest"), &problems);
  std::set<std::string> answers;
  for (int i = 0; i < entry.sample_size(); ++i) {
    const Path at = Join({}, "sample", i);
    ExamineSample(entry.sample(i), at, &problems);
    if (!entry.sample(i).answer().empty() && !answers.insert(entry.sample(i).answer()).second) {
      add(Join(at, "answer"),
          absl::StrCat("a second sample that answers ", Quoted(entry.sample(i).answer())));
    }
  }
  ExamineKnownAnswers(entry.known_answer(), {}, "known_answer", &problems);
  for (int i = 0; i < entry.known_answer_size(); ++i) {
    if (answers.count(entry.known_answer(i).answer()) > 0) continue;
    add(Join(Join({}, "known_answer", i), "answer"),
        absl::StrCat("no sample answers ", Quoted(entry.known_answer(i).answer()),
                     answers.empty() ? "" : absl::StrCat("; there are ", absl::StrJoin(answers, ", "))));
  }
  return problems;
}

}  // namespace

absl::StatusOr<v1::CheckpointEntry> ParseCheckpointEntry(absl::string_view file, absl::string_view text) {
  v1::CheckpointEntry entry;
  ASSAY_RETURN_IF_ERROR(ParseTextProto(file, text, entry));
  ASSAY_RETURN_IF_ERROR(ProblemsToStatus(file, ExamineEntry(entry, file)));
  return entry;
}

absl::StatusOr<std::map<std::string, v1::CheckpointEntry>> LoadCheckpointEntries(
    const std::filesystem::path& dir) {
  std::map<std::string, v1::CheckpointEntry> entries;
  ASSAY_RETURN_IF_ERROR(ForEachTextProto(dir, [&](const std::string& file, absl::string_view text) {
    absl::StatusOr<v1::CheckpointEntry> one = ParseCheckpointEntry(file, text);
    ASSAY_RETURN_IF_ERROR(one.status());
    const auto [other, fresh] = entries.emplace(one->checkpoint(), *one);
    if (!fresh) {
      return absl::InvalidArgumentError(absl::StrCat(file, ": checkpoint: ", Quoted(one->checkpoint()),
                                                     " is known from ", other->second.name(),
                                                     ".textproto already"));
    }
    return absl::OkStatus();
  }));
  return entries;
}

void PinByEntry(const v1::CheckpointEntry* entry, v1::CheckpointRef& checkpoint) {
  const bool main = checkpoint.revision().empty() || checkpoint.revision() == "main";
  if (entry == nullptr || !main || !checkpoint.weights_digest().empty()) return;
  checkpoint.set_weights_digest(entry->weights_digest());
  checkpoint.set_config_digest(entry->config_digest());
}

}  // namespace assay::generator
