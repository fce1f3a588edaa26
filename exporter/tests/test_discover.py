"""Discovery: what it takes for a program to count as equal, and what becomes of what does not."""

import dataclasses
import importlib
import inspect
import json
import pathlib
import shutil
import subprocess
import time
import types

import pytest
import torch
import transformers
from transformers import PretrainedConfig

from assay_exporter import builders, catalogue, export, golden, inputs, mock, tensors, weights, wrapper
from assay_exporter.discover import (
    attempt,
    building,
    candidates,
    command,
    library,
    media,
    outcome,
    places,
    proof,
    report,
    shrinking,
)
from assay_exporter.patches import dense_experts, recorded_values
from assay_exporter.proto import catalogue_pb2, program_pb2


class Pair(torch.nn.Module):
    """Two inputs, of which a test says what becomes."""

    def __init__(self, forward):
        super().__init__()
        self.linear = torch.nn.Linear(4, 4)
        self.computed = forward

    def forward(self, a, b):
        return {"logits": self.computed(self.linear, a, b)}


class Dead(torch.nn.Module):
    def forward(self, a):
        return a * 1e-9


def pair(forward, first=None, second=None, dead=False, signals=None) -> export.Subject:
    given = [first or inputs.noise("a", 2, 4), second or inputs.noise("b", 2, 4)]
    built = builders.Built(Pair(forward).eval(), types.SimpleNamespace(), "{}", "test 1")
    if dead:
        built.model.linear.dead = Dead()
    return export.study(
        built, *weights.bind_mock(built.model), given, {}, False, wrapper.any_outputs, signals
    )


def prover(on_stage=lambda found: None) -> attempt._Attempt:
    entry = catalogue_pb2.CatalogueEntry(name="pair", model_class="test.Pair")
    architecture = library.Architecture("pair", "pair", "", "", [], False, "")
    made = attempt._Attempt(entry, architecture, time.process_time() + 60, on_stage)
    made.seconds = 60
    return made


def test_equal_to_eager_on_fresh_inputs_is_done():
    stages = []
    program = prover(lambda found: stages.append(found.stage))._of_subject(pair(lambda f, a, b: f(a) * b))
    assert stages[-1] == "done"
    assert [spec.name for spec in program.manifest.inputs] == ["a", "b"]
    assert program.manifest.inputs[0].HasField("batch_dim")


def test_an_input_that_eager_ignores_is_refused():
    with pytest.raises(export.Unmoved, match="input b moves no output"):
        pair(lambda f, a, b: f(a) + 0 * b)


def test_a_program_that_ignores_an_input_is_not_equal():
    subject = pair(lambda f, a, b: f(a) * b)
    program = prover()._of_subject(subject)
    proof.check_reads(program, subject)
    # The product with b becomes one with a constant of b's golden values.
    held = program_pb2.Tensor()
    held.CopyFrom(tensors.to_proto("held", subject.samples[0].arguments["b"]))
    program.constants.append(held)
    place = next(given for given in program.graph.inputs if given.name == "b")
    place.kind, place.name = program_pb2.GraphInput.CONSTANT, "held"
    with pytest.raises(export.Unmoved, match="input b"):
        proof.check_reads(program, subject)
    with pytest.raises(export.ExportError, match="fresh inputs 1"):
        export.prove(program, subject.samples)


def test_numbers_that_tell_nothing_are_refused():
    with pytest.raises(golden.UninformativeGolden, match="NaN"):
        pair(lambda f, a, b: (f(a) * b).log())
    with pytest.raises(golden.UninformativeGolden, match="constant"):
        pair(lambda f, a, b: (f(a) * b).clamp(1, 1))
    subject = pair(lambda f, a, b: f(a) * b)
    subject.samples[2].outputs[0][0, 0] = float("nan")
    with pytest.raises(golden.UninformativeGolden, match="NaN or infinite values on fresh inputs 2"):
        attempt._Attempt._check(subject)


def test_signals_that_die_inside_are_refused_where_an_entry_vouches_and_told_of_where_none_does():
    with pytest.raises(golden.UninformativeGolden, match="signals leave"):
        pair(lambda f, a, b: f.dead(a) + a * b, dead=True)
    told: list[str] = []
    pair(lambda f, a, b: f.dead(a) + a * b, dead=True, signals=told)
    assert "signals leave" in told[0]


def test_a_model_that_draws_at_random_is_refused():
    subject = pair(lambda f, a, b: f(a) * b + torch.rand(2, 4)[:1])
    with pytest.raises(golden.UninformativeGolden, match="draws at random"):
        attempt._Attempt._check(subject)
    # Even where the numbers happen to agree.
    with pytest.raises(outcome.Failed, match="the graph draws at random"):
        proof.check_graph(
            export.export_module(subject.wrapped, subject.samples[0].arguments, {"a": None, "b": None})
        )


def test_attention_that_drops_nothing_out_does_not_draw():
    def attend(f, a, b):
        return torch.nn.functional.scaled_dot_product_attention(f(a)[None], b[None], b[None])[0]

    subject = pair(attend)
    graph = export.export_module(subject.wrapped, subject.samples[0].arguments, {"a": None, "b": None})
    proof.check_graph(graph)
    node = next(n for n in graph.graph.nodes if "scaled_dot_product" in str(n.target))
    names = [formal.name for formal in node.target._schema.arguments]
    node.args, node.kwargs = node.args[:3], {**node.kwargs, "dropout_p": 0.5}
    assert "dropout_p" in names
    with pytest.raises(outcome.Failed, match="draws at random"):
        proof.check_graph(graph)


def test_a_value_read_in_python_that_is_the_same_for_all_inputs_is_played_back():
    def by_shape_only(f, a, b):
        rows = int((a == a).sum(0)[0])  # the number of rows, whatever they hold
        return f(a)[: min(rows, 2)] * b

    fixed = {"batch_dim": None}
    subject = pair(by_shape_only, inputs.noise("a", 2, 4, **fixed), inputs.noise("b", 2, 4, **fixed))
    one = prover()
    one._of_subject(subject)
    assert one.found.patches == ["recorded_values"]
    assert one.found.fixed_batch


def test_a_value_read_in_python_that_differs_from_input_to_input_is_refused():
    def by_value(f, a, b):
        return f(a) * b if float(a.sum()) > 0 else f(a) + b

    with pytest.raises(outcome.Failed, match="differ from input to input") as failed:
        prover()._of_subject(pair(by_value))
    assert failed.value.stage == "export"


def test_a_wrong_record_is_caught_by_fresh_inputs():
    subject = proof.without_batches(
        pair(lambda f, a, b: f(a) * b * (1.0 if bool((a * a).sum() >= 0) else 2.0))
    )
    one = prover()
    names, _ = proof.way(subject)
    assert names == ["recorded_values"]
    with pytest.raises(export.ExportError, match="differs from eager"):
        one._prove(subject, names, [lambda: recorded_values.Play([("__bool__", False)])], "a test's")


def test_a_record_out_of_step_is_refused():
    with recorded_values.Play([("item", 1)]), pytest.raises(recorded_values.OutOfStep):
        bool(torch.ones(()))


def test_looks_that_the_library_spares_itself_while_it_is_traced_are_passed_over():
    log = [("__bool__", True), ("item", 3), ("__bool__", True)]
    with recorded_values.Play(log):
        assert torch.zeros(()).item() == 3  # not the zero that is there
        assert bool(torch.zeros(()))
    with recorded_values.Play([("item", 1), ("__bool__", True)]), pytest.raises(recorded_values.OutOfStep):
        bool(torch.ones(()))  # a number is never passed over


def test_experts_that_are_looped_over_by_row_run_dense():
    chosen = torch.tensor([[True, False], [False, False], [True, True]])

    def loop(values):
        out = torch.zeros(2, 4)
        for row in (chosen.sum(-1) > 0).nonzero():
            _, tokens = torch.where(chosen[row[0]][None])
            out.index_add_(0, tokens, values[tokens] * float(row[0] + 1))
        return out

    values = torch.arange(8.0).reshape(2, 4)
    expected = loop(values)
    with dense_experts.Rows():
        assert torch.equal(loop(values), expected)


def test_ids_that_python_only_searches_for_special_ones_are_free():
    def log(*ids):
        return [("tolist", list(ids))]

    [(_, row)] = recorded_values.common([log(7, 98, 9), log(8, 98, 9)], (6, 79))
    assert row.index(98) == 1 and row[2] == 9
    with pytest.raises(recorded_values.OutOfStep, match="differs from input to input"):
        row.index(7)
    assert recorded_values.common([log(7, 98), log(98, 7)], (6, 79)) is None  # the special id moves
    assert recorded_values.common([log(7), log(8)], None) is None
    assert recorded_values.common([log(7), log(7, 8)], (6, 79)) is None
    assert recorded_values.common([[("item", 7)], [("item", 8)]], (6, 79)) is None


def test_masks_are_padded_in_every_second_draw():
    mask = media.Mask("attention_mask", (2, 8), mock.constant(1), torch.long)
    assert int(mask.make(0).sum()) == 16
    assert mask.make(1).tolist() == [[1] * 8, [1] * 6 + [0] * 2]


def test_placeholders_are_counted_from_what_the_library_says():
    message = "Image features and image tokens do not match: tokens: 3, features 16"
    assert places.counted_features(message) == 16
    assert places.counted_features("something else") is None


def test_placeholders_are_counted_from_what_torch_says_of_features_without_a_place():
    message = "shape mismatch: value tensor of shape [6, 32] cannot be broadcast to indexing result of shape [0, 32]"
    assert places.counted_features(message) == 6


class Takes(torch.nn.Module):
    """Only a signature."""

    main_input_name = "pixel_values"

    def forward(self, pixel_values=None, input_ids=None, image_embeds_position_mask=None, image_sizes=None):
        raise AssertionError("is not run here")


def thought(model: torch.nn.Module, **config) -> list[media.Candidate]:
    return list(candidates.Thinker(model, types.SimpleNamespace(vocab_size=99, **config)).candidates())


def test_the_first_of_several_main_inputs_is_the_main_one():
    several = Takes()
    several.main_input_name = ["pixel_values", "input_ids"]
    assert [list(one.inputs) for one in thought(several)] == [list(one.inputs) for one in thought(Takes())]


def test_the_places_of_a_picture_may_be_a_mask_of_their_own():
    richest = thought(Takes(), latent_query_num=3)[-1]
    mask = richest.draw()["image_embeds_position_mask"]
    assert mask.dtype is torch.bool and mask.sum(1).tolist() == [3, 3]


def test_a_picture_of_several_tiles_goes_with_its_size():
    tiled = thought(Takes(), image_grid_pinpoints=[[32, 64]], image_size=32)
    pixels = [one.inputs["pixel_values"].shape for one in tiled if "image_sizes" in one.constants]
    assert (2, 3, 3, 32, 32) in pixels


def test_ids_may_have_a_column_for_each_codebook():
    class Codes(Takes):
        main_input_name = "input_ids"

        def forward(self, input_ids=None):
            raise AssertionError("is not run here")

    shapes = [one.inputs["input_ids"].shape for one in thought(Codes(), num_codebooks=4)]
    assert shapes[0] == (2, 8) and shapes[-2:] == [(2, 8, 4), (2, 8, 5)]

    class Sung(Takes):
        main_input_name = "input_ids"

        def forward(self, input_ids=None, decoder_input_ids=None):
            raise AssertionError("is not run here")

    made = [one for one in thought(Sung(), num_codebooks=4) if "decoder_input_ids" in one.inputs]
    rows = next(one for one in made if one.inputs["decoder_input_ids"].shape == (8, 8))
    assert [spec.batch_dim for spec in rows.listed()] == [None, None]  # two of them are one of the ids


def test_a_text_goes_with_the_codes_of_a_sound():
    decoder = types.SimpleNamespace(num_codebooks=3)
    made = inputs.MAKERS["text_to_codes"](types.SimpleNamespace(decoder=decoder))
    assert {spec.name: spec.shape for spec in made}["decoder_input_ids"] == (3 * inputs.BATCH, inputs.SEQUENCE)
    assert all(spec.batch_dim is None for spec in made)


def test_a_future_is_forecast_where_values_are_given_for_it():
    config = types.SimpleNamespace(context_length=4, lags_sequence=[1, 7], prediction_length=3, num_time_features=2)
    *given, constants = inputs.MAKERS["series_and_future"](config)
    assert {spec.name: spec.shape[1] for spec in given} == {
        "past_values": 11, "past_time_features": 11, "past_observed_mask": 11, "future_time_features": 3,
    }  # fmt: skip
    assert constants["future_values"].shape == (inputs.BATCH, 3)


def test_patches_take_the_places_that_a_mask_names():
    config = types.SimpleNamespace(
        latent_query_num=4, vision_config=types.SimpleNamespace(patch_embed_hidden_size=12)
    )
    made = {spec.name: spec for spec in inputs.MAKERS["patches_in_a_text"](config)}
    where = made["image_embeds_position_mask"].make(0)
    assert where.sum(1).tolist() == [4] * inputs.BATCH and where.shape == made["input_ids"].shape
    assert made["flattened_patches"].shape == (inputs.BATCH, 16, 14)


def test_patches_may_stand_in_the_place_of_dots():
    class Flat(torch.nn.Module):
        main_input_name = "input_ids"

        def forward(self, input_ids, image_patches=None, pixel_values=None):
            return input_ids

    class Older(torch.nn.Module):
        main_input_name = "input_ids"

        def forward(self, input_ids, image_patches=None):
            return input_ids

    assert thought(Flat(), patch_size=2)[0].inputs["pixel_values"].shape == (2, 16, 12)
    older = thought(Older(), patch_size=2)[0]
    assert older.media == "image_patches" and older.inputs["image_patches"].shape == (2, 16, 12)

    class Known(Older):
        def get_image_features(self, pixel_values):
            return pixel_values[..., :5]

    thinker = candidates.Thinker(Known(), PretrainedConfig(image_token_id=98))
    assert places.features(thinker, older) == 32 and places.placeholder(thinker, older.media) == 98
    rows = thought(Takes(), patch_dim=12)[0]
    assert rows.inputs["pixel_values"].shape == (16, 12) and rows.inputs["pixel_values"].batch_dim is None


def test_what_a_tower_wants_goes_with_the_picture():
    class Sized(Takes):
        def get_image_features(self, pixel_values, image_sizes, scale=None):
            return pixel_values

    assert "image_sizes" not in thought(Takes())[0].constants
    assert "image_sizes" in thought(Sized())[0].constants

    class Merged(torch.nn.Module):
        main_input_name = "pixel_values"

        def forward(self, pixel_values, image_grid_thw, image_merge_sizes=None):
            return pixel_values

    assert thought(Merged(), spatial_merge_size=3)[0].constants["image_merge_sizes"].tolist() == [3]

    class Rows(torch.nn.Module):
        main_input_name = "pixel_values"

        def forward(self, pixel_values, image_grid_hw=None):
            return pixel_values

    first = thought(Rows(), patch_size=2)[0]
    assert first.inputs["pixel_values"].shape == (16, 12) and first.constants["image_grid_hw"].tolist() == [[4, 4]]


def test_a_model_that_writes_into_its_inputs_writes_into_copies():
    class Writes(torch.nn.Module):
        main_input_name = "a"

        def __init__(self):
            super().__init__()
            self.linear = torch.nn.Linear(4, 4)

        def forward(self, a):
            a *= torch.ones(4)  # which leaves the values
            return {"logits": self.linear(a)}

    model = Writes().eval()
    idea = media.Candidate({"a": inputs.noise("a", 2, 4)}, {})
    one = prover()
    one.thinker = candidates.Thinker(model, types.SimpleNamespace())
    made = building.Model(builders.Built(model, types.SimpleNamespace(), "{}", "test 1"), *weights.bind_mock(model))
    found, error = one._first_run(one.thinker, idea)
    assert error is None and found.written
    _, careless = one._study(dataclasses.replace(found, written=False), made)
    with pytest.raises(outcome.Failed, match="in place"):
        one._of_subject(careless)
    candidate, subject = one._study(found, made)
    assert one._program(candidate, subject, made) is not None and one.found.stage == "done"


def test_a_model_with_a_picture_is_not_run_without_it():
    """Whatever the picture is called; where nothing is known of it, its text alone is marked as such."""

    class Pictured(torch.nn.Module):
        main_input_name = "input_ids"

        def forward(self, input_ids, attention_mask=None, pixel_values_images=None):
            return input_ids

    made = thought(Pictured(), image_size=32)
    assert made[0].media == "pixel_values_images" and not made[0].text_only
    assert made[0].inputs["pixel_values_images"].name == "pixel_values_images"
    assert made[-1].text_only

    # Neither a place for a picture among the ids nor one for frames.
    thinker = candidates.Thinker(Takes(), transformers.PretrainedConfig())
    assert places.placeholder(thinker, "pixel_values") is None and places.placeholder(thinker, "pixel_values_images") is None

    class Heard(torch.nn.Module):
        main_input_name = "input_ids"

        def forward(self, input_ids, audio_input_ids=None, position_ids=None):
            return input_ids

    assert all(one.text_only for one in thought(Heard()))
    assert all(one.text_only for one in thought(Heard(), num_codebooks=4))
    assert not any(one.text_only for one in thought(Takes()))


def test_patches_of_a_picture_go_with_their_places():
    class Placed(torch.nn.Module):
        main_input_name = "pixel_values"

        def forward(self, pixel_values, image_position_ids=None):
            return pixel_values

    first = thought(Placed(), patch_size=2, pooling_kernel_size=3)[0]
    places = first.constants["image_position_ids"]
    assert first.inputs["pixel_values"].shape == (2, 36, 12) and places.shape == (2, 36, 2)
    assert len({tuple(place) for place in places[0].tolist()}) == 36

    class Packed(torch.nn.Module):
        main_input_name = "pixel_values"

        def forward(self, pixel_values, target_sizes):
            return pixel_values

    first = thought(Packed(), patch_size=2)[0]
    assert first.inputs["pixel_values"].shape == (1, 3, 2, 16 * 2)
    assert first.constants["target_sizes"].tolist() == [[4, 4]]


def test_an_example_is_as_large_as_the_picture():
    class Shown(torch.nn.Module):
        main_input_name = "pixel_values"

        def forward(self, pixel_values, prompt_pixel_values, prompt_masks):
            return pixel_values

    for one in thought(Shown(), image_size=[128, 64]):
        if "pixel_values" in one.inputs:
            assert one.inputs["prompt_masks"].shape == one.inputs["pixel_values"].shape


def test_one_main_input_has_the_place_of_the_ids():
    class Any(torch.nn.Module):
        main_input_name = "inputs"

        def forward(self, inputs=None, attention_mask=None, input_ids=None):
            return inputs

    assert list(thought(Any())[0].inputs) == ["inputs", "attention_mask"]


def test_ids_of_several_texts_are_ids():
    class Asked(torch.nn.Module):
        def forward(self, input_ids_query, attention_mask_query, input_ids_doc):
            return input_ids_query

    made = thought(Asked())[0].inputs
    assert list(made) == ["input_ids_query", "attention_mask_query", "input_ids_doc"]
    assert made["input_ids_doc"].ids == made["input_ids_query"].ids and made["input_ids_doc"].ids[1] <= 99
    assert isinstance(made["attention_mask_query"], media.Mask)


def test_a_class_that_only_holds_others_is_run_by_the_first_of_them():
    architecture = library.architectures()["bark"]
    config_class = library.lookup(architecture.config_class, architecture.module)
    made, head, own = building.head(architecture, config_class, "")
    assert library.runs(made) and (made.__name__, own.__name__) == (head.model_class, "BarkSemanticConfig")
    assert building.head(architecture, config_class, "transformers.BarkFineModel")[2] is config_class


def test_a_model_in_no_auto_mapping_is_run_by_the_class_that_was_written_for_it():
    found = library.written_for(transformers.VitPoseConfig)
    assert [head.model_class for head in found] == ["VitPoseForPoseEstimation"]


def test_a_model_whose_first_weights_fail_is_built_without_them():
    class Config(transformers.PretrainedConfig):
        model_type = "failing"

    class Failing(transformers.PreTrainedModel):
        config_class = Config

        def __init__(self, config, wrong=False):
            super().__init__(config)
            self.linear = torch.nn.Linear(2, 2)
            self.post_init()

        def _init_weights(self, module):
            raise AttributeError("no weight")

    assert building.made(Failing, Config()).linear.weight.shape == (2, 2)

    class Wrong(Failing):
        def __init__(self, config):
            raise ValueError("a wrong size")

    with pytest.raises(ValueError, match="a wrong size"):
        building.made(Wrong, Config())


def test_a_picture_that_is_no_square_stays_none():
    config = transformers.SegGptConfig(**{**shrinking.arguments(transformers.SegGptConfig, "tiny"), "merge_index": 0})
    assert list(config.image_size) == [128, 64]


def test_a_picture_is_of_whole_patches():
    config = small("YolosConfig", "yolos")
    assert [side % config.patch_size for side in config.image_size] == [0, 0]
    assert config.image_size[0] < config.image_size[1]


def test_stages_of_a_backbone_go_to_layers_of_their_own():
    config = small("DPTConfig", "dpt")
    assert config.backbone_out_indices == [0, 1, 2, 3] and config.num_hidden_layers == 4


def test_what_a_configuration_takes_apart_stays_whole():
    class Takes(PretrainedConfig):
        def __init__(self, part=None, **more):
            self.kind = part.pop("kind")
            super().__init__(**more)

    said = {"part": {"kind": "t5"}}
    assert building.default(Takes, said).kind == "t5" and said == {"part": {"kind": "t5"}}


def test_a_backbone_of_another_library_gets_a_small_one_in_its_place():
    class Backed(transformers.PretrainedConfig):
        def __init__(self, backbone_config=None, num_feature_levels=3, **more):
            self.backbone_config = backbone_config or transformers.TimmBackboneConfig("resnet50")
            self.num_feature_levels = num_feature_levels
            super().__init__(**more)

    made = shrinking.arguments(Backed, "tiny")["backbone_config"]
    assert isinstance(made, transformers.ResNetConfig) and len(made.out_features) == 3


def test_a_backbone_gives_as_many_stages_as_before():
    """Also where the configuration's constructor has no word for them, as in transformers 5."""
    config = transformers.ResNetConfig(out_features=["stage2", "stage3", "stage4"])

    class Unnamed(transformers.ResNetConfig):
        def __init__(self, depths=(1, 1, 1, 1), **more):
            super().__init__(depths=list(depths), **more)

    made = shrinking.arguments(Unnamed, "tiny", default=config, backbone=True)
    assert Unnamed(**made).out_features == ["stage2", "stage3", "stage4"]


def test_lists_of_stages_keep_their_length():
    config = transformers.HieraConfig(**shrinking.arguments(transformers.HieraConfig, "tiny"))
    assert len(config.masked_unit_attention) == len(config.depths) == 4


def test_no_idea_comes_twice():
    ideas = thought(Takes(), num_codebooks=4)
    shown = [str(([(n, i.shape) for n, i in one.inputs.items()], one.constants, one.text_only)) for one in ideas]
    assert len(shown) == len(set(shown))


def test_a_sound_may_stand_in_the_place_of_the_ids_of_an_encoder():
    class Sound(Takes):
        main_input_name = "input_ids"

        def forward(self, input_ids=None, input_features=None, attention_mask=None, decoder_input_ids=None):
            raise AssertionError("is not run here")

    ideas = thought(Sound(), hidden_size=48, is_encoder_decoder=True)
    without = [one for one in ideas if "input_ids" not in one.inputs]
    [fit] = [one.inputs for one in without if one.inputs["input_features"].shape == (2, 32, 48)]
    assert fit["attention_mask"].shape == (2, 32)


def test_what_a_model_would_draw_is_an_input_where_it_takes_one():
    class Draws(Takes):
        def forward(self, pixel_values=None, noise=None):
            raise AssertionError("is not run here")

    ideas = thought(Draws(), image_size=32, patch_size=8)
    noise = [one.inputs["noise"] for one in ideas if "noise" in one.inputs]
    assert noise and noise[0].shape == (2, 16) and noise[0].moves
    assert not torch.equal(noise[0].make(0), noise[0].make(1))


@pytest.mark.parametrize(
    ("fields", "token"),
    [({}, None), ({"video_token_index": 98}, 98), ({"image_token_id": 97, "eoi_token_id": 5}, 97),
     ({"image_eos_token_id": 5}, None)],
)  # fmt: skip
def test_the_id_in_whose_place_a_picture_comes_is_a_field(fields, token):
    assert places.placeholder(candidates.Thinker(Takes(), PretrainedConfig(**fields)), "pixel_values") == token


def test_padding_for_which_there_is_no_number_is_left_out():
    """As where a class has the score minus infinity at padded words."""

    def forward(linear, a, mask):
        return linear(a) if mask is None else linear(a).masked_fill(mask == 0, float("-inf"))

    class Padded(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = torch.nn.Linear(4, 4)

        def forward(self, a, mask=None):
            return {"logits": forward(self.linear, a, mask)}

    model = Padded().eval()
    built = builders.Built(model, types.SimpleNamespace(), "{}", "test 1")
    made = building.Model(built, *weights.bind_mock(model))
    one = prover()
    one.thinker = types.SimpleNamespace(required=["a"])
    mask = media.Mask("mask", (2, 4), mock.constant(1), torch.long)
    idea = media.Candidate({"a": inputs.noise("a", 2, 4), "mask": mask}, {})
    found, subject = one._study(idea, made)
    assert list(found.inputs) == ["a"] and [spec.name for spec in subject.inputs] == ["a"]
    one.thinker.required = ["a", "mask"]
    with pytest.raises(golden.UninformativeGolden, match="NaN or infinite"):
        one._study(idea, made)


def test_another_width_is_tried_only_where_the_last_bits_may_be_at_fault():
    def missed(by):
        return outcome.Failed("equal", f"ExportError: golden: output 0 differs from eager by {by}, allowed 1e-06")

    assert proof.rounding(missed("1.9e-06"))
    assert not proof.rounding(missed("2.93"))
    assert not proof.rounding(outcome.Failed("equal", "the graph draws at random"))


def test_of_a_dynamic_and_a_fixed_batch_the_failure_that_went_further_is_told(monkeypatch):
    """A fixed batch that misses by its last bits is tried at other widths, whatever a dynamic one failed at."""

    def prove(subject, names, modes, fixed):
        if not fixed:
            raise RuntimeError("Constraints violated (batch)")
        raise export.ExportError("golden: output 0 differs from eager by 1.9e-06, allowed 1e-06")

    one = prover()
    monkeypatch.setattr(one, "_prove", prove)
    with pytest.raises(outcome.Failed) as failed:
        one._of_subject(pair(lambda f, a, b: f(a) * b))
    assert failed.value.stage == "equal" and proof.rounding(failed.value)


def two_places_or_more(input_ids, input_features):
    """Takes features where ids are 98, and tells of their number only when it is asked for some."""
    places = int((input_ids == 98).sum())
    if places < 2:
        raise AttributeError("'NoneType' object has no attribute 'to'")
    if places != 6:
        raise ValueError(f"Audio features and audio tokens do not match: tokens: {places}, features 6")
    return {"logits": input_features.sum() + input_ids.float()}


def test_the_number_of_places_is_learnt_from_a_wrong_one():
    model = torch.nn.Module()
    model.forward = two_places_or_more
    thinker = candidates.Thinker(model, PretrainedConfig(vocab_size=99, audio_token_id=98))
    ids = inputs.Input("input_ids", (2, 8), mock.int_range(6, 79), torch.long)
    idea = media.Candidate(
        {"input_ids": ids, "input_features": inputs.noise("input_features", 2, 4)}, {}, "input_features"
    )
    found, error = prover()._first_run(thinker, idea)
    assert error is None
    assert (found.draw()["input_ids"] == 98).sum(1).tolist() == [3, 3]


def test_what_gives_no_features_is_not_asked_for_their_number():
    class Films(Takes):
        def get_image_features(self, pixel_values):
            pass

        def get_video_features(self, pixel_values):
            return torch.zeros(3, 5, 4)

    thinker = candidates.Thinker(Films(), PretrainedConfig(vocab_size=99))
    idea = media.Candidate({"pixel_values": inputs.noise("pixel_values", 2, 4)}, {}, "pixel_values")
    assert places.features(thinker, idea) == 15


def test_codes_of_a_codebook_that_the_library_leaves_zero_differ():
    class Codebook(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("embed", torch.zeros(16, 4))
            self.register_buffer("cluster_size", torch.zeros(16))

    model = Codebook()
    weights.bind_mock(model)
    assert len(model.embed.unique(dim=0)) == 16 and not model.cluster_size.any()


def test_a_fresh_signal_has_other_codes():
    class Quantizer(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = torch.nn.Embedding(4, 64)

    class Codec(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.quantize = Quantizer()

    model = Codec()
    weights.bind_mock(model)
    signals = 0.3 * torch.randn(50, 64, generator=torch.Generator().manual_seed(0))
    codes = torch.cdist(signals, model.quantize.embedding.weight).argmin(1)
    assert len(codes.unique()) == 4


def small(config: str, module: str, strength: str = "tiny"):
    made = library.lookup(config, module)
    return made(**shrinking.arguments(made, strength))


def test_widths_of_stages_and_sizes_of_maps_agree_with_the_small_picture():
    vision = small("Sam2VisionConfig", "sam2")
    backbone = vision.backbone_config
    assert backbone.embed_dim_per_stage[0] == backbone.hidden_size == 32
    assert vision.backbone_channel_list == backbone.embed_dim_per_stage[::-1]
    # Patches are four dots wide.
    assert vision.backbone_feature_sizes[0] == [side // 4 for side in backbone.image_size]


def test_layers_of_another_part_are_among_those_that_it_keeps():
    made = small("VipLlavaConfig", "vipllava")
    states = made.vision_config.num_hidden_layers + 1
    assert all(-states <= layer < states for layer in made.vision_feature_layers)


def test_a_window_in_dots_is_one_token_wide():
    vision = small("Qwen2_5_VLConfig", "qwen2_5_vl").vision_config
    assert vision.window_size == vision.patch_size * vision.spatial_merge_size


def test_a_series_has_features_of_its_times_and_is_scaled_by_mean_and_deviation():
    made = small("AutoformerConfig", "autoformer")
    assert made.num_time_features == 2 and made.scaling == "std"


def test_layers_that_share_keys_come_after_layers_of_the_same_kinds():
    text = library.lookup("Gemma3nTextConfig", "gemma3n")
    small = text(**shrinking.arguments(text, "tiny"))
    own = small.num_hidden_layers - small.num_kv_shared_layers
    assert 0 < own < small.num_hidden_layers
    assert set(small.layer_types[:own]) == set(small.layer_types[own:]) == set(text().layer_types)


def test_heads_of_which_a_part_turns_are_wider_and_as_many_for_keys():
    phi = library.lookup("PhiConfig", "phi")
    small = phi(**shrinking.arguments(phi, "tiny"))
    assert small.num_attention_heads == small.num_key_value_heads == 2
    assert small.hidden_size // small.num_attention_heads * small.partial_rotary_factor == 8


def test_tiles_are_as_large_as_the_small_picture():
    llava = library.lookup("LlavaNextConfig", "llava_next")
    small = llava(**shrinking.arguments(llava, "tiny"))
    size = small.vision_config.image_size
    assert [size, 2 * size] in small.image_grid_pinpoints


def test_an_architecture_is_known_by_the_name_of_its_configuration():
    known = library.architectures()
    assert not known["gpt2"].skipped and not known["llama"].skipped
    assert known["code_llama"].skipped == "another name of llama"
    assert known["encoder_decoder"].skipped == "holds two other models"


def test_strengths_shrink_less_and_less():
    bert = library.lookup("BertConfig", "bert")
    tiny, scaled, deep = (bert(**shrinking.arguments(bert, s)) for s in ("tiny", "scaled", "deep"))
    assert tiny.hidden_size < scaled.hidden_size < deep.hidden_size == 768
    assert tiny.num_hidden_layers == deep.num_hidden_layers == 2
    nested = shrinking.merged({"vision_config": {"a": 1, "b": 2}}, {"vision_config": {"b": 3}, "c": 4})
    assert nested == {"vision_config": {"a": 1, "b": 3}, "c": 4}


@pytest.fixture(scope="module")
def discovered(tmp_path_factory) -> pathlib.Path:
    """Results of one architecture that is not tracked."""
    folder = tmp_path_factory.mktemp("results")
    assert command.command(["--results", str(folder), "--wordless", "clip_text_model"]) == 0
    return folder


def test_what_is_discovered_is_untracked_until_the_registry_has_a_line(discovered, tmp_path, request):
    results = report.read(discovered)
    [(version, found)] = results.items()
    assert found["clip_text_model"]["stage"] == "done" and not found["clip_text_model"]["words"]
    assert report._tally(found) == (1, 1, 1)
    report.content(discovered, results, tmp_path)
    models = tmp_path / "models"
    entry = catalogue.load("clip_text_model", models / "catalogue")
    program = export.unpack((models / "programs" / "clip_text_model.assay").read_bytes())
    assert all(output.legitimate for output in program.golden.outputs)
    assert program.manifest.transformers_version == f"transformers {version}"
    # The entry alone makes the same program again.
    again = export.export(entry)
    assert again.graph == program.graph and again.manifest == program.manifest
    registry = json.loads((models / "registry.json").read_text())
    assert "clip_text_model" not in {model["name"] for model in registry["models"]}
    batch = json.loads((models / "batches" / "discovered.json").read_text())
    assert [m["name"] for group in batch.values() for m in group] == ["clip_text_model"]
    folder = request.config.getoption("--assay")
    if folder is None:
        pytest.skip("the rest runs it: --assay gives the folder of the program `assay`")

    def run() -> tuple[int, dict]:
        out = tmp_path / "reports"
        shutil.rmtree(out, ignore_errors=True)
        ran = subprocess.run(
            [pathlib.Path(folder) / "assay", "run", "--content-dir", tmp_path, "--cpu-only", "--output-dir", out,
             "--batch-file", models / "batches" / "discovered.json"],
            capture_output=True, text=True, check=False, timeout=300,
        )  # fmt: skip
        return ran.returncode, json.loads((out / "report.json").read_text())

    def listed(report_: dict, where: str) -> dict:
        return {model["name"]: model for model in report_[where]}

    # It runs and passes before anybody tracks it, and no share of what is tracked counts it.
    code, before = run()
    assert code == 0 and listed(before, "untracked")["clip_text_model"]["mock_passed"]
    assert "clip_text_model" not in listed(before, "models")
    # One line tracks it.
    line = {"name": "clip_text_model", "priority": "medium", "arch_type": entry.arch_type, "named_by": "registry"}
    text = (models / "registry.json").read_text()
    (models / "registry.json").write_text(
        text.replace('"models": [', f'"models": [\n  {json.dumps(line)},', 1)
    )
    code, after = run()
    assert code == 0 and listed(after, "models")["clip_text_model"]["covered"]
    assert "clip_text_model" not in listed(after, "untracked")
    # And a program that computes something else fails, whatever it is named.
    factor = next(
        argument.value
        for node in program.graph.nodes
        for argument in node.arguments
        if argument.value.WhichOneof("kind") == "real" and abs(argument.value.real) > 1.1
    )
    factor.real *= 1.01  # of quick_gelu
    (models / "programs" / "clip_text_model.assay").write_bytes(export.pack(program))
    code, changed = run()
    assert code == 3 and not listed(changed, "models")["clip_text_model"]["covered"]
    assert [r["outcome"] for r in listed(changed, "models")["clip_text_model"]["results"]] == ["FAILED"]


def test_a_folder_of_something_else_is_not_overwritten(discovered, tmp_path):
    (tmp_path / "precious").write_text("")
    with pytest.raises(ValueError, match="no content folder"):
        report.content(discovered, report.read(discovered), tmp_path)


def test_what_is_done_is_not_done_again(discovered, monkeypatch):
    swept = []
    monkeypatch.setattr(
        command, "_sweep", lambda chosen, folder, options: swept.extend(a.name for a in chosen)
    )
    known = {
        name: library.architectures()[name] for name in ("clip_text_model", "clip_vision_model", "code_llama")
    }
    monkeypatch.setattr(library, "architectures", lambda: known)
    assert command.command(["--results", str(discovered)]) == 0
    assert swept == ["clip_vision_model"]
    assert command.command(["--results", str(discovered), "-j", "0"]) == 0
    assert swept == ["clip_vision_model"]
    assert command.command(["--results", str(discovered), "nonsense"]) == 2
    swept.clear()
    assert command.command(["--results", str(discovered), "--main"]) == 0
    assert swept == []  # each of them is a part
    assert command.command(["--results", str(discovered), "--again", "--sample", "0"]) == 0
    assert swept == []
    assert {r["part"] for r in report.read(discovered).popitem()[1].values()} == {"clip"}


def test_a_patch_may_be_a_word_unless_it_mends_the_library():
    """Then what it runs could not be held against the library without it."""
    entry = catalogue_pb2.CatalogueEntry(patch=["speech_to_text_2"])
    found, program = attempt.attempt(entry, library.architectures()["bert"])
    assert program is None and found.stage == "class" and "mends the library" in found.cause
    entry = catalogue_pb2.CatalogueEntry(patch=["prophetnet"])
    architecture = library.architectures()["prophetnet"]
    assert attempt._Attempt(entry, architecture, 0.0, lambda found: None).said == ["prophetnet"]


@pytest.mark.parametrize("path", sorted(command.WORDS.glob("*.textproto")), ids=lambda path: path.stem)
def test_words_are_few_and_only_what_is_read(path):
    """At most five lines each; anything beyond these fields would be said and not heeded."""
    assert len(path.read_text().splitlines()) <= 5
    entry = command.words(path.stem)
    assert {field.name for field, _ in entry.ListFields()} <= {
        "config_override", "input_maker", "model_class", "patch",
    }  # fmt: skip
    assert entry.ListFields()
    known = library.architectures().get(path.stem)
    if known is None:
        pytest.skip("an architecture of another version of the library")
    # What is said is said of fields that its configuration has, or that the library reads where there are any.
    config = building.default(library.lookup(known.config_class, known.module), catalogue.overrides(entry))
    module = importlib.import_module(type(config).__module__.replace(".configuration_", ".modeling_"))
    for override in entry.config_override:
        json.loads(override.json)
        field = override.field.partition(".")[0]
        read = (f'config, "{field}"', f"config.{field}")
        assert hasattr(config, field) or any(way in inspect.getsource(module) for way in read), override.field


def test_what_is_not_said_has_no_words():
    assert command.words("gpt2") is None


def sweep(tmp_path, monkeypatch, work) -> dict:
    monkeypatch.setattr(attempt, "attempt", work)
    architecture = library.Architecture("stuck", "stuck", "", "", [], False, "")
    command._sweep([architecture], tmp_path, types.SimpleNamespace(j=1, seconds=0.5, memory=8, wordless=True))
    return json.loads((tmp_path / "stuck.json").read_text())


def test_what_takes_too_long_is_ended_and_said(tmp_path, monkeypatch):
    def spin(entry, architecture, seconds, on_stage):
        on_stage(outcome.Found("stuck", "export"))
        while True:
            pass

    told = sweep(tmp_path, monkeypatch, spin)
    assert told["stage"] == "export" and "took longer than 0.5 s" in told["cause"]


def test_what_takes_too_much_memory_is_ended_and_said(tmp_path, monkeypatch):
    def grow(entry, architecture, seconds, on_stage):
        on_stage(outcome.Found("stuck", "eager"))
        bytearray(9 << 30)

    told = sweep(tmp_path, monkeypatch, grow)
    assert told["stage"] == "eager" and "the process ended with 1" in told["cause"]


def result(stage: str, cause: str = "", words: bool = False, **more) -> dict:
    return {
        "stage": stage, "cause": cause, "words": words, "where": "", "model_class": "a.B", "inputs": ["x"],
        "outputs": ["y"], "patches": [], "fixed_batch": "", **more,
    }  # fmt: skip


def test_the_table_says_where_each_program_comes_from_and_why_others_have_none():
    results = {
        "4.57.6": {
            "old": result("done"),
            "both": result("done"),
            "no": result("eager", "RuntimeError: a|b"),
            "later": {"stage": report.NOT_RUN},
            "tower": result("done", part="both"),
        },
        "5.23.0": {"both": result("done", words=True), "old": result("export", "draws at random")},
    }
    assert report.program_from(results, "old") == "4.57.6"
    assert report.program_from(results, "both") == "5.23.0"
    assert report.program_from(results, "no") == ""
    table = report.table(results)
    assert "| old | B |  | 4.57.6 | x → y; not from 5.23.0: draws at random |" in table
    assert "| both | B |  | 5.23.0 | x → y; with words |" in table
    assert "| no | B |  | — | eager: RuntimeError: a\\|b |" in table
    assert "| no inputs were found with which it runs | 1 | no |" in table
    assert "| later |  |  | — | not run |" in table
    assert report.summary(results).splitlines() == [
        "transformers 4.57.6: 5 types, 4 run, 3 equal to eager, 3 of them without a word; "
        "of 4 main types 3 run, 2 equal",
        "transformers 5.23.0: 2 types, 2 run, 1 equal to eager, 0 of them without a word; "
        "of 2 main types 2 run, 1 equal",
    ]
