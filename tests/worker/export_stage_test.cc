// Export stages with an exporter that only pretends, in the real sandbox.
#include "worker/export_stage.h"

#include <unistd.h>

#include <atomic>
#include <thread>

#include "absl/strings/match.h"
#include "tests/worker/fake_export.h"

namespace assay::worker {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

class ExportStageTest : public ::testing::Test {
 protected:
  ExportStageTest() {
    std::filesystem::remove_all(folder_);
    fake_ = std::make_unique<FakeExport>(folder_);
    artifacts_ = std::make_unique<FakeArtifacts>(folder_);
  }
  ~ExportStageTest() override { std::filesystem::remove_all(folder_); }

  void StartExporter(const ExporterOptions& options) {
    ASSERT_OK_AND_ASSIGN(exporter_, Exporter::Start(options));
    stage_ = std::make_unique<ExportStage>(exporter_.get(), artifacts_.get(), folder_ / "scratch");
  }
  ExportJob Job() {
    ExportJob job;
    job.assignment.set_stage(v1::STAGE_EXPORT);
    job.assignment.mutable_model()->set_name("gpt_x");
    job.assignment.mutable_model()->set_template_("gpt2");
    job.assignment.mutable_model()->set_task("text-generation");
    job.assignment.mutable_checkpoint()->set_id(fake_->checkpoint().string());
    job.found = hub::FindFolder(fake_->checkpoint(), {});
    job.log = [this](absl::string_view text) {
      absl::MutexLock lock(&mutex_);
      log_.append(text.data(), text.size());
    };
    job.cancelled = [this] { return cancelled_.load(); };
    return job;
  }
  v1::TestResult Run(const ExportJob& job) {
    if (stage_ == nullptr) StartExporter(fake_->Options());
    return stage_->Run(job);
  }
  v1::TestResult Run(const std::string& behaviour) {
    fake_->Behave(behaviour);
    return Run(Job());
  }
  // How often Python was started for a checkpoint.
  int Runs() {
    absl::MutexLock lock(&mutex_);
    int runs = 0;
    for (size_t at = 0; (at = log_.find("RAN", at)) != std::string::npos; ++at) ++runs;
    return runs;
  }

  const std::filesystem::path folder_ =
      std::filesystem::path(::testing::TempDir()) / ("export_test." + std::to_string(::getpid()));
  std::unique_ptr<FakeExport> fake_;
  std::unique_ptr<FakeArtifacts> artifacts_;
  std::unique_ptr<Exporter> exporter_;
  std::unique_ptr<ExportStage> stage_;
  std::atomic<bool> cancelled_ = false;
  absl::Mutex mutex_;
  std::string log_;
};

TEST_F(ExportStageTest, MakesProgramAndGoldenAndSaysWhatTheyAreOf) {
  const v1::TestResult result = Run("good");
  ASSERT_EQ(result.outcome(), v1::PASSED) << result.message();
  const v1::ExportResult& made = result.export_();
  EXPECT_EQ(made.program_digest(), fake_->program_digest());
  EXPECT_FALSE(made.program_cached());
  EXPECT_THAT(artifacts_->Content(made.golden_digest()), Not(IsEmpty()));
  EXPECT_EQ(made.no_golden(), "");
  EXPECT_EQ(made.checkpoint().weights_digest(), fake_->weights_digest());
  EXPECT_EQ(made.model_class(), "transformers.GPT2LMHeadModel");
  EXPECT_EQ(made.memory_bytes(), 4096);
  EXPECT_THAT(made.input(), ElementsAre("input_ids"));
  EXPECT_THAT(made.output(), ElementsAre("logits"));
  EXPECT_EQ(made.exporter(), "assay-exporter c0de, transformers 4.0, torch 2.0");
  EXPECT_EQ(made.program_seconds(), 1.5);
  EXPECT_EQ(Runs(), 1);
  EXPECT_TRUE(std::filesystem::is_empty(folder_ / "scratch"));
}

TEST_F(ExportStageTest, WhatIsCachedStartsNoPython) {
  const v1::TestResult first = Run("good");
  const v1::TestResult second = Run("crash");
  ASSERT_EQ(second.outcome(), v1::PASSED) << second.message();
  EXPECT_TRUE(second.export_().program_cached());
  EXPECT_TRUE(second.export_().golden_cached());
  EXPECT_EQ(second.export_().golden_digest(), first.export_().golden_digest());
  EXPECT_EQ(second.export_().model_class(), first.export_().model_class());
  EXPECT_EQ(second.export_().memory_bytes(), 4096);
  EXPECT_THAT(second.export_().output(), ElementsAre("logits"));
  EXPECT_EQ(Runs(), 1);
}

TEST_F(ExportStageTest, AFineTuneTakesTheProgramAndHasAGoldenOfItsOwn) {
  const v1::TestResult first = Run("good");
  Write(fake_->checkpoint() / "config.json",
        R"({"id2label": {"0": "bad", "1": "good"}, "model_type": "gpt2", "_name_or_path": "tuned"})");
  Write(fake_->checkpoint() / "model.safetensors", Safetensors("a", "5678"));
  fake_->Make();
  const v1::TestResult tuned = Run("good");
  ASSERT_EQ(tuned.outcome(), v1::PASSED) << tuned.message();
  EXPECT_TRUE(tuned.export_().program_cached());
  EXPECT_FALSE(tuned.export_().golden_cached());
  EXPECT_NE(tuned.export_().golden_digest(), first.export_().golden_digest());
  EXPECT_THAT(log_, HasSubstr("RAN good with program"));
}

TEST_F(ExportStageTest, WhatDecidesTheProgramIsInItsKey) {
  Run("good");
  ExportJob job = Job();
  job.assignment.mutable_model()->set_task("feature-extraction");
  EXPECT_FALSE(Run(job).export_().program_cached());
  Write(fake_->checkpoint() / "preprocessor_config.json", R"({"size": 384})");
  job = Job();
  EXPECT_FALSE(Run(job).export_().program_cached());
  Write(fake_->checkpoint() / "config.json", R"({"model_type": "gpt2", "n_layer": 3})");
  job = Job();
  EXPECT_FALSE(Run(job).export_().program_cached());
  job.entry_model_class = "transformers.GPT2Model";
  EXPECT_FALSE(Run(job).export_().program_cached());
  EXPECT_TRUE(Run(job).export_().program_cached());
}

TEST_F(ExportStageTest, AFineTuneWhoseTokensDoNotFitHasAProgramOfItsOwn) {
  Run("good");
  Write(fake_->checkpoint() / "model.safetensors", Safetensors("a", "5678"));
  Write(fake_->checkpoint() / "tokenizer.json", R"({"another": 1})");
  fake_->Make();
  const v1::TestResult tuned = Run("shapes");
  ASSERT_EQ(tuned.outcome(), v1::PASSED) << tuned.message();
  EXPECT_FALSE(tuned.export_().program_cached());
  EXPECT_THAT(tuned.export_().golden_digest(), Not(IsEmpty()));
  EXPECT_EQ(Runs(), 3);
}

TEST_F(ExportStageTest, TwoJobsOfOneKeyAreOneExport) {
  StartExporter(fake_->Options());
  v1::TestResult results[2];
  std::thread other([&] { results[0] = Run(Job()); });
  results[1] = Run(Job());
  other.join();
  EXPECT_EQ(results[0].outcome(), v1::PASSED) << results[0].message();
  EXPECT_EQ(results[1].outcome(), v1::PASSED) << results[1].message();
  EXPECT_EQ(results[0].export_().program_cached() + results[1].export_().program_cached(), 1);
  EXPECT_EQ(Runs(), 1);
}

TEST_F(ExportStageTest, ACheckpointTooLargeForAGoldenSaysSoEveryTime) {
  for (bool cached : {false, true}) {
    const v1::TestResult result = Run("large");
    ASSERT_EQ(result.outcome(), v1::PASSED) << result.message();
    EXPECT_EQ(result.export_().no_golden(), "too large for this exporter");
    EXPECT_THAT(result.export_().golden_digest(), Not(IsEmpty()));  // the inputs
    EXPECT_EQ(result.export_().golden_cached(), cached);
  }
  EXPECT_EQ(Runs(), 1);
}

TEST_F(ExportStageTest, TheSandboxHasNoNetworkNoHomeAndNoSecrets) {
  ::setenv("HF_TOKEN", "secret", 1);
  const v1::TestResult result = Run("walls");
  ::unsetenv("HF_TOKEN");
  EXPECT_EQ(result.outcome(), v1::FAILED);
  EXPECT_EQ(result.message(),
            "network=no socket=no home=no write=no parent=no checkpoint=yes out=yes secret=no");
}

TEST_F(ExportStageTest, ACrashIsSaidToBeOne) {
  const v1::TestResult result = Run("crash");
  EXPECT_EQ(result.outcome(), v1::CRASHED);
  EXPECT_EQ(result.signal(), SIGSEGV);
  EXPECT_EQ(artifacts_->keys(), 0);
}

TEST_F(ExportStageTest, AnExporterThatFailsIsQuoted) {
  const v1::TestResult result = Run("exit");
  EXPECT_EQ(result.outcome(), v1::INFRASTRUCTURE_ERROR);
  EXPECT_THAT(result.message(), HasSubstr("exit code 1"));
  EXPECT_THAT(result.message(), HasSubstr("boom"));
}

TEST_F(ExportStageTest, TimeIsBounded) {
  ExporterOptions options = fake_->Options();
  StartExporter(options);
  options.timeout = absl::Milliseconds(300);
  StartExporter(options);
  EXPECT_EQ(Run("hang").outcome(), v1::TIMED_OUT);
}

TEST_F(ExportStageTest, MemoryIsBounded) {
  const v1::TestResult result = Run("memory");
  EXPECT_EQ(result.outcome(), v1::OUT_OF_MEMORY);
  EXPECT_THAT(result.message(), HasSubstr("300 MiB are allowed"));
}

TEST_F(ExportStageTest, ACancelledJobEndsItsExport) {
  fake_->Behave("hang");
  ExportJob job = Job();
  job.log = [this](absl::string_view text) {
    if (absl::StrContains(text, "RAN")) cancelled_ = true;
  };
  EXPECT_EQ(Run(job).outcome(), v1::CANCELLED);
}

TEST_F(ExportStageTest, NothingOfALieIsKept) {
  for (const auto& [lie, said] : std::map<std::string, std::string>{
           {"escape", "no plain file name"},
           {"missing", "is not there"},
           {"linked", "is not there"},
           {"outcome", "SURELY"},
           {"text", "no JSON object"},
           {"rubbish", "the exporter's program cannot be used"},
       }) {
    const v1::TestResult result = Run(lie);
    EXPECT_EQ(result.outcome(), v1::INFRASTRUCTURE_ERROR) << lie;
    EXPECT_THAT(result.message(), HasSubstr(said)) << lie;
    EXPECT_EQ(artifacts_->keys(), 0) << lie;
  }
}

TEST_F(ExportStageTest, AGoldenOfOtherWeightsIsNotKept) {
  const v1::TestResult result = Run("other_golden");
  EXPECT_EQ(result.outcome(), v1::INFRASTRUCTURE_ERROR);
  EXPECT_THAT(result.message(), HasSubstr("it is of weights " + Sha256Hex("others")));
  EXPECT_EQ(Run("good").export_().golden_cached(), false);
}

TEST_F(ExportStageTest, WhatTheExporterRefusesIsTheVerdict) {
  const v1::TestResult result = Run("unsupported");
  EXPECT_EQ(result.outcome(), v1::UNSUPPORTED);
  EXPECT_EQ(result.message(), "unknown model type sphinx");
}

TEST_F(ExportStageTest, ABrokenCheckpointHasAProgramAndNoGolden) {
  Write(fake_->checkpoint() / "model.safetensors", "no tensors");
  const v1::TestResult result = Run("good");
  ASSERT_EQ(result.outcome(), v1::PASSED) << result.message();
  EXPECT_EQ(result.export_().program_digest(), fake_->program_digest());
  EXPECT_EQ(result.export_().golden_digest(), "");
  EXPECT_THAT(result.export_().no_golden(), HasSubstr("model.safetensors"));
}

TEST_F(ExportStageTest, PinnedWeightsMustBeThose) {
  ExportJob job = Job();
  job.assignment.mutable_checkpoint()->set_weights_digest(Sha256Hex("others"));
  const v1::TestResult result = Run(job);
  EXPECT_EQ(result.outcome(), v1::FAILED);
  EXPECT_THAT(result.message(), HasSubstr(fake_->weights_digest()));
  EXPECT_THAT(result.message(), HasSubstr(Sha256Hex("others")));
  EXPECT_EQ(Runs(), 0);
  job.assignment.mutable_checkpoint()->set_weights_digest(fake_->weights_digest());
  EXPECT_EQ(Run(job).outcome(), v1::PASSED);
}

// The same weights under a changed configuration (fewer heads, say) are another model.
TEST_F(ExportStageTest, APinnedConfigurationMustBeThat) {
  ExportJob job = Job();
  const std::string found = Run(job).export_().checkpoint().config_digest();
  ASSERT_EQ(found.size(), 64u);
  job.assignment.mutable_checkpoint()->set_config_digest(found);
  EXPECT_EQ(Run(job).outcome(), v1::PASSED);
  const int runs = Runs();
  std::string config = *ReadFile(fake_->checkpoint() / "config.json");
  config.insert(config.rfind('}'), R"(, "num_attention_heads": 77)");
  Write(fake_->checkpoint() / "config.json", config);
  const v1::TestResult result = Run(job);
  EXPECT_EQ(result.outcome(), v1::FAILED);
  EXPECT_THAT(result.message(), HasSubstr("pinned is " + found));
  EXPECT_EQ(Runs(), runs);
}

TEST_F(ExportStageTest, RemoteCodeIsRefused) {
  Write(fake_->checkpoint() / "config.json",
        R"({"model_type": "sphinx", "auto_map": {"AutoModel": "modeling_sphinx.Sphinx"}})");
  const v1::TestResult result = Run("good");
  EXPECT_EQ(result.outcome(), v1::UNSUPPORTED);
  EXPECT_THAT(result.message(), HasSubstr("trust_remote_code"));
  EXPECT_EQ(Runs(), 0);
}

TEST_F(ExportStageTest, AConfigOfAnotherClassIsNamed) {
  v1::Program tiny;
  tiny.mutable_manifest()->set_config_json(R"({"model_type": "bert"})");
  Write(folder_ / "tiny", Frame(tiny));
  ExportJob job = Job();
  job.program = folder_ / "tiny";
  const v1::TestResult result = Run(job);
  EXPECT_EQ(result.outcome(), v1::FAILED);
  EXPECT_THAT(result.message(), HasSubstr("its model_type is gpt2, model gpt_x is bert"));
}

// A GGUF file has its configuration inside, and a config.json beside it may say anything.
TEST_F(ExportStageTest, ModelTypeIsWhatTheExporterReadWhateverConfigJsonSays) {
  Write(fake_->checkpoint() / "config.json", R"({"model_type": "bert"})");
  EXPECT_EQ(Run(Job()).export_().model_type(), "gpt2");
  EXPECT_EQ(Run(Job()).export_().model_type(), "gpt2") << "from the record of the cached program";

  v1::Program tiny;
  tiny.mutable_manifest()->set_config_json(R"({"model_type": "bert"})");
  Write(folder_ / "tiny", Frame(tiny));
  ExportJob job = Job();
  job.program = folder_ / "tiny";
  for (const char* catalogue : {"", "fresh"}) {  // cached by the runs above, and made anew
    job.assignment.set_catalogue_digest(catalogue);
    const v1::TestResult result = Run(job);
    EXPECT_EQ(result.outcome(), v1::FAILED);
    EXPECT_THAT(result.message(), HasSubstr("its model type is gpt2, model gpt_x is bert"));
    EXPECT_EQ(result.export_().program_digest(), "");
  }
}

TEST_F(ExportStageTest, PicklesAreRefusedUnlessTheOperatorAllowsThem) {
  std::filesystem::remove(fake_->checkpoint() / "model.safetensors");
  Write(fake_->checkpoint() / "pytorch_model.bin", "a pickle");
  const v1::TestResult refused = Run("pickle");
  EXPECT_EQ(refused.outcome(), v1::UNSUPPORTED);
  EXPECT_THAT(refused.message(), HasSubstr("pytorch_model.bin"));
  EXPECT_EQ(Runs(), 0);

  ExporterOptions options = fake_->Options();
  options.allow_pickle = true;
  StartExporter(options);
  // The golden that lies ready is of what the pickle becomes.
  Write(fake_->checkpoint() / "model.safetensors", Safetensors("a", "1234"));
  const std::string digest = fake_->weights_digest();
  fake_->Make();
  std::filesystem::remove(fake_->checkpoint() / "model.safetensors");
  const v1::TestResult converted = Run("pickle");
  ASSERT_EQ(converted.outcome(), v1::PASSED) << converted.message();
  EXPECT_EQ(converted.export_().checkpoint().weights_digest(), digest);
  EXPECT_EQ(artifacts_->Content(converted.export_().weights_blob()), Safetensors("a", "1234"));
  EXPECT_FALSE(converted.export_().hub_verified());
  const int runs = Runs();
  EXPECT_EQ(Run("crash").outcome(), v1::PASSED);
  EXPECT_EQ(Runs(), runs);
  // Other pickles are not the weights that these became.
  Write(fake_->checkpoint() / "pytorch_model.bin", "another pickle");
  EXPECT_EQ(Run("crash").outcome(), v1::CRASHED);
}

struct Lost {
  absl::Status status;
  bool is_default, offline;
  v1::Outcome outcome;
  std::string said;
};

TEST_F(ExportStageTest, ACheckpointThatIsNotToBeHad) {
  const auto skipped = v1::SKIPPED, error = v1::INFRASTRUCTURE_ERROR;
  for (const Lost& lost : std::vector<Lost>{
           {absl::NotFoundError("404"), false, false, error, "no such checkpoint"},
           {absl::NotFoundError("404"), true, false, skipped, "NO_WEIGHTS"},
           {absl::PermissionDeniedError("gated: set HF_TOKEN"), false, false, error, "set HF_TOKEN"},
           {absl::PermissionDeniedError("gated: set HF_TOKEN"), true, false, error, "set HF_TOKEN"},
           {absl::UnavailableError("offline"), false, true, error, "offline"},
           {absl::UnavailableError("offline"), true, true, skipped, "offline by configuration"},
           {absl::UnavailableError("503"), true, false, error, "503"},
           {absl::DataLossError("model.safetensors: wrong hash"), true, false, error, "model.safetensors"},
           {absl::FailedPreconditionError("a link that leads out"), false, false, v1::FAILED, "leads out"},
           {absl::FailedPreconditionError("a/pickle@1: leads out"), true, false, v1::FAILED, "leads out"},
           {absl::FailedPreconditionError("a/b: the weights are pickles alone (x.bin)"), true, false, skipped,
            "NO_WEIGHTS"},
       }) {
    ExportJob job = Job();
    job.found = lost.status;
    job.offline = lost.offline;
    job.assignment.set_default_checkpoint(lost.is_default);
    const v1::TestResult result = Run(job);
    EXPECT_EQ(result.outcome(), lost.outcome) << lost.status;
    EXPECT_THAT(result.message(), HasSubstr(lost.said));
  }
  EXPECT_EQ(Runs(), 0);
}

TEST_F(ExportStageTest, AnExporterThatIsNotSetUpSaysHow) {
  std::filesystem::remove_all(fake_->exporter() / ".venv");
  EXPECT_THAT(Exporter::Start(fake_->Options()).status(),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("exporter/setup")));
}

}  // namespace
}  // namespace assay::worker
