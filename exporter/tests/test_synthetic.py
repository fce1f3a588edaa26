"""Checkpoints of full size with random weights say of themselves what they are, in every file."""

import json

import pytest
import safetensors
import torch
import transformers

from assay_exporter import synthetic
from assay_exporter.checkpoint import architecture, verdict


@pytest.fixture(scope="module")
def known():
    return synthetic.kinds()


def _metadata(folder):
    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safetensors.safe_open(path, "pt") as file:
            found[path.name] = file.metadata()
    return found


def test_a_checkpoint_is_marked_loads_and_is_the_same_again(known, tmp_path):
    told = synthetic.make(known["mobilenet_v2"], tmp_path / "one")
    assert told["full_depth"]
    assert told == json.loads((tmp_path / "one" / "assay-synthetic.json").read_text())
    assert _metadata(tmp_path / "one") == {"model.safetensors": {"format": "pt", "assay.weights": "synthetic"}}
    model, loading = transformers.AutoModelForImageClassification.from_pretrained(
        tmp_path / "one", output_loading_info=True
    )
    assert not loading["missing_keys"]
    assert sum(p.numel() for p in model.parameters()) == told["parameters"]
    synthetic.make(known["mobilenet_v2"], tmp_path / "two")
    # Tensors, not files: the format's writer puts metadata in no order of its own.
    with (
        safetensors.safe_open(tmp_path / "one" / "model.safetensors", "np") as first,
        safetensors.safe_open(tmp_path / "two" / "model.safetensors", "np") as second,
    ):
        names = list(first.keys())
        assert names == list(second.keys())
        assert all(first.get_tensor(n).tobytes() == second.get_tensor(n).tobytes() for n in names)


def test_every_shard_is_marked(known, tmp_path, monkeypatch):
    monkeypatch.setattr(synthetic, "SHARD", "4MB")
    synthetic.make(known["mobilenet_v2"], tmp_path / "made")
    found = _metadata(tmp_path / "made")
    assert len(found) > 1
    assert (tmp_path / "made" / "model.safetensors.index.json").exists()
    assert all(held["assay.weights"] == "synthetic" for held in found.values())


def test_the_library_writes_unmarked_files_again_afterwards(known, tmp_path):
    synthetic.make(known["mobilenet_v2"], tmp_path / "made")
    transformers.ResNetModel(transformers.ResNetConfig(depths=[1], hidden_sizes=[8])).save_pretrained(
        tmp_path / "other"
    )
    assert _metadata(tmp_path / "other") == {"model.safetensors": {"format": "pt"}}


def test_what_does_not_fit_loses_depth_and_says_so(known):
    full_settings, full_size, full = synthetic.plan(known["mobilebert"], 1 << 40)
    assert full
    assert full_settings == {}
    settings, size, full = synthetic.plan(known["mobilebert"], full_size - 1)
    assert not full
    assert size < full_size
    assert settings == {"num_hidden_layers": transformers.MobileBertConfig().num_hidden_layers // 2}


def test_what_cannot_fit_is_refused(known):
    with pytest.raises(synthetic.SyntheticError, match="cannot be halved"):
        synthetic.plan(known["mobilenet_v2"], 1000)


def test_a_class_of_another_library_is_left_out(known):
    assert "beit3" not in known
    assert len(known) > 130
    assert all(kind.template and kind.task for kind in known.values())


def test_a_signal_that_would_die_does_not(known, tmp_path):
    synthetic.make(known["mobilevit"], tmp_path / "made")
    model = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "made").eval()
    logits = model(torch.ones(1, 3, 256, 256).cumsum(-1) / 256).logits
    assert 1e-10 < logits.abs().max() < 1e3  # 1e-38 without


def test_classes_of_deprecated_models_are_found_and_nothing_outside_the_library(known):
    assert architecture._named(known["van"].model_class).__name__ == "VanForImageClassification"
    for name in ("os.system", "models.deprecated.van.modeling_van.torch", "transformers.models"):
        with pytest.raises(verdict.Unsupported, match="no model class"):
            architecture._named(name)
