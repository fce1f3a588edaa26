#include "engine/memory_need.h"

#include <algorithm>
#include <fstream>
#include <functional>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "common/dtype.h"

namespace assay::engine {
namespace {

namespace fs = std::filesystem;

uint64_t Elements(const google::protobuf::RepeatedField<int64_t>& shape) {
  uint64_t count = 1;
  for (const int64_t size : shape) count *= static_cast<uint64_t>(size);  // bounded by validation
  return count;
}

uint64_t BytesInRun(v1::ScalarType dtype, size_t float_bytes) {
  return dtype == v1::FLOAT ? float_bytes : ItemSize(dtype);
}

// Every value that an argument reads.
template <typename See>
void ForValues(const v1::Node& node, See see) {
  for (const v1::NamedArgument& named : node.arguments()) {
    const v1::Argument& argument = named.value();
    if (argument.has_value()) see(argument.value());
    for (const uint32_t value : argument.values().values()) see(value);
    for (const uint32_t value : argument.optional_values().values_plus_one()) {
      if (value > 0) see(value - 1);
    }
  }
}

// The most bytes of traced values that are live at once. A value that is not traced is a view: it keeps alive
// what it looks at.
uint64_t PeakOfTrace(const v1::Graph& graph, const v1::Golden& golden, size_t float_bytes) {
  absl::flat_hash_map<uint32_t, uint64_t> bytes;  // by value
  for (const v1::NodeTrace& trace : golden.trace()) {
    const v1::Node& node = graph.nodes(static_cast<int>(trace.node()));
    bytes[node.outputs(static_cast<int>(trace.output()))] = trace.numel() * std::max<size_t>(float_bytes, 4);
  }
  const auto nodes = static_cast<uint32_t>(graph.nodes_size());
  // Values whose memory each value may hold.
  std::vector<std::vector<uint32_t>> holds(graph.value_count());
  std::vector<uint32_t> last_use(graph.value_count(), 0);
  for (uint32_t i = 0; i < nodes; ++i) {
    const v1::Node& node = graph.nodes(static_cast<int>(i));
    std::set<uint32_t> held;
    ForValues(node, [&](uint32_t value) {
      for (const uint32_t owner : holds[value]) {
        last_use[owner] = i;
        held.insert(owner);
      }
    });
    for (const uint32_t value : node.outputs()) {
      if (bytes.contains(value)) {
        holds[value] = {value};
        last_use[value] = i;
      } else {
        holds[value].assign(held.begin(), held.end());
      }
    }
  }
  for (const v1::Argument& output : graph.outputs()) {
    if (!output.has_value()) continue;
    for (const uint32_t owner : holds[output.value()]) last_use[owner] = nodes;
  }
  std::vector<uint64_t> freed(size_t{nodes} + 1, 0);
  for (const auto& [value, size] : bytes) freed[last_use[value]] += size;
  uint64_t live = 0, peak = 0;
  for (uint32_t i = 0; i < nodes; ++i) {
    for (const uint32_t value : graph.nodes(static_cast<int>(i)).outputs()) {
      if (const auto made = bytes.find(value); made != bytes.end()) live += made->second;
    }
    peak = std::max(peak, live);
    live -= freed[i];
  }
  return peak;
}

// The kernel's files have no size to be read by.
absl::StatusOr<std::string> ReadKernelFile(const fs::path& path) {
  std::ifstream file(path);
  std::ostringstream text;
  if (file) text << file.rdbuf();
  if (!file) return absl::UnavailableError(absl::StrCat("cannot read ", path.string()));
  return text.str();
}

// "Key: 123 kB", "key 123", in the key's own unit.
absl::StatusOr<uint64_t> Figure(absl::string_view text, absl::string_view key) {
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    if (!absl::ConsumePrefix(&line, key)) continue;
    line = absl::StripSuffix(absl::StripAsciiWhitespace(line), " kB");
    uint64_t figure = 0;
    if (absl::SimpleAtoi(line, &figure)) return figure;
  }
  return absl::UnavailableError(absl::StrCat("no '", key, "'"));
}

absl::StatusOr<uint64_t> FigureOf(const fs::path& file) {
  absl::StatusOr<std::string> text = ReadKernelFile(file);
  if (!text.ok()) return text.status();
  uint64_t figure = 0;
  // "max": no limit. cgroup v1 says so by a number near 2^63.
  if (!absl::SimpleAtoi(absl::StripAsciiWhitespace(*text), &figure)) return absl::NotFoundError("no limit");
  return figure;
}

// What the group of `folder` leaves; nothing where it has no limit.
absl::StatusOr<uint64_t> LeftBy(const fs::path& folder, const char* limit_file, const char* use_file,
                                const std::vector<absl::string_view>& droppable) {
  absl::StatusOr<uint64_t> limit = FigureOf(folder / limit_file), used = FigureOf(folder / use_file);
  if (!limit.ok()) return limit.status();
  if (!used.ok()) return used.status();
  uint64_t free_pages = 0;
  if (absl::StatusOr<std::string> stat = ReadKernelFile(folder / "memory.stat"); stat.ok()) {
    for (absl::string_view key : droppable) free_pages += Figure(*stat, key).value_or(0);
  }
  const uint64_t held = *used > free_pages ? *used - free_pages : 0;
  return *limit > held ? *limit - held : 0;
}

// The least of the kernel's figure and what `of_group` says of each memory cgroup that this process is in,
// (folder, of version 1); nothing where that group has no limit.
absl::StatusOr<uint64_t> LeastOfGroups(
    const fs::path& root, absl::string_view kernel_figure,
    const std::function<absl::StatusOr<uint64_t>(const fs::path&, bool)>& of_group) {
  absl::StatusOr<std::string> meminfo = ReadKernelFile(root / "proc/meminfo");
  if (!meminfo.ok()) return meminfo.status();
  absl::StatusOr<uint64_t> kibibytes = Figure(*meminfo, kernel_figure);
  if (!kibibytes.ok()) return kibibytes.status();
  uint64_t least = *kibibytes * 1024;
  absl::StatusOr<std::string> groups = ReadKernelFile(root / "proc/self/cgroup");
  if (!groups.ok()) return least;  // a kernel without groups
  for (absl::string_view line : absl::StrSplit(*groups, '\n', absl::SkipEmpty())) {
    const std::vector<absl::string_view> parts = absl::StrSplit(line, absl::MaxSplits(':', 2));
    if (parts.size() != 3) continue;
    bool version_1 = false;
    for (absl::string_view controller : absl::StrSplit(parts[1], ',')) version_1 |= controller == "memory";
    if (!version_1 && !parts[1].empty()) continue;
    const fs::path mount = root / (version_1 ? "sys/fs/cgroup/memory" : "sys/fs/cgroup");
    // Any group above may be the narrow one. In a container the path may name what is not mounted here: then
    // the mount itself is this process's.
    fs::path path = fs::path(std::string(parts[2])).relative_path();
    for (;;) {
      if (absl::StatusOr<uint64_t> figure = of_group(mount / path, version_1); figure.ok()) {
        least = std::min(least, *figure);
      }
      if (path.empty()) break;
      path = path.parent_path();
    }
  }
  return least;
}

}  // namespace

MemoryNeed EstimateNeed(const v1::Program& program, const v1::Golden& golden, const checkpoint::Fit* fit,
                        size_t float_bytes) {
  MemoryNeed need;
  const v1::Manifest& manifest = program.manifest();
  for (int i = 0; i < manifest.weights_size(); ++i) {
    const v1::WeightSpec& spec = manifest.weights(i);
    const uint64_t bytes = Elements(spec.shape()) * BytesInRun(spec.dtype(), float_bytes);
    need.weights += bytes;
    const bool narrowed = spec.dtype() == v1::FLOAT && float_bytes != ItemSize(v1::FLOAT);
    if (fit == nullptr || narrowed || fit->Data(static_cast<size_t>(i)).empty()) need.copied += bytes;
  }
  uint64_t inputs = 0, outputs = 0, largest_output = 0;
  for (const v1::InputSpec& input : manifest.inputs()) {
    inputs += Elements(input.shape()) * ItemSize(input.dtype());
  }
  for (const v1::OutputSpec& output : manifest.outputs()) {
    outputs += Elements(output.shape()) * ItemSize(output.dtype());
    largest_output = std::max(largest_output, Elements(output.shape()));
  }
  uint64_t constants = 0;
  for (const v1::Tensor& constant : program.constants()) constants += constant.data().size();
  // A check runs the model again while the first run's outputs are kept.
  const uint64_t running = outputs + PeakOfTrace(program.graph(), golden, float_bytes);
  // Two runs and the golden at once, one output of each pair in float64.
  const uint64_t comparing = 3 * outputs + 2 * sizeof(double) * largest_output;
  need.activations = inputs + constants + std::max(running, comparing);
  return need;
}

absl::StatusOr<uint64_t> AvailableMemory(const fs::path& root) {
  return LeastOfGroups(root, "MemAvailable:", [](const fs::path& folder, bool version_1) {
    return version_1 ? LeftBy(folder, "memory.limit_in_bytes", "memory.usage_in_bytes",
                              {"total_inactive_file ", "total_active_file "})
                     : LeftBy(folder, "memory.max", "memory.current", {"inactive_file ", "active_file "});
  });
}

absl::StatusOr<uint64_t> MemoryLimit(const fs::path& root) {
  return LeastOfGroups(root, "MemTotal:", [](const fs::path& folder, bool version_1) {
    return FigureOf(folder / (version_1 ? "memory.limit_in_bytes" : "memory.max"));
  });
}

absl::Status RefuseTooLarge(const MemoryNeed& need, uint64_t available, uint64_t limit) {
  const auto gib = [](uint64_t bytes) { return static_cast<double>(bytes) / (uint64_t{1} << 30); };
  if (need.total() > available) {
    return absl::ResourceExhaustedError(
        absl::StrFormat("needs %.1f GiB (weights %.1f, activations %.1f); this node has %.1f GiB available",
                        gib(need.total()), gib(need.weights), gib(need.activations), gib(available)));
  }
  if (limit > 0 && need.own() > limit) {
    return absl::ResourceExhaustedError(absl::StrFormat(
        "needs %d MiB of its own (weights copied %d, activations %d); the test's limit is %d MiB",
        need.own() >> 20, need.copied >> 20, need.activations >> 20, limit >> 20));
  }
  return absl::OkStatus();
}

}  // namespace assay::engine
