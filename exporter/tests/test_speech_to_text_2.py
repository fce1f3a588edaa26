"""The repaired Speech2Text2 has the right position table and is the decoder that it is meant to be."""

import math

import pytest
import torch
from torch.export import Dim, export
from transformers import TrOCRConfig, TrOCRForCausalLM
from transformers.models.deprecated.speech_to_text_2 import modeling_speech_to_text_2 as library
from transformers.models.deprecated.speech_to_text_2.configuration_speech_to_text_2 import Speech2Text2Config

from assay_exporter.patches import speech_to_text_2

torch.set_num_threads(1)

PAD = 1
SIZES = {
    "vocab_size": 50,
    "d_model": 32,
    "decoder_layers": 2,
    "decoder_attention_heads": 4,
    "decoder_ffn_dim": 48,
    "max_target_positions": 20,
    "activation_function": "relu",
    "scale_embedding": True,
    "use_cache": False,
}


def tiny_model():
    torch.manual_seed(0)
    model = library.Speech2Text2ForCausalLM(Speech2Text2Config(**SIZES)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.3)
    return model


def inputs(batch, seed, length=7):
    g = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, 50, (batch, length), generator=g)
    ids[0, length - 2 :] = PAD
    encoder_mask = torch.ones(batch, 5, dtype=torch.long)
    encoder_mask[0, 4:] = 0
    return {
        "input_ids": ids,
        "attention_mask": ids.ne(PAD).long(),
        "encoder_hidden_states": torch.randn(batch, 5, 32, generator=g),
        "encoder_attention_mask": encoder_mask,
    }


def sinusoid(position, width):
    """One row of the table: sin(position * f_i) for all i, then cos, f from 1 down to 1/10000
    geometrically."""
    half = width // 2
    if position == PAD:
        return [0.0] * width
    frequencies = [10000.0 ** (-i / (half - 1)) for i in range(half)]
    waves = [math.sin(position * f) for f in frequencies] + [math.cos(position * f) for f in frequencies]
    return waves + [0.0] * (width - 2 * half)


@pytest.mark.parametrize("positions,width", [(20, 32), (300, 8), (5, 7)])
def test_the_position_table_is_the_formula(positions, width):
    with speech_to_text_2.apply():
        table = library.Speech2Text2SinusoidalPositionalEmbedding(positions, width, PAD)
    expected = torch.tensor([sinusoid(p, width) for p in range(positions + 2)])
    torch.testing.assert_close(table.weights, expected, atol=1e-4, rtol=0)
    # It is the program's, not a weight: neither saved nor trained.
    assert not table.state_dict() and not list(table.parameters())


@pytest.mark.parametrize("length", [6, 40])
def test_tokens_get_their_positions_and_padding_none(length):
    """Numbering starts after the padding index; 40 is beyond the table, which then grows."""
    ids = torch.full((2, length), 9)
    ids[1, 3:] = PAD
    with speech_to_text_2.apply():
        found = library.Speech2Text2SinusoidalPositionalEmbedding(20, 16, PAD)(ids)
    counting = torch.tensor([sinusoid(PAD + 1 + i, 16) for i in range(length)])
    torch.testing.assert_close(found[0], counting, atol=1e-4, rtol=0)
    torch.testing.assert_close(found[1, :3], counting[:3], atol=1e-4, rtol=0)
    assert (found[1, 3:] == 0).all()


@torch.no_grad()
@pytest.mark.parametrize("scale_embedding", [True, False])
def test_the_model_equals_the_librarys_trocr_decoder_on_the_same_weights(monkeypatch, scale_embedding):
    monkeypatch.setitem(SIZES, "scale_embedding", scale_embedding)
    with speech_to_text_2.apply():
        ours = tiny_model()
        given = inputs(3, seed=1)
        logits = ours(**given).logits
        config = TrOCRConfig(
            **SIZES,
            use_learned_position_embeddings=False,
            layernorm_embedding=False,
            cross_attention_hidden_size=32,
        )
        config._attn_implementation = "eager"
        trocr = TrOCRForCausalLM(config).eval()
    weights = {
        name.replace("lm_head", "output_projection"): value for name, value in ours.state_dict().items()
    }
    loaded = trocr.load_state_dict(weights, strict=False)
    assert not loaded.unexpected_keys
    assert [key for key in loaded.missing_keys if "embed_positions" not in key] == []
    torch.testing.assert_close(logits, trocr(**given).logits, atol=1e-4, rtol=1e-4)
    assert logits.std() > 0.1


@torch.no_grad()
def test_without_the_patch_it_cannot_be_built_and_the_patch_undoes_itself():
    with pytest.raises(AttributeError, match="weight"):
        tiny_model()
    with speech_to_text_2.apply():
        tiny_model()
    with pytest.raises(AttributeError, match="weight"):
        tiny_model()
    with pytest.raises(ZeroDivisionError):
        with speech_to_text_2.apply():
            raise ZeroDivisionError
    with pytest.raises(AttributeError, match="weight"):
        tiny_model()


@torch.no_grad()
def test_exports_with_a_dynamic_batch_and_equals_eager():
    with speech_to_text_2.apply():
        model = tiny_model()
        batch = Dim("batch", min=1, max=64)
        shapes = {name: {0: batch} for name in inputs(2, 0)}
        program = export(model, (), inputs(2, 0), dynamic_shapes=shapes, strict=False).run_decompositions({})
        outputs = []
        for size in (1, 2, 5):
            fresh = inputs(size, seed=10 + size)
            eager = model(**fresh).logits
            torch.testing.assert_close(program.module()(**fresh).logits, eager, atol=1e-5, rtol=1e-5)
            outputs.append(eager)
        assert torch.cat(outputs).std(dim=0).min() > 1e-3  # they move with the input
    assert "model.decoder.embed_positions.weights" in program.constants
