// What stands in a script; that it runs and agrees with eager is tests/repro's to show.
#include "cli/repro.h"

#include "assay/v1/program.pb.h"
#include "common/zstd_frame.h"
#include "google/protobuf/text_format.h"
#include "tests/matchers.h"

namespace assay::cli {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

JobMaterial OfACheckpoint() {
  v1::Program program;
  EXPECT_TRUE(google::protobuf::TextFormat::ParseFromString(
      "manifest { architecture: 'transformers.BertModel' inputs { name: 'input_ids' dtype: LONG shape: [1, "
      "2] } "
      "outputs { name: 'last_hidden_state' dtype: FLOAT shape: [1, 1] } }",
      &program));
  v1::CheckpointGolden golden;
  golden.mutable_golden()->add_inputs()->set_data(std::string(16, '\1'));
  v1::Tensor& tensor = *golden.mutable_golden()->add_outputs()->mutable_tensor();
  tensor.set_dtype(v1::FLOAT);
  tensor.set_data(std::string(4, '\0'));
  JobMaterial material;
  EXPECT_TRUE(google::protobuf::TextFormat::ParseFromString(
      "job_id: 'j' result { case { name: 'test_model_loading' weights: REAL outcome: FAILED message: "
      "'off\\nimport os' "
      "output { name: 'last_hidden_state' shape: [1, 1] samples: [0.5] } } "
      "provenance { checkpoint { id: 'owner/na\"me' revision: 'main' commit: 'c0ffee' } } }",
      &material.job));
  material.program = *CompressFrame(program.SerializeAsString());
  material.golden = *CompressFrame(golden.SerializeAsString());
  return material;
}

TEST(Repro, LoadsACheckpointAtItsCommit) {
  ASSERT_OK_AND_ASSIGN(const std::string script, ReproScript(OfACheckpoint()));
  EXPECT_THAT(script, HasSubstr("{\"pretrained_model_name_or_path\": \"owner/na\\\"me\", \"revision\": "
                                "\"c0ffee\"}"));
  EXPECT_THAT(script, HasSubstr("transformers.BertModel.from_pretrained(\n        **source, "));
  EXPECT_THAT(script, HasSubstr("[0.5]"));
  EXPECT_THAT(script, Not(HasSubstr("WEIGHTS = ["))) << "a checkpoint's weights are not made";
  EXPECT_THAT(script, Not(HasSubstr("\nimport os"))) << "a message must not leave its comment";
}

TEST(Repro, SaysWhatItCannotDo) {
  JobMaterial material = OfACheckpoint();
  material.job.mutable_result()->mutable_case_(0)->clear_output();
  EXPECT_THAT(ReproScript(material), StatusIs(absl::StatusCode::kFailedPrecondition));
  material = OfACheckpoint();
  v1::Program other;
  other.mutable_manifest()->set_architecture("transformers.BertModel(); import os");
  material.program = *CompressFrame(other.SerializeAsString());
  EXPECT_THAT(ReproScript(material), StatusIs(absl::StatusCode::kUnimplemented)) << "a name becomes code";
  material = OfACheckpoint();
  material.program = "no frame";
  EXPECT_THAT(ReproScript(material), StatusIs(absl::StatusCode::kInvalidArgument));
}

}  // namespace
}  // namespace assay::cli
