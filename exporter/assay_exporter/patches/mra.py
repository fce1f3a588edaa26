"""MRA: the library's block-sparse attention with its CUDA kernels written in plain torch.

`modeling_mra.mra2_attention` calls three compiled kernels (`kernels/mra/*.cu` of transformers). Without
them it returns zeros, so on a CPU the model has no attention at all. Here only the three kernels are
replaced; the attention itself (low-resolution logits, top-k choice of blocks, the two scales and their
joint normaliser) stays the library's own code.

Layout of a sparse tensor, as the kernels have it: (batch, chosen, 32 keys, 32 queries), the KEY before the
query. An index names block (query_block, key_block) as query_block * key_blocks + key_block.

Where the kernels themselves are defined: they launch in whole groups of blocks and read ahead without a
bound, so they want a number of chosen blocks that is a multiple of 8 and a head size that is a multiple of
64. Outside of that they leave blocks out or read past the end; what stands here is then what the algorithm
says. TINY_CONFIG stays inside.
"""

import contextlib

import torch

from . import replaced

REASON = (
    "The library's MRA attention is a set of CUDA kernels and gives zeros on a CPU, and it hands them a "
    "padding mask that has overflowed and is laid out for another order of the heads; the three kernels are "
    "plain torch here, and the mask is put right."
)
INDEPENDENT_CHECK = (
    "The kernels against the library's own CUDA sources run thread by thread on the CPU and against dense "
    "matrices; the whole attention against a dense softmax over logits of mixed resolution, and against "
    "plain softmax attention where all blocks are chosen."
)

# 4 x 4 blocks of 32 tokens, of which 8 are chosen: both scales take part. Inputs must have exactly
# max_position_embeddings tokens, because the library takes the number of chosen blocks from it.
TINY_CONFIG = {
    "max_position_embeddings": 128,
    "block_per_row": 2,
    "hidden_size": 128,
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    "intermediate_size": 64,
    "vocab_size": 99,
    "approx_mode": "full",
    "initial_prior_first_n_blocks": 0,
    "initial_prior_diagonal_n_blocks": 0,
}

# What a query without any chosen block has as its maximum.
_NO_BLOCK = -1e8


def _chosen(blocks, index):
    """blocks: (batch, count, ...), index: (batch, chosen) -> (batch, chosen, ...)."""
    batch = torch.arange(index.size(0), device=index.device)
    return blocks[batch[:, None], index]


class PlainTorchKernels:
    """Stands where the library keeps its compiled extension; same names, shapes and numbers."""

    @staticmethod
    def index_max(index_vals, indices, query_blocks, key_blocks):
        """The largest logit of each query over its chosen blocks.

        index_vals: (batch, 32, chosen), the maximum over each block's keys. Returns it as
        (batch, query_blocks * 32) and, scattered back to the chosen blocks, as (batch, 32, chosen).
        The kernel takes its maximum over whole thousandths, cut towards zero, as integers: kept, since the
        softmax is only shifted by it, but the trace of a recorded run shows it.
        """
        row = torch.div(indices, key_blocks, rounding_mode="floor").long()
        in_row = row[:, None, :] == torch.arange(query_blocks, device=indices.device)[None, :, None]
        thousandths = torch.trunc(index_vals * 1000.0)
        largest = torch.where(in_row[:, :, None, :], thousandths[:, None], _NO_BLOCK).amax(dim=-1)
        max_vals = largest / 1000.0
        scattered = _chosen(max_vals, row).transpose(-1, -2)
        return max_vals.reshape(indices.size(0), query_blocks * 32), scattered

    @staticmethod
    def mm_to_sparse(dense_query, dense_key, indices):
        """Scores of the chosen blocks only.

        dense_query, dense_key: (batch, blocks, head size, 32). Returns (batch, chosen, 32 keys, 32 queries).
        """
        key_blocks = dense_key.size(1)
        query = _chosen(dense_query, torch.div(indices, key_blocks, rounding_mode="floor").long())
        key = _chosen(dense_key, torch.remainder(indices, key_blocks).long())
        return torch.matmul(key.transpose(-1, -2), query)

    @staticmethod
    def sparse_dense_mm(sparse, indices, dense, query_blocks):
        """The chosen blocks times a dense matrix, summed over each row of blocks.

        sparse: (batch, chosen, 32 keys, 32 queries), dense: (batch, blocks, head size, 32 keys).
        Returns (batch, query_blocks, head size, 32 queries).
        """
        batch, chosen = indices.shape
        head_size, key_blocks = dense.size(2), dense.size(1)
        product = torch.matmul(_chosen(dense, torch.remainder(indices, key_blocks).long()), sparse)
        row = torch.div(indices, key_blocks, rounding_mode="floor").long()
        row = row + query_blocks * torch.arange(batch, device=indices.device)[:, None]
        out = torch.zeros(batch * query_blocks, head_size, 32, dtype=product.dtype, device=product.device)
        out = out.index_add(0, row.reshape(-1), product.reshape(batch * chosen, head_size, 32))
        return out.reshape(batch, query_blocks, head_size, 32)


def _with_repaired_mask(attention):
    """Wraps `mra2_attention`, whose caller spoils the mask in two ways.

    It undoes the library's additive mask as 1 + mask / 10000, but that mask is no longer -10000 for padding:
    it is the smallest float, so padding arrives as a huge negative number. And it repeats the mask batch
    within head, while the heads are laid out head within batch, so rows with different padding swap their
    masks.
    """

    def repaired(query, key, value, mask, *args, **kwargs):
        if mask is not None:
            batch, heads, length, _ = query.shape
            mask = (mask > 0).to(query.dtype)
            mask = mask.reshape(heads, batch, length).transpose(0, 1).reshape(batch * heads, length)
        return attention(query, key, value, mask, *args, **kwargs)

    return repaired


@contextlib.contextmanager
def apply():
    from transformers.models.mra import modeling_mra

    attention = _with_repaired_mask(modeling_mra.mra2_attention)
    with replaced(modeling_mra, mra_cuda_kernel=PlainTorchKernels, mra2_attention=attention):
        yield
