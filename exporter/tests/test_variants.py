"""Variants: what is recorded, how a step's inputs are understood, and what is refused."""

import pytest
import torch
from assay_exporter import catalogue, export, patches, variants, wrapper
from assay_exporter.proto import program_pb2
from assay_exporter.variants import decoding, generation, graph, shapes, steps, structure, table
from transformers import DynamicCache, LlamaConfig, Qwen3VLConfig, ReformerConfig, ReformerModelWithLMHead
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLModel


def program(name: str) -> program_pb2.Program:
    return export.unpack((catalogue.PROGRAMS / f"{name}.assay").read_bytes())


def variant(made: program_pb2.Program, name: str) -> program_pb2.Variant:
    return next(one for one in made.variant if one.name == name)


def test_the_page_says_of_every_program_what_it_has():
    programs = {name: program(name) for name in catalogue.names()}
    page = (catalogue.ROOT / "docs" / "variants.md").read_text()
    assert page.endswith(table.render(programs)), "python -m assay_exporter variants writes it anew"
    for name, made in programs.items():
        assert len({one.name for one in made.variant}) == len(made.variant) <= len(table.NAMES), name


def test_a_cause_names_no_file_of_the_machine_that_it_was_found_on():
    class Fails(torch.nn.Module):
        def forward(self, x):
            return x.view(7, -1)

    traced = torch.fx.symbolic_trace(Fails())
    with pytest.raises(RuntimeError, match="While executing") as raised:
        torch.fx.Interpreter(traced).run(torch.zeros(4))
    assert graph.one_line(raised.value) == "shape '[7, -1]' is invalid for input of size 4"
    for name in catalogue.names():
        for one in program(name).variant:
            assert "site-packages" not in one.missing + one.partial + one.not_applicable, name


def test_padded_rows_are_of_several_lengths_or_there_are_none():
    for name in catalogue.names():
        for one in program(name).variant:
            if one.HasField("left_padded"):
                assert len({row.padding for row in one.left_padded.row}) > 1, name
    assert "one row" in variant(program("qwen2_vl"), "kv_cache").no_left_padding


def test_what_a_program_does_not_speak_of_is_counted_as_missing():
    silent = program("llama")
    del silent.variant[:]
    text = table.render({"llama": silent})
    assert "| `sdpa` | 0 | 0 | 1 | 0 |" in text and "| llama | " + " | ".join(["**not exported**"] * 4) in text


def test_structure_copies_a_cache_with_other_tensors_and_counts():
    cache = DynamicCache(config=LlamaConfig(num_hidden_layers=2))
    cache.update(torch.ones(1, 2, 3, 4), torch.zeros(1, 2, 3, 4), 0)
    found = structure.leaves({"past": cache}, torch.Tensor)
    assert [path[-1] for path in found] == ["keys", "values"]
    other = structure.copied({"past": cache}, lambda path, value: value + 1 if path[-1] == "keys" else value)
    assert float(other["past"].layers[0].keys.sum()) == 48
    assert float(cache.layers[0].keys.sum()) == 24
    assert type(other["past"]) is DynamicCache


@pytest.mark.parametrize(
    ("values", "add", "append"),
    [
        ([[[4]], [[5]], [[6]]], 1, False),
        ([[[1, 1]], [[1, 1, 1]], [[1, 1, 1, 1]]], 0, True),
        ([[[7, 8]], [[7, 8]]], 0, False),
    ],
)
def test_what_counts_up_or_grows_is_seen(values, add, append):
    rule = steps.counted([torch.tensor(value) for value in values])
    assert (rule.add, rule.append) == (add, append)


def test_what_neither_counts_nor_grows_is_no_rule():
    assert steps.counted([torch.tensor([[1]]), torch.tensor([[2]]), torch.tensor([[4]])]) is None
    assert steps.counted([torch.tensor([[1, 2]]), torch.tensor([[1, 2, 3]])]) is None
    assert steps.counted([torch.zeros(1)]) is None


def test_a_decoder_that_reads_another_state_gives_other_logits():
    made = program("llama")
    cache = variant(made, "kv_cache")
    inputs = export.replay.Runner(made).golden_inputs()
    right = decoding.Decoder(made, cache.program, cache.decoding).logits(inputs, None)
    states = [one for one in cache.decoding.decode if one.WhichOneof("source") == "state"]
    states[0].state, states[2].state = states[2].state, states[0].state
    wrong = decoding.Decoder(made, cache.program, cache.decoding).logits(inputs, None)
    assert torch.equal(right[0], wrong[0]) and not torch.allclose(right[1], wrong[1], atol=1e-3)


def test_rows_padded_on_the_left_are_what_they_are_alone():
    made = program("llama")
    cache = variant(made, "kv_cache")
    inputs = export.replay.Runner(made).golden_inputs()
    plain = decoding.Decoder(made, cache.program, cache.decoding)
    padded = decoding.Decoder(made, cache.program, cache.left_padded)
    pads = cache.left_padded.row[0].padding
    assert pads and not cache.left_padded.row[1].padding
    assert padded.prompts(inputs)[0, :pads].tolist() == [cache.left_padded.pad_token] * pads
    with torch.no_grad():
        assert torch.allclose(plain.logits(inputs, None)[0][1], padded.logits(inputs, None)[0][1], atol=1e-5)
        # Behind the first row's shorter prompt stand the tokens that the other one has in its prompt.
        tokens = inputs["input_ids"]
        following = tokens[:, cache.left_padded.prompt - pads : cache.left_padded.prompt]
        whole = dict(export.replay.Runner(made).run(inputs))["logits"]
        found = padded.logits(inputs, following)
    at = cache.left_padded.prompt - pads - 1
    assert torch.allclose(found[0][0], whole[0, at], atol=1e-4)
    assert torch.allclose(found[2][0], whole[0, at + 2], atol=1e-4)


def test_a_main_input_that_grows_is_seen():
    main = {"mask": torch.tensor([[[1, 2], [3, 4], [5, 6], [7, 8]]])}
    values = [steps.grow(main["mask"], 1, 3, more) for more in (1, 2)]
    assert values[1].tolist() == [[[1, 2], [3, 4], [5, 6], [5, 6], [5, 6]]]
    rule = steps.grown(values, main, 3)
    assert (rule.main_input, rule.dim, rule.more) == ("mask", 1, 1)
    assert steps.grown([values[0], values[0]], main, 3) is None
    assert steps.grown([values[0] + 1, values[1]], main, 3) is None


def call(given, output=None):
    return generation.Call(dict(given), torch.zeros(1, 1, 2), output or {})


def recording(calls, written, prompt=2):
    made = generation.Recording(torch.nn.Module(), "", "input_ids", "logits", prompt, [], [])
    made.runs.append(generation.Run({"input_ids": torch.tensor([[5, 6, 7, 8]])}, {}, calls, written, [0]))
    return made


def test_all_tokens_in_every_call_are_no_cache_and_a_plan_of_their_own():
    calls = [call({"input_ids": torch.tensor([ids + [99]])}) for ids in ([5, 6], [5, 6, 1], [5, 6, 1, 2])]
    made = recording(calls, torch.tensor([[1, 2, 3]]))
    with pytest.raises(graph.NotApplicable, match="all tokens in every step"):
        steps.plan_decode(made, made.runs[0])
    first, later = steps.plan_uncached(made, made.runs[0])
    assert list(first.sources[0].all_tokens.then) == list(later.sources[0].all_tokens.then) == [99]
    assert later.dynamic == {"input_ids": [1]}
    calls[2].given["input_ids"][0, 2] = 4
    with pytest.raises(graph.Missing, match="something else than all tokens"):
        steps.plan_uncached(made, made.runs[0])


def test_what_is_prepared_is_prepared_of_all_tokens_so_far():
    calls = [call({"input_ids": torch.tensor([ids])}) for ids in ([5, 6], [5, 6, 1], [5, 6, 1, 2])]
    made = recording(calls, torch.tensor([[1, 2, 3]]))
    made.prepared = True
    made.runs[0].arguments = {"input_ids": torch.tensor([[5, 6, 7]])}
    plan = steps.plan_decode(made, made.runs[0])
    assert [one.WhichOneof("source") for one in plan.sources] == ["all_tokens"]
    assert plan.dynamic == {"input_ids": [1]}
    calls[2].given["input_ids"][0, 2] = 4
    with pytest.raises(graph.Missing, match="something else than all tokens"):
        steps.plan_decode(made, made.runs[0])


def test_what_xlnet_adds_to_its_tokens_is_made_by_its_programs():
    made = program("xlnet")
    written = variant(made, "generate")
    sources = {one.input: one.WhichOneof("source") for one in written.decoding.decode}
    assert sources["input_ids"] == "all_tokens" and "state" in sources.values()
    inputs = export.replay.Runner(made).golden_inputs()
    right = decoding.Decoder(made, written.program, written.decoding).logits(inputs, None)
    tokens = torch.stack([one.argmax(-1) for one in right], 1)
    assert tokens.tolist() == [list(row.token) for row in written.generated]
    states = [one for one in written.decoding.decode if one.WhichOneof("source") == "state"]
    states[0].state, states[1].state = states[1].state, states[0].state
    wrong = decoding.Decoder(made, written.program, written.decoding).logits(inputs, None)
    assert torch.equal(right[0], wrong[0]) and not torch.allclose(right[1], wrong[1], atol=1e-3)


def test_what_a_part_of_the_model_was_given_may_be_given_again():
    image = torch.ones(1, 3)
    tokens = [{"input_ids": torch.tensor([[t]]), "image": image} for t in (1, 2)]
    calls = [call({}, {("given", "image"): image}), call(tokens[0]), call(tokens[1])]
    made = recording(calls, torch.tensor([[1, 2, 3]]))
    plan = steps.plan_decode(made, made.runs[0])
    assert [one.prefill_output for one in plan.sources if one.prefill_output] == ["kept_0"]
    del calls[0].output[("given", "image")]
    with pytest.raises(graph.Missing, match="image from is not seen"):
        steps.plan_decode(made, made.runs[0])


def test_of_what_modules_hold_only_what_calls_change_is_state():
    def held(state):
        return {"layer": {"state": torch.tensor([state]), "table": torch.ones(2)}}

    calls = [call({"hidden": held(k)}, structure.leaves({"hidden": held(k + 1.0)}, torch.Tensor)) for k in range(3)]
    generation._forget_what_stays(calls)
    assert "hidden" not in calls[0].given and list(calls[1].given["hidden"]["layer"]) == ["state"]
    assert list(calls[0].output) == [("hidden", "layer", "state")]


def test_sdpa_that_is_not_eager_in_transformers_is_told_with_its_numbers():
    found = variant(program("gemma2"), "sdpa")
    assert "gives other numbers than its eager attention" in found.not_applicable and "differs by" in found.not_applicable
    assert "one way alone" in variant(program("wavlm"), "sdpa").not_applicable


class Specialised(torch.nn.Module):
    """Takes one length alone, without saying so."""

    def __init__(self):
        super().__init__()
        self.model = torch.nn.Linear(4, 4)

    def run(self, arguments):
        made = self.model(arguments["x"])
        return (made * 2 if made.shape[1] == 8 else made,)


def test_a_length_that_the_graph_fixes_is_refused():
    class Subject:
        tied: list = []
        weights = [program_pb2.WeightSpec(name="weight"), program_pb2.WeightSpec(name="bias")]

    module = graph.with_signature(Specialised(), ["x"])
    with pytest.raises(graph.Missing, match="takes dimension 1 of x as 8 only"):
        graph.write("dynamic", module, {"x": torch.ones(2, 8, 4)}, {"x": [1]}, ["y"], Subject())


def test_near_refuses_another_output():
    graph.near("it", [torch.ones(2)], [torch.ones(2)], 1e-6)
    with pytest.raises(graph.Missing, match="output 0 differs by"):
        graph.near("it", [torch.ones(2)], [torch.ones(2) * 1.001], 1e-6)
    with pytest.raises(graph.Missing, match="output 0 differs by"):
        graph.near("it", [torch.ones(2)], [torch.full((2,), float("nan"))], 1e-6)


def test_a_sample_tells_transposed_outputs_apart():
    output = torch.arange(12.0).reshape(3, 4)
    assert shapes.sample("y", output) != shapes.sample("y", output.T)
    assert list(shapes.sample("y", output).samples) == list(range(12))


def test_a_trace_that_fails_leaves_no_tensors_in_modules():
    class Keeps(torch.nn.Module):
        def forward(self, x):
            self.seen = x
            if x.shape[0] != 3:
                raise ValueError("another length")
            return x + 1

    module = Keeps()
    with pytest.raises(Exception, match="."), graph.unchanged(module):
        torch.export.export(module, (torch.ones(2),), strict=False)
    assert "seen" not in vars(module)
    module(torch.ones(3))
    with graph.unchanged(module):
        module(torch.zeros(3))
    assert torch.equal(module.seen, torch.ones(3))


@pytest.mark.parametrize(
    ("tokens", "mask"),
    [
        ([[1, 97, 95, 95, 95, 95, 94, 2, 3]], None),
        ([[97, 95, 95, 95, 95, 94, 2, 3, 4]], [[1] * 9]),
        ([[0, 0, 1, 97, 95, 95, 95, 95, 94]], [[0, 0, 1, 1, 1, 1, 1, 1, 1]]),
        ([[1, 2, 3, 4, 97, 95, 95, 95, 95]], None),
    ],
)
def test_positions_beside_a_picture_are_those_of_the_library(tokens, mask):
    model = Qwen3VLModel.__new__(Qwen3VLModel)
    torch.nn.Module.__init__(model)
    model.config = Qwen3VLConfig(image_token_id=95, video_token_id=96, vision_start_token_id=97)
    given = (torch.tensor(tokens), torch.tensor([[1, 4, 4]]), None, None if mask is None else torch.tensor(mask))
    expected = model.get_rope_index(*given)
    with patches.load("qwen3_vl").apply():
        found = model.get_rope_index(*given)
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))


def test_reformer_finds_the_place_of_a_new_token_as_the_library_does():
    torch.manual_seed(0)
    config = ReformerConfig(
        is_decoder=True, attn_layers=["local", "lsh"], axial_pos_shape=[4, 8], axial_pos_embds_dim=[4, 12],
        hidden_size=16, num_attention_heads=2, attention_head_size=8, feed_forward_size=16, local_attn_chunk_length=4,
        lsh_attn_chunk_length=4, num_buckets=4, num_hashes=2, hash_seed=0, max_position_embeddings=32, vocab_size=50,
    )  # fmt: skip
    model = ReformerModelWithLMHead(config).eval()
    tokens = torch.randint(1, 50, (2, 13))

    def last():
        past = model(tokens[:, :12], use_cache=True).past_buckets_states
        return model(tokens[:, 12:], past_buckets_states=past, use_cache=True).logits

    with torch.no_grad():
        expected = last()
        with patches.load("reformer").apply(), wrapper.surrounded():
            found = last()
    assert torch.allclose(expected, found, atol=1e-6)
