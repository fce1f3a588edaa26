"""ProphetNet's n-gram attention bias without a write to the diagonal of a view."""

import contextlib

from transformers.models.prophetnet import modeling_prophetnet

from . import edited, replaced

REASON = "fill_diagonal_ writes through a strided view, which the exporter cannot make functional"


@contextlib.contextmanager
def apply():
    masked = edited(
        modeling_prophetnet.ngram_attention_bias,
        {
            "right_block[stream_idx].fill_diagonal_(0, wrap=False)": (
                "right_block[stream_idx].masked_fill_("
                "torch.eye(sequence_length, device=device, dtype=torch.bool), 0)"
            )
        },
    )
    with replaced(modeling_prophetnet, ngram_attention_bias=masked):
        yield
