#include "engine/run_test.h"

#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <c10/util/Exception.h>
#include <dlfcn.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <exception>
#include <fstream>
#include <memory>
#include <new>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "common/digest.h"
#include "common/file.h"
#include "common/status_macros.h"
#include "engine/build.h"
#include "checkpoint/checkpoint.h"
#include "engine/checks.h"
#include "engine/cuda_device.h"
#include "engine/diagnosis.h"
#include "engine/evidence.h"
#include "engine/plan.h"
#include "engine/program.h"
#include "engine/validate.h"
#include "engine/validate_check.h"
#include "engine/weights.h"

namespace assay::engine {
namespace {

using SteadyClock = std::chrono::steady_clock;

constexpr char kNoWeights[] = "NO_WEIGHTS";

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

// A field that this engine does not know might be what the test is about.
bool HasUnknownFields(const google::protobuf::Message& message) {
  const google::protobuf::Reflection* reflection = message.GetReflection();
  if (!reflection->GetUnknownFields(message).empty()) return true;
  std::vector<const google::protobuf::FieldDescriptor*> fields;
  reflection->ListFields(message, &fields);
  for (const google::protobuf::FieldDescriptor* field : fields) {
    if (field->cpp_type() != google::protobuf::FieldDescriptor::CPPTYPE_MESSAGE) continue;
    if (!field->is_repeated()) {
      if (HasUnknownFields(reflection->GetMessage(message, field))) return true;
      continue;
    }
    for (int i = 0; i < reflection->FieldSize(message, field); ++i) {
      if (HasUnknownFields(reflection->GetRepeatedMessage(message, field, i))) return true;
    }
  }
  return false;
}

// What can be said of a test before its program is read.
absl::Status ValidateTest(const v1::ModelTest& test) {
  if (HasUnknownFields(test)) {
    return absl::InvalidArgumentError("the test has fields that this engine does not know");
  }
  if (test.case__size() == 0) return absl::InvalidArgumentError("the test has no case");
  std::set<std::string> cases;
  for (const v1::Case& c : test.case_()) {
    if (!cases.insert(c.name()).second) {
      return absl::InvalidArgumentError(absl::StrCat("case '", c.name(), "' stands there twice"));
    }
    if (c.weights() != v1::REAL && c.weights() != v1::MOCK) {
      return absl::InvalidArgumentError(
          absl::StrCat("case '", c.name(), "': weights must be REAL or MOCK, not ", c.weights()));
    }
    if (c.check_size() == 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("case '", c.name(), "' has no check, so it can prove nothing"));
    }
    std::set<std::string> checks;
    for (const v1::Check& check : c.check()) {
      if (!checks.insert(check.name()).second) {
        return absl::InvalidArgumentError(
            absl::StrCat("case '", c.name(), "': check '", check.name(), "' stands there twice"));
      }
    }
  }
  return absl::OkStatus();
}

absl::Status ValidateChecks(const v1::ModelTest& test, const v1::Manifest& manifest) {
  for (const v1::Case& c : test.case_()) {
    for (const v1::Check& check : c.check()) {
      if (absl::Status status = ValidateCheck(check, manifest); !status.ok()) {
        return absl::InvalidArgumentError(absl::StrCat("case '", c.name(), "': ", status.message()));
      }
    }
  }
  return absl::OkStatus();
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
  if (cuda) {
    placement.device = at::Device(at::DeviceType::CUDA, 0);
    // TensorFloat-32 keeps 10 bits of a number's mantissa: float32 is to mean float32.
    at::globalContext().setAllowTF32CuDNN(false);
    at::globalContext().setAllowTF32CuBLAS(false);
  }
  return placement;
}

// The program's bytes are the test's, to the digest, before anything in them is believed.
absl::StatusOr<v1::Program> Load(const v1::ModelTest& test, const RunOptions& options) {
  if (test.program_digest().empty() || options.program_path.empty()) {
    return absl::UnimplementedError(absl::StrCat("there is no program for '", test.name(), "'"));
  }
  absl::StatusOr<std::string> bytes = ReadFile(options.program_path);
  if (!bytes.ok()) return absl::UnavailableError(bytes.status().message());
  std::string digest = Sha256Hex(*bytes);
  if (digest != test.program_digest()) {
    return absl::UnavailableError(absl::StrCat(options.program_path, " has the digest ", digest,
                                               "; the test was made for ", test.program_digest()));
  }
  return ParseProgram(*bytes);
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
      result_.set_outcome(status.code() == absl::StatusCode::kUnavailable ? v1::INFRASTRUCTURE_ERROR
                                                                          : OutcomeOf(status));
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
    ASSAY_ASSIGN_OR_RETURN(program_, Load(test_, options_));
    ASSAY_RETURN_IF_ERROR(ValidateEvidence(test_, program_));
    ASSAY_RETURN_IF_ERROR(ValidateChecks(test_, program_.manifest()));
    seed_ = test_.set_up().has_seed() ? test_.set_up().seed() : program_.manifest().mock_seed();
    provenance.set_mock_seed(seed_);
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
      *result_.add_case_() = std::move(done);
    }
    return absl::OkStatus();
  }

  absl::Status RunCase(const v1::Case& c, v1::CaseResult& done) {
    Weights weights;
    if (c.weights() == v1::REAL) {
      ASSAY_ASSIGN_OR_RETURN(std::optional<Weights> real, RealWeights(done));
      if (!real) {
        done.set_outcome(v1::SKIPPED);
        done.set_reason(kNoWeights);
        return absl::OkStatus();
      }
      weights = *std::move(real);
    } else {
      ASSAY_ASSIGN_OR_RETURN(weights, MockWeights(program_.manifest(), seed_));
    }
    ASSAY_ASSIGN_OR_RETURN(std::unique_ptr<Plan> plan, Plan::Build(program_, placement_));
    ASSAY_RETURN_IF_ERROR(plan->Bind(weights));
    ASSAY_ASSIGN_OR_RETURN(std::vector<at::Tensor> inputs, GoldenInputs(program_));
    for (at::Tensor& input : inputs) input = engine::Place(input, placement_);
    ASSAY_ASSIGN_OR_RETURN(std::vector<at::Tensor> outputs, plan->Run(inputs));

    BoundCase bound{program_, *plan, done.weights(), seed_, inputs, outputs};
    v1::Outcome outcome = v1::PASSED;
    done.set_evidence(v1::STRUCTURAL);
    for (const v1::Check& check : c.check()) {
      v1::CheckResult checked = RunCheck(check, bound);
      if (checked.outcome() != v1::PASSED) {
        // A failure outweighs what could not be tried.
        if (outcome == v1::PASSED || checked.outcome() == v1::FAILED) {
          outcome = checked.outcome();
          done.set_message(absl::StrCat(check.name(), ": ", checked.message()));
        }
        if (check.has_golden() && checked.has_error()) Diagnose(*plan, inputs, done);
      } else if (check.has_golden()) {
        done.set_evidence(v1::GOLDEN);
      }
      *done.add_check() = std::move(checked);
    }
    done.set_outcome(outcome);
    return absl::OkStatus();
  }

  // nullopt: there are none that fit, and `done` says why.
  absl::StatusOr<std::optional<Weights>> RealWeights(v1::CaseResult& done) {
    if (options_.checkpoint_dir.empty()) {
      done.set_message("no checkpoint folder was given");
      return std::nullopt;
    }
    absl::StatusOr<Checkpoint> checkpoint = Checkpoint::Open(options_.checkpoint_dir);
    if (absl::IsNotFound(checkpoint.status())) {
      done.set_message(std::string(checkpoint.status().message()));
      return std::nullopt;
    }
    // A checkpoint that lies about itself is a fault, not an absence.
    ASSAY_RETURN_IF_ERROR(checkpoint.status());
    checkpoint::Fit fit = checkpoint->Match(program_.manifest());
    if (!fit.fits()) {
      done.set_message(
          absl::StrCat("the checkpoint does not fit the program's configuration: ", fit.Describe()));
      return std::nullopt;
    }
    if (checkpoint->synthetic()) done.set_weights(v1::SYNTHETIC);
    result_.mutable_provenance()->set_weights_digest(checkpoint->Digest());
    return CheckpointWeights(program_.manifest(), *checkpoint);
  }

  void Diagnose(const Plan& plan, const std::vector<at::Tensor>& inputs, v1::CaseResult& done) {
    auto divergence = FirstDivergence(program_, plan, inputs, DivergenceShare(program_, placement_));
    if (!divergence.ok()) {
      sink_.Log(absl::StrCat("no diagnosis: ", divergence.status().message(), "\n"));
    } else if (divergence->has_value()) {
      *done.mutable_divergence() = **divergence;
    } else {
      sink_.Log("no diagnosis: every traced value agrees with the golden's trace\n");
    }
  }

  const v1::ModelTest& test_;
  const RunOptions& options_;
  TestSink& sink_;
  v1::TestResult result_;
  Placement placement_;
  v1::Program program_;
  uint64_t seed_ = 0;
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
  device.set_memory_bytes(static_cast<uint64_t>(sysconf(_SC_PHYS_PAGES)) *
                          static_cast<uint64_t>(sysconf(_SC_PAGE_SIZE)));
  return provenance;
}

}  // namespace assay::engine
