// One pass over a checkpoint's data: its digest, and what is wrong with the numbers.
#pragma once

#include <string>
#include <vector>

#include "checkpoint/fit.h"
#include "checkpoint/tensor.h"

namespace assay::checkpoint {

// SHA-256 over `tensors` in order of name: of each "<bytes of name>:<name><dtype>[<sizes>]<bytes of data>:"
// with sizes joined by commas, then the data.
std::string DigestTensors(const Tensors& tensors);

// The digest of `tensors`, and the defects of those that `fit` binds, in their order. A tensor that is all
// zero is a defect only if `zeros` and no such weight legitimately is (docs/checkpoints.md). With two threads
// one hashes and the other follows it, so that either way data comes from the disk once.
std::string DigestAndInspect(const Tensors& tensors, const Fit& fit, bool zeros, int threads,
                             std::vector<std::string>* defects);

}  // namespace assay::checkpoint
