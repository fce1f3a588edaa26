"""What an error of a small configuration says of its fields, and that nothing else is made of it."""

import pytest
import torch
from assay_exporter import builders
from assay_exporter.discover import mending, shrinking
from transformers import DbrxConfig, DbrxForCausalLM, PretrainedConfig


class Tower(PretrainedConfig):
    model_type = "tower"

    def __init__(self, width=8, hidden_widths=(8, 12), vocab_size=8, **more):
        self.width, self.hidden_widths, self.vocab_size = (width, hidden_widths, vocab_size)
        super().__init__(**more)


class Whole(PretrainedConfig):
    model_type = "whole"

    def __init__(self, tower=None, width=6, num_shared_experts=None, temperature=None, **more):
        self.tower = Tower(**tower) if isinstance(tower, dict) else tower or Tower()
        self.width, self.num_shared_experts, self.temperature = (width, num_shared_experts, temperature)
        super().__init__(**more)


def join(config: Whole) -> torch.Tensor:
    return torch.ones(2, config.tower.width) @ torch.ones(config.width, 3)


def trial(run, tried):
    """As the attempt's: the configuration, and the error of building or running it."""

    def one(overrides: dict):
        tried.append(overrides)
        config = Whole(**overrides)
        try:
            run(config)
        except Exception as error:  # noqa: BLE001 - what mending is for
            return config, error
        return config, None

    return one


@pytest.mark.parametrize(
    ("wrong", "numbers"),
    [
        (lambda: torch.ones(2, 8) @ torch.ones(6, 3), (8, 6)),
        (lambda: torch.nn.functional.linear(torch.ones(1, 2, 8), torch.ones(3, 6)), (8, 6)),
        (lambda: torch.nn.Conv2d(4, 4, 1)(torch.ones(1, 8, 2, 2)), (4, 8)),
        (lambda: torch.ones(4) + torch.ones(3), (4, 3)),
        (lambda: torch.nn.LayerNorm(6)(torch.ones(2, 8)), (6, 8)),
        (lambda: torch.bmm(torch.ones(2, 3, 8), torch.ones(2, 6, 3)), (8, 6)),
        (lambda: torch.ones(3).expand(4), (4, 3)),
        (lambda: torch.nn.BatchNorm2d(6)(torch.ones(2, 8, 2, 2)), (8, 6)),
        (lambda: torch.nn.GroupNorm(4, 6), (6, 4)),
        (lambda: torch.cat([torch.ones(2, 3), torch.ones(4, 3)], 1), (2, 4)),
    ],
)
def test_the_two_numbers_of_an_error_of_torch_are_read(wrong, numbers):
    with pytest.raises((RuntimeError, ValueError)) as error:
        wrong()
    assert mending.disagreeing(str(error.value)) == numbers


def test_an_error_without_two_numbers_says_nothing():
    assert mending.disagreeing("index 7 is out of range") is None
    assert mending.disagreeing("mat1 and mat2 shapes cannot be multiplied (2x8 and 8x3)") is None
    assert mending.edits(Whole(), ValueError("something else")) == []


def test_sizes_that_must_agree_are_made_to():
    tried: list[dict] = []
    found = mending.mended(trial(join, tried), {}, lambda: False)
    assert found in ({"tower": {"width": 6}}, {"width": 8})
    join(Whole(**found))


def test_fields_that_only_have_the_number_are_left_where_another_helps():
    names = [
        edit.path
        for edit in mending.edits(
            Whole(), RuntimeError("(2x8 and 6x3) shapes cannot be multiplied (2x8 and 6x3)")
        )
    ]
    assert ("tower", "width") in names and ("width",) in names and ("tower", "hidden_widths") in names
    assert ("tower", "vocab_size") not in names  # no size of a signal


def test_what_nothing_helps_is_given_up():
    def never(config):
        raise RuntimeError("shapes cannot be multiplied (2x8 and 6x3)")

    tried: list[dict] = []
    assert mending.mended(trial(never, tried), {}, lambda: False) is None
    assert len(tried) <= mending.MOST_TRIES + 1
    tried.clear()
    assert mending.mended(trial(never, tried), {}, lambda: True) is None
    assert len(tried) == 1  # no time for more


def test_what_runs_is_left_as_it_is():
    assert mending.mended(trial(lambda config: None, []), {"width": 9}, lambda: False) == {"width": 9}


def test_a_field_that_is_none_where_a_number_is_read_is_filled():
    def count(config):
        if config.num_shared_experts is None:
            raise TypeError("'NoneType' object cannot be interpreted as an integer")
        return list(range(config.num_shared_experts))

    assert mending.mended(trial(count, []), {}, lambda: False) == {"num_shared_experts": 2}


def test_a_field_that_is_none_is_found_by_the_function_that_reads_it():
    """The error stands a line below the one that reads the field, and does not name it."""

    def one(overrides: dict):
        config = DbrxConfig(**shrinking.merged(shrinking.arguments(DbrxConfig, "tiny"), overrides))
        builders.configure(config)
        try:
            DbrxForCausalLM(config).eval()(input_ids=torch.tensor([[7, 8]]))
        except Exception as error:  # noqa: BLE001
            return config, error
        return config, None

    with torch.no_grad():
        assert "must not be None" in str(one({})[1])
        assert mending.mended(one, {}, lambda: False) == {"attn_config": {"clip_qkv": 1.0}}


class Lacking(Whole):
    sub_configs = {"tower": Tower}


def test_a_field_that_the_configuration_lacks_is_given_to_it():
    def read(config):
        return config.tower.rope_theta, config.type_vocab_size

    found = mending.mended(trial(read, []), {}, lambda: False)
    assert found == {"tower": {"rope_theta": 10000.0}, "type_vocab_size": shrinking._VOCAB}


def test_a_configuration_that_is_none_is_made_of_its_class():
    config = Lacking()
    config.tower = None
    found = mending.edits(config, AttributeError("'NoneType' object has no attribute 'width'"))
    assert found[0].path == ("tower",)
    assert Tower(**found[0].value).width <= 8
    whole = mending.edits(Lacking(), AttributeError("'NoneType' object has no attribute 'width'"))
    assert ("tower",) not in [edit.path for edit in whole]


def test_sections_of_a_head_are_cut_to_its_size():
    with pytest.raises(RuntimeError) as error:
        torch.ones(2, 4).split([8, 12, 12], dim=-1)
    config = Whole(rope_parameters={"rope_theta": 1.0})
    found = mending.edits(config, error.value)
    assert found[0].overrides() == {"rope_parameters": {"rope_theta": 1.0, "mrope_section": [2, 1, 1]}}
    with pytest.raises(RuntimeError) as error:
        torch.ones(2, 2).split([8, 12, 12], dim=-1)  # no room for one each
    assert mending.edits(config, error.value) == []


def test_a_width_that_the_library_divides_to_nothing_is_widened():
    def heads(config):
        torch.nn.MultiheadAttention(config.width, config.width // 64)

    assert mending.mended(trial(heads, []), {}, lambda: False) == {"width": 64}


def test_a_pattern_of_layers_gets_more_of_them():
    class Deep(Whole):
        def __init__(self, num_hidden_layers=2, **more):
            self.num_hidden_layers = num_hidden_layers
            super().__init__(**more)

    found = [edit.overrides() for edit in mending.edits(Deep(), IndexError("list index out of range"))]
    assert found == [{"num_hidden_layers": 4}]
    assert mending.edits(Deep(), ValueError("something else")) == []


def test_what_the_library_says_of_a_field_before_there_is_a_configuration_is_believed():
    def one(overrides: dict):
        wide = overrides.get("adaptor_config", {}).get("intermediate_size", 64)
        index = overrides.get("merge_index", 2)
        if wide != 8:
            return None, ValueError(
                f"`adaptor_config.intermediate_size` ({wide}) must equal `text_config.hidden_size // 4` (8)."
            )
        if index != 0:
            return None, ValueError(f"Merge index must be less, but got merge_index={index} and indices=[1]")
        return Whole(), None

    assert mending.mended(one, {}, lambda: False) == {"adaptor_config": {"intermediate_size": 8}, "merge_index": 0}
    assert mending.mended(lambda overrides: (None, ValueError("something else")), {}, lambda: False) is None


def test_sections_that_must_be_alike_are_turned_round():
    with pytest.raises(RuntimeError) as error:
        torch.stack([torch.ones(2), torch.ones(1)])
    config = Whole(rope_parameters={"mrope_section": [2, 1, 1]})
    assert [edit.overrides() for edit in mending.edits(config, error.value)] == [
        {"rope_parameters": {"mrope_section": [1, 1, 2]}}
    ]
    assert mending.edits(Whole(), error.value) == []


class Kinds(Whole):
    def __init__(self, layer_types=("full_attention", "linear_attention"), rope_parameters=None, **more):
        self.layer_types, self.rope_parameters = list(layer_types), rope_parameters or {}
        super().__init__(**more)


def test_kinds_of_layers_get_rotary_embeddings_of_their_own_or_are_other_ones():
    def rotate(config):
        return [config.rope_parameters[kind] for kind in config.layer_types]

    def one(overrides: dict):
        config = Kinds(**overrides)
        try:
            rotate(config)
        except KeyError as error:
            return config, error
        return config, None

    found = mending.mended(one, {}, lambda: False)
    assert set(found["rope_parameters"]) == {"full_attention", "linear_attention"}
    others = [edit.value for edit in mending.edits(Kinds(), KeyError("linear_attention")) if edit.path[-1] == "layer_types"]
    assert ["conv", "full_attention"] in others
    assert mending.edits(Kinds(), KeyError("something else")) == []


def test_layers_that_the_library_says_are_not_there_are_picked_anew():
    error = ValueError("`adapter_config.feature_layer` [24, 18] must index the 2 layers of `vision_config`.")
    assert [edit.overrides() for edit in mending.edits(None, error)] == [{"adapter_config": {"feature_layer": [1, 0]}}]
