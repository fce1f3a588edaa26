"""A program against eager transformers on the same weights, before anything is written."""

import torch

from .. import golden, wrapper
from ..proto import program_pb2
from . import run, shapes
from .loading import Loaded
from .verdict import Refused

# Relative to an output's largest value. Zero is expected of the same operators on the same weights; patched
# ones (dense experts) add in another order.
TOLERANCE = 1e-5
# Models larger than this are compared on fewer inputs.
_LARGE = 2 << 30


class Eager:
    """A loaded model behind the program's signature."""

    def __init__(self, loaded: Loaded, bucket: shapes.Bucket):
        self.output_names: list[str] = []
        self._wrapped = wrapper.wrap(
            loaded.model, bucket.names(), bucket.constants, self.output_names, bucket.also
        )

    @torch.no_grad()
    def __call__(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        outputs = self._wrapped(**inputs)
        return dict(zip(self.output_names, outputs, strict=True))


def _agree(what: str, eager: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    if list(eager) != list(other):
        raise Refused(f"{what}: the program gives {', '.join(other)}, eager gives {', '.join(eager)}")
    worst = 0.0
    for name, reference in eager.items():
        found = golden.difference(reference, other[name])
        finite = reference.double().nan_to_num(0.0, 0.0, 0.0)
        allowed = TOLERANCE * float(finite.abs().max()) if reference.numel() else 0.0
        if found > allowed:
            raise Refused(
                f"the exported program is not the model: on {what} output {name} differs from eager by "
                f"{found:.3g}, allowed {allowed:.3g}"
            )
        worst = max(worst, found)
    return worst


def bind(program: program_pb2.Program, loaded: Loaded) -> dict[str, torch.Tensor]:
    """The loaded weights by WeightSpec.name, with the manifest's shapes, dtypes and requires_grad."""
    bound = {}
    for spec in program.manifest.weights:
        tensor = loaded.weights.get(spec.name)
        if tensor is None:
            raise Refused(f"the loaded model has no weight {spec.name}")
        if list(tensor.shape) != list(spec.shape):
            raise Refused(
                f"{spec.name}: {list(tensor.shape)} in the loaded model, {list(spec.shape)} in the program"
            )
        bound[spec.name] = tensor.detach().requires_grad_(spec.requires_grad)
    return bound


def _fresh(bucket: shapes.Bucket, seed: int, batch: int | None, masked: bool) -> dict[str, torch.Tensor]:
    made = {spec.name: spec.make(seed, batch) for spec in bucket.inputs}
    for spec in bucket.inputs:
        if masked and spec.name.endswith("attention_mask") and spec.batch_dim == 0:
            made[spec.name] = shapes.random_mask(spec, seed)
    return made


def with_eager(
    program: program_pb2.Program,
    weights: dict[str, torch.Tensor],
    eager: Eager,
    bucket: shapes.Bucket,
    inputs: dict[str, torch.Tensor],
) -> tuple[dict[str, torch.Tensor], float]:
    """(eager's outputs on `inputs`, largest difference met). Refused where the program is not the model.

    Runs `inputs`, fresh ones, and other batch sizes where the batch is dynamic.
    """
    outputs = {name: tensor.clone() for name, tensor in eager(inputs).items()}
    worst = _agree("the golden's inputs", outputs, run.run(program, weights, inputs).outputs)
    size = sum(tensor.nbytes for tensor in weights.values())
    draws = [("fresh inputs", 1, None, True)]
    if any(spec.batch_dim is not None for spec in bucket.inputs):
        draws.append(("a batch of 1", 2, 1, False))
        if size < _LARGE:
            draws.append((f"a batch of {bucket.rows + 1}", 3, bucket.rows + 1, False))
    for what, seed, batch, masked in draws:
        given = _fresh(bucket, seed, batch, masked)
        worst = max(worst, _agree(what, eager(given), run.run(program, weights, given).outputs))
    return outputs, worst


def deaf_to(
    program: program_pb2.Program,
    weights: dict[str, torch.Tensor],
    bucket: shapes.Bucket,
    inputs: dict[str, torch.Tensor],
    outputs: dict[str, torch.Tensor],
) -> str:
    """The first input of which a fresh draw alone moves no output; empty: every one matters."""
    for spec in bucket.inputs:
        if not spec.moves:
            continue
        moved = run.run(program, weights, {**inputs, spec.name: spec.make(1)}).outputs
        if not any(
            golden.difference(outputs[name], moved[name]) > 1e-4 * float(outputs[name].abs().max())
            for name in outputs
        ):
            return spec.name
    return ""
