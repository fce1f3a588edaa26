"""Tiny checkpoints with random weights and word tokenizers, written as transformers writes them."""

import json
import pathlib

import tokenizers
import torch
import transformers
from assay_exporter.checkpoint import command

SAMPLES = pathlib.Path(__file__).resolve().parents[2] / "models" / "samples"
DIGEST = "ab" * 32
_SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "</s>"]
_WORDS = """the capital of france is nile a river in africa man eating food piece bread girl carrying baby processor
server overloaded once upon time there was weather mountains wonderful today train late and nobody told us why translate
english to german house summarize rose night old bridge closed all traffic paris city . , :""".split()
VOCABULARY = 99


def tokenizer() -> transformers.PreTrainedTokenizerFast:
    words = {word: number for number, word in enumerate(_SPECIAL + _WORDS)}
    words |= {f"word{number}": number for number in range(len(words), VOCABULARY)}
    model = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    model.normalizer = tokenizers.normalizers.Lowercase()
    model.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=model, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        mask_token="[MASK]", eos_token="</s>",
    )  # fmt: skip


_SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
CLASSES = {
    "bert": ("BertForMaskedLM", {**_SMALL, "vocab_size": VOCABULARY}, "fill-mask"),
    "encoder": ("BertModel", {**_SMALL, "vocab_size": VOCABULARY}, "sentence-similarity"),
    "gpt2": ("GPT2LMHeadModel",
             {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": VOCABULARY, "eos_token_id": 5, "bos_token_id": 5},
             "text-generation"),
    "llama": ("LlamaForCausalLM",
              {**_SMALL, "num_key_value_heads": 2, "vocab_size": VOCABULARY, "eos_token_id": 5, "bos_token_id": 2,
               "tie_word_embeddings": True},
              "text-generation"),
    "t5": ("T5ForConditionalGeneration",
           {"d_model": 32, "d_ff": 64, "d_kv": 8, "num_layers": 2, "num_heads": 4, "vocab_size": VOCABULARY,
            "decoder_start_token_id": 0, "eos_token_id": 5, "pad_token_id": 0},
           "text2text-generation"),
    "vit": ("ViTForImageClassification", {**_SMALL, "image_size": 32, "patch_size": 8, "num_labels": 7},
            "image-classification"),
    "whisper": ("WhisperForConditionalGeneration",
                {"d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
                 "decoder_attention_heads": 4, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "num_mel_bins": 80,
                 "max_source_positions": 150, "max_target_positions": 48, "vocab_size": VOCABULARY,
                 "decoder_start_token_id": 2, "eos_token_id": 5, "bos_token_id": 5, "pad_token_id": 0},
                "automatic-speech-recognition"),
}  # fmt: skip


def save(folder: pathlib.Path, name: str, seed: int = 0, **config) -> str:
    """Writes the checkpoint `name` of CLASSES into `folder`; returns its task."""
    class_name, fields, task = CLASSES[name]
    model_class = getattr(transformers, class_name)
    torch.manual_seed(seed)
    with torch.enable_grad():
        model = model_class(model_class.config_class(**{**fields, **config}))
    # Random weights of the usual size give outputs that are all close calls.
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(5)
    if name == "whisper":
        held = model.generation_config
        held.no_timestamps_token_id, held.is_multilingual = 3, False
        held.suppress_tokens, held.begin_suppress_tokens = [7, 8], [9]
        transformers.WhisperFeatureExtractor(feature_size=80, chunk_length=3).save_pretrained(folder)
    if name == "vit":
        size = {"height": 32, "width": 32}
        transformers.ViTImageProcessor(size=size).save_pretrained(folder)
    else:
        tokenizer().save_pretrained(folder)
    model.save_pretrained(folder)
    return task


def edit_config(folder: pathlib.Path, **fields) -> None:
    path = folder / "config.json"
    held = json.loads(path.read_text()) | fields
    path.write_text(json.dumps({k: v for k, v in held.items() if v is not None}))


def export(folder: pathlib.Path, out: pathlib.Path, task: str, **fields) -> dict:
    """Runs a request as the command does, and gives result.json."""
    out.mkdir(parents=True, exist_ok=True)
    request = {
        "folder": str(folder), "id": "test/test", "task": task, "weights_digest": DIGEST, "want_golden": True,
        "samples": str(SAMPLES),
    }  # fmt: skip
    (out / "request.json").write_text(json.dumps(request | fields))
    assert command.checkpoint(["--request", str(out / "request.json"), "--out", str(out)]) == 0
    return json.loads((out / "result.json").read_text())
