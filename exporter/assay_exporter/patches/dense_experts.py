"""Every expert on every token; what the router did not choose is added as zero."""

import contextlib

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


@contextlib.contextmanager
def apply():
    with wrapper.around(_Dense):
        yield
