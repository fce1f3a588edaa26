"""X-MOD with every sample in the default language."""

import contextlib

from transformers.models.xmod.modeling_xmod import XmodOutput

from . import edited, replaced

REASON = "splitting the batch by language depends on the language ids' values; all are the default language"


@contextlib.contextmanager
def apply():
    one_language = edited(
        XmodOutput.lang_adapter,
        {
            "lang_ids, lang_lengths = torch.unique_consecutive(lang_ids, return_counts=True)": "pass",
            "split_hidden_states = torch.split(hidden_states, lang_lengths.tolist(), 0)": "pass",
            "enumerate(zip(lang_ids, split_hidden_states))": "[(0, (0, hidden_states))]",
            "int(lang_id.item())": "lang_id",
        },
    )
    with replaced(XmodOutput, lang_adapter=one_language):
        yield
