"""Speech2Text2: the position table that transformers 4.57.6 forgets to create.

The constructor of the sinusoidal position embedding no longer fills its table (`weights`), and weight
initialisation reads another name (`weight`), so the model cannot even be built. Its undeprecated twin in the
same release, Speech2Text, creates the table in the constructor as a buffer that is not saved. Here
Speech2Text2 gets the same, through the twin's own `make_weights`: the table then belongs to the program, not to
the weights.
"""

import contextlib

REASON = (
    "In transformers 4.57.6 the sinusoidal position table of this model is never created and the model cannot be "
    "built; it is created as the library's Speech2Text creates its own."
)
INDEPENDENT_CHECK = (
    "The position table against the formula (fairseq's layout: sines, then cosines, padding at zero), and the whole "
    "model against the library's TrOCR decoder, the same architecture with working code, on the same weights."
)


@contextlib.contextmanager
def apply():
    from transformers.models.deprecated.speech_to_text_2 import modeling_speech_to_text_2 as module
    from transformers.models.speech_to_text.modeling_speech_to_text import Speech2TextSinusoidalPositionalEmbedding

    positions, base = module.Speech2Text2SinusoidalPositionalEmbedding, module.Speech2Text2PreTrainedModel
    init, init_weights, make_weights = positions.__init__, base._init_weights, positions.make_weights

    def init_with_table(self, num_positions, embedding_dim, padding_idx=None):
        init(self, num_positions, embedding_dim, padding_idx)
        self.make_weights(num_positions + self.offset, embedding_dim, padding_idx)

    def init_all_but_the_table(self, module):
        if not isinstance(module, positions):
            init_weights(self, module)

    positions.__init__ = init_with_table
    positions.make_weights = Speech2TextSinusoidalPositionalEmbedding.make_weights
    base._init_weights = init_all_but_the_table
    try:
        yield
    finally:
        positions.__init__, positions.make_weights, base._init_weights = init, make_weights, init_weights
