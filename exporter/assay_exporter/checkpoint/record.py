"""The golden of a checkpoint: eager's outputs, how much of them is rounding, a trace, and answers."""

import hashlib

import torch
import transformers
import zstandard

from .. import golden, tensors
from ..proto import program_pb2
from . import run
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


def float64_errors(
    program: program_pb2.Program, weights: dict, inputs: dict, outputs: dict
) -> tuple[dict[str, float], str]:
    """Largest difference from a float64 run by output, or why there is no such run."""
    try:
        exact = run.run(program, weights, inputs, double=True).outputs
    except (RuntimeError, MemoryError) as error:
        return {}, f"no float64 run: {one_line(error, 200)}"
    errors = {}
    for name, tensor in outputs.items():
        if tensor.is_floating_point():
            errors[name] = float((tensor.double() - exact[name].double()).abs().max())
    return errors, ""


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
    errors: dict[str, float],
    trace: list[program_pb2.NodeTrace],
    answers: list[program_pb2.Answer],
) -> None:
    """Adds what eager gave. NoGolden where it is too much."""
    size = sum(tensor.nbytes for tensor in outputs.values())
    if size > _MOST:
        raise NoGolden(f"its outputs have {size} bytes, a golden may have {_MOST}")
    for name, tensor in outputs.items():
        output = made.golden.outputs.add(tensor=tensors.to_proto(name, tensor))
        if name in errors:
            output.float64_error = errors[name]
    made.golden.trace.extend(trace)
    made.golden.cpu_capability = golden.cpu_capability()
    made.answer.extend(answers)
