"""MRA in plain torch is the algorithm that the library's CUDA kernels compute.

Two references, neither sharing code with the patch: the kernels' own CUDA source, run thread by thread on the
CPU, and dense attention over one full matrix of logits whose unchosen blocks are blurred to their block mean.
"""

import ctypes
import math
import pathlib
import shutil
import subprocess

import pytest
import torch
import transformers
from torch.export import Dim, export
from transformers import MraConfig, MraForMaskedLM
from transformers.models.mra import modeling_mra

from assay_exporter.patches import mra

torch.set_num_threads(1)

BLOCK = 32

# Runs one CUDA block after the other. The threads of a block are fibers that change over at __syncthreads, so
# that everything before a barrier is done by all of them before anything after it. The launch shapes are
# those of cuda_launch.cu.
CUDA_ON_CPU = r"""
#include <ucontext.h>
#include <algorithm>
#include <functional>
#include <vector>
struct Index { int x = 0, y = 0; };
static volatile int thread_x, thread_y, block_x, block_y, dim_x, dim_y;
struct ThreadIdx {
  struct X { operator int() const { return thread_x; } } x;
  struct Y { operator int() const { return thread_y; } } y;
};
struct BlockIdx {
  struct X { operator int() const { return block_x; } } x;
  struct Y { operator int() const { return block_y; } } y;
};
struct BlockDim {
  struct X { operator int() const { return dim_x; } } x;
  struct Y { operator int() const { return dim_y; } } y;
};
static ThreadIdx threadIdx;
static BlockIdx blockIdx;
static BlockDim blockDim;
struct Fiber { ucontext_t context; std::vector<char> stack; bool done = false; };
static ucontext_t scheduler;
static Fiber* running;
static std::function<void()> body;
static std::vector<float> dynamic_shared;
static void __syncthreads() { swapcontext(&running->context, &scheduler); }
static void enter() { body(); running->done = true; swapcontext(&running->context, &scheduler); }
static int atomicMax(int* at, int value) { int old = *at; *at = std::max(old, value); return old; }
static float atomicAdd(float* at, float value) { float old = *at; *at = old + value; return old; }
#define __global__ static
#define __shared__ static
SOURCE
static void launch(Index blocks, Index threads, std::function<void()> kernel) {
  body = std::move(kernel);
  dim_x = threads.x; dim_y = threads.y;
  for (int by = 0; by < blocks.y; ++by) for (int bx = 0; bx < blocks.x; ++bx) {
    block_x = bx; block_y = by;
    std::vector<Fiber> fibers(threads.x * threads.y);
    for (Fiber& fiber : fibers) {
      fiber.stack.resize(1 << 16);
      getcontext(&fiber.context);
      fiber.context.uc_stack.ss_sp = fiber.stack.data();
      fiber.context.uc_stack.ss_size = fiber.stack.size();
      makecontext(&fiber.context, enter, 0);
    }
    for (bool left = true; left;) {
      left = false;
      for (size_t i = 0; i < fibers.size(); ++i) {
        if (fibers[i].done) continue;
        running = &fibers[i];
        thread_x = int(i) % threads.x; thread_y = int(i) / threads.x;
        swapcontext(&scheduler, &fibers[i].context);
        left |= !fibers[i].done;
      }
    }
  }
}
extern "C" void index_max(float* vals, int* at, float* max_vals, float* scatter,
                          long batch, long a, long b, long n) {
  dynamic_shared.assign(a * 32, 0);
  launch({int(batch), 1}, {256, 1},
         [=] { index_max_cuda_kernel(vals, at, max_vals, scatter, batch, a, b, n); });
}
extern "C" void mm_to_sparse(float* x, float* y, int* at, float* out,
                             long batch, long a, long b, long dim, long n) {
  launch({int(n / 4), int(batch)}, {64, 4},
         [=] { mm_to_sparse_cuda_kernel(x, y, at, out, batch, a, b, dim, n); });
}
extern "C" void sparse_dense_mm(float* x, int* at, float* y, float* out,
                                long batch, long a, long b, long dim, long n) {
  launch({int(n / 2), int(batch)}, {128, 2},
         [=] { sparse_dense_mm_cuda_kernel(x, at, y, out, batch, a, b, dim, n); });
}
"""


@pytest.fixture(scope="module")
def cuda(tmp_path_factory):
    """The library's extension, its CUDA source compiled for the CPU."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("no g++ to compile the library's kernels with")
    folder = tmp_path_factory.mktemp("kernels")
    kernels = pathlib.Path(transformers.__file__).parent / "kernels" / "mra"
    source = (kernels / "cuda_kernel.h").read_text()
    source += (kernels / "cuda_kernel.cu").read_text().replace('#include "cuda_kernel.h"', "")
    shared = "extern __shared__ float buffer[];"
    assert source.count(shared) == 1
    source = source.replace(shared, "float* buffer = dynamic_shared.data();")
    (folder / "kernels.cc").write_text(CUDA_ON_CPU.replace("SOURCE", source))
    flags = ["-std=c++20", "-O1", "-fno-strict-aliasing", "-shared", "-fPIC", "-w"]
    subprocess.run([compiler, *flags, "-o", folder / "kernels.so", folder / "kernels.cc"], check=True)
    library = ctypes.CDLL(str(folder / "kernels.so"))

    def call(name, tensors, sizes):
        assert all(t.is_contiguous() for t in tensors)
        getattr(library, name)(*(ctypes.c_void_p(t.data_ptr()) for t in tensors), *map(ctypes.c_long, sizes))

    class Cuda:
        @staticmethod
        def index_max(vals, indices, a, b):
            batch, n = indices.shape
            out, scatter = torch.zeros(batch, a * 32), torch.zeros(batch, 32, n)
            call("index_max", [vals, indices, out, scatter], [batch, a, b, n])
            return out, scatter

        @staticmethod
        def mm_to_sparse(x, y, indices):
            batch, n = indices.shape
            out = torch.zeros(batch, n, 32, 32)
            call("mm_to_sparse", [x, y, indices, out], [batch, x.size(1), y.size(1), x.size(2), n])
            return out

        @staticmethod
        def sparse_dense_mm(x, indices, y, a):
            batch, n = indices.shape
            out = torch.zeros(batch, a, y.size(2), 32)
            call("sparse_dense_mm", [x, indices, y, out], [batch, a, y.size(1), y.size(2), n])
            return out

    return Cuda


def choose(batch, rows, cols, count, generator):
    """Different blocks for each batch entry, as int32, in no order."""
    return torch.stack([torch.randperm(rows * cols, generator=generator)[:count] for _ in range(batch)]).int()


SIZES = [  # batch, query blocks, key blocks, chosen, head size
    (1, 4, 4, 8, 64),
    (3, 4, 4, 16, 64),
    (2, 5, 3, 8, 128),
    (2, 16, 16, 64, 64),
]
# The same and what the kernels cannot do: any number of chosen blocks, any head size.
FREE_SIZES = [*SIZES, (2, 3, 5, 1, 32), (1, 1, 1, 1, 8), (2, 4, 4, 6, 40)]


@pytest.mark.parametrize("batch,rows,cols,count,dim", SIZES)
def test_kernels_equal_the_librarys_cuda_source(cuda, batch, rows, cols, count, dim):
    g = torch.Generator().manual_seed(batch * 1000 + count)
    indices = choose(batch, rows, cols, count, g)
    query = torch.randn(batch, rows, dim, BLOCK, generator=g)
    key = torch.randn(batch, cols, dim, BLOCK, generator=g)
    ours = mra.PlainTorchKernels

    scores = ours.mm_to_sparse(query, key, indices)
    torch.testing.assert_close(scores, cuda.mm_to_sparse(query, key, indices), atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(
        ours.sparse_dense_mm(scores, indices, key, rows),
        cuda.sparse_dense_mm(scores, indices, key, rows),
        atol=2e-3,
        rtol=1e-5,
    )
    largest = scores.max(dim=-2).values.transpose(-1, -2).contiguous()
    for mine, theirs in zip(
        ours.index_max(largest, indices, rows, cols), cuda.index_max(largest, indices, rows, cols)
    ):
        torch.testing.assert_close(mine, theirs, atol=0, rtol=0)


@pytest.mark.parametrize("batch,rows,cols,count,dim", FREE_SIZES)
def test_kernels_equal_dense_matrices(batch, rows, cols, count, dim):
    g = torch.Generator().manual_seed(count)
    indices = choose(batch, rows, cols, count, g)
    query = torch.randn(batch, rows * BLOCK, dim, generator=g)
    key = torch.randn(batch, cols * BLOCK, dim, generator=g)

    def blocks(x):
        return x.reshape(batch, -1, BLOCK, dim).transpose(-1, -2)

    scores = mra.PlainTorchKernels.mm_to_sparse(blocks(query), blocks(key), indices)
    row_sums = mra.PlainTorchKernels.sparse_dense_mm(scores, indices, blocks(key), rows)
    largest = scores.max(dim=-2).values.transpose(-1, -2)
    max_vals, scattered = mra.PlainTorchKernels.index_max(largest, indices, rows, cols)

    for b in range(batch):
        dense = query[b] @ key[b].T
        kept = torch.full_like(dense, -math.inf)
        for n, index in enumerate(indices[b].tolist()):
            r, c = index // cols, index % cols
            here = slice(r * BLOCK, (r + 1) * BLOCK), slice(c * BLOCK, (c + 1) * BLOCK)
            torch.testing.assert_close(scores[b, n].T, dense[here], atol=2e-5, rtol=1e-5)
            kept[here] = dense[here]
            expected = max_vals[b, r * BLOCK : (r + 1) * BLOCK]
            torch.testing.assert_close(scattered[b, :, n], expected, atol=0, rtol=0)
        product = torch.where(kept.isinf(), 0.0, kept) @ key[b]
        torch.testing.assert_close(
            row_sums[b].transpose(-1, -2).reshape(rows * BLOCK, dim), product, atol=2e-3, rtol=1e-4
        )
        true_max = kept.amax(dim=1)
        empty = true_max.isinf()
        assert (max_vals[b][empty] == -1e5).all()
        # Cut to thousandths towards zero, never further.
        assert ((max_vals[b] - true_max)[~empty].abs() < 1.1e-3).all()


def mixed_resolution_attention(query, key, value, mask, chosen, mode, first=0, diagonal=0):
    """What MRA-2 means, on one head and as one dense softmax. query, key, value: (tokens, size), mask:
    (tokens).

    Logits of chosen blocks are exact; those of the others are the logit of the two blocks' mean tokens
    ("full") or left out ("sparse").
    """
    tokens, size = query.shape
    n = tokens // BLOCK
    mean = torch.zeros(2, n, size)
    for i in range(n):
        real = [t for t in range(i * BLOCK, (i + 1) * BLOCK) if mask[t] > 0]
        for which, source in enumerate((query, key)):
            if real:
                mean[which, i] = source[real].mean(dim=0)
    coarse = mean[0] @ mean[1].T / math.sqrt(size)
    rank = coarse - coarse.amax(dim=1, keepdim=True)
    for i in range(n):
        for j in range(n):
            if not mask[i * BLOCK : (i + 1) * BLOCK].any() or not mask[j * BLOCK : (j + 1) * BLOCK].any():
                rank[i, j] -= 1e4
            if diagonal > 0 and abs(i - j) <= diagonal // 2:
                rank[i, j] += 5e3
            rank[i, j] += 5e3 * ((i < first) + (j < first))
    order = sorted(((rank[i, j].item(), i, j) for i in range(n) for j in range(n)), reverse=True)
    logits = torch.full((tokens, tokens), -math.inf)
    if mode == "full":
        logits = coarse.repeat_interleave(BLOCK, 0).repeat_interleave(BLOCK, 1)
    for _, i, j in order[:chosen]:
        here = slice(i * BLOCK, (i + 1) * BLOCK), slice(j * BLOCK, (j + 1) * BLOCK)
        logits[here] = (query @ key.T / math.sqrt(size))[here]
    logits = logits.masked_fill(mask[None, :] == 0, -math.inf)
    weights = torch.softmax(logits, dim=1).nan_to_num(0.0)
    return weights @ value * mask[:, None]


def attend(query, key, value, mask, chosen, mode, first=0, diagonal=0):
    """The library's attention under the patch; mask as the library's own caller lays it out."""
    batch, heads, tokens, _ = query.shape
    spoiled = mask.repeat(1, heads, 1).reshape(batch * heads, tokens)
    return modeling_mra.mra2_attention(
        query,
        key,
        value,
        spoiled,
        chosen,
        approx_mode=mode,
        initial_prior_first_n_blocks=first,
        initial_prior_diagonal_n_blocks=diagonal,
    )


def random_heads(batch, heads, blocks, size, seed):
    """Queries, keys and values in which blocks differ as a whole, so that which ones are chosen matters."""
    g = torch.Generator().manual_seed(seed)
    shape = (batch, heads, blocks, BLOCK, size)
    tokens = [
        torch.randn(shape, generator=g) + torch.randn(batch, heads, blocks, 1, size, generator=g)
        for _ in range(3)
    ]
    return [0.7 * t.reshape(batch, heads, blocks * BLOCK, size) for t in tokens]


@pytest.mark.parametrize("mode", ["full", "sparse"])
@pytest.mark.parametrize(
    "blocks,chosen,first,diagonal",
    [(4, 8, 0, 0), (4, 4, 0, 0), (4, 8, 0, 1), (4, 11, 1, 0), (6, 30, 1, 3), (3, 5, 0, 0), (2, 3, 0, 0)],
)
@pytest.mark.parametrize("padded", [False, True])
def test_attention_equals_one_dense_softmax_over_mixed_resolutions(
    mode, blocks, chosen, first, diagonal, padded
):
    # Blocks are ranked by their logit less the largest of their row, so the best of every row tie at 0 and
    # the choice is only well defined where there is room for all of them beside the prior's blocks.
    batch, heads, size = 2, 3, 64
    query, key, value = random_heads(batch, heads, blocks, size, seed=blocks * 100 + chosen)
    mask = torch.ones(batch, blocks * BLOCK)
    if padded:  # rows differ, and one is cut in the middle of a block
        mask[0, blocks * BLOCK - 9 :] = 0
        mask[1, blocks * BLOCK - 20 :] = 0
    with mra.apply():
        ours = attend(query, key, value, mask, chosen, mode, first, diagonal)
    for b in range(batch):
        for h in range(heads):
            expected = mixed_resolution_attention(
                query[b, h], key[b, h], value[b, h], mask[b], chosen, mode, first, diagonal
            )
            torch.testing.assert_close(ours[b, h], expected, atol=5e-5, rtol=1e-4)


def test_attention_equals_itself_on_the_librarys_cuda_source(cuda, monkeypatch):
    query, key, value = random_heads(2, 2, 4, 64, seed=1)
    mask = torch.ones(2, 128)
    mask[:, 100:] = 0
    for mode in ("full", "sparse"):
        with mra.apply():
            ours = attend(query, key, value, mask, 8, mode)
        monkeypatch.setattr(modeling_mra, "mra_cuda_kernel", cuda)
        theirs = modeling_mra.mra2_attention(query, key, value, mask.repeat_interleave(2, 0), 8, mode)
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_all_blocks_chosen_is_plain_softmax_attention():
    query, key, value = random_heads(2, 2, 4, 64, seed=2)
    mask = torch.ones(2, 128)
    mask[1, 77:] = 0
    plain = torch.nn.functional.scaled_dot_product_attention(query, key, value, mask[:, None, None, :].bool())
    plain = plain * mask[:, None, :, None]
    with mra.apply():
        for mode in ("full", "sparse"):
            torch.testing.assert_close(attend(query, key, value, mask, 16, mode), plain, atol=2e-5, rtol=1e-4)
        # With half the blocks both are far from it: what is tested above is not plain attention.
        assert (attend(query, key, value, mask, 8, "full") - plain).abs().max() > 0.1
        assert (attend(query, key, value, mask, 8, "sparse") - plain).abs().max() > 0.1


def tiny_model(**overrides):
    torch.manual_seed(0)
    model = MraForMaskedLM(MraConfig(**{**mra.TINY_CONFIG, **overrides})).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.15)
    return model


@torch.no_grad()
def test_without_the_patch_attention_is_zero_and_the_patch_undoes_itself():
    query, key, value = random_heads(1, 1, 4, 64, seed=3)
    before = modeling_mra.mra_cuda_kernel, modeling_mra.mra2_attention
    assert before[0] is None
    with mra.apply():
        assert attend(query, key, value, torch.ones(1, 128), 8, "full").abs().max() > 0.1
    assert (modeling_mra.mra_cuda_kernel, modeling_mra.mra2_attention) == before
    assert (attend(query, key, value, torch.ones(1, 128), 8, "full") == 0).all()
    with pytest.raises(RuntimeError, match="inside"):
        with mra.apply():
            raise RuntimeError("inside")
    assert (modeling_mra.mra_cuda_kernel, modeling_mra.mra2_attention) == before


@torch.no_grad()
def test_padding_is_per_row_and_does_not_leak(monkeypatch):
    ids = torch.randint(3, 99, (2, 128), generator=torch.Generator().manual_seed(4))
    mask = torch.ones(2, 128, dtype=torch.long)
    mask[0, 70:] = 0
    changed = ids.clone()
    changed[0, 70:] = 7
    with mra.apply():
        model = tiny_model()
        both = model(input_ids=ids, attention_mask=mask).logits
        alone = model(input_ids=ids[:1], attention_mask=mask[:1]).logits
        other_padding = model(input_ids=changed, attention_mask=mask).logits
    torch.testing.assert_close(both[0, :70], alone[0, :70], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(both[0, :70], other_padding[0, :70], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(both[1], other_padding[1], atol=1e-5, rtol=1e-5)
    # The fault that is repaired: the kernels alone leave the mask spoiled.
    monkeypatch.setattr(modeling_mra, "mra_cuda_kernel", mra.PlainTorchKernels)
    unrepaired = model(input_ids=ids, attention_mask=mask).logits
    assert not torch.allclose(unrepaired[0, :70], both[0, :70], atol=1e-2)


@torch.no_grad()
@pytest.mark.parametrize("mode", ["full", "sparse"])
def test_exports_with_a_dynamic_batch_and_equals_eager(mode):
    def inputs(batch, seed):
        g = torch.Generator().manual_seed(seed)
        mask = torch.ones(batch, 128, dtype=torch.long)
        mask[0, 90:] = 0
        return {"input_ids": torch.randint(3, 99, (batch, 128), generator=g), "attention_mask": mask}

    with mra.apply():
        model = tiny_model(approx_mode=mode)
        batch = Dim("batch", min=1, max=64)
        shapes = {"input_ids": {0: batch}, "attention_mask": {0: batch}}
        program = export(model, (), inputs(2, 0), dynamic_shapes=shapes, strict=False).run_decompositions({})
        for size in (1, 2, 5):
            fresh = inputs(size, 10 + size)
            eager = model(**fresh).logits
            torch.testing.assert_close(program.module()(**fresh).logits, eager, atol=1e-5, rtol=1e-5)
            assert eager.std() > 0.05
