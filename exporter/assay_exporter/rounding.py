"""How far a right run in a dtype may lie from the golden: docs/tolerances.md, "Legitimate errors".

The model is run in float64, and every floating point number is rounded to the dtype as soon as it is made. What
all devices do alike is done as they do it: weights, constants and inputs are rounded to nearest. What kernels do
differently (the order of a sum, where they round on the way) is drawn: a result is rounded up or down at random,
so that its mean stays (stochastic rounding; Parker 1997, "Monte Carlo arithmetic"; Croci et al. 2022).
"""

import dataclasses
import math

import torch

from . import kernels, replay, tensors
from .checkpoint import run
from .proto import program_pb2

# Significant bits, the exponent of the smallest normal number (as torch.frexp gives it), the largest number.
_FORMATS = {
    torch.float32: (24, -125, torch.finfo(torch.float32).max),
    torch.bfloat16: (8, -125, torch.finfo(torch.bfloat16).max),
    torch.float16: (11, -13, torch.finfo(torch.float16).max),
}
DTYPES = tuple(_FORMATS)
NAMES = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float16: "float16"}
# Random runs a dtype, by the bytes of weights that they are for at most; one to nearest comes on top.
_RUNS = [(64 << 20, 6), (2 << 30, 2)]
# Of a run that makes more floating point numbers (large pictures), random runs would take minutes: none is made.
_MOST_NUMBERS = 30_000_000
# A decision matters where a run that is held to the exact run's decisions lies this much nearer to it.
_MATTERS = 2.0
# In half precision rounding may move an output by so many units of roundoff of its largest number; beyond, little
# of it is left that a fault could show in. The engine refuses a golden that calls more legitimate
# (engine/tolerance.h), and bounds float32's by a bound of its own.
MOST_UNITS = 32
# Floating point results that jump.
_STEPS = {
    "aten::floor", "aten::ceil", "aten::round", "aten::trunc", "aten::sign", "aten::floor_divide",
    "aten::remainder", "aten::fmod", "aten::frac",
}  # fmt: skip
# (values, indices): the values are those at the indices.
_CHOICES = {"aten::topk", "aten::sort", "aten::max", "aten::min", "aten::kthvalue", "aten::mode"}


def unit(dtype: torch.dtype) -> float:
    """The most that one rounding to nearest moves a number, relative to it."""
    return 2.0 ** -_FORMATS[dtype][0]


def nearest(value: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return value.to(dtype).to(torch.float64)


def stochastic(value: torch.Tensor, dtype: torch.dtype, draw: torch.Generator) -> torch.Tensor:
    """Up or down to a number of `dtype`, with the probability that keeps the mean. Range as to nearest."""
    bits, smallest, largest = _FORMATS[dtype]
    # The distance of the dtype's numbers around each value, a power of two, made of the value's own exponent.
    exponent = value.view(torch.int64).bitwise_right_shift(52).bitwise_and_(0x7FF).sub_(1022)
    step = exponent.clamp_(min=smallest).add_(1023 - bits).bitwise_left_shift_(52).view(torch.float64)
    scaled = value / step
    down = scaled.floor()
    up = torch.rand(value.shape, generator=draw, dtype=torch.float64) < scaled - down
    rounded = (down + up) * step
    # Where the dtype ends, rounding at random could leave it; infinities and NaN stay.
    return torch.where(value.abs() < largest, rounded, nearest(value, dtype))


class Exact(run.Double):
    """The float64 run; keeps every decision: what is an integer, a bool or a step."""

    def __init__(self):
        self.decisions: dict[tuple[int, int], torch.Tensor] = {}
        self.numbers = 0  # that a rounded run rounds

    def made(self, index, op, arguments, results):
        results = super().made(index, op, arguments, results)
        for output, value in enumerate(results):
            if _decides(op, value):
                self.decisions[index, output] = value
            if isinstance(value, torch.Tensor) and value.is_floating_point() and op not in run.VIEWS:
                self.numbers += value.numel()
        return results


def _decides(op: str, value) -> bool:
    return isinstance(value, torch.Tensor) and (not value.is_floating_point() or op in _STEPS)


class Rounded(run.Double):
    """A run in `dtype`. `draw`: None rounds to nearest. `held`: the decisions are those of `exact`."""

    def __init__(self, program, dtype: torch.dtype, draw: torch.Generator | None, exact: Exact, held: bool):
        self.program, self.dtype, self.draw, self.exact, self.held = program, dtype, draw, exact, held
        self.largest = _FORMATS[dtype][2]
        self.turned: list[int] = []  # nodes that decide otherwise than in the exact run

    def given(self, value):
        return nearest(value, self.dtype) if _is_float32(value) else value

    def argument(self, value):
        # A literal beyond the range is its end, as in the engine: masks hold float32's lowest number.
        if isinstance(value, float) and math.isfinite(value):
            return min(max(value, -self.largest), self.largest)
        return super().argument(value)

    def made(self, index, op, arguments, results):
        results = super().made(index, op, arguments, results)
        for output, value in enumerate(results):
            if not _decides(op, value):
                continue
            exact = self.exact.decisions[index, output]
            same = (value - exact).abs().max() < 0.5 if value.is_floating_point() and value.numel() else None
            if same is None:
                same = torch.equal(value, exact)
            if same:
                continue
            self.turned.append(index)
            if self.held:
                results[output] = exact
                if output == 1 and op in _CHOICES and "dim" in arguments:
                    results[0] = _at(arguments["self"], arguments["dim"], exact, results[0])
        # What kernels make on the way they make in float32: beside half precision's own rounding it is nothing.
        if self.dtype == torch.float32 and self.draw is not None:
            results[0] = self._computed(index, op, arguments, results[0])
        return [self._round(op, value) for value in results]

    def _computed(self, index: int, op: str, arguments: dict, value):
        """With what a kernel rounds before its result: many roundings, so that they are drawn as one normal number."""
        if not isinstance(value, torch.Tensor) or value.dtype != torch.float64:
            return value
        graph = self.program.graph
        operator = graph.operators[graph.nodes[index].op]
        spread = kernels.variance(op, arguments, value, lambda given: replay.call(operator, given))
        if spread is None:
            return value
        normal = torch.randn(value.shape, generator=self.draw, dtype=torch.float64)
        inner = (kernels.NEAREST * spread).sqrt() * unit(self.dtype) * normal
        # A sum that is a number of the dtype was made of such: of integers, or of one term (a selection).
        inner = torch.where(inner.isfinite() & (nearest(value, self.dtype) != value), inner, 0.0)
        return torch.empty_like(value).copy_(value + inner)  # where views follow, strides matter

    def _round(self, op: str, value):
        if not (isinstance(value, torch.Tensor) and value.is_floating_point()) or op in run.VIEWS:
            return value
        if value.dtype != torch.float64:
            return value  # a model that computes in a dtype of its own choice has rounded already
        if self.draw is None:
            return nearest(value, self.dtype)
        return stochastic(value, self.dtype, self.draw)


def _is_float32(value) -> bool:
    return isinstance(value, torch.Tensor) and value.dtype == torch.float32


def _at(source: torch.Tensor, dim: int, index: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    kept = index.dim() == source.dim()
    found = source.gather(dim, index if kept else index.unsqueeze(dim))
    return (found if kept else found.squeeze(dim)).to(like.dtype)


@dataclasses.dataclass
class Error:
    """The worst of several runs, for one output."""

    max: float = 0.0
    rms: float = 0.0

    def widen(self, most: float, rms: float) -> None:
        self.max, self.rms = max(self.max, most), max(self.rms, rms)

    def finite(self) -> bool:
        return math.isfinite(self.max) and math.isfinite(self.rms)


def _distance(a: torch.Tensor, exact: torch.Tensor) -> tuple[float, float]:
    delta = torch.where(a == exact, torch.zeros_like(exact), a - exact)
    if not bool(delta.isfinite().all()):
        return math.inf, math.inf
    return float(delta.abs().max()), float(delta.square().mean().sqrt())


def _where(program: program_pb2.Program, nodes: set[int]) -> str:
    graph = program.graph
    first = graph.nodes[min(nodes)]
    module = graph.modules[first.module] if graph.modules else ""
    shown = graph.operators[first.op].name + (f" in {module}" if module else "")
    more = len(nodes) - 1
    return shown + (f" and {more} more decision{'s' if more > 1 else ''}" if more else "")


class Study:
    """A program with its weights and inputs, run exactly once and rounded often."""

    def __init__(self, program, weights: dict, inputs: dict):
        self.program, self.weights, self.inputs = program, weights, inputs
        self.exact = Exact()
        self.reference = self._run(self.exact)
        size = sum(tensor.nbytes for tensor in weights.values())
        self.runs = next((runs for most, runs in _RUNS if size <= most), 0)
        if self.exact.numbers > _MOST_NUMBERS:
            self.runs = 0

    def _run(self, numbers) -> dict[str, torch.Tensor]:
        return run.run(self.program, self.weights, self.inputs, numbers=numbers).outputs

    def _rounded(self, dtype, seed: int | None, held: bool) -> tuple[dict[str, torch.Tensor], list[int]]:
        draw = None if seed is None else torch.Generator().manual_seed(seed)
        numbers = Rounded(self.program, dtype, draw, self.exact, held)
        return self._run(numbers), numbers.turned

    def legitimate(
        self, dtype: torch.dtype, golden: dict[str, torch.Tensor]
    ) -> dict[str, program_pb2.LegitimateError]:
        """By output, floating point ones only. `golden` is what eager gave: in float32 it is a right run, too."""
        names = [name for name, tensor in self.reference.items() if tensor.is_floating_point()]
        free = {name: Error() for name in names}
        held = {name: Error() for name in names}
        turned: set[int] = set()
        seeds = [None, *range(1, self.runs + 1)]
        if dtype == torch.float32:
            seeds = seeds[1:]  # the golden comes on top
            for name in names:
                held[name].widen(*_distance(golden[name].double(), self.reference[name]))
                free[name].widen(*_distance(golden[name].double(), self.reference[name]))
        for seed in seeds:
            outputs, other = self._rounded(dtype, seed, held=False)
            kept = self._rounded(dtype, seed, held=True)[0] if other else outputs
            turned.update(other)
            for name in names:
                free[name].widen(*_distance(outputs[name], self.reference[name]))
                held[name].widen(*_distance(kept[name], self.reference[name]))
        return {name: self._verdict(name, dtype, free[name], held[name], turned) for name in names}

    def _verdict(self, name, dtype, free: Error, held: Error, turned: set[int]):
        made = program_pb2.LegitimateError(dtype=tensors.scalar_type(dtype))
        most = MOST_UNITS * unit(dtype) * float(self.reference[name].abs().max())
        if not held.finite() or not free.finite():
            made.not_comparable = f"a number leaves the range of {NAMES[dtype]}"
            return made
        matters = free.max > _MATTERS * held.max or free.rms > _MATTERS * held.rms
        used = held if matters else free
        if dtype != torch.float32 and used.max > most:
            moved = f"moves it by {used.max:.2g}, more than {most:.2g}: it would hide faults"
            made.not_comparable = f"rounding to {NAMES[dtype]} {moved}"
            return made
        made.max, made.rms = used.max, used.rms
        if matters:
            turns = f"turns {_where(self.program, turned)}, which moves it by {free.max:.2g}"
            made.not_comparable = f"rounding to {NAMES[dtype]} {turns}"
        return made


def add(program, weights: dict, inputs: dict, golden: program_pb2.Golden, outputs: dict) -> None:
    """Fills GoldenOutput.legitimate of `golden`, whose outputs are `outputs`, by name and in order."""
    study = Study(program, weights, inputs)
    for dtype in DTYPES:
        found = study.legitimate(dtype, outputs)
        for written, name in zip(golden.outputs, outputs, strict=True):
            if name in found:
                written.legitimate.append(found[name])
