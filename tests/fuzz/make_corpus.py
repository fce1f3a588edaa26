#!/usr/bin/env python3
"""Writes the seeds of the fuzzers' corpora, tests/fuzz/corpus/: sound files, and one for every way of being malformed.

    exporter/.venv/bin/python tests/fuzz/make_corpus.py

Inputs that once found a fault are added by hand, under names that say what it was, and are not touched.
"""

import json
import pathlib
import struct

import zstandard

ROOT = pathlib.Path(__file__).resolve().parents[2]
CORPUS = ROOT / "tests" / "fuzz" / "corpus"


def safetensors(header, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header, separators=(",", ":")).encode()
    return struct.pack("<Q", len(text)) + text + data


def tensor(dtype: str, shape: list, begin: int, end: int) -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def safetensors_seeds() -> dict:
    good = {"__metadata__": {"format": "pt"}, "a.weight": tensor("F32", [2, 2], 0, 16), "b": tensor("F16", [4], 16, 24),
            "c": tensor("BF16", [1], 24, 26), "d": tensor("I64", [], 26, 34), "e": tensor("U8", [0, 3], 34, 34),
            "f": tensor("BOOL", [1], 34, 35)}  # fmt: skip
    data = struct.pack("<4f", 1, float("nan"), float("inf"), 0) + bytes(19)
    whole = safetensors(good, data)
    one = {"w": tensor("F32", [1], 0, 4)}
    return {
        "good": whole,
        "synthetic": safetensors({"__metadata__": {"assay.weights": "synthetic"}}),
        "zeros": safetensors({"w.weight": tensor("F32", [2, 2], 0, 16)}, bytes(16)),
        "truncated_data": whole[:-1],
        "truncated_header": whole[:40],
        "no_header": whole[:7],
        "header_2gb": struct.pack("<Q", 1 << 31) + b"{}",
        "header_all_ones": b"\xff" * 8 + b"{}",
        "no_json": safetensors(b"{"),
        "array": safetensors(b"[]"),
        "deep": safetensors(b'{"w":' + b"[" * 64 + b"]" * 64 + b"}"),
        "not_utf8": safetensors(b'{"\xff":1}'),
        "duplicate_name": safetensors(b'{"w":1,"w":1}'),
        "duplicate_field": safetensors(b'{"w":{"dtype":"U8","dtype":"U8","shape":[],"data_offsets":[0,1]}}', b"1"),
        "overlap": safetensors({"a": tensor("U8", [2], 0, 2), "b": tensor("U8", [2], 1, 3)}, b"123"),
        "hole": safetensors({"a": tensor("U8", [1], 1, 2)}, b"12"),
        "out_of_range": safetensors({"a": tensor("U8", [9], 0, 9)}, b"12"),
        "backwards": safetensors({"a": tensor("U8", [1], 2, 1)}, b"12"),
        "left_over": safetensors(one, bytes(5)),
        "wrong_size": safetensors({"w": tensor("F32", [2], 0, 4)}, bytes(4)),
        "negative": safetensors({"w": tensor("F32", [-1], 0, 4)}, bytes(4)),
        "fraction": safetensors({"w": tensor("F32", [1.5], 0, 4)}, bytes(4)),
        "huge_shape": safetensors({"w": tensor("F32", [1 << 32, 1 << 32], 0, 4)}, bytes(4)),
        "huge_offset": safetensors({"w": tensor("F32", [1], 0, (1 << 64) - 1)}, bytes(4)),
        "unknown_dtype": safetensors({"w": tensor("F31", [1], 0, 4)}, bytes(4)),
        "no_dtype": safetensors({"w": {"shape": [1], "data_offsets": [0, 4]}}, bytes(4)),
        "no_shape": safetensors({"w": {"dtype": "F32", "data_offsets": [0, 4]}}, bytes(4)),
        "no_offsets": safetensors({"w": {"dtype": "F32", "shape": [1]}}, bytes(4)),
        "long_name": safetensors({"w" * 600: tensor("U8", [0], 0, 0)}),
        "control_name": safetensors({"a\nb": tensor("U8", [0], 0, 0)}),
        "float8": safetensors({"w": tensor("F8_E4M3", [1], 0, 1)}, b"x"),
    }


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def field(key: str, kind: int, value: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + value


def info(name: str, sizes: list, kind: int, offset: int) -> bytes:
    return text(name) + struct.pack(f"<I{len(sizes)}QIQ", len(sizes), *sizes, kind, offset)


def gguf(fields: list, infos: list, data: bytes = b"", version: int = 3, alignment: int = 32) -> bytes:
    head = b"GGUF" + struct.pack("<IQQ", version, len(infos), len(fields)) + b"".join(fields) + b"".join(infos)
    return head + bytes(-len(head) % alignment) + data


def gguf_seeds() -> dict:
    llama = field("general.architecture", 8, text("llama"))
    heads = field("llama.attention.head_count", 4, struct.pack("<I", 2))
    gpt2 = field("general.architecture", 8, text("gpt2"))
    gemma2 = field("general.architecture", 8, text("gemma2"))
    every = [
        field(f"k{kind}", kind, bytes(size))
        for kind, size in enumerate([1, 1, 2, 2, 4, 4, 4, 1, None, None, 8, 8, 8])
        if size
    ]
    arrays = [
        field("numbers", 9, struct.pack("<IQ3i", 5, 3, 1, 2, 3)),
        field("texts", 9, struct.pack("<IQ", 8, 2) + text("a") + text("b")),
        field("nested", 9, struct.pack("<IQIQ2B", 9, 1, 0, 2, 1, 2)),
    ]
    blocks = {
        0: (8, 32),
        1: (16, 32),
        2: (32, 18),
        3: (32, 20),
        8: (32, 34),
        12: (256, 144),
        14: (256, 210),
        30: (16, 32),
    }
    infos, data = [], b""
    for kind, (elements, size) in blocks.items():
        infos.append(info(f"blk.0.ffn_up.{kind}", [elements], kind, len(data)))
        data += bytes(range(size)) + bytes(-size % 32)
    rope = info("blk.0.attn_q.weight", [2, 4], 0, 0)
    w = info("w", [8], 0, 0)
    good = gguf([llama, heads, *every, *arrays], infos, data)
    return {
        "good": good,
        "version2": gguf([llama], [w], bytes(32), version=2),
        "rope": gguf([llama, heads], [rope], bytes(32)),
        "rope_blocks": gguf([llama, heads], [info("blk.0.attn_q.weight", [32, 4], 3, 0)], bytes(80 + 16)),
        "transpose": gguf([gpt2], [info("blk.0.ffn_up.weight", [2, 4], 0, 0)], bytes(32)),
        "norm": gguf([gemma2], [info("output_norm.weight", [8], 0, 0)], bytes(32)),
        "alignment64": gguf([llama, field("general.alignment", 4, struct.pack("<I", 64))], [w], bytes(32), alignment=64),
        "truncated_data": good[:-40],
        "truncated_head": good[:200],
        "magic": b"GGML" + good[4:],
        "version1": gguf([llama], [w], bytes(32), version=1),
        "big_endian": gguf([llama], [w], bytes(32), version=0x03000000),
        "many_tensors": b"GGUF" + struct.pack("<IQQ", 3, 1 << 60, 0),
        "many_fields": b"GGUF" + struct.pack("<IQQ", 3, 0, 1 << 60),
        "long_text": b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1 << 63),
        "deep_array": gguf([text("a") + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 20], []),
        "long_array": gguf([field("a", 9, struct.pack("<IQ", 4, 1 << 62))], []),
        "no_type": gguf([field("a", 13, b"")], []),
        "bad_bool": gguf([field("a", 7, b"\x02")], []),
        "duplicate_key": gguf([llama, llama], [w], bytes(32)),
        "duplicate_tensor": gguf([llama], [w, info("w", [8], 0, 32)], bytes(64)),
        "overlap": gguf([llama], [w, info("v", [8], 0, 0)], bytes(32)),
        "hole": gguf([llama], [info("w", [8], 0, 64)], bytes(96)),
        "out_of_range": gguf([llama], [info("w", [9], 0, 0)], bytes(32)),
        "huge_offset": gguf([llama], [info("w", [8], 0, (1 << 64) - 32)], bytes(32)),
        "misaligned": gguf([llama], [info("w", [8], 0, 4)], bytes(64)),
        "left_over": gguf([llama], [w], bytes(96)),
        "huge_shape": gguf([llama], [info("w", [1 << 40, 1 << 40], 0, 0)], bytes(32)),
        "no_dimensions": gguf([llama], [info("w", [], 0, 0)], bytes(32)),
        "zero_size": gguf([llama], [info("w", [0], 0, 0)], bytes(32)),
        "partial_block": gguf([llama], [info("w", [8], 2, 0)], bytes(32)),
        "unread_type": gguf([llama], [info("w", [256], 13, 0)], bytes(192)),
        "unknown_type": gguf([llama], [info("w", [8], 99, 0)], bytes(32)),
        "no_architecture": gguf([], [w], bytes(32)),
        "unknown_architecture": gguf([field("general.architecture", 8, text("rwkv6"))], [w], bytes(32)),
        "no_heads": gguf([llama], [rope], bytes(32)),
        "split": gguf([llama, field("split.count", 2, struct.pack("<H", 3))], [w], bytes(32)),
    }


def index_seeds() -> dict:
    def index(weight_map) -> bytes:
        return json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}).encode()

    return {
        "good": index({"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}),
        "empty": index({}),
        "no_map": b"{}",
        "array": b"[]",
        "map_array": index([]),
        "no_json": b'{"weight_map":',
        "number": index({"a": 7}),
        "parent": index({"a": ".."}),
        "path": index({"a": "../b"}),
        "absolute": index({"a": "/etc/passwd"}),
        "nul": index({"a": "b\0c"}),
        "empty_name": index({"": "b"}),
        "empty_file": index({"a": ""}),
        "duplicate": b'{"weight_map":{"a":"b","a":"c"}}',
        "deep": b'{"weight_map":' + b'{"a":' * 64 + b"1" + b"}" * 65,
        "not_utf8": b'{"weight_map":{"\xff":"b"}}',
    }


def program_seeds() -> dict:
    seeds = {"empty": b"", "file": (ROOT / "models" / "programs" / "vit.assay").read_bytes()}
    for name in ("vit", "olmo"):
        packed = (ROOT / "models" / "programs" / f"{name}.assay").read_bytes()
        seeds[name] = zstandard.ZstdDecompressor().decompress(packed)
    seeds["truncated"] = seeds["vit"][:5000]
    seeds["truncated_file"] = seeds["file"][:-1]
    seeds["flipped_checksum"] = seeds["file"][:-1] + bytes([seeds["file"][-1] ^ 1])
    return seeds


def main() -> None:
    for target, seeds in (("safetensors", safetensors_seeds()), ("gguf", gguf_seeds()), ("index", index_seeds()),
                          ("program", program_seeds())):  # fmt: skip
        folder = CORPUS / target
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in seeds.items():
            (folder / name).write_bytes(content)


if __name__ == "__main__":
    main()
