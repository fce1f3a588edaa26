"""models/catalogue/<name>.textproto: what is known of each model."""

import json
import pathlib
from typing import Any

from google.protobuf import text_format

from .proto import catalogue_pb2

ROOT = pathlib.Path(__file__).resolve().parents[2]
CATALOGUE = ROOT / "models" / "catalogue"
PROGRAMS = ROOT / "models" / "programs"


def names() -> list[str]:
    return sorted(path.stem for path in CATALOGUE.glob("*.textproto"))


def load(name: str, folder: pathlib.Path = CATALOGUE) -> catalogue_pb2.CatalogueEntry:
    path = folder / f"{name}.textproto"
    if not path.exists():
        raise ValueError(f"{name}: no catalogue entry {path}")
    entry = text_format.Parse(path.read_text(), catalogue_pb2.CatalogueEntry())
    if entry.name != name:
        raise ValueError(f"{path}: name is '{entry.name}', expected '{name}'")
    return entry


def overrides(entry: catalogue_pb2.CatalogueEntry) -> dict[str, Any]:
    """The entry's config overrides as nested dicts: "vision_config.patch_size" under "vision_config"."""
    nested: dict[str, Any] = {}
    for override in entry.config_override:
        *path, last = override.field.split(".")
        level = nested
        for part in path:
            level = level.setdefault(part, {})
        level[last] = json.loads(override.json)
    return nested


def fixed_batch_reason(entry: catalogue_pb2.CatalogueEntry) -> str:
    """Why no row of this model can be run alone; empty where one can."""
    for absent in entry.not_applicable:
        if absent.check == "batch_invariance":
            return absent.reason
    return ""
