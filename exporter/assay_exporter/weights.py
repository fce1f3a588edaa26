"""The mock rule of every parameter and persistent buffer.

Rules keep signals alive: matrices by their fan-in, embeddings near one, norms near one, biases small but not
zero. They depend on module classes, names, shapes and whether the library's initial value is constant, never
on values that a processor computed.
"""

import math
import re
from collections.abc import Callable

import torch

from . import mock, tensors
from .proto import program_pb2

SEED = 0


def _is_constant(tensor: torch.Tensor) -> bool:
    return tensor.numel() > 0 and bool((tensor == tensor.reshape(-1)[0]).all())


def buffer_rule(owner: torch.nn.Module, leaf: str, value: torch.Tensor) -> program_pb2.MockRule:
    if leaf == "running_mean":
        return mock.normal(0.1)
    if leaf == "running_var":
        return mock.uniform(0.5, 1.5)
    if "FrozenBatchNorm" in type(owner).__name__:
        return mock.normal(0.1, 1.0) if leaf == "weight" else mock.normal(0.1)
    if re.search("Codebook|Quantiz", type(owner).__name__) and leaf.startswith("embed") and value.dim() == 2:
        return mock.normal(0.25)  # checkpoints bring the codes; of zeros each is as near as another
    if leaf == "inv_freq":
        return mock.uniform(0.01, 1.0)
    if _is_constant(value):
        return mock.constant(float(value.reshape(-1)[0]))
    if value.dim() and not value.is_floating_point() and value.dtype is not torch.bool:
        last = torch.arange(value.shape[-1], dtype=value.dtype).expand_as(value)
        if torch.equal(last, value):
            return mock.ramp(0, 1)
    if value.is_floating_point() and len(value.unique()) > 2:
        # Its last bits could depend on the processor, and a manifest may not.
        raise ValueError(f"no mock rule for the floating point buffer {leaf} of a {type(owner).__name__}")
    return program_pb2.MockRule(literal=tensors.data(value))


# Parameters whose values mean something of their own, by name (the last two parts of it).
_BY_NAME: list[tuple[re.Pattern, program_pb2.MockRule]] = [
    # Mamba: A = -exp(A_log) from -1 to -5; dt = softplus(dt_proj(…)), small steps.
    (re.compile(r"(^|\.)A_log$"), mock.uniform(0.0, 1.6)),
    (re.compile(r"(^|\.)dt_proj\.bias$"), mock.uniform(-3.0, -0.5)),
    # RWKV: decay exp(-exp(time_decay)) between 0.95 and 0.2; mixing weights are shares.
    (re.compile(r"(^|\.)time_decay$"), mock.uniform(-3.0, 0.5)),
    (re.compile(r"(^|\.)time_first$"), mock.uniform(-1.0, 1.0)),
    (re.compile(r"(^|\.)time_mix_\w+$"), mock.uniform(0.2, 0.8)),
    # RG-LRU: log of the recurrence is -8 * gate * softplus(recurrent_param): decays around 0.9 to 0.5.
    (re.compile(r"(^|\.)recurrent_param$"), mock.uniform(-4.0, -2.0)),
    # Scales that training starts near zero would hide their whole branch.
    (re.compile(r"(layer_scale|layerscale|lambda)\w*(\.\w+)?$"), mock.normal(0.1, 0.5)),
    (re.compile(r"_scaling\.weight$"), mock.normal(0.02, 0.1)),
    (re.compile(r"(attn_gate|mlp_gate|alpha\w*|embedding\.gate)$"), mock.uniform(0.4, 0.9)),
]


def _fan_in(owner: torch.nn.Module, leaf: str, shape: torch.Size) -> int:
    if type(owner).__name__ == "Conv1D":  # GPT-2's: [in, out]
        return shape[0]
    if isinstance(owner, torch.nn.modules.conv._ConvTransposeNd):
        return max(1, shape[0] * math.prod(shape[2:]) // math.prod(owner.stride))
    return math.prod(shape[1:]) if leaf == "weight" else shape[-2]


def parameter_rule(
    owner: torch.nn.Module, path: str, value: torch.Tensor, shape: tuple[int, ...] | None = None
) -> program_pb2.MockRule:
    """The rule of a parameter from its initial value; `shape` where that is only a stand-in for it."""
    shape = tuple(value.shape) if shape is None else shape
    leaf = path.rpartition(".")[2]
    tail = ".".join(path.split(".")[-2:])
    for pattern, rule in _BY_NAME:
        if pattern.search(tail):
            return rule
    if tail.endswith(
        "weight.original0"
    ):  # weight_norm's lengths: of vectors whose elements have unit variance
        return mock.uniform(0.8, 1.2)
    kind = type(owner).__name__
    if isinstance(owner, torch.nn.Embedding) and re.search(r"(quantiz\w*|codebook)\.embedding\.weight$", path):
        return mock.normal(0.05)  # small codes, so that the direction of what is looked up says which is nearest
    if isinstance(owner, torch.nn.Embedding) or (kind.endswith("Embedding") and leaf == "weight"):
        return mock.normal(0.7)
    if isinstance(owner, torch.nn.modules.conv._ConvNd) and leaf == "weight":
        return mock.normal(math.sqrt(2.0 / _fan_in(owner, leaf, shape)))
    if isinstance(owner, torch.nn.Linear) and leaf == "weight":
        return mock.normal(math.sqrt(1.0 / _fan_in(owner, leaf, shape)))
    first = float(value.reshape(-1)[0]) if value.numel() else 0.0
    if _is_constant(value) and first == 1.0:
        return mock.normal(0.1, 1.0)
    if _is_constant(value) and first != 0.0:
        return mock.constant(first)  # temperatures and the like
    if len(shape) <= 1:
        return mock.normal(0.1)
    if re.search(r"embed|token|position|pos_|query|latents|table|bias|mask", path.lower()) or shape[0] == 1:
        return mock.normal(0.5)
    return mock.normal(math.sqrt(1.0 / _fan_in(owner, leaf, shape)))


def bind_mock(
    model: torch.nn.Module, rule_of_buffer: Callable = buffer_rule
) -> tuple[list[program_pb2.WeightSpec], list[program_pb2.TiedWeight]]:
    """Fills `model` with mock values in place. A weight with several names is filled under its first one."""
    specs, tied = [], []
    first_name: dict[int, str] = {}
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for name, tensor in model.state_dict(keep_vars=True).items():
        if not isinstance(tensor, torch.Tensor):
            continue
        if id(tensor) in first_name:
            tied.append(program_pb2.TiedWeight(alias=name, weight=first_name[id(tensor)]))
            continue
        first_name[id(tensor)] = name
        owner_path, _, leaf = name.rpartition(".")
        owner = model.get_submodule(owner_path)
        with torch.no_grad():
            if name not in parameters:
                rule = rule_of_buffer(owner, leaf, tensor)
            elif tensor.is_floating_point():
                rule = parameter_rule(owner, name, tensor)
            else:
                rule = rule_of_buffer(owner, leaf, tensor)
            tensor.copy_(tensors.from_rule(rule, name, SEED, tuple(tensor.shape), tensor.dtype))
        specs.append(
            program_pb2.WeightSpec(
                name=name,
                dtype=tensors.scalar_type(tensor.dtype),
                shape=list(tensor.shape),
                requires_grad=tensor.requires_grad,
                buffer=name not in parameters,
                mock=rule,
            )  # fmt: skip
        )
    return specs, tied


class NothingToFit(ValueError):
    """The model has no batch norm."""


def fit_norms(model: torch.nn.Module, specs: list[program_pb2.WeightSpec], run: Callable[[], object]) -> None:
    """Gives every batch norm running statistics of the size of its input in `run`, to the nearest power of four.

    The rules in `specs` say so, too. Powers of four, so that neither the last bits of a processor nor the root of
    the variance can matter.
    """
    by_name = {spec.name: spec for spec in specs}

    def fit(path: str):
        def before(module, arguments):
            found = arguments[0].transpose(0, 1).flatten(1).var(dim=1).mean()
            scale = 2.0 ** round(math.log2(max(float(found), 1e-30)) / 2)
            for leaf, rule in (
                ("running_mean", mock.normal(0.1 * scale)),
                ("running_var", mock.uniform(0.5 * scale**2, 1.5 * scale**2)),
            ):
                name = f"{path}.{leaf}"
                value = getattr(module, leaf)
                by_name[name].mock.CopyFrom(rule)
                value.copy_(tensors.from_rule(rule, name, SEED, tuple(value.shape), value.dtype))

        return before

    hooks = [
        module.register_forward_pre_hook(fit(path))
        for path, module in model.named_modules()
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm) and f"{path}.running_var" in by_name
    ]
    if not hooks:
        raise NothingToFit("the model has no batch norm")
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
