"""Pictures, sounds and series that a model might take, from its signature and its configuration; the likeliest first.

Nothing here knows a model: names of arguments and fields of configurations are what the library's models share.
"""

import dataclasses
import functools
import inspect
import re
from collections.abc import Iterator

import torch
from transformers import PretrainedConfig

from .. import mock
from ..inputs import BATCH, SEQUENCE, Input, noise
from . import shrinking

MEDIA = ("pixel_values", "input_features", "input_values", "audio_values", "past_values", "pixel_values_videos",
          "flattened_patches", "visual_embeds", "image_patches")  # fmt: skip
# A picture or sound under any name, e.g. pixel_values_images.
A_MEDIUM = re.compile("(pixel_values|input_features|input_values|audio_values)(?!_?(mask|cutoffs|videos|padding))")


@dataclasses.dataclass
class Mask(Input):
    """Ones in the golden; in every second draw the last row's last places are padded."""

    def make(self, seed: int, batch: int | None = None) -> torch.Tensor:
        made = super().make(seed, batch)
        if seed % 2:
            last = made[-1]
            last[..., -max(1, last.shape[-1] // 4) :] = 0
        return made


@dataclasses.dataclass
class Candidate:
    inputs: dict[str, Input]
    constants: dict[str, object]
    media: str = ""  # the name of the picture or sound among the inputs
    text_only: bool = False  # although the model takes pictures or sounds
    written: bool = False  # the model writes into an input

    def listed(self) -> list[Input]:
        return list(self.inputs.values())

    def draw(self, seed: int = 0, batch: int | None = None) -> dict[str, torch.Tensor]:
        return {name: spec.make(seed, batch) for name, spec in self.inputs.items()}

    def without(self, names) -> "Candidate":
        return dataclasses.replace(self, inputs={n: i for n, i in self.inputs.items() if n not in names})


def get(config, name: str):
    try:
        return getattr(config, name, None)
    except Exception:  # noqa: BLE001
        return None


def anywhere(config, *names: str, default=None, _seen: set | None = None):
    """The first field of these names in a configuration or the ones inside it, those of pictures and sounds first."""
    seen = _seen if _seen is not None else set()
    seen.add(id(config))
    for name in names:
        value = get(config, name)
        if value is not None and not isinstance(value, PretrainedConfig):
            return value
    inside = sorted(
        (name for name, value in vars(config).items() if isinstance(value, PretrainedConfig)),
        key=lambda name: not re.search("vision|audio|encoder", name),
    )
    for name in inside:
        if id(getattr(config, name)) in seen:
            continue
        value = anywhere(getattr(config, name), *names, _seen=seen)
        if value is not None:
            return value
    return default


def configurations(config, _seen: set | None = None) -> Iterator[PretrainedConfig]:
    """A configuration and those inside it."""
    seen = _seen if _seen is not None else set()
    if id(config) in seen:
        return
    seen.add(id(config))
    yield config
    for value in list(vars(config).values()):
        if isinstance(value, PretrainedConfig):
            yield from configurations(value, seen)


def whole(value, default: int) -> int:
    if isinstance(value, (list, tuple)) and value:
        value = value[0]
    return value if isinstance(value, int) and not isinstance(value, bool) else default


def mask(name: str, *shape: int, dtype=torch.long, **more) -> Mask:
    return Mask(name, shape, mock.constant(1), dtype, **more)


def ones(name: str, *shape: int, dtype=torch.long, **more) -> Input:
    return Input(name, shape, mock.constant(1), dtype, moves=False, **more)


def integers(name: str, *shape: int, low: int, high: int, **more) -> Input:
    return Input(name, shape, mock.int_range(low, high), torch.long, **more)


class Asked:
    """What one model says of itself, and the media that it might take."""

    def __init__(self, model: torch.nn.Module, config):
        self.model, self.config = model, config
        self.signature = inspect.signature(model.forward).parameters
        self.required = [
            name
            for name, p in self.signature.items()
            if p.default is p.empty and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
        ]
        main = getattr(model, "main_input_name", None) or "input_ids"
        self.main = main[0] if isinstance(main, (list, tuple)) else main
        try:
            self.text = config.get_text_config()
        except Exception:  # noqa: BLE001
            self.text = config
        vocabulary = anywhere(
            self.text, "vocab_size", "text_vocab_size", "n_token", "src_vocab_size"
        ) or anywhere(config, "vocab_size")
        self.vocabulary = whole(vocabulary, shrinking._VOCAB)
        vision = get(config, "vision_config")
        self.vision = vision if isinstance(vision, PretrainedConfig) else config

    def has(self, name: str) -> bool:
        return name in self.signature

    @functools.cache
    def wanted_by_towers(self) -> frozenset[str]:
        """What the model makes no features of a picture without."""
        getters = (getattr(owner, "get_image_features", None) for owner in self.model.modules())
        formal = (p for getter in getters if getter for p in inspect.signature(getter).parameters.items())
        return frozenset(name for name, p in formal if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD)

    # Media: each option is a dict of inputs (and constants, tensors) that go together.

    def size(self) -> tuple[int, int] | None:
        size = anywhere(self.vision, "image_size", "img_size", "pretrain_image_size", "input_size", "crop_size")
        if isinstance(size, dict):
            size = list(size.values())
        if isinstance(size, (list, tuple)):
            return (int(size[-2]), int(size[-1])) if len(size) > 1 else (int(size[0]),) * 2
        return (int(size),) * 2 if isinstance(size, int) and size > 0 else None

    def _fine(self, otherwise: int) -> tuple[int, int]:
        """Of a second, larger picture, where the configuration has one."""
        size = whole(get(get(self.config, "high_res_vision_config"), "image_size"), otherwise)
        return size, size

    def pictures(self) -> Iterator[dict]:
        vision = self.vision
        channels = whole(anywhere(vision, "num_channels", "in_channels", "in_chans", "input_channels"), 3)
        frames = whole(anywhere(vision, "num_frames", "frames_per_clip"), 2)
        patch = whole(anywhere(vision, "patch_size", "spatial_patch_size"), 16)
        in_time = whole(anywhere(vision, "temporal_patch_size", "patch_temporal"), 1) or 1
        merge = whole(anywhere(vision, "spatial_merge_size", "merge_size"), 2) or 2
        if self.has("image_grid_thw") or self.has("grid_thw"):
            side = 2 * merge
            grid = torch.tensor([[1, side, side]])
            flat = channels * in_time * patch * patch
            merged = merge * patch  # of the patches that become one
            for shape in ((side * side, flat), (side * side, channels, patch, patch), (1, side * side, flat),
                          (4 * in_time, merged, merged, channels)):
                yield {
                    "pixel_values": noise("pixel_values", *shape, batch_dim=None),
                    "image_grid_thw": grid, "grid_thw": grid, "image_merge_sizes": torch.tensor([merge]),
                }  # fmt: skip
        if self.has("spatial_shapes") or self.has("flattened_patches") or self.has("image_attention_mask"):
            yield {
                "pixel_values": noise("pixel_values", BATCH, 16, channels * patch * patch),
                "pixel_attention_mask": ones("pixel_attention_mask", BATCH, 16),
                "spatial_shapes": torch.tensor([[4, 4]] * BATCH),
            }
        if rows := whole(get(vision, "patch_dim"), 0):  # all patches of a picture in the place of its dots
            yield {"pixel_values": noise("pixel_values", 16, rows, batch_dim=None)}
        if self.has("image_grid_hw"):
            yield {
                "pixel_values": noise("pixel_values", 16, channels * patch * patch, batch_dim=None),
                "image_grid_hw": torch.tensor([[4, 4]]),
            }
        if self.has("image_patches"):
            yield {"pixel_values": noise("pixel_values", BATCH, 16, channels * patch * patch)}
        if self.has("target_sizes"):  # the patches of a picture in one row
            for side in (4, 8):
                yield {
                    "pixel_values": noise("pixel_values", 1, channels, patch, side * side * patch),
                    "target_sizes": torch.tensor([[side, side]]),
                }
        if self.has("image_position_ids"):  # columns and rows of patches
            side = 2 * (whole(anywhere(vision, "pooling_kernel_size"), 1) or 1)
            columns = torch.arange(side).repeat(side)
            rows = torch.arange(side).repeat_interleave(side)
            places = torch.stack([columns, rows], -1).expand(BATCH, -1, -1).contiguous()
            for size in dict.fromkeys((whole(anywhere(vision, "model_patch_size"), patch), patch)):
                yield {
                    "pixel_values": noise("pixel_values", BATCH, side * side, channels * size * size),
                    "image_position_ids": places,
                }
        if anywhere(self.config, "image_grid_pinpoints") and (size := self.size()):
            # A picture of two tiles, behind a small one of the whole.
            yield {
                "pixel_values": noise("pixel_values", BATCH, 3, channels, *size),
                "image_sizes": torch.tensor([[size[0], 2 * size[1]]] * BATCH),
            }
        tiles = whole(anywhere(vision, "max_num_tiles"), 1)
        for height, width in dict.fromkeys(s for s in (self.size(), (64, 64), (32, 32), (224, 224)) if s):
            for batch in (BATCH, 1):
                yield {
                    "pixel_values": noise("pixel_values", batch, channels, height, width),
                    "pixel_mask": ones("pixel_mask", batch, height, width),
                    "image_sizes": torch.tensor([[height, width]] * batch),
                    "high_res_pixel_values": noise(
                        "high_res_pixel_values", batch, channels, *self._fine(height)
                    ),
                }
            for count in dict.fromkeys((1, frames)):
                yield {
                    "pixel_values": noise("pixel_values", BATCH, count, channels, height, width),
                    "pixel_mask": ones("pixel_mask", BATCH, height, width),
                    "image_sizes": torch.tensor([[height, width]] * BATCH),
                    "pixel_attention_mask": ones("pixel_attention_mask", BATCH, count, height, width, dtype=torch.bool),
                    "image_attention_mask": ones("image_attention_mask", BATCH, SEQUENCE, count),
                }  # fmt: skip
            if self.has("pixel_attention_mask"):  # of tiles
                yield {
                    "pixel_values": noise("pixel_values", BATCH, 1, channels, height, width),
                    "pixel_attention_mask": torch.ones(BATCH, 1, dtype=torch.bool),
                }
            yield {
                "pixel_values": noise("pixel_values", BATCH, 1, tiles, channels, height, width),
                "aspect_ratio_ids": ones("aspect_ratio_ids", BATCH, 1),
                "aspect_ratio_mask": ones("aspect_ratio_mask", BATCH, 1, tiles),
                "cross_attention_mask": ones("cross_attention_mask", BATCH, SEQUENCE, 1, tiles),
            }

    def sounds(self, name: str) -> Iterator[dict]:
        config = self.config
        bands = whole(
            anywhere(
                config, "num_mel_bins", "feature_projection_input_dim", "input_feat_per_channel", "feature_size",
                "mel_bins", "num_mel_filters", "input_channels", "num_chroma",
            ),
            80,
        )  # fmt: skip
        positions = anywhere(config, "max_source_positions")
        longest = whole(anywhere(config, "max_length", "spec_size"), 64)
        longest = longest if longest > 20 else 64
        features = anywhere(config, "input_dim", "in_channels", "input_size", default=bands)
        waves = [(BATCH, 1600), (BATCH, 1, 1600), (1, 1, 3200), (BATCH, 8000)]
        spectra = [(BATCH, bands, 2 * positions)] if isinstance(positions, int) else []
        spectra += [
            (BATCH, 32, bands), (BATCH, bands, 64), (BATCH, longest, bands), (BATCH, 1, longest, bands),
            (BATCH, 1, 64, 64), (BATCH, bands, 3000), (BATCH, 1, 256, bands),
        ]  # fmt: skip
        if isinstance(features, int):
            spectra.append((BATCH, 32, features))
        if isinstance(hidden := anywhere(self.text, "hidden_size", "d_model"), int):
            spectra.append((BATCH, 32, hidden))
        for shape in waves + spectra if name in ("input_values", "audio_values") else spectra + waves:
            batch = shape[0]
            frames = shape[1] if len(shape) > 2 and shape[1] not in (1, bands) else shape[-1]
            yield {
                name: noise(name, *shape),
                "feature_attention_mask": ones("feature_attention_mask", batch, shape[-1]),
                "input_features_mask": ones("input_features_mask", batch, frames, dtype=torch.bool),
                "attention_mask": ones("attention_mask", batch, frames),
                "is_longer": torch.zeros(batch, 1, dtype=torch.bool),
                "input_values_cutoffs": torch.tensor([[shape[-1]]] * batch),
            }

    def series(self) -> Iterator[dict]:
        config = self.config
        length = get(config, "context_length") or get(config, "context_len") or 32
        lag = max(get(config, "lags_sequence") or [0])
        channels = get(config, "num_input_channels") or get(config, "input_size") or 1
        features = get(config, "num_time_features") or 0
        future = get(config, "prediction_length") or 4
        shapes = [(BATCH, length + lag)] if channels == 1 else []
        shapes += [(BATCH, length + lag, channels), (BATCH, length), (BATCH, length + lag, 1)]
        for shape in shapes:
            yield {
                "past_values": noise("past_values", *shape),
                "past_time_features": noise("past_time_features", BATCH, length + lag, features),
                "past_observed_mask": ones("past_observed_mask", *shape, dtype=torch.float32),
                "future_time_features": noise("future_time_features", BATCH, future, features),
                "future_values": noise("future_values", BATCH, future, *shape[2:]),
                "freq": Input("freq", (BATCH, 1), mock.constant(0), torch.long, moves=False),
                "past_values_padding": Input(
                    "past_values_padding", (BATCH, length), mock.constant(0), torch.long, moves=False
                ),
            }
