"""How much memory there is, and how much a model of full size takes."""

import math
import pathlib
import resource

import torch

from .. import replay
from ..proto import program_pb2

_PROCESS = 700 << 20  # torch, transformers and the graph


def _number(path: str) -> int | None:
    try:
        text = pathlib.Path(path).read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def available() -> int:
    """Bytes that this process can still take: the machine's, its control group's and its own limits."""
    found = []
    for line in pathlib.Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            found.append(int(line.split()[1]) * 1024)
    limit, used = _number("/sys/fs/cgroup/memory.max"), _number("/sys/fs/cgroup/memory.current")
    if limit is not None and used is not None:
        found.append(max(0, limit - used))
    soft = resource.getrlimit(resource.RLIMIT_AS)[0]
    if soft != resource.RLIM_INFINITY:
        pages = int(pathlib.Path("/proc/self/statm").read_text().split()[0])
        found.append(max(0, soft - pages * resource.getpagesize()))
    return min(found)


def _bytes(spec) -> int:
    return math.prod(spec.shape) * torch.empty(0, dtype=replay.DTYPES[spec.dtype]).element_size()


def of_weights(program: program_pb2.Program) -> int:
    """Bytes of the weights in the dtypes of the program."""
    return sum(_bytes(spec) for spec in program.manifest.weights)


def of_edges(program: program_pb2.Program) -> int:
    """Bytes of inputs, outputs and constants."""
    manifest = program.manifest
    edges = sum(_bytes(spec) for spec in manifest.inputs) + sum(_bytes(spec) for spec in manifest.outputs)
    return edges + sum(len(constant.data) for constant in program.constants)


def of_eager(program: program_pb2.Program, dequantised: bool) -> int:
    """What loading and running eager is expected to take at its most, before it is tried.

    Weights that are dequantised are all there twice for a while.
    """
    times = 2.15 if dequantised else 1.15
    return int(times * of_weights(program)) + 6 * of_edges(program) + _PROCESS


def of_run(program: program_pb2.Program, activations: int | None) -> int:
    """What the native run is expected to take; `activations` as measured, None where it was not run."""
    guess = of_weights(program) // 20 + 4 * of_edges(program)
    return of_weights(program) + of_edges(program) + (guess if activations is None else activations)
