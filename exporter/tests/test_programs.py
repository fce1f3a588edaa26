"""Every committed program gives its golden, and every check that its family and entry declare holds.

The engine runs the same in C++; here the files are read by replay.py, so that a check that cannot hold is
seen where the catalogue is written.
"""

import json

import pytest
import torch
from assay_exporter import catalogue, export, golden, replay, variants
from assay_exporter.variants import decoding, shapes
from assay_exporter.variants import graph as variant_graph
from assay_exporter.proto import program_pb2, template_pb2
from google.protobuf import text_format

CASE = "test_model_with_mock"
# Kinds that ask for the plan, the configuration or the graph: tests/engine has them for every program.
ENGINE_ALONE = {
    "repeated_layers", "configuration", "weight_influence", "weights_alike", "weights_intact", "every_input",
    "batch_order", "position_sensitivity", "idioms",
}  # fmt: skip
SCALE = 1e-5  # of the largest value: rounding, not a fault


def family(name: str) -> dict:
    """The checks of a template and its bases, by name."""
    path = catalogue.ROOT / "templates" / f"{name}.textproto"
    template = text_format.Parse(path.read_text(), template_pb2.Template())
    checks = family(template.base) if template.base else {}
    for removed in template.remove:
        if removed.case_name == CASE:
            checks.pop(removed.check)
    for case in template.case:
        if case.name == CASE:
            checks.update({check.name: check for check in case.check})
    return checks


def declared(entry) -> dict:
    checks = family(entry.template)
    for override in entry.replace_check:
        if override.case_name != CASE:
            continue
        assert override.check.name in checks, f"replaces {override.check.name}, which the template has not"
        checks[override.check.name] = override.check
    for absent in entry.not_applicable:
        assert absent.reason
        if absent.case_name == CASE:
            del checks[absent.check]
    return checks


def near(a: torch.Tensor, b: torch.Tensor) -> bool:
    return golden.difference(a, b) <= SCALE * float(b.abs().max())


class Checker:
    def __init__(self, name: str):
        self.program = export.unpack((catalogue.PROGRAMS / f"{name}.assay").read_bytes())
        self.runner = replay.Runner(self.program)
        self.inputs = self.runner.golden_inputs()
        self.outputs = self.runner.run(self.inputs)

    def legitimate(self, name: str) -> float:
        """The largest error that rounding to float32 explains in an output."""
        output = next(o for o in self.program.golden.outputs if o.tensor.name == name)
        return max(e.max for e in output.legitimate if e.dtype == program_pb2.FLOAT)

    def spec(self, name: str):
        return next(spec for spec in self.program.manifest.inputs if spec.name == name)

    def changed(self, name: str, places=slice(None)) -> torch.Tensor:
        """The input with other valid values at `places` of its dimension 1."""
        spec, value = self.spec(name), self.inputs[name].clone()
        if spec.HasField("id_low"):
            span = spec.id_high - spec.id_low
            part = value[:, places]
            free = (part >= spec.id_low) & (part < spec.id_high)
            value[:, places] = torch.where(free, (part - spec.id_low + span // 2) % span + spec.id_low, part)
        else:
            # As the engine does it: noise of the input's own size, at least half of it.
            unit = torch.rand(value.shape, generator=torch.Generator().manual_seed(1), dtype=value.dtype)
            noise = value.square().mean().sqrt() * torch.where(unit < 0.5, unit - 1, unit)
            value[:, places] += noise[:, places]
        assert not torch.equal(value, self.inputs[name])
        return value

    def run(self, **changed) -> dict:
        return self.runner.run({**self.inputs, **changed})

    def golden(self, check):
        for output in self.program.golden.outputs:
            found = self.outputs[output.tensor.name]
            expected = torch.frombuffer(bytearray(output.tensor.data), dtype=found.dtype)
            assert near(found, expected.reshape(tuple(output.tensor.shape)))

    def shapes(self, check):
        for spec in self.program.manifest.outputs:
            assert list(self.outputs[spec.name].shape) == list(spec.shape)

    def finite(self, check):
        assert all(bool(torch.isfinite(output).all()) for output in self.outputs.values())

    def not_constant(self, check):
        assert all(len(output.unique()) > 1 for output in self.outputs.values())

    def deterministic(self, check):
        again = self.run()
        assert all(torch.equal(again[name], output) for name, output in self.outputs.items())

    def batch_invariance(self, check):
        alone = {}
        for spec in self.program.manifest.inputs:
            value = self.inputs[spec.name]
            alone[spec.name] = (
                value.narrow(spec.batch_dim, check.row, 1) if spec.HasField("batch_dim") else value
            )
        row = self.runner.run(alone)
        specs = [spec for spec in self.program.manifest.outputs if spec.HasField("batch_dim")]
        assert specs
        for spec in specs:
            whole = self.outputs[spec.name].narrow(spec.batch_dim, check.row, 1)
            found = golden.difference(row[spec.name], whole)
            # Another batch may round in another order: twice what is legitimate, as each side may.
            assert near(row[spec.name], whole) or found <= 2 * self.legitimate(spec.name)

    def causality(self, check):
        before = self.outputs[check.output]
        position = check.position % self.inputs[check.input].shape[1]
        after = self.run(**{check.input: self.changed(check.input, slice(position, position + 1))})[
            check.output
        ]
        assert near(after[:, :position], before[:, :position])
        assert not near(after[:, position:], before[:, position:])

    def padding_invariance(self, check):
        mask = self.inputs[check.mask].clone()
        mask[:, -check.masked :] = 0
        changed = self.changed(check.input, slice(-check.masked, None))
        assert not near(self.run(**{check.input: changed})[check.output], self.outputs[check.output])
        before = self.run(**{check.mask: mask})[check.output]
        after = self.run(**{check.mask: mask, check.input: changed})[check.output]
        if check.output_has_sequence:
            before, after = before[:, : -check.masked], after[:, : -check.masked]
        assert near(after, before)

    def encoder_influence(self, check):
        assert not near(
            self.run(**{check.input: self.changed(check.input)})[check.output], self.outputs[check.output]
        )

    input_influence = encoder_influence

    def box_range(self, check):
        boxes = self.outputs[check.output]
        assert float(boxes.min()) >= 0 and float(boxes.max()) <= 1

    def variant(self, name: str):
        """The variant, None where it says that there is none and why."""
        if not self.program.variant:
            return None  # counted as not exported by docs/variants.md
        found = [variant for variant in self.program.variant if variant.name == name]
        assert len(found) == 1, "the program does not say"
        return found[0] if variants.state(found[0]) in ("yes", "batch") else None

    def sdpa(self, check):
        if (variant := self.variant("sdpa")) is not None:
            found = variant_graph.runner(self.program, variant.program[0]).run(self.inputs)
            assert all(near(found[name], output) for name, output in self.outputs.items())

    def kv_cache(self, check):
        if (variant := self.variant("kv_cache")) is not None:
            said = variant.decoding
            tail = self.inputs[said.tokens][:, said.prompt :]
            steps = decoding.Decoder(self.program, variant.program, said).logits(self.inputs, tail)
            whole = self.outputs[said.output][:, -len(steps) :]
            assert all(near(step, whole[:, k]) for k, step in enumerate(steps))

    def generate(self, check):
        if (variant := self.variant("generate")) is not None:
            own = variant if variant.program else self.variant("kv_cache")
            tokens = torch.tensor([list(row.token) for row in variant.generated])
            steps = decoding.Decoder(self.program, own.program, own.decoding).logits(self.inputs, tokens[:, :-1])
            for k, step in enumerate(steps):  # the largest, or as good as that
                written = step.gather(1, tokens[:, k : k + 1])[:, 0]
                assert bool((step.max(-1).values - written <= 2e-5 * step.abs().max()).all()), f"token {k}"

    def dynamic_shapes(self, check):
        if (variant := self.variant("dynamic_shapes")) is not None:
            own = [variant_graph.runner(self.program, part) for part in variant.program]
            for recorded in variant.golden:
                found = (own or [self.runner])[0].run(shapes.golden_inputs(recorded))
                for sample in recorded.outputs:
                    fresh = shapes.sample(sample.name, found[sample.name])
                    assert list(fresh.shape) == list(sample.shape)
                    assert near(torch.tensor(fresh.samples), torch.tensor(sample.samples))

    def similarity_symmetry(self, check):
        assert near(self.outputs[check.first], self.outputs[check.second].T)


@pytest.mark.parametrize("name", catalogue.names())
def test_program_holds_what_its_entry_declares(name):
    checks = declared(catalogue.load(name))
    checker = Checker(name)
    failed = []
    for check in checks.values():
        kind = check.WhichOneof("kind")
        if kind in ENGINE_ALONE:
            continue
        try:
            getattr(checker, kind)(getattr(check, kind))
        except AssertionError as error:
            failed.append(f"{check.name}: {str(error).splitlines()[0] if str(error) else 'does not hold'}")
    assert not failed


def test_every_tracked_model_is_there_and_the_sixty_two_planned_ones_are_among_them():
    names = set(catalogue.names())
    registry = json.loads((catalogue.ROOT / "models" / "registry.json").read_text())["models"]
    tracked = {model["name"].replace("-", "_") for model in registry}
    assert len(tracked) == 198 and tracked <= names
    planned = {model["name"].replace("-", "_") for model in registry if model["named_by"] == "plan"}
    bases = {catalogue.load(name).template for name in names}
    assert len(planned) == 62 and planned <= names
    assert len(bases) == 22 and bases - names == {"time_series"}


def test_all_programs_together_stay_under_five_megabytes():
    assert sum(path.stat().st_size for path in catalogue.PROGRAMS.glob("*.assay")) < 5e6
