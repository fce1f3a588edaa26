"""Qwen3-VL with one image of a fixed grid."""

import contextlib

import torch
from transformers.models.qwen3_vl import modeling_qwen3_vl
from transformers.models.qwen3_vl.modeling_qwen3_vl import (
    Qwen3VLModel,
    Qwen3VLTextModel,
    Qwen3VLVisionAttention,
    Qwen3VLVisionModel,
)

from . import edited, remembered, replaced

REASON = (
    "the image grid is read out of a tensor as Python numbers; it is a constant of the program. Adding the "
    "image's deep features where the placeholders stand picks out rows by a mask; "
    "the sum is over all rows instead. Positions are counted in lists of tokens; they are running sums instead"
)

_SPLIT_SIZES = "(image_grid_thw.prod(-1) // self.visual.spatial_merge_size**2).tolist()"


@remembered
def _neighbours(self, grid_thw):
    """Interpolating the learned position grid: the four neighbours' indices and weights, [4, h * w]."""
    ((frames, height, width),) = grid_thw.tolist()
    side = self.num_grid_per_side
    rows, columns = torch.linspace(0, side - 1, height), torch.linspace(0, side - 1, width)
    top, left = rows.int(), columns.int()
    bottom, right = (top + 1).clip(max=side - 1), (left + 1).clip(max=side - 1)
    down, across = rows - top, columns - left
    indices = [
        (row[:, None] * side + column[None]).flatten() for row in (top, bottom) for column in (left, right)
    ]
    weights = [(a[:, None] * b[None]).flatten() for a in (1 - down, down) for b in (1 - across, across)]
    return torch.stack(indices).long(), torch.stack(weights), (frames, height, width)


def _interpolate(self, grid_thw):
    indices, weights, (frames, height, width) = _neighbours(self, grid_thw)
    parts = self.pos_embed(indices) * weights[:, :, None]
    merge = self.config.spatial_merge_size
    whole = (parts[0] + parts[1] + parts[2] + parts[3]).repeat(frames, 1)
    blocks = whole.view(frames, height // merge, merge, width // merge, merge, -1)
    return blocks.permute(0, 1, 3, 2, 4, 5).flatten(0, 4)


def _add_deep_features(self, hidden_states, visual_pos_masks, visual_embeds):
    mask = visual_pos_masks.unsqueeze(-1).expand_as(hidden_states)
    return hidden_states + torch.zeros_like(hidden_states).masked_scatter(
        mask, visual_embeds.to(hidden_states.dtype)
    )


@remembered
def _grid(self, grid_thw):
    ((frames, height, width),) = grid_thw.tolist()
    merge = self.config.vision_config.spatial_merge_size
    if frames != 1:
        raise ValueError("positions are written for a picture, which has one frame")
    return height // merge, width // merge


_rope_index = Qwen3VLModel.get_rope_index


def _positions(self, input_ids=None, image_grid_thw=None, video_grid_thw=None, attention_mask=None):
    """Of text with one picture a row: text counts up, a picture's places have its row and column beside the text before
    it, and text goes on behind the larger of both."""
    if input_ids is None or image_grid_thw is None or video_grid_thw is not None:
        return _rope_index(self, input_ids, image_grid_thw, video_grid_thw, attention_mask)
    height, width = _grid(self, image_grid_thw)
    there = torch.ones_like(input_ids) if attention_mask is None else attention_mask.long()
    count = there.cumsum(-1) - 1
    of_picture = (input_ids == self.config.image_token_id).long() * there
    place = of_picture.cumsum(-1)  # so many of the picture's places up to here
    begin = count - place + 1  # of the picture, counted from one of its places
    row, column = (place - 1) // width, (place - 1) % width
    behind = torch.where(place > 0, count - height * width + max(height, width), count)
    positions = torch.stack(
        [torch.where(of_picture > 0, begin + more, behind) for more in (torch.zeros_like(row), row, column)]
    )
    positions = torch.where(there > 0, positions, torch.ones_like(positions))
    deltas = torch.where(there > 0, positions, torch.full_like(positions, -1)).amax((0, 2)) + 1 - input_ids.shape[1]
    return positions, deltas[:, None]


@contextlib.contextmanager
def apply():
    one_image = edited(Qwen3VLVisionAttention.forward, {"lengths.tolist()": "[query_states.shape[2]]"})
    one_split = edited(
        Qwen3VLModel.get_image_features,
        {_SPLIT_SIZES: "[image_embeds.shape[0]]"},
    )
    vision = Qwen3VLVisionModel
    with (
        replaced(Qwen3VLVisionAttention, forward=one_image),
        replaced(Qwen3VLModel, get_image_features=one_split, get_rope_index=_positions),
        # Which it asks to read less out of tensors; steps are traced as they were recorded.
        replaced(modeling_qwen3_vl, is_torchdynamo_compiling=lambda: False),
        replaced(Qwen3VLTextModel, _deepstack_process=_add_deep_features),
        replaced(vision, rot_pos_emb=remembered(vision.rot_pos_emb), fast_pos_embed_interpolate=_interpolate),
    ):
        yield
