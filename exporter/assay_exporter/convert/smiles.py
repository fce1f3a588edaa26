"""RXNMapper's ALBERT, a masked language model of chemical reactions in SMILES. Its weights are a pickle, and its
tokenizer is a class of the package; here they become safetensors and a tokenizer.json with the same vocabulary."""

import json
import pathlib

import safetensors.torch
import tokenizers
import torch
import transformers
from tokenizers import models, pre_tokenizers, processors

from . import ConversionError, converter, one

# Atoms, bonds, rings and branches, one token each: the split of Schwaller et al., "Molecular Transformer"
# (https://doi.org/10.1021/acscentsci.9b00576), which the vocabulary was made with.
_TOKEN = (
    r"(\%\([0-9]{3}\)|\[[^\]]+]|Br?|Cl?|N|O|S|P|F|I|b|c|n|o|s|p|\||\(|\)|\.|=|#|-|\+|\\|\/|:|~|@|\?|>>?|\*|\$"
    r"|\%[0-9]{2}|[0-9])"
)


def _tokenizer(vocabulary_file: pathlib.Path) -> transformers.PreTrainedTokenizerFast:
    vocabulary = {line: number for number, line in enumerate(vocabulary_file.read_text().splitlines())}
    tokenizer = tokenizers.Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(tokenizers.Regex(_TOKEN), "removed", invert=True)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, vocabulary[token]) for token in ("[CLS]", "[SEP]")],
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="[UNK]",
        sep_token="[SEP]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        mask_token="[MASK]",
        model_max_length=512,
    )


@converter("rxnmapper")
def rxnmapper(source: pathlib.Path, destination: pathlib.Path) -> None:
    """ALBERT on SMILES; a pickle, read with weights_only."""
    model = one(source, "rxnmapper/models/transformers/albert_heads_8_uspto_all_1310k")
    weights = torch.load(model / "pytorch_model.bin", weights_only=True, map_location="cpu")
    if not all(isinstance(value, torch.Tensor) for value in weights.values()):
        raise ConversionError("pytorch_model.bin holds more than tensors")
    # Tied weights share their storage, which safetensors refuses: the alias goes, as save_pretrained does.
    kept: dict[str, torch.Tensor] = {}
    seen: set[tuple[int, int]] = set()
    for name, tensor in weights.items():
        place = (tensor.untyped_storage().data_ptr(), tensor.storage_offset())
        if place not in seen:
            kept[name] = tensor.contiguous()
            seen.add(place)
    safetensors.torch.save_file(kept, destination / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((model / "config.json").read_text())
    (destination / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    _tokenizer(model / "vocab.txt").save_pretrained(destination)
