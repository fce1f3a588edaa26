// The content that ships: the plan's batches, the registry, templates, catalogue and programs belong
// together.
#include <algorithm>
#include <filesystem>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "assay/v1/program.pb.h"
#include "common/digest.h"
#include "common/file.h"
#include "common/textproto.h"
#include "common/zstd_frame.h"
#include "generator/batch_file.h"
#include "generator/catalogue.h"
#include "generator/generate.h"
#include "generator/names.h"
#include "generator/rules.h"
#include "generator/templates.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/generator/sample.h"
#include "tests/matchers.h"

namespace assay::generator {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

class ContentTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_OK_AND_ASSIGN(templates_, LoadTemplates("templates"));
    ASSERT_OK_AND_ASSIGN(catalogue_, LoadCatalogue("models/catalogue"));
  }

  BatchFile ReadBatch(int number) {
    const std::string file = absl::StrCat("models/batches/batch_", number, "_models.json");
    const absl::StatusOr<std::string> content = ReadFile(file);
    EXPECT_THAT(content, IsOk());
    const absl::StatusOr<BatchFile> batch =
        ParseBatchFile(file, *content, TemplateNames(templates_), nullptr);
    EXPECT_THAT(batch, IsOk());
    return batch.ok() ? *batch : BatchFile{};
  }

  // The test of a model that the catalogue knows, as its own entry describes it.
  absl::StatusOr<v1::ModelTest> GenerateEntry(const v1::CatalogueEntry& entry) {
    JobSpec job;
    job.model.set_name(entry.name());
    job.model.set_original_name(entry.original_name());
    job.model.set_arch_type(entry.arch_type());
    job.model.set_template_(entry.template_());
    job.model.set_task(entry.task());
    job.template_digest = Sha256Hex("template");
    job.catalogue_digest = Sha256Hex("entry");
    if (templates_.count(entry.template_()) == 0) return absl::NotFoundError(entry.template_());
    return Generate(templates_.at(entry.template_()), &entry, job);
  }

  std::map<std::string, v1::Template> templates_;
  std::map<std::string, v1::CatalogueEntry> catalogue_;
};

TEST_F(ContentTest, TheTwentyFamiliesOfThePlanAndThreeMoreAreThere) {
  EXPECT_THAT(TemplateNames(templates_),
              ElementsAre("architecture", "bert", "blip", "clip", "convnext", "deberta", "detr", "gemma",
                          "gpt2", "idefics", "llama", "llava", "mistral", "phi", "swin", "t5", "time_series",
                          "vilt", "vision_text_dual_encoder", "vit", "wav2vec2", "whisper", "xlm_roberta"));
}

TEST_F(ContentTest, EveryFamilyHasTheChecksThatTheyAllShare) {
  for (const auto& [name, resolved] : templates_) {
    std::set<std::string> mock, loading;
    for (const v1::CaseTemplate& one : resolved.case_()) {
      for (const v1::Check& check : one.check()) {
        // Named by its kind; a second one of a kind by what it asks.
        EXPECT_EQ(check.name(), check.padding_invariance().left() ? "left_padding" : KindOf(check)) << name;
        (one.name() == kMockCase ? mock : loading).insert(check.name());
      }
    }
    for (const char* check :
         {"golden", "shapes", "finite", "not_constant", "deterministic", "batch_invariance"}) {
      EXPECT_THAT(mock, Contains(check)) << name;
    }
    for (const char* check : {"weights_bound", "weights_sound", "golden", "answers", "shapes", "finite",
                              "not_constant", "deterministic"}) {
      EXPECT_THAT(loading, Contains(check)) << name;
    }
    EXPECT_GT(mock.size(), 6u) << name << " has no check of its own";
    EXPECT_GT(loading.size(), 8u) << name << " has no check of its own with trained weights";
  }
}

TEST_F(ContentTest, TheReferenceExplainsEveryKindOfCheckAndEveryFamily) {
  ASSERT_OK_AND_ASSIGN(const std::string reference, ReadFile("docs/test_file.md"));
  const auto* kinds = v1::Check::descriptor()->FindOneofByName("kind");
  for (int i = 0; i < kinds->field_count(); ++i) {
    const std::string kind = kinds->field(i)->name();
    EXPECT_TRUE(absl::StrContains(reference, absl::StrCat("\n| `", kind, "` |"))) << kind;
  }
  for (const auto& [name, resolved] : templates_) {
    EXPECT_TRUE(absl::StrContains(reference, absl::StrCat(" ", name))) << name;
  }
}

TEST_F(ContentTest, ThePlansSixBatchesAreAcceptedAsTheyAre) {
  const size_t kModels[] = {10, 10, 10, 10, 10, 12};
  std::set<std::string> names;
  std::set<std::string> templates;
  size_t hyphens = 0;
  for (int number = 1; number <= 6; ++number) {
    const BatchFile batch = ReadBatch(number);
    EXPECT_EQ(batch.models.size(), kModels[number - 1]) << number;
    for (const v1::ModelRef& model : batch.models) {
      EXPECT_TRUE(names.insert(model.name()).second) << model.name();
      templates.insert(model.template_());
      if (!model.original_name().empty()) {
        ++hyphens;
        EXPECT_EQ(NormaliseName(model.original_name()), model.name());
      }
    }
  }
  EXPECT_EQ(names.size(), 62u);
  EXPECT_EQ(templates.size(), 20u);
  EXPECT_EQ(hyphens, 22u);
}

TEST_F(ContentTest, TheRegistryHasOnlyKnownArchitectureTypesAndNames) {
  ASSERT_OK_AND_ASSIGN(const std::string text, ReadFile("models/registry.json"));
  const nlohmann::json registry = nlohmann::json::parse(text);
  EXPECT_EQ(registry["models"].size(), 198u);
  for (const auto& model : registry["models"]) {
    EXPECT_THAT(ArchTypes(), Contains(model["arch_type"].get<std::string>()));
    EXPECT_TRUE(IsName(model["name"].get<std::string>())) << model;
  }
}

// Generate, format, verify: no errors, for every model of the plan with its entry, on every target.
TEST_F(ContentTest, EveryModelOfThePlanGetsATestThatVerifies) {
  for (int number = 1; number <= 6; ++number) {
    for (const v1::ModelRef& model : ReadBatch(number).models) {
      const auto entry = catalogue_.find(model.name());
      ASSERT_NE(entry, catalogue_.end()) << model.name() << " is not in the catalogue";
      for (const v1::DeviceChoice device : {v1::DEVICE_CHOICE_UNSPECIFIED, v1::AUTO, v1::CPU, v1::CUDA}) {
        JobSpec job;
        job.model = model;
        job.target.set_device(device);
        job.template_digest = Sha256Hex(FormatTextProto(templates_.at(model.template_())));
        job.catalogue_digest = Sha256Hex(model.name());
        job.program_digest = device == v1::CPU ? "" : Sha256Hex("program");
        const auto test = Generate(templates_.at(model.template_()), &entry->second, job);
        ASSERT_THAT(test, IsOk());
        const std::string text = FormatTest(*test);
        const std::string file = TestFileName(model);
        EXPECT_THAT(VerifyErrors(file, text), IsEmpty());
        if (!model.original_name().empty()) {
          EXPECT_TRUE(
              absl::StrContains(text, absl::StrCat("\n# Original name: ", model.original_name(), "\n")));
        }
      }
    }
  }
}

TEST_F(ContentTest, EveryEntryOfTheCatalogueGetsATestThatVerifies) {
  for (const auto& [name, entry] : catalogue_) {
    const auto test = GenerateEntry(entry);
    ASSERT_THAT(test, IsOk());
    EXPECT_THAT(VerifyErrors(TestFileName(name), FormatTest(*test)), IsEmpty()) << name;
  }
}

// An entry that replaces the check to exempt a weight must not thereby ask for less of the others.
TEST_F(ContentTest, EveryEntryAsksForTheInfluenceOfEveryParameter) {
  for (const auto& [name, entry] : catalogue_) {
    const auto test = GenerateEntry(entry);
    ASSERT_THAT(test, IsOk());
    for (const v1::Case& one : test->case_()) {
      for (const v1::Check& check : one.check()) {
        if (check.has_weight_influence()) {
          EXPECT_TRUE(check.weight_influence().every_parameter()) << name;
        }
      }
    }
  }
}

// A check that names a tensor which the program has not could never hold.
TEST_F(ContentTest, EveryCheckNamesTensorsOfItsProgram) {
  size_t programs = 0;
  for (const auto& [name, entry] : catalogue_) {
    const auto packed = ReadFile(absl::StrCat("models/programs/", name, ".assay"));
    if (absl::IsNotFound(packed.status())) continue;
    ++programs;
    ASSERT_THAT(packed, IsOk());
    const auto content = DecompressFrame("program", *packed);
    ASSERT_THAT(content, IsOk()) << name;
    v1::Program program;
    ASSERT_TRUE(program.ParseFromString(*content)) << name;
    std::set<std::string> tensors;
    for (const auto& input : program.manifest().inputs()) tensors.insert(input.name());
    for (const auto& output : program.manifest().outputs()) tensors.insert(output.name());
    const auto test = GenerateEntry(entry);
    ASSERT_THAT(test, IsOk());
    for (const v1::Case& one : test->case_()) {
      for (const v1::Check& check : one.check()) {
        const auto* field = v1::Check::descriptor()->FindFieldByName(KindOf(check));
        const auto& kind = check.GetReflection()->GetMessage(check, field);
        for (int i = 0; i < kind.GetDescriptor()->field_count(); ++i) {
          const auto* tensor = kind.GetDescriptor()->field(i);
          if (tensor->cpp_type() != google::protobuf::FieldDescriptor::CPPTYPE_STRING) continue;
          EXPECT_THAT(tensors, Contains(kind.GetReflection()->GetString(kind, tensor)))
              << name << " (" << entry.template_() << "): " << check.name() << "." << tensor->name();
        }
      }
    }
  }
  EXPECT_EQ(programs, catalogue_.size());
}

}  // namespace
}  // namespace assay::generator
