"""Inputs that a model might take, from its signature and its configuration; the likeliest first.

Nothing here knows a model: names of arguments and fields of configurations are what the library's models share.
Whether an idea is right is found by running it.
"""

import dataclasses
import re
from collections.abc import Iterator

import torch

from .. import mock
from ..inputs import BATCH, SEQUENCE, Input, noise
from . import shrinking
from .media import A_MEDIUM, MEDIA, Asked, Candidate, anywhere, get, integers, mask, ones, whole

LENGTHS = (SEQUENCE, 64, 128)  # of a text alone
_AUDIO = ("input_features", "input_values", "audio_values")
# What a model that takes it is not run without.
_MODALITY = re.compile(rf"{A_MEDIUM.pattern}|^(image_patches|flattened_patches|visual_embeds|audio_input_ids)$")
# Structure of a picture that goes with it wherever the model has a name for it.
_WITH_MEDIA = {
    "image_grid_thw", "grid_thw", "image_merge_sizes", "image_grid_hw", "spatial_shapes", "pixel_attention_mask",
    "aspect_ratio_ids", "aspect_ratio_mask", "cross_attention_mask", "image_attention_mask", "high_res_pixel_values", "target_sizes", "image_position_ids",
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


def _ascending(tensor: torch.Tensor) -> None:
    tensor.copy_(tensor.sort(dim=-1).values)


class Thinker(Asked):
    """Candidates for one model."""

    def ids(self, name: str, batch: int, length: int, vocabulary: int | None = None, **more) -> Input:
        vocabulary = vocabulary or self.vocabulary
        low = 6 if vocabulary > 30 else 0
        high = max(low + 1, min(vocabulary, shrinking._VOCAB - shrinking._SPECIAL))
        return Input(name, (batch, length), mock.int_range(low, high), torch.long, ids=(low, high), **more)

    def named(self, name: str, batch: int, length: int) -> Input | torch.Tensor | None:
        """An idea for any other argument; None: none."""
        config = self.config

        def width(*names: str, default: int = 32) -> int:
            return whole(anywhere(config, *names), default)

        hidden = whole(
            anywhere(self.text, "hidden_size", "d_model", "n_embd", "embed_dim", "dim", "hidden_dim"), 32
        )
        frames = width("frames_per_clip", "num_frames", default=2)
        makers = {
            "input_ids": lambda: self.ids(name, batch, length),
            "inputs": lambda: self.ids(name, batch, length),
            "decoder_input_ids": lambda: self.ids(
                name, batch, SEQUENCE, anywhere(config, "decoder_vocab_size")
            ),
            "decoder_attention_mask": lambda: mask(name, batch, SEQUENCE),
            "attention_mask": lambda: mask(name, batch, length),
            "audio_mel": lambda: noise(name, batch, 64, 128),
            "audio_mel_mask": lambda: torch.zeros(batch, 64, dtype=torch.bool),
            "trajectories": lambda: self.ids(name, batch, length),
            "noise": lambda: noise(name, batch, self._patches()),
            "noise_sequence": lambda: noise(name, batch, 32, width("model_in_channels")),
            "position_ids": lambda: Input(name, (batch, length), mock.ramp(0, 1), torch.long, moves=False),
            "audio_values": lambda: noise(name, batch, 1, 64, 128),
            "bbox": lambda: integers(name, batch, length, 4, low=1, high=40, place=_ascending),
            "token_type_ids": lambda: self._segments(batch, length),
            "states": lambda: noise(name, batch, length, width("state_dim")),
            "actions": lambda: noise(name, batch, length, width("act_dim")),
            "state": lambda: noise(name, batch, width("max_state_dim", "state_dim")),
            "timestep": lambda: Input(name, (batch,), mock.uniform(0.0, 1.0)),
            "rewards": lambda: noise(name, batch, length, 1),
            "returns_to_go": lambda: noise(name, batch, length, 1),
            "timesteps": lambda: Input(name, (batch, length), mock.ramp(0, 1), torch.long, moves=False),
            "qformer_input_ids": lambda: self.ids(name, batch, SEQUENCE),
            "qformer_attention_mask": lambda: mask(name, batch, SEQUENCE),
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
            "prompt_pixel_values": lambda: noise(name, batch, 3, *(self.size() or (64, 64))),
            "prompt_masks": lambda: noise(name, batch, 3, *(self.size() or (64, 64))),
            "pixel_values_videos": lambda: noise(name, batch, frames, 3, *(self.size() or (64, 64))),
            "task_inputs": lambda: self.ids(name, batch, width("task_seq_len", default=8)),
            "tasks_input_ids": lambda: self.ids(name, batch, SEQUENCE),
            "tasks_attention_mask": lambda: mask(name, batch, SEQUENCE),
            "classes_input_ids": lambda: self.ids(name, 4, SEQUENCE, batch_dim=None),
            "classes_attention_mask": lambda: ones(name, 4, SEQUENCE, batch_dim=None),
            "classes_structure": lambda: torch.tensor([2] * batch),
            "codes": lambda: integers(name, batch, 1, 16, low=0, high=8),
            "audio_codes": lambda: integers(
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
            "image_patches": lambda: noise(name, batch, 16, 3 * width("patch_size", default=16) ** 2),
            "spectrogram": lambda: noise(name, batch, 32, width("model_in_dim", "num_mel_bins", default=80)),
        }
        if name not in makers:  # of several alike, e.g. a question's and a document's
            name_of = next((n for n in ("input_ids", "attention_mask") if name.startswith(f"{n}_")), None)
            return dataclasses.replace(makers[name_of](), name=name) if name_of else None
        return makers[name]()

    def _patches(self) -> int:
        height, width = self.size() or (64, 64)
        patch = whole(anywhere(self.vision, "patch_size"), 16)
        return (height // patch) * (width // patch)

    def _segments(self, batch: int, length: int) -> Input:
        several = anywhere(self.config, "type_vocab_sizes")
        kinds = whole(anywhere(self.config, "type_vocab_size"), 2)
        shape = (batch, length, len(several)) if several else (batch, length)
        if several or kinds < 2:
            return Input("token_type_ids", shape, mock.constant(0), torch.long, moves=False)
        return integers("token_type_ids", *shape, low=0, high=2)

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
                    padding = mask("attention_mask", *frames.shape[:2], batch_dim=frames.batch_dim)
                    candidate = dataclasses.replace(candidate, inputs={**candidate.inputs, padding.name: padding})
                yield candidate
        if media and texts and self.main == "input_ids":
            inputs = {"input_ids": self.ids("input_ids", BATCH, SEQUENCE)}
            if self.has("attention_mask"):
                inputs["attention_mask"] = mask("attention_mask", BATCH, SEQUENCE)
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
            # Or a row for each.
            plain = self._candidate(options[0], media, texts, SEQUENCE, 0)
            if name != self.main:
                ids = plain.inputs.get(name) or self.named(name, BATCH, SEQUENCE)
                tall = dataclasses.replace(ids, shape=(count * ids.shape[0], *ids.shape[1:]))
                given = {n: dataclasses.replace(i, batch_dim=None) for n, i in {**plain.inputs, name: tall}.items()}
                yield dataclasses.replace(plain, inputs=given)

    def _media(self) -> tuple[str, list[dict]]:
        for name in [self.main, *(m for m in MEDIA if m != self.main)]:
            if not self.has(name) or name not in MEDIA:
                continue
            if name == "pixel_values":
                return name, list(self.pictures())
            if name in _AUDIO:
                return name, list(self.sounds(name))
            if name == "past_values":
                return name, list(self.series())
            if name in self.required or name in (self.main, "visual_embeds", "image_patches"):
                return name, [{name: self.named(name, BATCH, SEQUENCE)}]
        for name in self.signature:
            if (found := A_MEDIUM.search(name)) and found[1] in MEDIA:
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
        towers = self.wanted_by_towers()
        for name, value in option.items():
            wanted = name == media or name in self.required or rich or name in _WITH_MEDIA or name in towers
            if self.has(name) and wanted and (name != "attention_mask" or (rich and not texts)):
                found[name] = value
        wanted = []
        if texts:
            wanted.append("input_ids")
            if self.has("attention_mask"):
                wanted.append("attention_mask")
        wanted += [*self.required, *([self.main] if self.has(self.main) else [])]
        if self.has("decoder_input_ids") and (get(self.config, "is_encoder_decoder") or rich):
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
