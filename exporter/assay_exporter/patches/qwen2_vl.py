"""Qwen2-VL with one image of a fixed grid."""

import contextlib

from transformers.models.qwen2_vl.modeling_qwen2_vl import (
    Qwen2VisionTransformerPretrainedModel,
    Qwen2VLModel,
    VisionAttention,
)

from . import edited, remembered, replaced

REASON = "the image grid is read out of a tensor as Python numbers; it is a constant of the program"

_SPLIT_SIZES = "(image_grid_thw.prod(-1) // self.visual.spatial_merge_size**2).tolist()"


@contextlib.contextmanager
def apply():
    vision = Qwen2VisionTransformerPretrainedModel
    one_image = edited(VisionAttention.forward, {"lengths.tolist()": "[query_states.shape[2]]"})
    one_split = edited(
        Qwen2VLModel.get_image_features,
        {_SPLIT_SIZES: "[image_embeds.shape[0]]"},
    )
    with (
        replaced(VisionAttention, forward=one_image),
        replaced(Qwen2VLModel, get_image_features=one_split),
        replaced(vision, rot_pos_emb=remembered(vision.rot_pos_emb)),
    ):
        yield
