"""torch tensors as the messages of program.proto, and back."""

import numpy as np
import torch

from . import mock
from .proto import program_pb2

SCALAR_TYPES = {
    torch.uint8: program_pb2.BYTE,
    torch.int8: program_pb2.CHAR,
    torch.int16: program_pb2.SHORT,
    torch.int32: program_pb2.INT,
    torch.int64: program_pb2.LONG,
    torch.float16: program_pb2.HALF,
    torch.float32: program_pb2.FLOAT,
    torch.float64: program_pb2.DOUBLE,
    torch.bool: program_pb2.BOOL,
    torch.bfloat16: program_pb2.BFLOAT16,
}


def scalar_type(dtype: torch.dtype) -> int:
    if dtype not in SCALAR_TYPES:
        raise ValueError(f"dtype {dtype} has no number in program.proto")
    return SCALAR_TYPES[dtype]


def data(tensor: torch.Tensor) -> bytes:
    """The elements, row-major and little endian."""
    dense = tensor.detach().contiguous()
    return dense.reshape(-1).view(torch.uint8).numpy().tobytes() if dense.numel() else b""


def to_proto(name: str, tensor: torch.Tensor) -> program_pb2.Tensor:
    return program_pb2.Tensor(
        name=name, dtype=scalar_type(tensor.dtype), shape=list(tensor.shape), data=data(tensor)
    )


DTYPES = {number: dtype for dtype, number in SCALAR_TYPES.items()}


def from_proto(tensor: program_pb2.Tensor) -> torch.Tensor:
    if not tensor.data:
        return torch.empty(tuple(tensor.shape), dtype=DTYPES[tensor.dtype])
    return torch.frombuffer(bytearray(tensor.data), dtype=DTYPES[tensor.dtype]).reshape(tuple(tensor.shape))


def from_rule(
    rule: program_pb2.MockRule, name: str, seed: int, shape: tuple[int, ...], dtype: torch.dtype
) -> torch.Tensor:
    if rule.WhichOneof("kind") == "literal":
        return torch.frombuffer(bytearray(rule.literal), dtype=dtype).reshape(shape)
    made = mock.values(rule, name, seed, shape)
    return torch.from_numpy(np.ascontiguousarray(made)).reshape(shape).to(dtype)
