"""OLMoE's experts, each on every token, weighted by the router (zero where it was not chosen)."""

import contextlib

import torch
from transformers.models.olmoe.modeling_olmoe import OlmoeSparseMoeBlock

from . import replaced

REASON = "routing gathers each expert's tokens, whose number depends on the input"


def _dense(self, hidden_states):
    batch, sequence, width = hidden_states.shape
    tokens = hidden_states.view(-1, width)
    router_logits = self.gate(tokens)
    weights = torch.softmax(router_logits, dim=1, dtype=torch.float)
    weights, chosen = torch.topk(weights, self.top_k, dim=-1)
    if self.norm_topk_prob:
        weights = weights / weights.sum(dim=-1, keepdim=True)
    weights = torch.zeros_like(router_logits).scatter(1, chosen, weights.to(tokens.dtype))
    mixed = torch.zeros_like(tokens)
    for index, expert in enumerate(self.experts):
        mixed = mixed + expert(tokens) * weights[:, index : index + 1]
    return mixed.reshape(batch, sequence, width), router_logits


@contextlib.contextmanager
def apply():
    with replaced(OlmoeSparseMoeBlock, forward=_dense):
        yield
