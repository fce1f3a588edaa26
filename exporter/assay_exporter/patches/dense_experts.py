"""Every expert on every token; what the router did not choose is added as zero."""

import contextlib
import itertools

import torch
from torch.overrides import TorchFunctionMode

from .. import wrapper

REASON = "routing picks out each expert's tokens, whose number depends on the input"

_NONZERO = {torch.nonzero, torch.Tensor.nonzero}
_INDEX_ADD = {torch.Tensor.index_add_, torch.Tensor.index_add, torch.index_add}


class _Dense(TorchFunctionMode):
    """For the library's usual loop over experts.

    `where(chosen)` of a 2-D mask gives all its places, and remembers the mask; `index_add(dim, places, values)`
    at such places adds zero where the mask is false. `nonzero` of a 1-D tensor, the experts that were chosen at
    all and are looped over, gives the numbers of all of them.
    """

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function is torch.where and len(args) == 1 and not kwargs and args[0].dim() == 2:
            rows, columns = args[0].shape
            row = torch.arange(rows).repeat_interleave(columns)
            column = torch.arange(columns).repeat(rows)
            row.chosen = column.chosen = args[0].reshape(-1)
            return row, column
        if function in _NONZERO and len(args) == 1 and not kwargs and args[0].dim() == 1:
            return range(args[0].shape[0])
        if function in _INDEX_ADD and len(args) == 4 and hasattr(args[2], "chosen"):
            into, dim, places, values = args
            chosen = places.chosen.to(values.dtype).reshape(-1, *[1] * (values.dim() - 1))
            return function(into, dim, places, values * chosen, **kwargs)
        return function(*args, **kwargs)


class Rows(_Dense):
    """As _Dense, for loops that read the experts' numbers as the rows of a tensor that `nonzero` gives."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function in _NONZERO and len(args) == 1 and not kwargs and args[0].dim() == 1:
            return torch.arange(args[0].shape[0])[:, None]
        return super().__torch_function__(function, types, args, kwargs)


def _rows(tensor: torch.Tensor, start, end) -> torch.Tensor:
    """All rows, of which those from `start` to `end` are meant."""
    made = tensor.view(tensor.shape)
    made.group = (start, end)
    return made


def _meant(group, like: torch.Tensor) -> torch.Tensor:
    rows = torch.arange(like.shape[0])
    return ((rows >= group[0]) & (rows < group[1])).reshape(-1, *[1] * (like.dim() - 1))


class _Counts(list):
    """How many rows each expert has, as tensors."""


class Groups(Rows):
    """As Rows, and for rows that are sorted by expert and cut into one group an expert.

    A group, by `split` at counts that `tolist` gave or by a slice between tensors, is all of the rows with a note of
    which are meant; whatever is computed from it, row by row, is too. `cat` of the groups, or writing one into its
    slice, takes of each the rows that were meant. An expert that has no rows is run like any other.
    """

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        tensor = torch.Tensor
        first = args[0] if args else None
        if isinstance(first, tensor) and not first.is_floating_point():
            if function is tensor.tolist and first.dim() == 1 and first.dtype is torch.int64:
                return _Counts(first.unbind(0))
            # Whether an expert has no rows.
            if function in (tensor.__eq__, tensor.eq, torch.eq) and first.dim() == 0 and type(args[1]) is int:
                if args[1] == 0:
                    return False
        if function in (tensor.split, torch.split) and len(args) > 1 and isinstance(args[1], _Counts):
            ends = list(itertools.accumulate(args[1]))
            return [_rows(first, start, end) for start, end in zip([0, *ends[:-1]], ends, strict=True)]
        if function is tensor.__getitem__ and (bounds := _bounds(args[1])) is not None:
            return _rows(first, *bounds)
        if function is tensor.__setitem__ and (bounds := _bounds(args[1])) is not None:
            whole = torch.where(_meant(bounds, first), args[2], first)
            return function(first, slice(None), whole)
        if (
            function is torch.cat
            and first
            and all(getattr(part, "group", None) is not None for part in first)
        ):
            whole = torch.zeros_like(first[0])
            for part in first:
                whole = torch.where(_meant(part.group, part), part, whole)
            return whole
        made = super().__torch_function__(function, types, args, kwargs)
        groups = [a.group for a in args if isinstance(a, tensor) and getattr(a, "group", None) is not None]
        if groups:
            size = next(
                a for a in args if isinstance(a, tensor) and getattr(a, "group", None) is not None
            ).shape[0]
            for part in made if isinstance(made, (list, tuple)) else [made]:
                if isinstance(part, tensor) and part.dim() and part.shape[0] == size:
                    part.group = groups[0]
        return made


def _bounds(index):
    """Of a slice of rows between tensors; None: it is none."""
    if not isinstance(index, slice) or index.step is not None or index.stop is None:
        return None
    start = 0 if index.start is None else index.start
    return (
        (start, index.stop) if any(isinstance(bound, torch.Tensor) for bound in (start, index.stop)) else None
    )


@contextlib.contextmanager
def apply():
    with wrapper.around(_Dense):
        yield
