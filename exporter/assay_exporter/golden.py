"""What a run is compared with: outputs, rounding, a trace of operators; and whether they tell anything."""

import numpy as np
import torch

from . import tensors
from .proto import program_pb2

# Views hold no numbers of their own.
VIEWS = {
    "aten::view", "aten::_unsafe_view", "aten::reshape", "aten::transpose", "aten::permute", "aten::expand",
    "aten::unsqueeze", "aten::squeeze", "aten::slice", "aten::select", "aten::split",
    "aten::split_with_sizes",
    "aten::chunk", "aten::unbind", "aten::t", "aten::detach", "aten::diagonal", "aten::unfold",
}  # fmt: skip
_LEAST, _MOST = 1e-3, 1e3


class UninformativeGolden(ValueError):
    """Numbers that a broken engine could agree with: refused."""


class Recorder(torch.fx.Interpreter):
    """Runs a graph and keeps what every node gives."""

    def __init__(self, graph_module: torch.fx.GraphModule):
        super().__init__(graph_module, garbage_collect_values=False)
        self.results: dict[torch.fx.Node, object] = {}

    def run_node(self, node):
        self.results[node] = super().run_node(node)
        return self.results[node]


class Doubled(torch.fx.Interpreter):
    """Runs a float32 graph in float64: inputs, constants and every float32 literal of the graph."""

    @staticmethod
    def _double(value):
        if isinstance(value, torch.Tensor) and value.dtype == torch.float32:
            return value.double()
        return torch.float64 if value is torch.float32 else value

    def run(self, *arguments):
        return super().run(*[self._double(value) for value in arguments])

    def call_function(self, target, args, kwargs):
        args = torch.utils._pytree.tree_map(self._double, args)
        kwargs = torch.utils._pytree.tree_map(self._double, kwargs)
        return torch.utils._pytree.tree_map(self._double, super().call_function(target, args, kwargs))


def samples(flat: np.ndarray) -> list[float]:
    """Elements at floor((2k+1) * numel / (2n)), k = 0..n-1, n = min(4, numel)."""
    n = min(4, flat.size)
    return [float(flat[(2 * k + 1) * flat.size // (2 * n)]) for k in range(n)]


def trace_of(index: int, output: int, tensor: torch.Tensor) -> program_pb2.NodeTrace:
    """The record of one tensor: output `output` of node `index` of Graph.nodes."""
    flat = tensor.detach().contiguous().reshape(-1).to(torch.float64).numpy()
    return program_pb2.NodeTrace(
        node=index, output=output, numel=flat.size, mean=np.float32(flat.mean()),
        abs_max=np.float32(np.abs(flat).max()), samples=samples(flat),
    )  # fmt: skip


def trace(nodes: list[torch.fx.Node], results: dict) -> list[program_pb2.NodeTrace]:
    """One record per tensor that a node computed; `nodes` are those of Graph.nodes."""
    records = []
    for index, node in enumerate(nodes):
        if isinstance(node.target, torch._ops.OpOverload) and node.target._schema.name in VIEWS:
            continue
        result = results[node]
        for output, tensor in enumerate(result if isinstance(result, (list, tuple)) else [result]):
            if isinstance(tensor, torch.Tensor) and tensor.numel():
                records.append(trace_of(index, output, tensor))
    return records


def check_output(name: str, tensor: torch.Tensor) -> None:
    if not tensor.is_floating_point():
        return
    if not bool(torch.isfinite(tensor).all()):
        raise UninformativeGolden(f"output {name} has NaN or infinite values")
    if tensor.numel() < 2 or bool((tensor == tensor.reshape(-1)[0]).all()):
        raise UninformativeGolden(f"output {name} is constant")


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    """Largest absolute difference; infinite where shapes or dtypes differ or only one is NaN."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return float("inf")
    if not a.numel():
        return 0.0
    delta = (a.double() - b.double()).abs()
    delta = torch.where((a == b) | (a.isnan() & b.isnan()), torch.zeros_like(delta), delta)
    return float("inf") if bool(delta.isnan().any()) else float(delta.max())


class SignalWatch:
    """Watches a model's modules during an eager run: outputs must be neither dead nor huge."""

    def __init__(self, model: torch.nn.Module):
        self.found: dict[str, float] = {}
        self.hooks = [
            module.register_forward_hook(self._hook(name)) for name, module in model.named_modules() if name
        ]

    def _hook(self, name: str):
        def record(module, arguments, output):
            first = output[0] if isinstance(output, tuple) and output else output
            if isinstance(first, torch.Tensor) and first.is_floating_point() and first.numel() > 1:
                largest = float(first.abs().max())
                self.found[name] = max(largest, self.found.get(name, 0.0))

        return record

    def close(self) -> None:
        for hook in self.hooks:
            hook.remove()

    def check(self) -> None:
        outside = {name: v for name, v in self.found.items() if not _LEAST <= v <= _MOST}
        if outside:
            shown = ", ".join(f"{name} {v:.3g}" for name, v in list(outside.items())[:8])
            raise UninformativeGolden(
                f"signals leave [{_LEAST:g}, {_MOST:g}] in {len(outside)} modules "
                f"(largest value each): {shown}"
            )


def cpu_capability() -> str:
    return torch.backends.cpu.get_cpu_capability()


def outputs(names: list[str], eager: list[torch.Tensor], double: list[torch.Tensor]):
    """GoldenOutputs of an eager float32 run, with its distance from the float64 run."""
    made = []
    for name, tensor, exact in zip(names, eager, double, strict=True):
        check_output(name, tensor)
        golden = program_pb2.GoldenOutput(tensor=tensors.to_proto(name, tensor))
        if tensor.is_floating_point():
            golden.float64_error = float((tensor.double() - exact.double()).abs().max())
        made.append(golden)
    return made
