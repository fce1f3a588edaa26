"""Tensors inside nested values: caches, model outputs, tuples of tuples; taken out, and put into a copy."""

from collections.abc import Callable
from typing import Any

import torch
from transformers import PretrainedConfig
from transformers.utils import ModelOutput

Path = tuple[str, ...]


def _own(value) -> bool:
    module = type(value).__module__
    return module.startswith("transformers.") and not isinstance(value, (torch.nn.Module, PretrainedConfig, type))


def copied(value: Any, see: Callable[[Path, Any], Any], path: Path = ()) -> Any:
    """A copy of the structure in which every tensor and every int is what `see(path, value)` gives."""
    if isinstance(value, torch.Tensor) or (isinstance(value, int) and not isinstance(value, bool)):
        return see(path, value)
    if isinstance(value, ModelOutput):
        return type(value)(**{key: copied(item, see, (*path, key)) for key, item in value.items()})
    if type(value) in (list, tuple):
        return type(value)(copied(item, see, (*path, str(i))) for i, item in enumerate(value))
    if isinstance(value, dict):
        made = {key: copied(item, see, (*path, str(key))) for key, item in value.items()}
        return made if type(value) is dict else type(value)(made)
    if _own(value) and hasattr(value, "__dict__"):
        made = object.__new__(type(value))
        for key, item in vars(value).items():
            made.__dict__[key] = copied(item, see, (*path, key))
        return made
    return value


def snapshot(value: Any) -> Any:
    """A copy with tensors of its own, to keep what later calls change in place."""
    return copied(value, lambda path, item: item.detach().clone() if isinstance(item, torch.Tensor) else item)


def leaves(value: Any, kind: type) -> dict[Path, Any]:
    """Tensors (kind torch.Tensor) or ints (kind int) by path."""
    found: dict[Path, Any] = {}

    def see(path, item):
        if isinstance(item, kind):
            found[path] = item
        return item

    copied(value, see)
    return found
