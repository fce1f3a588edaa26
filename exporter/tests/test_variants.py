"""Variants: what is recorded, how a step's inputs are understood, and what is refused."""

import pytest
import torch
from assay_exporter import catalogue, export, variants
from assay_exporter.proto import program_pb2
from assay_exporter.variants import decoding, graph, shapes, structure, table
from transformers import DynamicCache, LlamaConfig


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
    rule = decoding._counted([torch.tensor(value) for value in values])
    assert (rule.add, rule.append) == (add, append)


def test_what_neither_counts_nor_grows_is_no_rule():
    assert decoding._counted([torch.tensor([[1]]), torch.tensor([[2]]), torch.tensor([[4]])]) is None
    assert decoding._counted([torch.tensor([[1, 2]]), torch.tensor([[1, 2, 3]])]) is None
    assert decoding._counted([torch.zeros(1)]) is None


def test_a_decoder_that_reads_another_state_gives_other_logits():
    made = program("llama")
    cache = variant(made, "kv_cache")
    inputs = export.replay.Runner(made).golden_inputs()
    right = decoding.Decoder(made, cache).logits(inputs, None)
    states = [one for one in cache.decoding.decode if one.WhichOneof("source") == "state"]
    states[0].state, states[2].state = states[2].state, states[0].state
    wrong = decoding.Decoder(made, cache).logits(inputs, None)
    assert torch.equal(right[0], wrong[0]) and not torch.allclose(right[1], wrong[1], atol=1e-3)


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
