"""Speech2Text2: the position table that transformers 4.57.6 forgets to create.

The constructor of the sinusoidal position embedding no longer fills its table (`weights`), and weight
initialisation reads another name (`weight`), so the model cannot even be built. Its undeprecated twin in the
same release, Speech2Text, creates the table in the constructor as a buffer that is not saved. Here
Speech2Text2 gets the same, through the twin's own `make_weights`: the table then belongs to the program, not
to the weights.
"""

import contextlib

from . import replaced

REASON = (
    "In transformers 4.57.6 the sinusoidal position table of this model is never created and the model "
    "cannot be built; it is created as the library's Speech2Text creates its own."
)
INDEPENDENT_CHECK = (
    "The position table against the formula (fairseq's layout: sines, then cosines, padding at zero), and "
    "the whole model against the library's TrOCR decoder, the same architecture with working code, on the "
    "same weights."
)
DEVIATION = (
    "The library's class is the text decoder of a speech encoder-decoder (the published checkpoints pair it "
    "with Wav2Vec2): the speech encoder's hidden states are an input here."
)


@contextlib.contextmanager
def apply():
    from transformers.models.deprecated.speech_to_text_2 import modeling_speech_to_text_2 as module
    from transformers.models.speech_to_text.modeling_speech_to_text import (
        Speech2TextSinusoidalPositionalEmbedding,
    )

    positions, base = module.Speech2Text2SinusoidalPositionalEmbedding, module.Speech2Text2PreTrainedModel
    init, init_weights = positions.__init__, base._init_weights

    def init_with_table(self, num_positions, embedding_dim, padding_idx=None):
        init(self, num_positions, embedding_dim, padding_idx)
        self.make_weights(num_positions + self.offset, embedding_dim, padding_idx)

    def init_all_but_the_table(self, module):
        if not isinstance(module, positions):
            init_weights(self, module)

    table = replaced(
        positions,
        __init__=init_with_table,
        make_weights=Speech2TextSinusoidalPositionalEmbedding.make_weights,
    )
    with table, replaced(base, _init_weights=init_all_but_the_table):
        yield
