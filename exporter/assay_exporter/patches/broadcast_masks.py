"""Attention masks by plain broadcasting in place of nested torch.vmap."""

import contextlib

from transformers import masking_utils

from . import replaced

REASON = "vmap in masking_utils leaves a higher-order operator that no serialised graph can hold"


def _by_broadcasting(mask_function, bh_indices: bool = True):
    def with_heads(batch, head, query, key):
        mask = mask_function(
            batch[:, None, None, None],
            head[None, :, None, None],
            query[None, None, :, None],
            key[None, None, None, :],
        )
        return mask.expand(batch.shape[0], head.shape[0], query.shape[0], key.shape[0])

    def without_heads(batch, head, query, key):
        return mask_function(batch, head, query[:, None], key[None, :]).expand(query.shape[0], key.shape[0])

    return with_heads if bh_indices else without_heads


@contextlib.contextmanager
def apply():
    with replaced(
        masking_utils,
        _vmap_for_bhqkv=_by_broadcasting,
        TransformGetItemToIndex=contextlib.nullcontext,
    ):
        yield
