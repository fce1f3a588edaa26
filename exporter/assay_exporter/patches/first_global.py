"""Longformer and LED with global attention at the first token of every text, and nowhere else."""

import contextlib

import torch
from torch.overrides import TorchFunctionMode
from transformers.models.led.modeling_led import LEDEncoder, LEDEncoderSelfAttention
from transformers.models.longformer.modeling_longformer import LongformerEncoder, LongformerSelfAttention

from .. import wrapper
from . import edited, replaced

REASON = (
    "which tokens attend globally is read out of the mask as Python numbers; "
    "here it is the first token of each text, as in classification and summarisation"
)

_ANY = {"is_global_attn = is_index_global_attn.flatten().any().item()": "is_global_attn = True"}


class _WholeNumbers(TorchFunctionMode):
    """torch.div of two Python numbers, which are sizes, as a Python number in place of a tensor."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if (
            function is torch.div
            and all(isinstance(a, int) for a in args)
            and kwargs == {"rounding_mode": "trunc"}
        ):
            return args[0] // args[1]
        return function(*args, **kwargs)


def _first(is_index_global_attn):
    """As _get_global_attn_indices for a mask that is set at position 0 of every row."""
    batch = is_index_global_attn.shape[0]
    row, zero = torch.arange(batch), torch.zeros(batch, dtype=torch.long)
    none = torch.zeros(0, dtype=torch.long)
    return 1, (row, zero), (row, zero), (none, none)


@contextlib.contextmanager
def apply():
    with contextlib.ExitStack() as stack:
        for encoder, attention in (
            (LongformerEncoder, LongformerSelfAttention),
            (LEDEncoder, LEDEncoderSelfAttention),
        ):
            stack.enter_context(replaced(encoder, forward=edited(encoder.forward, _ANY)))
            counted = edited(
                attention.forward,
                {"len(is_local_index_global_attn_nonzero[0]), -1": "hidden_states.shape[1], -1"},
            )
            stack.enter_context(replaced(attention, forward=counted))
            stack.enter_context(replaced(attention, _get_global_attn_indices=staticmethod(_first)))
        stack.enter_context(wrapper.around(_WholeNumbers))
        yield
