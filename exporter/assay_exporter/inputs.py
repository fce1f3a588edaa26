"""Inputs of each family: names, shapes, and the rule that makes golden and fresh values.

A maker takes the model's configuration and gives the inputs in the order of the exported signature. An input
with a `batch_dim` is made for any batch size; all of them share one symbol in the graph.
"""

import dataclasses
from collections.abc import Callable

import torch

from . import mock, tensors
from .proto import program_pb2

BATCH = 2
SEQUENCE = 8
# Token ids away from the special ids (below) and the placeholder ids (above) of every tiny configuration.
ID_LOW, ID_HIGH = 6, 90


@dataclasses.dataclass
class Input:
    name: str
    shape: tuple[int, ...]  # of the golden
    rule: program_pb2.MockRule
    dtype: torch.dtype = torch.float32
    batch_dim: int | None = 0
    # What stands at fixed places whatever the rule gives, e.g. image placeholders among token ids.
    place: Callable[[torch.Tensor], None] | None = None
    ids: tuple[int, int] | None = None  # [low, high) of free token ids
    moves: bool = True  # a fresh draw of this input alone must change an output

    def make(self, seed: int, batch: int | None = None) -> torch.Tensor:
        shape = list(self.shape)
        if batch is not None and self.batch_dim is not None:
            shape[self.batch_dim] = batch
        tensor = tensors.from_rule(self.rule, self.name, seed, tuple(shape), self.dtype)
        if self.place is not None:
            self.place(tensor)
        return tensor


def ids(name: str = "input_ids", length: int = SEQUENCE, *, low: int = ID_LOW, high: int = ID_HIGH,
        batch: int = BATCH, **more) -> Input:  # fmt: skip
    return Input(name, (batch, length), mock.int_range(low, high), torch.long, ids=(low, high), **more)


def ones(name: str, *shape: int, dtype: torch.dtype = torch.long, **more) -> Input:
    return Input(name, shape, mock.constant(1), dtype, moves=False, **more)


def noise(name: str, *shape: int, **more) -> Input:
    return Input(name, shape, mock.normal(1.0), **more)


def _square(size) -> int:
    return size[0] if isinstance(size, (list, tuple)) else size


MAKERS: dict[str, Callable] = {}


def maker(function: Callable) -> Callable:
    MAKERS[function.__name__] = function
    return function


@maker
def text(config) -> list[Input]:
    return [ids(), ones("attention_mask", BATCH, SEQUENCE)]


@maker
def ids_only(config) -> list[Input]:
    return [ids()]


@maker
def seq2seq(config) -> list[Input]:
    return [*text(config), ids("decoder_input_ids")]


@maker
def image(config) -> list[Input]:
    size = _square(getattr(config, "image_size", None) or 64)
    return [noise("pixel_values", BATCH, getattr(config, "num_channels", 3) or 3, size, size)]
