"""What kernels round inside an operator, against kernels that do so."""

import pytest
import torch

from assay_exporter import kernels, replay, rounding
from assay_exporter.proto import program_pb2

_OVERLOADS = {"aten::softmax": "int"}


def _off(op: str, arguments: dict, computed: torch.Tensor | None = None) -> tuple[float, float]:
    """How far float32 is from float64, and from it by the formula; both root mean square, in units of roundoff."""
    operator = program_pb2.Operator(name=op, overload=_OVERLOADS.get(op, ""))
    double = torch.utils._pytree.tree_map(
        lambda value: value.double() if isinstance(value, torch.Tensor) else value, arguments
    )
    exact = replay.call(operator, double)
    computed = replay.call(operator, arguments) if computed is None else computed
    spread = kernels.variance(op, double, exact, lambda given: replay.call(operator, given))
    # The result's own rounding, to nearest here, comes on top.
    predicted = (kernels.NEAREST * (spread + exact.square())).mean().sqrt()
    unit = rounding.unit(torch.float32)
    return float((computed.double() - exact).square().mean().sqrt()) / unit, float(predicted)


def _numbers(*shape: int, mean: float = 0.0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(len(shape) + shape[-1])) + mean


@pytest.mark.parametrize("terms", [2, 16, 256])
@pytest.mark.parametrize("mean", [0.0, 1.0], ids=["terms of both signs", "terms of one sign"])
def test_a_sum_of_products_in_sequence_is_off_by_what_the_formula_says(terms, mean):
    a, b = _numbers(200, terms, mean=mean), _numbers(40, terms, mean=mean)
    total = torch.zeros(200, 40)
    for k in range(terms):  # as a kernel without fused multiplication and addition does it
        total = total + a[:, k : k + 1] * b[:, k]
    found, predicted = _off("aten::linear", {"input": a, "weight": b}, total)
    assert found == pytest.approx(predicted, rel=0.25)


_PICTURE = {"input": _numbers(2, 8, 12, 12), "weight": _numbers(6, 8, 3, 3), "bias": _numbers(6)}
_ROWS = _numbers(60, 64, mean=0.5)


@pytest.mark.parametrize(
    ("op", "arguments", "least"),
    [
        ("aten::conv2d", _PICTURE, 0.15),
        ("aten::matmul", {"self": _numbers(2, 30, 48), "other": _numbers(2, 48, 20)}, 0.15),
        ("aten::einsum", {"equation": "ij,jk->ik", "tensors": [_numbers(30, 48), _numbers(48, 20)]}, 0.15),
        ("aten::conv_transpose1d", {"input": _numbers(2, 8, 20), "weight": _numbers(8, 4, 4), "stride": [2]}, 0.15),
        ("aten::layer_norm", {"input": _ROWS, "normalized_shape": [64], "weight": _numbers(64)}, 0.3),
        ("aten::group_norm", {"input": _PICTURE["input"], "num_groups": 4, "weight": _numbers(8)}, 0.3),
        ("aten::softmax", {"self": 3 * _ROWS, "dim": -1}, 0.3),
        ("aten::gelu", {"self": 3 * _ROWS}, 0.3),
        ("aten::gelu", {"self": 3 * _ROWS, "approximate": "tanh"}, 0.3),
        ("aten::silu", {"self": 3 * _ROWS}, 0.3),
    ],
)  # fmt: skip
def test_this_machines_kernels_are_off_by_no_more_than_the_formula_says(op, arguments, least):
    torch.set_num_threads(1)
    found, predicted = _off(op, arguments)
    assert least * predicted < found < 1.2 * predicted


def test_an_operator_that_rounds_once_has_no_formula():
    assert kernels.variance("aten::add", {}, torch.ones(2).double(), lambda given: None) is None
