"""Runs a program as it is written: its own proof that nothing was lost on the way into the file.

A plain, slow reading of docs/program_format.md over torch's operators; the engine is the fast one.
"""

import operator

import torch

from . import tensors
from .proto import program_pb2

DTYPES = tensors.DTYPES
_MEMORY_FORMATS = {
    program_pb2.CONTIGUOUS_FORMAT: torch.contiguous_format,
    program_pb2.CHANNELS_LAST: torch.channels_last,
    program_pb2.CHANNELS_LAST_3D: torch.channels_last_3d,
    program_pb2.PRESERVE_FORMAT: torch.preserve_format,
}
_SYMBOLIC = {
    "add": operator.add, "sub": operator.sub, "mul": operator.mul, "floordiv": operator.floordiv,
    "truediv": operator.truediv, "mod": operator.mod, "neg": operator.neg, "eq": operator.eq,
    "ne": operator.ne, "lt": operator.lt, "le": operator.le, "gt": operator.gt, "ge": operator.ge,
    "max": max, "min": min, "float": float, "int": int, "not": operator.not_,
}  # fmt: skip


def argument(argument: program_pb2.Argument, values: list):
    kind = argument.WhichOneof("kind")
    held = getattr(argument, kind)
    if kind == "none":
        return None
    if kind == "value":
        return values[held]
    if kind == "values":
        return [values[v] for v in held.values]
    if kind == "optional_values":
        return [None if v == 0 else values[v - 1] for v in held.values_plus_one]
    if kind in ("ints", "floats", "bools"):
        return list(held.values)
    if kind == "sym_ints":
        return [values[v.value] if v.WhichOneof("kind") == "value" else v.literal for v in held.values]
    if kind == "scalar_type":
        return DTYPES[held]
    if kind == "memory_format":
        return _MEMORY_FORMATS[held]
    if kind == "layout":
        return torch.strided
    if kind == "device":
        return torch.device(held.type, held.index) if held.type != "cpu" else torch.device("cpu")
    return held  # integer, real, boolean, text


def _function(op: program_pb2.Operator):
    space, _, name = op.name.partition("::")
    if space == "sym":
        return _SYMBOLIC[name]
    return getattr(getattr(getattr(torch.ops, space), name), op.overload or "default")


def call(op: program_pb2.Operator, arguments: dict):
    """Runs one operator on its arguments by name."""
    if op.name.startswith("sym::"):
        return _function(op)(*arguments.values())
    function = _function(op)
    # `self` cannot be passed by name, so everything before the first absent argument goes by position.
    positional = []
    named = dict(arguments)
    for formal in function._schema.arguments:
        if formal.kwarg_only or formal.name not in named:
            break
        positional.append(named.pop(formal.name))
    return function(*positional, **named)


def constants(program: program_pb2.Program) -> dict[str, torch.Tensor]:
    """Program.constants by name."""
    return {constant.name: tensors.from_proto(constant) for constant in program.constants}


class Runner:
    """A program with its mock weights bound."""

    call = staticmethod(call)

    def __init__(self, program: program_pb2.Program):
        self.program = program
        manifest = program.manifest
        self.weights = {
            spec.name: tensors.from_rule(
                spec.mock, spec.name, manifest.mock_seed, tuple(spec.shape), DTYPES[spec.dtype]
            ).requires_grad_(spec.requires_grad)
            for spec in manifest.weights
        }
        self.constants = constants(program)

    def golden_inputs(self) -> dict[str, torch.Tensor]:
        made = {}
        for spec, given in zip(self.program.manifest.inputs, self.program.golden.inputs, strict=True):
            rule = given.rule if given.HasField("rule") else program_pb2.MockRule(literal=given.data)
            made[spec.name] = tensors.from_rule(
                rule, given.name, self.program.manifest.mock_seed, tuple(spec.shape), DTYPES[spec.dtype]
            )
        return made

    @torch.no_grad()
    def run(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return self.compute(inputs)

    def compute(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """As run, but gradients are recorded where they are enabled."""
        graph = self.program.graph
        values: list = [None] * graph.value_count
        sources = {
            program_pb2.GraphInput.USER_INPUT: inputs,
            program_pb2.GraphInput.WEIGHT: self.weights,
            program_pb2.GraphInput.CONSTANT: self.constants,
        }
        for given in graph.inputs:
            values[given.value] = sources[given.kind][given.name]
        for node in graph.nodes:
            given = {a.name: argument(a.value, values) for a in node.arguments}
            result = self.call(graph.operators[node.op], given)
            several = isinstance(result, (list, tuple))
            for number, value in zip(node.outputs, result if several else [result], strict=True):
                values[number] = value
        names = [spec.name for spec in self.program.manifest.outputs]
        return {name: argument(out, values) for name, out in zip(names, graph.outputs, strict=True)}
