"""The model of an entry: built, in eval mode, with eager attention and without a cache."""

import dataclasses
import importlib
import json
import pathlib
import types
from collections.abc import Callable
from typing import Any

import torch
import transformers
import zstandard
from transformers import PretrainedConfig

from . import catalogue, shrink
from .proto import catalogue_pb2, program_pb2


@dataclasses.dataclass
class Built:
    model: torch.nn.Module
    config: Any
    config_json: str
    library: str  # name and version of where the model comes from, e.g. "transformers 4.57.6"


def resolve(path: str):
    """The object that a dotted path names, e.g. "transformers.LlamaConfig"."""
    module, _, name = path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"cannot find {path}: {error}") from error


def configure(config: PretrainedConfig) -> None:
    """Eager attention and no cache, in every part of a configuration; experts, where the library has a choice, as
    one product over all of them: the loop over those that were chosen depends on the input."""
    config._attn_implementation = "eager"
    if hasattr(type(config), "_experts_implementation"):  # transformers 5
        config._experts_implementation = "batched_mm"
    if hasattr(config, "use_cache"):
        config.use_cache = False
    for value in list(vars(config).values()):
        if isinstance(value, PretrainedConfig):
            configure(value)


def stable(value: Any) -> Any:
    """Sets in an order of their own; tuples and foreign objects in a form that JSON has."""
    if isinstance(value, dict):
        return {str(k): stable(v) for k, v in value.items()}
    if isinstance(value, (set, frozenset)):
        return sorted(stable(v) for v in value)
    if isinstance(value, (list, tuple)):
        return [stable(v) for v in value]
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


def _plain_buffers(model: torch.nn.Module) -> None:
    """A buffer that is a Parameter object (Falcon Mamba's) is lifted twice by torch.export, which then fails."""
    for module in model.modules():
        for name, buffer in module._buffers.items():
            if isinstance(buffer, torch.nn.Parameter):
                module._buffers[name] = buffer.data


def finish(model: torch.nn.Module, config: PretrainedConfig) -> Built:
    _plain_buffers(model)
    text = json.dumps(stable(config.to_dict()), sort_keys=True)
    return Built(model.eval(), config, text, f"transformers {transformers.__version__}")


# A folder of programs whose configurations are taken in place of shrunk ones (--like): programs of another version
# of the library are then of the very same model, whatever the versions' defaults are.
like: pathlib.Path | None = None


def _of_another_program(entry: catalogue_pb2.CatalogueEntry) -> Built:
    path = like / f"{entry.name}.assay"
    program = program_pb2.Program.FromString(zstandard.ZstdDecompressor().decompress(path.read_bytes()))
    config = resolve(entry.config_class).from_dict(json.loads(program.manifest.config_json))
    configure(config)
    return finish(resolve(entry.model_class)(config), config)


def plain(entry: catalogue_pb2.CatalogueEntry) -> Built:
    """model_class(config), the configuration shrunk."""
    if like is not None:
        return _of_another_program(entry)
    overrides = catalogue.overrides(entry)
    if entry.model_class.endswith(("Classification", "Detection")):
        overrides.setdefault("num_labels", 10)  # the library's default of two says little
    config = shrink.tiny(resolve(entry.config_class), overrides)
    configure(config)
    return finish(resolve(entry.model_class)(config), config)


BUILDERS: dict[str, Callable[[catalogue_pb2.CatalogueEntry], Built]] = {"": plain}


def builder(function: Callable) -> Callable:
    BUILDERS[function.__name__] = function
    return function


def _tiny(config_class: type[PretrainedConfig], **more) -> PretrainedConfig:
    return config_class(**shrink.tiny_arguments(config_class, {}), **more)


@builder
def vision_encoder_decoder(entry: catalogue_pb2.CatalogueEntry) -> Built:
    """ViT and GPT-2, as in the default checkpoint."""
    decoder = _tiny(transformers.GPT2Config, is_decoder=True, add_cross_attention=True)
    config = transformers.VisionEncoderDecoderConfig.from_encoder_decoder_configs(
        _tiny(transformers.ViTConfig), decoder
    )
    configure(config)
    return finish(resolve(entry.model_class)(config), config)


@builder
def trocr(entry: catalogue_pb2.CatalogueEntry) -> Built:
    """DeiT's image encoder under TrOCR's own decoder, as in the default checkpoint."""
    vision = _tiny(transformers.DeiTConfig)
    decoder = _tiny(
        transformers.TrOCRConfig, is_decoder=True, add_cross_attention=True, cross_attention_hidden_size=32
    )
    config = transformers.VisionEncoderDecoderConfig.from_encoder_decoder_configs(vision, decoder)
    configure(config)
    return finish(resolve(entry.model_class)(config), config)


@builder
def vision_text_dual_encoder(entry: catalogue_pb2.CatalogueEntry) -> Built:
    """CLIP's vision model and BERT, as in the default checkpoint."""
    config = transformers.VisionTextDualEncoderConfig.from_vision_text_configs(
        _tiny(transformers.CLIPVisionConfig), _tiny(transformers.BertConfig), projection_dim=16
    )
    configure(config)
    return finish(resolve(entry.model_class)(config), config)


@builder
def beit3(entry: catalogue_pb2.CatalogueEntry) -> Built:
    """torchscale's model with the head of its authors; see patches/beit3.py, which must be in force."""
    from .patches import beit3 as source

    model, config = source.build()
    text = json.dumps(stable(config), sort_keys=True)
    return Built(model.eval(), types.SimpleNamespace(**config), text, source.LIBRARY)


def build(entry: catalogue_pb2.CatalogueEntry) -> Built:
    if entry.builder not in BUILDERS:
        raise ValueError(f"{entry.name}: no builder '{entry.builder}' in builders.py")
    torch.manual_seed(0)
    return BUILDERS[entry.builder](entry)
