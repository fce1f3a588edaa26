"""python -m assay_exporter.synthetic --models N | NAME… --to DIR [--max-bytes BYTES] | --list

Writes checkpoints of full size with random weights: medium-priority models of models/registry.json in the library's
default configuration, as save_pretrained writes them, below DIR/assay-synthetic/<name>, and DIR/batch.json over them.
Every file's metadata has "assay.weights": "synthetic": such a checkpoint passes the same way as a trained one and never
counts as one. Where a model's weights would be larger than --max-bytes, its depth is halved until they fit.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import shutil
import sys
import time
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"  # read when transformers is imported

import torch
import transformers
import transformers.modeling_utils
from transformers.models.auto import configuration_auto, modeling_auto

from . import builders, catalogue

OWNER = "assay-synthetic"
SEED = 20261122
# What a run holds besides the weights themselves (eager's copy, activations) is about as much again: 8 GiB in all.
MAX_BYTES = 3 << 30
# Smaller than the library's 5 GB, so that checkpoints in shards are among those that run here.
SHARD = "1GB"
METADATA = {"assay.weights": "synthetic"}

_MAPPINGS = {
    "fill-mask": modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    "text-generation": modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    "text2text-generation": modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    "translation": modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    "summarization": modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    "image-classification": modeling_auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES,
    "image-segmentation": modeling_auto.MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES,
    "object-detection": modeling_auto.MODEL_FOR_OBJECT_DETECTION_MAPPING_NAMES,
    "depth-estimation": modeling_auto.MODEL_FOR_DEPTH_ESTIMATION_MAPPING_NAMES,
    "automatic-speech-recognition": modeling_auto.MODEL_FOR_CTC_MAPPING_NAMES,
}
_DEPTHS = (
    "num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_decoder_layers", "encoder_layers", "decoder_layers",
    "num_encoder_layers",
)  # fmt: skip


def _resnet() -> transformers.ResNetConfig:
    return transformers.ResNetConfig(out_features=["stage4"])


# What the library's defaults leave open, as the models' own checkpoints have it.
_SETTINGS: dict[str, Any] = {
    "conditional_detr": lambda: {"use_timm_backbone": False, "use_pretrained_backbone": False,
                                 "backbone": None, "backbone_config": _resnet()},
    "detr": lambda: {"use_timm_backbone": False, "use_pretrained_backbone": False,
                     "backbone": None, "backbone_config": _resnet()},
    "esm": lambda: {"vocab_size": 33, "mask_token_id": 32, "pad_token_id": 1, "hidden_size": 320,
                    "num_attention_heads": 20, "num_hidden_layers": 6, "intermediate_size": 1280,
                    "position_embedding_type": "rotary", "token_dropout": True},
    "xmod": lambda: {"default_language": "en_XX", "languages": ["en_XX"]},
}  # fmt: skip


# Where the library's own initialisation lets the signal die on its way (to 1e-40 and the like, which says nothing of
# a program): matrices and kernels are drawn for their fan-in instead.
_FAN_IN = {"mobilevit"}


# Small, and yet last when the smallest are asked for: inputs of full size that take minutes a run (efficientnet,
# imagegpt), constants beyond a program's limit (nezha), outputs that no program is made for (mask2former).
_LAST = {"efficientnet", "imagegpt", "mask2former", "nezha"}


class SyntheticError(ValueError):
    """The model cannot be made."""


@dataclasses.dataclass
class Kind:
    """One model: its class, and what a batch says of it."""

    name: str
    model_class: str
    config_class: str
    arch_type: str
    template: str
    task: str


def _class_of(model_type: str, task: str) -> str:
    named = _MAPPINGS.get(task, {}).get(model_type) or modeling_auto.MODEL_MAPPING_NAMES.get(model_type)
    if named is None:
        raise SyntheticError(f"no class for model type '{model_type}'")
    return named[0] if isinstance(named, tuple) else named


def kinds() -> dict[str, Kind]:
    """Every medium-priority model whose class the library has, by name."""
    registry = json.loads((catalogue.ROOT / "models" / "registry.json").read_text())["models"]
    defaults = json.loads((catalogue.ROOT / "models" / "batches" / "default_checkpoints.json").read_text())
    said = {entry["name"]: entry for group in defaults.values() for entry in group}
    known = set(catalogue.names())
    found = {}
    for model in registry:
        name = model["name"]
        if model["priority"] != "medium":
            continue
        if name in known:
            entry = catalogue.load(name)
            if not entry.model_class.startswith("transformers."):
                continue
            model_class, config_class = entry.model_class, entry.config_class
            found[name] = Kind(name, model_class, config_class, entry.arch_type, entry.template, entry.task)
            continue
        model_type = name if name in configuration_auto.CONFIG_MAPPING_NAMES else name.replace("_", "-")
        config_class = configuration_auto.CONFIG_MAPPING_NAMES[model_type]
        entry = said[name]
        found[name] = Kind(
            name,
            f"transformers.{_class_of(model_type, entry['task'])}",
            f"transformers.{config_class}",
            model["arch_type"],
            entry["template"],
            entry["task"],
        )
    return found


def _of_library(path: str):  # also of its deprecated models, which are not in its root
    return builders.resolve(path)


def _build(kind: Kind, settings: dict) -> torch.nn.Module:
    return _of_library(kind.model_class)(_of_library(kind.config_class)(**settings)).eval()


@torch.no_grad()
def _draw_for_fan_in(model: torch.nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, (torch.nn.Linear, torch.nn.Conv2d)):
            module.weight.normal_(std=(2 / module.weight[0].numel()) ** 0.5)


def _bytes(model: torch.nn.Module) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in model.parameters())


def _halved(kind: Kind, settings: dict) -> dict:
    """The settings with half the depth; SyntheticError where there is none left to halve."""
    config = _of_library(kind.config_class)(**settings)
    shallower = dict(settings)
    for name in _DEPTHS:
        depth = getattr(config, name, None)
        if type(depth) is int and depth >= 4 and name not in config.attribute_map:
            shallower[name] = depth // 2
    if shallower == settings:
        raise SyntheticError("too large, and its depth cannot be halved")
    return shallower


def plan(kind: Kind, max_bytes: int) -> tuple[dict, int, bool]:
    """Settings, bytes of the weights and whether the depth is the default's. No memory is taken."""
    settings = _SETTINGS.get(kind.name, dict)()
    full = True
    while True:
        try:
            with torch.device("meta"):
                size = _bytes(_build(kind, settings))
        except SyntheticError:
            raise
        except Exception as error:  # whatever the library's constructors raise
            text = " ".join(str(error).split())[:200]
            raise SyntheticError(f"the default configuration does not build: {text}") from error
        if size <= max_bytes:
            return settings, size, full
        settings, full = _halved(kind, settings), False


def make(kind: Kind, folder: pathlib.Path, max_bytes: int = MAX_BYTES) -> dict:
    """Writes the checkpoint; returns what it says of itself in assay-synthetic.json."""
    settings, size, full = plan(kind, max_bytes)
    torch.manual_seed(SEED)
    model = _build(kind, settings)
    if kind.name in _FAN_IN:
        _draw_for_fan_in(model)
    shutil.rmtree(folder, ignore_errors=True)
    write = transformers.modeling_utils.safe_save_file

    def marked(tensors, path, metadata=None):
        write(tensors, path, metadata={**(metadata or {}), **METADATA})

    transformers.modeling_utils.safe_save_file = marked
    try:
        model.save_pretrained(folder, max_shard_size=SHARD)
    finally:
        transformers.modeling_utils.safe_save_file = write
    for path in folder.iterdir():
        path.chmod(0o644)
    told = {
        "model": kind.name,
        "model_class": kind.model_class,
        "parameters": sum(p.numel() for p in model.parameters()),
        "bytes": size,
        "full_depth": full,
        "seed": SEED,
        "transformers": transformers.__version__,
    }
    (folder / "assay-synthetic.json").write_text(json.dumps(told, indent=2) + "\n")
    return told


def batch(chosen: list[Kind]) -> dict:
    """A batch file over the checkpoints."""
    groups: dict[str, list] = {}
    for kind in chosen:
        groups.setdefault(kind.arch_type, []).append(
            {
                "name": kind.name,
                "template": kind.template,
                "task": kind.task,
                "checkpoint": f"{OWNER}/{kind.name}",
            }
        )
    return groups


def by_size(known: dict[str, Kind], max_bytes: int) -> tuple[list[tuple[Kind, int, bool]], dict[str, str]]:
    """What can be made: those of full depth first, by the size of their weights; and why the others cannot."""
    made, failed = [], {}
    for kind in known.values():
        try:
            _, size, full = plan(kind, max_bytes)
            made.append((kind, size, full))
        except SyntheticError as error:
            failed[kind.name] = str(error)
    order = sorted(made, key=lambda one: (one[0].name in _LAST, not one[2], one[1], one[0].name))
    return order, failed


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m assay_exporter.synthetic", description=__doc__)
    parser.add_argument("--models", nargs="+", metavar="N | NAME", help="the N smallest, or these")
    parser.add_argument("--to", type=pathlib.Path, metavar="DIR")
    parser.add_argument(
        "--max-bytes", type=int, default=MAX_BYTES, metavar="BYTES", help="of a model's weights"
    )
    parser.add_argument(
        "--list", action="store_true", help="names, bytes and depth, smallest first; write nothing"
    )
    options = parser.parse_args(argv)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    known = kinds()
    if options.list:
        ordered, failed = by_size(known, options.max_bytes)
        for kind, size, full in ordered:
            print(f"{kind.name} {size} {'full' if full else 'reduced'}")
        for name, why in failed.items():
            print(f"{name}: {why}", file=sys.stderr)
        return 0
    if not options.models or options.to is None:
        parser.error("give --models and --to, or --list")
    names = options.models
    if len(names) == 1 and names[0].isdigit():
        ordered, _ = by_size(known, options.max_bytes)
        names = [kind.name for kind, _, _ in ordered[: int(names[0])]]
    unknown = [name for name in names if name not in known]
    if unknown:
        parser.error(f"no medium-priority model of transformers: {' '.join(unknown)}")
    made, failed = [], []
    for name in names:
        start = time.monotonic()
        try:
            told = make(known[name], options.to / OWNER / name, options.max_bytes)
        except SyntheticError as error:
            failed.append(name)
            print(f"FAIL {name}: {error}", file=sys.stderr, flush=True)
            continue
        made.append(known[name])
        print(
            f"made {name}: {told['model_class']}, {told['parameters'] / 1e6:.1f} M parameters"
            f"{'' if told['full_depth'] else ', depth reduced'}, {time.monotonic() - start:.1f} s",
            flush=True,
        )
    options.to.mkdir(parents=True, exist_ok=True)
    (options.to / "batch.json").write_text(json.dumps(batch(made), indent=2) + "\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
