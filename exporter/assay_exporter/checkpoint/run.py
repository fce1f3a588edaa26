"""Runs a program on real weights: in float32 or float64, with a trace, and with values freed after their last
use, so that a model of full size fits where its eager form does."""

import dataclasses

import torch

from .. import golden, replay
from ..golden import VIEWS
from ..proto import program_pb2


class Double:
    """A run in float64 of a program written in float32. Subclasses round, record or replace."""

    def given(self, value):
        """A weight, constant or input each time that it is read: no second copy of the weights is kept."""
        return value.double() if isinstance(value, torch.Tensor) and value.dtype == torch.float32 else value

    def argument(self, value):
        """A leaf of a node's arguments."""
        if isinstance(value, torch.dtype):
            return torch.float64 if value is torch.float32 else value
        return self.given(value)

    def made(self, index: int, op: str, arguments: dict, results: list) -> list:
        """What node `index` gives."""
        return [self.argument(value) for value in results]


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
    numbers: Double | None = None,
    trace: bool = False,
) -> Ran:
    """Outputs by name. `weights` by WeightSpec.name, float32, with the requires_grad of the manifest.

    `numbers`: None runs in float32, as it is written.
    """
    graph = program.graph
    sources = {
        program_pb2.GraphInput.USER_INPUT: inputs,
        program_pb2.GraphInput.WEIGHT: weights,
        program_pb2.GraphInput.CONSTANT: replay.constants(program),
    }
    values: list = [None] * graph.value_count
    for given in graph.inputs:
        values[given.value] = sources[given.kind][given.name]
    live = _Live(values)
    records: list[program_pb2.NodeTrace] = []
    tree_map = torch.utils._pytree.tree_map
    for index, (node, freed) in enumerate(zip(graph.nodes, _last_uses(graph), strict=True)):
        op = graph.operators[node.op]
        arguments = {a.name: replay.argument(a.value, values) for a in node.arguments}
        if numbers is not None:
            arguments = {name: tree_map(numbers.argument, value) for name, value in arguments.items()}
        result = replay.call(op, arguments)
        result = list(result) if isinstance(result, (list, tuple)) else [result]
        if numbers is not None:
            result = numbers.made(index, op.name, arguments, result)
        for output, (number, value) in enumerate(zip(node.outputs, result, strict=True)):
            values[number] = value
            live.add(number, value)
            if trace and op.name not in VIEWS and isinstance(value, torch.Tensor) and value.numel():
                records.append(golden.trace_of(index, output, value))
        for number in freed:
            live.drop(number, values[number])
            values[number] = None
    names = [spec.name for spec in program.manifest.outputs]
    outputs = {name: replay.argument(out, values) for name, out in zip(names, graph.outputs, strict=True)}
    if numbers is not None:
        outputs = {name: numbers.argument(value) for name, value in outputs.items()}
    return Ran(outputs, records, live.most)
