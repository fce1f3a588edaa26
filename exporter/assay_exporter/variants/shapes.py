"""One program for several batches and lengths, each with its own golden."""

import copy
import dataclasses

import torch

from .. import golden, tensors
from ..proto import program_pb2
from . import graph
from .graph import Missing, NotApplicable

SAMPLES = 256
_EXACT = 1e-6
# Batch, and what is added to the lengths of the main side and of a decoder.
_FREE = ((1, -3, -2), (3, 5, 3))
_LONGER = ((1, 1, 1), (3, 5, 3))  # where places inside the tokens are taken by something else
_SEED = 11
_DRAWS = 8


@dataclasses.dataclass
class Shape:
    label: str
    seed: int
    specs: list  # Input, of this shape
    arguments: dict[str, torch.Tensor]
    outputs: list[torch.Tensor]


@dataclasses.dataclass
class Recording:
    lengths: dict[str, int]  # inputs with a length that is free: which dimension
    shapes: list[Shape]
    why_fixed: str  # why no length is free; empty where one is


def _lengths(subject) -> dict[str, int]:
    """Inputs whose dimension 1 counts tokens."""
    counts = {spec.shape[1] for spec in subject.inputs if spec.ids is not None and len(spec.shape) >= 2}
    return {
        spec.name: 1
        for spec in subject.inputs
        if not spec.dtype.is_floating_point and len(spec.shape) >= 2 and spec.shape[1] in counts
    }


def _draw(subject, lengths: dict[str, int], sizes) -> Shape:
    """Of several draws the first whose samples tell something; a model may give zeros almost everywhere."""
    for attempt in range(_DRAWS):
        made = _draw_one(subject, lengths, sizes, _SEED + sizes[0] + 100 * attempt)
        try:
            for name, output in zip(subject.output_names, made.outputs, strict=True):
                sample(name, output)
            return made
        except Missing:
            continue
    return made  # which says why it cannot be used where it is written


def _draw_one(subject, lengths: dict[str, int], sizes, seed: int) -> Shape:
    batch, more, more_decoder = sizes
    specs, arguments = [], {}
    for index, spec in enumerate(subject.inputs):
        shape = list(spec.shape)
        if spec.batch_dim is not None:
            shape[spec.batch_dim] = batch
        if spec.name in lengths:
            shape[1] += more_decoder if spec.name.startswith("decoder_") else more
        specs.append(dataclasses.replace(spec, shape=tuple(shape)))
        arguments[spec.name] = specs[-1].make(seed)
    label = f"a batch of {batch}" + (f" and {more:+d} tokens" if lengths else "")
    # A copy, so that state that a model keeps between calls cannot matter.
    return Shape(label, seed, specs, arguments, list(copy.deepcopy(subject.wrapped)(**arguments)))


def record(subject) -> Recording:
    if all(spec.batch_dim is None for spec in subject.inputs):
        raise NotApplicable("the batch dimension is fixed, and so is every other")
    lengths = _lengths(subject)
    why = "" if lengths else "no input is a sequence of tokens"
    if lengths:
        placed = any(spec.place is not None for spec in subject.inputs)
        try:
            return Recording(lengths, [_draw(subject, lengths, sizes) for sizes in (_LONGER if placed else _FREE)], "")
        except Exception as error:  # noqa: BLE001 - the library's own refusal of a length, told as such
            why = f"eager takes no other length: {type(error).__name__}: {graph.one_line(error, 200)}"
    return Recording({}, [_draw(subject, {}, sizes) for sizes in _FREE], why)


def sample(name: str, tensor: torch.Tensor) -> program_pb2.OutputSample:
    golden.check_output(name, tensor)
    flat = tensor.detach().contiguous().reshape(-1)
    count = min(SAMPLES, flat.numel())
    places = torch.tensor([(2 * k + 1) * flat.numel() // (2 * count) for k in range(count)])
    if len(flat[places].unique()) < 2:
        raise Missing(f"the samples of output {name} are all the same: they would tell nothing")
    wide = flat.double()
    return program_pb2.OutputSample(
        name=name, shape=list(tensor.shape), samples=flat[places].tolist(), mean=float(wide.mean()),
        rms=float(wide.square().mean().sqrt()), abs_max=float(wide.abs().max()),
    )  # fmt: skip


def _golden(subject, shape: Shape) -> program_pb2.ShapedGolden:
    made = program_pb2.ShapedGolden(seed=shape.seed)
    for spec in shape.specs:
        value = shape.arguments[spec.name]
        made.shape.add(name=spec.name, dtype=tensors.scalar_type(value.dtype), shape=list(value.shape))
        if value.is_floating_point() and spec.place is None:
            made.inputs.add(name=spec.name, rule=spec.rule)
        else:
            made.inputs.add(name=spec.name, data=tensors.data(value))
    for name, output in zip(subject.output_names, shape.outputs, strict=True):
        made.outputs.append(sample(name, output))
    return made


def _own_program(subject, recording: Recording) -> program_pb2.VariantProgram:
    dynamic: dict[str, list[int]] = {}
    for spec in subject.inputs:
        dims = {recording.lengths.get(spec.name), spec.batch_dim} - {None}
        if dims:
            dynamic[spec.name] = sorted(dims)
    with graph.unchanged(subject.wrapped):
        return graph.write(
            "dynamic", subject.wrapped, subject.samples[0].arguments, dynamic, subject.output_names, subject,
            recording.shapes[0].arguments,
        )  # fmt: skip


def _prove(runner, shapes: list[Shape]) -> None:
    for shape in shapes:
        found = list(runner.run(shape.arguments).values())
        graph.near(f"the written program on {shape.label}", shape.outputs, found, _EXACT)


def fill(variant: program_pb2.Variant, program: program_pb2.Program, subject, recording: Recording) -> None:
    shapes, why = recording.shapes, recording.why_fixed
    if recording.lengths:
        try:
            made = _own_program(subject, recording)
            runner = graph.runner(program, made)
            _prove(runner, shapes)
            _prove_samples(runner, subject)
            variant.program.append(made)
        except Exception as error:  # noqa: BLE001 - torch.export's refusal, told as such
            why = f"{type(error).__name__}: {graph.one_line(error)}"
            shapes = [_draw(subject, {}, sizes) for sizes in _FREE]
    if not variant.program:
        variant.partial = f"the batch alone is dynamic: {why}"
        _prove(graph.replay.Runner(program), shapes)
    variant.golden.extend(_golden(subject, shape) for shape in shapes)


def _prove_samples(runner, subject) -> None:
    for one in subject.samples:
        found = list(runner.run(one.arguments).values())
        graph.near(f"the written program on {one.label}", one.outputs, found, _EXACT)


def golden_inputs(recorded: program_pb2.ShapedGolden) -> dict[str, torch.Tensor]:
    """The inputs that a golden was recorded with."""
    made = {}
    for shape, given in zip(recorded.shape, recorded.inputs, strict=True):
        rule = given.rule if given.HasField("rule") else program_pb2.MockRule(literal=given.data)
        dtype = tensors.DTYPES[shape.dtype]
        made[shape.name] = tensors.from_rule(rule, given.name, recorded.seed, tuple(shape.shape), dtype)
    return made
