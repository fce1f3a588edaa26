"""Dinat: neighbourhood attention in plain torch, and the library's own attention module fed a 4-D tensor.

The model wants two functions of the NATTEN package, which has no build for a CPU alone:

* `natten2dqkrpb`: the scores of each pixel with the k x k pixels of its neighbourhood, plus a learned bias by
  relative position;
* `natten2dav`: the sum of the neighbourhood's values, weighted by the softmax of these scores.

A neighbourhood is the same along both axes. With dilation d the positions of an axis fall into d groups,
position i into group i mod d. The neighbours of i are the k consecutive members of its group around it; near
a border the window is moved inwards, never cut, so every pixel has exactly k * k neighbours. (Hassani and
Shi, "Dilated Neighborhood Attention Transformer", arXiv 2209.15001.)

Which pixels are neighbours depends on sizes alone, so they stand as index constants in the exported graph.
"""

import contextlib
import functools
import inspect
import textwrap

import torch

from . import replaced

REASON = (
    "The NATTEN package, which the library needs for this model, has no build here, so neighbourhood "
    "attention is plain torch; and transformers 4.57.6 unpacks the model's 4-D hidden states as 3-D, which "
    "is put right."
)
INDEPENDENT_CHECK = (
    "Both attention functions against explicit loops over every pixel and its neighbourhood written from "
    "NATTEN's definition, over sizes, kernel sizes, dilations and batch sizes, and the whole model run on "
    "those loops."
)

# Two resolutions (16 x 16, 8 x 8), and dilations at which windows are moved at the borders of every group.
TINY_CONFIG = {
    "image_size": 64,
    "embed_dim": 16,
    "depths": [2, 2],
    "num_heads": [2, 4],
    "kernel_size": 3,
    "dilations": [[1, 4], [1, 2]],
    "mlp_ratio": 2.0,
    "drop_path_rate": 0.0,
    "num_labels": 5,
}


@functools.cache
def _neighbours(length, kernel_size, dilation):
    """Where the neighbours of each position of one axis are, and their places in the bias table.

    Two tuples of `length` tuples of `kernel_size` numbers. A place is the distance in steps of the dilation,
    counted from -(kernel_size - 1) as 0.
    """
    if kernel_size % 2 == 0:
        raise ValueError(f"neighbourhood attention wants an odd kernel size, not {kernel_size}")
    if length < kernel_size * dilation:
        raise ValueError(
            f"an axis of {length} is too short for kernel size {kernel_size} with dilation {dilation}: "
            f"it must be at least {kernel_size * dilation}"
        )
    positions, places = [], []
    for position in range(length):
        step, group = position // dilation, position % dilation
        members = len(range(group, length, dilation))
        first = min(max(step - kernel_size // 2, 0), members - kernel_size)
        window = range(first, first + kernel_size)
        positions.append(tuple(group + dilation * member for member in window))
        places.append(tuple(member - step + kernel_size - 1 for member in window))
    return tuple(positions), tuple(places)


def _grids(which, tensor, height, width, kernel_size, dilation):
    """Index tensors over (row, column, row of the window, column of the window), to be broadcast."""
    rows = torch.tensor(_neighbours(height, kernel_size, dilation)[which], device=tensor.device)
    columns = torch.tensor(_neighbours(width, kernel_size, dilation)[which], device=tensor.device)
    return rows[:, None, :, None], columns[None, :, None, :]


def natten2dqkrpb(query, key, rpb, kernel_size, dilation):
    """Scores of each pixel's neighbourhood.

    query, key: (batch, heads, height, width, head size); rpb: (heads, 2k - 1, 2k - 1).
    Returns (batch, heads, height, width, k * k).
    """
    height, width = query.shape[2:4]
    rows, columns = _grids(0, key, height, width, kernel_size, dilation)
    scores = torch.matmul(key[:, :, rows, columns].flatten(4, 5), query.unsqueeze(-1)).squeeze(-1)
    rows, columns = _grids(1, rpb, height, width, kernel_size, dilation)
    return scores + rpb[:, rows, columns].flatten(3, 4)


def natten2dav(attention, value, kernel_size, dilation):
    """Weighted sum of each pixel's neighbourhood.

    attention: (batch, heads, height, width, k * k); value and what is returned:
    (batch, heads, height, width, head size).
    """
    height, width = value.shape[2:4]
    rows, columns = _grids(0, value, height, width, kernel_size, dilation)
    return torch.matmul(attention.unsqueeze(-2), value[:, :, rows, columns].flatten(4, 5)).squeeze(-2)


# 4.57.6 reads (batch, height, width, channels) as (batch, sequence, channels); each text stands that often.
_FORWARD_FIXES = (
    (
        "batch_size, seq_length, _ = hidden_states.shape",
        "batch_size, height, width, _ = hidden_states.shape",
        1,
    ),
    (".view(batch_size, -1, self", ".view(batch_size, height, width, self", 3),
    (".transpose(1, 2)", ".permute(0, 3, 1, 2, 4)", 3),
)


def _fixed_forward(module):
    source = textwrap.dedent(inspect.getsource(module.NeighborhoodAttention.forward))
    for broken, fixed, times in _FORWARD_FIXES:
        if source.count(broken) != times:
            raise RuntimeError(f"{module.__name__} is not the version this patch was written for: {broken!r}")
        source = source.replace(broken, fixed)
    scope = {}
    exec(compile(source, f"{module.__file__} (patched)", "exec"), module.__dict__, scope)
    return scope["forward"]


@contextlib.contextmanager
def apply():
    from transformers.models.dinat import modeling_dinat as module

    functions = replaced(
        module,
        natten2dqkrpb=natten2dqkrpb,
        natten2dav=natten2dav,
        requires_backends=lambda model, backends: None,
    )
    with functions, replaced(module.NeighborhoodAttention, forward=_fixed_forward(module)):
        yield
