"""An export that would not be the model, or would not tell anything, is refused; one that is, is stable."""

import contextlib
import json
import types

import pytest
import torch
from assay_exporter import builders, catalogue, check, export, golden, inputs, patches
from assay_exporter.proto import catalogue_pb2, program_pb2

NAME = "toy"


class Toy(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 4)

    def forward(self, x):
        return {"logits": self.layer(x)}


@pytest.fixture
def toy(monkeypatch):
    """Gives the entry of a model of one's own, and its inputs."""

    def entry(model: torch.nn.Module, maker=lambda config: [inputs.noise("x", 2, 4)], **fields):
        def build(entry):
            return builders.Built(model.eval(), types.SimpleNamespace(), json.dumps({}), "test 1")

        monkeypatch.setitem(builders.BUILDERS, NAME, build)
        monkeypatch.setitem(inputs.MAKERS, NAME, maker)
        return catalogue_pb2.CatalogueEntry(
            name=NAME, model_class="test.Toy", builder=NAME, input_maker=NAME, **fields
        )

    return entry


def test_a_sound_model_is_written_with_rules_shapes_and_trace(toy):
    program = export.export(toy(Toy()))
    manifest = program.manifest
    assert [spec.name for spec in manifest.weights] == ["layer.weight", "layer.bias"]
    assert all(spec.requires_grad for spec in manifest.weights)
    assert manifest.inputs[0].batch_dim == 0 and manifest.outputs[0].batch_dim == 0
    assert list(manifest.outputs[0].shape) == [2, 4]
    (output,) = program.golden.outputs
    assert output.HasField("float64_error") and 0 < output.float64_error < 1e-5
    (linear,) = program.golden.trace
    values = torch.frombuffer(bytearray(output.tensor.data), dtype=torch.float32)
    assert linear.numel == 8 and linear.abs_max == float(values.abs().max())
    assert list(linear.samples) == [float(values[i]) for i in (1, 3, 5, 7)]


def test_nan_is_refused(toy):
    class Broken(Toy):
        def forward(self, x):
            return {"logits": torch.log(super().forward(x)["logits"])}

    with pytest.raises(golden.UninformativeGolden, match="NaN"):
        export.export(toy(Broken()))


def test_a_constant_output_is_refused(toy):
    class Constant(Toy):
        def forward(self, x):
            return {"logits": super().forward(x)["logits"] * 0}

    with pytest.raises(golden.UninformativeGolden, match="constant"):
        export.export(toy(Constant()))


@pytest.mark.parametrize("factor", [1e-5, 1e5])
def test_signals_that_die_or_explode_are_refused(toy, factor):
    class Scaled(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = Toy()
            self.scale = Scale()

        def forward(self, x):
            return {"logits": self.scale(self.inner(x)["logits"])}

    class Scale(torch.nn.Module):
        def forward(self, x):
            return x * factor

    with pytest.raises(golden.UninformativeGolden, match="scale"):
        export.export(toy(Scaled()))


def test_an_input_that_moves_nothing_is_refused(toy):
    class Deaf(Toy):
        def forward(self, x, y):
            return super().forward(x)

    def two(config):
        return [inputs.noise("x", 2, 4), inputs.noise("y", 2, 4)]

    with pytest.raises(golden.UninformativeGolden, match="input y moves no output"):
        export.export(toy(Deaf(), two))


def test_state_changed_in_place_is_refused(toy):
    class Counting(Toy):
        def __init__(self):
            super().__init__()
            self.register_buffer("calls", torch.zeros(1))

        def forward(self, x):
            self.calls.add_(1)
            return super().forward(x)

    with pytest.raises(export.ExportError, match="in place"):
        export.export(toy(Counting()))


def test_a_graph_that_is_not_the_model_is_refused(toy):
    class Lying(Toy):
        def forward(self, x):
            factor = 2.0 if torch.compiler.is_exporting() else 1.0
            return {"logits": super().forward(x)["logits"] * factor}

    with pytest.raises(export.ExportError, match="exported graph on golden: output 0 differs from eager"):
        export.export(toy(Lying()))


def test_a_branch_on_the_golden_inputs_alone_is_caught_by_fresh_ones(toy):
    seen = []

    class Remembering(Toy):
        def forward(self, x):
            seen.append(self.layer(x).shape)
            offset = 0.0 if len(seen) == 1 else 1.0  # the first eager run only
            return {"logits": self.layer(x) + offset}

    with pytest.raises(export.ExportError, match="differs from eager"):
        export.export(toy(Remembering()))


def test_a_fixed_batch_needs_its_reason(toy):
    def fixed(config):
        return [inputs.noise("x", 2, 4, batch_dim=None)]

    with pytest.raises(export.ExportError, match="gives no reason"):
        export.export(toy(Toy(), fixed))
    entry = toy(Toy(), fixed)
    entry.not_applicable.add(
        case_name="test_model_with_mock", check="batch_invariance", reason="a list of rows"
    )
    assert not export.export(entry).manifest.inputs[0].HasField("batch_dim")


def test_a_batch_size_burnt_into_the_graph_is_refused(toy):
    class Fixed(Toy):
        def forward(self, x):
            return {"logits": self.layer(x) + torch.zeros(len(list(x)), 1)}

    with pytest.raises(Exception, match="specialized it to be a constant"):
        export.export(toy(Fixed()))


def test_a_patch_that_changes_numbers_is_refused(toy, monkeypatch):
    @contextlib.contextmanager
    def apply():
        with patches.replaced(Toy, forward=lambda self, x: {"logits": self.layer(x) * 1.01}):
            yield

    patch = types.SimpleNamespace(REASON="to see it refused", apply=apply)
    monkeypatch.setattr(patches, "load", lambda name: patch)
    with pytest.raises(export.ExportError, match="patch wrong on golden: output 0 differs from eager"):
        export.export(toy(Toy(), patch=["wrong"]))
    assert Toy.forward.__qualname__ == "Toy.forward"


@pytest.mark.parametrize("part", ["weight rule", "golden input", "operator"])
def test_a_file_that_does_not_compute_what_eager_did_is_refused(toy, part):
    entry = toy(Toy())
    program = export.export(entry)
    samples = export.prepare(entry).samples
    export.prove(program, samples)
    if part == "weight rule":
        program.manifest.weights[0].mock.normal.std *= 1.001
    elif part == "golden input":
        program.golden.inputs[0].data = bytes(len(program.golden.inputs[0].data))
    else:
        bias = program.graph.nodes[0].arguments[2]
        assert bias.name == "bias"
        bias.value.none = True
    with pytest.raises(export.ExportError, match="written"):
        export.prove(program, samples)


def test_a_buffer_whose_bits_depend_on_the_processor_needs_a_rule(toy):
    class Table(Toy):
        def __init__(self):
            super().__init__()
            self.register_buffer("table", torch.linspace(0.0, 1.0, 4).sin())

        def forward(self, x):
            return {"logits": self.layer(x) + self.table}

    with pytest.raises(ValueError, match="no mock rule for the floating point buffer table"):
        export.export(toy(Table()))


def test_an_unknown_patch_maker_or_builder_is_named():
    with pytest.raises(ValueError, match="no patch 'gone'"):
        patches.load("gone")
    with pytest.raises(ValueError, match="no builder 'gone'"):
        builders.build(catalogue_pb2.CatalogueEntry(name=NAME, builder="gone"))


def test_an_edit_of_source_that_has_changed_is_refused():
    with pytest.raises(ValueError, match="another version"):
        patches.edited(Toy.forward, {"no such text": ""})


def test_a_real_model_end_to_end_gives_the_committed_program():
    program = export.export(catalogue.load("bert"))
    check.compare(catalogue.PROGRAMS / "bert.assay", program)
    assert export.unpack(export.pack(program)) == program
    assert export.pack(program) == export.pack(export.unpack(export.pack(program)))


def _spoil(program: program_pb2.Program, part: str) -> None:
    if part == "graph":
        program.graph.nodes[3].name += "x"
    elif part == "manifest":
        program.manifest.weights[0].mock.normal.std *= 2
    elif part == "golden":
        data = bytearray(program.golden.outputs[0].tensor.data)
        data[3] ^= 0x40
        program.golden.outputs[0].tensor.data = bytes(data)


@pytest.mark.parametrize("part", ["graph", "manifest", "golden"])
@pytest.mark.parametrize("same_cpu", [True, False])
def test_check_sees_a_program_that_drifted(tmp_path, part, same_cpu):
    program = export.unpack((catalogue.PROGRAMS / "bert.assay").read_bytes())
    old = program_pb2.Program()
    old.CopyFrom(program)
    old.golden.cpu_capability = golden.cpu_capability() if same_cpu else "ANOTHER"
    _spoil(program, part)
    path = tmp_path / "bert.assay"
    path.write_bytes(export.pack(old))
    program.golden.cpu_capability = golden.cpu_capability()
    with pytest.raises(check.Drift):
        check.compare(path, program)


def test_check_allows_another_cpu_its_rounding(tmp_path):
    program = export.unpack((catalogue.PROGRAMS / "bert.assay").read_bytes())
    old = program_pb2.Program()
    old.CopyFrom(program)
    old.golden.cpu_capability = "ANOTHER"
    data = bytearray(program.golden.outputs[0].tensor.data)
    data[0] ^= 1  # the last bit of the first value
    program.golden.outputs[0].tensor.data = bytes(data)
    program.golden.cpu_capability = golden.cpu_capability()
    path = tmp_path / "bert.assay"
    path.write_bytes(export.pack(old))
    assert "within tolerance" in check.compare(path, program)
