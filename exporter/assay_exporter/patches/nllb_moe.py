"""NLLB-MoE's experts, each on every token, weighted by the router (zero where it was not chosen)."""

import contextlib

import torch
from transformers.models.nllb_moe.modeling_nllb_moe import NllbMoeSparseMLP, NllbMoeTop2Router

from . import edited, replaced

REASON = (
    "routing picks out each expert's tokens, whose number depends on the input, and the router changes itself: "
    "a cast in place, and a capacity that is always the number of tokens here"
)


def _dense(self, hidden_states, padding_mask=False):
    batch, sequence, width = hidden_states.shape
    first, weights = self.router(hidden_states, padding_mask)
    tokens = hidden_states.reshape(-1, width)
    scale = 1 - self.moe_token_dropout if self.moe_token_dropout > 0 else 1
    mixed = torch.stack(
        [
            weights[:, index : index + 1] * (expert(tokens) * scale)
            for index, expert in enumerate(self.experts.values())
        ]
    ).sum(dim=0)
    return mixed.reshape(batch, sequence, width), (weights, torch.argmax(first, dim=-1))


@contextlib.contextmanager
def apply():
    uncut = edited(
        NllbMoeTop2Router.route_tokens,
        {
            "self.expert_capacity = math.ceil(self.moe_eval_capacity_token_fraction * nb_tokens)": (
                "assert self.moe_eval_capacity_token_fraction == 1"
            ),
            "torch.lt(locations1, self.expert_capacity)": "torch.lt(locations1, nb_tokens)",
            "torch.lt(locations2, self.expert_capacity)": "torch.lt(locations2, nb_tokens)",
        },
    )
    with (
        replaced(NllbMoeSparseMLP, forward=_dense),
        replaced(NllbMoeTop2Router, route_tokens=uncut, _cast_classifier=lambda self: None),
    ):
        yield
