// Any bytes as a program: those of the file, and those in its compressed frame, whose checksum no mutation
// would get past. An error, or a program that can be written and read again.
#include <google/protobuf/stubs/logging.h>
#include <zstd.h>

#include <string>

#include "engine/program.h"
#include "tests/fuzz/fuzz.h"

using namespace assay;

// A line for every string that is no UTF-8 would be most of the run.
extern "C" int LLVMFuzzerInitialize(int*, char***) {
  google::protobuf::SetLogHandler(nullptr);
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  (void)engine::ParseProgram({reinterpret_cast<const char*>(data), size});
  std::string file(ZSTD_compressBound(size), '\0');
  ZSTD_CCtx* context = ZSTD_createCCtx();
  ZSTD_CCtx_setParameter(context, ZSTD_c_checksumFlag, 1);
  ZSTD_CCtx_setParameter(context, ZSTD_c_compressionLevel, 1);
  const size_t written = ZSTD_compress2(context, file.data(), file.size(), data, size);
  ZSTD_freeCCtx(context);
  FUZZ_EXPECT(!ZSTD_isError(written));
  file.resize(written);
  const auto program = engine::ParseProgram(file);
  if (!program.ok()) {
    FUZZ_EXPECT(!program.status().message().empty());
    return 0;
  }
  const auto again = engine::SerializeProgram(*program);
  FUZZ_EXPECT(again.ok() && engine::ParseProgram(*again).ok());
  return 0;
}
