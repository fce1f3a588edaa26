"""Places among a model's ids for the features of a picture or sound, and how many it wants."""

import dataclasses
import inspect
import itertools
import re

import torch

from ..inputs import SEQUENCE
from .media import A_MEDIUM, MEDIA, Asked, Candidate, configurations, get

_OF_FRAMES = "pixel_values of frames"


# Placeholders: ids at which a model puts the features of a picture or sound.

def placeholder(asked: Asked, media: str) -> int | None:
    if media not in (*MEDIA, _OF_FRAMES) and (found := A_MEDIUM.search(media)):
        media = found[1]
    pattern = {
        "pixel_values": r"^(image|img|media|vision)\w*_token(_id|_index|_idx)$|^image_token_ids?$|^im_patch",
        "image_patches": r"^image\w*_token(_id|_index)$",
        _OF_FRAMES: r"^video\w*_token(_id|_index)$",
        "pixel_values_videos": r"^video\w*_token(_id|_index)$",
    }.get(media, r"^(audio|speech)\w*_token(_id|_index|_idx)$")
    for config in configurations(asked.config):
        names = [
            name
            for name in config.to_dict()
            if re.search(pattern, name) and not re.search("(^|_)(start|end|begin|eo|bo)", name)
        ]
        for name in sorted(names, key=len):
            value = get(config, name)
            if isinstance(value, int):
                return value
    # A model of films alone may name its frames as others name a picture.
    return placeholder(asked, _OF_FRAMES) if media == "pixel_values" else None

def with_placeholders(asked: Asked, candidate: Candidate, total: int) -> Candidate | None:
    """The candidate with `total` places for features among its ids; None where that cannot be."""
    token, ids = (placeholder(asked, candidate.media), candidate.inputs.get("input_ids"))
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
    if asked.has("mm_token_type_ids"):
        constants["mm_token_type_ids"] = (inputs["input_ids"].make(0) == token).long()
    return dataclasses.replace(candidate, inputs=inputs, constants=constants)

def features(asked: Asked, candidate: Candidate) -> int | None:
    """How many rows of features the model makes of the picture or sound; None where it does not say."""
    pictures = ("get_image_features", "get_video_features")
    pictured = candidate.media in ("pixel_values", "image_patches")
    getters = pictures if pictured else ("get_audio_features",)
    given = {**candidate.draw(), **candidate.constants}
    if pictured:
        given.setdefault("pixel_values", given[candidate.media])
    for owner, getter in itertools.product(asked.model.modules(), getters):
        function = getattr(owner, getter, None)
        if function is None:
            continue
        takes = inspect.signature(function).parameters
        keywords = {
            n: v for n, v in given.items() if n in takes and n not in ("input_ids", "attention_mask")
        }
        for name in ("vision_feature_layer", "vision_feature_select_strategy"):
            if name in takes and hasattr(asked.config, name):
                keywords[name] = getattr(asked.config, name)
        try:
            made = function(**keywords)
        except Exception:  # noqa: BLE001 - it wants something else
            continue
        if hasattr(made, "keys"):
            pooled = made.get("pooler_output")
            made = pooled if pooled is not None else next(iter(made.values()))
        count = sum(t.numel() // t.shape[-1] for t in _flat_tensors(made) if t.is_floating_point())
        if count:  # one that a model of films only inherits gives nothing
            return count
    return None


def _flat_tensors(value) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return [tensor for part in value for tensor in _flat_tensors(part)]
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
