"""A fresh export against the program that is committed."""

import pathlib

import numpy as np

from . import export, golden
from .proto import program_pb2

# Between kinds of CPU: rounding of other vector widths, relative to the largest value.
_OTHER_CPU = 1e-4


class Drift(ValueError):
    """The fresh export is not the committed program."""


def _floats(tensor: program_pb2.Tensor) -> np.ndarray | None:
    return np.frombuffer(tensor.data, dtype="<f4") if tensor.dtype == program_pb2.FLOAT else None


def _near(what: str, a: np.ndarray, b: np.ndarray) -> None:
    if a.shape != b.shape or not np.allclose(a, b, rtol=0, atol=_OTHER_CPU * float(np.abs(b).max(initial=0))):
        raise Drift(f"{what} differs beyond what another CPU explains")


def _tensor(what: str, fresh: program_pb2.Tensor, old: program_pb2.Tensor, same_cpu: bool) -> None:
    if fresh == old:
        return
    a, b = _floats(fresh), _floats(old)
    if same_cpu or a is None or b is None or (fresh.name, fresh.shape) != (old.name, old.shape):
        raise Drift(f"{what} {old.name} differs")
    _near(f"{what} {old.name}", a, b)


def compare(path: pathlib.Path, fresh: program_pb2.Program) -> str:
    """A note where they agree; Drift, saying what differs, where not.

    Graph and manifest must be the same bytes on any machine. Goldens and the float constants that torch
    computed must be the same bytes on the same kind of CPU, and near on another.
    """
    if not path.exists():
        raise Drift(f"{path} does not exist")
    old = export.unpack(path.read_bytes())
    if fresh.graph.SerializeToString(deterministic=True) != old.graph.SerializeToString(deterministic=True):
        raise Drift("the graph differs")
    if fresh.manifest.SerializeToString(deterministic=True) != old.manifest.SerializeToString(
        deterministic=True
    ):
        raise Drift("the manifest differs")
    same_cpu = old.golden.cpu_capability == golden.cpu_capability()
    if same_cpu and fresh != old:
        same = [name for name in ("constants", "golden") if getattr(fresh, name) == getattr(old, name)]
        raise Drift(f"only {', '.join(same) or 'graph and manifest'} agree")
    if len(fresh.constants) != len(old.constants) or len(fresh.golden.trace) != len(old.golden.trace):
        raise Drift("another number of constants or trace records")
    for a, b in zip(fresh.constants, old.constants, strict=True):
        _tensor("constant", a, b, same_cpu)
    for a, b in zip(fresh.golden.outputs, old.golden.outputs, strict=True):
        _tensor("golden output", a.tensor, b.tensor, same_cpu)
    for a, b in zip(fresh.golden.trace, old.golden.trace, strict=True):
        if (a.node, a.output, a.numel) != (b.node, b.output, b.numel):
            raise Drift(f"trace of node {b.node} differs")
    return "" if same_cpu else f"(golden is of {old.golden.cpu_capability}, compared within tolerance)"
