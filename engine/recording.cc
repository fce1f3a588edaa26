#include "engine/recording.h"

#include <ATen/ops/view_as_real.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <limits>
#include <map>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/digest.h"
#include "common/dtype.h"
#include "common/status_macros.h"
#include "common/zstd_frame.h"
#include "engine/number_statistics.h"
#include "engine/output_digest.h"
#include "engine/plan.h"
#include "engine/run_test.h"
#include "engine/tolerance.h"
#include "engine/validate.h"

namespace assay::engine {
namespace {

constexpr uint32_t kAll = std::numeric_limits<uint32_t>::max();

int64_t Sampled(int64_t numel, uint32_t samples) { return std::min<int64_t>(numel, samples); }

v1::RecordedValue RecordValue(const at::Tensor& given, uint32_t samples) {
  // A complex number is two.
  const at::Tensor value = given.is_complex() ? at::view_as_real(given.resolve_conj()) : given;
  v1::RecordedValue made;
  SetNumberStatistics(value, samples, made);
  made.set_digest(DigestOf(value));
  return made;
}

class ValueRecorder final : public Observer {
 public:
  ValueRecorder(v1::Recording& recording, uint32_t samples) : recording_(recording), samples_(samples) {}
  bool ValueMade(const NodePlace& place, uint32_t output, const at::Tensor& value, bool is_view) override {
    v1::RecordedValue& made = *recording_.add_value();
    made = RecordValue(value, samples_);
    made.set_name(std::string(place.name));
    made.set_node(place.index);
    made.set_output(output);
    made.set_view(is_view);
    return true;
  }

 private:
  v1::Recording& recording_;
  const uint32_t samples_;
};

absl::Status NotA(absl::string_view why) {
  return absl::InvalidArgumentError(absl::StrCat("not a recording: ", why));
}

absl::Status ValidateValue(const v1::RecordedValue& value, uint32_t samples) {
  int64_t numel = 1;
  for (const int64_t size : value.shape()) {
    if (size < 0 || (size > 0 && numel > (int64_t{1} << 40) / size)) {
      return NotA(absl::StrCat(value.name(), " has an impossible shape"));
    }
    numel *= size;
  }
  if (value.samples_size() != Sampled(numel, samples)) {
    return NotA(absl::StrCat(value.name(), " has ", value.samples_size(), " numbers instead of ",
                             Sampled(numel, samples)));
  }
  return IsDigest(value.digest()) ? absl::OkStatus() : NotA(absl::StrCat(value.name(), " has no digest"));
}

absl::Status Validate(const v1::Recording& recording) {
  ASSAY_RETURN_IF_ERROR(ValidateProgram(recording.program()));
  const v1::Manifest& manifest = recording.program().manifest();
  const v1::Graph& graph = recording.program().graph();
  if (recording.samples() == 0) return NotA("it has no samples");
  if (!IsDigest(recording.weights_identity()) || !IsDigest(recording.inputs_digest())) {
    return NotA("it does not say what went into the run");
  }
  if (recording.output_size() != manifest.outputs_size() ||
      recording.weight_size() != manifest.weights_size()) {
    return NotA("its outputs or weights are not its program's");
  }
  for (int i = 0; i < recording.output_size(); ++i) {
    if (recording.output(i).name() != manifest.outputs(i).name())
      return NotA("its outputs are not its program's");
    ASSAY_RETURN_IF_ERROR(ValidateValue(recording.output(i), kAll));
  }
  for (int i = 0; i < recording.weight_size(); ++i) {
    if (recording.weight(i).name() != manifest.weights(i).name())
      return NotA("its weights are not its program's");
  }
  int64_t last = -1;
  for (const v1::RecordedValue& value : recording.value()) {
    if (value.node() >= static_cast<uint32_t>(graph.nodes_size()) ||
        value.output() >= static_cast<uint32_t>(graph.nodes(static_cast<int>(value.node())).outputs_size()) ||
        value.node() < last) {
      return NotA(absl::StrCat("value ", value.name(), " is of no operator of its program"));
    }
    last = value.node();
    ASSAY_RETURN_IF_ERROR(ValidateValue(value, recording.samples()));
  }
  return recording.value().empty() ? NotA("it has no values") : absl::OkStatus();
}

}  // namespace

absl::StatusOr<GivenWeights> OwnMockWeights(const v1::Manifest& manifest) {
  GivenWeights given;
  ASSAY_ASSIGN_OR_RETURN(given.values, MockWeights(manifest, manifest.mock_seed()));
  std::map<std::string, std::string> by_name;
  for (const v1::WeightSpec& spec : manifest.weights()) by_name[spec.name()] = spec.SerializeAsString();
  std::string all = absl::StrCat(manifest.mock_seed());
  for (const auto& [name, spec] : by_name) absl::StrAppend(&all, "\n", spec.size(), ":", spec);
  given.identity = Sha256Hex(all);
  return given;
}

absl::StatusOr<std::vector<at::Tensor>> InputsFor(const v1::Manifest& to, const v1::Manifest& from,
                                                  const std::vector<at::Tensor>& inputs) {
  std::vector<at::Tensor> made;
  for (const v1::InputSpec& spec : to.inputs()) {
    int at = -1;
    for (int i = 0; i < from.inputs_size(); ++i) {
      if (from.inputs(i).name() == spec.name()) at = i;
    }
    if (at < 0)
      return absl::FailedPreconditionError(absl::StrCat("only one side takes the input ", spec.name()));
    ASSAY_ASSIGN_OR_RETURN(const at::ScalarType dtype, TorchDtype(spec.dtype()));
    const at::Tensor& input = inputs[static_cast<size_t>(at)];
    if (input.scalar_type() != dtype) {
      return absl::FailedPreconditionError(
          absl::StrCat("the sides take input ", spec.name(), " in different dtypes"));
    }
    bool fits = input.dim() == spec.shape_size();
    for (int d = 0; fits && d < spec.shape_size(); ++d) {
      fits = input.size(d) == spec.shape(d) || (spec.has_batch_dim() && spec.batch_dim() == d);
    }
    if (!fits) {
      return absl::FailedPreconditionError(
          absl::StrCat("one side takes input ", spec.name(), " as [", absl::StrJoin(input.sizes(), ", "),
                       "], the other as [", absl::StrJoin(spec.shape(), ", "), "]"));
    }
    made.push_back(input);
  }
  for (const v1::InputSpec& spec : from.inputs()) {
    const bool taken = std::any_of(to.inputs().begin(), to.inputs().end(),
                                   [&](const v1::InputSpec& other) { return other.name() == spec.name(); });
    if (!taken)
      return absl::FailedPreconditionError(absl::StrCat("only one side takes the input ", spec.name()));
  }
  return made;
}

absl::StatusOr<v1::Recording> Record(const v1::Program& program, const std::string& digest,
                                     const GivenWeights& weights, const std::vector<at::Tensor>& inputs,
                                     const Placement& placement, uint32_t samples) {
  if (samples == 0) return absl::InvalidArgumentError("a recording keeps one number of each value at least");
  try {
    const v1::Manifest& manifest = program.manifest();
    v1::Recording recording;
    recording.set_format(1);
    recording.set_model(manifest.model());
    *recording.mutable_program() = program;
    recording.mutable_program()->mutable_golden()->clear_trace();
    recording.set_program_digest(digest);
    v1::Provenance& provenance = *recording.mutable_provenance();
    provenance = Describe(placement.device.is_cuda() ? v1::CUDA : v1::CPU);
    provenance.set_dtype(placement.dtype == at::ScalarType::BFloat16 ? v1::DTYPE_BFLOAT16
                         : placement.dtype == at::ScalarType::Half   ? v1::FLOAT16
                                                                     : v1::FLOAT32);
    recording.set_weights(weights.kind);
    recording.set_weights_identity(weights.identity);
    recording.set_samples(samples);
    for (const std::string& note : weights.notes) recording.add_note(note);

    ASSAY_ASSIGN_OR_RETURN(const std::unique_ptr<Plan> plan, Plan::Build(program, placement));
    ASSAY_RETURN_IF_ERROR(plan->Bind(weights.values));
    std::map<std::string, std::string> identities;  // whatever order a side has its inputs in
    std::vector<at::Tensor> placed;
    for (size_t i = 0; i < inputs.size(); ++i) {
      identities[manifest.inputs(static_cast<int>(i)).name()] = DigestOf(inputs[i]);
      placed.push_back(Place(inputs[i], placement));
    }
    recording.set_inputs_digest(Sha256Hex(absl::StrJoin(identities, "\n", absl::PairFormatter("="))));
    ValueRecorder recorder(recording, samples);
    ASSAY_ASSIGN_OR_RETURN(const std::vector<at::Tensor> outputs, plan->Run(placed, &recorder));
    for (size_t i = 0; i < outputs.size(); ++i) {
      v1::RecordedValue& output = *recording.add_output();
      output = RecordValue(outputs[i], kAll);
      output.set_name(manifest.outputs(static_cast<int>(i)).name());
    }
    for (int i = 0; i < manifest.weights_size(); ++i) {
      v1::RecordedValue& weight = *recording.add_weight();
      const at::Tensor& value = weights.values[static_cast<size_t>(i)];
      weight.set_name(manifest.weights(i).name());
      weight.set_digest(DigestOf(value));
      weight.mutable_shape()->Assign(value.sizes().begin(), value.sizes().end());
    }
    return recording;
  } catch (const c10::Error& error) {
    return absl::InternalError(error.what_without_backtrace());
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError("out of memory");
  }
}

absl::StatusOr<std::string> SerializeRecording(const v1::Recording& recording) {
  std::string content;
  if (!recording.SerializeToString(&content)) return absl::InvalidArgumentError("the recording is too large");
  return CompressFrame(content);
}

absl::StatusOr<v1::Recording> ParseRecording(absl::string_view file_bytes) {
  ASSAY_ASSIGN_OR_RETURN(const std::string content, DecompressFrame("recording", file_bytes));
  v1::Recording recording;
  if (!recording.ParseFromString(content)) return NotA("its content is no assay.v1.Recording message");
  if (recording.format() != 1) {
    return absl::UnimplementedError(
        absl::StrCat("recording format ", recording.format(), ": this build reads format 1"));
  }
  ASSAY_RETURN_IF_ERROR(Validate(recording));
  return recording;
}

}  // namespace assay::engine
