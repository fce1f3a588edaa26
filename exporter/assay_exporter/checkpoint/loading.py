"""A checkpoint's weights in eager transformers, in float32, and what did not come from the checkpoint."""

import contextlib
import dataclasses
import json
import pathlib
import pickle
import re
import zipfile

import torch
from safetensors.torch import save_file

from .. import builders
from .architecture import Architecture
from .verdict import Refused, Unsupported, one_line

CONVERTED = "weights.safetensors"


class NoGolden(Exception):
    """Eager cannot vouch for this checkpoint; the text says why."""


@dataclasses.dataclass
class Loaded:
    model: torch.nn.Module
    weights: dict[str, torch.Tensor]  # by every name, tied ones too


def stored_bytes(folder: pathlib.Path) -> int:
    """Of the files that hold weights."""
    kinds = ("*.safetensors", "*.gguf", "pytorch_model*.bin")
    return sum(path.stat().st_size for kind in kinds for path in folder.glob(kind))


def pickles(folder: pathlib.Path) -> list[pathlib.Path]:
    """The pickled files that hold the weights where nothing better does; empty: there is something better."""
    if list(folder.glob("*.safetensors")) or list(folder.glob("*.gguf")):
        return []
    index = folder / "pytorch_model.bin.index.json"
    if index.exists():
        try:
            names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise Refused(f"{index.name}: {one_line(error)}") from error
        for name in names:
            if not isinstance(name, str) or not re.fullmatch(r"[\w.-]+\.bin", name):
                raise Refused(f"{index.name}: '{name}' is no name of a file beside it")
        return [folder / name for name in names]
    return [folder / "pytorch_model.bin"] if (folder / "pytorch_model.bin").exists() else []


def convert(paths: list[pathlib.Path], out: pathlib.Path) -> None:
    """Pickled state dicts as one safetensors file, under the same names; nothing but tensors is ever read."""
    tensors: dict[str, torch.Tensor] = {}
    for path in paths:
        try:
            held = torch.load(path, map_location="cpu", weights_only=True)
        except (
            OSError,
            EOFError,
            RuntimeError,
            ValueError,
            pickle.UnpicklingError,
            zipfile.BadZipFile,
        ) as error:
            raise Refused(f"{path.name}: no state dict that weights_only reads: {one_line(error)}") from error
        if not isinstance(held, dict):
            raise Refused(f"{path.name}: holds a {type(held).__name__}, not a state dict")
        for name, value in held.items():
            if not isinstance(name, str) or not isinstance(value, torch.Tensor):
                raise Refused(f"{path.name}: '{name}' is a {type(value).__name__}, not a tensor")
            if name in tensors:
                raise Refused(f"{path.name}: '{name}' is in another file too")
            # A copy: tensors that share storage would be refused.
            tensors[name] = value.detach().clone(memory_format=torch.contiguous_format)
    save_file({name: tensors[name] for name in sorted(tensors)}, out, metadata={"format": "pt"})


@contextlib.contextmanager
def as_folder(folder: pathlib.Path, weights: pathlib.Path, place: pathlib.Path):
    """`folder` with `weights` as its model.safetensors, made of links in `place`."""
    place.mkdir()
    made = [place / "model.safetensors"]
    made[0].symlink_to(weights.resolve())
    for path in folder.iterdir():
        if path.is_file() and path.suffix not in (".bin", ".safetensors"):
            made.append(place / path.name)
            made[-1].symlink_to(path.resolve())
    try:
        yield place
    finally:
        for link in made:
            link.unlink()
        place.rmdir()


def _shown(names) -> str:
    names = sorted(str(name) for name in names)
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def load(arch: Architecture, folder: pathlib.Path) -> Loaded:
    """NoGolden where transformers cannot load it, or would fill in values of its own."""
    config = arch.config
    builders.configure(config)
    more = {"gguf_file": arch.gguf} if arch.gguf else {"config": config, "use_safetensors": True}
    try:
        model, report = arch.model_class.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager", local_files_only=True,
            output_loading_info=True, **more,
        )  # fmt: skip
    except MemoryError:
        raise
    except Exception as error:
        raise NoGolden(f"transformers cannot load the weights: {one_line(error)}") from error
    if report["missing_keys"]:
        raise NoGolden(
            f"the checkpoint lacks {len(report['missing_keys'])} weights that transformers would fill at "
            f"random: {_shown(report['missing_keys'])}"
        )
    if report["mismatched_keys"]:
        names = [key[0] if isinstance(key, tuple) else key for key in report["mismatched_keys"]]
        raise NoGolden(f"{len(names)} weights have another shape than the model's: {_shown(names)}")
    if report.get("error_msgs"):
        raise NoGolden(f"transformers reports: {one_line(ValueError('; '.join(report['error_msgs'])))}")
    builders.configure(model.config)
    model.eval()
    return Loaded(model, held_by(model))


def held_by(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Parameters and persistent buffers by name."""
    return {k: v for k, v in model.state_dict(keep_vars=True).items() if isinstance(v, torch.Tensor)}


def seeded(arch: Architecture) -> Loaded:
    """The same class with mock weights, where a checkpoint's cannot be loaded."""
    from .. import weights

    builders.configure(arch.config)
    torch.manual_seed(0)
    try:
        model = arch.model_class(arch.config).eval()
        weights.bind_mock(model)
    except ValueError as error:
        raise Unsupported(f"{arch.name} cannot be filled with mock weights: {one_line(error)}") from error
    return Loaded(model, held_by(model))
