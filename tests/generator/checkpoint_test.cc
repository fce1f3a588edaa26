// Checkpoints from the batch file to the test: how they are named, what the test of an exported one holds,
// and what no such test may lack.
#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "generator/batch_file.h"
#include "generator/checkpoint_ref.h"
#include "generator/rules.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/generator/sample.h"

namespace assay::generator {
namespace {

using ::testing::AllOf;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::UnorderedElementsAre;

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
const std::string kPin(64, 'd');
const std::string kPinnedConfig(64, 'a');

TEST(ParseCheckpointName, TellsIdRevisionAndFolderApart) {
  ASSERT_OK_AND_ASSIGN(const auto plain, ParseCheckpointName("sentence-transformers/all-MiniLM-L6-v2"));
  EXPECT_EQ(plain.id(), "sentence-transformers/all-MiniLM-L6-v2");
  EXPECT_EQ(plain.revision(), "");
  ASSERT_OK_AND_ASSIGN(const auto pinned, ParseCheckpointName("a/b@refs/pr/3"));
  EXPECT_EQ(pinned.id(), "a/b");
  EXPECT_EQ(pinned.revision(), "refs/pr/3");
  ASSERT_OK_AND_ASSIGN(const auto folder, ParseCheckpointName("/data/my model@2/"));
  EXPECT_EQ(folder.id(), "/data/my model@2");
  EXPECT_EQ(folder.revision(), "");
}

TEST(ParseCheckpointName, RefusesWhatIsNeither) {
  for (const char* bad : {"",
                          "a/b/c",
                          "./model",
                          "../model",
                          "a/..",
                          "model folder",
                          "a/b@",
                          "a/b@../x",
                          "a/b@-x",
                          "a/b@x y",
                          "a/b@/x",
                          "a/b@x/",
                          "a/b@x//y",
                          "/",
                          "/data/../etc",
                          "/data/./x",
                          "a/b\n",
                          "/data/\x01",
                          "https://hub/a/b",
                          "~/model"}) {
    EXPECT_THAT(ParseCheckpointName(bad).status(), StatusIs(kInvalid, Not(IsEmpty()))) << bad;
  }
}

TEST(NameOfCheckpoint, IsMadeOfItsLastPart) {
  EXPECT_THAT(NameOfCheckpoint("sentence-transformers/all-MiniLM-L6-v2"), IsOkAndHolds("all_minilm_l6_v2"));
  EXPECT_THAT(NameOfCheckpoint("/data/Llama 3.1 (8B)"), IsOkAndHolds("llama_3_1_8b"));
  EXPECT_THAT(NameOfCheckpoint("gpt2"), IsOkAndHolds("gpt2"));
  EXPECT_THAT(NameOfCheckpoint("a/___"), StatusIs(kInvalid, HasSubstr("give a name")));
  EXPECT_THAT(NameOfCheckpoint("a/" + std::string(150, 'x')), StatusIs(kInvalid, HasSubstr("give a name")));
}

std::vector<std::string> Errors(absl::string_view content, BatchFile* batch = nullptr) {
  std::vector<v1::FileError> errors;
  const auto read = ParseBatchFile("b.json", content, {"bert", "gpt2"}, &errors);
  EXPECT_EQ(read.ok(), errors.empty());
  if (read.ok() && batch != nullptr) *batch = *read;
  std::vector<std::string> texts;
  for (const v1::FileError& error : errors) texts.push_back(FormatFileError(error));
  return texts;
}

TEST(ParseBatchFile, TakesACheckpointWithTemplateAndTaskAlone) {
  BatchFile batch;
  ASSERT_THAT(Errors(absl::StrCat(R"({"encoder_only": [
      {"checkpoint": "a/Some-Model@v1.0", "template": "bert", "task": "fill-mask"},
      {"name": "bert", "checkpoint": "/models/bert", "weights_digest": ")",
                                  kPin, R"(", "template": "bert", "task": "fill-mask"},
      {"name": "plain", "template": "bert", "task": "fill-mask"}]})"),
                     &batch),
              IsEmpty());
  ASSERT_EQ(batch.models.size(), 3u);
  EXPECT_EQ(batch.models[0].name(), "some_model");
  EXPECT_EQ(batch.models[0].original_name(), "");
  EXPECT_EQ(batch.models[0].checkpoint().id(), "a/Some-Model");
  EXPECT_EQ(batch.models[0].checkpoint().revision(), "v1.0");
  EXPECT_EQ(batch.models[0].checkpoint().commit(), "");
  EXPECT_EQ(batch.models[1].name(), "bert");
  EXPECT_EQ(batch.models[1].checkpoint().id(), "/models/bert");
  EXPECT_EQ(batch.models[1].checkpoint().weights_digest(), kPin);
  EXPECT_FALSE(batch.models[2].has_checkpoint());
}

TEST(ParseBatchFile, RefusesABadCheckpointWithItsPlace) {
  const auto one = [](absl::string_view fields) {
    return absl::StrCat("{\"encoder_only\": [\n{", fields, ", \"template\": \"bert\", \"task\": \"t\"}]}");
  };
  struct Bad {
    std::string fields;
    std::string error;
  };
  const Bad kBad[] = {
      {R"("checkpoint": "models/my/bert")",
       "b.json:2:16: encoder_only[0].checkpoint: must be like 'owner/name'"},
      {R"("checkpoint": "./bert")", "encoder_only[0].checkpoint: must be like"},
      {R"("checkpoint": "/models/../etc")", "encoder_only[0].checkpoint: has '..' in its path"},
      {R"("checkpoint": "a/b@a..b")", "encoder_only[0].checkpoint: revision must be a branch"},
      {R"("checkpoint": 3)", "encoder_only[0].checkpoint: must be a string"},
      {R"("checkpoint": "a/b", "weights_digest": "abc")",
       "encoder_only[0].weights_digest: must be a SHA-256"},
      {absl::StrCat(R"("checkpoint": "a/b", "weights_digest": ")", std::string(64, 'D'), "\""),
       "encoder_only[0].weights_digest: must be a SHA-256"},
      {absl::StrCat(R"("name": "b", "weights_digest": ")", kPin, "\""),
       "b.json:2:33: encoder_only[0].weights_digest: pins the weights of a checkpoint: there is none"},
      {absl::StrCat(R"("checkpoint": "a/b", "config_digest": ")", kPin, "\""),
       "encoder_only[0].config_digest: pins the configuration beside weights_digest: there is none"},
      {R"("checkpoint": "a/--")", "encoder_only[0].checkpoint: must be like"},
      {R"("checkpoint": "a/_")", "encoder_only[0].checkpoint: no model name"},
  };
  for (const Bad& bad : kBad) {
    EXPECT_THAT(Errors(one(bad.fields)), ElementsAre(HasSubstr(bad.error))) << bad.fields;
  }
}

TEST(ParseBatchFile, TwoCheckpointsOfOneNameAreBothNamed) {
  const std::string batch = R"({"encoder_only": [
    {"checkpoint": "a/bert-base", "template": "bert", "task": "t"},
    {"checkpoint": "b/BERT_base", "template": "bert", "task": "t"},
    {"name": "bert-base", "template": "bert", "task": "t"}]})";
  EXPECT_THAT(
      Errors(batch),
      ElementsAre(AllOf(HasSubstr("b.json:3:20: encoder_only[1].checkpoint: model bert_base is named a "
                                  "second time, first in line 2"),
                        HasSubstr("'a/bert-base'"), HasSubstr("'b/BERT_base'")),
                  AllOf(HasSubstr("encoder_only[2].name"), HasSubstr("'a/bert-base'"))));
}

// A template whose loading case is the shipped one's, in little.
v1::Template LoadingTemplate() {
  return Resolve(
             {{"base",
               absl::StrReplaceAll(kBase, {{"weights_bound {}\n    }",
                                            "weights_bound {}\n    } check { name: 'golden' golden {} } "
                                            "check { name: 'answers' answers {} }"}})},
              {"gpt2", absl::StrCat(kGpt2,
                                    "case { name: 'test_model_loading' check { name: 'causality' causality { "
                                    "input: 'input_ids' output: 'logits' position: -2 } } }")}},
             "gpt2")
      .value();
}

// A job of a trained checkpoint, exported with a golden.
struct Exported {
  Exported() {
    job = SampleJob();
    checkpoint.set_id("CohereForAI/c4ai-command-r-v01");
    checkpoint.set_commit(std::string(40, '1'));
    *job.model.mutable_checkpoint() = checkpoint;
    job.model.mutable_checkpoint()->clear_commit();
    made.set_model_class("transformers.CohereModel");
    made.set_program_digest(std::string(64, 'e'));
    made.set_golden_digest(std::string(64, 'f'));
    made.set_memory_bytes(uint64_t{3} << 30);
    made.add_input("input_ids");
    made.add_output("logits");
    *made.mutable_checkpoint() = checkpoint;
    made.mutable_checkpoint()->set_weights_digest(std::string(64, '9'));
    known.set_weights_digest(kPin);
    known.set_config_digest(kPinnedConfig);
    v1::KnownAnswer* answer = known.add_known_answer();
    answer->set_answer("capital");
    answer->set_text("Paris");
  }

  absl::StatusOr<v1::ModelTest> Generate(const v1::CatalogueEntry* with = nullptr) {
    job.checkpoint = &checkpoint;
    job.export_result = &made;
    if (knows) job.checkpoint_entry = &known;
    if (with == nullptr) job.catalogue_digest.clear();
    return generator::Generate(LoadingTemplate(), with, job);
  }

  JobSpec job;
  v1::CheckpointRef checkpoint;
  v1::ExportResult made;
  v1::CheckpointEntry known;
  bool knows = true;
};

std::set<std::string> ChecksOf(const v1::ModelTest& test, absl::string_view case_name) {
  std::set<std::string> names;
  for (const v1::Case& one : test.case_()) {
    for (const v1::Check& check : one.check()) {
      if (one.name() == case_name) names.insert(check.name());
    }
  }
  return names;
}

std::string WhyAbsent(const v1::ModelTest& test, absl::string_view case_name, absl::string_view check) {
  for (const v1::AbsentCheck& absent : test.absent()) {
    if (absent.case_name() == case_name && absent.check() == check) return absent.reason();
  }
  return "";
}

TEST(GenerateForACheckpoint, TheLoadingCaseHasItsOwnProgramAndGolden) {
  Exported exported;
  const v1::CatalogueEntry entry = SampleEntry();
  ASSERT_OK_AND_ASSIGN(const v1::ModelTest test, exported.Generate(&entry));
  EXPECT_EQ(test.trained().id(), "CohereForAI/c4ai-command-r-v01");
  EXPECT_EQ(test.trained().commit(), std::string(40, '1'));
  EXPECT_EQ(test.case_(0).program_digest(), std::string(64, 'e'));
  EXPECT_EQ(test.case_(0).golden_digest(), std::string(64, 'f'));
  EXPECT_THAT(ChecksOf(test, kLoadingCase),
              UnorderedElementsAre("weights_bound", "golden", "answers", "finite", "causality"));
  for (const v1::Check& check : test.case_(0).check()) {
    if (!check.has_answers()) continue;
    ASSERT_EQ(check.answers().known_size(), 1);
    EXPECT_EQ(check.answers().known(0).text(), "Paris");
  }
  // The mock case stays as it is, on the catalogue's program.
  EXPECT_EQ(test.program_digest(), std::string(64, 'c'));
  EXPECT_EQ(test.model_class(), "transformers.CohereForCausalLM");
  EXPECT_EQ(test.case_(1).program_digest(), "");
  EXPECT_THAT(ChecksOf(test, kMockCase), Contains("golden"));
  const std::string text = FormatTest(test);
  EXPECT_THAT(text, HasSubstr("checkpoint CohereForAI/c4ai-command-r-v01 (111111111111)"));
  EXPECT_THAT(VerifyErrors("test_hf_command_r.textproto", text), IsEmpty());
}

TEST(GenerateForACheckpoint, LimitsGrowWithWhatItNeeds) {
  Exported exported;
  ASSERT_OK_AND_ASSIGN(const v1::ModelTest test, exported.Generate());
  EXPECT_EQ(test.limits().memory_bytes(), (uint64_t{2} << 30) + (uint64_t{9} << 29));
  EXPECT_EQ(test.limits().timeout_ms(), 5 * 60'000 + 3 * 120'000u);
  exported.made.set_memory_bytes(~uint64_t{0});
  ASSERT_OK_AND_ASSIGN(const v1::ModelTest huge, exported.Generate());
  EXPECT_EQ(huge.limits().memory_bytes(), kMaxMemoryBytes);
  EXPECT_LE(huge.limits().timeout_ms(), kMaxTimeoutMs);
}

// The digest that an export found vouches for nothing: every checkpoint would be its own witness.
TEST(GenerateForACheckpoint, OnlyTheBatchAndTheProjectPinWeights) {
  Exported exported;
  exported.checkpoint.set_weights_digest(std::string(64, '9'));
  exported.knows = false;
  ASSERT_OK_AND_ASSIGN(const v1::ModelTest unpinned, exported.Generate());
  EXPECT_EQ(unpinned.trained().weights_digest(), "");
  exported.knows = true;
  ASSERT_OK_AND_ASSIGN(const v1::ModelTest by_project, exported.Generate());
  EXPECT_EQ(by_project.trained().weights_digest(), kPin);
  EXPECT_EQ(by_project.trained().config_digest(), kPinnedConfig);
  exported.job.model.mutable_checkpoint()->set_weights_digest(std::string(64, '7'));
  ASSERT_OK_AND_ASSIGN(const v1::ModelTest by_batch, exported.Generate());
  EXPECT_EQ(by_batch.trained().weights_digest(), std::string(64, '7'));
  EXPECT_EQ(by_batch.trained().config_digest(), "") << "the batch's pin stands alone";
  // Another revision has other weights.
  exported.job.model.mutable_checkpoint()->clear_weights_digest();
  exported.checkpoint.set_revision("v2");
  ASSERT_OK_AND_ASSIGN(const v1::ModelTest revision, exported.Generate());
  EXPECT_EQ(revision.trained().weights_digest(), "");
}

TEST(GenerateForACheckpoint, WithoutAGoldenItSaysWhy) {
  Exported exported;
  exported.made.set_no_golden("needs 60 GiB,\nthis exporter has 16");
  ASSERT_OK_AND_ASSIGN(const v1::ModelTest test, exported.Generate());
  EXPECT_THAT(ChecksOf(test, kLoadingCase), AllOf(Not(Contains("golden")), Not(Contains("answers"))));
  EXPECT_EQ(WhyAbsent(test, kLoadingCase, "golden"), "needs 60 GiB, this exporter has 16");
  EXPECT_EQ(WhyAbsent(test, kLoadingCase, "answers"), "needs 60 GiB, this exporter has 16");
  // Its file may still hold the inputs.
  EXPECT_EQ(test.case_(0).golden_digest(), std::string(64, 'f'));
  EXPECT_THAT(VerifyErrors("test_hf_command_r.textproto", FormatTest(test)), IsEmpty());
  exported.made.clear_golden_digest();
  ASSERT_OK_AND_ASSIGN(const v1::ModelTest none, exported.Generate());
  EXPECT_THAT(VerifyErrors("test_hf_command_r.textproto", FormatTest(none)), IsEmpty());
  exported.made.clear_no_golden();
  EXPECT_THAT(exported.Generate(), StatusIs(kInvalid, HasSubstr("does not say why")));
}

TEST(GenerateForACheckpoint, WhatItsProgramHasNotIsAbsentRatherThanWrong) {
  Exported exported;
  exported.made.clear_output();
  exported.made.add_output("last_hidden_state");
  const v1::CatalogueEntry entry = SampleEntry();
  ASSERT_OK_AND_ASSIGN(const v1::ModelTest test, exported.Generate(&entry));
  EXPECT_THAT(ChecksOf(test, kLoadingCase), Not(Contains("causality")));
  EXPECT_THAT(WhyAbsent(test, kLoadingCase, "causality"),
              AllOf(HasSubstr("has no logits"), HasSubstr("last_hidden_state")));
  EXPECT_THAT(ChecksOf(test, kMockCase), Contains("causality"));
  // Nothing is left out on no grounds.
  exported.made.clear_input();
  exported.made.clear_output();
  ASSERT_OK_AND_ASSIGN(const v1::ModelTest unknown, exported.Generate(&entry));
  EXPECT_THAT(ChecksOf(unknown, kLoadingCase), Contains("causality"));
}

TEST(GenerateForACheckpoint, WithoutATinyProgramTheMockCaseIsAbsent) {
  Exported exported;
  exported.job.program_digest.clear();
  ASSERT_OK_AND_ASSIGN(const v1::ModelTest test, exported.Generate());
  ASSERT_EQ(test.case__size(), 1);
  EXPECT_EQ(test.model_class(), "transformers.CohereModel");
  for (const char* check : {"golden", "finite", "batch_invariance", "causality"}) {
    EXPECT_THAT(WhyAbsent(test, kMockCase, check), HasSubstr("no program of this model")) << check;
  }
  EXPECT_THAT(VerifyErrors("test_hf_command_r.textproto", FormatTest(test)), IsEmpty());
}

TEST(GenerateForACheckpoint, MayBeOfAnotherTaskThanTheCatalogues) {
  Exported exported;
  const v1::CatalogueEntry entry = SampleEntry();
  exported.job.model.set_task("feature-extraction");
  ASSERT_OK_AND_ASSIGN(const v1::ModelTest test, exported.Generate(&entry));
  EXPECT_EQ(test.task(), "feature-extraction");
  exported.job.model.clear_checkpoint();
  EXPECT_THAT(exported.Generate(&entry), StatusIs(kInvalid, HasSubstr("the batch names task")));
}

TEST(GenerateForACheckpoint, TheEntrysSayOnTensorsHoldsOfTheLoadingCaseToo) {
  Exported exported;
  exported.made.add_input("ids");
  exported.made.add_output("scores");
  v1::CatalogueEntry entry = SampleEntry();
  v1::CheckOverride* replaced = entry.add_replace_check();
  replaced->set_case_name(std::string(kMockCase));
  replaced->mutable_check()->set_name("causality");
  replaced->mutable_check()->mutable_causality()->set_input("ids");
  replaced->mutable_check()->mutable_causality()->set_output("scores");
  replaced->mutable_check()->mutable_causality()->set_position(-3);
  ASSERT_OK_AND_ASSIGN(const v1::ModelTest test, exported.Generate(&entry));
  EXPECT_EQ(test.case_(0).check(4).causality().input(), "ids");
  entry.clear_replace_check();
  v1::NotApplicable* never = entry.add_not_applicable();
  never->set_case_name(std::string(kMockCase));
  never->set_check("causality");
  never->set_reason("reads both ways");
  ASSERT_OK_AND_ASSIGN(const v1::ModelTest without, exported.Generate(&entry));
  EXPECT_EQ(WhyAbsent(without, kLoadingCase, "causality"), "reads both ways");
  EXPECT_EQ(WhyAbsent(without, kMockCase, "causality"), "reads both ways");
  EXPECT_THAT(VerifyErrors("test_hf_command_r.textproto", FormatTest(without)), IsEmpty());
  // Of numbers it does not: that a mock golden is not comparable says nothing of a trained one.
  entry.mutable_not_applicable(0)->set_check("golden");
  ASSERT_OK_AND_ASSIGN(const v1::ModelTest numbers, exported.Generate(&entry));
  EXPECT_THAT(ChecksOf(numbers, kLoadingCase), Contains("golden"));
}

TEST(GenerateForACheckpoint, KnownAnswersAreNotLeftOutInSilence) {
  Exported exported;
  v1::CatalogueEntry entry = SampleEntry();
  v1::NotApplicable& absent = *entry.add_not_applicable();
  absent.set_case_name(std::string(kLoadingCase));
  absent.set_check("answers");
  absent.set_reason("it says nothing");
  EXPECT_THAT(exported.Generate(&entry),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("has known answers, and no check")));
  exported.known.clear_known_answer();
  EXPECT_THAT(exported.Generate(&entry), IsOk());
}

TEST(GenerateForACheckpoint, WithoutAnExportTheNumbersOfTrainedWeightsAreAbsent) {
  const v1::CatalogueEntry entry = SampleEntry();
  ASSERT_OK_AND_ASSIGN(const v1::ModelTest test, Generate(LoadingTemplate(), &entry, SampleJob()));
  EXPECT_FALSE(test.has_trained());
  EXPECT_THAT(WhyAbsent(test, kLoadingCase, "golden"), HasSubstr("no checkpoint was exported"));
  EXPECT_THAT(WhyAbsent(test, kLoadingCase, "answers"), HasSubstr("no checkpoint was exported"));
  EXPECT_THAT(VerifyErrors("test_hf_command_r.textproto", FormatTest(test)), IsEmpty());
}

TEST(GenerateForACheckpoint, RefusesWhatDoesNotBelongTogether) {
  Exported exported;
  exported.made.clear_program_digest();
  EXPECT_THAT(exported.Generate(), StatusIs(kInvalid, HasSubstr("made no program")));
  Exported evil;
  evil.checkpoint.set_id("/models/../etc");
  EXPECT_THAT(evil.Generate(), StatusIs(kInvalid, HasSubstr("trained.id")));
  Exported commit;
  commit.checkpoint.set_commit("main");
  EXPECT_THAT(commit.Generate(), StatusIs(kInvalid, HasSubstr("trained.commit")));
  Exported digest;
  digest.made.set_golden_digest("../x");
  EXPECT_THAT(digest.Generate(), StatusIs(kInvalid, HasSubstr("case[0].golden_digest")));
  Exported alone;
  alone.job.export_result = &alone.made;
  alone.job.catalogue_digest.clear();
  EXPECT_THAT(Generate(LoadingTemplate(), nullptr, alone.job),
              StatusIs(kInvalid, HasSubstr("its checkpoint")));
}

// Every rule on tests of checkpoints: one change that breaks it.
TEST(VerifyTestOfACheckpoint, EveryRuleFires) {
  Exported exported;
  const v1::CatalogueEntry entry = SampleEntry();
  ASSERT_OK_AND_ASSIGN(const v1::ModelTest test, exported.Generate(&entry));
  const auto refused = [&](absl::string_view error, auto change) {
    v1::ModelTest changed = test;
    change(changed);
    EXPECT_THAT(VerifyErrors("test_hf_command_r.textproto", FormatTest(changed)),
                Contains(HasSubstr(std::string(error))));
  };
  refused("case[0].program_digest: is a checkpoint's", [](auto& test) { test.clear_trained(); });
  refused("trained: no case has the checkpoint's program",
          [](auto& test) { test.mutable_case_(0)->clear_program_digest(); });
  refused("case[0].golden_digest: is of no program",
          [](auto& test) { test.mutable_case_(0)->clear_program_digest(); });
  refused("case[0].check[1].golden: the case has no golden of its own",
          [](auto& test) { test.mutable_case_(0)->clear_golden_digest(); });
  refused("case[0].check[2].answers: the case has no golden of its own",
          [](auto& test) { test.mutable_case_(0)->clear_golden_digest(); });
  refused("case[0]: has no check of kind golden, and no absent entry says why",
          [](auto& test) { test.mutable_case_(0)->mutable_check()->DeleteSubrange(1, 1); });
  refused("case[1]: has a program or golden of its own",
          [](auto& test) { test.mutable_case_(1)->set_program_digest(std::string(64, 'a')); });
  refused("has no case test_model_with_mock",
          [](auto& test) { test.mutable_case_()->RemoveLast(); });  // it has a tiny program
  refused("trained.weights_digest: must be a SHA-256",
          [](auto& test) { test.mutable_trained()->set_weights_digest("x"); });
  refused("check[2].answers.known[0].text: is missing", [](auto& test) {
    test.mutable_case_(0)->mutable_check(2)->mutable_answers()->mutable_known(0)->clear_text();
  });
}

}  // namespace
}  // namespace assay::generator
