"""Changes to library code without which a model cannot be exported, one module each.

A patch module has
  REASON             why, one sentence;
  apply()            a context manager: in force inside, undone at its exit;
  INDEPENDENT_CHECK  only where the library's own code is broken, so that unpatched eager is no reference: what
                     was checked instead. Such a patch is in force before the model is built. All others are
                     applied after unpatched eager has run, and must agree with it.
"""

import contextlib
import importlib
import types
from collections.abc import Iterator


def load(name: str) -> types.ModuleType:
    try:
        return importlib.import_module(f"{__name__}.{name}")
    except ModuleNotFoundError as error:
        if error.name != f"{__name__}.{name}":
            raise
        raise ValueError(f"no patch '{name}' in exporter/assay_exporter/patches/") from error


@contextlib.contextmanager
def replaced(owner, **attributes) -> Iterator[None]:
    """`owner` (a module or class) with `attributes` in place of its own."""
    before = {name: vars(owner)[name] for name in attributes}
    for name, value in attributes.items():
        setattr(owner, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(owner, name, value)


def repairs(patch: types.ModuleType) -> bool:
    """Whether the patch mends code that is broken, rather than code that merely does not export."""
    return hasattr(patch, "INDEPENDENT_CHECK")
