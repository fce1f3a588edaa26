// Pools of workers that something outside makes larger and smaller: what their file says, and how many
// workers each should have for what is queued and runs. Pure, but for reading the file.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "assay/v1/pools.pb.h"
#include "coordinator/explain.h"
#include "coordinator/slots.h"

namespace assay::coordinator {

// Text format, or JSON where it begins with '{'. INVALID_ARGUMENT "file:line:column: pool[1].slots: …", one
// error a line (JSON has no lines: the field alone).
absl::StatusOr<v1::Pools> ParsePools(absl::string_view file, absl::string_view text);
absl::StatusOr<v1::Pools> LoadPools(const std::string& path);

// One of the pool's workers, named as the pool.
WorkerView ViewOf(const v1::Pool& pool);

// Jobs that ask the same, of which so many are queued.
struct Waiting {
  Ask ask;
  uint64_t jobs = 0;
};

// How many workers each pool should have, in the pools' order, as a fraction: 2.25 is two and a quarter
// workers' work.
//
// A job takes its share of a worker: one slot of its slots, or its memory of the GPUs' memory where that is
// more; a job that has a GPU alone the whole of it. What runs counts for the pool whose worker runs it
// (`running`: shares by pool's name, see ShareOf). Each queued job counts for one pool: the first of the file
// that could take it and is not full, a pool being full with max_workers' work; where all are full, for none,
// as no more workers would come.
std::vector<double> WorkersWanted(const v1::Pools& pools, const std::vector<Waiting>& waiting,
                                  const std::map<std::string, double>& running);

// What a job that asks so takes of one of the pool's workers: above 0, at most 1; 0: the pool could not take
// it.
double ShareOf(const Ask& ask, const v1::Pool& pool);

}  // namespace assay::coordinator
