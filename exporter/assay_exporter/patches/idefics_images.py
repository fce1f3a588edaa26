"""Idefics 2 and 3 with whole, real images: no padding images, every patch attended to."""

import contextlib

import torch
from torch.utils._python_dispatch import _disable_current_modes
from transformers.models.idefics2 import modeling_idefics2
from transformers.models.idefics3 import modeling_idefics3

from . import edited, replaced

REASON = "leaving out padding images and masked patches depends on the pixels; here every image is whole"


def _embed(self, pixel_values, patch_attention_mask):
    """VisionEmbeddings.forward for a mask of ones: position ids depend on the image's size alone."""
    embeddings = self.patch_embedding(pixel_values).flatten(2).transpose(1, 2)
    sides = [size // self.patch_size for size in pixel_values.shape[2:]]
    with _disable_current_modes():  # a constant of the graph
        step = 1 / self.num_patches_per_side
        boundaries = torch.arange(step, 1.0, step)
        rows, columns = (
            torch.bucketize(
                torch.arange(side, dtype=torch.float32) / side * (1 - 1e-6), boundaries, right=True
            )
            for side in sides
        )
        positions = (rows[:, None] * self.num_patches_per_side + columns).flatten()
    return embeddings + self.position_embedding(positions.unsqueeze(0).expand(pixel_values.shape[0], -1))


@contextlib.contextmanager
def apply():
    with contextlib.ExitStack() as stack:
        for library, name in ((modeling_idefics2, "Idefics2"), (modeling_idefics3, "Idefics3")):
            model = getattr(library, f"{name}Model")
            all_images = edited(
                model.get_image_features,
                {"pixel_values = pixel_values[real_images_inds].contiguous()": "pass"},
            )
            stack.enter_context(replaced(model, get_image_features=all_images))
            stack.enter_context(replaced(getattr(library, f"{name}VisionEmbeddings"), forward=_embed))
        vision = modeling_idefics2.Idefics2VisionTransformer
        unmasked = edited(vision.forward, {"if not torch.any(~patch_attention_mask):": "if True:"})
        stack.enter_context(replaced(vision, forward=unmasked))
        yield
