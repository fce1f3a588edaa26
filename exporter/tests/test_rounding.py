"""What error is called legitimate, and what is told apart from it."""

import json
import types

import pytest
import torch

from assay_exporter import builders, export, inputs, rounding
from assay_exporter.proto import catalogue_pb2, program_pb2

NAME = "toy_rounding"


class Toy(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(16, 16)

    def forward(self, x):
        return {"logits": torch.tanh(self.layer(x))}


@pytest.fixture
def legitimate(monkeypatch):
    """By dtype, of the only output of a toy's export."""

    def study(model):
        def build(entry):
            return builders.Built(model.eval(), types.SimpleNamespace(), json.dumps({}), "test 1")

        def maker(config):
            return [inputs.noise("x", 2, 16)]

        monkeypatch.setitem(builders.BUILDERS, NAME, build)
        monkeypatch.setitem(inputs.MAKERS, NAME, maker)
        entry = catalogue_pb2.CatalogueEntry(
            name=NAME, model_class="test.Toy", builder=NAME, input_maker=NAME
        )
        (output,) = export.export(entry).golden.outputs
        return {error.dtype: error for error in output.legitimate}

    return study


@pytest.mark.parametrize("dtype", rounding.DTYPES)
def test_stochastic_rounding_gives_a_neighbour_and_keeps_the_mean(dtype):
    values = torch.tensor([1.0, -1.0, 1 / 3, -2e-6, 3e4, 0.0, 6e-8], dtype=torch.float64).repeat(4000, 1)
    found = rounding.stochastic(values, dtype, torch.Generator().manual_seed(1))
    assert torch.equal(found, found.to(dtype).double())
    least = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
    step = (values.abs() * torch.finfo(dtype).eps).clamp(min=least)
    assert bool(((found - values).abs() <= step).all())
    assert bool(((found.mean(0) - values[0]).abs() <= 0.05 * step[0]).all())
    exact = values.to(dtype).double()
    assert torch.equal(rounding.stochastic(exact, dtype, torch.Generator().manual_seed(1)), exact)


def test_what_is_not_finite_or_too_large_is_as_to_nearest():
    values = torch.tensor([float("inf"), -float("inf"), float("nan"), 65510.0, 65530.0, -1e300]).double()
    found = rounding.stochastic(values, torch.float16, torch.Generator().manual_seed(1))
    assert torch.equal(found.nan_to_num(7), values.half().double().nan_to_num(7))


def test_a_sound_model_has_an_error_in_every_dtype(legitimate):
    found = legitimate(Toy())
    single, brain, half = (found[d] for d in (program_pb2.FLOAT, program_pb2.BFLOAT16, program_pb2.HALF))
    assert 0 < single.rms <= single.max < 1e-5
    assert 3 * half.rms < brain.rms < 25 * half.rms
    assert 1e-3 < brain.max < 0.1
    assert not any(error.not_comparable for error in found.values())


def test_a_decision_that_rounding_turns_is_told_apart(legitimate):
    class Router(Toy):
        """Sends every row to the larger of two scores that lie closer together than bfloat16 sees."""

        def forward(self, x):
            hidden = self.layer(x)
            scores = hidden[:, :1] + torch.tensor([0.0, 1.0]) * (hidden[:, 1:2].abs() * 2e-4)
            expert = torch.argmax(scores, dim=1, keepdim=True).to(x.dtype)
            return {"logits": torch.tanh(hidden) + 10 * expert}

    found = legitimate(Router())
    brain = found[program_pb2.BFLOAT16]
    assert "rounding to bfloat16 turns aten::argmax" in brain.not_comparable
    assert brain.max < 0.2  # while decisions stay
    assert not found[program_pb2.FLOAT].not_comparable


def test_a_decision_without_consequence_is_none(legitimate):
    class Clipped(Toy):
        def forward(self, x):
            hidden = self.layer(x)
            hidden = torch.where(hidden > 0, hidden, 0.0)  # turns where hidden is as good as zero
            return {"logits": hidden + 0.1 * x}

    assert not any(error.not_comparable for error in legitimate(Clipped()).values())


def test_a_number_beyond_a_dtype_is_named(legitimate):
    class Large(Toy):
        def forward(self, x):
            return {"logits": self.layer(x) * 5e4 * 20 / 1e6}

    found = legitimate(Large())
    assert found[program_pb2.HALF].not_comparable == "a number leaves the range of float16"
    assert not found[program_pb2.BFLOAT16].not_comparable


def test_a_model_that_rounding_destroys_is_not_comparable(legitimate):
    class Chaotic(Toy):
        def forward(self, x):
            hidden = torch.sigmoid(self.layer(x))
            for _ in range(12):  # the logistic map doubles every error
                hidden = 3.99 * hidden * (1 - hidden)
            return {"logits": hidden}

    found = legitimate(Chaotic())
    assert "it would hide faults" in found[program_pb2.BFLOAT16].not_comparable
    assert found[program_pb2.BFLOAT16].max == 0


def test_a_long_sum_is_allowed_what_its_partial_sums_round(legitimate, monkeypatch):
    class Long(Toy):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(16, 512)
            self.last = torch.nn.Linear(512, 16)

        def forward(self, x):
            return {"logits": self.last(self.layer(x))}

    found = legitimate(Long())[program_pb2.FLOAT]
    with monkeypatch.context() as without:
        without.setattr(rounding.kernels, "variance", lambda *_: None)
        once = legitimate(Long())[program_pb2.FLOAT]
    assert found.rms > 2 * once.rms
    assert found.max < 20 * once.max


def test_a_sum_of_integers_is_exact(legitimate):
    class Counting(Toy):
        """As a length that a running sum gives is compared with a count of positions."""

        def forward(self, x):
            reached = torch.cumsum(torch.ceil(self.layer(x).sigmoid()), 1) < torch.arange(1.0, 17.0)
            return {"logits": self.layer(x) + 10 * reached}

    assert not legitimate(Counting())[program_pb2.FLOAT].not_comparable
