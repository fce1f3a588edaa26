"""The golden of a checkpoint: eager's outputs, how much of them is rounding, a trace, and answers."""

import dataclasses
import hashlib

import torch
import transformers
import zstandard

from .. import golden, rounding, tensors
from ..proto import program_pb2
from .loading import NoGolden
from .verdict import one_line

FORMAT = 1
# Content that readers take (engine/program.h), with some room.
_MOST = 400 << 20


def pack(message: program_pb2.CheckpointGolden) -> bytes:
    """The file's bytes: the same for the same golden."""
    packer = zstandard.ZstdCompressor(level=3, write_checksum=True, write_content_size=True)
    return packer.compress(message.SerializeToString(deterministic=True))


def unpack(data: bytes) -> program_pb2.CheckpointGolden:
    return program_pb2.CheckpointGolden.FromString(zstandard.ZstdDecompressor().decompress(data))


def inputs_only(
    program_file: bytes, inputs: dict[str, torch.Tensor], weights_digest: str
) -> program_pb2.CheckpointGolden:
    """What a run without a golden needs: the inputs by value, of the given program."""
    made = program_pb2.CheckpointGolden(
        format=FORMAT,
        program_digest=hashlib.sha256(program_file).hexdigest(),
        weights_digest=weights_digest,
        torch_version=torch.__version__.partition("+")[0],
        transformers_version=transformers.__version__,
    )
    for name, tensor in inputs.items():
        made.golden.inputs.add(name=name, data=tensors.data(tensor))
    return made


@dataclasses.dataclass
class Rounding:
    """What rounding does to each output, by name; empty where the model cannot run in float64."""

    float64_errors: dict[str, float] = dataclasses.field(default_factory=dict)
    legitimate: dict[str, list[program_pb2.LegitimateError]] = dataclasses.field(default_factory=dict)
    notes: list[str] = dataclasses.field(default_factory=list)


def study(program: program_pb2.Program, weights: dict, inputs: dict, outputs: dict) -> Rounding:
    """How far float32 is from a float64 run, and right runs at every dtype may be."""
    found = Rounding()
    try:
        exact = rounding.Study(program, weights, inputs)
        for name, tensor in outputs.items():
            if tensor.is_floating_point():
                found.float64_errors[name] = float((tensor.double() - exact.reference[name]).abs().max())
        by_dtype = [exact.legitimate(dtype, outputs) for dtype in rounding.DTYPES]
    except (RuntimeError, MemoryError) as error:
        found.notes.append(f"no float64 run: {one_line(error, 200)}")
        return found
    for name in found.float64_errors:
        found.legitimate[name] = [errors[name] for errors in by_dtype]
        found.notes += [
            f"output {name} is not comparable: {error.not_comparable}"
            for error in found.legitimate[name]
            if error.not_comparable
        ]
    return found


def check(outputs: dict[str, torch.Tensor]) -> None:
    """NoGolden where a broken engine could agree with eager."""
    for name, tensor in outputs.items():
        try:
            golden.check_output(name, tensor)
        except golden.UninformativeGolden as error:
            raise NoGolden(f"eager transformers gives nothing to compare with: {error}") from error


def fill(
    made: program_pb2.CheckpointGolden,
    outputs: dict[str, torch.Tensor],
    rounded: Rounding,
    trace: list[program_pb2.NodeTrace],
    answers: list[program_pb2.Answer],
) -> None:
    """Adds what eager gave. NoGolden where it is too much."""
    size = sum(tensor.nbytes for tensor in outputs.values())
    if size > _MOST:
        raise NoGolden(f"its outputs have {size} bytes, a golden may have {_MOST}")
    for name, tensor in outputs.items():
        output = made.golden.outputs.add(tensor=tensors.to_proto(name, tensor))
        if name in rounded.float64_errors:
            output.float64_error = rounded.float64_errors[name]
        output.legitimate.extend(rounded.legitimate.get(name, []))
    made.golden.trace.extend(trace)
    made.golden.cpu_capability = golden.cpu_capability()
    made.answer.extend(answers)
