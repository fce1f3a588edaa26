"""Runs a program on real weights: in float32 or float64, with a trace, and with values freed after their last
use, so that a model of full size fits where its eager form does."""

import dataclasses

import torch

from .. import golden, replay
from ..proto import program_pb2


class _Doubling(list):
    """Values by number; a float32 one is given out as float64: no second copy of the weights is kept."""

    def __getitem__(self, index):
        value = super().__getitem__(index)
        if isinstance(value, torch.Tensor) and value.dtype == torch.float32:
            return value.double()
        return value


def _as_double(value):
    if isinstance(value, torch.dtype):
        return torch.float64 if value is torch.float32 else value
    if isinstance(value, torch.Tensor) and value.dtype == torch.float32:
        return value.double()
    return value


@dataclasses.dataclass
class Ran:
    outputs: dict[str, torch.Tensor]
    trace: list[program_pb2.NodeTrace]
    activations: int  # bytes of live values beside weights and constants, at their most


def _used(argument: program_pb2.Argument) -> list[int]:
    kind = argument.WhichOneof("kind")
    if kind == "value":
        return [argument.value]
    if kind == "values":
        return list(argument.values.values)
    if kind == "optional_values":
        return [v - 1 for v in argument.optional_values.values_plus_one if v]
    if kind == "sym_ints":
        return [v.value for v in argument.sym_ints.values if v.WhichOneof("kind") == "value"]
    return []


def _last_uses(graph: program_pb2.Graph) -> list[list[int]]:
    """For each node the values that nothing after it uses."""
    last: dict[int, int] = {}
    for index, node in enumerate(graph.nodes):
        for value in node.outputs:
            last[value] = index
        for given in node.arguments:
            for value in _used(given.value):
                last[value] = index
    kept = {value for output in graph.outputs for value in _used(output)}
    kept |= {given.value for given in graph.inputs}
    freed: list[list[int]] = [[] for _ in graph.nodes]
    for value, index in last.items():
        if value not in kept:
            freed[index].append(value)
    return freed


class _Live:
    """Bytes of the storages that live values hold; views count once."""

    def __init__(self, values):
        self.holders: dict[int, set[int]] = {}
        self.fixed = {v.untyped_storage().data_ptr() for v in values if isinstance(v, torch.Tensor)}
        self.sizes: dict[int, int] = {}
        self.now = self.most = 0

    def add(self, number: int, value) -> None:
        if not isinstance(value, torch.Tensor):
            return
        storage = value.untyped_storage()
        key = storage.data_ptr()
        if key in self.fixed:
            return
        if not self.holders.setdefault(key, set()):
            self.sizes[key] = storage.nbytes()
            self.now += self.sizes[key]
            self.most = max(self.most, self.now)
        self.holders[key].add(number)

    def drop(self, number: int, value) -> None:
        if not isinstance(value, torch.Tensor):
            return
        key = value.untyped_storage().data_ptr()
        holders = self.holders.get(key, set())
        if number in holders:
            holders.remove(number)
            if not holders:
                self.now -= self.sizes[key]


@torch.no_grad()
def run(
    program: program_pb2.Program,
    weights: dict[str, torch.Tensor],
    inputs: dict[str, torch.Tensor],
    *,
    double: bool = False,
    trace: bool = False,
) -> Ran:
    """Outputs by name. `weights` by WeightSpec.name, float32, with the requires_grad of the manifest."""
    graph = program.graph
    sources = {
        program_pb2.GraphInput.USER_INPUT: inputs,
        program_pb2.GraphInput.WEIGHT: weights,
        program_pb2.GraphInput.CONSTANT: replay.constants(program),
    }
    values = (_Doubling if double else list)([None] * graph.value_count)
    for given in graph.inputs:
        values[given.value] = sources[given.kind][given.name]
    live = _Live(list.__iter__(values))
    records: list[program_pb2.NodeTrace] = []
    convert = (lambda value: torch.utils._pytree.tree_map(_as_double, value)) if double else None
    for index, (node, freed) in enumerate(zip(graph.nodes, _last_uses(graph), strict=True)):
        op = graph.operators[node.op]
        result = replay.call(op, node, values, convert)
        result = list(result) if isinstance(result, (list, tuple)) else [result]
        for output, (number, value) in enumerate(zip(node.outputs, result, strict=True)):
            value = _as_double(value) if double else value
            values[number] = value
            live.add(number, value)
            if trace and op.name not in golden.VIEWS and isinstance(value, torch.Tensor) and value.numel():
                records.append(golden.trace_of(index, output, value))
        for number in freed:
            live.drop(number, list.__getitem__(values, number))
            values[number] = None
    names = [spec.name for spec in program.manifest.outputs]
    outputs = {name: replay.argument(out, values) for name, out in zip(names, graph.outputs, strict=True)}
    return Ran(outputs, records, live.most)
