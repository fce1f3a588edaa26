"""What the inputs do not reach is named, with its cause where one is known."""

import json
import types

import pytest
import torch
from assay_exporter import __main__ as cli
from assay_exporter import builders, catalogue, export, golden, inputs, reach
from assay_exporter.proto import catalogue_pb2

NAME = "toy"


@pytest.fixture
def toy(monkeypatch):
    def entry(model: torch.nn.Module, shape=(2, 4), **fields):
        def build(entry):
            return builders.Built(model.eval(), types.SimpleNamespace(), json.dumps({}), "test 1")

        monkeypatch.setitem(builders.BUILDERS, NAME, build)
        monkeypatch.setitem(inputs.MAKERS, NAME, lambda config: [inputs.noise("x", *shape)])
        return catalogue_pb2.CatalogueEntry(
            name=NAME, model_class="test.Toy", builder=NAME, input_maker=NAME, **fields
        )

    return entry


class Idle(torch.nn.Module):
    """One layer that matters, one that nothing reads, and one whose output a shut gate hides."""

    def __init__(self):
        super().__init__()
        self.used, self.unread = torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)
        self.gated = torch.nn.Linear(4, 4)

    def forward(self, x):
        return {"logits": self.used(x) + self.gated(x) * (x.abs().sum() < 0)}


def test_parameters_that_no_output_depends_on_are_named(toy):
    found = reach.reach(export.export(toy(Idle())))
    assert found.weights == 6
    assert found.without == ["unread.weight", "unread.bias", "gated.weight", "gated.bias"]
    assert reach.unexplained(found) == found.without


def test_a_key_bias_has_no_influence_but_rounding():
    program = export.unpack((catalogue.PROGRAMS / "bert.assay").read_bytes())
    found = reach.reach(program)
    assert not found.without
    assert "bert.encoder.layer.0.attention.self.key.bias" in found.rounding
    assert "bert.encoder.layer.0.attention.self.query.bias" not in found.rounding


def test_a_known_cause_holds_for_its_models_alone():
    assert reach.cause("esm", "esm.contact_head.regression.weight")
    assert not reach.cause("bert", "esm.contact_head.regression.weight")
    found = reach.Reach("esm", 2, ["esm.contact_head.regression.weight", "esm.layer.weight"], [])
    assert reach.unexplained(found) == ["esm.layer.weight"]
    lines = reach.table([found])
    assert "| esm | 2 | `esm.layer.weight` | **not explained** |" in lines


@pytest.mark.parametrize("name", ["mixtral", "qwen2_moe", "olmoe", "nllb_moe", "switch_transformers"])
def test_every_expert_is_chosen(name):
    program = export.unpack((catalogue.PROGRAMS / f"{name}.assay").read_bytes())
    assert not [weight for weight in reach.reach(program).without if "expert" in weight]


def test_an_export_warns_of_what_it_does_not_reach(toy, tmp_path, monkeypatch, capsys):
    entry = toy(Idle())
    monkeypatch.setattr(catalogue, "load", lambda name: entry)
    assert cli.main([NAME, "--out", str(tmp_path)]) == 0
    assert "WARNING: no output depends on unread.weight" in capsys.readouterr().out


class Fading(torch.nn.Module):
    """Each stage shrinks its input, and in eval mode a batch norm whose statistics do not fit changes nothing of it."""

    def __init__(self):
        super().__init__()
        self.stages = torch.nn.ModuleList()
        for _ in range(6):
            norm = torch.nn.BatchNorm2d(4)
            self.stages.append(torch.nn.Sequential(torch.nn.Conv2d(4, 4, 1), norm))

    def forward(self, x):
        for stage in self.stages:
            x = stage(x * 1e-2)
        return {"logits": x.mean(dim=(2, 3))}


def test_running_statistics_that_fit_keep_a_signal_alive(toy):
    program = export.export(toy(Fading(), shape=(2, 4, 3, 3)))
    rules = {spec.name: spec.mock for spec in program.manifest.weights}
    assert rules["stages.3.1.running_var"].uniform.high < 1e-2  # fitted: the plain rule says 1.5
    assert not reach.reach(program).without


def test_without_a_batch_norm_a_dead_signal_is_still_refused(toy):
    class Dead(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(4, 4)

        def forward(self, x):
            return {"logits": self.layer(x * 1e-7)}

    with pytest.raises(golden.UninformativeGolden):
        export.export(toy(Dead()))
