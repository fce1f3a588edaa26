// Any text as an index of shards: an error, or plain file names.
#include <string>

#include "checkpoint/safetensors.h"
#include "tests/fuzz/fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto index = assay::checkpoint::ReadIndex({reinterpret_cast<const char*>(data), size});
  if (!index.ok()) {
    FUZZ_EXPECT(!index.status().message().empty());
    return 0;
  }
  for (const auto& [name, file] : *index) {
    FUZZ_EXPECT(!name.empty() && !file.empty() && file != "." && file != "..");
    FUZZ_EXPECT(file.find('/') == std::string::npos && file.find('\0') == std::string::npos);
  }
  return 0;
}
