"""The same model and weights with sdpa attention."""

from transformers import PretrainedConfig

from .. import builders, patches, wrapper
from ..proto import program_pb2
from . import graph
from .graph import Missing, NotApplicable

_SHARE = 1e-5  # of an output's largest number: the fused kernel adds in another order
OPERATOR = "aten::scaled_dot_product_attention"


def _build(entry):
    configure = builders.configure
    with patches.replaced(builders, configure=lambda config: _set(config, configure)):
        return builders.build(entry)


def _set(config, configure) -> None:
    configure(config)
    pending = [config]
    while pending:
        one = pending.pop()
        one._attn_implementation = "sdpa"
        pending.extend(value for value in vars(one).values() if isinstance(value, PretrainedConfig))


def fill(variant: program_pb2.Variant, program: program_pb2.Program, entry, subject) -> None:
    if any(operator.name == OPERATOR for operator in program.graph.operators):
        # Eager attention was asked for: transformers has none for this model.
        raise NotApplicable("transformers runs sdpa attention where eager is asked for: there is one way alone")
    if not isinstance(subject.built.config, PretrainedConfig):
        raise NotApplicable("the model is not transformers'")
    try:
        built = _build(entry)
    except (ValueError, ImportError) as error:
        if "scaled_dot_product_attention" in str(error) or "sdpa" in str(error):
            raise NotApplicable(f"transformers refuses sdpa attention for {type(subject.built.model).__name__}") from error
        raise
    built.model.load_state_dict(subject.built.model.state_dict())
    names: list[str] = []
    module = wrapper.wrap(built.model, [spec.name for spec in subject.inputs], subject.constants, names)
    arguments = subject.samples[0].arguments
    eager = list(module(**arguments))
    try:
        graph.near("it", subject.samples[0].outputs, eager, _SHARE)
    except Missing as error:
        raise NotApplicable(
            f"transformers' own sdpa attention gives other numbers than its eager attention: {error}"
        ) from None
    made = graph.write("sdpa", module, arguments, {}, subject.output_names, subject, arguments)
    if not any(operator.name == OPERATOR for operator in made.graph.operators):
        raise NotApplicable("transformers' code of this model has no sdpa attention: the graph has no such operator")
    runner = graph.runner(program, made)
    for sample, reference in ((subject.samples[0], eager), (subject.samples[0], subject.samples[0].outputs),
                              (subject.samples[1], subject.samples[1].outputs)):  # fmt: skip
        graph.near(f"sdpa on {sample.label}", reference, list(runner.run(sample.arguments).values()), _SHARE)
    variant.program.append(made)
