"""Variants of a program: further graphs over the same weights. See docs/variants.md.

`record` runs unpatched eager, before any patch is in force; `add` exports with the patches of the entry and writes
the variants into the program. What a model has none of is written with the reason, what could not be exported
with the cause: never left out in silence.
"""

import dataclasses
from collections.abc import Callable

from ..proto import program_pb2
from . import decoding, generation, sdpa, shapes
from .graph import Missing, NotApplicable, one_line


@dataclasses.dataclass
class Recorded:
    """What eager gave for each variant that takes eager's word, or why there is none."""

    decoding: generation.Recording | Exception
    shapes: shapes.Recording | Exception


def _attempt(work: Callable):
    try:
        return work()
    except Exception as error:  # noqa: BLE001 - library code of 198 models; the cause is written down
        return error


def record(subject) -> Recorded:
    return Recorded(_attempt(lambda: generation.record(subject)), _attempt(lambda: shapes.record(subject)))


def _write(program: program_pb2.Program, name: str, work: Callable) -> None:
    """`work` fills a Variant; whatever it raises is the reason that there is none."""
    variant = program_pb2.Variant(name=name)
    try:
        work(variant)
    except NotApplicable as error:
        variant = program_pb2.Variant(name=name, not_applicable=one_line(error))
    except Exception as error:  # noqa: BLE001 - as above
        cause = one_line(error) if isinstance(error, Missing) else f"{type(error).__name__}: {one_line(error)}"
        variant = program_pb2.Variant(name=name, missing=cause)
    program.variant.append(variant)


def _given(recorded):
    if isinstance(recorded, Exception):
        raise recorded
    return recorded


def add(program: program_pb2.Program, entry, subject, recorded: Recorded) -> None:
    """Writes all four variants into `program`, which is complete but for them; the entry's patches are in force."""
    del program.variant[:]
    _write(program, "sdpa", lambda variant: sdpa.fill(variant, program, entry, subject))
    _write(program, "dynamic_shapes", lambda v: shapes.fill(v, program, subject, _given(recorded.shapes)))
    _write(program, "kv_cache", lambda v: decoding.fill(v, program, subject, _given(recorded.decoding)))
    cache = program.variant[-1]
    _write(program, "generate", lambda v: decoding.fill_generated(v, program, subject, cache, recorded.decoding))


def state(variant: program_pb2.Variant) -> str:
    """In a word: "yes", "batch" (of dynamic shapes, the batch alone), "n/a" or "missing"."""
    if variant.not_applicable:
        return "n/a"
    return "missing" if variant.missing else "batch" if variant.partial else "yes"


def summary(program: program_pb2.Program) -> str:
    return ", ".join(f"{variant.name} {state(variant)}" for variant in program.variant)
