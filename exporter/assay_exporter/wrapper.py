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


_AROUND: list[Callable[[], contextlib.AbstractContextManager]] = []


@contextlib.contextmanager
def around(make: Callable[[], contextlib.AbstractContextManager]) -> Iterator[None]:
    """Inside, every run of a wrapped model is within what `make` gives: for patches that watch its calls."""
    _AROUND.append(make)
    try:
        yield
    finally:
        _AROUND.remove(make)


def wrap(
    model: torch.nn.Module,
    inputs: list[str],
    constants: dict,
    output_names: list[str],
    also: tuple[str, ...] = (),
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
            with contextlib.ExitStack() as stack:
                for make in _AROUND:
                    stack.enter_context(make())
                output = self.model(**arguments, **constants)
            named = main_outputs(output)
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
