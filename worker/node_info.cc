#include "worker/node_info.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"

namespace assay::worker {
namespace {

// Flags of /proc/cpuinfo (arm64: Features) by which oneDNN, MKL and LibTorch choose their kernels.
const std::set<std::string>& TellingFeatures() {
  static const auto* const features = new std::set<std::string>{
      "sse4_2",   "avx",      "avx2",     "fma",         "f16c",        "avx_vnni",    "avx512f",
      "avx512bw", "avx512dq", "avx512vl", "avx512_bf16", "avx512_fp16", "avx512_vnni", "amx_tile",
      "amx_bf16", "amx_int8", "amx_fp16", "asimd",       "asimdhp",     "asimddp",     "bf16",
      "i8mm",     "sve",      "sve2",     "svebf16",     "sme"};
  return *features;
}

// The value after `key` and `separator` on the first line that begins with `key`; empty: there is none.
std::string FirstValue(const std::filesystem::path& file, absl::string_view key, char separator) {
  std::ifstream lines(file);
  for (std::string line; std::getline(lines, line);) {
    absl::string_view rest = line;
    if (!absl::ConsumePrefix(&rest, key)) continue;
    rest = absl::StripLeadingAsciiWhitespace(rest);
    if (rest.empty() || rest.front() != separator) continue;
    return std::string(absl::StripAsciiWhitespace(rest.substr(1)));
  }
  return "";
}

uint32_t UsableCpus() {
  cpu_set_t set;
  if (::sched_getaffinity(0, sizeof(set), &set) == 0) return static_cast<uint32_t>(CPU_COUNT(&set));
  return static_cast<uint32_t>(std::max(1L, ::sysconf(_SC_NPROCESSORS_ONLN)));
}

}  // namespace

v1::NodeInfo DescribeNode(const std::filesystem::path& root) {
  v1::NodeInfo node;
  char name[256] = "";
  ::gethostname(name, sizeof(name) - 1);
  node.set_hostname(name);
  std::string os = FirstValue(root / "etc/os-release", "PRETTY_NAME", '=');
  os.erase(std::remove(os.begin(), os.end(), '"'), os.end());
  node.set_os(os);
  node.set_cpus(UsableCpus());
  uint64_t kib = 0;
  const std::string total = FirstValue(root / "proc/meminfo", "MemTotal", ':');
  if (absl::SimpleAtoi(absl::StripSuffix(total, " kB"), &kib)) node.set_memory_bytes(kib * 1024);
  std::string flags = FirstValue(root / "proc/cpuinfo", "flags", ':');
  if (flags.empty()) flags = FirstValue(root / "proc/cpuinfo", "Features", ':');
  std::set<std::string> found;
  for (const absl::string_view flag : absl::StrSplit(flags, ' ', absl::SkipEmpty())) {
    if (TellingFeatures().count(std::string(flag)) > 0) found.insert(std::string(flag));
  }
  for (const std::string& flag : found) node.add_cpu_feature(flag);
  return node;
}

}  // namespace assay::worker
