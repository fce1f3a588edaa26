#!/usr/bin/env python3
"""Small GGUF files and what Python makes of them, for tests that want no Python.

    exporter/.venv/bin/python tests/checkpoint/make_gguf_vectors.py [--check] [--to tests/checkpoint/data]

blocks.gguf has random blocks of every type that is read, blocks.safetensors what the gguf package dequantises them to.
<architecture>.gguf is a tiny random model as llama.cpp's converter would write it, <architecture>.safetensors the
weights of that model after transformers has loaded the GGUF file. --check makes everything anew, into a temporary
folder, and compares with what is there. Byte for byte the same on every run.
"""

import argparse
import pathlib
import sys
import tempfile

import gguf
import numpy as np
import torch
import transformers
from gguf import GGMLQuantizationType as Type
from safetensors.numpy import save_file

ROOT = pathlib.Path(__file__).resolve().parents[2]
TYPES = [Type.F32, Type.F16, Type.BF16, Type.Q8_0, Type.Q4_0, Type.Q4_1, Type.Q4_K, Type.Q6_K]
# Where a block's float16 numbers lie: random bits there would often be no numbers.
HALVES = {Type.Q8_0: [0], Type.Q4_0: [0], Type.Q4_1: [0, 2], Type.Q4_K: [0, 2], Type.Q6_K: [208], Type.F16: [0]}


def blocks(to: pathlib.Path) -> None:
    generator = np.random.default_rng(4)
    writer = gguf.GGUFWriter(to / "blocks.gguf", "llama")
    expected = {}
    for kind in TYPES:
        elements, size = gguf.GGML_QUANT_SIZES[kind]
        rows, row = 3, 256
        raw = generator.integers(0, 256, (rows, row // elements, size), dtype=np.uint8)
        for place in HALVES.get(kind, []):
            # Among them subnormal numbers, zeros of either sign and the largest ones.
            bits = generator.integers(0, 0x7C00, raw.shape[:2], dtype=np.uint16) | (
                generator.integers(0, 2, raw.shape[:2], dtype=np.uint16) << 15
            )
            bits.flat[:4] = [0x0001, 0x8000, 0x03FF, 0x7BFF][: bits.size]
            raw[:, :, place : place + 2] = bits[..., None].view(np.uint8)
        if kind in (Type.F32, Type.BF16):
            raw = generator.standard_normal((rows, row), dtype=np.float32)
            raw = raw if kind == Type.F32 else gguf.quantize(raw, kind)
        raw = raw.reshape(rows, -1)
        if kind == Type.F32:
            writer.add_tensor(kind.name, raw)
        elif kind == Type.F16:
            writer.add_tensor(kind.name, raw.view(np.float16))
        else:
            writer.add_tensor(kind.name, raw.view(np.uint8), raw_dtype=kind)
        expected[kind.name] = np.ascontiguousarray(gguf.dequantize(raw, kind).reshape(rows, row))
    finish(writer)
    save_file(expected, to / "blocks.safetensors")


def finish(writer: gguf.GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def permuted(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rotary rows as llama.cpp wants them."""
    return weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)


def config_of(architecture: str):
    common = {"vocab_size": 24, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
              "max_position_embeddings": 16}  # fmt: skip
    small = common | {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1}
    match architecture:
        case "llama":
            return transformers.LlamaConfig(**common, num_key_value_heads=2, tie_word_embeddings=False)
        case "qwen2":
            return transformers.Qwen2Config(**small, num_key_value_heads=2, tie_word_embeddings=True)
        case "qwen3":
            return transformers.Qwen3Config(**small, num_key_value_heads=2, head_dim=4, tie_word_embeddings=False)
        case "phi3":
            return transformers.Phi3Config(**small, num_key_value_heads=2, pad_token_id=0, tie_word_embeddings=False)
        case "gemma2":
            return transformers.Gemma2Config(**small, num_key_value_heads=2, head_dim=4)
        case "gpt2":
            return transformers.GPT2Config(vocab_size=24, n_positions=16, n_embd=16, n_layer=1, n_head=4)
    raise ValueError(architecture)


def write_model(architecture: str, model, path: pathlib.Path) -> None:
    config = model.config
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(getattr(config, "intermediate_size", None) or 4 * config.hidden_size)
    writer.add_head_count(config.num_attention_heads)
    if architecture != "gpt2":
        writer.add_head_count_kv(config.num_key_value_heads)
        writer.add_layer_norm_rms_eps(config.rms_norm_eps)
        writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    else:
        writer.add_layer_norm_eps(config.layer_norm_epsilon)
    if architecture in ("gemma2", "qwen3"):
        writer.add_key_length(config.head_dim)
    writer.add_vocab_size(config.vocab_size)
    writer.add_array("tokenizer.ggml.tokens", [f"<{i}>" for i in range(config.vocab_size)])
    arch = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    names = gguf.get_tensor_name_map(arch, config.num_hidden_layers)
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        value = tensor.numpy()
        target = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if architecture == "llama" and name.endswith(("q_proj.weight", "k_proj.weight")):
            heads = config.num_attention_heads if "q_proj" in name else config.num_key_value_heads
            value = permuted(value, heads)
        if architecture == "gpt2" and name.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight")):
            value = value.T
        if architecture == "gemma2" and name.endswith("norm.weight"):
            value = value + 1
        value = np.ascontiguousarray(value)
        kinds = {"blk.0.attn_q.weight": Type.Q8_0, "blk.0.attn_k.weight": Type.Q4_1, "blk.1.attn_q.weight": Type.F16,
                 "blk.1.ffn_up.weight": Type.Q4_0, "token_embd.weight": Type.Q8_0}  # fmt: skip
        kind = kinds.get(target) if architecture == "llama" else None
        if kind is None:
            writer.add_tensor(target, value)
        elif kind == Type.F16:
            writer.add_tensor(target, value.astype(np.float16))
        else:
            writer.add_tensor(target, gguf.quantize(value, kind), raw_dtype=kind)
    finish(writer)


def architecture_vectors(architecture: str, to: pathlib.Path) -> None:
    torch.manual_seed(7)
    model = transformers.AutoModelForCausalLM.from_config(config_of(architecture)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.5)
    path = to / f"{architecture}.gguf"
    write_model(architecture, model, path)
    # The configuration is given: what the library reads out of GGUF lacks a field or two (qwen3's head_dim).
    loaded, info = type(model).from_pretrained(
        to, gguf_file=path.name, config=model.config, dtype=torch.float32, output_loading_info=True
    )
    problems = {key: value for key, value in info.items() if value}
    if problems:
        raise ValueError(f"{architecture}: transformers leaves keys over: {problems}")
    state = loaded.state_dict()
    for name, tensor in model.state_dict().items():
        # Quantised weights differ by design, the others not at all but for a norm's rounding.
        error = (state[name] - tensor).abs().max().item()
        if error > (0.3 if architecture == "llama" else 1e-6):
            raise ValueError(f"{architecture}: {name} is off by {error} after transformers has loaded it")
    if model.config.tie_word_embeddings:
        del state["lm_head.weight"]
    save_file(
        {name: np.ascontiguousarray(tensor.numpy()) for name, tensor in state.items()}, to / f"{architecture}.safetensors"
    )


def make(to: pathlib.Path) -> None:
    blocks(to)
    for architecture in ("llama", "qwen2", "qwen3", "phi3", "gemma2", "gpt2"):
        architecture_vectors(architecture, to)
    for file in to.glob("*.safetensors"):
        file.chmod(0o644)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--to", type=pathlib.Path, default=ROOT / "tests" / "checkpoint" / "data")
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    if not options.check:
        make(options.to)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        made = pathlib.Path(folder)
        make(made)
        files = sorted(file.name for file in made.iterdir())
        wrong = [name for name in files if (made / name).read_bytes() != (options.to / name).read_bytes()]
    print(f"{len(files)} files" + (f", not the same: {', '.join(wrong)}" if wrong else ", all the same"))
    return 3 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
