"""Which architectures the installed transformers has, and the class that each is run as."""

import dataclasses
import importlib
import inspect
import sys

import torch
import transformers
from transformers.models.auto import configuration_auto, modeling_auto

# The main task of an architecture is the first of these for which the library has a class: the head of the auto
# mapping, the task as batches name it, the kind of architecture.
_HEADS = [
    ("SPEECH_SEQ_2_SEQ", "automatic-speech-recognition", "speech"),
    ("CTC", "automatic-speech-recognition", "speech"),
    ("SEQ_TO_SEQ_CAUSAL_LM", "text2text-generation", "encoder_decoder"),
    ("IMAGE_TEXT_TO_TEXT", "image-to-text", "multimodal"),
    ("VISION_2_SEQ", "image-to-text", "multimodal"),
    ("ZERO_SHOT_IMAGE_CLASSIFICATION", "zero-shot-image-classification", "vision_text"),
    ("MASKED_LM", "fill-mask", "encoder_only"),
    ("CAUSAL_LM", "text-generation", "decoder_only"),
    ("OBJECT_DETECTION", "object-detection", "vision"),
    ("IMAGE_CLASSIFICATION", "image-classification", "vision"),
    ("UNIVERSAL_SEGMENTATION", "image-segmentation", "vision"),
    ("SEMANTIC_SEGMENTATION", "image-segmentation", "vision"),
    ("INSTANCE_SEGMENTATION", "image-segmentation", "vision"),
    ("IMAGE_SEGMENTATION", "image-segmentation", "vision"),
    ("VIDEO_CLASSIFICATION", "video-classification", "vision"),
    ("DEPTH_ESTIMATION", "depth-estimation", "vision"),
    ("ZERO_SHOT_OBJECT_DETECTION", "zero-shot-object-detection", "vision_text"),
    ("KEYPOINT_DETECTION", "keypoint-detection", "vision"),
    ("KEYPOINT_MATCHING", "keypoint-matching", "vision"),
    ("MASK_GENERATION", "mask-generation", "vision"),
    ("MASKED_IMAGE_MODELING", "masked-image-modeling", "vision"),
    ("CAUSAL_IMAGE_MODELING", "image-generation", "vision"),
    ("IMAGE_TO_IMAGE", "image-to-image", "vision"),
    ("AUDIO_CLASSIFICATION", "audio-classification", "speech"),
    ("TIME_SERIES_PREDICTION", "time-series-forecasting", "other"),
    ("TEXT_TO_SPECTROGRAM", "text-to-speech", "speech"),
    ("TEXT_TO_WAVEFORM", "text-to-speech", "speech"),
    ("VISUAL_QUESTION_ANSWERING", "visual-question-answering", "vision_text"),
    ("DOCUMENT_QUESTION_ANSWERING", "document-question-answering", "multimodal"),
    ("TABLE_QUESTION_ANSWERING", "table-question-answering", "encoder_only"),
    ("RETRIEVAL", "feature-extraction", "multimodal"),
    ("QUESTION_ANSWERING", "question-answering", "encoder_only"),
    ("", "feature-extraction", "other"),  # the bare model
    ("PRETRAINING", "feature-extraction", "other"),
    ("BACKBONE", "feature-extraction", "vision"),
    ("MULTIMODAL_LM", "feature-extraction", "multimodal"),
    ("TEXT_ENCODING", "feature-extraction", "encoder_only"),
    ("AUDIO_TOKENIZATION", "feature-extraction", "speech"),
]

# Configurations that only hold those of two other models: what they are is not the library's to say.
_WRAPPERS = {
    "EncoderDecoderConfig", "VisionEncoderDecoderConfig", "SpeechEncoderDecoderConfig",
    "VisionTextDualEncoderConfig", "RagConfig", "TimmBackboneConfig", "TimmWrapperConfig",
}  # fmt: skip


@dataclasses.dataclass
class Head:
    model_class: str
    task: str
    arch_type: str


@dataclasses.dataclass
class Architecture:
    name: str  # underscores
    model_type: str
    config_class: str
    module: str  # transformers.models.<module>
    heads: list[Head]  # the most telling first
    part: bool  # of another architecture, e.g. a vision tower with a configuration of its own
    skipped: str  # why it is none of its own; empty: it is


def _mapping(head: str) -> dict:
    name = f"MODEL_FOR_{head}_MAPPING_NAMES" if head else "MODEL_MAPPING_NAMES"
    return dict(getattr(modeling_auto, name, None) or {})


def architectures() -> dict[str, Architecture]:
    """Every model type of the library by name, in its order."""
    mappings = [(_mapping(head), task, arch) for head, task, arch in _HEADS]
    found: dict[str, Architecture] = {}
    first: dict[tuple, Architecture] = {}
    for model_type, config_class in configuration_auto.CONFIG_MAPPING_NAMES.items():
        module = configuration_auto.model_type_to_module_name(model_type)
        heads = []
        for mapping, task, arch_type in mappings:
            named = mapping.get(model_type)
            if named is not None:
                heads.append(Head(named if isinstance(named, str) else named[0], task, arch_type))
        name = model_type.replace("-", "_")
        made = Architecture(name, model_type, config_class, module, heads, module != name, "")
        if config_class in _WRAPPERS:
            made.skipped = "holds two other models"
        found[name] = made
        same = (config_class, heads[0].model_class if heads else "")
        other = first.setdefault(same, made)
        if other is made or made.skipped:
            continue
        if config_class.lower() == f"{name}config".replace("_", ""):  # the one that it is named for
            first[same], other, made = made, made, other
        made.skipped = f"another name of {other.name}"
    return found


def lookup(name: str, module: str):
    """A class of the library by name; those of deprecated models and of towers are not in its root."""
    for path in (
        f"transformers.models.{module}.modeling_{module}",
        f"transformers.models.deprecated.{module}.modeling_{module}",
        f"transformers.models.{module}.configuration_{module}",
        f"transformers.models.deprecated.{module}.configuration_{module}",
        f"transformers.models.{module}",
    ):
        try:
            return getattr(importlib.import_module(path), name)
        except (ImportError, AttributeError):
            continue
    return getattr(transformers, name)


def runs(model_class: type) -> bool:
    """Whether the class has a `forward`; some only hold other models, which generate in turn."""
    return model_class.forward is not torch.nn.Module.forward


def parts(config_class: type) -> dict[str, type]:
    """The classes of the configurations that one is made of by the names of their fields, in the library's order."""
    named = getattr(config_class, "sub_configs", {})
    named = named if isinstance(named, dict) else {}
    # transformers 5 has specifications in the place of classes.
    classes = {name: getattr(given, "config_class", given) for name, given in named.items()}
    return {
        n: c
        for n, c in classes.items()
        if isinstance(c, type) and issubclass(c, transformers.PretrainedConfig)
    }


def written_for(config_class: type) -> list[Head]:
    """Classes that were written for a configuration's class and stand in no auto mapping; those for a task first."""
    path = config_class.__module__.replace(".configuration_", ".modeling_")
    try:
        importlib.import_module(path)
    except ImportError:
        return []
    found = [
        made
        for name, made in vars(sys.modules[path]).items()
        if inspect.isclass(made)
        and issubclass(made, transformers.PreTrainedModel)
        and made.__module__ == path
        and getattr(made, "config_class", None) is config_class
        and not name.endswith("PreTrainedModel")
        and runs(made)
    ]
    # The outermost is the last that the library writes.
    return [
        Head(made.__name__, "feature-extraction", "other")
        for made in sorted(reversed(found), key=lambda made: "For" not in made.__name__)
    ]
