"""What is put into a checkpoint: sentences through its tokenizer, pictures and speech through a processor."""

import dataclasses
import json
import pathlib
import wave

import numpy as np
import torch
import transformers
from PIL import Image

from ..proto import catalogue_pb2
from .architecture import Architecture
from .shapes import LABELS, TOKENS
from .verdict import Refused, one_line

_SAMPLE_RATE = 16000
_MASK = "{mask}"

# (answer's name, text) by task; the first rows of the golden's inputs where an entry has none of its own.
_SENTENCES = [
    ("nearest", "A man is eating food."),
    ("", "A man is eating a piece of bread."),
    ("", "The girl is carrying a baby."),
    ("", "The processor of the server is overloaded."),
]
_TEXTS = {
    "fill-mask": [
        ("capital", f"The capital of France is {_MASK}."),
        ("river", f"The Nile is a {_MASK} in Africa."),
    ],
    "text-generation": [("capital", "The capital of France is"), ("story", "Once upon a time, there was a")],
    "feature-extraction": _SENTENCES,
    "sentence-similarity": _SENTENCES,
    "text2text-generation": [
        ("translation", "translate English to German: The house is wonderful."),
        ("summary", "summarize: The river rose in the night, and the old bridge was closed to all traffic."),
    ],
}
_OTHER_TEXTS = [
    ("first", "The weather in the mountains was wonderful today."),
    ("second", "The train was late, and nobody told us why."),
]
_PICTURES = [("cat", "cat.jpg"), ("astronaut", "astronaut.jpg")]
_SPEECH = [("speech", "apples.wav")]
_LABEL_TEXTS = ["a photo of a cat", "a photo of an astronaut", "a photo of a car"]
assert len(_LABEL_TEXTS) == LABELS


def clean(text: str) -> str:
    """Text that a message can hold: without the surrogates that a tokenizer may bring, and not long."""
    return text.encode("utf-8", "replace").decode("utf-8")[:1000]


@dataclasses.dataclass
class Row:
    """One row of the inputs. `answer` is empty where nothing is read off it."""

    answer: str
    question: str
    ids: list[int] | None = None  # of a text
    path: pathlib.Path | None = None  # of a picture or speech


@dataclasses.dataclass
class Texts:
    """The tokenizer of a checkpoint, or as much of it as there is."""

    tokenizer: transformers.PreTrainedTokenizerBase | None
    vocabulary: dict[str, int]
    why_not: str = ""  # the tokenizer cannot be loaded
    vocab_size: int = 0

    def __post_init__(self):
        self.by_id = {number: token for token, number in self.vocabulary.items()}

    def encode(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=True)["input_ids"])

    def tokens(self, tokens: list[str]) -> list[int]:
        unknown = [token for token in tokens if token not in self.vocabulary]
        if unknown:
            raise Refused(f"sample: tokens that the checkpoint's vocabulary does not have: {unknown[:5]}")
        return [self.vocabulary[token] for token in tokens]

    def text(self, ids: list[int]) -> str:
        if self.tokenizer is not None:
            text = self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        else:
            text = " ".join(self.by_id.get(i, f"#{i}") for i in ids)
        return clean(text)

    def label(self, number: int) -> str:
        """One token as a person reads it."""
        shown = self.by_id.get(number, "")
        if self.tokenizer is not None:
            decoded = self.tokenizer.decode([number], clean_up_tokenization_spaces=False).strip()
            shown = decoded or shown or str(self.tokenizer.convert_ids_to_tokens(number))
        return clean(shown)

    @property
    def mask_id(self) -> int | None:
        if self.tokenizer is not None and self.tokenizer.mask_token_id is not None:
            return self.tokenizer.mask_token_id
        return next((self.vocabulary[t] for t in ("[MASK]", "<mask>") if t in self.vocabulary), None)

    @property
    def pad_id(self) -> int:
        if self.tokenizer is not None:
            for found in (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id):
                if found is not None:
                    return found
        return next((self.vocabulary[t] for t in ("[PAD]", "<pad>") if t in self.vocabulary), 0)


def _vocabulary(folder: pathlib.Path) -> dict[str, int]:
    """Of vocab.txt or vocab.json, which are read without the library's help."""
    try:
        if (folder / "vocab.txt").exists():
            lines = (folder / "vocab.txt").read_text(encoding="utf-8").split("\n")
            return {token.rstrip("\r"): number for number, token in enumerate(lines) if token}
        if (folder / "vocab.json").exists():
            held = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
            return {token: number for token, number in held.items() if type(number) is int}
    except (OSError, ValueError, AttributeError):
        pass
    return {}


def load_tokenizer(arch: Architecture) -> Texts:
    """The folder's tokenizer; Texts.why_not says why there is none, or none that suits the model."""
    config = arch.config.get_text_config() if hasattr(arch.config, "get_text_config") else arch.config
    size = getattr(config, "vocab_size", 0) or getattr(arch.config, "vocab_size", 0) or 0
    try:
        more = {"gguf_file": arch.gguf} if arch.gguf else {}
        found = transformers.AutoTokenizer.from_pretrained(
            arch.folder, local_files_only=True, trust_remote_code=False, **more
        )
        probe = found("The capital of France is a city.")["input_ids"]
    except Exception as error:  # whatever a tokenizer's files may hold
        return Texts(None, _vocabulary(arch.folder), one_line(error, 200), size)
    if not probe:
        return Texts(None, _vocabulary(arch.folder), "the tokenizer gives no token for a sentence", size)
    if max(probe) >= size:
        why = f"the tokenizer gives id {max(probe)}, the model's vocabulary has {size}"
        return Texts(None, _vocabulary(arch.folder), why, size)
    return Texts(found, found.get_vocab(), "", size)


def _sample_file(folder: pathlib.Path | None, name: str) -> pathlib.Path:
    if not name or "/" in name or name.startswith("."):
        raise Refused(f"sample '{name}': a plain file name is needed")
    if folder is None or not (folder / name).is_file():
        raise Refused(f"sample '{name}': not in the folder of samples")
    return folder / name


def _of_entry(entry: catalogue_pb2.CheckpointEntry, texts: Texts | None, folder) -> list[Row]:
    rows = []
    for sample in entry.sample:
        if sample.picture or sample.speech:
            path = _sample_file(folder, sample.picture or sample.speech)
            rows.append(Row(sample.answer, sample.text or path.name, path=path))
        elif sample.token:
            if texts is None:
                raise Refused("sample: tokens, and the model takes none")
            rows.append(Row(sample.answer, " ".join(sample.token), texts.tokens(list(sample.token))))
        elif texts is not None and texts.tokenizer is not None:
            rows.append(Row(sample.answer, sample.text, texts.encode(sample.text)))
        else:
            why = texts.why_not if texts is not None else "the model takes no text"
            raise Refused(f"sample '{sample.text}': the text cannot be made into tokens: {why}")
    return rows


def text_rows(arch: Architecture, entry, texts: Texts) -> list[Row]:
    """The entry's rows first, then the task's; empty without a tokenizer and without the entry's tokens.

    `entry` is a CheckpointEntry or None.
    """
    rows = _of_entry(entry, texts, None) if entry is not None else []
    if texts.tokenizer is None:
        return rows
    mask = texts.tokenizer.mask_token
    for answer, text in _TEXTS.get(arch.task, _OTHER_TEXTS):
        if _MASK in text and (mask is None or texts.mask_id is None):
            continue
        text = text.replace(_MASK, mask or "")
        ids = texts.encode(text)
        if all(row.ids != ids for row in rows) and len(ids) <= TOKENS // 2:
            # Beside an entry's own samples these rows are only there to be compared with.
            rows.append(Row("" if entry is not None and entry.sample else answer, text, ids))
    return rows


def label_rows(texts: Texts) -> list[Row]:
    """What pictures are compared with."""
    if texts.tokenizer is None:
        return []
    return [Row("", text, texts.encode(text)) for text in _LABEL_TEXTS]


def file_rows(entry, folder: pathlib.Path | None, speech: bool) -> list[Row]:
    """Pictures or speech: the entry's first, then the project's own where `folder` has them."""
    own = entry is not None and len(entry.sample) > 0
    rows = _of_entry(entry, None, folder) if own else []
    for answer, name in _SPEECH if speech else _PICTURES:
        known = any(row.path is not None and row.path.name == name for row in rows)
        if folder is not None and (folder / name).is_file() and not known:
            rows.append(Row("" if own else answer, name, path=folder / name))
    return rows


def read_speech(path: pathlib.Path) -> np.ndarray:
    """Samples in [-1, 1) of a 16 kHz, 16 bit WAV file; channels are averaged."""
    try:
        with wave.open(str(path)) as file:
            if file.getframerate() != _SAMPLE_RATE or file.getsampwidth() != 2:
                raise Refused(f"{path.name}: 16 bits at {_SAMPLE_RATE} Hz are needed")
            data = np.frombuffer(file.readframes(file.getnframes()), dtype="<i2")
            return (data.reshape(-1, file.getnchannels()).mean(axis=1) / 32768).astype(np.float32)
    except (wave.Error, EOFError) as error:
        raise Refused(f"{path.name}: {one_line(error)}") from error


def speech_features(arch: Architecture, rows: list[Row], shape: tuple[int, ...]) -> torch.Tensor:
    """[rows, …] through the checkpoint's feature extractor; a missing row is the first, a second later."""
    extractor = transformers.AutoFeatureExtractor.from_pretrained(arch.folder, local_files_only=True)
    sounds = [read_speech(row.path) for row in rows][: shape[0]]
    while len(sounds) < shape[0]:
        sounds.append(np.concatenate([np.zeros(_SAMPLE_RATE, np.float32), sounds[0]]))
    if len(shape) == 2:  # raw samples
        sounds = [np.pad(sound, (0, shape[1]))[: shape[1]] for sound in sounds]
    given = extractor(sounds, sampling_rate=_SAMPLE_RATE, return_tensors="pt")
    name = "input_features" if "input_features" in given else "input_values"
    return _of_shape(given[name].float(), shape, "the feature extractor")


def pixels(arch: Architecture, rows: list[Row], shape: tuple[int, ...]) -> torch.Tensor:
    """[rows, channels, height, width] through the checkpoint's image processor."""
    processor = transformers.AutoImageProcessor.from_pretrained(
        arch.folder, local_files_only=True, use_fast=False
    )
    pictures = [Image.open(row.path).convert("RGB") for row in rows][: shape[0]]
    while len(pictures) < shape[0]:
        pictures.append(pictures[0].transpose(Image.Transpose.FLIP_LEFT_RIGHT))
    made = (
        processor(images=pictures, return_tensors="np")["pixel_values"] if _equal(processor, shape) else None
    )
    if made is None or tuple(np.shape(made))[-2:] != tuple(shape[-2:]):
        square = [picture.resize((shape[-1], shape[-2]), Image.Resampling.BICUBIC) for picture in pictures]
        made = processor(images=square, do_resize=False, do_center_crop=False, return_tensors="np")[
            "pixel_values"
        ]
    return _of_shape(
        torch.from_numpy(np.ascontiguousarray(made, dtype=np.float32)), shape, "the image processor"
    )


def _equal(processor, shape: tuple[int, ...]) -> bool:
    """Whether the processor makes pictures of one size, and this one."""
    for field in ("crop_size", "size") if getattr(processor, "do_center_crop", False) else ("size",):
        size = getattr(processor, field, None)
        if isinstance(size, dict) and {"height", "width"} <= size.keys():
            return (size["height"], size["width"]) == tuple(shape[-2:])
    return False


def _of_shape(made: torch.Tensor, shape: tuple[int, ...], what: str) -> torch.Tensor:
    if tuple(made.shape) != tuple(shape):
        raise ValueError(f"{what} gives {list(made.shape)}, the model takes {list(shape)}")
    return made.contiguous()
