// Tensors that lie elsewhere than LibTorch would put them: kernels choose other paths, and round otherwise.
#pragma once

#include <cstddef>

namespace assay::steady {

// Every CPU tensor that is made from now on begins `bytes` beyond a multiple of 64: weights, inputs and what
// operators give. Fewer than 64, and a multiple of 8, so that every number still lies at a multiple of its
// own size. 0: as LibTorch has it. Of the whole process; not while another thread makes tensors.
void ShiftMemory(size_t bytes);

}  // namespace assay::steady
