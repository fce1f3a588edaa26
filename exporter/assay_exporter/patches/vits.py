"""VITS without noise, one frame for every token."""

import contextlib

import torch
from torch.overrides import TorchFunctionMode
from transformers.models.vits.modeling_vits import VitsModel

from .. import wrapper
from . import edited, replaced

REASON = (
    "the number of frames is predicted, so the output's length depends on the input: with a speaking rate that rounds "
    "every duration up to one frame it is the number of tokens; noise is scaled by zero, and its draw left out"
)


class _NoDraw(TorchFunctionMode):
    def __torch_function__(self, function, types, args=(), kwargs=None):
        function = {torch.randn: torch.zeros, torch.randn_like: torch.zeros_like}.get(function, function)
        return function(*args, **(kwargs or {}))


@contextlib.contextmanager
def apply():
    one_frame = edited(
        VitsModel.forward, {"torch.arange(predicted_lengths.max(),": "torch.arange(duration.shape[-1],"}
    )
    with replaced(VitsModel, forward=one_frame), wrapper.around(_NoDraw):
        yield
