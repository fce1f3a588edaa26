#include "cli/targets.h"

#include <map>

#include "absl/strings/str_cat.h"

namespace assay::cli {

absl::StatusOr<v1::Target> ParseTarget(const std::string& word) {
  static const std::map<std::string, v1::DeviceChoice> devices = {
      {"auto", v1::AUTO}, {"cpu", v1::CPU}, {"cuda", v1::CUDA}};
  static const std::map<std::string, v1::Dtype> dtypes = {
      {"float32", v1::FLOAT32}, {"bfloat16", v1::DTYPE_BFLOAT16}, {"float16", v1::FLOAT16}};
  const size_t dash = word.find('-');
  const auto device = devices.find(word.substr(0, dash));
  const auto dtype = dtypes.find(dash == std::string::npos ? "float32" : word.substr(dash + 1));
  if (device == devices.end() || dtype == dtypes.end()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "'", word, "': cpu, cuda or auto is wanted, alone or with -float32, -bfloat16 or -float16"));
  }
  v1::Target target;
  target.set_device(device->second);
  target.set_dtype(dtype->second);
  return target;
}

}  // namespace assay::cli
