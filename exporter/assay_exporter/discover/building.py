"""The class that an architecture is run as, and a small model of it with its mock weights."""

import contextlib
import copy
import dataclasses
import math
import traceback
from collections.abc import Iterator

import torch
import transformers
from transformers import PretrainedConfig

from .. import builders, mock, tensors, weights
from ..proto import program_pb2
from . import library, shrinking
from .outcome import Failed, text, where

_MOST_PARAMETERS = 80_000_000


def head(
    architecture: library.Architecture, config_class: type, wished: str
) -> tuple[type, library.Head, type]:
    """The first class that was written for the configuration's class, its task, and that configuration's class.

    Where it only holds others that generate in turn, and has no `forward`: the class of the first of them, with the
    configuration of that one.
    """
    if wished:
        made = builders.resolve(wished)
        task = next((h for h in architecture.heads if h.model_class == made.__name__), None)
        return made, task or library.Head(made.__name__, "feature-extraction", "other"), config_class
    heads = architecture.heads or library.written_for(config_class)
    if not heads:
        raise Failed("class", "the library's auto mappings have no class for it")
    missing, none_fits = "", None
    for head in heads:
        made = library.lookup(head.model_class, architecture.module)
        if type(made).__name__ == "DummyObject":
            missing = f"missing package {', '.join(made._backends)}"
            continue
        own = getattr(made, "config_class", None)
        if own in (None, config_class) or (isinstance(own, type) and issubclass(config_class, own)):
            if library.runs(made):
                return made, head, config_class
            for part in library.parts(config_class).values():
                for inner in library.written_for(part):
                    return library.lookup(inner.model_class, architecture.module), inner, part
        none_fits = none_fits or (made, head, config_class)
    if none_fits is None:
        raise Failed("class", missing)
    return none_fits


def _buffer_rule(owner: torch.nn.Module, leaf: str, value: torch.Tensor) -> program_pb2.MockRule:
    """As for tracked models; floating point tables by value, of so few digits that no processor changes them."""
    try:
        return weights.buffer_rule(owner, leaf, value)
    except ValueError:
        if value.numel() > 1 << 16:
            spread = float(value.float().std())
            return mock.normal(2.0 ** round(math.log2(spread)) if spread > 0 else 1.0)
        return program_pb2.MockRule(literal=tensors.data(value.to(torch.bfloat16).to(value.dtype)))


def parameters(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@dataclasses.dataclass
class Model:
    """Built and with its mock weights bound; never run itself, so that no state is kept."""

    built: builders.Built
    specs: list
    tied: list

    def copy(self) -> "Model":
        built = dataclasses.replace(self.built, model=copy.deepcopy(self.built.model))
        return Model(built, [copy.deepcopy(spec) for spec in self.specs], self.tied)


def configuration(config_class: type[PretrainedConfig], strength: str, overrides: dict) -> PretrainedConfig:
    try:
        keywords = shrinking.merged(
            shrinking.arguments(config_class, strength, default=default(config_class, overrides)), overrides
        )
        config = config_class(**keywords)
        builders.configure(config)
        return config
    except Exception as error:  # whatever the library's constructors raise
        raise Failed("configuration", text(error), where(error)) from error


def default(config_class: type[PretrainedConfig], overrides: dict) -> PretrainedConfig:
    """As the library makes it, or where it makes none without a word, with the words."""
    try:
        return config_class()
    except Exception:
        if not overrides:
            raise
        return config_class(**copy.deepcopy(overrides))  # some take what is given apart


def made(model_class: type, config: PretrainedConfig) -> torch.nn.Module:
    """The model; without the library's own first weights where those fail: others take their place anyway."""
    try:
        return model_class(config)
    except Exception as error:
        names = [frame.name for frame in traceback.extract_tb(error.__traceback__)]
        if not any(name.startswith("_init_weights") for name in names):
            raise
    with _no_first_weights():
        return model_class(config)


@contextlib.contextmanager
def _no_first_weights() -> Iterator[None]:
    base = transformers.PreTrainedModel
    before = base.initialize_weights
    base.initialize_weights = lambda model: None
    try:
        yield
    finally:
        base.initialize_weights = before


def build(
    model_class: type, config_class: type[PretrainedConfig], strength: str, overrides: dict, bind: bool = True
) -> Model:
    """With its mock weights, or as the library makes it."""
    config = configuration(config_class, strength, overrides)
    try:
        with contextlib.suppress(Exception), torch.device("meta"):
            count = parameters(model_class(config))
            if count > _MOST_PARAMETERS:
                raise Failed("build", f"{count / 1e6:.0f} million parameters")
        torch.manual_seed(0)
        built = builders.finish(made(model_class, config), config)
        if parameters(built.model) > _MOST_PARAMETERS:
            raise Failed("build", f"{parameters(built.model) / 1e6:.0f} million parameters")
        return Model(built, *(weights.bind_mock(built.model, _buffer_rule) if bind else ([], [])))
    except Failed:
        raise
    except Exception as error:
        raise Failed("build", text(error), where(error)) from error
