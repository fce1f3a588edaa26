"""The shrinker makes a model tiny and leaves what makes it itself."""

import transformers
from assay_exporter import catalogue, shrink
from assay_exporter.proto import catalogue_pb2


def test_sizes_shrink_and_everything_else_stays_as_the_library_has_it():
    config = shrink.tiny(transformers.BertConfig, {})
    assert (config.hidden_size, config.num_attention_heads, config.num_hidden_layers) == (32, 4, 2)
    assert (config.vocab_size, config.intermediate_size, config.max_position_embeddings) == (99, 64, 64)
    assert config.hidden_act == transformers.BertConfig().hidden_act
    assert config.layer_norm_eps == transformers.BertConfig().layer_norm_eps


def test_grouped_attention_stays_grouped_and_full_attention_full():
    assert shrink.tiny(transformers.MistralConfig, {}).num_key_value_heads == shrink.KV_HEADS
    assert shrink.tiny(transformers.LlamaConfig, {}).num_key_value_heads == shrink.HEADS


def test_stages_keep_their_number_and_their_growth():
    config = shrink.tiny(transformers.ConvNextConfig, {})
    assert config.hidden_sizes == [8, 16, 32, 64]
    assert config.depths == [2, 2, 2, 2]


def test_nested_configurations_shrink_and_take_overrides_by_path():
    entry = catalogue_pb2.CatalogueEntry(name="clip")
    entry.config_override.add(field="vision_config.patch_size", json="8")
    entry.config_override.add(field="projection_dim", json="16")
    config = shrink.tiny(transformers.CLIPConfig, catalogue.overrides(entry))
    assert config.vision_config.patch_size == 8 and config.projection_dim == 16
    assert config.vision_config.image_size == shrink.IMAGE and config.text_config.vocab_size == shrink.VOCAB


def test_special_tokens_stay_within_the_vocabulary():
    config = shrink.tiny(transformers.GPT2Config, {})
    assert config.bos_token_id < config.vocab_size and config.eos_token_id < config.vocab_size
