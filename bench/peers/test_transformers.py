"""The peer: pytest over transformers, one process. Builds the same tiny models, two forwards each, finite and equal.

The models are those of the batch files in ASSAY_PEER_BATCHES, else all that are tracked. torch, transformers and what
every model of it shares are imported before the first test. The library imports a
model's own module only when it is asked for: in its test, or, with ASSAY_PEER_IMPORTS=before, ahead of all tests.
Models whose library code is broken carry the exporter's repairs, as they could not run at all otherwise.
    PYTHONPATH=exporter exporter/.venv/bin/python -m pytest -q -p no:cacheprovider bench/peers/test_transformers.py
"""

import contextlib
import json
import os
import pathlib

import pytest
import torch
import transformers.masking_utils
import transformers.modeling_utils  # noqa: F401

from assay_exporter import builders, catalogue, inputs, patches, wrapper

torch.set_num_threads(1)
TRACKED = pathlib.Path(__file__).resolve().parents[2] / "models" / "batches" / "tracked.json"
ENTRIES = [
    catalogue.load(model["name"])
    for file in os.environ.get("ASSAY_PEER_BATCHES", str(TRACKED)).split(os.pathsep)
    for models in json.loads(pathlib.Path(file).read_text()).values()
    for model in models
]
if os.environ.get("ASSAY_PEER_IMPORTS", "in tests") == "before":
    for entry in ENTRIES:
        for name in entry.patch:
            patches.load(name)
        for path in filter(None, (entry.model_class, entry.config_class)):
            builders.resolve(path)

# What the library itself does not give: they run as often as the others, and these two outputs are not asked for it.
NOT_EQUAL = {"vilt"}  # takes its patches in an order that it draws
NOT_FINITE = {"align"}  # with the weights that the library makes


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_two_forwards_are_finite_and_equal(entry):
    with contextlib.ExitStack() as stack, torch.no_grad():
        for patch in map(patches.load, entry.patch):
            if patches.repairs(patch):
                stack.enter_context(patch.apply())
        built = builders.build(entry)
        made = inputs.MAKERS[entry.input_maker](built.config)
        given = [item for item in made if isinstance(item, inputs.Input)]
        constants = {key: value for item in made if isinstance(item, dict) for key, value in item.items()}
        arguments = {spec.name: spec.make(0) for spec in given}
        first = wrapper.main_outputs(built.model(**arguments, **constants))
        second = wrapper.main_outputs(built.model(**arguments, **constants))
    assert first and first.keys() == second.keys()
    for output, value in first.items():
        assert torch.isfinite(value).all() or entry.name in NOT_FINITE, output
        assert torch.equal(value, second[output]) or entry.name in NOT_EQUAL | NOT_FINITE, output
