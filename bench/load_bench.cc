// assay-load-bench: the engine's side of bench/load, which tells it on standard input what to do:
//   program FILE GOLDEN  reads a program and its checkpoint's golden, plans it
//   load FOLDER          opens the checkpoint, matches it, binds its weights, runs once, compares with the
//                        golden; answers with nanoseconds of loading, of the first run, bytes of weights
//   touch FOLDER         opens, matches and binds, and reads one number of every page; nanoseconds, bytes
//   inspect FOLDER       the digest and the search for defects; nanoseconds, bytes
//   read FOLDER          copies the files out of the page cache with read(); nanoseconds, bytes
//   drop FOLDER          asks the kernel to forget the files' pages
// Nanoseconds are the process's time on processors, then the clock's. One line of answer each, "ok …" or
// "error …".
#include <ATen/Parallel.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <iostream>
#include <memory>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "checkpoint/checkpoint.h"
#include "common/digest.h"
#include "common/file.h"
#include "common/status_macros.h"
#include "engine/plan.h"
#include "engine/program.h"
#include "engine/run_test.h"
#include "engine/tensors.h"
#include "engine/weights.h"

namespace assay::engine {
namespace {

constexpr size_t kPage = 4096;

struct Time {
  int64_t processor = 0;
  int64_t clock = 0;
};

int64_t Nanoseconds(clockid_t clock) {
  timespec now;
  clock_gettime(clock, &now);
  return int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
}

Time Now() { return {Nanoseconds(CLOCK_PROCESS_CPUTIME_ID), Nanoseconds(CLOCK_MONOTONIC)}; }

std::string Since(Time start) {
  const Time now = Now();
  return absl::StrCat(now.processor - start.processor, " ", now.clock - start.clock);
}

struct Subject {
  v1::Program program;
  std::unique_ptr<Plan> plan;
  std::vector<at::Tensor> inputs;
  std::vector<at::Tensor> golden;
};

absl::StatusOr<Subject> ReadSubject(const std::string& file, const std::string& golden_file) {
  Subject subject;
  ASSAY_ASSIGN_OR_RETURN(const std::string bytes, ReadFile(file));
  ASSAY_ASSIGN_OR_RETURN(subject.program, ParseProgram(bytes));
  ASSAY_ASSIGN_OR_RETURN(const std::string golden_bytes, ReadFile(golden_file));
  ASSAY_ASSIGN_OR_RETURN(const v1::CheckpointGolden golden,
                         ParseCheckpointGolden(golden_bytes, subject.program, Sha256Hex(bytes)));
  ASSAY_ASSIGN_OR_RETURN(subject.plan, Plan::Build(subject.program, Placement{}));
  ASSAY_ASSIGN_OR_RETURN(subject.inputs, GoldenInputs(subject.program.manifest(), golden.golden()));
  ASSAY_ASSIGN_OR_RETURN(subject.golden, GoldenOutputs(golden.golden()));
  if (subject.golden.empty()) return absl::InvalidArgumentError("the golden has no outputs");
  return subject;
}

// Largest difference as a share of the reference's largest magnitude; infinite where shapes differ.
double Error(const at::Tensor& got, const at::Tensor& want) {
  if (got.sizes() != want.sizes()) return INFINITY;
  const at::Tensor a = got.to(at::kDouble).contiguous(), b = want.to(at::kDouble).contiguous();
  double error = 0, scale = 0;
  for (int64_t i = 0; i < a.numel(); ++i) {
    const double x = a.const_data_ptr<double>()[i], y = b.const_data_ptr<double>()[i];
    scale = std::max(scale, std::abs(y));
    error = std::isnan(x - y) ? INFINITY : std::max(error, std::abs(x - y));
  }
  return scale > 0 ? error / scale : error;
}

absl::StatusOr<checkpoint::Fit> OpenFitting(const Subject& subject, const std::string& folder) {
  ASSAY_ASSIGN_OR_RETURN(const checkpoint::Checkpoint checkpoint, checkpoint::Checkpoint::Open(folder));
  checkpoint::Fit fit = checkpoint.Match(subject.program.manifest());
  if (!fit.fits()) return absl::InvalidArgumentError(fit.Describe());
  return fit;
}

absl::StatusOr<std::string> Load(const Subject& subject, const std::string& folder) {
  const Time start = Now();
  ASSAY_ASSIGN_OR_RETURN(const checkpoint::Fit fit, OpenFitting(subject, folder));
  ASSAY_ASSIGN_OR_RETURN(Weights weights, CheckpointWeights(fit));
  ASSAY_RETURN_IF_ERROR(subject.plan->Bind(std::move(weights)));
  const std::string load = Since(start);
  const Time loaded = Now();
  ASSAY_ASSIGN_OR_RETURN(const std::vector<at::Tensor> outputs, subject.plan->Run(subject.inputs));
  const std::string first = Since(loaded);
  if (outputs.size() != subject.golden.size())
    return absl::InternalError("not as many outputs as the golden");
  for (size_t i = 0; i < outputs.size(); ++i) {
    const double error = Error(outputs[i], subject.golden[i]);
    if (!(error <= 1e-4)) return absl::InternalError(absl::StrCat("output ", i, " is off by ", error));
  }
  return absl::StrCat(load, " ", first, " ", fit.bytes());
}

absl::StatusOr<std::string> Touch(const Subject& subject, const std::string& folder) {
  const Time start = Now();
  ASSAY_ASSIGN_OR_RETURN(const checkpoint::Fit fit, OpenFitting(subject, folder));
  ASSAY_ASSIGN_OR_RETURN(const Weights weights, CheckpointWeights(fit));
  uint64_t sum = 0;
  for (const at::Tensor& weight : weights) {
    const auto* bytes = static_cast<const volatile uint8_t*>(weight.const_data_ptr());
    for (size_t i = 0; i < weight.nbytes(); i += kPage) sum += bytes[i];
  }
  const std::string took = Since(start);
  return absl::StrCat(took, " ", fit.bytes(), sum == 0 ? " (zeros)" : "");
}

absl::StatusOr<std::string> Inspect(const Subject& subject, const std::string& folder) {
  ASSAY_ASSIGN_OR_RETURN(const checkpoint::Checkpoint checkpoint, checkpoint::Checkpoint::Open(folder));
  const checkpoint::Fit fit = checkpoint.Match(subject.program.manifest());
  const Time start = Now();
  const checkpoint::Inspection inspection = checkpoint.Inspect(fit);
  const std::string took = Since(start);
  if (!inspection.defects.empty()) return absl::InternalError(inspection.defects.front());
  return absl::StrCat(took, " ", checkpoint.bytes());
}

// Calls `use` with a descriptor of every file with weights.
template <typename Use>
absl::Status ForEachFile(const std::string& folder, Use use) {
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(folder, error)) {
    const std::string name = entry.path().string();
    if (!absl::EndsWith(name, ".safetensors") && !absl::EndsWith(name, ".gguf")) continue;
    const int fd = open(name.c_str(), O_RDONLY | O_CLOEXEC);
    if (fd < 0) return absl::ErrnoToStatus(errno, name);
    use(fd);
    close(fd);
  }
  return error ? absl::ErrnoToStatus(error.value(), folder) : absl::OkStatus();
}

absl::StatusOr<std::string> ReadFiles(const std::string& folder) {
  std::vector<char> buffer(size_t{1} << 20);
  uint64_t bytes = 0;
  const Time start = Now();
  ASSAY_RETURN_IF_ERROR(ForEachFile(folder, [&](int fd) {
    for (ssize_t got; (got = read(fd, buffer.data(), buffer.size())) > 0;)
      bytes += static_cast<uint64_t>(got);
  }));
  return absl::StrCat(Since(start), " ", bytes);
}

absl::StatusOr<std::string> Drop(const std::string& folder) {
  ASSAY_RETURN_IF_ERROR(ForEachFile(folder, [](int fd) {
    fdatasync(fd);
    posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
  }));
  return std::string();
}

int Main() {
  KeepMemory();
  at::set_num_threads(1);
  Subject subject;
  for (std::string line; std::getline(std::cin, line);) {
    std::istringstream words(line);
    std::string word, first, second;
    words >> word >> first >> second;
    absl::StatusOr<std::string> answer = absl::InvalidArgumentError(absl::StrCat("'", line, "' now"));
    if (word == "program") {
      auto read = ReadSubject(first, second);
      if (read.ok()) subject = *std::move(read);
      answer = read.ok() ? absl::StatusOr<std::string>("") : read.status();
    } else if (word == "read") {
      answer = ReadFiles(first);
    } else if (word == "drop") {
      answer = Drop(first);
    } else if (subject.plan != nullptr) {
      if (word == "load") answer = Load(subject, first);
      if (word == "touch") answer = Touch(subject, first);
      if (word == "inspect") answer = Inspect(subject, first);
    }
    std::cout << (answer.ok() ? absl::StrCat("ok ", *answer)
                              : absl::StrCat("error ", answer.status().ToString()))
              << std::endl;
  }
  return 0;
}

}  // namespace
}  // namespace assay::engine

int main() { return assay::engine::Main(); }
