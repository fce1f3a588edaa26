"""The MobileNetV1 inside face-api's face detector, out of TensorFlow.js' form: uint8 with a scale and an offset.

The detector is an SSD; its boxes and scores are read off the backbone's layers by heads that MobileNetV1 of
transformers has no place for. `face_scores` has the first of them, to show that the backbone sees faces.
"""

import json
import pathlib

import numpy as np
import torch
import transformers

from . import ConversionError, converter, load, one

_MANIFEST = "package/model/ssd_mobilenetv1_model-weights_manifest.json"
_NORM_EPSILON = 0.001
_LAYERS = 13
SIZE = 512  # of the detector's square input
HEAD_LAYER = 21  # hidden state that the detector's first head looks at


def read(source: pathlib.Path) -> dict[str, torch.Tensor]:
    """Every tensor of the manifest, dequantised."""
    manifest = one(source, _MANIFEST)
    (group,) = json.loads(manifest.read_text())
    data = b"".join((manifest.parent / part).read_bytes() for part in group["paths"])
    tensors, at = {}, 0
    for entry in group["weights"]:
        quantization = entry.get("quantization")
        dtype = np.dtype(quantization["dtype"] if quantization else entry["dtype"])
        count = int(np.prod(entry["shape"])) if entry["shape"] else 1
        values = np.frombuffer(data, dtype, count, at).astype(np.float32)
        at += count * dtype.itemsize
        if quantization:
            values = values * np.float32(quantization["scale"]) + np.float32(quantization["min"])
        tensors[entry["name"]] = torch.from_numpy(values.reshape(entry["shape"]))
    if at != len(data):
        raise ConversionError(f"{len(data) - at} bytes are left over")
    return tensors


def _backbone(stored: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    left = {name: tensor for name, tensor in stored.items() if name.startswith("MobilenetV1/")}
    weights: dict[str, torch.Tensor] = {}

    def folded(name: str, source: str) -> None:
        """A convolution whose norm was folded into it: a bias is all that is left of the norm."""
        filters = left.pop(f"{source}/weights")
        offset = left.pop(f"{source}/convolution_bn_offset")
        weights[f"{name}.convolution.weight"] = filters.permute(3, 2, 0, 1).contiguous()
        weights[f"{name}.normalization.bias"] = offset
        weights[f"{name}.normalization.weight"] = torch.ones_like(offset)
        weights[f"{name}.normalization.running_mean"] = torch.zeros_like(offset)
        weights[f"{name}.normalization.running_var"] = torch.full_like(offset, 1 - _NORM_EPSILON)

    folded("conv_stem", "MobilenetV1/Conv2d_0_pointwise")
    for layer in range(1, _LAYERS + 1):
        name, source = f"layer.{2 * (layer - 1)}", f"MobilenetV1/Conv2d_{layer}_depthwise"
        filters = left.pop(f"{source}/depthwise_weights")
        weights[f"{name}.convolution.weight"] = filters.permute(2, 3, 0, 1).contiguous()
        for ours, theirs in (
            ("weight", "gamma"),
            ("bias", "beta"),
            ("running_mean", "moving_mean"),
            ("running_var", "moving_variance"),
        ):
            weights[f"{name}.normalization.{ours}"] = left.pop(f"{source}/BatchNorm/{theirs}")
        folded(f"layer.{2 * layer - 1}", f"MobilenetV1/Conv2d_{layer}_pointwise")
    if left:
        raise ConversionError(f"{len(left)} tensors are left over: {sorted(left)[:5]}")
    return weights


def face_scores(source: pathlib.Path, hidden: torch.Tensor) -> torch.Tensor:
    """[rows, columns]: how likely a face of any of the first head's shapes is there, off the hidden state
    [1, 512, rows, columns] of HEAD_LAYER."""
    stored = read(source)
    head = "Prediction/BoxPredictor_0/ClassPredictor"
    filters = stored[f"{head}/weights"].permute(3, 2, 0, 1)
    classes = torch.nn.functional.conv2d(hidden, filters, stored[f"{head}/biases"])[0]
    return classes.reshape(-1, 3, *classes.shape[1:])[:, 1].sigmoid().amax(0)  # background, face, unused


@converter("mobilenet_v1")
def mobilenet_v1(source: pathlib.Path, destination: pathlib.Path) -> None:
    """MobileNetV1 1.0 of face-api's detector, dequantised from uint8."""
    config = transformers.MobileNetV1Config(
        image_size=SIZE, depth_multiplier=1.0, tf_padding=True, hidden_act="relu6", layer_norm_eps=_NORM_EPSILON
    )
    model = transformers.MobileNetV1Model(config)
    load(model, _backbone(read(source)), optional=("num_batches_tracked",))
    model.save_pretrained(destination)
    transformers.MobileNetV1ImageProcessor(
        size={"shortest_edge": SIZE},
        crop_size={"height": SIZE, "width": SIZE},
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    ).save_pretrained(destination)
