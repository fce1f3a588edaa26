"""What kernels round on the way to a result: docs/tolerances.md, "What happens inside an operator".

An operator that adds up many terms, or that consists of others, rounds more often than once. Each formula here gives
the variance of what comes of that, in units of the square of one rounding to nearest, for every number of a result.
Terms that are added one after the other are taken to come in random order: of K terms with sum S and sum of squares
Q, the mean square of the partial sum of k is k/K * Q * (1 - (k-1)/(K-1)) + k(k-1)/(K(K-1)) * S^2, and all of them
together are (K+1) * (Q/6 + S^2/3).
"""

import math

import torch

# Variance of one rounding to nearest relative to the number rounded, in squares of the unit of roundoff: errors even
# between half a step up and down, mantissas as numbers have them (Benford).
NEAREST = 4 * 3 / (8 * math.log(2)) / 12


def _product(call, arguments: dict, result: torch.Tensor, terms: int) -> torch.Tensor:
    """`terms` products for each number, rounded and added up in sequence; a bias is one more of them."""
    sum_of_squares = call(torch.utils._pytree.tree_map(_squared, arguments))
    squared = result.square()
    # The last partial sum is the result, whose rounding is the caller's.
    return (terms + 1) * (sum_of_squares / 6 + squared / 3) + sum_of_squares - squared


def _squared(value):
    return value.square() if isinstance(value, torch.Tensor) and value.is_floating_point() else value


def _einsum_terms(arguments: dict) -> int:
    left, _, right = arguments["equation"].replace(" ", "").partition("->")
    sizes: dict[str, int] = {}
    for letters, tensor in zip(left.split(","), arguments["tensors"], strict=True):
        sizes |= dict(zip(letters, tensor.shape, strict=False))
    return math.prod(size for letter, size in sizes.items() if letter not in right)


def _transposed_terms(arguments: dict) -> int:
    weight, stride = arguments["weight"], arguments.get("stride") or [1]
    strides = list(stride) * (weight.dim() - 2) if len(stride) == 1 else stride
    taps = [math.ceil(size / step) for size, step in zip(weight.shape[2:], strides, strict=True)]
    return weight.shape[0] // arguments.get("groups", 1) * math.prod(taps)


# Operators that add up products: of how many terms each number is.
_PRODUCTS = {
    "aten::linear": lambda a: a["input"].shape[-1],
    "aten::matmul": lambda a: a["self"].shape[-1],
    "aten::mm": lambda a: a["self"].shape[-1],
    "aten::bmm": lambda a: a["self"].shape[-1],
    "aten::addmm": lambda a: a["mat1"].shape[-1],
    "aten::baddbmm": lambda a: a["batch1"].shape[-1],
    "aten::conv1d": lambda a: a["weight"][0].numel(),
    "aten::conv2d": lambda a: a["weight"][0].numel(),
    "aten::conv3d": lambda a: a["weight"][0].numel(),
    "aten::conv_transpose1d": _transposed_terms,
    "aten::conv_transpose2d": _transposed_terms,
    "aten::einsum": _einsum_terms,
}  # fmt: skip


def _scaled(value: torch.Tensor, factor: torch.Tensor | None) -> torch.Tensor:
    return value if factor is None else value * factor


def _normalized(x, mean, rest, gain):
    """((x * r - mean * r) * gain) + bias, r = 1 / sqrt(variance + epsilon) of a handful of roundings."""
    near = (x - mean) * rest
    return _scaled((x * rest).square() + 2 * (mean * rest).square() + 6 * near.square(), gain)


def _layer_norm(a: dict, y: torch.Tensor) -> torch.Tensor:
    dims = list(range(-len(a["normalized_shape"]), 0))
    variance, mean = torch.var_mean(a["input"], dims, correction=0, keepdim=True)
    gain = a.get("weight")
    return _normalized(a["input"], mean, (variance + a.get("eps", 1e-5)).rsqrt(), gain if gain is None else gain**2)


def _by_channel(value: torch.Tensor | None, like: torch.Tensor) -> torch.Tensor | None:
    return None if value is None else value.reshape(1, -1, *[1] * (like.dim() - 2))


def _group_norm(a: dict, y: torch.Tensor) -> torch.Tensor:
    x = a["input"]
    grouped = x.reshape(x.shape[0], a["num_groups"], -1)
    variance, mean = torch.var_mean(grouped, -1, correction=0, keepdim=True)
    inside = _normalized(grouped, mean, (variance + a.get("eps", 1e-5)).rsqrt(), None).reshape(x.shape)
    gain = _by_channel(a.get("weight"), x)
    return _scaled(inside, gain if gain is None else gain**2)


def _batch_norm(a: dict, y: torch.Tensor) -> torch.Tensor:
    """x * alpha + (bias - mean * alpha), alpha = gain / sqrt(variance + epsilon)."""
    x = a["input"]
    if "running_mean" in a:
        variance, mean = _by_channel(a["running_var"], x), _by_channel(a["running_mean"], x)
    else:
        variance, mean = torch.var_mean(x, [0, *range(2, x.dim())], correction=0, keepdim=True)
    alpha = _scaled((variance + a["eps"]).rsqrt(), _by_channel(a.get("weight"), x))
    bias = _by_channel(a.get("bias"), x)
    moved = (mean * alpha).square() + ((0 if bias is None else bias) - mean * alpha).square()
    return 4 * ((x - mean) * alpha).square() + moved + (x * alpha).square()


def _softmax(a: dict, y: torch.Tensor) -> torch.Tensor:
    """exp(x - largest) / sum: an error of the difference is one of the result relative to it."""
    x = a["self"]
    below = (x - x.amax(a["dim"], keepdim=True)).clamp(min=-1e3)  # beyond, the result is zero
    return y.square() * (below.square() + 6)


def _gelu(a: dict, y: torch.Tensor) -> torch.Tensor:
    """x / 2 * (1 + erf(x / sqrt(2))), or with a tanh: near -1 all of it is error of the function."""
    x = a["self"]
    if a.get("approximate", "none") == "tanh":
        inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
        value, slope = inner.tanh(), (1 - inner.tanh().square()) * inner
        steps = 3
    else:
        inner = x / math.sqrt(2)
        value, slope = inner.erf(), 2 / math.sqrt(math.pi) * (-inner.square()).exp() * inner
        steps = 1
    return (x / 2).square() * (4 * value.square() + steps * slope.square()) + 2 * y.square()


def _weight_norm(a: dict, y: torch.Tensor) -> torch.Tensor:
    """v * (g / norm): the squares of a norm are added up in sequence; its root halves the error."""
    terms = a["v"].numel() // a["g"].numel()
    return y.square() * ((terms + 1) / 3 / 4 + 2)


def _between(a: dict, y: torch.Tensor, call) -> torch.Tensor:
    """A weighted mean of neighbours. Its weights are fractions of a coordinate, and have the coordinate's error."""
    x = a["input"]
    apart = (call({**a, "input": x.square()}) - y.square()).clamp(min=0)  # at least a sixth of it, in the middle
    return 6 * apart * sum(size**2 / 3 for size in x.shape[2:]) + 3 * y.square()


_COMPOSED = {
    "aten::layer_norm": _layer_norm,
    "aten::group_norm": _group_norm,
    "aten::_native_batch_norm_legit_no_training": _batch_norm,
    "aten::_native_batch_norm_legit": _batch_norm,
    "aten::softmax": _softmax,
    "aten::gelu": _gelu,
    "aten::_weight_norm": _weight_norm,
    "aten::cumsum": lambda a, y: y.square().cumsum(a["dim"]),
    "aten::sigmoid": lambda a, y: 2 * y.square(),
    "aten::silu": lambda a, y: 2 * y.square(),
    "aten::hardswish": lambda a, y: 2 * y.square(),
    "aten::rsqrt": lambda a, y: y.square(),
}  # fmt: skip


def variance(op: str, arguments: dict, result: torch.Tensor, call) -> torch.Tensor | None:
    """Of the first result of `op`, in units of NEAREST; None where its only rounding is that of the result.

    `call` runs the operator on other arguments of the same names.
    """
    if op in _PRODUCTS:
        return _product(call, arguments, result, _PRODUCTS[op](arguments))
    if op == "aten::upsample_bilinear2d":
        return _between(arguments, result, call)
    return _COMPOSED[op](arguments, result) if op in _COMPOSED else None
