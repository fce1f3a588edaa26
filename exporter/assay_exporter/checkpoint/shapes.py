"""The bucket of a class and task: which inputs a checkpoint's program has, and of what shape.

They follow from the configuration, the class, the task, the processor's size of a picture where the
configuration has none, and from how many samples of what length there are: all that the program's key has.
"""

import dataclasses
import inspect
import json
import pathlib

import torch

from .. import inputs, mock
from .architecture import Architecture
from .verdict import Unsupported

TOKENS = 32
LABELS = 3  # texts that a picture is compared with
_ROWS = 2
_SENTENCE_ROWS = 4  # a question, its answer and others
_SENTENCE_TASKS = {"feature-extraction", "sentence-similarity"}

# Model types whose inputs want to know of each other (placeholders of pictures among a text's ids and the
# like): a maker of inputs.py. Their ids are random, so that nothing is read off the outputs.
_SPECIAL = {
    "blip": "text_and_image", "llava": "llava", "llava_next_video": "llava_video", "idefics": "idefics",
    "idefics2": "idefics2", "idefics3": "idefics3",
    "mllama": "mllama", "instructblip": "instructblip", "qwen2_vl": "qwen_vl",
    "qwen3_vl": "qwen_vl", "imagegpt": "pixel_clusters", "splinter": "question",
    "vision-encoder-decoder": "image_to_decoder", "speech_to_text": "filterbank",
    "speech_to_text_2": "speech_decoder", "seamless_m4t": "seq2seq", "xclip": "video_and_labels",
}  # fmt: skip
_LENGTHS = {"mra": 128}


@dataclasses.dataclass
class Bucket:
    family: str  # "text", "seq2seq", "image", "picture_and_labels", "speech", "waveform" or "special"
    inputs: list[inputs.Input]
    constants: dict
    rows: int
    tokens: int = 0
    also: tuple[str, ...] = ()  # outputs beside the main ones

    def names(self) -> list[str]:
        return [spec.name for spec in self.inputs]

    def find(self, name: str) -> inputs.Input | None:
        return next((spec for spec in self.inputs if spec.name == name), None)


def _special_ids(config) -> set[int]:
    found: set[int] = set()
    for name, value in vars(config).items():
        if name.endswith(("token_id", "token_ids", "token_index", "_index")):
            values = value if isinstance(value, (list, tuple)) else [value]
            found.update(v for v in values if type(v) is int)
    return found


def free_ids(config) -> tuple[int, int]:
    """[low, high) of the vocabulary's longest run of ids, away from its ends, without a special one."""
    vocabulary = getattr(config, "vocab_size", None)
    if type(vocabulary) is not int or vocabulary < 16:
        raise Unsupported(f"the configuration has no vocabulary that ids could be drawn from ({vocabulary})")
    low, high = vocabulary // 8, vocabulary - vocabulary // 8
    marks = sorted({low - 1, high} | {i for i in _special_ids(config) if low <= i < high})
    width, start = max((b - a - 1, -a) for a, b in zip(marks, marks[1:], strict=False))
    return 1 - start, 1 - start + width


def _token_limit(config, model_type: str, tokens: int = TOKENS) -> int:
    wanted = max(_LENGTHS.get(model_type, TOKENS), -(-tokens // TOKENS) * TOKENS)
    for name in ("max_position_embeddings", "n_positions", "max_target_positions"):
        limit = getattr(config, name, None)
        if type(limit) is int and limit > 0:
            # Some count positions from the padding id on.
            wanted = min(wanted, limit)
    return wanted


def _pair(size) -> tuple[int, int] | None:
    if type(size) is int and size > 0:
        return size, size
    if isinstance(size, (list, tuple)) and len(size) == 2 and all(type(v) is int and v > 0 for v in size):
        return size[0], size[1]
    if isinstance(size, dict):
        if {"height", "width"} <= size.keys():
            return _pair((size["height"], size["width"]))
        return _pair(size.get("shortest_edge"))
    return None


def picture_size(config, folder: pathlib.Path) -> tuple[int, int]:
    """Height and width: the configuration's, else the image processor's, else 224."""
    for holder in (config, getattr(config, "vision_config", None), getattr(config, "backbone_config", None)):
        found = _pair(getattr(holder, "image_size", None))
        if found:
            return found
    try:
        processor = json.loads((folder / "preprocessor_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return 224, 224
    processor = processor if isinstance(processor, dict) else {}
    for field in ("crop_size", "size"):
        found = _pair(processor.get(field))
        if found:
            return min(found[0], 640), min(found[1], 640)
    return 224, 224


def _tokens(name: str, rows: int, length: int, config, **more) -> inputs.Input:
    low, high = free_ids(config)
    return inputs.ids(name, length, low=low, high=high, batch=rows, **more)


def _channels(config) -> int:
    holder = getattr(config, "vision_config", config)
    found = getattr(holder, "num_channels", None)
    return found if type(found) is int and found > 0 else 3


def _labelled_pictures(arch: Architecture, takes, rows: int) -> Bucket:
    config = arch.config
    text = getattr(config, "text_config", config)
    length = _token_limit(text, "")
    height, width = picture_size(config, arch.folder)
    end = getattr(text, "eos_token_id", None)

    def place(tensor: torch.Tensor) -> None:  # where CLIP's text tower reads its result
        if type(end) is int and end < text.vocab_size:
            tensor[:, -1] = end if end > 2 else text.vocab_size - 1

    given = [_tokens("input_ids", LABELS, length, text, batch_dim=None, place=place)]
    if "attention_mask" in takes and "siglip" not in config.model_type:
        given.append(inputs.ones("attention_mask", LABELS, length, batch_dim=None))
    given.append(inputs.noise("pixel_values", rows, _channels(config), height, width))
    return Bucket("picture_and_labels", given, {}, rows, length)


def _special(arch: Architecture) -> Bucket:
    made = inputs.MAKERS[_SPECIAL[arch.config.model_type]](arch.config)
    given = [item for item in made if isinstance(item, inputs.Input)]
    constants = {name: value for item in made if isinstance(item, dict) for name, value in item.items()}
    return Bucket("special", given, constants, given[0].shape[0])


def _speech(arch: Architecture, rows: int) -> Bucket:
    config = arch.config
    frames = 2 * config.max_source_positions
    length = _token_limit(config, "")
    return Bucket(
        "speech",
        [
            inputs.noise("input_features", rows, config.num_mel_bins, frames),
            _tokens("decoder_input_ids", rows, length, config),
        ],
        {},
        rows,
        length,
    )


def _texts(arch: Architecture, takes, rows: int, tokens: int) -> Bucket:
    config = arch.config
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    text = text if getattr(text, "vocab_size", None) else config
    length = _token_limit(text, config.model_type, tokens)
    given = [_tokens("input_ids", rows, length, text)]
    if "attention_mask" in takes:
        given.append(inputs.ones("attention_mask", rows, length))
    if not (config.is_encoder_decoder and "decoder_input_ids" in takes):
        return Bucket("text", given, {}, rows, length)
    given.append(_tokens("decoder_input_ids", rows, length, text))
    if "decoder_attention_mask" in takes:
        given.append(inputs.ones("decoder_attention_mask", rows, length))
    return Bucket("seq2seq", given, {}, rows, length)


def of(arch: Architecture, samples: int = 0, tokens: int = 0) -> Bucket:
    """The bucket for `samples` rows of at most `tokens` tokens (0: the task's own).

    Unsupported: nothing is known of what this class takes.
    """
    takes = inspect.signature(arch.model_class.forward).parameters
    config = arch.config
    rows = max(samples, _SENTENCE_ROWS if arch.task in _SENTENCE_TASKS else _ROWS)
    if config.model_type in _SPECIAL:
        return _special(arch)
    if "input_ids" in takes and "pixel_values" in takes:
        if hasattr(config, "vision_config") and hasattr(arch.model_class, "get_image_features"):
            if getattr(config, "projection_dim", None) or "siglip" in config.model_type:
                return _labelled_pictures(arch, takes, max(samples, _ROWS))
        raise Unsupported(f"no inputs are known for {arch.name}: it takes pictures and text")
    if "pixel_values" in takes:
        height, width = picture_size(config, arch.folder)
        rows = max(samples, _ROWS)
        pixels = inputs.noise("pixel_values", rows, _channels(config), height, width)
        # What pictures are compared by, where the class has no head of its own.
        also = ("pooler_output",) if arch.model_class.__name__.endswith("Model") else ()
        return Bucket("image", [pixels], {}, rows, also=also)
    if (
        "input_features" in takes
        and hasattr(config, "num_mel_bins")
        and hasattr(config, "max_source_positions")
    ):
        return _speech(arch, max(samples, _ROWS))
    if "input_values" in takes:
        rows = max(samples, _ROWS)
        if hasattr(config, "num_mel_bins") and hasattr(config, "max_length"):
            shape = (rows, config.max_length, config.num_mel_bins)
        else:
            shape = (rows, 16000)
        return Bucket("waveform", [inputs.noise("input_values", *shape)], {}, rows)
    if "input_ids" in takes:
        return _texts(arch, takes, rows, tokens)
    raise Unsupported(f"no inputs are known for {arch.name}: it takes {', '.join(list(takes)[1:6])}")


def random_mask(spec: inputs.Input, seed: int) -> torch.Tensor:
    """Rows of ones that end in zeros at different places, never at the first half."""
    rows, length = spec.shape[0], spec.shape[-1]
    cuts = mock.values(mock.int_range(length // 2, length + 1), spec.name, seed, (rows,))
    mask = torch.ones(spec.shape, dtype=spec.dtype)
    for row, cut in enumerate(cuts):
        mask[row, ..., int(cut) :] = 0
    return mask
