"""The generator gives the known values that the engine's must give too (tests/data/mock_vectors.json)."""

import json

import numpy as np
import pytest
import torch
from assay_exporter import catalogue, mock, tensors
from assay_exporter.proto import program_pb2
from google.protobuf import json_format

VECTORS = json.loads((catalogue.ROOT / "tests" / "data" / "mock_vectors.json").read_text())
DTYPES = {"FLOAT": torch.float32, "HALF": torch.float16, "LONG": torch.int64}


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_known_values(vector):
    rule = json_format.ParseDict(vector["rule"], program_pb2.MockRule())
    shape = tuple(vector["shape"])
    made = tensors.from_rule(rule, vector["name"], vector["seed"], shape, DTYPES[vector["dtype"]])
    assert tuple(made.shape) == shape
    flat = made.reshape(-1).numpy()
    if "integers" in vector:
        assert flat.tolist() == vector["integers"]
    else:
        bits, words = ("bits16", np.uint16) if "bits16" in vector else ("bits", np.uint32)
        assert [f"0x{word:0{words().nbytes * 2}x}" for word in flat.view(words)] == vector[bits]


def test_a_literal_is_taken_as_it_is():
    value = torch.tensor([[3, 1], [2, 7]])
    rule = program_pb2.MockRule(literal=tensors.data(value))
    assert torch.equal(tensors.from_rule(rule, "index", 5, (2, 2), torch.int64), value)


def test_streams_of_other_names_and_seeds_are_others():
    base = mock.values(mock.normal(1.0), "a", 0, (64,))
    assert not np.array_equal(base, mock.values(mock.normal(1.0), "b", 0, (64,)))
    assert not np.array_equal(base, mock.values(mock.normal(1.0), "a", 1, (64,)))
    assert np.array_equal(base[:16], mock.values(mock.normal(1.0), "a", 0, (16,)))


def test_normal_and_uniform_have_the_moments_they_claim():
    normal = mock.values(mock.normal(2.0, 1.0), "w", 0, (200_000,))
    assert abs(normal.mean() - 1.0) < 0.02 and abs(normal.std() - 2.0) < 0.02
    uniform = mock.values(mock.uniform(-1.0, 3.0), "w", 0, (200_000,))
    assert uniform.min() >= -1.0 and uniform.max() < 3.0 and abs(uniform.mean() - 1.0) < 0.02
