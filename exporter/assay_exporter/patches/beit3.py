"""BEiT-3: torchscale's multiway encoder with the image-classification head of its authors.

transformers has no BEiT-3. torchscale 0.3.0, by the same authors, has the encoder (`torchscale.model.BEiT3`),
and that code runs here as it is. It imports two packages that it does not need for inference, fairscale
(checkpointing and sharding while training) and timm (stochastic depth); where they are not installed, stand-
ins take their place, and each refuses to be called.

For image classification the authors' fine-tuning code (`BEiT3ForImageClassification` in microsoft/unilm,
beit3/modeling_finetune.py) adds a head to the encoder: the mean over the patches without the class token, a
LayerNorm, a Linear. It is in no package, so it stands here, twelve lines, with the same weight names
(`beit3.*`, `fc_norm.*`, `head.*`). Like there, the encoder is built without its last LayerNorm and without an
output projection.

Only images go in, as in the authors' own classification: every multiway layer then takes its vision side
(`A`); the language side (`B`) and the text embedding are weights of the model that this task does not use.
"""

import contextlib
import importlib.util
import sys
import types

import torch

REASON = (
    "BEiT-3 is not in transformers: torchscale's own encoder runs, with stand-ins for the imports of "
    "fairscale and timm that inference never calls."
)
INDEPENDENT_CHECK = (
    "The whole forward against a re-implementation from the formulas, written apart from torchscale, with "
    "the same weights; and every stand-in refuses to be called."
)
DEVIATION = (
    "torchscale has BEiT-3's encoder but no classification head; the authors' own (mean over patches, "
    "LayerNorm, Linear) is added. Input pixel_values (the authors call it image), output logits. Only the "
    "image side runs, as in their classification: the language experts' weights are loaded but unused."
)
LIBRARY = "torchscale 0.3.0"

# The authors' base configuration for classification, with the sizes shrunk.
TINY_CONFIG = {
    "encoder_embed_dim": 32,
    "encoder_attention_heads": 4,
    "encoder_ffn_embed_dim": 64,
    "encoder_layers": 2,
    "img_size": 32,
    "patch_size": 8,
    "in_chans": 3,
    "vocab_size": 99,
    "max_source_positions": 64,
    "multiway": True,
    "layernorm_embedding": False,
    "normalize_output": False,
    "no_output_layer": True,
    "drop_path_rate": 0.0,
}
NUM_LABELS = 5


class BEiT3ForImageClassification(torch.nn.Module):
    """pixel_values (batch, channels, img_size, img_size) -> {"logits": (batch, num_labels)}."""

    def __init__(self, args, num_labels):
        from torchscale.model.BEiT3 import BEiT3

        super().__init__()
        self.beit3 = BEiT3(args)
        self.fc_norm = torch.nn.LayerNorm(args.encoder_embed_dim)
        self.head = torch.nn.Linear(args.encoder_embed_dim, num_labels)

    def forward(self, pixel_values):
        tokens = self.beit3(textual_tokens=None, visual_tokens=pixel_values)["encoder_out"]
        return {"logits": self.head(self.fc_norm(tokens[:, 1:].mean(dim=1)))}


def _refusing(name):
    def refuse(*args, **kwargs):
        raise RuntimeError(
            f"{name} is a stand-in: the package is not installed, and inference does not need it"
        )

    return refuse


# What torchscale imports from packages that are not needed: module -> names.
_STAND_INS = {
    "fairscale.nn": ("checkpoint_wrapper", "wrap"),
    "timm.models.layers": ("drop_path",),
}


def _missing(package):
    return package not in sys.modules and importlib.util.find_spec(package) is None


@contextlib.contextmanager
def apply():
    """Puts the stand-ins in place where the real packages are missing; takes them away at exit."""
    added = []
    try:
        for path, names in _STAND_INS.items():
            parts = path.split(".")
            if not _missing(parts[0]):
                continue
            for depth in range(1, len(parts) + 1):
                name = ".".join(parts[:depth])
                sys.modules[name] = types.ModuleType(name)
                added.append(name)
            for name in names:
                setattr(sys.modules[path], name, _refusing(f"{path}.{name}"))
        yield
    finally:
        for name in added:
            del sys.modules[name]


def build():
    """The tiny model, in eval mode, and its configuration. To be called inside apply()."""
    from torchscale.architecture.config import EncoderConfig

    model = BEiT3ForImageClassification(EncoderConfig(**TINY_CONFIG), NUM_LABELS)
    # image_size is img_size under the name that other vision configurations give it.
    config = {"model_type": "beit3", "image_size": TINY_CONFIG["img_size"], "num_labels": NUM_LABELS}
    return model.eval(), {**config, **TINY_CONFIG}
