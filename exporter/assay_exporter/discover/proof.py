"""What eager reads in Python while it runs, and what is asked of a graph and a program beside equal numbers."""

import contextlib
import copy
import dataclasses
import re
from collections.abc import Callable, Iterator

import torch
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols

from .. import export as exporting
from .. import wrapper
from ..proto import program_pb2
from .outcome import Failed


def way(subject) -> tuple[list[str], list[Callable]]:
    """Patches and the modes that an export runs in, by what eager reads out of its tensors."""
    from ..patches import dense_experts, recorded_values

    read: set[str] = set()
    for dense in (None, dense_experts.Rows, dense_experts.Groups):
        around = [dense] if dense else []
        try:
            logs = records(subject, around)
        except Exception:  # noqa: BLE001 - it has no experts, and takes the stand-ins of theirs amiss
            if dense is not dense_experts.Groups:
                raise
            break
        names = ["dense_experts"] if dense else []
        ids = next((spec.ids for spec in subject.inputs if spec.ids is not None), None)
        log = recorded_values.common(logs, ids)
        if log is None:
            read |= {name for log in logs for name, _ in log}
        elif log:
            return [*names, "recorded_values"], [lambda log=log: recorded_values.Play(log), *around]
        else:
            return names, around
    shown = ", ".join(sorted(read))
    raise Failed("export", f"reads values in Python that differ from input to input ({shown})")

def records(subject, around: list[Callable]) -> list[list]:
    from ..patches import recorded_values

    logs = []
    with as_if_exporting():
        for sample in subject.samples:
            log: list = []
            with contextlib.ExitStack() as stack:
                stack.enter_context(wrapper.around(lambda log=log: recorded_values.Record(log)))
                for mode in around:
                    stack.enter_context(wrapper.around(mode))
                copy.deepcopy(subject.wrapped)(**sample.arguments)
            logs.append(log)
    return logs


def rounding(failed: Failed) -> bool:
    """Whether a program misses eager by so little that it may be the last bits of a sum: perhaps not at other widths."""
    found = re.search(r"differs from eager by (\S+), allowed (\S+)", failed.cause)
    return bool(found) and float(found[1]) < 4 * float(found[2])


def without_batches(subject: exporting.Subject) -> exporting.Subject:
    given = [dataclasses.replace(spec, batch_dim=None) for spec in subject.inputs]
    samples = [sample for sample in subject.samples if not sample.label.startswith("batch")]
    return dataclasses.replace(subject, inputs=given, samples=samples)


def _draws(node: torch.fx.Node) -> bool:
    """Whether an operator draws at random; attention that drops out nothing does not."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return False
    if torch.Tag.nondeterministic_seeded not in node.target.tags:
        return False
    names = [formal.name for formal in node.target._schema.arguments]
    given = dict(zip(names, node.args, strict=False)) | node.kwargs
    return "dropout_p" not in names or given.get("dropout_p", 0.0) != 0.0


def check_graph(graph: torch.export.ExportedProgram) -> None:
    for node in graph.graph.nodes:
        values = node.meta.get("val")
        for value in values if isinstance(values, (list, tuple)) else [values]:
            if isinstance(value, torch.Tensor) and any(free_unbacked_symbols(size) for size in value.shape):
                raise Failed("equal", f"the shape of {node.name} depends on the data")
        if _draws(node):
            raise Failed("equal", f"the graph draws at random ({node.target})")


def check_reads(program: program_pb2.Program, subject: exporting.Subject) -> None:
    """The program itself, not only eager, moves with every input that moves eager."""
    from .. import replay

    runner = replay.Runner(program)
    first = subject.samples[0]
    exporting.check_influence(
        subject.inputs, first.arguments, first.outputs, lambda **given: list(runner.run(given).values())
    )


@contextlib.contextmanager
def as_if_exporting() -> Iterator[None]:
    """The library asks whether it is being exported, and reads other values where it is."""
    names = [n for n in ("_is_compiling_flag", "_is_exporting_flag") if hasattr(torch.compiler, n)]
    before = {name: getattr(torch.compiler, name) for name in names}
    for name in names:
        setattr(torch.compiler, name, True)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(torch.compiler, name, value)


@contextlib.contextmanager
def unvalidated() -> Iterator[None]:
    """torch's distributions look at the numbers that they are given, in Python, and compute the same without."""
    distribution = torch.distributions.Distribution
    before = distribution._validate_args
    distribution.set_default_validate_args(False)
    try:
        yield
    finally:
        distribution.set_default_validate_args(before)
