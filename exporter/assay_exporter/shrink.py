"""A tiny configuration of any architecture: the default configuration with its standard fields shrunk.

Everything that makes an architecture what it is (activations, norms, attention forms, stage counts) stays as
the library's default has it; only sizes shrink. What a model needs beyond that stands in its catalogue entry.
"""

import inspect
import re
from typing import Any

from transformers import PretrainedConfig

HIDDEN = 32
HEADS = 4
KV_HEADS = 2
FFN = 64
VOCAB = 99
IMAGE = 64
POSITIONS = 64

# Fields that name layers or stages; shrinking them by value would make no sense.
_LEFT_ALONE = {
    "layer_types", "out_features", "out_indices", "stage_names", "window_block_indices",
    "residual_block_indices", "feature_layer", "self", "kwargs",
}  # fmt: skip

_WIDTH = re.compile(
    r"(^|_)(hidden_size|d_model|n_embd|emb_dim|embed_dim|embedding_size|projection_dim|lru_width"
    r"|attention_hidden_size|intra_bottleneck_size|bottleneck_size|codevector_dim|classifier_proj_size"
    r"|output_dim|lang_embed_dim|spkr_embed_dim|unit_embed_dim|hidden_dim|out_hidden_size|vision_output_dim"
    r"|encoder_hidden_size|reassemble_hidden_size|fusion_hidden_size|prompt_hidden_size)$"
)
# (pattern on the field's name, largest value that is left)
_LIMITS = [
    (re.compile(r"(^|_)vocab_size$"), VOCAB),
    (re.compile(r"(intermediate_size|ffn_dim|_ff$|n_inner|ffn_hidden_size)"), FFN),
    (re.compile(r"(_heads|^n_head|^n_heads|num_heads)$"), HEADS),
    (re.compile(r"^(head_dim|d_kv|resampler_head_dim)$"), HIDDEN // HEADS),
    (re.compile(r"(_layers|^n_layers?|^depth|resampler_depth)$"), 2),
    (re.compile(r"(max_position_embeddings|n_positions|n_ctx|max_source_positions|max_target_positions"
                r"|context_length|max_relative_positions?)$"), POSITIONS),
    (re.compile(r"^(image_size|pretrain_image_size)$"), IMAGE),
    (re.compile(r"^(num_queries|num_query_tokens|resampler_n_latents)$"), 8),
]  # fmt: skip
_FIXED = {
    "query_pre_attn_scalar": 8, "rotary_dim": 4, "num_experts": 4, "num_experts_per_tok": 2,
    "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2, "conv_channels": 32,
    "sliding_window": 4, "attention_window_size": 4,
}  # fmt: skip


def _shrunk_int(field: str, value: int, config: PretrainedConfig) -> int | None:
    if _WIDTH.search(field):
        heads = getattr(config, "num_heads", None)
        return 8 * heads[0] if isinstance(heads, (list, tuple)) else min(value, HIDDEN)
    if field in ("num_key_value_heads", "resampler_n_heads"):
        same = getattr(config, "num_attention_heads", None) == value
        return HEADS if same else min(value, KV_HEADS)
    if field in _FIXED:
        return _FIXED[field]
    if field == "window_size" and value > 0:
        return min(value, 2)
    if "sparse" not in field:
        for pattern, limit in _LIMITS:
            if pattern.search(field):
                return min(value, limit) if value else value
    if re.search(r"(token_id|token_index|_index)$", field) and "layer" not in field:
        return min(value, VOCAB - 1)
    return None


def _shrunk_list(field: str, values: list, config: PretrainedConfig) -> list | None:
    if field in ("conv_dim", "tdnn_dim"):
        return type(values)(min(v, HIDDEN) for v in values)
    if all(type(v) is int for v in values):
        if field in ("depths", "depth", "layer_depths"):
            return [min(v, 2) for v in values]
        if field in ("hidden_sizes", "embed_dim", "neck_hidden_sizes", "embed_dims"):
            heads = getattr(config, "num_heads", None)
            if isinstance(heads, (list, tuple)):
                return [8 * n for n in heads]
            return [max(8, v * 8 // values[0]) for v in values]
    return None


def tiny_arguments(config_class: type[PretrainedConfig], overrides: dict[str, Any]) -> dict[str, Any]:
    """Arguments of `config_class` for a tiny model. `overrides` may be nested like the configuration."""
    default = config_class()
    overrides = dict(overrides)
    arguments: dict[str, Any] = {}
    nested = getattr(config_class, "sub_configs", {})
    nested = nested if isinstance(nested, dict) else {}
    for name, declared in nested.items():
        given = overrides.pop(name, {})
        present = getattr(default, name, None)
        nested_class = type(present) if isinstance(present, PretrainedConfig) else declared
        if "model_type" in given or nested_class.__name__ == "AutoConfig":
            arguments[name] = given  # a whole configuration of another class
            if not given:
                del arguments[name]
            continue
        arguments[name] = tiny_arguments(nested_class, given)
        if nested_class.model_type:
            arguments[name]["model_type"] = nested_class.model_type
    for field, parameter in inspect.signature(config_class.__init__).parameters.items():
        if field in _LEFT_ALONE or field in nested:
            continue
        if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            continue
        value = getattr(default, field, None)
        shrunk = None
        if field == "num_key_value_heads" and value is None:
            shrunk = HEADS
        elif type(value) is int:
            shrunk = _shrunk_int(field, value, default)
        elif isinstance(value, (list, tuple)) and value:
            shrunk = _shrunk_list(field, value, default)
        if shrunk is not None:
            arguments[field] = shrunk
    for field in ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id"):
        value = getattr(default, field, None)
        if type(value) is int and value >= VOCAB:
            arguments[field] = VOCAB - 1
    arguments.update(overrides)
    return arguments


def tiny(config_class: type[PretrainedConfig], overrides: dict[str, Any]) -> PretrainedConfig:
    return config_class(**tiny_arguments(config_class, overrides))
