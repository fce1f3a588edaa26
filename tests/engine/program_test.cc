// Program files that lie, break off or are damaged: each gives an error that names the place, nothing
// crashes.
#include "engine/program.h"

#include <zstd.h>

#include <cmath>
#include <functional>
#include <random>
#include <string>

#include "absl/strings/str_cat.h"
#include "engine/plan.h"
#include "engine/validate.h"
#include "tests/engine/program_maker.h"
#include "tests/matchers.h"

namespace assay::engine {
namespace {

using ::testing::HasSubstr;

// One zstd frame around any content, with or without what a program file must have.
std::string Frame(const std::string& content, bool checksum = true, bool content_size = true) {
  ZSTD_CCtx* context = ZSTD_createCCtx();
  ZSTD_CCtx_setParameter(context, ZSTD_c_checksumFlag, checksum ? 1 : 0);
  ZSTD_CCtx_setParameter(context, ZSTD_c_contentSizeFlag, content_size ? 1 : 0);
  std::string file(ZSTD_compressBound(content.size()), '\0');
  file.resize(ZSTD_compress2(context, file.data(), file.size(), content.data(), content.size()));
  ZSTD_freeCCtx(context);
  return file;
}

std::string SmallFile() { return *SerializeProgram(SmallProgram()); }

TEST(ProgramFileTest, ComesBackAsItWasWritten) {
  ASSERT_OK_AND_ASSIGN(const v1::Program program, ParseProgram(SmallFile()));
  EXPECT_EQ(program.SerializeAsString(), SmallProgram().SerializeAsString());
}

TEST(ProgramFileTest, AProgramForACheckpointHasNoGolden) {
  v1::Program program = SmallProgram();
  program.clear_golden();
  ASSERT_OK_AND_ASSIGN(const v1::Program read, ParseProgram(*SerializeProgram(program)));
  EXPECT_FALSE(read.has_golden());
}

TEST(ProgramFileTest, EveryTruncationIsAnError) {
  const std::string file = SmallFile();
  for (size_t length = 0; length < file.size(); ++length) {
    EXPECT_THAT(ParseProgram(absl::string_view(file).substr(0, length)),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("not a program file")))
        << length;
  }
}

TEST(ProgramFileTest, EveryFlippedBitIsAnError) {
  const std::string file = SmallFile();
  for (size_t bit = 0; bit < file.size() * 8; ++bit) {
    std::string damaged = file;
    damaged[bit / 8] = static_cast<char>(damaged[bit / 8] ^ (1 << (bit % 8)));
    const auto parsed = ParseProgram(damaged);
    // Bits that zstd itself ignores may be flipped without changing the content.
    if (parsed.ok()) {
      EXPECT_EQ(parsed->SerializeAsString(), SmallProgram().SerializeAsString()) << bit;
    }
  }
}

TEST(ProgramFileTest, NothingMayFollowTheFrame) {
  EXPECT_THAT(ParseProgram(SmallFile() + "x"),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("1 bytes follow")));
  EXPECT_THAT(ParseProgram(SmallFile() + SmallFile()),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("bytes follow")));
}

TEST(ProgramFileTest, NothingMayPrecedeTheFrame) {
  const std::string skippable("\x50\x2a\x4d\x18\x01\x00\x00\x00x", 9);
  EXPECT_THAT(ParseProgram(skippable + SmallFile()),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("does not begin with a zstd frame")));
}

TEST(ProgramFileTest, NeedsChecksumAndContentSize) {
  const std::string content = SmallProgram().SerializeAsString();
  EXPECT_THAT(ParseProgram(Frame(content)), IsOk());
  EXPECT_THAT(ParseProgram(Frame(content, false, true)),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("no checksum")));
  EXPECT_THAT(ParseProgram(Frame(content, true, false)),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("does not declare its content size")));
}

TEST(ProgramFileTest, IsBoundedBeforeItIsDecompressed) {
  FrameLimits limits;
  limits.max_file_bytes = 10;
  EXPECT_THAT(ParseProgram(SmallFile(), limits),
              StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("limit")));
  limits = {};
  limits.max_content_bytes = 10;
  EXPECT_THAT(ParseProgram(SmallFile(), limits),
              StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("limit")));
  // 64 MiB of zeros in a few kilobytes.
  EXPECT_THAT(ParseProgram(Frame(std::string(size_t{64} << 20, '\0'))),
              StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("times as much")));
}

TEST(ProgramFileTest, ContentMustBeAMessage) {
  EXPECT_THAT(ParseProgram(Frame("\xff\xff\xff\xff")),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("no assay.v1.Program")));
  EXPECT_THAT(ParseProgram(Frame("")),
              StatusIs(absl::StatusCode::kUnimplemented, HasSubstr("program format 0")));
}

TEST(ProgramFileTest, ErrorsNameTheFile) {
  EXPECT_THAT(ReadProgram("no/such.assay"),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("no/such.assay")));
}

// Damage under an intact frame: the serialised message is changed at random. What comes back is an error or a
// program that plans and runs, or fails to, without harm.
TEST(ProgramFileTest, DamagedMessagesDoNoHarm) {
  const std::string content = SmallProgram().SerializeAsString();
  std::mt19937 random(1);
  int errors = 0, valid = 0, ran = 0;
  for (int round = 0; round < 6000; ++round) {
    std::string damaged = content;
    const int changes = 1 + static_cast<int>(random() % 3);
    for (int i = 0; i < changes; ++i) {
      char& byte = damaged[random() % damaged.size()];
      byte =
          random() % 2 == 0 ? static_cast<char>(byte ^ (1 << (random() % 8))) : static_cast<char>(random());
    }
    if (round % 5 == 0) damaged.resize(random() % damaged.size());
    const auto program = ParseProgram(Frame(damaged));
    if (!program.ok()) {
      ++errors;
      EXPECT_FALSE(program.status().message().empty());
      continue;
    }
    ++valid;
    auto plan = Plan::Build(*program, Placement());
    if (!plan.ok()) continue;
    auto weights = MockWeights(program->manifest(), 1);
    auto inputs = GoldenInputs(*program);
    if (!weights.ok() || !inputs.ok()) continue;
    if (!(*plan)->Bind(*weights).ok()) continue;
    if ((*plan)->Run(*inputs).ok()) ++ran;
  }
  EXPECT_GT(errors, 1000);
  EXPECT_GT(valid, 100);
  EXPECT_GT(ran, 100);
}

// The same for real programs, as far as the plan: they have what the small one has not.
TEST(ProgramFileTest, DamagedRealProgramsDoNoHarm) {
  int planned = 0, refused = 0;
  std::mt19937 random(2);
  for (const char* name : {"gpt2", "t5", "swin", "mamba", "detr", "clip"}) {
    ASSERT_OK_AND_ASSIGN(const v1::Program intact,
                         ReadProgram(absl::StrCat("models/programs/", name, ".assay")));
    const std::string content = intact.SerializeAsString();
    for (int round = 0; round < 150; ++round) {
      std::string damaged = content;
      char& byte = damaged[random() % damaged.size()];
      byte = static_cast<char>(byte ^ (1 << (random() % 8)));
      const auto program = ParseProgram(Frame(damaged));
      if (program.ok() && Plan::Build(*program, Placement()).ok()) {
        ++planned;
      } else {
        ++refused;
      }
    }
  }
  EXPECT_GT(planned, 50);
  EXPECT_GT(refused, 50);
}

struct Lie {
  const char* name;
  std::function<void(v1::Program&)> tell;
  absl::StatusCode code;
  const char* place;  // what the error must name
};

class LyingProgramTest : public ::testing::TestWithParam<Lie> {};

TEST_P(LyingProgramTest, IsRefusedByName) {
  v1::Program program = SmallProgram();
  GetParam().tell(program);
  EXPECT_THAT(ParseProgram(*SerializeProgram(program)),
              StatusIs(GetParam().code, HasSubstr(GetParam().place)));
}

v1::Node& NodeOf(v1::Program& program, int index) { return *program.mutable_graph()->mutable_nodes(index); }
v1::Argument& ArgumentOf(v1::Program& program, int node, int index) {
  return *NodeOf(program, node).mutable_arguments(index)->mutable_value();
}

constexpr absl::StatusCode kInvalid = absl::StatusCode::kInvalidArgument;

INSTANTIATE_TEST_SUITE_P(
    Lies, LyingProgramTest,
    ::testing::Values(
        Lie{"UnknownFormat", [](auto& p) { p.set_format(2); }, absl::StatusCode::kUnimplemented, "format 2"},
        Lie{"Looping", [](auto& p) { ArgumentOf(p, 1, 0).set_value(5); }, kInvalid,
            "node add (aten::add): argument self uses value 5, which no input and no earlier node gives"},
        Lie{"UsesItself", [](auto& p) { ArgumentOf(p, 0, 0).set_value(3); }, kInvalid, "node linear (aten::linear)"},
        Lie{"ValueOutOfRange", [](auto& p) { ArgumentOf(p, 2, 0).set_value(4000000000u); }, kInvalid, "node gelu"},
        Lie{"OutputNumberTaken", [](auto& p) { NodeOf(p, 1).set_outputs(0, 3); }, kInvalid,
            "node add (aten::add): its output is value 3 where 4 is next"},
        Lie{"OperatorOutOfRange", [](auto& p) { NodeOf(p, 1).set_op(3); }, kInvalid, "node add: operator 3 of 3"},
        Lie{"ModuleOutOfRange", [](auto& p) { NodeOf(p, 1).set_module(9); }, kInvalid, "node add (aten::add): module 9"},
        Lie{"OperatorWithoutName", [](auto& p) { p.mutable_graph()->mutable_operators(0)->clear_name(); }, kInvalid,
            "an operator without a name"},
        Lie{"ArgumentTwice", [](auto& p) { NodeOf(p, 1).mutable_arguments(1)->set_name("self"); }, kInvalid,
            "argument self is there twice"},
        Lie{"ArgumentWithoutValue", [](auto& p) { ArgumentOf(p, 2, 1).Clear(); }, kInvalid,
            "node gelu (aten::gelu): argument approximate has no value"},
        Lie{"FalseNone", [](auto& p) { ArgumentOf(p, 2, 1).set_none(false); }, kInvalid, "none that is false"},
        Lie{"BadDtypeNumber",
            [](auto& p) { ArgumentOf(p, 2, 1).set_scalar_type(static_cast<v1::ScalarType>(99)); }, kInvalid,
            "unknown dtype number 99"},
        Lie{"BadLayoutNumber", [](auto& p) { ArgumentOf(p, 2, 1).set_layout(static_cast<v1::Layout>(1)); }, kInvalid,
            "unknown layout number 1"},
        Lie{"BadMemoryFormatNumber",
            [](auto& p) { ArgumentOf(p, 2, 1).set_memory_format(static_cast<v1::MemoryFormat>(7)); }, kInvalid,
            "unknown memory format number 7"},
        Lie{"BadDevice", [](auto& p) { ArgumentOf(p, 2, 1).mutable_device()->set_type("tpu"); }, kInvalid, "'tpu'"},
        Lie{"SymbolicItemWithoutValue", [](auto& p) { ArgumentOf(p, 2, 1).mutable_sym_ints()->add_values(); },
            kInvalid, "has an item without a value"},
        Lie{"SymbolicItemFromLater",
            [](auto& p) { ArgumentOf(p, 2, 1).mutable_sym_ints()->add_values()->set_value(5); }, kInvalid,
            "uses value 5"},
        Lie{"ListItemFromLater", [](auto& p) { ArgumentOf(p, 2, 1).mutable_values()->add_values(5); }, kInvalid,
            "uses value 5"},
        Lie{"OptionalItemFromLater",
            [](auto& p) { ArgumentOf(p, 2, 1).mutable_optional_values()->add_values_plus_one(6); }, kInvalid,
            "uses value 5"},
        Lie{"ValueCount", [](auto& p) { p.mutable_graph()->set_value_count(7); }, kInvalid, "counts 7 values"},
        Lie{"NodeWithoutOutputs",
            [](auto& p) {
              NodeOf(p, 2).clear_outputs();
              p.mutable_graph()->set_value_count(5);
            },
            kInvalid, "node gelu (aten::gelu): it has no outputs"},
        Lie{"OutputValue", [](auto& p) { p.mutable_graph()->mutable_outputs(0)->set_value(6); }, kInvalid,
            "output logits: value 6 of 6"},
        Lie{"OutputIsText", [](auto& p) { p.mutable_graph()->mutable_outputs(0)->set_text("x"); }, kInvalid,
            "output logits is neither a value nor a number"},
        Lie{"OutputMissing", [](auto& p) { p.mutable_graph()->clear_outputs(); }, kInvalid, "0 outputs"},
        Lie{"InputNumbering", [](auto& p) { p.mutable_graph()->mutable_inputs(1)->set_value(2); }, kInvalid,
            "graph input dense.weight: its value is number 2 where 1 is next"},
        Lie{"InputKind",
            [](auto& p) { p.mutable_graph()->mutable_inputs(0)->set_kind(static_cast<v1::GraphInput::Kind>(9)); },
            kInvalid, "graph input x: unknown kind number 9"},
        Lie{"WeightUnknown", [](auto& p) { p.mutable_graph()->mutable_inputs(1)->set_name("other"); }, kInvalid,
            "graph input other is no weight"},
        Lie{"ConstantUnknown", [](auto& p) { p.mutable_constants(0)->set_name("other"); }, kInvalid,
            "graph input offset is no constant"},
        Lie{"WeightTwice",
            [](auto& p) {
              p.mutable_graph()->mutable_inputs(2)->set_kind(v1::GraphInput::WEIGHT);
              p.mutable_graph()->mutable_inputs(2)->set_name("dense.weight");
            },
            kInvalid, "graph input dense.weight is there twice"},
        Lie{"InputUnknown", [](auto& p) { p.mutable_graph()->mutable_inputs(0)->set_name("y"); }, kInvalid,
            "graph input y is not the manifest's input"},
        Lie{"ManifestInputNotInGraph",
            [](auto& p) {
              *p.mutable_manifest()->add_inputs() = p.manifest().inputs(0);
              p.mutable_manifest()->mutable_inputs(1)->set_name("mask");
            },
            kInvalid, "input mask of the manifest is not among the graph's inputs"},
        Lie{"WeightNamedTwice", [](auto& p) { *p.mutable_manifest()->add_weights() = p.manifest().weights(0); },
            kInvalid, "weight dense.weight is there twice"},
        Lie{"WeightWithoutName", [](auto& p) { p.mutable_manifest()->mutable_weights(0)->clear_name(); }, kInvalid,
            "weight without a name"},
        Lie{"WeightDtype",
            [](auto& p) { p.mutable_manifest()->mutable_weights(0)->set_dtype(static_cast<v1::ScalarType>(9)); },
            kInvalid, "weight dense.weight: unknown dtype number 9"},
        Lie{"NegativeShape", [](auto& p) { p.mutable_manifest()->mutable_weights(0)->set_shape(0, -4); }, kInvalid,
            "weight dense.weight: a dimension of size -4"},
        Lie{"OverflowingShape",
            [](auto& p) {
              p.mutable_manifest()->mutable_weights(0)->set_shape(0, int64_t{1} << 32);
              p.mutable_manifest()->mutable_weights(0)->set_shape(1, int64_t{1} << 32);
            },
            kInvalid, "more than 2^40 elements"},
        Lie{"ManyDimensions",
            [](auto& p) {
              for (int i = 0; i < 100; ++i) p.mutable_manifest()->mutable_weights(0)->add_shape(1);
            },
            kInvalid, "102 dimensions"},
        Lie{"NoMockRule", [](auto& p) { p.mutable_manifest()->mutable_weights(0)->clear_mock(); }, kInvalid,
            "weight dense.weight: no mock rule"},
        Lie{"NegativeStd",
            [](auto& p) { p.mutable_manifest()->mutable_weights(0)->mutable_mock()->mutable_normal()->set_std(-1); },
            kInvalid, "dense.weight: a normal mock rule"},
        Lie{"EmptyUniform",
            [](auto& p) { p.mutable_manifest()->mutable_weights(0)->mutable_mock()->mutable_uniform()->set_low(0); },
            kInvalid, "dense.weight: a uniform mock rule"},
        Lie{"InfiniteConstant",
            [](auto& p) { p.mutable_manifest()->mutable_weights(0)->mutable_mock()->set_constant(INFINITY); },
            kInvalid, "float32 does not hold"},
        Lie{"ShortLiteral",
            [](auto& p) { p.mutable_manifest()->mutable_weights(0)->mutable_mock()->set_literal("abc"); }, kInvalid,
            "literal mock rule: 3 bytes"},
        Lie{"EmptyIntRange",
            [](auto& p) { p.mutable_manifest()->mutable_weights(0)->mutable_mock()->mutable_int_range(); }, kInvalid,
            "an integer mock rule in [0, 0)"},
        Lie{"RampBeyondDtype",
            [](auto& p) {
              v1::WeightSpec& weight = *p.mutable_manifest()->mutable_weights(0);
              weight.set_dtype(v1::CHAR);
              weight.set_requires_grad(false);
              weight.mutable_mock()->mutable_ramp()->set_step(100);
            },
            kInvalid, "200, which int8 does not hold"},
        Lie{"NormalIntegers",
            [](auto& p) { p.mutable_manifest()->mutable_weights(0)->set_dtype(v1::LONG); }, kInvalid,
            "a normal mock rule for int64"},
        Lie{"RequiresGradOfIntegers",
            [](auto& p) {
              v1::WeightSpec& weight = *p.mutable_manifest()->mutable_weights(0);
              weight.set_dtype(v1::LONG);
              weight.mutable_mock()->set_constant(1);
            },
            kInvalid, "requires_grad for int64"},
        Lie{"TiedToNothing",
            [](auto& p) {
              p.mutable_manifest()->add_tied()->set_alias("head.weight");
              p.mutable_manifest()->mutable_tied(0)->set_weight("nothing");
            },
            kInvalid, "head.weight names nothing"},
        Lie{"BatchDim", [](auto& p) { p.mutable_manifest()->mutable_inputs(0)->set_batch_dim(2); }, kInvalid,
            "input x: batch_dim 2 of 2"},
        Lie{"IdRange",
            [](auto& p) {
              p.mutable_manifest()->mutable_inputs(0)->set_id_low(5);
              p.mutable_manifest()->mutable_inputs(0)->set_id_high(5);
            },
            kInvalid, "input x: token ids in [5, 5)"},
        Lie{"ConstantShort", [](auto& p) { p.mutable_constants(0)->mutable_data()->pop_back(); }, kInvalid,
            "constant offset: 15 bytes of data"},
        Lie{"ConstantTwice", [](auto& p) { *p.add_constants() = p.constants(0); }, kInvalid,
            "constant offset is there twice"},
        Lie{"BadBool",
            [](auto& p) {
              p.mutable_constants(0)->set_dtype(v1::BOOL);
              p.mutable_constants(0)->set_data(std::string("\0\1\2\1", 4));
            },
            kInvalid, "constant offset: a bool that is neither 0 nor 1"},
        Lie{"EmptyGolden", [](auto& p) { p.mutable_golden()->Clear(); }, kInvalid, "the golden has 0 inputs"},
        Lie{"GoldenInputName", [](auto& p) { p.mutable_golden()->mutable_inputs(0)->set_name("z"); }, kInvalid,
            "golden input z stands where x should"},
        Lie{"GoldenInputEmpty", [](auto& p) { p.mutable_golden()->mutable_inputs(0)->clear_source(); }, kInvalid,
            "golden input x: neither data nor rule"},
        Lie{"GoldenInputShort", [](auto& p) { p.mutable_golden()->mutable_inputs(0)->set_data("12"); }, kInvalid,
            "golden input x: 2 bytes"},
        Lie{"GoldenOutputsMissing", [](auto& p) { p.mutable_golden()->clear_outputs(); }, kInvalid,
            "the golden has 0 outputs"},
        Lie{"GoldenOutputShape",
            [](auto& p) {
              p.mutable_golden()->mutable_outputs(0)->mutable_tensor()->set_shape(0, 4);
              p.mutable_golden()->mutable_outputs(0)->mutable_tensor()->set_shape(1, 2);
            },
            kInvalid, "golden output logits: its shape"},
        Lie{"GoldenFloat64Error", [](auto& p) { p.mutable_golden()->mutable_outputs(0)->set_float64_error(-1); },
            kInvalid, "golden output logits: float64_error"},
        Lie{"TraceNode", [](auto& p) { p.mutable_golden()->add_trace()->set_node(3); }, kInvalid, "node 3 of 3"},
        Lie{"TraceOutput", [](auto& p) { p.mutable_golden()->add_trace()->set_output(1); }, kInvalid,
            "output 1 of node linear"},
        Lie{"TraceSamples", [](auto& p) { p.mutable_golden()->add_trace()->set_numel(9); }, kInvalid,
            "trace of node linear has 0 samples of 9"},
        Lie{"LongName", [](auto& p) { NodeOf(p, 1).set_name(std::string(2000, 'x')); }, kInvalid,
            "a node with a name of 2000 bytes"},
        Lie{"LongOperatorName",
            [](auto& p) { p.mutable_graph()->mutable_operators(0)->set_name(std::string(2000, 'x')); }, kInvalid,
            "an operator with a name of 2000 bytes"},
        Lie{"LongWeightName",
            [](auto& p) { p.mutable_manifest()->mutable_weights(0)->set_name(std::string(2000, 'x')); }, kInvalid,
            "weight with a name of 2000 bytes"},
        Lie{"ManyArguments",
            [](auto& p) {
              for (int i = 0; i < 300; ++i) NodeOf(p, 1).add_arguments()->set_name(std::to_string(i));
            },
            kInvalid, "node add (aten::add): 302 arguments"},
        Lie{"NoOutputs", [](auto& p) { p.mutable_manifest()->clear_outputs(); }, kInvalid, "no outputs"}),
    [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace assay::engine
