"""A model behind an explicit signature: named inputs in, named main outputs out."""

import contextlib
from collections.abc import Callable, Iterator

import torch

# What a model is run for, the first that is there; losses, hidden states and caches are left out.
_OUTPUTS = [
    ("logits", "pred_boxes"),
    ("class_queries_logits", "masks_queries_logits"),
    ("logits", "entity_logits"),
    ("logits",),
    ("logits_per_image", "logits_per_text"),
    ("logits_per_video", "logits_per_text"),
    ("logits_per_audio", "logits_per_text"),
    ("start_logits", "end_logits"),
    ("predicted_depth",),
    ("feature_maps",),
    ("multimodal_embeddings", "image_embeddings", "text_embeddings"),
    ("waveform",),
    ("state_preds", "action_preds", "return_preds"),
    ("prediction_outputs",),
    ("params",),
    ("last_hidden_state",),
    ("prediction_logits", "seq_relationship_logits"),
    ("image_embeds",),
    ("text_embeds",),
    ("reconstruction",),
    ("embeddings",),
    ("pooler_output",),
]


def main_outputs(output) -> dict[str, torch.Tensor]:
    """The main outputs of a ModelOutput (or a dict of tensors) by name."""
    for names in _OUTPUTS:
        if all(output.get(name) is not None for name in names):
            found: dict[str, torch.Tensor] = {}
            for name in names:
                value = output[name]
                if isinstance(value, torch.Tensor):
                    found[name] = value
                else:
                    found.update({f"{name}.{i}": tensor for i, tensor in enumerate(value)})
            return found
    raise ValueError(f"none of the main outputs is among {list(output.keys())}")


# What a run keeps for the next one, or shows of its inside; the main outputs are made of it.
_INSIDE = {
    "loss", "losses", "past_key_values", "hidden_states", "attentions", "cross_attentions", "decoder_hidden_states",
    "decoder_attentions", "encoder_hidden_states", "encoder_attentions", "encoder_last_hidden_state", "loss_dict",
    "auxiliary_outputs", "cache_params", "state", "router_logits", "aux_loss", "rope_deltas", "mems",
}  # fmt: skip


def any_outputs(output) -> dict[str, torch.Tensor]:
    """The main outputs where the model has any of those; else every tensor that it gives but its inside."""

    def tensors(name: str, value) -> dict[str, torch.Tensor]:
        if isinstance(value, torch.Tensor):
            return {name: value}
        if hasattr(value, "keys"):
            value = {key: value[key] for key in value}
            return {k: v for key, part in value.items() for k, v in tensors(f"{name}.{key}", part).items()}
        if isinstance(value, (list, tuple)):
            return {k: v for i, part in enumerate(value) for k, v in tensors(f"{name}.{i}", part).items()}
        return {}

    if not hasattr(output, "keys"):
        return tensors("output", output)
    try:
        return main_outputs(output)
    except ValueError:
        named = {key: output[key] for key in output.keys() if key not in _INSIDE}  # noqa: SIM118
        found = {k: v for key, value in named.items() for k, v in tensors(key, value).items()}
        if not found:
            raise
        return found


_AROUND: list[Callable[[], contextlib.AbstractContextManager]] = []


@contextlib.contextmanager
def around(make: Callable[[], contextlib.AbstractContextManager]) -> Iterator[None]:
    """Inside, every run of a wrapped model is within what `make` gives: for patches that watch its calls."""
    _AROUND.append(make)
    try:
        yield
    finally:
        _AROUND.remove(make)


@contextlib.contextmanager
def surrounded() -> Iterator[None]:
    """Within all that `around` was given: for whoever runs a model otherwise than by `wrap`."""
    with contextlib.ExitStack() as stack:
        for make in _AROUND:
            stack.enter_context(make())
        yield


def wrap(
    model: torch.nn.Module,
    inputs: list[str],
    constants: dict,
    output_names: list[str],
    also: tuple[str, ...] = (),
    outputs_of: Callable = main_outputs,
) -> torch.nn.Module:
    """A module whose forward takes `inputs` by name (torch.export wants them explicit) and gives a tuple.

    Every run writes the outputs' names to `output_names`. `constants` are passed as they are. `also` names
    outputs that are given beside the main ones where the model has them.
    """

    class Wrapped(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def run(self, arguments: dict):
            with surrounded():
                output = self.model(**arguments, **constants)
            named = outputs_of(output)
            named |= {name: output[name] for name in also if output.get(name) is not None}
            output_names[:] = named
            return tuple(named.values())

    # dynamic shapes and **kwargs do not mix in torch.export, so forward is written out.
    namespace: dict = {}
    arguments = ", ".join(inputs)
    given = ", ".join(f"'{name}': {name}" for name in inputs)
    exec(f"def forward(self, {arguments}):\n    return self.run({{{given}}})\n", namespace)
    Wrapped.forward = namespace["forward"]
    return Wrapped().eval()
