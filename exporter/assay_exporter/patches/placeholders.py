"""LLaVA, PaliGemma and Qwen-VL without the count of image placeholders."""

import contextlib

from transformers.models.llava.modeling_llava import LlavaModel
from transformers.models.llava_next_video.modeling_llava_next_video import LlavaNextVideoModel
from transformers.models.paligemma.modeling_paligemma import PaliGemmaModel
from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VLModel
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLModel

from . import edited, replaced

REASON = "counting placeholder tokens, to compare with the number of image features, depends on the input"

_IMAGES = {"inputs_embeds[special_image_mask].numel() != image_features.numel()": "False"}
_VIDEOS = {"inputs_embeds[special_video_mask].numel() != video_features.numel()": "False"}


@contextlib.contextmanager
def apply():
    with contextlib.ExitStack() as stack:
        for model, edits in (
            (LlavaModel, _IMAGES),
            (PaliGemmaModel, _IMAGES),
            (LlavaNextVideoModel, _IMAGES | _VIDEOS),
            (Qwen2VLModel, _IMAGES | _VIDEOS),
            (Qwen3VLModel, _IMAGES | _VIDEOS),
        ):
            uncounted = edited(model.get_placeholder_mask, edits)
            stack.enter_context(replaced(model, get_placeholder_mask=uncounted))
        yield
