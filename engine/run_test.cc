#include "engine/run_test.h"

#include <ATen/Parallel.h>
#include <c10/util/Exception.h>
#include <dlfcn.h>

#include <algorithm>
#include <chrono>
#include <exception>
#include <fstream>
#include <memory>
#include <new>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "common/file.h"
#include "common/status_macros.h"
#include "engine/build.h"
#include "engine/case_material.h"
#include "engine/check_answers.h"
#include "engine/check_variants.h"
#include "engine/checks.h"
#include "engine/cost.h"
#include "engine/cuda_device.h"
#include "engine/diagnosis.h"
#include "engine/evidence.h"
#include "engine/exact_math.h"
#include "engine/loaded_checkpoint.h"
#include "engine/memory_need.h"
#include "engine/output_digest.h"
#include "engine/output_summary.h"
#include "engine/plan.h"
#include "engine/program.h"
#include "engine/reduce.h"
#include "engine/tolerance.h"
#include "engine/validate_test.h"
#include "engine/weights.h"

namespace assay::engine {
namespace {

using SteadyClock = std::chrono::steady_clock;

constexpr char kNoWeights[] = "NO_WEIGHTS";
constexpr char kNotComparable[] = "NOT_COMPARABLE";

double SecondsSince(SteadyClock::time_point start) {
  return std::chrono::duration<double>(SteadyClock::now() - start).count();
}

// The worst first: what a test is called when its cases end differently.
v1::Outcome Worst(const google::protobuf::RepeatedPtrField<v1::CaseResult>& cases) {
  for (v1::Outcome outcome : {v1::OUT_OF_MEMORY, v1::INFRASTRUCTURE_ERROR, v1::FAILED, v1::UNSUPPORTED,
                              v1::CANCELLED, v1::PASSED}) {
    for (const v1::CaseResult& result : cases) {
      if (result.outcome() == outcome) return outcome;
    }
  }
  return v1::SKIPPED;
}

absl::StatusOr<Placement> Place(const v1::SetUp& set_up, const RunOptions& options) {
  Placement placement;
  switch (set_up.dtype()) {
    case v1::FLOAT32:
      placement.dtype = at::ScalarType::Float;
      break;
    case v1::DTYPE_BFLOAT16:
      placement.dtype = at::ScalarType::BFloat16;
      break;
    case v1::FLOAT16:
      placement.dtype = at::ScalarType::Half;
      break;
    default:
      return absl::InvalidArgumentError(absl::StrCat("set_up.dtype is ", set_up.dtype()));
  }
  bool cuda = false;
  switch (set_up.device()) {
    case v1::CPU:
      break;
    case v1::AUTO:
      cuda = options.allow_cuda && CudaIsThere();
      break;
    case v1::CUDA:
      if (!options.allow_cuda)
        return absl::UnimplementedError("the test demands CUDA; this host runs on the CPU");
      if (!CudaIsThere())
        return absl::UnimplementedError("the test demands CUDA, and there is no CUDA device");
      cuda = true;
      break;
    default:
      return absl::InvalidArgumentError(absl::StrCat("set_up.device is ", set_up.device()));
  }
  if (cuda) placement.device = at::Device(at::DeviceType::CUDA, 0);
  ASSAY_RETURN_IF_ERROR(DemandExactMath());
  return placement;
}

// The test's own program, and that it is evidence of the test's model.
absl::StatusOr<v1::Program> Load(const v1::ModelTest& test, const RunOptions& options) {
  if (test.program_digest().empty() || options.program_path.empty()) {
    return absl::UnimplementedError(absl::StrCat("there is no program for '", test.name(), "'"));
  }
  ASSAY_ASSIGN_OR_RETURN(const std::string bytes, ReadByDigest(options.program_path, test.program_digest()));
  ASSAY_ASSIGN_OR_RETURN(v1::Program program, ParseProgram(bytes));
  ASSAY_RETURN_IF_ERROR(ValidateModel(test, program));
  if (!program.has_golden()) return absl::InvalidArgumentError("the test's program has no golden");
  ASSAY_RETURN_IF_ERROR(ValidateEvidence(program, program.golden(), kMaxRoundingShare));
  return program;
}

// One test at work.
class TestRun {
 public:
  TestRun(const v1::ModelTest& test, const RunOptions& options, TestSink& sink)
      : test_(test), options_(options), sink_(sink) {}

  v1::TestResult Run() {
    auto start = SteadyClock::now();
    absl::Status status;
    try {
      status = RunCases();
    } catch (const c10::OutOfMemoryError& error) {
      status = absl::ResourceExhaustedError(error.what_without_backtrace());
    } catch (const c10::Error& error) {
      status = absl::InternalError(error.what_without_backtrace());
    } catch (const std::bad_alloc&) {
      status = absl::ResourceExhaustedError("an allocation was refused");
    }
    if (status.ok()) {
      result_.set_outcome(Worst(result_.case_()));
      for (const v1::CaseResult& done : result_.case_()) {
        if (done.outcome() == result_.outcome() && done.outcome() != v1::PASSED) {
          result_.set_message(absl::StrCat(done.name(), ": ", done.message()));
          break;
        }
      }
    } else {
      result_.set_outcome(OutcomeOf(status));
      result_.set_message(std::string(status.message()));
    }
    result_.set_seconds(SecondsSince(start));
    return std::move(result_);
  }

 private:
  // An error is one of the whole test: no case could begin, or none can go on.
  absl::Status RunCases() {
    v1::Provenance& provenance = *result_.mutable_provenance();
    provenance.set_template_digest(test_.template_digest());
    provenance.set_catalogue_digest(test_.catalogue_digest());
    provenance.set_program_digest(test_.program_digest());
    provenance.set_engine_build(EngineBuild());
    provenance.set_torch_version(TorchVersion());

    ASSAY_RETURN_IF_ERROR(ValidateTest(test_));
    provenance.set_dtype(test_.set_up().dtype());
    ASSAY_ASSIGN_OR_RETURN(placement_, Place(test_.set_up(), options_));
    *provenance.mutable_device() = Describe(placement_.device.is_cuda() ? v1::CUDA : v1::CPU).device();
    ASSAY_RETURN_IF_ERROR(LoadCommon());
    int threads = static_cast<int>(std::clamp<uint32_t>(test_.set_up().threads(), 1, 256));
    if (at::get_num_threads() != threads) SetThreads(threads);

    for (const v1::Case& c : test_.case_()) {
      sink_.CaseStarted(c.name());
      result_.set_last_case(c.name());
      auto start = SteadyClock::now();
      v1::CaseResult done;
      done.set_name(c.name());
      done.set_weights(c.weights());
      if (absl::Status status = RunCase(c, done); !status.ok()) {
        done.set_outcome(OutcomeOf(status));
        done.set_message(std::string(status.message()));
      }
      done.set_seconds(SecondsSince(start));
      sink_.CaseFinished(done);
      held_.clear();
      *result_.add_case_() = std::move(done);
    }
    return absl::OkStatus();
  }

  // The program of the cases that have none of their own. Whatever is wrong with it ends the test.
  absl::Status LoadCommon() {
    bool needed = false;
    for (const v1::Case& c : test_.case_()) needed |= c.program_digest().empty();
    if (!needed) return absl::OkStatus();
    ASSAY_ASSIGN_OR_RETURN(common_.program, Load(test_, options_));
    common_.program_digest = test_.program_digest();
    for (const v1::Case& c : test_.case_()) {
      if (c.program_digest().empty()) ASSAY_RETURN_IF_ERROR(ValidateChecks(c, common_.program.manifest()));
    }
    result_.mutable_provenance()->set_mock_seed(Seed(common_.program));
    return absl::OkStatus();
  }

  uint64_t Seed(const v1::Program& program) const {
    return test_.set_up().has_seed() ? test_.set_up().seed() : program.manifest().mock_seed();
  }

  absl::Status RunCase(const v1::Case& c, v1::CaseResult& done) {
    if (c.program_digest().empty() && c.golden_digest().empty()) return RunMaterial(c, common_, done);
    ASSAY_ASSIGN_OR_RETURN(const CaseMaterial material,
                           LoadMaterial(c, options_.files, common_.program, common_.program_digest));
    ASSAY_RETURN_IF_ERROR(ValidateChecks(c, material.program.manifest()));
    return RunMaterial(c, material, done);
  }

  absl::Status RunMaterial(const v1::Case& c, const CaseMaterial& material, v1::CaseResult& done) {
    const v1::Program& program = material.program;
    const auto start = SteadyClock::now();
    Weights weights;
    if (c.weights() == v1::REAL) {
      ASSAY_ASSIGN_OR_RETURN(std::optional<Weights> real, RealWeights(c, material, done));
      if (!real) {
        done.set_outcome(v1::SKIPPED);
        done.set_reason(kNoWeights);
        return absl::OkStatus();
      }
      weights = *std::move(real);
    } else {
      ASSAY_ASSIGN_OR_RETURN(weights, MockWeights(program.manifest(), Seed(program)));
    }
    // After the weights: a checkpoint that could not be read for a golden has its verdict by now.
    if (material.golden().inputs_size() != program.manifest().inputs_size()) {
      return absl::InvalidArgumentError("there is no golden, so there are no inputs to run the program with");
    }
    const auto bind_start = SteadyClock::now();
    ASSAY_ASSIGN_OR_RETURN(std::unique_ptr<Plan> plan, Plan::Build(program, placement_));
    ASSAY_RETURN_IF_ERROR(plan->Bind(weights));
    done.set_bind_seconds(SecondsSince(bind_start));
    // The plan holds what it uses. The mapping stays until the case's end was told: whoever measures the
    // process then can still tell a checkpoint's pages from its own memory.
    held_ = std::move(weights);
    done.set_load_seconds(SecondsSince(start));
    ASSAY_ASSIGN_OR_RETURN(std::vector<at::Tensor> inputs,
                           GoldenInputs(program.manifest(), material.golden()));
    for (at::Tensor& input : inputs) input = engine::Place(input, placement_);
    RunCost cost(program, held_, inputs, options_.profile);
    const auto run_start = SteadyClock::now();
    ASSAY_ASSIGN_OR_RETURN(std::vector<at::Tensor> outputs, plan->Run(inputs, &cost));
    done.set_run_seconds(SecondsSince(run_start));
    *done.mutable_cost() = cost.Result(placement_);
    const auto check_start = SteadyClock::now();

    for (size_t i = 0; options_.want_output_digests && i < outputs.size(); ++i) {
      v1::OutputDigest& digest = *done.add_output_digest();
      digest.set_name(program.manifest().outputs(static_cast<int>(i)).name());
      digest.set_digest(DigestOf(outputs[i]));
    }
    BoundCase bound{program, material.golden(), *plan, done.weights(), Seed(program), inputs, outputs};
    if (material.has_checkpoint_golden()) bound.checkpoint = &material.checkpoint;
    if (done.has_load()) bound.load = &done.load();
    bound.tensors = &held_;
    if (c.weights() == v1::MOCK)
      bound.reload = [&] { return MockWeights(program.manifest(), Seed(program)); };
    ASSAY_ASSIGN_OR_RETURN(const std::vector<v1::OutputSummary> summaries,
                           SummarizeOutputs(program.manifest(), material.golden(), placement_, outputs));
    done.mutable_output()->Assign(summaries.begin(), summaries.end());
    for (v1::AnswerResult& answer : AnswersOf(bound, c)) *done.add_answer() = std::move(answer);
    v1::Outcome outcome = v1::PASSED;
    bool any_held = false;
    done.set_evidence(v1::STRUCTURAL);
    const v1::Check* to_diagnose = nullptr;
    for (const v1::Check& check : c.check()) {
      v1::CheckResult checked = RunCheck(check, bound);
      any_held |= checked.outcome() == v1::PASSED;
      if (checked.outcome() != v1::PASSED && checked.outcome() != v1::SKIPPED) {
        // The first failure is told: later ones may come of it. A failure outweighs what could not be tried.
        if (outcome == v1::PASSED || (outcome != v1::FAILED && checked.outcome() == v1::FAILED)) {
          outcome = checked.outcome();
          done.set_message(absl::StrCat(check.name(), ": ", checked.message()));
          const bool unproven = checked.outcome() == v1::UNSUPPORTED && checked.has_error();
          done.set_reason(unproven ? kNotComparable : "");
        }
        // The golden's trace says most; else the first that failed.
        if (IsNumeric(check) && (to_diagnose == nullptr || check.has_golden()) &&
            (checked.outcome() == v1::FAILED || checked.has_error())) {
          to_diagnose = &check;
        }
      } else if (check.has_golden() && checked.outcome() == v1::PASSED) {
        done.set_evidence(v1::GOLDEN);
      }
      *done.add_check() = std::move(checked);
    }
    if (to_diagnose != nullptr) Explain(*to_diagnose, bound, done);
    done.set_check_seconds(SecondsSince(check_start));
    if (outcome == v1::PASSED && !any_held) {
      return absl::InvalidArgumentError("none of the case's checks had anything to check");
    }
    done.set_outcome(outcome);
    return absl::OkStatus();
  }

  // nullopt: there are none that fit, where the test demands no checkpoint, and `done` says why.
  absl::StatusOr<std::optional<Weights>> RealWeights(const v1::Case& c, const CaseMaterial& material,
                                                     v1::CaseResult& done) {
    if (options_.checkpoint_dir.empty()) {
      if (test_.has_trained()) {
        return absl::UnavailableError(
            absl::StrCat("the folder of checkpoint '", test_.trained().id(), "' was not given"));
      }
      done.set_message("no checkpoint folder was given");
      return std::nullopt;
    }
    v1::Provenance& provenance = *result_.mutable_provenance();
    provenance.set_checkpoint_program_digest(material.program_digest);
    provenance.set_golden_digest(c.golden_digest());
    if (test_.has_trained()) *provenance.mutable_checkpoint() = test_.trained();
    LoadOptions load;
    load.folder = options_.checkpoint_dir;
    load.pinned_digest = test_.trained().weights_digest();
    load.placement = placement_;
    load.memory_limit = test_.limits().memory_bytes();
    load.available_memory = options_.available_memory;
    absl::StatusOr<LoadedCheckpoint> loaded = LoadCheckpoint(material, load, *done.mutable_load());
    const bool absent = absl::IsNotFound(loaded.status()) || absl::IsFailedPrecondition(loaded.status());
    if (absent && !test_.has_trained()) {
      done.set_message(std::string(loaded.status().message()));
      return std::nullopt;
    }
    // A checkpoint that the test demands, or that lies about itself, is a fault, not an absence.
    ASSAY_RETURN_IF_ERROR(loaded.status());
    if (loaded->synthetic) done.set_weights(v1::SYNTHETIC);
    provenance.set_weights_digest(loaded->digest);
    // Weights mean nothing without the configuration that says how they are used: the export stage compared
    // it.
    const bool pinned = !load.pinned_digest.empty() && !test_.trained().config_digest().empty();
    provenance.set_weights_trust(options_.hub_verified ? v1::HUB_SHA256
                                 : pinned              ? v1::PINNED
                                                       : v1::UNVERIFIED);
    SayWhyNoGolden(c, material, done);
    return std::move(loaded->weights);
  }

  void SayWhyNoGolden(const v1::Case& c, const CaseMaterial& material, v1::CaseResult& done) const {
    const bool compared =
        material.has_checkpoint_golden() && !material.golden().outputs().empty() &&
        std::any_of(c.check().begin(), c.check().end(), [](const auto& check) { return check.has_golden(); });
    if (compared) return;
    std::string reason = ReasonForNoGolden(test_, c);
    done.set_no_golden(reason.empty() ? "the test names no golden of this checkpoint" : std::move(reason));
  }

  // Whether numbers of a run are what the check looks at.
  static bool IsNumeric(const v1::Check& check) {
    return !check.has_weights_bound() && !check.has_weights_sound() &&
           check.kind_case() != v1::Check::KIND_NOT_SET;
  }

  static bool IsVariant(const v1::Check& check) {
    return check.has_sdpa() || check.has_kv_cache() || check.has_generate() || check.has_dynamic_shapes();
  }

  // A variant is a graph of its own: the main program's trace says nothing of it.
  static absl::StatusOr<std::optional<v1::Divergence>> DiagnoseVariant(const v1::Check& check,
                                                                       const BoundCase& bound) {
    std::optional<v1::Divergence> found;
    ASSAY_RETURN_IF_ERROR(ForEachVariantPart(
        check, bound, [&](const std::string& name, const BoundCase& part) -> absl::StatusOr<bool> {
          ASSAY_ASSIGN_OR_RETURN(found, Diagnose(check, part));
          if (found) found->set_detail(absl::StrCat("in the program ", name, ": ", found->detail()));
          return !found.has_value();
        }));
    return found;
  }

  absl::Status WriteReduced(const BoundCase& bound) {
    ASSAY_ASSIGN_OR_RETURN(const Reduced reduced, Reduce(bound));
    ASSAY_ASSIGN_OR_RETURN(const std::string bytes, SerializeProgram(reduced.program));
    ASSAY_RETURN_IF_ERROR(WriteFileAtomically(options_.reduce_to, bytes));
    sink_.Log(absl::StrCat("reduced: ", reduced.story, "\n"));
    return absl::OkStatus();
  }

  void Explain(const v1::Check& check, const BoundCase& bound, v1::CaseResult& done) {
    if (!options_.reduce_to.empty() && check.has_golden()) {
      if (absl::Status status = WriteReduced(bound); !status.ok()) {
        sink_.Log(absl::StrCat("not reduced: ", status.message(), "\n"));
      }
    }
    auto divergence = IsVariant(check) ? DiagnoseVariant(check, bound) : Diagnose(check, bound);
    if (!divergence.ok()) {
      sink_.Log(absl::StrCat("no diagnosis of ", check.name(), ": ", divergence.status().message(), "\n"));
    } else if (divergence->has_value()) {
      *done.mutable_divergence() = **std::move(divergence);
    } else {
      sink_.Log(absl::StrCat("no diagnosis of ", check.name(),
                             ": every value that there is something to compare with agrees\n"));
    }
  }

  const v1::ModelTest& test_;
  const RunOptions& options_;
  TestSink& sink_;
  v1::TestResult result_;
  Placement placement_;
  Weights held_;
  CaseMaterial common_;  // of cases without a program of their own
};

std::string ProcessorName() {
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);) {
    absl::string_view rest = line;
    if (!absl::ConsumePrefix(&rest, "model name")) continue;
    size_t colon = rest.find(':');
    if (colon != absl::string_view::npos) {
      return std::string(absl::StripAsciiWhitespace(rest.substr(colon + 1)));
    }
  }
  return "";
}

}  // namespace

v1::TestResult RunTest(const v1::ModelTest& test, const RunOptions& options, TestSink& sink) {
  return TestRun(test, options, sink).Run();
}

void SetThreads(int threads) { at::set_num_threads(threads); }

bool CudaIsThere() {
  // The CUDA half of LibTorch registers itself when it is loaded; nothing here links it, so that a CPU build
  // runs the same binary.
  static const bool loaded = dlopen("libtorch_cuda.so", RTLD_NOW | RTLD_GLOBAL) != nullptr;
  return loaded && FindCudaDevice().has_value();
}

v1::Provenance Describe(v1::DeviceChoice choice) {
  v1::Provenance provenance;
  provenance.set_engine_build(EngineBuild());
  provenance.set_torch_version(TorchVersion());
  v1::DeviceInfo& device = *provenance.mutable_device();
  if (choice != v1::CPU && CudaIsThere()) {
    device = *FindCudaDevice();
    return provenance;
  }
  if (choice == v1::CUDA) {
    provenance.clear_device();
    return provenance;
  }
  static const std::string name = ProcessorName();
  device.set_kind("cpu");
  device.set_name(name);
  device.set_capability(CpuCapability());
  // In a container far less than the machine's.
  static const uint64_t memory = MemoryLimit().value_or(0);
  device.set_memory_bytes(memory);
  return provenance;
}

}  // namespace assay::engine
