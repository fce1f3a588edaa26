// A store that forgets when it is destroyed: for `assay run`, which needs no more, and for tests.
#pragma once

#include <memory>

#include "coordinator/store/store.h"

namespace assay::coordinator {

std::unique_ptr<Store> NewMemoryStore(uint32_t max_attempts);

}  // namespace assay::coordinator
