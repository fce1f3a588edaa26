"""Inputs that a model might take, from its signature and its configuration; the likeliest first.

Nothing here knows a model: names of arguments and fields of configurations are what the library's models share.
Whether an idea is right is found by running it.
"""

import dataclasses
import inspect
import itertools
import re
from collections.abc import Iterator

import torch
from transformers import PretrainedConfig

from .. import mock
from ..inputs import BATCH, SEQUENCE, Input, noise
from . import shrinking

LENGTHS = (SEQUENCE, 64, 128)  # of a text alone
_MEDIA = ("pixel_values", "input_features", "input_values", "audio_values", "past_values", "pixel_values_videos",
          "flattened_patches", "visual_embeds")  # fmt: skip
_AUDIO = ("input_features", "input_values", "audio_values")
# A picture or sound under any name, e.g. pixel_values_images.
_A_MEDIUM = re.compile("(pixel_values|input_features|input_values|audio_values)(?!_?(mask|cutoffs|videos|padding))")
_OF_FRAMES = "pixel_values of frames"
# What a model that takes it is not run without.
_MODALITY = re.compile(rf"{_A_MEDIUM.pattern}|^(image_patches|flattened_patches|visual_embeds|audio_input_ids)$")
# Structure of a picture that goes with it wherever the model has a name for it.
_WITH_MEDIA = {
    "image_grid_thw", "grid_thw", "spatial_shapes", "pixel_attention_mask", "aspect_ratio_ids", "aspect_ratio_mask",
    "cross_attention_mask", "image_attention_mask", "high_res_pixel_values", "target_sizes", "image_position_ids",
    "feature_attention_mask", "input_values_cutoffs",
}  # fmt: skip
_RICHER = (
    "token_type_ids", "image_sizes", "speaker_embeddings", "visual_feats", "visual_pos", "input_points",
    "pixel_values_videos", "encoder_hidden_states", "audio_codes", "noise", "noise_sequence",
)  # fmt: skip
_NEVER = {
    "hidden_states", "inputs_embeds", "encoder_hidden_states", "attention_mask", "query_embeds", "inputs",
    "bool_masked_pos", "image", "codebook_idx", "labels", "past_key_values", "return_dict", "output_attentions",
    "output_hidden_states", "use_cache",
}  # fmt: skip


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

    def listed(self) -> list[Input]:
        return list(self.inputs.values())

    def draw(self, seed: int = 0, batch: int | None = None) -> dict[str, torch.Tensor]:
        return {name: spec.make(seed, batch) for name, spec in self.inputs.items()}

    def without(self, names) -> "Candidate":
        return dataclasses.replace(self, inputs={n: i for n, i in self.inputs.items() if n not in names})


def _get(config, name: str):
    try:
        return getattr(config, name, None)
    except Exception:  # noqa: BLE001
        return None


def anywhere(config, *names: str, default=None, _seen: set | None = None):
    """The first field of these names in a configuration or the ones inside it, those of pictures and sounds first."""
    seen = _seen if _seen is not None else set()
    seen.add(id(config))
    for name in names:
        value = _get(config, name)
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


def _configurations(config, _seen: set | None = None) -> Iterator[PretrainedConfig]:
    """A configuration and those inside it."""
    seen = _seen if _seen is not None else set()
    if id(config) in seen:
        return
    seen.add(id(config))
    yield config
    for value in list(vars(config).values()):
        if isinstance(value, PretrainedConfig):
            yield from _configurations(value, seen)


def _whole(value, default: int) -> int:
    if isinstance(value, (list, tuple)) and value:
        value = value[0]
    return value if isinstance(value, int) and not isinstance(value, bool) else default


def _mask(name: str, *shape: int, dtype=torch.long, **more) -> Mask:
    return Mask(name, shape, mock.constant(1), dtype, **more)


def _ones(name: str, *shape: int, dtype=torch.long, **more) -> Input:
    return Input(name, shape, mock.constant(1), dtype, moves=False, **more)


def _integers(name: str, *shape: int, low: int, high: int, **more) -> Input:
    return Input(name, shape, mock.int_range(low, high), torch.long, **more)


def _ascending(tensor: torch.Tensor) -> None:
    tensor.copy_(tensor.sort(dim=-1).values)


class Thinker:
    """Candidates for one model."""

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
        self.vocabulary = _whole(vocabulary, shrinking._VOCAB)
        vision = _get(config, "vision_config")
        self.vision = vision if isinstance(vision, PretrainedConfig) else config

    def has(self, name: str) -> bool:
        return name in self.signature

    def ids(self, name: str, batch: int, length: int, vocabulary: int | None = None, **more) -> Input:
        vocabulary = vocabulary or self.vocabulary
        low = 6 if vocabulary > 30 else 0
        high = max(low + 1, min(vocabulary, shrinking._VOCAB - shrinking._SPECIAL))
        return Input(name, (batch, length), mock.int_range(low, high), torch.long, ids=(low, high), **more)

    # Media: each option is a dict of inputs (and constants, tensors) that go together.

    def _size(self) -> tuple[int, int] | None:
        size = anywhere(self.vision, "image_size", "img_size", "pretrain_image_size", "input_size", "crop_size")
        if isinstance(size, dict):
            size = list(size.values())
        if isinstance(size, (list, tuple)):
            return (int(size[-2]), int(size[-1])) if len(size) > 1 else (int(size[0]),) * 2
        return (int(size),) * 2 if isinstance(size, int) and size > 0 else None

    def _fine(self, otherwise: int) -> tuple[int, int]:
        """Of a second, larger picture, where the configuration has one."""
        size = _whole(_get(_get(self.config, "high_res_vision_config"), "image_size"), otherwise)
        return size, size

    def pictures(self) -> Iterator[dict]:
        vision = self.vision
        channels = _whole(anywhere(vision, "num_channels", "in_channels", "in_chans", "input_channels"), 3)
        frames = _whole(anywhere(vision, "num_frames", "frames_per_clip"), 2)
        patch = _whole(anywhere(vision, "patch_size", "spatial_patch_size"), 16)
        in_time = _whole(anywhere(vision, "temporal_patch_size", "patch_temporal"), 1) or 1
        merge = _whole(anywhere(vision, "spatial_merge_size", "merge_size"), 2) or 2
        if self.has("image_grid_thw") or self.has("grid_thw"):
            side = 2 * merge
            grid = torch.tensor([[1, side, side]])
            flat = channels * in_time * patch * patch
            whole = merge * patch  # of the patches that become one
            for shape in ((side * side, flat), (side * side, channels, patch, patch), (1, side * side, flat),
                          (4 * in_time, whole, whole, channels)):
                yield {
                    "pixel_values": noise("pixel_values", *shape, batch_dim=None),
                    "image_grid_thw": grid, "grid_thw": grid,
                }  # fmt: skip
        if self.has("spatial_shapes") or self.has("flattened_patches") or self.has("image_attention_mask"):
            yield {
                "pixel_values": noise("pixel_values", BATCH, 16, channels * patch * patch),
                "pixel_attention_mask": _ones("pixel_attention_mask", BATCH, 16),
                "spatial_shapes": torch.tensor([[4, 4]] * BATCH),
            }
        if self.has("target_sizes"):  # the patches of a picture in one row
            for side in (4, 8):
                yield {
                    "pixel_values": noise("pixel_values", 1, channels, patch, side * side * patch),
                    "target_sizes": torch.tensor([[side, side]]),
                }
        if self.has("image_position_ids"):  # columns and rows of patches
            side = 2 * (_whole(anywhere(vision, "pooling_kernel_size"), 1) or 1)
            columns = torch.arange(side).repeat(side)
            rows = torch.arange(side).repeat_interleave(side)
            places = torch.stack([columns, rows], -1).expand(BATCH, -1, -1).contiguous()
            for size in dict.fromkeys((_whole(anywhere(vision, "model_patch_size"), patch), patch)):
                yield {
                    "pixel_values": noise("pixel_values", BATCH, side * side, channels * size * size),
                    "image_position_ids": places,
                }
        if anywhere(self.config, "image_grid_pinpoints") and (size := self._size()):
            # A picture of two tiles, behind a small one of the whole.
            yield {
                "pixel_values": noise("pixel_values", BATCH, 3, channels, *size),
                "image_sizes": torch.tensor([[size[0], 2 * size[1]]] * BATCH),
            }
        tiles = _whole(anywhere(vision, "max_num_tiles"), 1)
        for height, width in dict.fromkeys(s for s in (self._size(), (64, 64), (32, 32), (224, 224)) if s):
            for batch in (BATCH, 1):
                yield {
                    "pixel_values": noise("pixel_values", batch, channels, height, width),
                    "pixel_mask": _ones("pixel_mask", batch, height, width),
                    "image_sizes": torch.tensor([[height, width]] * batch),
                    "high_res_pixel_values": noise(
                        "high_res_pixel_values", batch, channels, *self._fine(height)
                    ),
                }
            for count in dict.fromkeys((1, frames)):
                yield {
                    "pixel_values": noise("pixel_values", BATCH, count, channels, height, width),
                    "pixel_mask": _ones("pixel_mask", BATCH, height, width),
                    "image_sizes": torch.tensor([[height, width]] * BATCH),
                    "pixel_attention_mask": _ones("pixel_attention_mask", BATCH, count, height, width, dtype=torch.bool),
                    "image_attention_mask": _ones("image_attention_mask", BATCH, SEQUENCE, count),
                }  # fmt: skip
            if self.has("pixel_attention_mask"):  # of tiles
                yield {
                    "pixel_values": noise("pixel_values", BATCH, 1, channels, height, width),
                    "pixel_attention_mask": torch.ones(BATCH, 1, dtype=torch.bool),
                }
            yield {
                "pixel_values": noise("pixel_values", BATCH, 1, tiles, channels, height, width),
                "aspect_ratio_ids": _ones("aspect_ratio_ids", BATCH, 1),
                "aspect_ratio_mask": _ones("aspect_ratio_mask", BATCH, 1, tiles),
                "cross_attention_mask": _ones("cross_attention_mask", BATCH, SEQUENCE, 1, tiles),
            }

    def sounds(self, name: str) -> Iterator[dict]:
        config = self.config
        bands = _whole(
            anywhere(
                config, "num_mel_bins", "feature_projection_input_dim", "input_feat_per_channel", "feature_size",
                "mel_bins", "num_mel_filters", "input_channels",
            ),
            80,
        )  # fmt: skip
        positions = anywhere(config, "max_source_positions")
        longest = _whole(anywhere(config, "max_length", "spec_size"), 64)
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
                "feature_attention_mask": _ones("feature_attention_mask", batch, shape[-1]),
                "input_features_mask": _ones("input_features_mask", batch, frames, dtype=torch.bool),
                "attention_mask": _ones("attention_mask", batch, frames),
                "is_longer": torch.zeros(batch, 1, dtype=torch.bool),
                "input_values_cutoffs": torch.tensor([[shape[-1]]] * batch),
            }

    def series(self) -> Iterator[dict]:
        config = self.config
        length = _get(config, "context_length") or _get(config, "context_len") or 32
        lag = max(_get(config, "lags_sequence") or [0])
        channels = _get(config, "num_input_channels") or _get(config, "input_size") or 1
        features = _get(config, "num_time_features") or 0
        future = _get(config, "prediction_length") or 4
        shapes = [(BATCH, length + lag)] if channels == 1 else []
        shapes += [(BATCH, length + lag, channels), (BATCH, length), (BATCH, length + lag, 1)]
        for shape in shapes:
            yield {
                "past_values": noise("past_values", *shape),
                "past_time_features": noise("past_time_features", BATCH, length + lag, features),
                "past_observed_mask": _ones("past_observed_mask", *shape, dtype=torch.float32),
                "future_time_features": noise("future_time_features", BATCH, future, features),
                "future_values": noise("future_values", BATCH, future, *shape[2:]),
                "freq": Input("freq", (BATCH, 1), mock.constant(0), torch.long, moves=False),
                "past_values_padding": Input(
                    "past_values_padding", (BATCH, length), mock.constant(0), torch.long, moves=False
                ),
            }

    def named(self, name: str, batch: int, length: int) -> Input | torch.Tensor | None:
        """An idea for any other argument; None: none."""
        config = self.config

        def width(*names: str, default: int = 32) -> int:
            return _whole(anywhere(config, *names), default)

        hidden = _whole(
            anywhere(self.text, "hidden_size", "d_model", "n_embd", "embed_dim", "dim", "hidden_dim"), 32
        )
        frames = width("frames_per_clip", "num_frames", default=2)
        makers = {
            "input_ids": lambda: self.ids(name, batch, length),
            "inputs": lambda: self.ids(name, batch, length),
            "decoder_input_ids": lambda: self.ids(
                name, batch, SEQUENCE, anywhere(config, "decoder_vocab_size")
            ),
            "decoder_attention_mask": lambda: _mask(name, batch, SEQUENCE),
            "attention_mask": lambda: _mask(name, batch, length),
            "audio_mel": lambda: noise(name, batch, 64, 128),
            "audio_mel_mask": lambda: torch.zeros(batch, 64, dtype=torch.bool),
            "trajectories": lambda: self.ids(name, batch, length),
            "noise": lambda: noise(name, batch, self._patches()),
            "noise_sequence": lambda: noise(name, batch, 32, width("model_in_channels")),
            "position_ids": lambda: Input(name, (batch, length), mock.ramp(0, 1), torch.long, moves=False),
            "audio_values": lambda: noise(name, batch, 1, 64, 128),
            "bbox": lambda: _integers(name, batch, length, 4, low=1, high=40, place=_ascending),
            "token_type_ids": lambda: self._segments(batch, length),
            "states": lambda: noise(name, batch, length, width("state_dim")),
            "actions": lambda: noise(name, batch, length, width("act_dim")),
            "state": lambda: noise(name, batch, width("max_state_dim", "state_dim")),
            "timestep": lambda: Input(name, (batch,), mock.uniform(0.0, 1.0)),
            "rewards": lambda: noise(name, batch, length, 1),
            "returns_to_go": lambda: noise(name, batch, length, 1),
            "timesteps": lambda: Input(name, (batch, length), mock.ramp(0, 1), torch.long, moves=False),
            "qformer_input_ids": lambda: self.ids(name, batch, SEQUENCE),
            "qformer_attention_mask": lambda: _mask(name, batch, SEQUENCE),
            "visual_feats": lambda: noise(name, batch, 4, width("visual_feat_dim")),
            "visual_embeds": lambda: noise(name, batch, 4, width("visual_embedding_dim")),
            "visual_pos": lambda: Input(name, (batch, 4, 4), mock.uniform(0.0, 1.0)),
            "image": lambda: noise(name, batch, 3, 224, 224),
            "encoder_hidden_states": lambda: noise(
                name,
                batch,
                6,
                width("encoder_hidden_size", "cross_attention_hidden_size", "hidden_size", "d_model"),
            ),
            "hidden_states": lambda: noise(name, batch, length, hidden),
            "inputs_embeds": lambda: noise(name, batch, length, hidden),
            "query_embeds": lambda: noise(name, batch, 4, width("hidden_size")),
            "prompt_pixel_values": lambda: noise(name, batch, 3, *(self._size() or (64, 64))),
            "prompt_masks": lambda: noise(name, batch, 3, *(self._size() or (64, 64))),
            "pixel_values_videos": lambda: noise(name, batch, frames, 3, *(self._size() or (64, 64))),
            "task_inputs": lambda: self.ids(name, batch, width("task_seq_len", default=8)),
            "tasks_input_ids": lambda: self.ids(name, batch, SEQUENCE),
            "tasks_attention_mask": lambda: _mask(name, batch, SEQUENCE),
            "classes_input_ids": lambda: self.ids(name, 4, SEQUENCE, batch_dim=None),
            "classes_attention_mask": lambda: _ones(name, 4, SEQUENCE, batch_dim=None),
            "classes_structure": lambda: torch.tensor([2] * batch),
            "codes": lambda: _integers(name, batch, 1, 16, low=0, high=8),
            "audio_codes": lambda: _integers(
                name, batch, width("num_codebooks", default=4), 16, low=0, high=8
            ),
            "input_boxes": lambda: torch.tensor([[[4.0, 4.0, 30.0, 30.0]]] * batch),
            "input_points": lambda: torch.tensor([[[[8.0, 8.0]]]] * batch),
            "image_embeds_position_mask": lambda: Input(
                name,
                (batch, length),
                mock.constant(0),
                torch.bool,
                moves=False,
                place=lambda mask: mask[:, 2 : 2 + width("latent_query_num", default=4)].fill_(True),
            ),
            "speaker_embeddings": lambda: noise(name, batch, width("speaker_embedding_dim")),
            "flattened_patches": lambda: noise(
                name, batch, 16, 2 + 3 * width("patch_size", default=16) ** 2, place=_rows_and_columns
            ),
            "spectrogram": lambda: noise(name, batch, 32, width("model_in_dim", "num_mel_bins", default=80)),
        }
        if name not in makers:  # of several alike, e.g. a question's and a document's
            name_of = next((n for n in ("input_ids", "attention_mask") if name.startswith(f"{n}_")), None)
            return dataclasses.replace(makers[name_of](), name=name) if name_of else None
        return makers[name]()

    def _patches(self) -> int:
        height, width = self._size() or (64, 64)
        patch = _whole(anywhere(self.vision, "patch_size"), 16)
        return (height // patch) * (width // patch)

    def _segments(self, batch: int, length: int) -> Input:
        several = anywhere(self.config, "type_vocab_sizes")
        kinds = _whole(anywhere(self.config, "type_vocab_size"), 2)
        shape = (batch, length, len(several)) if several else (batch, length)
        if several or kinds < 2:
            return Input("token_type_ids", shape, mock.constant(0), torch.long, moves=False)
        return _integers("token_type_ids", *shape, low=0, high=2)

    def candidates(self) -> Iterator[Candidate]:
        """Different ones, the likeliest first; the text path alone of a model of more last, and marked."""
        seen = set()
        takes_media = any(_MODALITY.search(name) for name in self.signature)
        for candidate in self._all():
            if takes_media and not candidate.media:
                candidate = dataclasses.replace(candidate, text_only=True)
            shapes = {name: spec.shape for name, spec in candidate.inputs.items()}
            constants = {n: str(v) for n, v in candidate.constants.items() if self.has(n)}
            key = str((sorted(shapes.items()), sorted(constants.items()), candidate.text_only))
            if key not in seen:
                seen.add(key)
                yield candidate

    def _all(self) -> Iterator[Candidate]:
        media, options = self._media()
        texts = self.has("input_ids") and media != "past_values" and self.main != "inputs"
        for rich in (0, 1, 2):
            for length in (SEQUENCE,) if media else LENGTHS:
                for option in options:
                    yield self._candidate(option, media, texts, length, rich)
        yield from self._coded(media, options, texts)
        if texts and self.has("position_ids"):
            placed = self._candidate(options[0], media, texts, SEQUENCE, 0)
            positions = self.named("position_ids", BATCH, SEQUENCE)
            yield dataclasses.replace(placed, inputs={**placed.inputs, "position_ids": positions})
        if media and texts and self.has("decoder_input_ids") and "input_ids" not in self.required:
            # The picture or sound in the place of the encoder's ids.
            for option in options:
                candidate = self._candidate(option, media, False, SEQUENCE, 0)
                candidate = candidate.without({"input_ids", "attention_mask"})
                frames = candidate.inputs[media]
                if self.has("attention_mask") and len(frames.shape) == 3:
                    mask = _mask("attention_mask", *frames.shape[:2], batch_dim=frames.batch_dim)
                    candidate = dataclasses.replace(candidate, inputs={**candidate.inputs, mask.name: mask})
                yield candidate
        if media and texts and self.main == "input_ids":
            inputs = {"input_ids": self.ids("input_ids", BATCH, SEQUENCE)}
            if self.has("attention_mask"):
                inputs["attention_mask"] = _mask("attention_mask", BATCH, SEQUENCE)
            yield Candidate(inputs, {}, "", text_only=True)

    def _coded(self, media: str, options: list[dict], texts: bool) -> Iterator[Candidate]:
        """Where ids have one column for each of several codebooks, with or without one for a text."""
        count = anywhere(self.config, "num_codebooks", "num_channels")
        if media == "pixel_values" or not isinstance(count, int) or count < 2:
            return
        for name in ("decoder_input_ids", "input_ids"):
            if not self.has(name):
                continue
            for columns in (count, count + 1):
                plain = self._candidate(options[0], media, texts, SEQUENCE, 0)
                if name in plain.inputs:
                    ids = plain.inputs[name]
                    wide = dataclasses.replace(ids, shape=(*ids.shape, columns))
                    yield dataclasses.replace(plain, inputs={**plain.inputs, name: wide})

    def _media(self) -> tuple[str, list[dict]]:
        for name in [self.main, *(m for m in _MEDIA if m != self.main)]:
            if not self.has(name) or name not in _MEDIA:
                continue
            if name == "pixel_values":
                return name, list(self.pictures())
            if name in _AUDIO:
                return name, list(self.sounds(name))
            if name == "past_values":
                return name, list(self.series())
            if name in self.required or name in (self.main, "visual_embeds"):
                return name, [{name: self.named(name, BATCH, SEQUENCE)}]
        for name in self.signature:
            if (found := _A_MEDIUM.search(name)) and found[1] in _MEDIA:
                known = found[1]
                options = list(self.pictures() if known == "pixel_values" else self.sounds(known))
                return name, [_renamed(option, known, name) for option in options]
        return "", [{}]

    def _candidate(self, option: dict, media: str, texts: bool, length: int, rich: int) -> Candidate:
        batch = option[media].shape[0] if media else BATCH
        flat = bool(media) and option[media].batch_dim is None
        if flat:
            batch = 1
        found: dict[str, object] = {}
        for name, value in option.items():
            wanted = name == media or name in self.required or rich or name in _WITH_MEDIA
            if self.has(name) and wanted and (name != "attention_mask" or (rich and not texts)):
                found[name] = value
        wanted = []
        if texts:
            wanted.append("input_ids")
            if self.has("attention_mask"):
                wanted.append("attention_mask")
        wanted += [*self.required, *([self.main] if self.has(self.main) else [])]
        if self.has("decoder_input_ids") and (_get(self.config, "is_encoder_decoder") or rich):
            wanted += ["decoder_input_ids"]
            wanted += ["decoder_attention_mask"] if self.has("decoder_attention_mask") else []
        if self.has("bbox"):
            wanted.append("bbox")
        if self.main == "inputs" and self.has("attention_mask"):
            wanted.append("attention_mask")
        if rich:
            # Pictures and videos at once only among the richest: each wants places of its own.
            wanted += [
                n for n in _RICHER if self.has(n) and (n != "pixel_values_videos" or media != "pixel_values")
            ]
        if rich == 2:
            wanted += [name for name in self.signature if name not in _NEVER]
        for name in wanted:
            if name not in found:
                value = self.named(name, batch, length)
                if value is not None:
                    found[name] = value
        inputs, constants = {}, {}
        for name, value in found.items():
            if not isinstance(value, Input):
                constants[name] = value
                continue
            if flat or batch == 1:
                value.batch_dim = None
            inputs[name] = value
        for name, value in inputs.items():  # a picture that is an example is as large as the other
            if name.startswith("prompt_") and media == "pixel_values":
                value.shape = inputs[media].shape
        return Candidate(inputs, constants, media)

    # Placeholders: ids at which a model puts the features of a picture or sound.

    def placeholder(self, media: str) -> int | None:
        if media not in (*_MEDIA, _OF_FRAMES) and (found := _A_MEDIUM.search(media)):
            media = found[1]
        pattern = {
            "pixel_values": r"^(image|img|media|vision)\w*_token(_id|_index|_idx)$|^image_token_ids?$|^im_patch",
            _OF_FRAMES: r"^video\w*_token(_id|_index)$",
            "pixel_values_videos": r"^video\w*_token(_id|_index)$",
        }.get(media, r"^(audio|speech)\w*_token(_id|_index|_idx)$")
        for config in _configurations(self.config):
            names = [
                name
                for name in config.to_dict()
                if re.search(pattern, name) and not re.search("(^|_)(start|end|begin|eo|bo)", name)
            ]
            for name in sorted(names, key=len):
                value = _get(config, name)
                if isinstance(value, int):
                    return value
        # A model of films alone may name its frames as others name a picture.
        return self.placeholder(_OF_FRAMES) if media == "pixel_values" else None

    def with_placeholders(self, candidate: Candidate, total: int) -> Candidate | None:
        """The candidate with `total` places for features among its ids; None where that cannot be."""
        token, ids = (self.placeholder(candidate.media), candidate.inputs.get("input_ids"))
        if token is None or ids is None or not total or total % ids.shape[0] or total > 4096:
            return None
        batch, count = ids.shape[0], total // ids.shape[0]
        length = count + SEQUENCE

        def place(tensor: torch.Tensor) -> None:
            tensor[:, 2 : 2 + count] = token

        inputs = dict(candidate.inputs)
        inputs["input_ids"] = dataclasses.replace(ids, shape=(batch, length), place=place)
        for name in ("attention_mask", "token_type_ids"):
            if name in inputs and len(inputs[name].shape) == 2:
                inputs[name] = dataclasses.replace(inputs[name], shape=(batch, length))
        if "cross_attention_mask" in inputs:
            spec = inputs["cross_attention_mask"]
            inputs["cross_attention_mask"] = dataclasses.replace(spec, shape=(batch, length, *spec.shape[2:]))
        constants = dict(candidate.constants)
        if self.has("mm_token_type_ids"):
            constants["mm_token_type_ids"] = (inputs["input_ids"].make(0) == token).long()
        return dataclasses.replace(candidate, inputs=inputs, constants=constants)

    def features(self, candidate: Candidate) -> int | None:
        """How many rows of features the model makes of the picture or sound; None where it does not say."""
        pictures = ("get_image_features", "get_video_features")
        getters = pictures if candidate.media == "pixel_values" else ("get_audio_features",)
        given = {**candidate.draw(), **candidate.constants}
        for owner, getter in itertools.product(self.model.modules(), getters):
            function = getattr(owner, getter, None)
            if function is None:
                continue
            takes = inspect.signature(function).parameters
            keywords = {
                n: v for n, v in given.items() if n in takes and n not in ("input_ids", "attention_mask")
            }
            for name in ("vision_feature_layer", "vision_feature_select_strategy"):
                if name in takes and hasattr(self.config, name):
                    keywords[name] = getattr(self.config, name)
            try:
                made = function(**keywords)
            except Exception:  # noqa: BLE001 - it wants something else
                continue
            if hasattr(made, "keys"):
                pooled = made.get("pooler_output")
                made = pooled if pooled is not None else next(iter(made.values()))
            count = sum(t.numel() // t.shape[-1] for t in flat_tensors(made) if t.is_floating_point())
            if count:  # one that a model of films only inherits gives nothing
                return count
        return None


def _renamed(option: dict, known: str, name: str) -> dict:
    made = {name if n == known else n: value for n, value in option.items()}
    made[name] = dataclasses.replace(made[name], name=name)
    return made


def _rows_and_columns(tensor: torch.Tensor) -> None:
    """Each patch behind its row and column."""
    count = tensor.shape[1]
    side = max(1, int(count**0.5))
    places = torch.arange(count)
    tensor[:, :, 0] = places // side + 1
    tensor[:, :, 1] = places % side + 1


def flat_tensors(value) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return [tensor for part in value for tensor in flat_tensors(part)]
    return []


_COUNTED = (
    re.compile(r"tokens?:? *(\d+),? *(?:and|!=|length:)? *features?:? *(?:torch.Size\(\[)?(\d+)"),
    re.compile(r"features?[^0-9]{1,60}?(\d+)[^0-9]+tokens"),
    re.compile(r"value tensor of shape \[(\d+)(?:, \d+)?\] cannot be broadcast to indexing result of shape \["),
)


def counted_features(message: str) -> int | None:
    """The number of features that an error of the library names beside the number of placeholders."""
    for pattern in _COUNTED:
        found = pattern.search(message)
        if found:
            return int(found.group(found.lastindex))
    return None
