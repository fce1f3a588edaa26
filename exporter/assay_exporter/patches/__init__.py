"""Changes to library code without which a model cannot be exported, one module each.

A patch module has
  REASON             why, one sentence;
  apply()            a context manager: in force inside, undone at its exit;
  INDEPENDENT_CHECK  only where the library's own code is broken, so that unpatched eager is no reference:
                     what was checked instead. Such a patch is in force before the model is built. All others
                     are applied after unpatched eager has run, and must agree with it.
"""

import contextlib
import importlib
import inspect
import sys
import textwrap
import types
import weakref
from collections.abc import Callable, Iterator


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


def edited(function: Callable, edits: dict[str, str]) -> Callable:
    """`function` compiled anew with parts of its source replaced; its decorators are left out.

    Each part must be there exactly once, so that another version of the library is noticed, not half patched.
    """
    bare = inspect.unwrap(function)
    source = textwrap.dedent(inspect.getsource(bare))
    source = source[source.index("def ") :]
    for old, new in edits.items():
        if source.count(old) != 1:
            raise ValueError(f"{bare.__qualname__} has {source.count(old)} times '{old}': another version?")
        source = source.replace(old, new)
    scope = vars(sys.modules[bare.__module__])
    namespace: dict = {}
    exec(
        compile("from __future__ import annotations\n" + source, f"<patched {bare.__qualname__}>", "exec"),
        scope,
        namespace,
    )
    return namespace[bare.__name__]


def remembered(function: Callable) -> Callable:
    """A method whose result for a module is that of its first call: a constant while tracing.

    For functions of an image grid that is the same in every call, and that read it as Python numbers.
    """
    results = weakref.WeakKeyDictionary()

    def once(self, *arguments):
        if self not in results:
            results[self] = function(self, *arguments)
        return results[self]

    return once


def repairs(patch: types.ModuleType) -> bool:
    """Whether the patch mends code that is broken, rather than code that merely does not export."""
    return hasattr(patch, "INDEPENDENT_CHECK")
