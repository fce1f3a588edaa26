"""A small configuration of any architecture, in several strengths: where one does not build, the next may.

  tiny    every width at one small value
  filled  the same, and what the library leaves None for a checkpoint to say
  scaled  every width divided by one number, so that their relations hold
  deep    widths as they are; only depth, vocabulary, picture and table sizes shrink

Rules are over names and values of fields; none names a model.
"""

import inspect
import re
from typing import Any

from transformers import PretrainedConfig, ResNetConfig

from ..inputs import SEQUENCE

STRENGTHS = ("tiny", "filled", "scaled", "deep")
_WIDTH, _HEADS, _KV_HEADS, _FFN, _VOCAB, _IMAGE, _POSITIONS = 32, 4, 2, 64, 99, 64, 128
_MOST_STAGES = 8
_SPECIAL = 20  # the last ids of the vocabulary are for special tokens, each its own

_LAYERS = re.compile(
    r"((^|_)(num_)?(\w+_)?(layers|blocks)$|^n_layers?$|^num_layers|(^|_)depth$|n_layer$|_layers_\w*(encoder|decoder))"
)
_NO_LAYERS = re.compile(
    r"sparse|cross_attention_layers|fc_layers|sampl|conv|_per_|adapter_layers|feat_extract|init"
)
_DEPTH_FIELDS = (
    "num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers", "depth", "num_encoder_layers",
    "decoder_layers",
)  # fmt: skip
_WIDTH_FIELDS = (
    "hidden_size", "d_model", "n_embd", "embed_dim", "dim", "hidden_dim", "encoder_embed_dim", "vit_hidden_size",
)  # fmt: skip
_HEAD_FIELDS = ("num_attention_heads", "num_heads", "n_head", "encoder_attention_heads", "n_heads")
_TINY_WIDTH = re.compile(
    r"(^|_)(hidden_size(_global)?|d_model|n_embd|emb_dim|embed_dim|embedding_size|projection_dim|lru_width|bottleneck_size"
    r"|codevector_dim|classifier_proj_size|output_dim|lang_embed_dim|spkr_embed_dim|unit_embed_dim|hidden_dim"
    r"|encoder_hidden_size|word_embed_proj_dim|text_embed_dim|mlp_dim|vision_output_dim|d_latents)$|^dim$|^width$"
)
_ANY_WIDTH = re.compile(
    r"(hidden_size|d_model|n_embd|emb_dim|embedding_size|_dim$|_dims$|^dim$|lru_width|bottleneck_size|_size_?s?$"
    r"|d_ff|n_inner|d_kv|_rank$|_channels$|width$|d_inner|_features$|_ff$|_units$|^channels$|^conv_dim|intermediate)"
)
_NO_WIDTH = re.compile(
    r"(^num_channels|^in_ch|input_channels|vocab|layer|image|img|patch_size|kernel|stride|window|position|token"
    r"|num_heads|^num_|length|_ids?$|d_conv|state_|max_|out_features|mel|codebook|audio_channels|_mult|frames|action"
    r"|feature_sizes|upsample|label|static|time_features|rotary|in_dim|cardinality|n_fft|sampl|chunk|block_size"
    r"|tubelet|crop|pool|merge|input_size|reduction|group|grid|bin|temporal|batch|context|spec_size)"
)
_EXPERTS = re.compile(r"(^|_)(num_experts|n_experts|num_local_experts|n_routed_experts|moe_num_experts)$")
_CHOSEN = re.compile(
    r"(experts_per_tok(en)?|moe_topk|moe_top_k|moe_k|router_top_k|num_selected_experts|top_k_experts)$"
)
_INDICES = re.compile(r"(index|indices|indexes|idx|idxs|ids|_layers|layer_offsets)$")
_NOT_TOUCHED = {"self", "kwargs", "id2label", "label2id"}
_LIMITS = {
    "first_k_dense_replace": 1, "n_group": 2, "topk_group": 1, "chunk_size": 8, "num_queries": 8,
    "num_query_tokens": 8, "resampler_n_latents": 8, "latent_query_num": 4, "num_object_queries": 8, "num_latents": 8,
    "num_self_attends_per_block": 2, "sliding_window": 4, "attention_window_size": 4, "attention_chunk_size": 4,
    "local_attention": 4, "max_text_len": SEQUENCE, "frames_per_clip": 4,
}  # fmt: skip
_HEAD_DIMS = {
    "head_dim", "d_kv", "resampler_head_dim", "attention_head_dim", "qk_rope_head_dim", "qk_nope_head_dim",
    "v_head_dim", "attention_head_size", "kv_channels",
}  # fmt: skip
_TINY = {
    "rotary_dim": 4, "query_pre_attn_scalar": 8, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2,
    "conv_channels": 32,
}  # fmt: skip
# What checkpoints say and the library's defaults do not.
_FILLED: dict[str, Any] = {
    "num_experts_per_tok": 2, "moe_topk": 2, "norm_topk_prob": True, "n_group": 1, "topk_group": 1,
    "vocab_size": _VOCAB, "pad_token_id": 0, "clip_qkv": 8.0, "n_routed_experts": 4, "mask_token_id": _VOCAB - 1,
    "initializer_range": 0.02, "prediction_length": 4,
}  # fmt: skip


def _get(config, name: str, default=None):
    try:  # some configurations refuse a field that differs from layer to layer
        return getattr(config, name, default)
    except Exception:  # noqa: BLE001
        return default


def _whole(value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _first(config, names) -> int | None:
    return next((v for v in (_get(config, name) for name in names) if _whole(v) and v > 0), None)


class _SpecialTokens:
    """Ids beyond the small vocabulary, each with a place of its own at its end."""

    def __init__(self):
        self.known: dict[int, int] = {}

    def __call__(self, token: int) -> int:
        if token < _VOCAB - _SPECIAL:
            return token
        return self.known.setdefault(token, _VOCAB - 1 - len(self.known) % _SPECIAL)


class _Shrinker:
    """The fields of one configuration."""

    def __init__(self, config, strength: str, tokens: _SpecialTokens, backbone: bool):
        self.config, self.tokens, self.backbone = config, tokens, backbone
        self.filled = strength == "filled"
        self.strength = "tiny" if self.filled else strength
        self.layers = _first(config, _DEPTH_FIELDS)
        self.kept = min(self.layers, max(2, self._kinds_of_layers())) if self.layers else 2
        # Layers that take keys and values of earlier ones: after as many others, of the same kinds.
        self.shared = _get(config, "num_kv_shared_layers")
        if _whole(self.shared) and self.shared > 0 and self.layers:
            self.kept = min(self.layers, 2 * self.kept)
        if backbone and self.layers and not _get(config, "depths"):
            self.kept = min(self.layers, max(2, len(_get(config, "out_indices") or [1])))
        if self.layers and not backbone and isinstance(outs := _get(config, "backbone_out_indices"), (list, tuple)):
            self.kept = min(self.layers, max(self.kept, len(outs)))
        self.factor = self._factor()
        # Where a part of a head turns, wider heads, so that the part has room for every axis.
        part = _get(config, "partial_rotary_factor")
        rope = _get(config, "rope_parameters")
        if part is None and isinstance(rope, dict):
            part = rope.get("partial_rotary_factor")
        self.heads = _HEADS // 2 if isinstance(part, float) and part < 1 else _HEADS
        # Numbers of stages: as long as the lists that say something of each stage.
        self.stages = {
            len(value)
            for name, value in vars(config).items()
            if isinstance(value, (list, tuple))
            and 1 < len(value) <= _MOST_STAGES
            and re.search(r"depth|sizes|dims?$|strides|channels|heads|widths|ratios|blocks", name)
            and not re.search(r"image_size|img_size", name)
        }
        if self.layers in self.stages:
            self.kept = self.layers

    def _kinds_of_layers(self) -> int:
        most = 1
        for name, value in vars(self.config).items():
            if (
                isinstance(value, (list, tuple, str))
                and len(value) == self.layers
                and re.search("types|pattern|layers_block", name)
            ):
                try:
                    most = max(most, len(set(value)))
                except TypeError:
                    continue
        return most

    def _factor(self) -> int:
        width, heads = (_first(self.config, _WIDTH_FIELDS), _first(self.config, _HEAD_FIELDS))
        head = _get(self.config, "head_dim")
        if not _whole(head):
            head = width // heads if width and heads else (width // 4 if width else 64)
        factor = 1
        while (
            factor < 16
            and head % (2 * factor) == 0
            and head // (2 * factor) >= 8
            and head // (2 * factor) % 4 == 0
            and (not width or (width % (2 * factor) == 0 and width // (2 * factor) >= 16))
        ):
            factor *= 2
        return factor

    def field(self, name: str, value):
        """The field's small value; None to leave it."""
        if isinstance(value, bool):
            if value and name == "scaling":
                return "std"  # of a series: the mean and the deviation say more than one of them and a constant
            return False if value and re.search(r"kernels?$|use_flash|use_sdpa", name) else None
        if _whole(value):
            return self._integer(name, value)
        if isinstance(value, str):
            if self.layers and len(value) == self.layers and re.search("pattern|types", name):
                return self._per_layer(value)
            return None
        if isinstance(value, dict) and "rope" in name:
            return self._rope(value)
        if isinstance(value, (list, tuple)) and value:
            return self._list(name, value)
        return None

    def _integer(self, name: str, value: int) -> int | None:
        if re.search(r"(^|_)vocab_size$|^n_vocab$|vocab_size_per_layer_input$|_vocab$", name):
            return min(value, _VOCAB)
        if re.search(r"(token_id|token_index|token_idx|^image_id|^video_id|_token_ids?)$", name):
            return self.tokens(value) if value >= 0 else value
        if name.endswith("tokens_per_image"):
            return min(value, 4)
        if name in _LIMITS or name.endswith("_chunk_size"):
            return min(value, _LIMITS.get(name, 8))
        if _EXPERTS.search(name) and value > 0:
            return min(value, 4)
        if _CHOSEN.search(name):
            return min(value, 2)
        if _LAYERS.search(name) and not _NO_LAYERS.search(name) and value > 0:
            if value in self.stages:
                return None
            return min(value, self.kept if value == self.layers else 2)
        if name.endswith("_groups") and value > 16 and self.strength != "deep":
            return _WIDTH if self.strength == "tiny" else value // self.factor
        if name == "window_size" and value > 0:
            patch, merge = _get(self.config, "patch_size"), _get(self.config, "spatial_merge_size")
            if _whole(patch) and patch > 1 and value % patch == 0:  # in dots of a picture
                # Of what becomes one token, where patches are merged, so that there are several windows.
                return patch * merge if _whole(merge) and value % (patch * merge) == 0 else None
            return min(value, max(2, _get(self.config, "downsample_rate") or 2))
        if name == "num_time_features":
            return value or 2  # a series without any has an empty input
        if name == "num_kv_shared_layers":
            return min(value, self.kept // 2)
        if name in ("image_size", "pretrain_image_size", "img_size", "input_size", "crop_size"):
            patch = _get(self.config, "patch_size")
            if (
                _whole(patch)
                and patch > 1
                and value % patch == 0
                and value > 4 * patch
                and not _get(self.config, "depths")
            ):
                return max(4 * patch, 32) if max(4 * patch, 32) % patch == 0 else 4 * patch
            return min(value, _IMAGE)
        if re.search(
            r"(max_position_embeddings|n_positions|n_ctx|max_(source|target)_positions|context_length"
            r"|max_relative_positions?|max_seq_len|max_sequence_length)$",
            name,
        ):
            return min(value, _POSITIONS)
        if self.strength == "deep":
            return None
        if self.strength == "scaled":
            wide = _ANY_WIDTH.search(name) and not _NO_WIDTH.search(name)
            return value // self.factor if wide and value >= 16 and value % self.factor == 0 else None
        return self._tiny_integer(name, value)

    def _tiny_integer(self, name: str, value: int) -> int | None:
        if name in _TINY:
            return _TINY[name]
        if name in _HEAD_DIMS:
            return min(value, _WIDTH // self.heads)
        if name in ("q_lora_rank", "kv_lora_rank"):
            return min(value, 16)
        if re.search(r"(intermediate_size|ffn_dim|_ff$|n_inner|ffn_hidden_size)", name):
            return min(value, _FFN)
        if name in ("num_key_value_heads", "resampler_n_heads", "num_kv_heads"):
            return self.heads if _get(self.config, "num_attention_heads") == value else min(value, _KV_HEADS)
        if re.search(r"(_heads|^n_heads?|num_heads)$", name):
            return min(value, self.heads)
        if _TINY_WIDTH.search(name):
            heads = _get(self.config, "num_heads")
            return 8 * heads[0] if isinstance(heads, (list, tuple)) else min(value, _WIDTH)
        return None

    def _rope(self, given: dict) -> dict | None:
        if self.strength == "deep":
            return None
        if self.filled and "mrope_section" not in given and not any(isinstance(v, dict) for v in given.values()):
            given = {**given, "mrope_section": [2, 1, 1]}
        half = 4
        if self.strength == "scaled":
            width, heads = (_first(self.config, _WIDTH_FIELDS), _first(self.config, _HEAD_FIELDS))
            head = _get(self.config, "head_dim") or (width or 64) // (heads or 4)
            half = max(3, head // self.factor // 2)
        made = _rope_of(given, half)
        return made

    def _per_layer(self, value):
        """One value a layer: the first ones, with every kind among them."""
        kinds = list(dict.fromkeys(value)) if all(isinstance(v, (str, int, float)) for v in value) else []
        if isinstance(value, str):
            return "".join(kinds + [value[0]] * (self.kept - len(kinds)))
        if _whole(self.shared) and self.shared > 0 and len(kinds) <= self.kept // 2:
            half = kinds + [value[0]] * (self.kept // 2 - len(kinds))
            return type(value)(2 * half)
        out = list(value[: self.kept])
        for kind in kinds:
            if kind in out or len(kinds) > self.kept:
                continue
            for place in range(len(out) - 1, -1, -1):
                if out.count(out[place]) > 1:
                    out[place] = kind
                    break
        return type(value)(out)

    def _list(self, name: str, value):
        whole = all(_whole(v) for v in value)
        if (
            self.layers
            and any(isinstance(v, (list, tuple)) for v in value)
            and re.search("attention|types|layers", name)
        ):
            return self._nested(value)
        if self.layers and len(value) == self.layers and not isinstance(value[0], (list, tuple)):
            if not whole or re.search("types|pattern|per_layer|_layers|layers_block|sizes", name):
                return self._per_layer(value)
        if whole and self.layers and _INDICES.search(name) and "token" not in name:
            if self.kept <= max(value) <= self.layers:
                if self.backbone:
                    return None
                if name.endswith("out_indices") and len(value) <= self.kept:  # each goes to a stage of its own
                    return list(range(self.kept - len(value), self.kept))
                highest = self.kept - 1 if max(value) < self.layers else self.kept
                return sorted({min(v, highest) for v in value}) if min(value) >= 0 else None
        if whole and "token" in name and max(value) >= _VOCAB - _SPECIAL:
            return type(value)(self.tokens(v) for v in value)
        if whole and name == "cutoffs":  # of the vocabulary
            return type(value)((i + 1) * _VOCAB // (len(value) + 1) for i in range(len(value)))
        if whole and re.search("_feature_layers?$", name) and not self.layers and min(value) < 0:
            return [max(v, -2) if v < 0 else min(v, 1) for v in value]  # of another part, which keeps two
        if whole and name in ("depths", "layer_depths", "num_layers_list"):
            return [min(v, 2) for v in value]
        if name.endswith("_feature_sizes") and (side := self._side()) and side > _IMAGE:
            return self._divided(value, side // _IMAGE)
        if whole and name in ("image_size", "img_size"):
            return self._picture(value)
        if self.strength == "deep":
            return [min(v, 2) for v in value] if whole and name == "depth" else None
        if whole and name == "depth":
            return [min(v, i + 1) for i, v in enumerate(value)]
        if self.strength == "scaled":
            return self._scaled_list(name, value) if whole else None
        if whole and re.search("_(dim|size)_per_stage$|_channel_list$", name):
            return [max(8, v * _WIDTH // min(value)) for v in value] if min(value) > _WIDTH else None
        if name in ("conv_dim", "tdnn_dim"):
            return type(value)(min(v, _WIDTH) for v in value)
        if whole and name in ("hidden_sizes", "embed_dim", "neck_hidden_sizes", "embed_dims"):
            heads = _get(self.config, "num_heads")
            if isinstance(heads, (list, tuple)):
                return [8 * h for h in heads]
            if _get(self.config, "stage_out_channels"):  # that is what the stages make
                return list(self.config.stage_out_channels)
            return [max(8, v * 8 // value[0]) for v in value]
        return None

    def _nested(self, value):
        if isinstance(value, (list, tuple)):
            return [self._nested(v) for v in value]
        return max(1, value * self.kept // self.layers) if _whole(value) and value > 1 else value

    def _picture(self, value) -> list[int]:
        """Height and width in their relation, of whole patches."""
        if min(value) <= _IMAGE:
            return [min(v, _IMAGE) for v in value]
        patch = _get(self.config, "patch_size")
        patch = patch if _whole(patch) and 0 < patch <= _IMAGE else 1
        return [v * _IMAGE // min(value) // patch * patch for v in value]

    def _side(self) -> int | None:
        """Of the picture that this part or one inside it takes."""
        inside = [v for v in vars(self.config).values() if isinstance(v, PretrainedConfig)]
        sizes = (_get(config, "image_size") for config in (self.config, *inside))
        sides = (size[0] if isinstance(size, (list, tuple)) and size else size for size in sizes)
        return next((side for side in sides if _whole(side)), None)

    def _divided(self, value, divisor: int):
        if isinstance(value, (list, tuple)):
            return [self._divided(v, divisor) for v in value]
        return max(1, value // divisor)

    def _scaled_list(self, name: str, value):
        wide = (
            _ANY_WIDTH.search(name)
            and not _NO_WIDTH.search(name)
            or name in ("widths", "decoder_hidden_sizes")
        )
        if not wide or min(value) < 16 or any(v % 8 for v in value):
            return None
        heads = _get(self.config, "num_heads") or _get(self.config, "num_attention_heads")

        def fits(factor: int) -> bool:
            return all(
                v % factor == 0
                and v // factor >= 4
                and (not isinstance(heads, (list, tuple)) or i >= len(heads) or v // factor % heads[i] == 0)
                for i, v in enumerate(value)
            )

        factor = next((f for f in (8, 4, 2) if fits(f)), 1)
        return [v // factor for v in value]


def _rope_of(given: dict, half: int) -> dict:
    made = dict(given)
    for name, value in given.items():
        if name == "mrope_section" and isinstance(value, (list, tuple)):
            parts = [max(1, v * half // sum(value)) for v in value]
            parts[0] += half - sum(parts)
            made[name] = parts
        elif name in ("long_factor", "short_factor") and isinstance(value, (list, tuple)):
            made[name] = list(value)[:half]
        elif isinstance(value, dict):
            made[name] = _rope_of(value, half)
    return made


def _none(name: str, filled: bool, tokens: _SpecialTokens, heads: int):
    """What stands for a None; None to leave it."""
    if name == "num_key_value_heads":
        return heads
    if filled and name == "head_dim":
        return _WIDTH // heads
    if name == "prediction_length":
        return 4
    if found := re.search(r"^(image|video|audio)_token_(id|index)$", name):
        return tokens(1_000_000 + len(found[1]) + ord(found[1][0]))
    if filled and name in ("rope_scaling", "rope_parameters"):
        return {"rope_type": "default", "type": "default", "mrope_section": [2, 1, 1], "rope_theta": 10000.0,
                "factor": 1.0}  # fmt: skip
    return _FILLED.get(name) if filled else None


def _nested_config(value: PretrainedConfig, name: str, strength: str, tokens: _SpecialTokens, declared: bool):
    backbone = "backbone" in name
    given = value if backbone or "generator" in name else None
    keywords = arguments(type(value), strength, tokens, given, backbone)
    try:
        made = type(value)(**keywords)
    except Exception:  # noqa: BLE001 - whatever the library's constructors raise
        keywords = arguments(type(value), "deep", tokens, None, backbone)
        made = type(value)(**keywords)
    if backbone or not declared:
        return made
    return {**keywords, "model_type": type(value).model_type} if type(value).model_type else keywords


def arguments(
    config_class: type[PretrainedConfig],
    strength: str,
    tokens: _SpecialTokens | None = None,
    default: PretrainedConfig | None = None,
    backbone: bool = False,
) -> dict[str, Any]:
    """Constructor's keywords of a small configuration of the class. Raises what the library raises."""
    tokens = tokens or _SpecialTokens()
    default = default if default is not None else config_class()
    shrinker = _Shrinker(default, strength, tokens, backbone)
    nested = _get(config_class, "sub_configs", {})
    nested = nested if isinstance(nested, dict) else {}
    names, open_ended = _fields(config_class)
    if open_ended:
        names += [n for n in ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id", "sep_token_id")
                  if n not in names]  # fmt: skip
    made: dict[str, Any] = {}
    for name in [*nested, *(n for n in names if n not in nested)]:
        value = _get(default, name)
        if type(value).__name__ == "TimmBackboneConfig":
            made[name] = _small_backbone(default)
        elif isinstance(value, PretrainedConfig):
            made[name] = _nested_config(value, name, strength, tokens, name in nested)
        elif name in nested:
            continue
        elif name in ("use_timm_backbone", "use_pretrained_backbone"):
            made[name] = False
        elif name == "backbone" and isinstance(value, str):
            made[name] = None
        elif value is None:
            filled = _none(name, shrinker.filled, tokens, shrinker.heads)
            if filled is not None and (name != "num_key_value_heads" or shrinker.strength == "tiny"):
                made[name] = filled
        elif name in ("out_features", "stage_names") or (name == "out_indices" and not backbone):
            continue
        elif name == "out_indices":
            made[name] = list(value)
            if shrinker.layers and not _get(default, "depths"):
                made[name] = list(range(shrinker.kept - len(value) + 1, shrinker.kept + 1))
        else:
            small = shrinker.field(name, value)
            if small is not None and small != value:
                made[name] = small
    if _get(default, "image_grid_pinpoints"):
        made["image_grid_pinpoints"] = _pinpoints(made, default)
    if "backbone_config" in names and _get(default, "backbone_config") is None:
        if _get(default, "backbone") or _get(default, "use_timm_backbone", False):
            made["backbone_config"] = _small_backbone(default)
    outs = _get(default, "out_indices")
    if backbone and "out_indices" not in names and isinstance(outs, (list, tuple)) and hasattr(default, "stage_names"):
        staged = not shrinker.layers or _get(default, "depths")
        made["out_indices"] = (
            list(outs) if staged else list(range(shrinker.kept - len(outs) + 1, shrinker.kept + 1))
        )
    if backbone:
        for name in ("reshape_hidden_states", "apply_layernorm"):
            if name in names and hasattr(default, name):
                made[name] = getattr(default, name)
    return made


def _small_backbone(config) -> ResNetConfig:
    """In the place of one that would come from another library."""
    several = (_get(config, "num_feature_levels") or 1) > 1
    return ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1], layer_type="basic",
        out_features=["stage2", "stage3", "stage4"] if several else ["stage4"],
    )  # fmt: skip


def _pinpoints(made: dict, default) -> list[list[int]]:
    """Sizes of pictures of several tiles, each as large as the picture of the small vision tower."""
    vision = made.get("vision_config", _get(default, "vision_config"))
    size = vision.get("image_size") if isinstance(vision, dict) else _get(vision, "image_size")
    if isinstance(vision, dict) and size is None:
        size = _get(_get(default, "vision_config"), "image_size")
    size = size[0] if isinstance(size, (list, tuple)) else size or _IMAGE
    return [[size, 2 * size], [2 * size, size], [2 * size, 2 * size]]


def _fields(config_class) -> tuple[list[str], bool]:
    parameters = inspect.signature(config_class.__init__).parameters
    names = [
        name
        for name, p in parameters.items()
        if name not in _NOT_TOUCHED and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
    ]
    return names, any(p.kind == p.VAR_KEYWORD for p in parameters.values())


def merged(keywords: dict[str, Any], overrides: dict[str, Any]) -> dict[str, Any]:
    """`keywords` with nested `overrides` in their place."""
    made = dict(keywords)
    for name, value in overrides.items():
        before = made.get(name)
        if isinstance(value, dict) and isinstance(before, dict):
            made[name] = merged(before, value)
        elif isinstance(value, dict) and isinstance(before, PretrainedConfig):
            made[name] = type(before)(**{**before.to_dict(), **value})
        else:
            made[name] = value
    return made
