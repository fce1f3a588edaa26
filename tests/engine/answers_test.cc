// What a person reads off a checkpoint's outputs, and every way in which it can be wrong.
#include "engine/answers.h"

#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/textproto.h"
#include "tests/engine/program_maker.h"
#include "tests/engine/real_checkpoint.h"
#include "tests/matchers.h"

namespace assay::engine {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

// Where the golden's first output is largest along its last dimension, at [row, position].
int64_t LargestAt(const v1::Golden& golden, int64_t row, int64_t position) {
  const v1::Tensor& tensor = golden.outputs(0).tensor();
  std::vector<float> values(tensor.data().size() / sizeof(float));
  std::memcpy(values.data(), tensor.data().data(), tensor.data().size());
  const int64_t width = tensor.shape(2);
  const auto begin = values.begin() + (row * tensor.shape(1) + position) * width;
  return std::max_element(begin, begin + width) - begin;
}

v1::Answer Parsed(const std::string& text) {
  v1::Answer answer;
  EXPECT_THAT(ParseTextProto("answer", text, answer), IsOk());
  return answer;
}

constexpr char kKnown[] =
    "check { name: 'golden' golden {} } check { name: 'answers' answers { known { answer: "
    "'capital' text: ' Paris' } } }";

// bert with the masked word at [0, 3], which the golden's largest number says is " Paris".
RealCheckpoint Masked() {
  RealCheckpoint real("bert");
  v1::Answer& answer = *real.golden.add_answer();
  answer = Parsed(
      "name: 'capital' question: 'The capital of France is [MASK].' expected: ' Paris' "
      "top { output: 'logits' index: [0, 3] count: 2 }");
  (*answer.mutable_label())[LargestAt(real.golden.golden(), 0, 3)] = " Paris";
  real.checks = kKnown;
  return real;
}

// llama whose largest numbers at row 1 from position 2 on are three tokens.
RealCheckpoint Written() {
  RealCheckpoint real("llama");
  v1::Answer& answer = *real.golden.add_answer();
  answer = Parsed(
      "name: 'story' question: 'Once' expected: ' upon a time' "
      "greedy { output: 'logits' row: 1 first: 2 text: ' upon a time' }");
  const std::vector<std::string> words = {" upon", " a", " time"};
  for (int i = 0; i < 3; ++i) {
    const int64_t token = LargestAt(real.golden.golden(), 1, 2 + i);
    answer.mutable_greedy()->add_token(token);
    (*answer.mutable_label())[token] = words[static_cast<size_t>(i)];
  }
  real.checks = "check { name: 'golden' golden {} } check { name: 'answers' answers {} }";
  return real;
}

void ExpectFails(RealCheckpoint& real, const std::string& message) {
  v1::TestResult result = real.Run();
  EXPECT_EQ(result.outcome(), v1::FAILED);
  EXPECT_THAT(result.message(), HasSubstr(message));
}

TEST(Answers, TheMaskedWordIsReadAndShown) {
  v1::TestResult result = Masked().Run();
  EXPECT_EQ(result.outcome(), v1::PASSED) << result.message();
  ASSERT_EQ(result.case_(0).answer_size(), 1);
  const v1::AnswerResult& answer = result.case_(0).answer(0);
  EXPECT_EQ(answer.name(), "capital");
  EXPECT_EQ(answer.question(), "The capital of France is [MASK].");
  EXPECT_EQ(answer.expected(), "Paris");
  EXPECT_TRUE(answer.known());
  EXPECT_THAT(answer.text(), AllOf(HasSubstr("Paris ("), HasSubstr(" %), #")));
}

TEST(Answers, AnExchangedLabelFails) {
  RealCheckpoint real = Masked();
  auto& labels = *real.golden.mutable_answer(0)->mutable_label();
  const int64_t paris = labels.begin()->first;
  labels[paris] = " Lyon";
  labels[paris + 1] = " Paris";
  ExpectFails(real, "answers: answer 'capital': the golden expects 'Paris', and its own outputs say 'Lyon'");
}

TEST(Answers, AGoldenThatIsWrongFromEndToEndMeetsWhatIsKnown) {
  RealCheckpoint real = Masked();
  (*real.golden.mutable_answer(0)->mutable_label())[LargestAt(real.golden.golden(), 0, 3)] = " Lyon";
  real.golden.mutable_answer(0)->set_expected(" Lyon");
  ExpectFails(real, "answers: answer 'capital': 'Lyon' where it is known to be 'Paris'");
}

TEST(Answers, AKnownAnswerThatNamesNoneOfTheGoldenFails) {
  RealCheckpoint real = Masked();
  real.golden.mutable_answer(0)->set_name("another");
  ExpectFails(real, "answers: known answer 'capital': the golden has no such answer");
}

TEST(Answers, WhereNothingCanBeReadTheCheckIsSkippedAndSaysSo) {
  RealCheckpoint real = Masked();
  real.golden.clear_answer();
  ExpectFails(real, "answers: known answer 'capital': the golden has no such answer");
  real.checks = "check { name: 'golden' golden {} } check { name: 'answers' answers {} }";
  v1::TestResult result = real.Run();
  EXPECT_EQ(result.outcome(), v1::PASSED) << result.message();
  EXPECT_EQ(result.case_(0).check(1).outcome(), v1::SKIPPED);
  EXPECT_THAT(result.case_(0).check(1).message(), HasSubstr("the golden has no answer"));
}

TEST(Answers, ACaseWithNothingToCheckIsNoPass) {
  RealCheckpoint real = Masked();
  real.golden.clear_answer();
  real.checks = "check { name: 'answers' answers {} }";
  WrittenTest written = real.Write();
  v1::AbsentCheck& absent = *written.test.add_absent();
  absent.set_case_name("test_model_loading");
  absent.set_check("golden");
  absent.set_reason("not asked for");
  v1::TestResult result = RunAltered(written);
  EXPECT_EQ(result.outcome(), v1::FAILED);
  EXPECT_THAT(result.message(), HasSubstr("none of the case's checks had anything to check"));
}

TEST(Answers, MockWeightsHaveNoAnswers) {
  v1::TestResult result = RunAltered(RealProgram("bert"), "check { name: 'answers' answers {} }");
  EXPECT_EQ(result.outcome(), v1::FAILED);
  EXPECT_THAT(result.message(), HasSubstr("there is no golden with an answer"));
}

TEST(Answers, AnotherWordThanEagersFails) {
  RealCheckpoint real = Masked();
  // The word's row of the output's bias decides which word is the largest.
  StoredTensor& bias = real.Named("cls.predictions.bias");
  const float most = 1e4f;
  std::memcpy(bias.data.data() + 5 * sizeof most, &most, sizeof most);
  real.checks = "check { name: 'answers' answers {} } check { name: 'golden' golden {} }";
  v1::TestResult result = real.Run();
  EXPECT_THAT(result.case_(0).check(0).message(), HasSubstr("'#5' where eager answered 'Paris'"));
}

TEST(Answers, ATextIsReadTokenByToken) {
  v1::TestResult result = Written().Run();
  EXPECT_EQ(result.outcome(), v1::PASSED) << result.message();
  EXPECT_EQ(result.case_(0).answer(0).text(), "upon a time");
  EXPECT_FALSE(result.case_(0).answer(0).known());
}

TEST(Answers, AnotherTokenFailsAndIsNamed) {
  RealCheckpoint real = Written();
  v1::Answer::Greedy& greedy = *real.golden.mutable_answer(0)->mutable_greedy();
  greedy.set_token(1, greedy.token(1) == 0 ? 1 : greedy.token(1) - 1);
  ExpectFails(real, "[token 1 is #");
}

TEST(Answers, ASuppressedTokenIsNotChosen) {
  RealCheckpoint real = Written();
  v1::Answer& answer = *real.golden.mutable_answer(0);
  // The largest is suppressed, so that another one is chosen, which is not the one that the golden has.
  const int64_t largest = answer.greedy().token(0);
  answer.mutable_greedy()->add_suppressed_first(largest);
  answer.mutable_greedy()->set_token(0, largest + 1);
  v1::TestResult result = real.Run();
  EXPECT_THAT(result.message(), Not(HasSubstr(absl::StrCat("[token 0 is #", largest, " "))));
}

TEST(Answers, WhatCannotBeReadOffIsRefusedByName) {
  struct Wrong {
    void (*change)(v1::Answer& answer);
    const char* message;
  };
  for (const Wrong& wrong : {
           Wrong{[](v1::Answer& a) { a.mutable_top()->set_output("scores"); }, "no output 'scores'"},
           Wrong{[](v1::Answer& a) { a.mutable_top()->add_index(0); }, "3 indexes into output"},
           Wrong{[](v1::Answer& a) { a.mutable_top()->set_index(1, 999); }, "index 999 of"},
           Wrong{[](v1::Answer& a) { a.mutable_top()->set_count(0); }, "a count of 0"},
           Wrong{[](v1::Answer& a) { a.clear_expected(); }, "no expected text"},
           Wrong{[](v1::Answer& a) { a.clear_kind(); }, "no kind"},
           Wrong{[](v1::Answer& a) { (*a.mutable_label())[1] = std::string(5000, 'x'); },
                 "label 1 has 5000 bytes"},
           Wrong{[](v1::Answer& a) { a.clear_name(); }, "an answer without a name"},
           Wrong{[](v1::Answer& a) {
                   a.mutable_greedy()->set_output("logits");
                   a.mutable_greedy()->add_token(1'000'000);
                   a.mutable_greedy()->set_text("x");
                 },
                 "token 1000000 outside the vocabulary"},
           Wrong{[](v1::Answer& a) {
                   a.mutable_greedy()->set_output("logits");
                   a.mutable_greedy()->set_text("x");
                 },
                 "it decodes no token"},
           Wrong{[](v1::Answer& a) {
                   a.mutable_nearest()->set_output("logits");
                   a.mutable_nearest()->set_mask("attention_mask");
                 },
                 "fewer than three rows"},
       }) {
    RealCheckpoint real = Masked();
    wrong.change(*real.golden.mutable_answer(0));
    ExpectFails(real, wrong.message);
  }
  RealCheckpoint twice = Masked();
  *twice.golden.add_answer() = twice.golden.answer(0);
  ExpectFails(twice, "answer 'capital' is there twice");
}

// --- Reading alone ---

v1::Manifest ThreeSentences() {
  ProgramMaker maker;
  maker.Input("mask", v1::LONG, {3, 2}, false, "constant: 1");
  maker.Output("hidden", 0, {3, 2, 2});
  return maker.program().manifest();
}

TEST(Nearest, MasksPaddingAndLeavesTheRowItselfOut) {
#ifdef __SANITIZE_THREAD__
  GTEST_SKIP() << "Debian's libprotobuf has another idea of a map than its header has here, and parses one";
#endif
  const v1::Answer answer = Parsed(
      "name: 'near' nearest { output: 'hidden' mask: 'mask' row: 0 } label { key: 1 value: 'one' } "
      "label { key: 2 value: 'two' }");
  const at::Tensor hidden = at::tensor({1.f, 0.f, 1.f, 0.f,  //
                                        0.f, 1.f, 9.f, 0.f,  // with its padding it would be the nearest
                                        1.f, 1.f, 1.f, 1.f})
                                .view({3, 2, 2});
  const at::Tensor mask = at::tensor(std::vector<int64_t>{1, 1, 1, 0, 1, 1}).view({3, 2});
  ASSERT_OK_AND_ASSIGN(const ReadAnswer read, ReadOff(answer, ThreeSentences(), {mask}, {hidden}));
  EXPECT_EQ(read.choice, "two");
  EXPECT_EQ(read.shown, "two (0.71), one (0.00)");
  const at::Tensor unmasked = at::tensor(std::vector<int64_t>{1, 1, 1, 1, 1, 1}).view({3, 2});
  ASSERT_OK_AND_ASSIGN(const ReadAnswer other, ReadOff(answer, ThreeSentences(), {unmasked}, {hidden}));
  EXPECT_EQ(other.choice, "one");
  EXPECT_THAT(ReadOff(answer, ThreeSentences(), {at::zeros({3, 2}, at::kLong)}, {hidden}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("row 0 is masked as a whole")));
}

TEST(Reading, NumbersWithoutAnOrderAreNoAnswer) {
  ProgramMaker maker;
  maker.Output("logits", 0, {1, 3});
  const v1::Answer answer = Parsed("name: 'class' top { output: 'logits' index: 0 count: 1 }");
  const float nan = std::numeric_limits<float>::quiet_NaN(),
              infinity = std::numeric_limits<float>::infinity();
  const v1::Manifest& manifest = maker.program().manifest();
  EXPECT_THAT(ReadOff(answer, manifest, {}, {at::tensor({1.f, nan, 0.f}).view({1, 3})}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("NaN")));
  EXPECT_THAT(ReadOff(answer, manifest, {}, {at::zeros({1, 4})}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("shape [1, 4] instead of [1, 3]")));
  // What a model excludes is no fault.
  ASSERT_OK_AND_ASSIGN(const ReadAnswer read,
                       ReadOff(answer, manifest, {}, {at::tensor({1.f, -infinity, 0.f}).view({1, 3})}));
  EXPECT_EQ(read.choice, "#0");
  EXPECT_EQ(read.shown, "#0 (73 %)");
}

TEST(ForPeople, EscapesWhatWouldChangeATerminalOrAReport) {
  EXPECT_EQ(ForPeople("  Paris \n"), "Paris");
  EXPECT_EQ(ForPeople("a\nb\x1b[31mc"), "a\\nb\\u{1b}[31mc");
  EXPECT_EQ(ForPeople("x\xe2\x80\xaey"), "x\\u{202e}y");            // turns the direction of reading
  EXPECT_EQ(ForPeople("\xc3\xa9t\xc3\xa9 \xe2\x82\xac"), "été €");  // é, €: as they are
  EXPECT_EQ(ForPeople("\xff\xc0\xaf\xed\xa0\x80"), "\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD");
  EXPECT_LT(ForPeople(std::string(100'000, 'x')).size(), 700u);
  EXPECT_EQ(ForPeople(""), "");
}

}  // namespace
}  // namespace assay::engine
