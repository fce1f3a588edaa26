"""What a model's Python reads out of tensors on the way (`if position > 0`), recorded and given back in a trace.

A graph cannot ask. Where every recorded step reads the same, the trace reads it again; whether that holds beyond
the recorded steps is for the comparison of what was written with eager to say.
"""

import torch
from torch.overrides import TorchFunctionMode

_READ = {
    torch.Tensor.__bool__, torch.Tensor.__int__, torch.Tensor.__float__, torch.Tensor.item, torch.Tensor.tolist,
}  # fmt: skip


class Recording(TorchFunctionMode):
    """Keeps what was read, in order."""

    def __init__(self):
        super().__init__()
        self.read: list = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if function in _READ:
            self.read.append(result)
        return result


class Replaying(TorchFunctionMode):
    """Gives back what was recorded."""

    def __init__(self, read: list):
        super().__init__()
        self.left = list(read)

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function in _READ:
            if not self.left:
                raise ValueError("the trace reads more out of tensors than eager did")
            return self.left.pop(0)
        return function(*args, **(kwargs or {}))
