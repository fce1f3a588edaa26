"""RecurrentGemma's RG-LRU as eager runs it."""

import contextlib

from transformers.models.recurrent_gemma.modeling_recurrent_gemma import RecurrentGemmaRglru

from . import edited, replaced

REASON = (
    "while tracing, the library leaves out the multiplier of the gated input and so computes something else; "
    "and it keeps the last recurrent state on the module"
)


@contextlib.contextmanager
def apply():
    forward = edited(
        RecurrentGemmaRglru.forward,
        {
            "if not torch.jit.is_tracing() and not tracing:": "if True:",
            "SqrtBoundDerivative.apply(1 - a_square)": "torch.sqrt(1 - a_square)",
            # Where a cache was set up, there is one to keep.
            "self.recurrent_states = recurrent_states": (
                "self.recurrent_states = None if self.recurrent_states is None else recurrent_states"
            ),
        },
    )
    with replaced(RecurrentGemmaRglru, forward=forward):
        yield
