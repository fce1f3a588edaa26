"""What torch.export gives stands in the Graph message exactly, and what has no form there is refused."""

import pytest
import torch
from assay_exporter import export, replay, transcribe
from assay_exporter.proto import program_pb2
from assay_exporter.transcribe import TranscriptionError


class EveryArgument(torch.nn.Module):
    """Between them, its operators take every kind of argument that a graph of ours has."""

    def __init__(self):
        super().__init__()
        self.inner = torch.nn.Linear(4, 4)

    def forward(self, x, ids):
        batch = x.shape[0]
        y = self.inner(x)  # value
        first, second = torch.split(y, [1, 3], dim=1)  # ints, list output
        y = torch.cat([second, first], dim=1)  # values
        y = y.masked_fill(y > 100.0, float("-inf"))  # real, infinity
        y = y[:, torch.tensor([3, 2, 1, 0])]  # optional_values, a constant
        y = torch.nn.functional.gelu(y, approximate="tanh")  # text
        y = y.to(torch.float64).to(torch.float32)  # scalar_type
        y = y + torch.arange(4, dtype=torch.float32)  # device, integer
        y = y.mean(dim=1, keepdim=True) + y  # boolean
        y = y.reshape(batch * 2, 2)  # symbolic scalars
        y = torch.nn.functional.interpolate(y[None], scale_factor=2.0, mode="linear")  # floats, none
        y = torch.empty_like(y, memory_format=torch.contiguous_format).fill_(1.0) + y  # memory_format
        values, places = y.topk(2, dim=-1)  # several outputs
        return values + places, ids + 1


@pytest.fixture
def exported():
    arguments = {"x": torch.randn(2, 4), "ids": torch.arange(6).reshape(2, 3)}
    wrapped = torch.nn.Module()
    wrapped.model = EveryArgument()
    wrapped.forward = wrapped.model.forward
    program = export.export_module(wrapped, arguments, {"x": 0, "ids": 0})
    return wrapped, program, arguments


def written(program) -> program_pb2.Program:
    """A Program message with its weights as literals, as far as a run needs it."""
    made = program_pb2.Program(format=1)
    kinds = {}
    for spec in program.graph_signature.input_specs:
        name = spec.arg.name
        if spec.target is None:
            kinds[name] = (program_pb2.GraphInput.USER_INPUT, name)
            continue
        tensor = program.state_dict.get(spec.target, program.constants.get(spec.target))
        if spec.target in program.state_dict:
            kinds[name] = (program_pb2.GraphInput.WEIGHT, spec.target)
            weight = made.manifest.weights.add(
                name=spec.target, dtype=program_pb2.FLOAT, shape=list(tensor.shape)
            )
            weight.mock.literal = tensor.detach().numpy().tobytes()
        else:
            kinds[name] = (program_pb2.GraphInput.CONSTANT, spec.target)
            made.constants.append(export.tensors.to_proto(spec.target, tensor))
    made.graph.CopyFrom(transcribe.transcribe(program.graph_module, kinds, "model").graph)
    for index in range(len(made.graph.outputs)):
        made.manifest.outputs.add(name=str(index))
    return export.unpack(export.pack(made))


def test_a_written_graph_computes_what_the_module_computes_for_any_batch(exported):
    module, program, _ = exported
    runner = replay.Runner(written(program))
    for batch in (1, 2, 5):
        arguments = {"x": torch.randn(batch, 4), "ids": torch.arange(3 * batch).reshape(batch, 3)}
        expected = module(**arguments)
        found = list(runner.run(arguments).values())
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_every_kind_of_argument_is_written(exported):
    graph = written(exported[1]).graph
    kinds = {a.value.WhichOneof("kind") for node in graph.nodes for a in node.arguments}
    assert kinds >= {
        "value", "values", "optional_values", "integer", "ints", "real", "boolean", "text", "scalar_type",
        "device", "sym_ints",
    }  # fmt: skip


def test_values_are_numbered_in_order_and_used_after_they_are_given(exported):
    graph = written(exported[1]).graph
    given = [value.value for value in graph.inputs]
    for node in graph.nodes:
        for argument in node.arguments:
            held = argument.value
            used = [held.value] if held.WhichOneof("kind") == "value" else list(held.values.values)
            assert all(number < len(given) for number in used)
        given.extend(node.outputs)
    assert given == list(range(graph.value_count))


def test_module_paths_are_kept_and_arguments_at_their_default_left_out(exported):
    graph = written(exported[1]).graph
    operators = [op.name for op in graph.operators]
    linear = next(node for node in graph.nodes if operators[node.op] == "aten::linear")
    assert graph.modules[linear.module] == "inner"
    add = next(node for node in graph.nodes if operators[node.op] == "aten::add")
    assert "alpha" not in [argument.name for argument in add.arguments]


def test_what_no_output_needs_is_dropped():
    class Wasteful(torch.nn.Module):
        def forward(self, x):
            torch.rand(3)
            _ = x * 17
            return x.detach() + 1

    program = export.export_module(Wasteful(), {"x": torch.randn(2, 2)}, {"x": 0})
    assert [str(n.target) for n in program.graph.nodes if n.op == "call_function"] == ["aten.add.Tensor"]


def test_a_sub_graph_is_refused():
    class Branches(torch.nn.Module):
        def forward(self, x):
            return torch.cond(x.sum() > 0, lambda x: x + 1, lambda x: x - 1, (x,))

    with pytest.raises(TranscriptionError, match="sub-graph"):
        export.export_module(Branches(), {"x": torch.randn(2, 2)}, {"x": None})


def test_an_operator_that_mutates_is_refused():
    graph = torch.fx.Graph()
    x = graph.placeholder("x")
    graph.output((graph.call_function(torch.ops.aten.add_.Tensor, (x, 1)),))
    with pytest.raises(TranscriptionError, match="mutates"):
        transcribe.prune(torch.fx.GraphModule(torch.nn.Module(), graph))


def test_a_call_without_a_form_is_refused():
    graph = torch.fx.Graph()
    x = graph.placeholder("x")
    graph.output((graph.call_function(torch.sin, (x,)),))
    module = torch.fx.GraphModule(torch.nn.Module(), graph)
    with pytest.raises(TranscriptionError, match="no form"):
        transcribe.transcribe(module, {"x": (program_pb2.GraphInput.USER_INPUT, "x")}, "model")
