#include "coordinator/pools.h"

#include <algorithm>
#include <cmath>
#include <set>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/file.h"
#include "common/status_macros.h"
#include "common/textproto.h"
#include "google/protobuf/text_format.h"
#include "google/protobuf/util/json_util.h"

namespace assay::coordinator {
namespace {

constexpr size_t kMaxFileBytes = 1 << 20;
constexpr double kGiB = 1 << 30;
constexpr double kMaxGiB = 1 << 20;
// So that sums of thirds fill a worker exactly.
constexpr double kRounding = 1e-9;

// What is wrong with the pools, each with its place: where it stands in the text.
class Findings {
 public:
  Findings(absl::string_view file, const google::protobuf::TextFormat::ParseInfoTree* tree)
      : file_(file), tree_(tree) {}

  void Add(const v1::Pools& pools, int index, const char* field, absl::string_view message) {
    std::string place(file_);
    if (tree_ != nullptr) {
      const auto* pool_field = pools.GetDescriptor()->FindFieldByName("pool");
      const auto* pool = tree_->GetTreeForNested(pool_field, index);
      google::protobuf::TextFormat::ParseLocation at = tree_->GetLocation(pool_field, index);
      if (pool != nullptr && *field != '\0') {
        const auto* inner = pools.pool(index).GetDescriptor()->FindFieldByName(field);
        const auto found = pool->GetLocation(inner, inner->is_repeated() ? 0 : -1);
        if (found.line >= 0) at = found;
      }
      absl::StrAppend(&place, ":", at.line + 1, ":", at.column + 1);
    }
    errors_.push_back(
        absl::StrCat(place, ": pool[", index, "]", *field == '\0' ? "" : ".", field, ": ", message));
  }
  absl::Status status() const {
    return errors_.empty() ? absl::OkStatus() : absl::InvalidArgumentError(absl::StrJoin(errors_, "\n"));
  }

 private:
  const absl::string_view file_;
  const google::protobuf::TextFormat::ParseInfoTree* const tree_;
  std::vector<std::string> errors_;
};

bool IsMemory(double gib) { return std::isfinite(gib) && gib >= 0 && gib <= kMaxGiB; }

void Check(const v1::Pools& pools, Findings& findings) {
  std::set<std::string> names;
  for (int i = 0; i < pools.pool_size(); ++i) {
    const v1::Pool& pool = pools.pool(i);
    const absl::Status label = CheckSelector(absl::StrCat("pool=", pool.name()));
    if (pool.name().empty() || !label.ok()) {
      findings.Add(pools, i, "name", "letters, digits and ._/- are wanted, up to 63 of them");
    } else if (!names.insert(pool.name()).second) {
      findings.Add(pools, i, "name", absl::StrCat("'", pool.name(), "' is there twice"));
    }
    const bool cuda = pool.device() == "cuda";
    if (!cuda && pool.device() != "cpu") findings.Add(pools, i, "device", "cpu or cuda is wanted");
    if (pool.slots() == 0) findings.Add(pools, i, "slots", "at least 1");
    if (pool.max_workers() == 0) findings.Add(pools, i, "max_workers", "at least 1");
    for (const std::string& one : pool.label()) {
      if (absl::Status status = CheckSelector(one); !status.ok())
        findings.Add(pools, i, "label", status.message());
    }
    if (!IsMemory(pool.gpu_memory_gib()) || (cuda && pool.gpu_memory_gib() == 0)) {
      findings.Add(pools, i, "gpu_memory_gib", "more than 0 is wanted, up to a pebibyte");
    }
    if (!cuda && (pool.gpu_memory_gib() != 0 || pool.gpus() != 0)) {
      findings.Add(pools, i, pool.gpus() != 0 ? "gpus" : "gpu_memory_gib", "only with device cuda");
    }
    if (cuda && pool.slots() > 0 && pool.slots() < std::max(1u, pool.gpus())) {
      findings.Add(pools, i, "slots", "at least one a GPU");
    }
    if (!IsMemory(pool.memory_gib())) findings.Add(pools, i, "memory_gib", "at most a pebibyte");
    if (cuda && pool.exporter())
      findings.Add(pools, i, "exporter", "only with device cpu: exports run there");
  }
}

uint32_t Gpus(const v1::Pool& pool) { return std::max(1u, pool.gpus()); }

}  // namespace

absl::StatusOr<v1::Pools> ParsePools(absl::string_view file, absl::string_view text) {
  v1::Pools pools;
  google::protobuf::TextFormat::ParseInfoTree tree;
  const bool json = absl::StartsWith(absl::StripLeadingAsciiWhitespace(text), "{");
  if (json) {
    const google::protobuf::util::Status status =
        google::protobuf::util::JsonStringToMessage(std::string(text), &pools);
    if (!status.ok())
      return absl::InvalidArgumentError(absl::StrCat(file, ": ", std::string(status.message())));
  } else {
    ASSAY_RETURN_IF_ERROR(ParseTextProto(file, text, pools));
    google::protobuf::TextFormat::Parser parser;
    parser.WriteLocationsTo(&tree);
    v1::Pools again;
    parser.ParseFromString(std::string(text), &again);
  }
  Findings findings(file, json ? nullptr : &tree);
  Check(pools, findings);
  ASSAY_RETURN_IF_ERROR(findings.status());
  return pools;
}

absl::StatusOr<v1::Pools> LoadPools(const std::string& path) {
  ASSAY_ASSIGN_OR_RETURN(const std::string text, ReadFile(path, kMaxFileBytes));
  return ParsePools(path, text);
}

WorkerView ViewOf(const v1::Pool& pool) {
  WorkerView view;
  view.name = pool.name();
  view.labels.assign(pool.label().begin(), pool.label().end());
  view.labels.push_back(absl::StrCat("pool=", pool.name()));
  view.exporter = pool.exporter();
  if (pool.device() == "cuda") {
    for (uint32_t i = 0; i < Gpus(pool); ++i) {
      DeviceView& gpu = view.devices.emplace_back();
      gpu.id = absl::StrCat("gpu-", i);
      gpu.cuda = true;
      gpu.slots = pool.slots() / Gpus(pool) + (i < pool.slots() % Gpus(pool) ? 1 : 0);
      gpu.memory = gpu.largest = static_cast<uint64_t>(pool.gpu_memory_gib() * kGiB);
    }
  } else {
    DeviceView& cpu = view.devices.emplace_back();
    cpu.id = "cpu";
    cpu.slots = pool.slots();
    cpu.memory = cpu.largest = static_cast<uint64_t>(pool.memory_gib() * kGiB);
  }
  return view;
}

double ShareOf(const Ask& ask, const v1::Pool& pool) {
  const WorkerView view = ViewOf(pool);
  if (!WhyNever(ask, view).empty()) return 0;
  const double slot = 1.0 / pool.slots();
  const DeviceView& device = view.devices.front();
  if (device.memory == 0) return slot;
  const uint64_t needs = device.cuda ? ask.requirement.gpu_memory : ask.requirement.memory;
  if (needs == 0) return device.cuda ? 1.0 / Gpus(pool) : slot;
  const double of_device = std::min(1.0, static_cast<double>(needs) / static_cast<double>(device.memory));
  return std::max(slot, device.cuda ? of_device / Gpus(pool) : of_device);
}

std::vector<double> WorkersWanted(const v1::Pools& pools, const std::vector<Waiting>& waiting,
                                  const std::map<std::string, double>& running) {
  std::vector<double> wanted;
  for (const v1::Pool& pool : pools.pool()) {
    auto found = running.find(pool.name());
    wanted.push_back(found == running.end() ? 0 : found->second);
  }
  for (const Waiting& one : waiting) {
    double left = static_cast<double>(one.jobs);
    for (int i = 0; i < pools.pool_size() && left > 0; ++i) {
      const double share = ShareOf(one.ask, pools.pool(i));
      if (share == 0) continue;
      const double room = pools.pool(i).max_workers() - wanted[i];
      const double jobs = std::min(left, std::floor(room / share + kRounding));
      if (jobs <= 0) continue;
      wanted[i] += jobs * share;
      left -= jobs;
    }
  }
  return wanted;
}

}  // namespace assay::coordinator
