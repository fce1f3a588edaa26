// A store that forgets when it is destroyed: for `assay run`, which needs no more, and for tests.
#pragma once

#include <memory>

#include "common/clock.h"
#include "coordinator/store/store.h"

namespace assay::coordinator {

// `clock` must outlive the store.
std::unique_ptr<Store> NewMemoryStore(uint32_t max_attempts, const Clock* clock = &Clock::System());

}  // namespace assay::coordinator
