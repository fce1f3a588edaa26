"""Inputs of each family: names, shapes, and the rule that makes golden and fresh values.

A maker takes the model's configuration and gives the inputs in the order of the exported signature. An input
with a `batch_dim` is made for any batch size; all of them share one symbol in the graph.
"""

import dataclasses
import importlib
import types
from collections.abc import Callable

import torch

from . import mock, shrink, tensors
from .proto import program_pb2

BATCH = 2
SEQUENCE = 8
# Token ids away from the special ids (below) and the placeholder ids (above) of every tiny configuration.
ID_LOW, ID_HIGH = 6, 90


@dataclasses.dataclass
class Input:
    name: str
    shape: tuple[int, ...]  # of the golden
    rule: program_pb2.MockRule
    dtype: torch.dtype = torch.float32
    batch_dim: int | None = 0
    # What stands at fixed places whatever the rule gives, e.g. image placeholders among token ids.
    place: Callable[[torch.Tensor], None] | None = None
    ids: tuple[int, int] | None = None  # [low, high) of free token ids
    moves: bool = True  # a fresh draw of this input alone must change an output

    def make(self, seed: int, batch: int | None = None) -> torch.Tensor:
        shape = list(self.shape)
        if batch is not None and self.batch_dim is not None:
            shape[self.batch_dim] = batch
        tensor = tensors.from_rule(self.rule, self.name, seed, tuple(shape), self.dtype)
        if self.place is not None:
            self.place(tensor)
        return tensor


def ids(name: str = "input_ids", length: int = SEQUENCE, *, low: int = ID_LOW, high: int = ID_HIGH,
        batch: int = BATCH, **more) -> Input:  # fmt: skip
    return Input(name, (batch, length), mock.int_range(low, high), torch.long, ids=(low, high), **more)


def ones(name: str, *shape: int, dtype: torch.dtype = torch.long, **more) -> Input:
    return Input(name, shape, mock.constant(1), dtype, moves=False, **more)


def noise(name: str, *shape: int, **more) -> Input:
    return Input(name, shape, mock.normal(1.0), **more)


def _square(size) -> int:
    return size[0] if isinstance(size, (list, tuple)) else size


MAKERS: dict[str, Callable] = {}


def maker(function: Callable) -> Callable:
    MAKERS[function.__name__] = function
    return function


@maker
def text(config) -> list[Input]:
    return [ids(), ones("attention_mask", BATCH, SEQUENCE)]


@maker
def ids_only(config) -> list[Input]:
    return [ids()]


@maker
def seq2seq(config) -> list[Input]:
    return [*text(config), ids("decoder_input_ids")]


@maker
def image(config) -> list[Input]:
    size = getattr(config, "image_size", None) or 64
    height, width = size if isinstance(size, (list, tuple)) and len(size) == 2 else [_square(size)] * 2
    return [noise("pixel_values", BATCH, getattr(config, "num_channels", 3) or 3, height, width)]


@maker
def protein(config) -> list[Input]:
    return [ids(low=4, high=30), ones("attention_mask", BATCH, SEQUENCE)]


@maker
def text_128(config) -> list[Input]:
    return [ids(length=128), ones("attention_mask", BATCH, 128)]


@maker
def seq2seq_masked(config) -> list[Input]:
    return [*seq2seq(config), ones("decoder_attention_mask", BATCH, SEQUENCE)]


@maker
def image_with_mask(config) -> list[Input]:
    return [noise("pixel_values", BATCH, 3, 64, 64), ones("pixel_mask", BATCH, 64, 64)]


@maker
def image_of_backbone(config) -> list[Input]:
    size = config.backbone_config.image_size
    return [noise("pixel_values", BATCH, 3, size, size)]


@maker
def pixel_clusters(config) -> list[Input]:
    positions = Input("position_ids", (1, SEQUENCE), mock.ramp(0, 1), torch.long, batch_dim=None, moves=False)
    return [ids(low=0, high=config.vocab_size - 1), positions]


@maker
def text_and_image(config) -> list[Input]:
    size = config.vision_config.image_size
    return [*text(config), noise("pixel_values", BATCH, 3, size, size)]


@maker
def question(config) -> list[Input]:
    """The question's token stands first among the text's ids."""

    def place(tensor: torch.Tensor) -> None:
        tensor[:, 1] = config.question_token_id

    return [ids(place=place), ones("attention_mask", BATCH, SEQUENCE)]


LABELS = 3


def _label_texts() -> list[Input]:
    """Texts that every image is compared with: labels of zero-shot classification, no part of the batch.

    The last token is the end of text, which is the highest id in CLIP: its tower pools where it finds that.
    """

    def place(tensor: torch.Tensor) -> None:
        tensor[:, -1] = shrink.VOCAB - 1

    return [
        ids(batch=LABELS, batch_dim=None, place=place),
        ones("attention_mask", LABELS, SEQUENCE, batch_dim=None),
    ]


@maker
def image_and_labels(config) -> list[Input]:
    size = config.vision_config.image_size
    return [*_label_texts(), noise("pixel_values", BATCH, 3, size, size)]


@maker
def video_and_labels(config) -> list[Input]:
    vision = config.vision_config
    return [
        *_label_texts(),
        noise("pixel_values", BATCH, vision.num_frames, 3, vision.image_size, vision.image_size),
    ]


@maker
def image_to_decoder(config) -> list[Input]:
    size = config.encoder.image_size
    return [noise("pixel_values", BATCH, 3, size, size), ids("decoder_input_ids")]


def _text_with_placeholders(token: int, count: int, at: int = 2) -> list[Input]:
    """Token ids of which `count` from position `at` on are the placeholder of an image, and their mask."""

    def place(tensor: torch.Tensor) -> None:
        tensor[:, at : at + count] = token

    length = count + SEQUENCE
    return [ids(length=length, place=place), ones("attention_mask", BATCH, length)]


@maker
def instructblip(config) -> list[Input]:
    size = config.vision_config.image_size
    return [
        *_text_with_placeholders(config.image_token_index, config.num_query_tokens),
        noise("pixel_values", BATCH, 3, size, size),
        ids("qformer_input_ids"),
        ones("qformer_attention_mask", BATCH, SEQUENCE),
    ]


@maker
def llava(config) -> list[Input]:
    size = config.vision_config.image_size
    count = (size // config.vision_config.patch_size) ** 2
    return [
        *_text_with_placeholders(config.image_token_index, count),
        noise("pixel_values", BATCH, 3, size, size),
    ]


@maker
def llava_video(config) -> list[Input]:
    size, frames = config.vision_config.image_size, 2
    count = frames * (size // config.vision_config.patch_size // 2) ** 2
    return [
        *_text_with_placeholders(config.video_token_index, count),
        noise("pixel_values_videos", BATCH, frames, 3, size, size),
    ]


@maker
def idefics2(config) -> list[Input]:
    size = config.vision_config.image_size
    return [
        *_text_with_placeholders(config.image_token_id, config.perceiver_config.resampler_n_latents),
        noise("pixel_values", BATCH, 1, 3, size, size),
    ]


@maker
def idefics3(config) -> list[Input]:
    size = config.vision_config.image_size
    count = (size // config.vision_config.patch_size) ** 2 // config.scale_factor**2
    return [
        *_text_with_placeholders(config.image_token_id, count),
        noise("pixel_values", BATCH, 1, 3, size, size),
    ]


@maker
def idefics(config) -> list[Input]:
    size = config.vision_config.image_size
    return [
        *text(config),
        noise("pixel_values", BATCH, 1, 3, size, size),
        ones("image_attention_mask", BATCH, SEQUENCE, 1),
        Input("position_ids", (BATCH, SEQUENCE), mock.ramp(0, 1), torch.long, moves=False),
    ]


@maker
def mllama(config) -> list[Input]:
    size = config.vision_config.image_size
    tiles = config.vision_config.max_num_tiles
    return [
        *text(config),
        noise("pixel_values", BATCH, 1, tiles, 3, size, size),
        # Aspect ratio 6 of the supported ones is a square of all four tiles.
        Input("aspect_ratio_ids", (BATCH, 1), mock.constant(6), torch.long, moves=False),
        ones("aspect_ratio_mask", BATCH, 1, tiles),
        ones("cross_attention_mask", BATCH, SEQUENCE, 1, tiles),
    ]


@maker
def waveform(config) -> list[Input]:
    return [noise("input_values", BATCH, 3200)]


@maker
def log_mel(config) -> list[Input]:
    return [
        noise("input_features", BATCH, config.num_mel_bins, 2 * config.max_source_positions),
        ids("decoder_input_ids"),
    ]


@maker
def filterbank(config) -> list[Input]:
    return [
        noise("input_features", BATCH, 32, config.input_feat_per_channel),
        ones("attention_mask", BATCH, 32),
        ids("decoder_input_ids"),
    ]


@maker
def speech_decoder(config) -> list[Input]:
    return [
        ids(),
        noise("encoder_hidden_states", BATCH, 6, config.hidden_size),
        ones("encoder_attention_mask", BATCH, 6),
    ]


@maker
def qwen_vl(config) -> list:
    """One text with one image, whose patches come as one flat list; the grid they lie on is a constant."""
    frames, height, width = grid = (1, 4, 4)
    vision = config.vision_config
    count = frames * height * width // vision.spatial_merge_size**2
    length = SEQUENCE + count + 2

    def place(tensor: torch.Tensor) -> None:
        tensor[0, 2] = config.vision_start_token_id
        tensor[0, 3 : 3 + count] = config.image_token_id
        tensor[0, 3 + count] = config.vision_end_token_id

    tokens = ids(length=length, batch=1, batch_dim=None, place=place)
    grids = torch.tensor([grid])
    library = importlib.import_module(f"transformers.models.{config.model_type}.modeling_{config.model_type}")
    model = getattr(library, "Qwen2VLModel" if config.model_type == "qwen2_vl" else "Qwen3VLModel")
    # The library's own rule for positions in time, height and width reads the placeholders: outside.
    positions, _ = model.get_rope_index(types.SimpleNamespace(config=config), tokens.make(0), grids)
    literal = program_pb2.MockRule(literal=tensors.data(positions))
    features = getattr(vision, "in_channels", 3) * vision.temporal_patch_size * vision.patch_size**2
    return [
        tokens,
        ones("attention_mask", 1, length, batch_dim=None),
        Input("position_ids", tuple(positions.shape), literal, torch.long, batch_dim=None, moves=False),
        noise("pixel_values", frames * height * width, features, batch_dim=None),
        {"image_grid_thw": grids},
    ]


from . import inputs_special  # noqa: E402, F401  its makers, which need what stands above
