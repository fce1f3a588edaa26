"""XLM and FlauBERT without the assertion on the longest of the sequence lengths."""

import contextlib

from transformers.models.flaubert.modeling_flaubert import FlaubertModel
from transformers.models.xlm.modeling_xlm import XLMModel

from . import edited, replaced

REASON = "an assertion on a tensor's value cannot be traced"

_ASSERTION = {"assert lengths.max().item() <= slen": "pass"}


@contextlib.contextmanager
def apply():
    with (
        replaced(XLMModel, forward=edited(XLMModel.forward, _ASSERTION)),
        replaced(FlaubertModel, forward=edited(FlaubertModel.forward, _ASSERTION)),
    ):
        yield
