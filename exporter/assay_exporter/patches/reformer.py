"""Reformer with what its seed and its positions always give as constants, and without a mask."""

import contextlib

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import _disable_current_modes
from transformers.models.reformer.modeling_reformer import AxialPositionEmbeddings, LSHSelfAttention

from .. import wrapper
from . import edited, replaced

REASON = (
    "rotations are drawn anew from the same seed in every call, positions are read as Python numbers, "
    "rows are picked in a Python loop over the batch, and where a new token stands among sorted ones is "
    "looked for as if it could stand in several places"
)


class _Drawn(TorchFunctionMode):
    """torch.randn right after torch.manual_seed as a constant of the graph; no uninitialised memory."""

    seed = None

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function is torch.Tensor.new:  # filled by what follows; what it holds before must not vary
            return args[0].new_zeros(args[1:])
        if function is torch.randn:
            assert self.seed is not None
            with _disable_current_modes():
                return torch.randn(*args, **kwargs, generator=torch.Generator().manual_seed(self.seed))
        return function(*args, **kwargs)


@contextlib.contextmanager
def apply():
    drawn = _Drawn()

    def seeded(seed):
        drawn.seed = seed

    at_once = edited(
        AxialPositionEmbeddings.forward,
        {
            "position_ids.max().item()": "(reduce(mul, self.axial_pos_shape) - 1)",
            """torch.cat(
            [
                torch.index_select(position_encodings[i], 0, position_ids[i]).unsqueeze(0)
                for i in range(batch_size)
            ],
            dim=0,
        )""": "position_encodings.gather(1, position_ids[:, :, None].expand(-1, -1, position_encodings.shape[-1]))",
        },
    )
    # In each row, of a hash of a head of a batch, exactly one place has the last token.
    one_place = edited(
        LSHSelfAttention._get_relevant_hid_states_and_buckets,
        {
            "(bucket_idx == (bucket_idx.shape[-1] - 1)).nonzero()": """torch.cat([
        torch.cartesian_prod(*[torch.arange(size) for size in bucket_idx.shape[:3]]),
        (bucket_idx == (bucket_idx.shape[-1] - 1)).long().argmax(-1).reshape(-1, 1),
    ], dim=1)""",
        },
    )
    with (
        replaced(AxialPositionEmbeddings, forward=at_once),
        replaced(LSHSelfAttention, _get_relevant_hid_states_and_buckets=one_place),
        replaced(torch, manual_seed=seeded),
        wrapper.around(lambda: drawn),
    ):
        yield
