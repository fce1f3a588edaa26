"""Makes small checkpoints as transformers' own save_pretrained writes them, and spoilt copies of one of them.

Run by the exporter's Python: make_checkpoints.py DIR. Weights are random, from fixed seeds.
"""

import json
import pathlib
import shutil
import struct
import sys

import torch
import transformers

WORDS = ("the a of is in to and capital france paris rome italy man woman dog cat bread food eats eating piece "
         "sun moon sky sea red green blue one two three . ,").split()


def tokenizer(folder):
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    transformers.BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    return len(vocabulary)


def bert(folder, seed, **more):
    words = tokenizer(folder)
    config = transformers.BertConfig(
        vocab_size=words, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48,
        max_position_embeddings=64)
    torch.manual_seed(seed)
    model = transformers.BertForMaskedLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # larger than a fresh model's, so that answers are no toss-up
            parameter.add_(torch.randn_like(parameter) * 0.3)
    model.save_pretrained(folder, **more)
    return folder


def copy(source, target):
    shutil.copytree(source, target)
    return target


def edit_header(path, change):
    """Rewrites a safetensors file with change(header, data) -> (header, data)."""
    bytes_ = path.read_bytes()
    size = struct.unpack("<Q", bytes_[:8])[0]
    header, data = change(json.loads(bytes_[8:8 + size]), bytearray(bytes_[8 + size:]))
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def span(header, name):
    return header[name]["data_offsets"]


def main(root):
    good = bert(root / "good" / "bert", 1)
    bert(root / "good" / "finetune", 2)
    sharded = bert(root / "good" / "sharded", 3, max_shard_size="20KB")

    # Under the id of a catalogue entry's default checkpoint.
    copy(good, root / "google-bert" / "bert-base-uncased")

    bad = root / "bad"
    layer = "bert.encoder.layer.1.attention.self.query.weight"

    def spoil_nan(header, data):
        first = span(header, layer)[0]
        data[first + 8:first + 12] = struct.pack("<f", float("nan"))
        return header, data

    def rename(header, data):
        header[layer.replace("query", "querry")] = header.pop(layer)
        return header, data

    def overlap(header, data):
        first, last = span(header, layer)
        header[layer]["data_offsets"] = [first - 4, last - 4]
        return header, data

    for name, change in {"nan": spoil_nan, "missing": rename, "overlap": overlap}.items():
        edit_header(copy(good, bad / name) / "model.safetensors", change)

    truncated = copy(sharded, bad / "truncated")
    shard = sorted(truncated.glob("model-*.safetensors"))[1]
    shard.write_bytes(shard.read_bytes()[:-100])

    def config(name, **change):
        path = copy(good, bad / name) / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **change}))

    config("unknown_type", model_type="berd", architectures=["BerdModel"])
    config("remote_code", auto_map={"AutoModel": "modeling_mine.MyModel"})
    config("other_class", model_type="t5", architectures=["T5ForConditionalGeneration"])

    pickled = copy(good, bad / "pickle")
    (pickled / "model.safetensors").unlink()
    torch.save(transformers.BertForMaskedLM.from_pretrained(good).state_dict(), pickled / "pytorch_model.bin")


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    main(pathlib.Path(sys.argv[1]))
