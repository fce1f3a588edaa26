"""BigBird's random blocks for a batch of any size."""

import contextlib

from transformers.models.big_bird.modeling_big_bird import BigBirdBlockSparseAttention
from transformers.models.bigbird_pegasus.modeling_bigbird_pegasus import BigBirdPegasusBlockSparseAttention

from . import edited, replaced

REASON = "the blocks of each row are put together in a Python loop over the batch, which fixes its size"

_REPEATED = {
    "rand_attn = torch.cat([rand_attn for _ in range(batch_size)], dim=0)": (
        "rand_attn = rand_attn.repeat(batch_size, 1, 1, 1)"
    )
}
_GATHERED = {
    "torch.stack([p1[i1.flatten()] for p1, i1 in zip(to_blocked_mask, rand_attn)])": (
        "to_blocked_mask.gather(1, rand_attn.flatten(1)[:, :, None].expand(-1, -1, to_blocked_mask.shape[2]))"
    )
}


@contextlib.contextmanager
def apply():
    with contextlib.ExitStack() as stack:
        for attention in (BigBirdBlockSparseAttention, BigBirdPegasusBlockSparseAttention):
            whole = edited(attention.bigbird_block_sparse_attention, _REPEATED)
            mask = staticmethod(edited(attention._create_rand_mask_from_inputs, _GATHERED))
            stack.enter_context(
                replaced(attention, bigbird_block_sparse_attention=whole, _create_rand_mask_from_inputs=mask)
            )
        yield
