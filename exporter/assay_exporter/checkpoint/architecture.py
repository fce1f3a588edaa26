"""Which class of transformers a checkpoint folder is run as."""

import dataclasses
import json
import pathlib

import transformers
from transformers.models.auto import modeling_auto

from .. import builders
from .verdict import Refused, Unsupported, one_line

# The class for a task, where neither the request nor the configuration names one.
_BY_TASK = {
    "fill-mask": modeling_auto.MODEL_FOR_MASKED_LM_MAPPING,
    "text-generation": modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING,
    "text2text-generation": modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING,
    "translation": modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING,
    "summarization": modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING,
    "image-classification": modeling_auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING,
    "text-classification": modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    "automatic-speech-recognition": modeling_auto.MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING,
    "feature-extraction": modeling_auto.MODEL_MAPPING,
    "sentence-similarity": modeling_auto.MODEL_MAPPING,
}


@dataclasses.dataclass
class Architecture:
    model_class: type[transformers.PreTrainedModel]
    config: transformers.PretrainedConfig
    folder: pathlib.Path
    task: str
    gguf: str  # name of the GGUF file that holds everything; empty: none

    @property
    def name(self) -> str:
        return f"transformers.{self.model_class.__name__}"


def gguf_file(folder: pathlib.Path) -> str:
    """The one GGUF file of a folder that has no safetensors; empty: there is none."""
    found = sorted(path.name for path in folder.glob("*.gguf"))
    if not found or list(folder.glob("*.safetensors")):
        return ""
    if len(found) > 1:
        raise Refused(f"{len(found)} GGUF files ({', '.join(found[:4])}): a folder may hold one")
    return found[0]


def _raw_config(folder: pathlib.Path) -> dict:
    path = folder / "config.json"
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise Refused("config.json: not in the folder") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise Refused(f"config.json: {one_line(error)}") from error
    if not isinstance(raw, dict):
        raise Refused("config.json: not an object")
    return raw


def _check_raw(raw: dict, catalogued: bool) -> None:
    # A model of the catalogue is run as the library's own class, whatever a repository brings along.
    if raw.get("auto_map") and not catalogued:
        raise Unsupported(
            "config.json has auto_map: the model wants code of its own (trust_remote_code), "
            "which Assay never runs"
        )
    if raw.get("quantization_config"):
        method = raw["quantization_config"]
        method = method.get("quant_method", "?") if isinstance(method, dict) else "?"
        raise Unsupported(
            f"config.json has quantization_config ({method}): no program is made for such weights"
        )
    model_type = raw.get("model_type")
    if not model_type:
        raise Unsupported("config.json has no model_type")
    if model_type not in transformers.CONFIG_MAPPING:
        raise Unsupported(f"model type '{model_type}' is unknown to transformers {transformers.__version__}")


def _read_config(folder: pathlib.Path, gguf: str, catalogued: bool) -> transformers.PretrainedConfig:
    if not gguf:
        _check_raw(_raw_config(folder), catalogued)
    try:
        more = {"gguf_file": gguf} if gguf else {}
        return transformers.AutoConfig.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False, **more
        )
    except Exception as error:  # whatever the library finds wrong with it
        raise Unsupported(f"transformers cannot read the configuration: {one_line(error)}") from error


def _named(name: str) -> type[transformers.PreTrainedModel]:
    bare = name.removeprefix("transformers.")
    parts = bare.split(".")
    if len(parts) == 1 and bare.isidentifier():
        found = getattr(transformers, bare, None)
    elif parts[0] == "models" and all(part.isidentifier() for part in parts):
        try:  # deprecated models, which the library's root does not name
            found = builders.resolve(f"transformers.{bare}")
        except ValueError:
            found = None
    else:
        found = None
    if not (isinstance(found, type) and issubclass(found, transformers.PreTrainedModel)):
        raise Unsupported(f"transformers {transformers.__version__} has no model class '{bare}'")
    return found


def _fits(model_class: type, config: transformers.PretrainedConfig) -> bool:
    return model_class.config_class is not None and type(config) is model_class.config_class


def _choose(config, request_class: str, catalogue, task: str) -> type[transformers.PreTrainedModel]:
    if request_class:
        return _named(request_class)
    if catalogue is not None and catalogue.model_class.startswith("transformers."):
        known = _named(catalogue.model_class)
        # For another task the checkpoint's own class is meant, e.g. an encoder without its head.
        if _fits(known, config) and (not task or catalogue.task == task):
            if not config.architectures or known.__name__ in config.architectures:
                return known
    if config.architectures:
        return _named(config.architectures[0])
    if task in _BY_TASK and type(config) in _BY_TASK[task]:
        found = _BY_TASK[task][type(config)]
        return found[0] if isinstance(found, tuple) else found
    raise Unsupported("config.json names no architectures, and the task does not say which class is meant")


def read(folder: pathlib.Path, request_class: str, catalogue, task: str) -> Architecture:
    """The class to run a folder as: the request's, else the catalogue entry's (`catalogue`, None: none) if it
    is for this task and one of the configuration's, else the configuration's first.

    Unsupported or Refused, with the reason: remote code, unknown types, classes of another configuration.
    """
    if not folder.is_dir():
        raise Refused(f"{folder}: no such folder")
    gguf = gguf_file(folder)
    catalogued = catalogue is not None and catalogue.model_class.startswith("transformers.")
    config = _read_config(folder, gguf, catalogued)
    chosen = _choose(config, request_class, catalogue, task)
    if not _fits(chosen, config):
        wanted = chosen.config_class.__name__ if chosen.config_class else "nothing"
        raise Unsupported(
            f"{chosen.__name__} is made from {wanted}, the checkpoint's configuration is a "
            f"{type(config).__name__} (model type '{config.model_type}')"
        )
    return Architecture(chosen, config, folder, task, gguf)
