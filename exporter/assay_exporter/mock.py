"""Mock values: a counter-based generator over (name, seed, element index).

The arithmetic is docs/program_format.md, "Mock values". The engine has the same in C++; both reproduce
tests/data/mock_vectors.json bit for bit.
"""

import numpy as np

from .proto import program_pb2

_U64 = np.uint64
_MASK = 2**64 - 1
_GOLDEN = 0x9E3779B97F4A7C15
_NORMAL_SCALE = np.float32(2.6428996e-05)


def _mix64(z: np.ndarray) -> np.ndarray:
    z = (z ^ (z >> _U64(30))) * _U64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> _U64(27))) * _U64(0x94D049BB133111EB)
    return z ^ (z >> _U64(31))


def key(name: str, seed: int) -> int:
    h = 0xCBF29CE484222325
    for byte in name.encode():
        h = ((h ^ byte) * 0x100000001B3) & _MASK
    with np.errstate(over="ignore"):
        return int(_mix64(np.array([(h + _GOLDEN * (seed + 1)) & _MASK], dtype=_U64))[0])


def words(name: str, seed: int, count: int) -> np.ndarray:
    """The first `count` 64-bit words of the stream of (name, seed)."""
    with np.errstate(over="ignore"):
        return _mix64(_U64(key(name, seed)) + np.arange(1, count + 1, dtype=_U64) * _U64(_GOLDEN))


def values(rule: program_pb2.MockRule, name: str, seed: int, shape: tuple[int, ...]) -> np.ndarray:
    """Values of every rule but `literal`: float32, float64 (constant, ramp) or int64 (int_range), of `shape`.

    The caller casts to the tensor's dtype.
    """
    count = int(np.prod(shape, dtype=np.int64))
    kind = rule.WhichOneof("kind")
    if kind == "normal":
        lanes = words(name, seed, count).astype("<u8").view("<u2").reshape(-1, 4)
        z = lanes.astype(np.int32).sum(axis=1, dtype=np.int32) - np.int32(131070)
        flat = z.astype(np.float32) * (np.float32(rule.normal.std) * _NORMAL_SCALE)
        if rule.normal.mean != 0:
            flat = flat + np.float32(rule.normal.mean)
    elif kind == "uniform":
        lanes = words(name, seed, (count + 1) // 2).astype("<u8").view("<u4")[:count]
        step = np.float32((float(rule.uniform.high) - float(rule.uniform.low)) * 2.0**-24)
        flat = (lanes >> np.uint32(8)).astype(np.float32) * step + np.float32(rule.uniform.low)
    elif kind == "int_range":
        low, high = rule.int_range.low, rule.int_range.high
        flat = low + (words(name, seed, count) % _U64(high - low)).astype(np.int64)
    elif kind == "ramp":
        last = shape[-1] if shape else 1
        line = rule.ramp.start + rule.ramp.step * np.arange(last, dtype=np.float64)
        flat = np.tile(line, count // last) if count else line[:0]
    elif kind == "constant":
        flat = np.full(count, rule.constant, dtype=np.float64)
    else:
        raise ValueError(f"{name}: a mock rule of kind {kind} has no values of its own")
    return flat.reshape(shape)


def normal(std: float, mean: float = 0.0) -> program_pb2.MockRule:
    return program_pb2.MockRule(normal=program_pb2.MockRule.Normal(std=std, mean=mean))


def uniform(low: float, high: float) -> program_pb2.MockRule:
    return program_pb2.MockRule(uniform=program_pb2.MockRule.Uniform(low=low, high=high))


def int_range(low: int, high: int) -> program_pb2.MockRule:
    return program_pb2.MockRule(int_range=program_pb2.MockRule.IntRange(low=low, high=high))


def constant(value: float) -> program_pb2.MockRule:
    return program_pb2.MockRule(constant=value)


def ramp(start: float, step: float) -> program_pb2.MockRule:
    return program_pb2.MockRule(ramp=program_pb2.MockRule.Ramp(start=start, step=step))
