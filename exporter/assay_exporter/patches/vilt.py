"""ViLT with whole images: every patch is real, and stays in its place."""

import contextlib

import torch
from transformers.models.vilt.modeling_vilt import ViltEmbeddings

from . import replaced

REASON = (
    "which patches are real is read out of the mask as Python numbers, and they are put in a random order "
    "that changes nothing but rounding; here every image is whole"
)


def _whole(self, pixel_values, pixel_mask, max_image_length=200):
    patches = self.patch_embeddings(pixel_values)
    batch, width, rows, columns = patches.shape
    assert max_image_length < 0 or rows * columns <= max_image_length
    side = self.config.image_size // self.config.patch_size
    positions = self.position_embeddings[:, 1:, :].transpose(1, 2).view(1, width, side, side)
    positions = torch.nn.functional.interpolate(
        positions, size=(rows, columns), mode="bilinear", align_corners=True
    )
    patches = (patches + positions).flatten(2).transpose(1, 2)
    first = (self.cls_token + self.position_embeddings[:, :1, :]).expand(batch, -1, -1)
    mask = torch.nn.functional.interpolate(pixel_mask[:, None, :, :].float(), size=(rows, columns))
    mask = mask.long().flatten(1)
    mask = torch.cat([torch.ones(batch, 1).to(mask), mask], dim=1)
    return self.dropout(torch.cat((first, patches), dim=1)), mask, (None, (rows, columns))


@contextlib.contextmanager
def apply():
    with replaced(ViltEmbeddings, visual_embed=_whole):
        yield
