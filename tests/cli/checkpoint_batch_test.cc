#include "cli/checkpoint_batch.h"

#include "cli/checkpoint_config.h"
#include "common/file.h"
#include "generator/batch_file.h"
#include "generator/catalogue.h"
#include "tests/matchers.h"

namespace assay::cli {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;

class BatchOfCheckpointTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_OK_AND_ASSIGN(catalogue_, generator::LoadCatalogue("models/catalogue"));
    v1::CheckpointEntry& entry = entries_["makers/known"];
    entry.set_name("known");
    entry.set_checkpoint("makers/known");
    entry.set_model("bert");
    entry.set_template_("bert");
    entry.set_task("feature-extraction");
  }

  // The one model of the batch that is made; read back as a coordinator reads it.
  absl::StatusOr<v1::ModelRef> Model(const CheckpointWish& wish, absl::string_view config) {
    absl::StatusOr<NamedBatch> batch = BatchOfCheckpoint(wish, entries_, catalogue_, config);
    if (!batch.ok()) return batch.status();
    const auto read = generator::ParseBatchFile(batch->name, batch->content,
                                                {"bert", "llama", "vit", "whisper", "gpt2"}, nullptr);
    if (!read.ok()) return read.status();
    EXPECT_EQ(batch->name, read->models.at(0).name() + ".json");
    EXPECT_EQ(read->models.size(), 1u);
    return read->models[0];
  }

  std::map<std::string, v1::CheckpointEntry> entries_;
  std::map<std::string, v1::CatalogueEntry> catalogue_;
};

TEST_F(BatchOfCheckpointTest, ReadsTemplateAndTaskOffTheConfiguration) {
  struct Read {
    const char *config, *template_name, *task, *arch_type;
  };
  const Read kReads[] = {
      {R"({"model_type": "bert", "architectures": ["BertForMaskedLM"]})", "bert", "fill-mask",
       "encoder_only"},
      {R"({"model_type": "bert", "architectures": ["BertModel"]})", "bert", "feature-extraction",
       "encoder_only"},
      {R"({"model_type": "bert", "architectures": ["BertForSequenceClassification"]})", "bert",
       "text-classification", "encoder_only"},
      {R"({"model_type": "llama", "architectures": ["LlamaForCausalLM"]})", "llama", "text-generation",
       "decoder_only"},
      {R"({"model_type": "whisper", "architectures": ["WhisperForConditionalGeneration"]})", "whisper",
       "automatic-speech-recognition", "speech"},
  };
  for (const Read& read : kReads) {
    ASSERT_OK_AND_ASSIGN(const v1::ModelRef model, Model({"a/Some-Model@v1", "", ""}, read.config));
    EXPECT_EQ(model.name(), "some_model");
    EXPECT_EQ(model.checkpoint().id(), "a/Some-Model");
    EXPECT_EQ(model.checkpoint().revision(), "v1");
    EXPECT_EQ(model.template_(), read.template_name) << read.config;
    EXPECT_EQ(model.task(), read.task) << read.config;
    EXPECT_EQ(model.arch_type(), read.arch_type) << read.config;
  }
}

TEST_F(BatchOfCheckpointTest, WhatTheProjectKnowsNeedsNoConfiguration) {
  EXPECT_TRUE(NeedsNoConfig({"makers/known", "", ""}, entries_));
  EXPECT_FALSE(NeedsNoConfig({"makers/unknown", "", "fill-mask"}, entries_));
  EXPECT_TRUE(NeedsNoConfig({"makers/unknown", "bert", "fill-mask"}, entries_));
  ASSERT_OK_AND_ASSIGN(const v1::ModelRef model, Model({"makers/known", "", ""}, ""));
  EXPECT_EQ(model.name(), "bert");  // so that it counts for the model that it is a checkpoint of
  EXPECT_EQ(model.task(), "feature-extraction");
  EXPECT_EQ(model.arch_type(), "encoder_only");
  // Another family than the model's is another model.
  ASSERT_OK_AND_ASSIGN(const v1::ModelRef other, Model({"makers/known", "gpt2", "text-generation"}, ""));
  EXPECT_EQ(other.name(), "known");
  EXPECT_EQ(other.template_(), "gpt2");
}

TEST_F(BatchOfCheckpointTest, WhatIsGivenWins) {
  ASSERT_OK_AND_ASSIGN(const v1::ModelRef model,
                       Model({"/models/mine", "vit", "image-classification"}, R"({"model_type": "bert"})"));
  EXPECT_EQ(model.name(), "mine");
  EXPECT_EQ(model.template_(), "vit");
  EXPECT_EQ(model.task(), "image-classification");
}

TEST_F(BatchOfCheckpointTest, SaysExactlyWhatToGive) {
  EXPECT_THAT(Model({"a/b", "", ""}, R"({"model_type": "nobody", "architectures": ["NobodyKnows"]})"),
              StatusIs(kInvalid, AllOf(HasSubstr("give --template and --task"), HasSubstr("'nobody'"),
                                       HasSubstr("'NobodyKnows'"))));
  EXPECT_THAT(
      Model({"a/b", "bert", ""}, R"({"model_type": "bert", "architectures": ["BertForPreTraining"]})"),
      StatusIs(kInvalid, HasSubstr("give --task:")));
  EXPECT_THAT(Model({"a/b", "", "fill-mask"}, ""),
              StatusIs(kInvalid, HasSubstr("give --template: it has no config")));
  EXPECT_THAT(Model({"a/b", "", ""}, "[1]"), StatusIs(kInvalid, HasSubstr("no JSON object")));
  EXPECT_THAT(Model({"a/b", "", ""}, "{\"model_type\": 3, \"architectures\": [{}]}"),
              StatusIs(kInvalid, HasSubstr("give --template and --task")));
  EXPECT_THAT(Model({"models/my/bert", "", ""}, ""),
              StatusIs(kInvalid, HasSubstr("--checkpoint must be like")));
}

TEST(ReadCheckpointConfig, LooksInTheFolderAndBelowTheRoot) {
  const std::filesystem::path root = std::filesystem::path(::testing::TempDir()) / "checkpoint_config";
  ASSERT_THAT(WriteFileAtomically(root / "a" / "b" / "config.json", "{}"), IsOk());
  ASSERT_THAT(WriteFileAtomically(root / "a" / "gguf" / "model.gguf", "GGUF"), IsOk());
  v1::CheckpointRef ref;
  hub::HubOptions nowhere;
  nowhere.offline = true;
  nowhere.cache_dir = root / "cache";
  ref.set_id((root / "a" / "b").string());
  EXPECT_THAT(ReadCheckpointConfig(ref, "", nowhere), IsOkAndHolds("{}"));
  ref.set_id((root / "a" / "gguf").string());
  EXPECT_THAT(ReadCheckpointConfig(ref, "", nowhere), IsOkAndHolds(""));
  ref.set_id((root / "none").string());
  EXPECT_THAT(ReadCheckpointConfig(ref, "", nowhere),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("none")));
  ref.set_id("a/b");
  EXPECT_THAT(ReadCheckpointConfig(ref, root, nowhere), IsOkAndHolds("{}"));
  ref.set_id("a/elsewhere");
  EXPECT_FALSE(ReadCheckpointConfig(ref, root, nowhere).ok());
}

}  // namespace
}  // namespace assay::cli
