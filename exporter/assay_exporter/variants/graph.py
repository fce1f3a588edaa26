"""A module as a VariantProgram: exported, written down, and run back from what was written."""

import contextlib

import torch
from torch.export import Dim

from .. import golden, replay, tensors, transcribe
from ..proto import program_pb2


class NotApplicable(ValueError):
    """The architecture has no such variant."""


class Missing(ValueError):
    """The architecture has it, and it could not be exported."""


def one_line(error: Exception, most: int = 300) -> str:
    # What torch.fx adds to an error says where on this machine its source lies.
    text = " ".join(str(error).partition("While executing %")[0].split()) or type(error).__name__
    text = "".join(c if c.isprintable() else "?" for c in text)
    return text if len(text) <= most else f"{text[: most - 1]}…"


def near(what: str, expected: list[torch.Tensor], found: list[torch.Tensor], share: float) -> None:
    """Missing where an output lies further from what it should be than `share` of its largest number."""
    if len(expected) != len(found):
        raise Missing(f"{what}: {len(found)} outputs, expected {len(expected)}")
    for index, (a, b) in enumerate(zip(expected, found, strict=True)):
        error = golden.difference(a, b)
        allowed = share * float(a.double().abs().max()) if a.numel() else 0.0
        if not error <= allowed:
            raise Missing(f"{what}: output {index} differs by {error:.3g}, allowed {allowed:.3g}")


@contextlib.contextmanager
def unchanged(model: torch.nn.Module):
    """Afterwards every module holds what it held: a trace that fails halfway leaves its own tensors in some."""
    before = {name: dict(vars(module)) for name, module in model.named_modules()}
    try:
        yield
    finally:
        for name, module in model.named_modules():
            vars(module).clear()
            vars(module).update(before[name])


def with_signature(module: torch.nn.Module, names: list[str]) -> torch.nn.Module:
    """torch.export wants named arguments: a forward that hands them to `module.run` as one dict."""
    namespace: dict = {}
    given = ", ".join(f"'{name}': {name}" for name in names)
    exec(f"def forward(self, {', '.join(names)}):\n    return self.run({{{given}}})\n", namespace)
    type(module).forward = namespace["forward"]
    return module.eval()


def _fixed(size) -> int | None:
    """What a dimension must be; None: it is free, as far as torch.export tells."""
    if isinstance(size, int):
        return size
    known = size.node.shape_env.replace(size.node.expr)
    return int(known) if known.is_number else None


def write(
    name: str,
    module: torch.nn.Module,
    arguments: dict[str, torch.Tensor],
    dynamic: dict[str, list[int]],
    output_names: list[str],
    subject,
    traced: dict[str, torch.Tensor] | None = None,
) -> program_pb2.VariantProgram:
    """`module` has the model as its attribute `model`. Dimensions in `dynamic` must really be free in the graph.

    `traced`: the inputs of the run whose values are recorded.
    """
    from .. import export

    free = {key: {dim: Dim.AUTO for dim in dynamic.get(key, [])} for key in arguments}
    with torch.no_grad():
        exported = torch.export.export(module, (), arguments, dynamic_shapes=free, strict=False)
        exported = exported.run_decompositions({})
    for spec in exported.graph_signature.output_specs:
        if spec.kind is not torch.export.graph_signature.OutputKind.USER_OUTPUT:
            raise Missing(f"{name}: the graph changes {spec.target} in place ({spec.kind.name})")
    transcribe.prune(exported.graph_module)
    placeholders = {node.name: node for node in exported.graph.nodes if node.op == "placeholder"}
    made = program_pb2.VariantProgram(name=name)
    for key, value in arguments.items():
        spec = made.inputs.add(name=key, dtype=tensors.scalar_type(value.dtype), shape=list(value.shape))
        meta = placeholders[key].meta["val"]
        for dim in dynamic.get(key, []):
            if (size := _fixed(meta.shape[dim])) is not None:
                raise Missing(f"{name}: the graph takes dimension {dim} of {key} as {size} only")
            spec.dynamic_dim.append(dim)
    signature = export.read_signature(exported, subject)
    if {spec.name for spec in signature.weights} != {spec.name for spec in subject.weights}:
        raise Missing(f"{name}: its weights are not the main program's")
    results = next(node for node in exported.graph.nodes if node.op == "output").args[0]
    for key, node in zip(output_names, results, strict=True):
        if not isinstance(node, torch.fx.Node):
            raise Missing(f"{name}: output {key} is the constant {node}")
        value = node.meta["val"]
        made.outputs.add(
            name=key,
            dtype=tensors.scalar_type(value.dtype),
            shape=[int(size) if isinstance(size, int) else size.node.hint for size in value.shape],
        )
    made.constants.extend(signature.constants)
    written = transcribe.transcribe(exported.graph_module, signature.kinds, export.ROOT)
    made.graph.CopyFrom(written.graph)
    if traced is not None:
        recorder = golden.Recorder(exported.graph_module)
        recorder.run(*export.arguments_of(exported, signature, traced))
        made.trace.extend(golden.trace(written.nodes, recorder.results))
    return made


def whole(main: program_pb2.Program, part: program_pb2.VariantProgram) -> program_pb2.Program:
    """The program that a reader makes of it: the main manifest with the part's inputs and outputs."""
    made = program_pb2.Program(format=main.format, graph=part.graph, constants=part.constants)
    made.manifest.CopyFrom(main.manifest)
    del made.manifest.inputs[:], made.manifest.outputs[:]
    made.manifest.inputs.extend(part.inputs)
    made.manifest.outputs.extend(part.outputs)
    return made


def runner(main: program_pb2.Program, part: program_pb2.VariantProgram) -> replay.Runner:
    return replay.Runner(program_pb2.Program.FromString(whole(main, part).SerializeToString()))
