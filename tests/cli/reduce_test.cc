// `assay reduce` on a job that loaded a checkpoint: as `assay run` leaves it in a folder, and with the
// checkpoint's own weights.
#include <filesystem>
#include <string>

#include "absl/strings/str_cat.h"
#include "assay/v1/coordinator.pb.h"
#include "common/digest.h"
#include "common/file.h"
#include "common/textproto.h"
#include "engine/program.h"
#include "tests/cli/run_assay.h"
#include "tests/engine/altered_program.h"
#include "tests/engine/real_checkpoint.h"
#include "tests/matchers.h"

namespace assay::cli {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

namespace fs = std::filesystem;

// A job that loaded a checkpoint and failed on it, as a folder of what it was.
struct FailedJob {
  std::string folder;
  std::string checkpoint;
  v1::TestResult result;
};

FailedJob Fail(engine::RealCheckpoint& model) {
  const engine::WrittenTest written = model.Write();
  FailedJob failed{NewFolder(), written.options.checkpoint_dir, engine::RunAltered(written)};
  EXPECT_EQ(failed.result.outcome(), v1::FAILED) << failed.result.message();
  const v1::Case& one = written.test.case_(0);
  for (const auto& [name, digest] :
       {std::pair("program.assay", one.program_digest()), std::pair("golden.assay", one.golden_digest())}) {
    fs::copy_file(written.options.files.at(digest), failed.folder + "/" + name);
  }
  v1::Job job;
  job.set_job_id("j");
  job.set_state(v1::DONE);
  *job.mutable_result() = failed.result;
  EXPECT_THAT(WriteFileAtomically(failed.folder + "/job.textproto", FormatTextProto(job)), IsOk());
  return failed;
}

TEST(Reduce, AProgramThatComputesOtherwiseWithACheckpointsWeights) {
  engine::RealCheckpoint model("bert");
  const int node = engine::NodeRunning(model.program, "aten::gelu");
  engine::ArgumentOf(model.program, node, "approximate").set_text("tanh");
  const FailedJob failed = Fail(model);
  const std::string part = NewFolder() + "/part.assay";
  const Ended reduced =
      RunAssay({"reduce", failed.folder, "--checkpoint", failed.checkpoint, "--output", part});
  ASSERT_EQ(reduced.exit_code, 0) << reduced.out << reduced.err;
  const Ended run = RunAssay({"run", "--program", part});
  EXPECT_EQ(run.exit_code, 3) << run.out << run.err;
  // Its numbers are the run's own: with the operator mended it gives what the checkpoint's golden has.
  ASSERT_OK_AND_ASSIGN(const std::string bytes, ReadFile(part));
  ASSERT_OK_AND_ASSIGN(v1::Program program, engine::ParseProgram(bytes));
  EXPECT_EQ(program.manifest().weights_size(), 0);
  engine::ArgumentOf(program, engine::NodeRunning(program, "aten::gelu"), "approximate").set_text("none");
  ASSERT_OK_AND_ASSIGN(const std::string mended, engine::SerializeProgram(program));
  ASSERT_THAT(WriteFileAtomically(part, mended), IsOk());
  EXPECT_EQ(RunAssay({"run", "--program", part}).exit_code, 0);
}

TEST(Reduce, AWeightThatIsNotTheCheckpointsAnyMore) {
  engine::RealCheckpoint model("bert");
  std::string& data = model.Named("bert.encoder.layer.1.output.dense.weight").data;
  for (size_t i = 0; i < data.size() / sizeof(float); ++i) reinterpret_cast<float*>(data.data())[i] *= 1.5F;
  const FailedJob failed = Fail(model);
  const std::string part = NewFolder() + "/part.assay";
  const Ended reduced =
      RunAssay({"reduce", failed.folder, "--checkpoint", failed.checkpoint, "--output", part});
  ASSERT_EQ(reduced.exit_code, 0) << reduced.out << reduced.err;
  EXPECT_THAT(reduced.err + reduced.out, HasSubstr("linear"));
  EXPECT_EQ(RunAssay({"run", "--program", part}).exit_code, 3);
}

TEST(Reduce, WithoutTheCheckpointItSaysWhatIsMissing) {
  engine::RealCheckpoint model("bert");
  const int node = engine::NodeRunning(model.program, "aten::gelu");
  engine::ArgumentOf(model.program, node, "approximate").set_text("tanh");
  const FailedJob failed = Fail(model);
  const std::string part = NewFolder() + "/part.assay";
  const Ended refused = RunAssay({"reduce", failed.folder, "--output", part});
  EXPECT_EQ(refused.exit_code, 2);
  EXPECT_THAT(refused.err, AllOf(HasSubstr("someone/fine-tuned"), HasSubstr("--checkpoint")));
  // Of another checkpoint nothing is reduced.
  engine::RealCheckpoint other("bert");
  other.Named("bert.encoder.layer.1.output.dense.weight")
      .data.assign(other.Named("bert.encoder.layer.1.output.dense.weight").data.size(), '\0');
  const Ended another = RunAssay(
      {"reduce", failed.folder, "--checkpoint", other.Write().options.checkpoint_dir, "--output", part});
  EXPECT_NE(another.exit_code, 0);
  EXPECT_FALSE(fs::exists(part)) << another.out << another.err;
}

}  // namespace
}  // namespace assay::cli
