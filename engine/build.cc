#include "engine/build.h"

#include <ATen/Version.h>
#include <torch/headeronly/version.h>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "common/build_info.h"

namespace assay::engine {

std::string TorchVersion() {
  // What is loaded may be another version than the headers: the library's own configuration says which.
  static const std::string version = [] {
    const std::string config = at::show_config();
    constexpr absl::string_view kKey = "TORCH_VERSION=";
    const size_t start = config.find(kKey.data());
    if (start == std::string::npos) return std::string(TORCH_VERSION);
    const size_t end = config.find_first_of(", \n", start);
    return config.substr(start + kKey.size(), end - start - kKey.size());
  }();
  return version;
}

std::string EngineBuild() {
  return absl::StrCat("assay ", BuildVersion(), ", torch ", TorchVersion(), ", g++ ", __VERSION__);
}

}  // namespace assay::engine
