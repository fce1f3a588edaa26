"""Switch Transformers' experts, each on every token, masked by the router's choice."""

import contextlib

import torch
from transformers.models.switch_transformers.modeling_switch_transformers import (
    SwitchTransformersSparseMLP,
    SwitchTransformersTop1Router,
)

from . import replaced

REASON = (
    "routing picks out each expert's tokens, whose number depends on the input, and casts the router in place"
)


def _dense(self, hidden_states):
    mask, probabilities, logits = self.router(hidden_states)
    chosen = torch.argmax(mask, dim=-1)
    mixed = torch.zeros_like(hidden_states)
    for index in range(mask.shape[-1]):
        expert = self.experts[f"expert_{index}"]
        mixed = mixed + expert(hidden_states) * mask[:, :, index : index + 1].to(hidden_states.dtype)
    return probabilities * mixed, (logits, chosen)


@contextlib.contextmanager
def apply():
    with (
        replaced(SwitchTransformersSparseMLP, forward=_dense),
        # A float32 router needs no cast; assigning the module anew is a change of state.
        replaced(SwitchTransformersTop1Router, _cast_classifier=lambda self: None),
    ):
        yield
