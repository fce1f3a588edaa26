"""torch.export's functional graph as the Graph message, exactly: operators, arguments, value numbers."""

import dataclasses
import operator
import re

import torch

from . import tensors
from .proto import program_pb2

# Hand their input on unchanged in a functional graph.
_SAME_VALUE = {"aten::alias", "aten::lift_fresh_copy", "aten::detach"}

# Scalar functions on symbolic sizes: their name under "sym::" and their arguments' names.
_SYMBOLIC = {
    operator.add: ("add", 2), operator.sub: ("sub", 2), operator.mul: ("mul", 2),
    operator.floordiv: ("floordiv", 2), operator.truediv: ("truediv", 2), operator.mod: ("mod", 2),
    operator.neg: ("neg", 1), operator.eq: ("eq", 2), operator.ne: ("ne", 2), operator.lt: ("lt", 2),
    operator.le: ("le", 2), operator.gt: ("gt", 2), operator.ge: ("ge", 2), torch.sym_max: ("max", 2),
    torch.sym_min: ("min", 2), torch.sym_float: ("float", 1), torch.sym_int: ("int", 1),
    torch.sym_not: ("not", 1),
}  # fmt: skip
_MEMORY_FORMATS = {
    torch.contiguous_format: program_pb2.CONTIGUOUS_FORMAT,
    torch.channels_last: program_pb2.CHANNELS_LAST,
    torch.channels_last_3d: program_pb2.CHANNELS_LAST_3D,
    torch.preserve_format: program_pb2.PRESERVE_FORMAT,
}


class TranscriptionError(ValueError):
    """The graph has something that program.proto has no form for."""


@dataclasses.dataclass
class Transcribed:
    graph: program_pb2.Graph
    nodes: list[torch.fx.Node]  # one per Graph.nodes


def _operator_name(node: torch.fx.Node) -> tuple[str, str]:
    target = node.target
    if isinstance(target, torch._ops.OpOverload):
        overload = target._overloadname
        return target._schema.name, "" if overload == "default" else overload
    if target in _SYMBOLIC:
        return f"sym::{_SYMBOLIC[target][0]}", ""
    if isinstance(target, torch._ops.HigherOrderOperator):
        raise TranscriptionError(f"{node.name}: a sub-graph is left ({target})")
    raise TranscriptionError(f"{node.name}: no form for a call of {target}")


def prune(graph_module: torch.fx.GraphModule) -> None:
    """Drops what no output needs (assertions, dead random numbers) and operators that change nothing.

    Inputs stay. Sound because the graph is functional, which is checked first.
    """
    graph = graph_module.graph
    for node in graph.nodes:
        if isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable:
            raise TranscriptionError(f"{node.name}: {node.target} mutates its arguments")
        if node.op == "get_attr":
            raise TranscriptionError(f"{node.name}: a sub-graph or attribute is left ({node.target})")
    for node in list(graph.nodes):
        if node.op == "call_function" and isinstance(node.target, torch._ops.OpOverload):
            if node.target._schema.name in _SAME_VALUE:
                node.replace_all_uses_with(node.args[0])
    needed: set[torch.fx.Node] = set()
    pending = [node for node in graph.nodes if node.op == "output"]
    while pending:
        node = pending.pop()
        if node not in needed:
            needed.add(node)
            pending.extend(node.all_input_nodes)
    for node in reversed(list(graph.nodes)):
        if node.op != "placeholder" and node not in needed:
            graph.erase_node(node)
    graph_module.recompile()


def module_path(node: torch.fx.Node, root: str) -> str:
    """Path of the innermost module that the node came from, without the wrapper's own name `root`."""
    stack = node.meta.get("nn_module_stack") or {}
    path = list(stack.values())[-1][0] if stack else ""
    path = re.sub(r"@\d+", "", path)  # a module's second call
    # Anything outside the model has a path that torch made up.
    return path.removeprefix(f"{root}.") if path.startswith(f"{root}.") else ""


class _Transcriber:
    def __init__(self, root: str):
        self.root = root
        self.graph = program_pb2.Graph(modules=[""])
        self.numbers: dict[torch.fx.Node, int] = {}
        # Outputs of a node with several: node -> their numbers.
        self.several: dict[torch.fx.Node, list[int]] = {}
        self.operators: dict[tuple[str, str], int] = {}
        self.modules: dict[str, int] = {"": 0}
        self.nodes: list[torch.fx.Node] = []

    def number(self) -> int:
        self.graph.value_count += 1
        return self.graph.value_count - 1

    def value(self, node: torch.fx.Node) -> int:
        if node not in self.numbers:
            raise TranscriptionError(f"{node.name}: used before it is computed, or a list used as a value")
        return self.numbers[node]

    def input(self, node: torch.fx.Node, kind: int, name: str) -> None:
        self.numbers[node] = self.number()
        self.graph.inputs.add(kind=kind, name=name, value=self.numbers[node])

    def operator(self, node: torch.fx.Node) -> int:
        found = _operator_name(node)
        if found not in self.operators:
            self.operators[found] = len(self.operators)
            self.graph.operators.add(name=found[0], overload=found[1])
        return self.operators[found]

    def module(self, node: torch.fx.Node) -> int:
        path = module_path(node, self.root)
        if path not in self.modules:
            self.modules[path] = len(self.modules)
            self.graph.modules.append(path)
        return self.modules[path]

    def node(self, node: torch.fx.Node) -> None:
        if node.target is operator.getitem and node.args[0] in self.several:
            self.numbers[node] = self.several[node.args[0]][node.args[1]]
            return
        made = self.graph.nodes.add(name=node.name, op=self.operator(node), module=self.module(node))
        self.nodes.append(node)
        if isinstance(node.target, torch._ops.OpOverload):
            self.arguments(made, node)
            returns = node.target._schema.returns
            made.list_output = len(returns) == 1 and isinstance(returns[0].type, torch.ListType)
        else:
            name, arity = _SYMBOLIC[node.target]
            if node.kwargs or len(node.args) != arity:
                raise TranscriptionError(f"{node.name}: sym::{name} takes {arity} arguments")
            for argument_name, value in zip("ab"[:arity], node.args, strict=True):
                made.arguments.add(name=argument_name, value=self.argument(node, argument_name, value))
        meta = node.meta["val"]
        if isinstance(meta, (tuple, list)):
            numbers = [self.number() for _ in meta]
            self.several[node] = numbers
        else:
            numbers = [self.number()]
            self.numbers[node] = numbers[0]
        made.outputs.extend(numbers)

    def arguments(self, made: program_pb2.Node, node: torch.fx.Node) -> None:
        schema = node.target._schema
        for position, formal in enumerate(schema.arguments):
            if position < len(node.args):
                value = node.args[position]
            elif formal.name in node.kwargs:
                value = node.kwargs[formal.name]
            else:
                continue
            # type() as well, for 1 == 1.0 == True.
            default = formal.default_value
            if formal.has_default_value() and type(value) is type(default) and not _has_node(value):
                if value == default:
                    continue
            made.arguments.add(
                name=formal.name, value=self.argument(node, formal.name, value, str(formal.type))
            )

    def argument(self, node, name: str, value, formal: str = "") -> program_pb2.Argument:
        """`formal` is the schema's type, e.g. "List[int]" or "float": it decides lists and numbers."""
        made = program_pb2.Argument()
        bare = re.sub(r"^Optional\[(.*)\]$", r"\1", formal)
        if value is None:
            made.none = True
        elif isinstance(value, torch.fx.Node):
            made.value = self.value(value)
        elif isinstance(value, bool):
            made.boolean = value
        elif isinstance(value, torch.dtype):
            made.scalar_type = tensors.scalar_type(value)
        elif isinstance(value, (int, float)):
            if isinstance(value, float) or bare == "float":
                made.real = float(value)
            else:
                made.integer = value
        elif isinstance(value, str):
            made.text = value
        elif isinstance(value, torch.device):
            made.device.type = value.type
            made.device.index = value.index or 0
        elif isinstance(value, torch.memory_format):
            made.memory_format = _MEMORY_FORMATS[value]
        elif value is torch.strided:
            made.layout = program_pb2.STRIDED
        elif isinstance(value, (list, tuple)):
            self.list_argument(made, node, name, list(value), bare)
        else:
            raise TranscriptionError(f"{node.name}: argument {name} is a {type(value).__name__}: {value}")
        return made

    def list_argument(self, made, node, name: str, items: list, formal: str) -> None:
        if formal.startswith("List[Optional[Tensor]]"):
            plus_one = [0 if item is None else self.value(item) + 1 for item in items]
            made.optional_values.SetInParent()
            made.optional_values.values_plus_one.extend(plus_one)
        elif formal.startswith("List[Tensor]"):
            made.values.SetInParent()
            made.values.values.extend(self.value(item) for item in items)
        elif formal.startswith("List[float]"):
            made.floats.SetInParent()
            made.floats.values.extend(float(item) for item in items)
        elif formal.startswith("List[bool]"):
            made.bools.SetInParent()
            made.bools.values.extend(items)
        elif formal.startswith(("List[int]", "List[SymInt]")):
            if any(isinstance(item, torch.fx.Node) for item in items):
                made.sym_ints.SetInParent()
                for item in items:
                    if isinstance(item, torch.fx.Node):
                        made.sym_ints.values.add(value=self.value(item))
                    else:
                        made.sym_ints.values.add(literal=item)
            else:
                made.ints.SetInParent()
                made.ints.values.extend(items)
        else:
            raise TranscriptionError(f"{node.name}: argument {name} is a list of type {formal}")


def _has_node(value) -> bool:
    if isinstance(value, (list, tuple)):
        return any(_has_node(item) for item in value)
    return isinstance(value, torch.fx.Node)


def transcribe(
    graph_module: torch.fx.GraphModule, inputs: dict[str, tuple[int, str]], root: str
) -> Transcribed:
    """The Graph of a pruned graph.

    `inputs` gives each placeholder's kind and name; one that it lacks must be unused, and is left out.
    `root` is the wrapper's attribute that holds the model: it is cut off module paths.
    """
    work = _Transcriber(root)
    for node in graph_module.graph.nodes:
        if node.op == "placeholder":
            if node.name in inputs:
                work.input(node, *inputs[node.name])
            elif node.users:
                raise TranscriptionError(f"{node.name}: an input of no known kind")
        elif node.op == "call_function":
            work.node(node)
        elif node.op == "output":
            for result in node.args[0]:
                work.graph.outputs.append(work.argument(node, "output", result))
        else:
            raise TranscriptionError(f"{node.name}: a sub-graph or attribute is left ({node.op})")
    return Transcribed(work.graph, work.nodes)
