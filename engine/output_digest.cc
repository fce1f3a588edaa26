#include "engine/output_digest.h"

#include <c10/core/ScalarType.h>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/string_view.h"
#include "common/digest.h"

namespace assay::engine {

std::string DigestOf(const at::Tensor& tensor) {
  const at::Tensor here = tensor.to(at::kCPU).contiguous();
  const std::string head =
      absl::StrCat(c10::toString(here.scalar_type()), " [", absl::StrJoin(here.sizes(), ","), "]\n");
  const absl::string_view bytes(static_cast<const char*>(here.const_data_ptr()),
                                static_cast<size_t>(here.nbytes()));
  return Sha256Hex(absl::StrCat(head, bytes));
}

}  // namespace assay::engine
