"""The catalogue in whatever version of transformers this environment has.

Entries, and the patches that they name, are written for the version that requirements.txt pins. In another one a
patch may be needless, or not fit the library's code any more: it is then left out, and said. Whether that was right
is not guessed at: the export is compared with that version's own unpatched eager like any other.
"""

import contextlib
import pathlib
import re

import torch
import transformers

from . import builders, export, patches, weights
from .proto import catalogue_pb2, program_pb2

_REQUIREMENTS = pathlib.Path(__file__).resolve().parents[1] / "requirements.txt"
# What a patch raises on code that it was not written for; replaced() and edited() in patches/__init__.py.
_UNFIT = (KeyError, ValueError, ImportError, AttributeError, RuntimeError)
_EXPERTS = "dense_experts"


def pinned() -> str:
    """The version that the catalogue is written for."""
    found = re.search(r"^transformers==(\S+)$", _REQUIREMENTS.read_text(), re.MULTILINE)
    if not found:
        raise ValueError(f"{_REQUIREMENTS} pins no transformers")
    return found[1]


def is_pinned() -> bool:
    return transformers.__version__ == pinned()


def unfit(names: list[str]) -> dict[str, str]:
    """Patches that cannot be applied to this version's code, and why not."""
    found = {}
    for name in names:
        try:
            with patches.load(name).apply():
                pass
        except _UNFIT as error:
            found[name] = f"{type(error).__name__}: {error}"
    return found


def attempts(entry: catalogue_pb2.CatalogueEntry) -> tuple[list[list[str]], list[str]]:
    """Lists of patches to try in this order, and those that do not fit at all.

    What mends the library's own broken code stays in all of them. What only makes a model exportable may be
    needless here; and experts that this version computes in another way may want the generic patch.
    """
    left_out = list(unfit(list(entry.patch)))
    fitting = [name for name in entry.patch if name not in left_out]
    repairs = [name for name in fitting if patches.repairs(patches.load(name))]
    made: list[list[str]] = []
    for names in (fitting, [*fitting, _EXPERTS], [*repairs, _EXPERTS], repairs):
        once = list(dict.fromkeys(names))
        if once not in made:
            made.append(once)
    return made, left_out


def export_entry(entry: catalogue_pb2.CatalogueEntry) -> tuple[program_pb2.Program, str]:
    """The entry's program in this version, and a note where its patches are not the entry's.

    In the pinned version exactly what the entry says. Elsewhere the error of the first attempt where none serves.
    """
    if is_pinned():
        return export.export(entry), ""
    tries, left_out = attempts(entry)
    first: Exception | None = None
    for names in tries:
        adapted = catalogue_pb2.CatalogueEntry()
        adapted.CopyFrom(entry)
        del adapted.patch[:]
        adapted.patch.extend(names)
        try:
            program = export.export(adapted)
        except Exception as error:  # noqa: BLE001 - whatever a model's code does; the next attempt may serve
            first = first or error
            continue
        with contextlib.ExitStack() as stack:
            for name in names:
                if patches.repairs(patches.load(name)):
                    stack.enter_context(patches.load(name).apply())
            add_checkpoint_names(program, adapted)
        changed = [f"without {name}" for name in entry.patch if name not in names]
        changed += [f"with {name}" for name in names if name not in entry.patch]
        return program, f"(patches: {', '.join(changed)})" if changed else ""
    if left_out:
        first.add_note(f"patches that do not fit {transformers.__version__}: {', '.join(left_out)}")
    raise first


def checkpoint_names(entry: catalogue_pb2.CatalogueEntry) -> dict[str, str]:
    """Weight -> the name that it has in checkpoints, where this version renames it when it loads one.

    transformers 5 keeps its renamings in one table and reverts them when it saves. Which tensor went where is read
    off the values, which mock weights make unique; what it splits or merges is left out.
    """
    try:
        from transformers.core_model_loading import revert_weight_conversion
    except ImportError:
        return {}
    model = builders.build(entry).model
    if not isinstance(model, transformers.PreTrainedModel):
        return {}
    weights.bind_mock(model)
    own = {name: value for name, value in model.state_dict().items() if isinstance(value, torch.Tensor)}
    by_value: dict[bytes, list[str]] = {}
    for name, value in own.items():
        by_value.setdefault(_content(value), []).append(name)
    found = {}
    for name, value in revert_weight_conversion(model, dict(own)).items():
        names = by_value.get(_content(value), [])
        if name not in own and len(names) == 1:
            found[names[0]] = name
    return found


def _content(value: torch.Tensor) -> bytes:
    return f"{value.dtype} {tuple(value.shape)} ".encode() + value.detach().contiguous().numpy().tobytes()


def add_checkpoint_names(program: program_pb2.Program, entry: catalogue_pb2.CatalogueEntry) -> None:
    """Says them in the manifest, beside the names of tied weights, so that a checkpoint of before binds."""
    bound = {spec.name for spec in program.manifest.weights}
    known = {tie.alias for tie in program.manifest.tied} | bound
    for weight, alias in sorted(checkpoint_names(entry).items()):
        if weight in bound and alias not in known:
            program.manifest.tied.add(alias=alias, weight=weight)
