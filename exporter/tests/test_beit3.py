"""torchscale's BEiT-3 with its authors' classification head computes what its formulas say."""

import math
import sys

import pytest
import torch
from torch.export import Dim, export

from assay_exporter.patches import beit3

pytest.importorskip("torchscale", reason="torchscale 0.3.0 is not installed; exporter/setup installs it")

torch.set_num_threads(1)


def tiny_model():
    torch.manual_seed(0)
    model, config = beit3.build()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            is_norm = parameter.dim() == 1 and name.endswith("weight")
            parameter.normal_(1.0 if is_norm else 0.0, 0.2)
    return model, config


def images(batch, seed):
    return torch.randn(batch, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


def by_formula(weights, config, pixels):
    """BEiT-3's classification of one batch in float64, from the paper and the weights' names alone.

    Pre-norm blocks with sub-LayerNorm ("Foundation Transformers", arXiv 2210.06423): a norm more before the
    attention's output projection and one before the second matrix of the feed-forward network.
    """
    w = {name: value.double() for name, value in weights.items()}
    width, heads, patch = config["encoder_embed_dim"], config["encoder_attention_heads"], config["patch_size"]

    def norm(x, name):
        centred = x - x.mean(dim=-1, keepdim=True)
        spread = (centred.square().mean(dim=-1, keepdim=True) + 1e-5).sqrt()
        return centred / spread * w[name + ".weight"] + w[name + ".bias"]

    def linear(x, name):
        return x @ w[name + ".weight"].T + w[name + ".bias"]

    outputs = []
    for image in pixels.double():
        side = image.shape[1] // patch
        # The patches row by row, each times the embedding's kernel.
        kernel, bias = w["beit3.vision_embed.proj.weight"], w["beit3.vision_embed.proj.bias"]
        tokens = [w["beit3.vision_embed.cls_token"][0, 0]]
        for row in range(side):
            for column in range(side):
                cut = image[:, row * patch : (row + 1) * patch, column * patch : (column + 1) * patch]
                tokens.append((kernel * cut).sum(dim=(1, 2, 3)) + bias)
        x = torch.stack(tokens)
        # Positions start at 2, as in fairseq.
        x = x + w["beit3.encoder.embed_positions.A.weight"][2 : 2 + len(tokens)]
        for layer in range(config["encoder_layers"]):
            at = f"beit3.encoder.layers.{layer}."
            normed = norm(x, at + "self_attn_layer_norm.A")
            q, k, v = (linear(normed, f"{at}self_attn.{which}_proj.A") for which in "qkv")
            size = width // heads
            heads_out = []
            for head in range(heads):
                cut = slice(head * size, (head + 1) * size)
                scores = q[:, cut] @ k[:, cut].T / math.sqrt(size)
                heads_out.append(torch.softmax(scores, dim=-1) @ v[:, cut])
            attended = norm(torch.cat(heads_out, dim=-1), at + "self_attn.inner_attn_ln.A")
            x = x + linear(attended, at + "self_attn.out_proj.A")
            hidden = linear(norm(x, at + "final_layer_norm.A"), at + "ffn.A.fc1")
            hidden = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
            x = x + linear(norm(hidden, at + "ffn.A.ffn_layernorm"), at + "ffn.A.fc2")
        pooled = norm(x[1:].mean(dim=0), "fc_norm")
        outputs.append(linear(pooled, "head"))
    return torch.stack(outputs)


@torch.no_grad()
def test_forward_equals_the_formulas():
    with beit3.apply():
        model, config = tiny_model()
        pixels = images(3, seed=1)
        logits = model(pixel_values=pixels)["logits"]
    expected = by_formula(model.state_dict(), config, pixels)
    torch.testing.assert_close(logits.double(), expected, atol=1e-4, rtol=1e-4)
    assert expected.std() > 0.1


def test_only_the_language_side_is_unused():
    with beit3.apply(), torch.enable_grad():
        model, _ = tiny_model()
        model(pixel_values=images(2, seed=2))["logits"].sum().backward()
    unused = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    language = {name for name, _ in model.named_parameters() if ".B." in name}
    assert language
    assert unused == language | {"beit3.text_embed.weight", "beit3.vision_embed.mask_token"}


@pytest.mark.parametrize("path,name", [("fairscale.nn", "wrap"), ("timm.models.layers", "drop_path")])
def test_a_stand_in_refuses_to_be_called_and_is_gone_afterwards(path, name):
    if not beit3._missing(path.split(".")[0]):
        pytest.skip(f"{path} is really installed: nothing stands in for it")
    with beit3.apply():
        with pytest.raises(RuntimeError, match=f"{path}.{name} is a stand-in"):
            getattr(sys.modules[path], name)(torch.zeros(1))
    assert path not in sys.modules and path.split(".")[0] not in sys.modules
    with pytest.raises(ZeroDivisionError):
        with beit3.apply():
            raise ZeroDivisionError
    assert path not in sys.modules


def test_training_time_features_reach_the_stand_ins():
    if not beit3._missing("fairscale"):
        pytest.skip("fairscale is really installed")
    with beit3.apply():
        from torchscale.architecture.config import EncoderConfig

        config = EncoderConfig(**{**beit3.TINY_CONFIG, "checkpoint_activations": True})
        with pytest.raises(RuntimeError, match="checkpoint_wrapper is a stand-in"):
            beit3.BEiT3ForImageClassification(config, 5)


@torch.no_grad()
def test_exports_with_a_dynamic_batch_and_equals_eager():
    with beit3.apply():
        model, _ = tiny_model()
        shapes = {"pixel_values": {0: Dim("batch", min=1, max=64)}}
        program = export(model, (), {"pixel_values": images(2, 0)}, dynamic_shapes=shapes, strict=False)
        program = program.run_decompositions({})
        outputs = []
        for size in (1, 2, 5):
            pixels = images(size, seed=10 + size)
            eager = model(pixel_values=pixels)["logits"]
            exported = program.module()(pixel_values=pixels)["logits"]
            torch.testing.assert_close(exported, eager, atol=1e-5, rtol=1e-5)
            outputs.append(eager)
        assert torch.cat(outputs).std(dim=0).min() > 1e-3  # they move with the input
