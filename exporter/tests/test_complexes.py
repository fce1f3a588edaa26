"""A complex constant is written as real numbers, and gives what eager gives."""

import types

import torch
from assay_exporter import builders, export, inputs, weights, wrapper
from assay_exporter.discover import complexes


class Turned(torch.nn.Module):
    """Rotary positions as a table of complex numbers."""

    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(4, 4)
        angles = torch.arange(6.0).reshape(3, 2)
        self.table = torch.polar(torch.ones_like(angles), angles)

    def forward(self, x):
        pairs = torch.view_as_complex(self.linear(x).reshape(*x.shape[:-1], -1, 2))
        return {"logits": torch.view_as_real(pairs * self.table).flatten(-2)}


def test_a_complex_constant_becomes_a_real_one_and_an_operator():
    built = builders.Built(Turned().eval(), types.SimpleNamespace(), "{}", "test 1")
    subject = export.study(
        built, *weights.bind_mock(built.model), [inputs.noise("x", 2, 3, 4)], {}, False, wrapper.any_outputs
    )
    arguments = subject.samples[0].arguments
    graph = complexes.as_pairs(export.export_module(subject.wrapped, arguments, {"x": 0}))
    assert not any(torch.is_tensor(value) and value.is_complex() for value in graph.constants.values())
    signature = export.read_signature(graph, subject)
    assert [tuple(constant.shape) for constant in signature.constants] == [(3, 2, 2)]
    for sample in subject.samples:
        given = export.arguments_of(graph, signature, sample.arguments)
        export.agree("the graph", sample.outputs, list(torch.fx.Interpreter(graph.graph_module).run(*given)))
