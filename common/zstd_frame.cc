#include "common/zstd_frame.h"

#include <zstd.h>

#include <cstdint>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace assay {
namespace {

constexpr absl::string_view kMagic("\x28\xb5\x2f\xfd", 4);

absl::Status NotA(absl::string_view kind, absl::string_view why) {
  return absl::InvalidArgumentError(absl::StrCat("not a ", kind, " file: ", why));
}

}  // namespace

absl::StatusOr<std::string> DecompressFrame(absl::string_view kind, absl::string_view file,
                                            const FrameLimits& limits) {
  if (file.size() > limits.max_file_bytes) {
    return absl::ResourceExhaustedError(absl::StrCat("the ", kind, " file has ", file.size(),
                                                     " bytes, the limit is ", limits.max_file_bytes));
  }
  // Skippable frames have another magic number: nothing may stand before the frame.
  if (file.substr(0, 4) != kMagic) return NotA(kind, "it does not begin with a zstd frame");
  const size_t frame = ZSTD_findFrameCompressedSize(file.data(), file.size());
  if (ZSTD_isError(frame)) {
    return NotA(kind,
                absl::StrCat("the zstd frame is cut short or damaged (", ZSTD_getErrorName(frame), ")"));
  }
  if (frame != file.size()) {
    return NotA(kind, absl::StrCat(file.size() - frame, " bytes follow the zstd frame"));
  }
  // Frame_Header_Descriptor, RFC 8878 section 3.1.1.1.1: bit 2 is Content_Checksum_flag.
  if ((static_cast<uint8_t>(file[4]) & 0x04) == 0) return NotA(kind, "the zstd frame has no checksum");
  const unsigned long long declared = ZSTD_getFrameContentSize(file.data(), file.size());
  if (declared == ZSTD_CONTENTSIZE_UNKNOWN || declared == ZSTD_CONTENTSIZE_ERROR) {
    return NotA(kind, "the zstd frame does not declare its content size");
  }
  if (declared > limits.max_content_bytes) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "the ", kind, " declares ", declared, " bytes of content, the limit is ", limits.max_content_bytes));
  }
  if (declared > limits.free_content_bytes && declared / limits.max_ratio > file.size()) {
    return absl::ResourceExhaustedError(
        absl::StrCat("the ", kind, " declares ", declared, " bytes of content in ", file.size(),
                     " bytes of file, more than ", limits.max_ratio, " times as much"));
  }
  std::string content(declared, '\0');
  const size_t got = ZSTD_decompress(content.data(), content.size(), file.data(), file.size());
  if (ZSTD_isError(got)) {
    return NotA(kind, absl::StrCat("the zstd frame is damaged (", ZSTD_getErrorName(got), ")"));
  }
  if (got != declared) return NotA(kind, "the zstd frame holds less than it declares");
  return content;
}

absl::StatusOr<std::string> CompressFrame(absl::string_view content) {
  ZSTD_CCtx* context = ZSTD_createCCtx();
  if (context == nullptr) return absl::ResourceExhaustedError("no memory for a zstd context");
  ZSTD_CCtx_setParameter(context, ZSTD_c_checksumFlag, 1);
  std::string file(ZSTD_compressBound(content.size()), '\0');
  const size_t size = ZSTD_compress2(context, file.data(), file.size(), content.data(), content.size());
  ZSTD_freeCCtx(context);
  if (ZSTD_isError(size)) return absl::InternalError(ZSTD_getErrorName(size));
  file.resize(size);
  return file;
}

}  // namespace assay
