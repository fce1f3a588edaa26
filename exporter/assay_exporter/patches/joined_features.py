"""LLaVA's image features kept as one tensor."""

import contextlib

from transformers.models.llava.modeling_llava import LlavaModel
from transformers.models.llava_next_video.modeling_llava_next_video import LlavaNextVideoModel

from . import edited, replaced

REASON = "splitting the features into a list by image, only to join them again, fixes the number of images"


@contextlib.contextmanager
def apply():
    images = edited(
        LlavaModel.get_image_features,
        {"image_features = list(image_features)": "image_features = [image_features.flatten(0, 1)]"},
    )
    videos = edited(
        LlavaNextVideoModel.get_video_features,
        {"video_features = torch.split(video_features, frames, dim=0)": "video_features = (video_features,)"},
    )
    with (
        replaced(LlavaModel, get_image_features=images),
        replaced(LlavaNextVideoModel, get_video_features=videos),
    ):
        yield
