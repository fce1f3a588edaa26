"""A model of full size without its weights: parameters that only have shapes, buffers with their values."""

import contextlib

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from transformers import modeling_utils

from .. import mock, weights
from ..proto import program_pb2
from ..tensors import scalar_type

# Parameters up to this size are filled as the library fills them, so that mock rules see which are constant.
_SMALL = 1 << 16


@contextlib.contextmanager
def _without_storage(initial: dict[int, torch.Tensor]):
    """Parameters that modules register go to the meta device; `initial` keeps small ones' values by id()."""
    own = torch.nn.Module.register_parameter

    def register(self, name, parameter):
        own(self, name, parameter)
        if parameter is not None and parameter.device.type != "meta":
            bare = torch.nn.Parameter(parameter.detach().to("meta"), requires_grad=parameter.requires_grad)
            if parameter.numel() <= _SMALL:
                initial[id(bare)] = parameter.detach()
            self._parameters[name] = bare

    def only_small(function):
        def fill(tensor, *arguments, **options):
            large = tensor.device.type == "meta" or tensor.numel() > _SMALL
            return tensor if large else function(tensor, *arguments, **options)

        return fill

    own_empty = torch.empty

    def empty(*arguments, **options):  # what was in memory before must not decide a rule
        made = own_empty(*arguments, **options)
        return made.zero_() if made.numel() <= _SMALL else made

    before = modeling_utils._init_weights
    modeling_utils._init_weights = False
    names = [name for name in dir(torch.nn.init) if name.endswith("_") and not name.startswith("_")]
    saved = {name: getattr(torch.nn.init, name) for name in names}
    torch.nn.Module.register_parameter = register
    torch.empty = empty
    for name, function in saved.items():
        setattr(torch.nn.init, name, only_small(function))
    try:
        yield
    finally:
        modeling_utils._init_weights = before
        torch.nn.Module.register_parameter = own
        torch.empty = own_empty
        for name, function in saved.items():
            setattr(torch.nn.init, name, function)


def _rule(model, name: str, tensor: torch.Tensor, known: torch.Tensor | None, parameter: bool):
    owner_path, _, leaf = name.rpartition(".")
    owner = model.get_submodule(owner_path)
    if known is None:
        known = torch.tensor([0.0, 1.0])  # large: taken for not constant
    try:
        if parameter and tensor.is_floating_point():
            return weights.parameter_rule(owner, name, known, tuple(tensor.shape))
        return weights.buffer_rule(owner, leaf, known)
    except ValueError:  # a table of numbers: any will do in a program that has real ones
        return mock.normal(0.1)


def build(model_class, config):
    """(model, weight specs, tied names): eval mode, parameters on the meta device, tied ones one object."""
    initial: dict[int, torch.Tensor] = {}
    torch.manual_seed(0)
    with _without_storage(initial):
        model = model_class(config)
    model.tie_weights()
    model.eval()
    specs: list[program_pb2.WeightSpec] = []
    tied: list[program_pb2.TiedWeight] = []
    first: dict[int, str] = {}
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for name, tensor in model.state_dict(keep_vars=True).items():
        if not isinstance(tensor, torch.Tensor):
            continue
        if id(tensor) in first:
            tied.append(program_pb2.TiedWeight(alias=name, weight=first[id(tensor)]))
            continue
        first[id(tensor)] = name
        parameter = name in parameters
        known = initial.get(id(tensor)) if tensor.device.type == "meta" else tensor
        specs.append(
            program_pb2.WeightSpec(
                name=name,
                dtype=scalar_type(tensor.dtype),
                shape=list(tensor.shape),
                requires_grad=tensor.requires_grad,
                buffer=not parameter,
                mock=_rule(model, name, tensor, known, parameter),
            )
        )
    return model, specs, tied


def hollow(model: torch.nn.Module) -> None:
    """Replaces meta parameters by fake ones of the CPU, which torch.export takes for tensors with values."""
    mode = FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True)
    made: dict[int, tuple] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is None or parameter.device.type != "meta":
                continue
            if id(parameter) not in made:
                with mode:
                    fake = torch.empty(parameter.shape, dtype=parameter.dtype)
                    fake = torch.nn.Parameter(fake, requires_grad=parameter.requires_grad)
                made[id(parameter)] = (fake, parameter)  # keeps the old one alive, and so its id()
            module._parameters[name] = made[id(parameter)][0]
