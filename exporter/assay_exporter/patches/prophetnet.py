"""ProphetNet's n-gram attention bias without a write to the diagonal of a view, and a step's position as it is counted."""

import contextlib
import importlib

from transformers.models.prophetnet import modeling_prophetnet

from . import edited, replaced

REASON = (
    "fill_diagonal_ writes through a strided view, which the exporter cannot make functional, "
    "and a decode step's position is read as a Python number"
)


def _modules() -> list:
    """ProphetNet's, and its copy for other languages where the version of the library has it."""
    path = "transformers.models.deprecated.xlm_prophetnet.modeling_xlm_prophetnet"
    try:
        return [modeling_prophetnet, importlib.import_module(path)]
    except ImportError:
        return [modeling_prophetnet]


@contextlib.contextmanager
def apply():
    with contextlib.ExitStack() as stack:
        for module in _modules():
            masked = edited(
                module.ngram_attention_bias,
                {
                    "right_block[stream_idx].fill_diagonal_(0, wrap=False)": (
                        "right_block[stream_idx].masked_fill_("
                        "torch.eye(sequence_length, device=device, dtype=torch.bool), 0)"
                    )
                },
            )
            stack.enter_context(replaced(module, ngram_attention_bias=masked))
        embeddings = modeling_prophetnet.ProphetNetPositionalEmbeddings
        counted = edited(
            embeddings.forward,
            {
                "int(self.padding_idx + num_input_ids)": "(self.padding_idx + num_input_ids)",
                "super().forward(position_ids)": "self._forward(position_ids)",
            },
        )
        stack.enter_context(replaced(embeddings, forward=counted))
        yield
