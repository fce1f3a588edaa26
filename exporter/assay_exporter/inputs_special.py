"""Inputs of models that want something of their own: boxes, entities, tag paths, spectrograms, series.

See inputs.py, which imports this module so that its makers are known.
"""

import torch

from . import mock, shrink
from .inputs import (
    BATCH,
    SEQUENCE,
    Input,
    _label_texts,
    _text_with_placeholders,
    ids,
    maker,
    noise,
    ones,
    text,
)


def _integers(name: str, *shape: int, low: int, high: int, **more) -> Input:
    """Integers in [low, high) that are no token ids: nobody may change one at a place of its own."""
    return Input(name, shape, mock.int_range(low, high), torch.long, **more)


def _positions(name: str, *shape: int, **more) -> Input:
    return Input(name, shape, mock.ramp(0, 1), torch.long, moves=False, **more)


@maker
def text_32(config) -> list[Input]:
    return [ids(length=32), ones("attention_mask", BATCH, 32)]


@maker
def text_64(config) -> list[Input]:
    return [ids(length=64), ones("attention_mask", BATCH, 64)]


@maker
def text_with_boxes(config) -> list[Input]:
    """Each token with the box of its word: left, top, right, bottom."""

    def place(tensor: torch.Tensor) -> None:
        tensor.copy_(tensor.sort(dim=-1).values)

    return [ids(), _integers("bbox", BATCH, SEQUENCE, 4, low=1, high=40, place=place), *text(config)[1:]]


@maker
def text_with_entities(config) -> list[Input]:
    """Two entities of two tokens each; -1 fills an entity's list of positions."""

    def place(tensor: torch.Tensor) -> None:
        tensor.fill_(-1)
        tensor[:, 0, :2] = torch.tensor([1, 2])
        tensor[:, 1, :2] = torch.tensor([4, 5])

    places = Input(
        "entity_position_ids", (BATCH, 2, 4), mock.constant(-1), torch.long, place=place, moves=False
    )
    return [
        *text(config),
        _integers("entity_ids", BATCH, 2, low=6, high=config.entity_vocab_size),
        places,
        ones("entity_attention_mask", BATCH, 2),
    ]


@maker
def text_with_xpaths(config) -> list[Input]:
    shape = (BATCH, SEQUENCE, config.max_depth)
    return [
        ids(),
        _integers("xpath_tags_seq", *shape, low=0, high=config.tag_pad_id),
        _integers("xpath_subs_seq", *shape, low=0, high=config.subs_pad_id),
        *text(config)[1:],
    ]


@maker
def characters(config) -> list[Input]:
    """Unicode code points; enough of them for several downsampled positions."""
    return [ids(length=32, low=97, high=900), ones("attention_mask", BATCH, 32)]


@maker
def text_global(config) -> list[Input]:
    """Longer than the attention window, with one token of global attention."""

    def place(tensor: torch.Tensor) -> None:
        tensor[:, 0] = 1

    seen = Input("global_attention_mask", (BATCH, 16), mock.constant(0), torch.long, place=place, moves=False)
    return [ids(length=16), ones("attention_mask", BATCH, 16), seen]


@maker
def seq2seq_global(config) -> list[Input]:
    return [*text_global(config), ids("decoder_input_ids"), ones("decoder_attention_mask", BATCH, SEQUENCE)]


@maker
def seq2seq_32(config) -> list[Input]:
    return [*text_32(config), ids("decoder_input_ids"), ones("decoder_attention_mask", BATCH, SEQUENCE)]


@maker
def waveform_to_text(config) -> list[Input]:
    return [
        noise("input_values", BATCH, 3200),
        ids("decoder_input_ids"),
        ones("decoder_attention_mask", BATCH, SEQUENCE),
    ]


@maker
def audio_and_labels(config) -> list[Input]:
    """A mel spectrogram for every sound, folded into a square image by the model."""
    audio = config.audio_config
    return [
        *_label_texts(),
        noise("input_features", BATCH, 1, audio.spec_size**2 // audio.num_mel_bins, audio.num_mel_bins),
    ]


@maker
def spectrogram(config) -> list[Input]:
    return [noise("input_values", BATCH, config.max_length, config.num_mel_bins)]


@maker
def video(config) -> list[Input]:
    return [noise("pixel_values", BATCH, config.num_frames, 3, config.image_size, config.image_size)]


@maker
def image_and_queries(config) -> list[Input]:
    """Every image with as many texts to look for; the batch of texts is a multiple of the images'."""
    size = config.vision_config.image_size

    def place(tensor: torch.Tensor) -> None:
        tensor[:, -1] = shrink.VOCAB - 1

    return [
        ids(place=place),
        noise("pixel_values", BATCH, 3, size, size),
        ones("attention_mask", BATCH, SEQUENCE),
    ]


@maker
def kosmos2(config) -> list[Input]:
    """Image features take the places that a mask names."""
    size = config.vision_config.image_size
    return [noise("pixel_values", BATCH, 3, size, size), *_text_and_where(config.latent_query_num)]


def _text_and_where(count: int) -> list[Input]:
    """A text, and the mask of its `count` places for a picture."""
    length = count + SEQUENCE

    def place(tensor: torch.Tensor) -> None:
        tensor[:, 2 : 2 + count] = 1

    where = Input(
        "image_embeds_position_mask", (BATCH, length), mock.constant(0), torch.long, place=place, moves=False
    )
    return [ids(length=length), where, ones("attention_mask", BATCH, length)]


@maker
def patches_to_text(config) -> list[Input]:
    """Patches, each behind its row and column; all real."""
    count, side = 16, 4
    features = config.vision_config.patch_embed_hidden_size

    def place(tensor: torch.Tensor) -> None:
        grid = torch.arange(count)
        tensor[:, :, 0] = grid // side + 1
        tensor[:, :, 1] = grid % side + 1

    return [
        noise("flattened_patches", BATCH, count, features + 2, place=place),
        ones("attention_mask", BATCH, count, dtype=torch.float32),
        ids("decoder_input_ids"),
        ones("decoder_attention_mask", BATCH, SEQUENCE),
    ]


@maker
def blip_2(config) -> list[Input]:
    size = config.vision_config.image_size
    return [
        noise("pixel_values", BATCH, 3, size, size),
        *_text_with_placeholders(config.image_token_index, config.num_query_tokens),
    ]


@maker
def paligemma(config) -> list[Input]:
    """The image and the text before the answer see each other (token type 0), the rest is causal."""
    vision = config.vision_config
    return [
        *_text_with_placeholders(config.image_token_index, (vision.image_size // vision.patch_size) ** 2),
        noise("pixel_values", BATCH, 3, vision.image_size, vision.image_size),
    ]


@maker
def trajectory(config) -> list[Input]:
    steps = SEQUENCE
    return [
        noise("states", BATCH, steps, config.state_dim),
        noise("actions", BATCH, steps, config.act_dim),
        noise("returns_to_go", BATCH, steps, 1),
        _positions("timesteps", BATCH, steps),
        ones("attention_mask", BATCH, steps),
    ]


@maker
def series(config) -> list[Input]:
    return [noise("past_values", BATCH, config.context_length, config.num_input_channels)]


@maker
def series_with_lags(config) -> list[Input]:
    past = config.context_length + max(config.lags_sequence)
    future = config.prediction_length
    return [
        noise("past_values", BATCH, past),
        noise("past_time_features", BATCH, past, config.num_time_features),
        ones("past_observed_mask", BATCH, past, dtype=torch.float32),
        noise("future_values", BATCH, future),
        noise("future_time_features", BATCH, future, config.num_time_features),
    ]


@maker
def flava(config) -> list[Input]:
    size = config.image_config.image_size
    return [*text(config), noise("pixel_values", BATCH, 3, size, size)]


@maker
def text_and_whole_image(config) -> list[Input]:
    """One configuration for both; every pixel is real."""
    size = config.image_size
    return [
        *text(config),
        noise("pixel_values", BATCH, 3, size, size),
        ones("pixel_mask", BATCH, size, size),
    ]


@maker
def ids_64(config) -> list[Input]:
    return [ids(length=64)]


@maker
def text_with_segments(config) -> list[Input]:
    return [*text(config), _integers("token_type_ids", BATCH, SEQUENCE, low=0, high=2)]


@maker
def seq2seq_15(config) -> list[Input]:
    """Long enough for a router to choose every expert; below the distance of 16 at which rounding decides a bucket."""
    return [ids(length=15), ones("attention_mask", BATCH, 15), ids("decoder_input_ids", length=15)]


@maker
def graph(config) -> list[Input]:
    """Graphs of five nodes; what an edge's kind is comes with the edges along each path, and not once more."""
    nodes, hops = 5, config.multi_hop_max_dist
    return [
        _integers("input_nodes", BATCH, nodes, 3, low=1, high=config.num_atoms),
        _integers("input_edges", BATCH, nodes, nodes, hops, 2, low=1, high=config.num_edges),
        noise("attn_bias", BATCH, nodes + 1, nodes + 1),
        _integers("in_degree", BATCH, nodes, low=1, high=nodes),
        _integers("out_degree", BATCH, nodes, low=1, high=nodes),
        _integers("spatial_pos", BATCH, nodes, nodes, low=1, high=hops),
        Input("attn_edge_type", (BATCH, nodes, nodes, 2), mock.constant(1), torch.long, moves=False),
    ]


@maker
def text_to_codes(config) -> list[Input]:
    """A text, and the codes of the sound so far: a row for each codebook."""
    count = config.decoder.num_codebooks
    codes = ids("decoder_input_ids", batch=BATCH * count, batch_dim=None)
    return [ids(batch_dim=None), ones("attention_mask", BATCH, SEQUENCE, batch_dim=None), codes]


@maker
def series_and_future(config) -> list[Input | dict]:
    """A series whose future is forecast only where future values are given, whatever they are."""
    length = config.context_length + max(config.lags_sequence)
    future, features = config.prediction_length, config.num_time_features
    return [
        noise("past_values", BATCH, length),
        noise("past_time_features", BATCH, length, features),
        ones("past_observed_mask", BATCH, length, dtype=torch.float32),
        noise("future_time_features", BATCH, future, features),
        {"future_values": torch.zeros(BATCH, future)},
    ]


@maker
def patches_in_a_text(config) -> list[Input]:
    """Patches, each behind its row and column, whose features take the places that a mask names."""
    return [patches_to_text(config)[0], *_text_and_where(config.latent_query_num)]
