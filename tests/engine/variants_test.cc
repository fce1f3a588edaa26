// Checks that run a variant of a real program: each holds, and fails for one that was changed so that it
// must.
#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "assay/v1/program.pb.h"
#include "tests/engine/altered_program.h"
#include "tests/engine/real_checkpoint.h"
#include "tests/matchers.h"

namespace assay::engine {
namespace {

using ::testing::HasSubstr;

constexpr char kSdpa[] = "check { name: 'c' sdpa {} }";
constexpr char kCache[] = "check { name: 'c' kv_cache {} }";
constexpr char kGenerate[] = "check { name: 'c' generate {} }";
constexpr char kShapes[] = "check { name: 'c' dynamic_shapes {} }";

void ExpectHolds(const v1::Program& program, const std::string& check) {
  const v1::CheckResult found = Judge(program, check);
  EXPECT_EQ(found.outcome(), v1::PASSED) << program.manifest().model() << ": " << found.message();
  EXPECT_TRUE(found.has_error() && found.has_tolerance()) << check;
}

void ExpectFails(const v1::Program& program, const std::string& check, const std::string& message) {
  const v1::CheckResult found = Judge(program, check);
  EXPECT_EQ(found.outcome(), v1::FAILED) << program.manifest().model();
  EXPECT_THAT(found.message(), HasSubstr(message));
}

v1::Variant& VariantOf(v1::Program& program, const std::string& name) {
  for (v1::Variant& variant : *program.mutable_variant()) {
    if (variant.name() == name) return variant;
  }
  ADD_FAILURE() << program.manifest().model() << " has no variant " << name;
  return *program.add_variant();
}

v1::Node& NodeOf(v1::VariantProgram& part, const std::string& op) {
  for (v1::Node& node : *part.mutable_graph()->mutable_nodes()) {
    if (part.graph().operators(static_cast<int>(node.op())).name() == op) return node;
  }
  ADD_FAILURE() << "no " << op;
  return *part.mutable_graph()->add_nodes();
}

// The first input of a decode step that counts up; its rule.
v1::StepInput::Counted& Position(v1::Program& program) {
  for (v1::StepInput& input : *VariantOf(program, "kv_cache").mutable_decoding()->mutable_decode()) {
    if (input.has_counted() && input.counted().add() != 0) return *input.mutable_counted();
  }
  ADD_FAILURE() << "no position";
  return *VariantOf(program, "kv_cache").mutable_decoding()->add_decode()->mutable_counted();
}

TEST(Variants, HoldForDecoders) {
  // Mistral's cache slides, GPT-2's positions are learnt, Llama's turn.
  for (const char* name : {"llama", "gpt2", "mistral"}) {
    const v1::Program program = RealProgram(name);
    for (const char* check : {kSdpa, kCache, kGenerate, kShapes}) ExpectHolds(program, check);
  }
}

// All four of each program, in one case: nothing fails, and what is skipped says why.
TEST(Variants, OfEveryProgramHoldOrSayWhyThereAreNone) {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator("models/programs")) {
    if (entry.path().extension() == ".assay") names.push_back(entry.path().stem().string());
  }
  std::sort(names.begin(), names.end());
  std::map<std::string, int> passed;
  for (const std::string& name : names) {
    const v1::TestResult result =
        RunAltered(RealProgram(name),
                   "check { name: 'sdpa' sdpa {} } check { name: 'kv_cache' kv_cache {} }"
                   "check { name: 'generate' generate {} }"
                   "check { name: 'dynamic_shapes' dynamic_shapes {} }"
                   "check { name: 'shapes' shapes {} }");
    ASSERT_EQ(result.case__size(), 1) << name << ": " << result.message();
    ASSERT_EQ(result.case_(0).check_size(), 5) << name << ": " << result.case_(0).message();
    for (const v1::CheckResult& check : result.case_(0).check()) {
      if (check.outcome() == v1::PASSED) {
        ++passed[check.name()];
        continue;
      }
      EXPECT_EQ(check.outcome(), v1::SKIPPED) << name << " " << check.name() << ": " << check.message();
      EXPECT_FALSE(check.message().empty()) << name << " " << check.name();
      EXPECT_TRUE(check.reason() == "NOT_APPLICABLE" || check.reason() == "MISSING_VARIANT")
          << check.reason();
    }
  }
  // Below the figures of docs/variants.md: a release that loses a variant of many models is seen.
  for (const char* check : {"sdpa", "kv_cache", "generate", "dynamic_shapes"}) {
    std::printf("%s: %d of %zu programs\n", check, passed[check], names.size());
    EXPECT_GE(passed[check], 70) << check;
  }
}

TEST(Variants, HoldForACrossAttentionCacheAndForAState) {
  ExpectHolds(RealProgram("bart"), kCache);
  ExpectHolds(RealProgram("bart"), kGenerate);
  ExpectHolds(RealProgram("mamba"), kCache);
  ExpectHolds(RealProgram("mamba"), kGenerate);
}

TEST(Variants, HoldInHalfPrecisionWhereTheyCanBeCompared) {
  const v1::Program program = RealProgram("llama");
  for (const char* check : {kSdpa, kCache}) {
    const v1::CheckResult found = Judge(program, check, v1::DTYPE_BFLOAT16);
    EXPECT_EQ(found.outcome(), v1::PASSED) << check << found.message();
  }
  for (const char* check : {kGenerate, kShapes}) {
    const v1::CheckResult found = Judge(program, check, v1::DTYPE_BFLOAT16);
    EXPECT_EQ(found.outcome(), v1::SKIPPED) << check;
    EXPECT_EQ(found.reason(), "NOT_COMPARABLE") << check;
  }
}

TEST(Variants, ThatAreNotThereSayWhy) {
  v1::Program program = RealProgram("llama");
  v1::Variant& sdpa = VariantOf(program, "sdpa");
  sdpa.clear_program();
  sdpa.set_not_applicable("no attention");
  v1::CheckResult found = Judge(program, kSdpa);
  EXPECT_EQ(found.outcome(), v1::SKIPPED);
  EXPECT_EQ(found.reason(), "NOT_APPLICABLE");
  EXPECT_EQ(found.message(), "no attention");

  sdpa.clear_not_applicable();
  sdpa.set_missing("it did not export");
  found = Judge(program, kSdpa);
  EXPECT_EQ(found.outcome(), v1::SKIPPED);
  EXPECT_EQ(found.reason(), "MISSING_VARIANT");
  EXPECT_EQ(found.message(), "it did not export");

  // Of a program of the first release nothing is known.
  program.clear_variant();
  found = Judge(program, kSdpa);
  EXPECT_EQ(found.outcome(), v1::SKIPPED);
  EXPECT_EQ(found.reason(), "MISSING_VARIANT");
}

TEST(Variants, CannotBeBothThereAndNot) {
  v1::Program program = RealProgram("llama");
  VariantOf(program, "sdpa").set_not_applicable("no attention");
  ExpectFails(program, kSdpa, "2 of these");
  *program.add_variant() = VariantOf(program, "kv_cache");
  ExpectFails(program, kCache, "twice");
}

TEST(Variants, OfNothingButSkipsFailTheCase) {
  v1::Program program = RealProgram("llama");
  program.clear_variant();
  const v1::TestResult result = RunAltered(program, absl::StrCat(kSdpa));
  EXPECT_EQ(result.outcome(), v1::FAILED);
}

TEST(SdpaVariant, FailsForAnotherAttention) {
  v1::Program program = RealProgram("llama");
  v1::VariantProgram& part = *VariantOf(program, "sdpa").mutable_program(0);
  v1::Node& attention = NodeOf(part, "aten::scaled_dot_product_attention");
  bool scaled = false;
  for (v1::NamedArgument& argument : *attention.mutable_arguments()) {
    if (argument.name() != "scale") continue;
    argument.mutable_value()->set_real(argument.value().real() * 1.01);
    scaled = true;
  }
  ASSERT_TRUE(scaled);
  ExpectFails(program, kSdpa, "with sdpa attention: off by");
}

TEST(SdpaVariant, MustHaveSdpaAttentionAndTheMainProgramNot) {
  v1::Program program = RealProgram("llama");
  v1::VariantProgram& part = *VariantOf(program, "sdpa").mutable_program(0);
  const v1::Graph sdpa = part.graph();
  *part.mutable_graph() = program.graph();
  *part.mutable_constants() = program.constants();
  ExpectFails(program, kSdpa, "has no sdpa attention");
  program = RealProgram("llama");
  *program.mutable_graph() = sdpa;
  *program.mutable_constants() = VariantOf(program, "sdpa").program(0).constants();
  program.mutable_golden()->clear_trace();
  ExpectFails(program, kSdpa, "main program has sdpa attention itself");
}

TEST(SdpaVariant, OfTheMainProgramsOtherWeightsFails) {
  v1::Program program = RealProgram("llama");
  auto& inputs = *VariantOf(program, "sdpa").mutable_program(0)->mutable_graph()->mutable_inputs();
  // Keys and queries of one shape: which is which is the name's to say.
  int first = -1;
  for (int i = 0; i < inputs.size(); ++i) {
    if (inputs[i].name().find("input_layernorm.weight") == std::string::npos) continue;
    if (first < 0) {
      first = i;
    } else {
      std::string name = inputs[first].name();
      inputs[first].set_name(inputs[i].name());
      inputs[i].set_name(name);
      break;
    }
  }
  ExpectFails(program, kSdpa, "off by");
}

TEST(KvCache, FailsForAPositionThatIsOffByOneOrStandsStill) {
  v1::Program program = RealProgram("llama");
  Position(program).set_add(0);
  ExpectFails(program, kCache, "decode step 2");
  ExpectFails(program, kGenerate, "");
  program = RealProgram("gpt2");
  v1::Tensor& first = *Position(program).mutable_first();
  (*first.mutable_data())[0] = static_cast<char>(first.data()[0] - 1);
  ExpectFails(program, kCache, "decode step 1");
}

TEST(KvCache, FailsForACacheThatIsNotHandedOn) {
  v1::Program program = RealProgram("llama");
  // The second layer's keys in place of the first's.
  std::vector<v1::StepInput*> states;
  for (v1::StepInput& input : *VariantOf(program, "kv_cache").mutable_decoding()->mutable_decode()) {
    if (input.source_case() == v1::StepInput::kState) states.push_back(&input);
  }
  ASSERT_GE(states.size(), 4u);
  states[0]->set_state(states[2]->state());
  ExpectFails(program, kCache, "decode step 1");

  // Always prefill's: from the second step on a token is missing.
  program = RealProgram("llama");
  for (v1::StepInput& input : *VariantOf(program, "kv_cache").mutable_decoding()->mutable_decode()) {
    if (input.source_case() != v1::StepInput::kState) continue;
    const std::string state = input.state();
    input.set_prefill_output(state);
  }
  EXPECT_EQ(Judge(program, kCache).outcome(), v1::FAILED);
  EXPECT_EQ(Judge(program, kGenerate).outcome(), v1::FAILED);
}

TEST(KvCache, RefusesADecodingThatIsNotWhole) {
  const v1::Program whole = RealProgram("llama");
  const auto with = [&](auto change) {
    v1::Program program = whole;
    change(*VariantOf(program, "kv_cache").mutable_decoding());
    return program;
  };
  ExpectFails(with([](v1::Decoding& d) { d.set_prompt(0); }), kCache, "a prompt of 0 tokens");
  ExpectFails(with([](v1::Decoding& d) { d.set_prompt(8); }), kCache, "a prompt of 8 tokens");
  ExpectFails(with([](v1::Decoding& d) { d.set_prompt(7); }), kCache, "1 steps");
  ExpectFails(with([](v1::Decoding& d) { d.set_tokens("ids"); }), kCache, "no 'ids'");
  ExpectFails(with([](v1::Decoding& d) { d.mutable_decode()->RemoveLast(); }), kCache, "its program");
  ExpectFails(with([](v1::Decoding& d) { d.mutable_prefill(0)->clear_source(); }), kCache, "cannot be had");
  ExpectFails(with([](v1::Decoding& d) { d.mutable_prefill(0)->set_state("state_0"); }), kCache,
              "cannot be had");
}

// Prompts of different lengths in one batch: the mask and the positions say which tokens are there.
TEST(KvCache, OfRowsPaddedOnTheLeftFailsWhereThePaddingIsNotTold) {
  for (const char* name : {"llama", "gpt2"}) {
    v1::Program program = RealProgram(name);
    v1::Variant& variant = VariantOf(program, "kv_cache");
    ASSERT_TRUE(variant.has_left_padded()) << variant.no_left_padding();
    int mask = -1;
    for (int i = 0; i < variant.left_padded().prefill_size(); ++i) {
      if (variant.left_padded().prefill(i).input() == "attention_mask") mask = i;
    }
    ASSERT_GE(mask, 0);
    // The mask of rows that are not padded.
    *variant.mutable_left_padded()->mutable_prefill(mask) = variant.decoding().prefill(mask);
    ExpectFails(program, kCache, "of rows padded on the left");
  }
}

TEST(KvCache, OfPaddedRowsFailsForOtherPositions) {
  v1::Program program = RealProgram("gpt2");
  v1::Variant& variant = VariantOf(program, "kv_cache");
  bool changed = false;
  for (int i = 0; i < variant.left_padded().decode_size(); ++i) {
    v1::StepInput& input = *variant.mutable_left_padded()->mutable_decode(i);
    if (!input.has_counted() || input.counted().add() == 0 || input.input() != "position_ids") continue;
    input = variant.decoding().decode(i);
    changed = true;
  }
  ASSERT_TRUE(changed);
  ExpectFails(program, kCache, "row 0, decode step 1 of rows padded on the left");
}

TEST(KvCache, RefusesPaddingThatCannotBe) {
  const v1::Program whole = RealProgram("llama");
  const auto with = [&](auto change) {
    v1::Program program = whole;
    change(*VariantOf(program, "kv_cache").mutable_left_padded());
    return program;
  };
  ExpectFails(with([](v1::Decoding& d) { d.mutable_row()->RemoveLast(); }), kCache,
              "padding is told of 1 rows");
  ExpectFails(with([](v1::Decoding& d) { d.mutable_row(0)->set_padding(d.prompt()); }), kCache,
              "tokens of padding");
  ExpectFails(with([](v1::Decoding& d) { d.mutable_row(1)->set_tokens(100); }), kCache, "100 tokens behind");
  ExpectFails(with([](v1::Decoding& d) { d.mutable_row(0)->set_padding(0); }), kCache, "all of one length");
  ExpectFails(with([](v1::Decoding& d) {
                d.mutable_row(0)->set_tokens(1);
                d.mutable_row(1)->set_tokens(0);
              }),
              kCache, "1 steps");
}

TEST(KvCache, WithoutPaddedRowsSaysWhy) {
  v1::Program program = RealProgram("llama");
  v1::Variant& variant = VariantOf(program, "kv_cache");
  variant.clear_left_padded();
  variant.set_no_left_padding("no mask");
  const v1::CheckResult found = Judge(program, kCache);
  EXPECT_EQ(found.outcome(), v1::PASSED);
  EXPECT_EQ(found.note(), "without rows padded on the left: no mask");
}

// A model whose pictures are read by one part and whose text is written by another.
TEST(Variants, HoldWhereAPartOfTheModelWrites) {
  for (const char* name : {"blip", "blip_2", "kosmos2"}) {
    ExpectHolds(RealProgram(name), kCache);
    ExpectHolds(RealProgram(name), kGenerate);
  }
}

// The golden's ids, none of them zero, say as a mask what a mask of ones says.
TEST(KvCache, TakesAMainInputThatGrows) {
  const v1::Program whole = RealProgram("llama");
  const auto with = [&](uint32_t dim, uint32_t more) {
    v1::Program program = whole;
    v1::Variant& variant = VariantOf(program, "kv_cache");
    variant.clear_left_padded();
    int grown = 0;
    for (v1::StepInput& input : *variant.mutable_decoding()->mutable_decode()) {
      if (input.input() != "attention_mask") continue;
      input.mutable_grown()->set_main_input("input_ids");
      input.mutable_grown()->set_dim(dim);
      input.mutable_grown()->set_more(more);
      ++grown;
    }
    EXPECT_EQ(grown, 1);
    return program;
  };
  ExpectHolds(with(1, 1), kCache);
  ExpectFails(with(9, 1), kCache, "cannot be had");
  ExpectFails(with(1, 1000), kCache, "cannot be had");
}

TEST(Generate, OfAModelWithoutACacheIsGivenAllTokens) {
  v1::Program program = RealProgram("openai_gpt");
  EXPECT_EQ(Judge(program, kCache).reason(), "NOT_APPLICABLE");
  ExpectHolds(program, kGenerate);
  v1::Decoding& decoding = *VariantOf(program, "generate").mutable_decoding();
  ASSERT_TRUE(decoding.decode(0).has_all_tokens());
  decoding.mutable_decode(0)->mutable_all_tokens()->add_then(1);
  ExpectFails(program, kGenerate, "");
}

// transformers' own logits with a cache are not those without: generate is compared all the same.
TEST(Generate, RunsItsOwnProgramsWhereTheCacheCannotBeCompared) {
  v1::Program program = RealProgram("paligemma");
  const v1::CheckResult cache = Judge(program, kCache);
  EXPECT_EQ(cache.reason(), "NOT_APPLICABLE");
  EXPECT_THAT(cache.message(), HasSubstr("with its cache than without"));
  ExpectHolds(program, kGenerate);
}

// Qwen3's golden has two tokens that are as good as equal in a step.
TEST(Generate, GoesOnWithGeneratesTokenAtATie) {
  v1::Program program = RealProgram("qwen3");
  ExpectHolds(program, kGenerate);
  v1::Variant& variant = VariantOf(program, "generate");
  double least = 1;
  for (const v1::Generated& row : variant.generated()) {
    for (int i = 0; i < row.token_size(); ++i) {
      least = std::min(least, static_cast<double>(row.largest(i)) - row.runner_up(i));
    }
  }
  EXPECT_LT(least, 1e-4);
  // A token out of the vocabulary is no tie.
  variant.mutable_generated(0)->set_token(0, 1 << 20);
  ExpectFails(program, kGenerate, "token 0 of row 0 is 1048576 of");
}

v1::CaseResult RunCase(const v1::Program& program, const char* check) {
  const v1::TestResult result = RunAltered(program, check);
  return result.case__size() == 1 ? result.case_(0) : v1::CaseResult();
}

TEST(Variants, ThatFailSayAtWhichOperatorOfWhichProgram) {
  v1::Program program = RealProgram("llama");
  v1::Node& attention =
      NodeOf(*VariantOf(program, "sdpa").mutable_program(0), "aten::scaled_dot_product_attention");
  for (v1::NamedArgument& argument : *attention.mutable_arguments()) {
    if (argument.name() == "scale") argument.mutable_value()->set_real(argument.value().real() * 1.01);
  }
  v1::CaseResult found = RunCase(program, kSdpa);
  EXPECT_EQ(found.divergence().node(), attention.name());
  EXPECT_THAT(found.divergence().module(), HasSubstr("layers.0.self_attn"));
  EXPECT_THAT(found.divergence().detail(), HasSubstr("in the program sdpa: "));
  EXPECT_GT(found.divergence().growth_size(), 5);
  EXPECT_EQ(found.divergence().fault(), v1::FAULT_COMPUTATION);

  // The step alone: prefill is right.
  program = RealProgram("llama");
  v1::Node& norm = NodeOf(*VariantOf(program, "kv_cache").mutable_program(1), "aten::add");
  std::string changed;
  for (v1::Node& node :
       *VariantOf(program, "kv_cache").mutable_program(1)->mutable_graph()->mutable_nodes()) {
    if (!changed.empty() || node.op() != norm.op()) continue;
    for (v1::NamedArgument& argument : *node.mutable_arguments()) {
      if (argument.name() != "other" || argument.value().kind_case() != v1::Argument::kReal) continue;
      argument.mutable_value()->set_real(0.5);
      changed = node.name();
    }
  }
  ASSERT_FALSE(changed.empty());
  found = RunCase(program, kCache);
  EXPECT_EQ(found.divergence().node(), changed);
  EXPECT_THAT(found.divergence().detail(), HasSubstr("in the program decode: "));
}

// --- A checkpoint's own prompts ---

// The program's own decoding as that of a checkpoint.
RealCheckpoint Decoded() {
  RealCheckpoint real("llama");
  v1::Program whole = RealProgram("llama");
  real.golden.mutable_decoding()->CopyFrom(VariantOf(whole, "kv_cache").decoding());
  for (int r = 0; r < 2; ++r) real.golden.mutable_decoding()->add_row()->set_tokens(4);
  *real.golden.mutable_generated() = VariantOf(whole, "generate").generated();
  // A row may come to its end before the other.
  v1::Generated& row = *real.golden.mutable_generated(1);
  row.mutable_token()->Truncate(3);
  row.mutable_largest()->Truncate(3);
  row.mutable_runner_up()->Truncate(3);
  real.checks = absl::StrCat(kGenerate, "check { name: 'k' kv_cache {} } check { name: 'golden' golden {} }");
  return real;
}

TEST(CheckpointDecoding, HoldsAndFailsForAnotherTokenOrPadding) {
  RealCheckpoint real = Decoded();
  v1::TestResult result = real.Run();
  ASSERT_EQ(result.case__size(), 1) << result.message();
  EXPECT_EQ(result.case_(0).check(0).outcome(), v1::PASSED) << result.case_(0).check(0).message();
  EXPECT_EQ(result.case_(0).check(1).outcome(), v1::PASSED) << result.case_(0).check(1).message();

  real.golden.mutable_generated(1)->set_token(2, 1 + real.golden.generated(1).token(2));
  result = real.Run();
  EXPECT_EQ(result.case_(0).check(0).outcome(), v1::FAILED);
  EXPECT_THAT(result.case_(0).check(0).message(), HasSubstr("token 2 of row 1"));

  // A prompt that is said to be shorter, without a mask that says so.
  real = Decoded();
  real.golden.mutable_decoding()->mutable_row(0)->set_padding(1);
  result = real.Run();
  EXPECT_EQ(result.case_(0).check(1).outcome(), v1::FAILED);
  EXPECT_THAT(result.case_(0).check(1).message(), HasSubstr("of prompts padded on the left"));
}

TEST(CheckpointDecoding, ThatWasNotRecordedSaysWhy) {
  RealCheckpoint real = Decoded();
  real.golden.clear_decoding();
  real.golden.clear_generated();
  real.golden.set_no_decoding("too large");
  v1::TestResult result = real.Run();
  for (int i = 0; i < 2; ++i) {
    EXPECT_EQ(result.case_(0).check(i).outcome(), v1::SKIPPED);
    EXPECT_EQ(result.case_(0).check(i).reason(), "MISSING_VARIANT");
    EXPECT_EQ(result.case_(0).check(i).message(), "too large");
  }
  real = Decoded();
  for (v1::Generated& row : *real.golden.mutable_generated()) {
    row.mutable_token()->Truncate(1);
    row.mutable_largest()->Truncate(1);
    row.mutable_runner_up()->Truncate(1);
  }
  result = real.Run();
  EXPECT_EQ(result.case_(0).check(0).outcome(), v1::FAILED);
  EXPECT_THAT(result.case_(0).check(0).message(), HasSubstr("no row has two tokens"));
}

TEST(Generate, FailsForAWrongToken) {
  v1::Program program = RealProgram("llama");
  v1::Generated& row = *VariantOf(program, "generate").mutable_generated(1);
  row.set_token(3, row.token(3) == 7 ? 8 : 7);
  ExpectFails(program, kGenerate, "token 3 of row 1");
}

TEST(Generate, FailsForAnotherLogitOfTheRightToken) {
  v1::Program program = RealProgram("llama");
  v1::Generated& row = *VariantOf(program, "generate").mutable_generated(0);
  row.set_largest(7, row.largest(7) * 1.001F);
  ExpectFails(program, kGenerate, "token 7 of row 0, its logit");
  program = RealProgram("llama");
  v1::Generated& other = *VariantOf(program, "generate").mutable_generated(0);
  other.set_runner_up(2, other.runner_up(2) + 0.01F);
  ExpectFails(program, kGenerate, "token 2 of row 0, the second largest logit");
}

TEST(Generate, RefusesARecordThatIsNotWhole) {
  v1::Program program = RealProgram("llama");
  VariantOf(program, "generate").mutable_generated()->RemoveLast();
  ExpectFails(program, kGenerate, "1 rows were recorded");
  program = RealProgram("llama");
  VariantOf(program, "generate").mutable_generated(0)->mutable_token()->RemoveLast();
  ExpectFails(program, kGenerate, "7 tokens");
  program = RealProgram("llama");
  v1::Variant& cache = VariantOf(program, "kv_cache");
  cache.clear_program();
  cache.set_missing("gone");
  ExpectFails(program, kGenerate, "without kv_cache");
}

TEST(DynamicShapes, FailsForAShapeThatIsPartOfTheProgram) {
  v1::Program program = RealProgram("llama");
  v1::VariantProgram& part = *VariantOf(program, "dynamic_shapes").mutable_program(0);
  int specialised = 0;
  for (v1::Node& node : *part.mutable_graph()->mutable_nodes()) {
    for (v1::NamedArgument& argument : *node.mutable_arguments()) {
      if (specialised > 0 || argument.value().kind_case() != v1::Argument::kSymInts) continue;
      for (v1::Argument::SymInt& item : *argument.mutable_value()->mutable_sym_ints()->mutable_values()) {
        if (item.kind_case() != v1::Argument::SymInt::kValue) continue;
        item.set_literal(2);  // the batch that it was exported with
        ++specialised;
        break;
      }
    }
  }
  ASSERT_EQ(specialised, 1);
  EXPECT_EQ(Judge(program, kShapes).outcome(), v1::FAILED);

  program = RealProgram("llama");
  VariantOf(program, "dynamic_shapes").mutable_program(0)->mutable_inputs(0)->clear_dynamic_dim();
  ExpectFails(program, kShapes, "the program takes");
}

TEST(DynamicShapes, FailsForAnotherGolden) {
  const v1::Program whole = RealProgram("llama");
  const auto with = [&](auto change) {
    v1::Program program = whole;
    change(VariantOf(program, "dynamic_shapes"));
    return program;
  };
  const auto output = [](v1::Variant& v) { return v.mutable_golden(1)->mutable_outputs(0); };
  ExpectFails(with([&](v1::Variant& v) { output(v)->set_samples(200, output(v)->samples(200) + 0.01F); }),
              kShapes, "off by");
  ExpectFails(with([&](v1::Variant& v) { output(v)->set_mean(output(v)->mean() + 0.01); }), kShapes,
              "its mean:");
  ExpectFails(with([&](v1::Variant& v) { output(v)->set_rms(output(v)->rms() * 1.01); }), kShapes,
              "mean square");
  ExpectFails(with([&](v1::Variant& v) { output(v)->set_shape(0, 4); }), kShapes, "instead of [4");
  ExpectFails(with([&](v1::Variant& v) { output(v)->mutable_samples()->Truncate(1); }), kShapes, "too few");
  ExpectFails(with([&](v1::Variant& v) { v.mutable_golden()->RemoveLast(); }), kShapes,
              "one shape is not several");
  ExpectFails(with([&](v1::Variant& v) { *v.mutable_golden(1) = v.golden(0); }), kShapes, "the same shapes");
}

TEST(DynamicShapes, OfAModelWithoutTokensAreBatchesOfTheMainProgram) {
  v1::Program program = RealProgram("vit");
  EXPECT_THAT(VariantOf(program, "dynamic_shapes").partial(), HasSubstr("the batch alone"));
  EXPECT_EQ(VariantOf(program, "dynamic_shapes").program_size(), 0);
  ExpectHolds(program, kShapes);
}

}  // namespace
}  // namespace assay::engine
