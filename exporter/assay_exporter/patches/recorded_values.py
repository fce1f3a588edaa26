"""Python values that a model reads out of its tensors, recorded in eager runs and played back while tracing.

Sound only where the values do not depend on the data: `discover` compares the records of runs on several fresh
inputs, and uses a record only where all of them are the same.
"""

import contextlib
from collections.abc import Iterator

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.overrides import TorchFunctionMode

REASON = "reads values out of tensors in Python, which are the same for any input of these shapes"

_T = torch.Tensor
_SCALARS = {
    _T.item, _T.tolist, _T.__bool__, _T.__int__, _T.__float__, _T.__index__, _T.numpy, _T.__contains__, _T.equal,
    torch.equal, torch.allclose, torch.is_nonzero,
}  # fmt: skip
_SIZED_BY_DATA = {
    torch.nonzero, _T.nonzero, torch.argwhere, torch.unique, _T.unique, torch.unique_consecutive,
    _T.unique_consecutive, torch.bincount, _T.bincount,
}  # fmt: skip
_MASKED = {torch.masked_select, _T.masked_select}
_REPEATED = {torch.repeat_interleave, _T.repeat_interleave}
# Operators whose sizes may be given as tensors, by how many arguments stand before the sizes.
_SIZES = {
    torch.arange: 0, torch.full: 0, torch.linspace: 0, torch.zeros: 0, torch.ones: 0, torch.empty: 0,
    _T.new_zeros: 1, _T.new_full: 1, _T.new_ones: 1, torch.nn.functional.pad: 1, torch.nn.functional.interpolate: 1,
    _T.narrow: 1, torch.narrow: 1, _T.split: 1, torch.split: 1, _T.view: 1, _T.reshape: 1, _T.expand: 1, _T.unfold: 1,
    torch.chunk: 1, _T.repeat: 1, _T.new_empty: 1, torch.tile: 1,
}  # fmt: skip


class OutOfStep(RuntimeError):
    """Tracing asks for another value than the recorded run did."""


def _kept(value):
    if isinstance(value, _T):
        return value.detach().clone()
    if isinstance(value, tuple):
        return tuple(_kept(v) for v in value)
    return value


def _given(value):
    """A constant of its own for the trace."""
    if isinstance(value, _T):
        return torch.tensor(value.tolist(), dtype=value.dtype).reshape(value.shape)
    if isinstance(value, tuple):
        return tuple(_given(v) for v in value)
    return value


def same(a: list, b: list) -> bool:
    """Whether two records hold the same values in the same order."""

    def plain(value):
        if isinstance(value, _T):
            return str(value.dtype), tuple(value.shape), value.tolist()
        return [plain(v) for v in value] if isinstance(value, (tuple, list)) else value

    return [(name, repr(plain(v))) for name, v in a] == [(name, repr(plain(v))) for name, v in b]


class Free:
    """A token id in a list that Python searches: any of a range, so that it is no id outside of it."""

    __hash__ = None

    def __init__(self, ids: tuple[int, int]):
        self.low, self.high = ids

    def __eq__(self, other):
        if isinstance(other, int) and not self.low <= other < self.high:
            return False
        raise OutOfStep("Python looks at an id that differs from input to input")


def _merged(values: list, ids: tuple[int, int] | None):
    """What lists of several runs have in common, Free where they differ; None where that is not sound."""
    if ids is None or not all(isinstance(v, list) and len(v) == len(values[0]) for v in values):
        return None
    made = []
    for parts in zip(*values, strict=True):
        if all(isinstance(p, list) for p in parts):
            part = _merged(list(parts), ids)
            if part is None:
                return None
            made.append(part)
        elif all(p == parts[0] for p in parts):
            made.append(parts[0])
        elif all(type(p) is int and ids[0] <= p < ids[1] for p in parts):
            made.append(Free(ids))
        else:
            return None
    return made


def common(logs: list[list], ids: tuple[int, int] | None) -> list | None:
    """The record that holds for all the runs; None where there is none. `ids`: [low, high) of free token ids."""
    if any(len(log) != len(logs[0]) for log in logs):
        return None
    made = []
    for entries in zip(*logs, strict=True):
        if all(same([entries[0]], [entry]) for entry in entries[1:]):
            made.append(entries[0])
            continue
        if any(name != "tolist" for name, _ in entries):
            return None
        value = _merged([value for _, value in entries], ids)
        if value is None:
            return None
        made.append(("tolist", value))
    return made


class _Mode(TorchFunctionMode):
    """Hands every value that Python reads out of a tensor to `value(name, read)`."""

    def value(self, name: str, read):
        raise NotImplementedError

    def _number(self, value):
        if isinstance(value, _T) and value.dim() == 0:
            return self.value("item", value.item)
        if (
            isinstance(value, (list, tuple))
            and not isinstance(value, torch.Size)
            and not hasattr(value, "_fields")
        ):
            return type(value)(self._number(v) for v in value)
        return value

    def _bounds(self, index: slice) -> slice:
        def bound(value):
            return self.value("bound", lambda: int(value)) if isinstance(value, _T) else value

        return slice(bound(index.start), bound(index.stop), bound(index.step))

    def _places(self, mask):
        return self.value("places", lambda: torch.nonzero(mask, as_tuple=True))

    def _index(self, index, reading: bool):
        """The index with recorded values in place of tensors that Python or a shape depends on."""
        made = []
        for part in index if isinstance(index, tuple) else (index,):
            if isinstance(part, slice) and any(isinstance(v, _T) for v in (part.start, part.stop, part.step)):
                made.append(self._bounds(part))
            elif reading and isinstance(part, _T) and part.dtype in (torch.bool, torch.uint8) and part.dim():
                made.extend(self._places(part))
            elif (
                reading
                and isinstance(part, _T)
                and part.dim() == 0
                and part.dtype in (torch.int64, torch.int32)
            ):
                made.append(self.value("item", lambda part=part: int(part)))
            else:
                made.append(part)
        return tuple(made)

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = getattr(function, "__name__", str(function))
        if function in _SCALARS or function in _SIZED_BY_DATA:
            return self.value(name, lambda: function(*args, **kwargs))
        if function is torch.where and len(args) == 1 and not kwargs:
            return self.value(name, lambda: function(*args))
        if function in _MASKED:
            tensor, mask = args[0], args[1] if len(args) > 1 else kwargs["mask"]
            return tensor[tuple(self._places(mask.expand_as(tensor)))]
        if function is _T.__setitem__:
            several = isinstance(args[2], _T) and args[2].dim() > 0
            return function(args[0], self._index(args[1], reading=several), args[2])
        if function is torch.tensor and isinstance(args[0], (list, tuple)) and args[0]:
            if all(isinstance(v, _T) and v.dim() == 0 for v in args[0]):
                return torch.stack(list(args[0])).to(**kwargs)
        if function is _T.__getitem__:
            index = self._index(args[1], reading=True)
            return function(args[0], index if isinstance(args[1], tuple) or len(index) != 1 else index[0])
        if function in _REPEATED:
            return self._repeat(function, args, kwargs)
        if function is torch.nn.functional.one_hot and len(args) < 2 and "num_classes" not in kwargs:
            return function(args[0], self.value("classes", lambda: int(args[0].max()) + 1))
        if function in _SIZES:
            fixed = _SIZES[function]
            numbers = [self._number(v) for v in args[fixed:]]
            return function(*args[:fixed], *numbers, **{k: self._number(v) for k, v in kwargs.items()})
        return function(*args, **kwargs)

    def _repeat(self, function, args, kwargs):
        given = dict(zip(("input", "repeats", "dim"), args, strict=False)) | kwargs
        repeats, tensor, dim = given.get("repeats"), given["input"], given.get("dim")
        if repeats is None:
            return self.value("repeat", lambda: function(*args, **kwargs))
        if not isinstance(repeats, _T):
            return function(*args, **kwargs)
        if dim is None:
            tensor, dim = tensor.reshape(-1), 0
        size = tensor.shape[dim]

        def places():
            each = repeats.expand(size) if repeats.numel() == 1 else repeats
            return torch.repeat_interleave(torch.arange(size), each)

        return tensor.index_select(dim, self.value("repeat", places))


class Record(_Mode):
    def __init__(self, log: list):
        super().__init__()
        self.log = log

    def value(self, name: str, read):
        found = read()
        self.log.append((name, _kept(found)))
        return found


class Play(_Mode):
    def __init__(self, log: list):
        super().__init__()
        self.log, self.next = log, 0

    def value(self, name: str, read):
        # The library spares itself some looks at numbers while it is traced, and goes the way that holds for all.
        while self.next < len(self.log) and self.log[self.next][0] == "__bool__" != name:
            self.next += 1
        if self.next >= len(self.log) or self.log[self.next][0] != name:
            raise OutOfStep(f"tracing asks for '{name}' as value {self.next} of {len(self.log)}")
        self.next += 1
        return _given(self.log[self.next - 1][1])


@contextlib.contextmanager
def whole_lists() -> Iterator[None]:
    """While tracing: a fake tensor's own tolist would hide the call from the mode."""
    before = vars(FakeTensor).get("tolist")
    FakeTensor.tolist = lambda self: _T.tolist(self)
    try:
        yield
    finally:
        if before is None:
            del FakeTensor.tolist
        else:
            FakeTensor.tolist = before
