"""From a catalogue entry to a program, compared with unpatched eager on the way."""

import contextlib
import copy
import dataclasses
import warnings

import torch
import zstandard
from torch._export.serde.schema import SCHEMA_VERSION
from torch.export.graph_signature import InputKind, OutputKind

from . import (
    builders,
    catalogue,
    golden,
    inputs,
    patches,
    replay,
    rounding,
    tensors,
    transcribe,
    variants,
    weights,
    wrapper,
)
from .proto import catalogue_pb2, program_pb2

FORMAT = 1
ROOT = "model"  # the wrapper's attribute that holds the model
_FRESH = (1, 2)  # seeds of fresh inputs
_OTHER_BATCHES = (1, 3)
# Relative to an output's largest value. Zero is expected; above this a fault is likelier than noise.
_TOLERANCE = 1e-6


class ExportError(ValueError):
    """The export would not be the model."""


class Unmoved(golden.UninformativeGolden):
    """No output depends on an input."""

    def __init__(self, name: str):
        super().__init__(f"a fresh draw of input {name} moves no output")
        self.name = name


@dataclasses.dataclass
class Sample:
    """One set of inputs, and what unpatched eager gives for it."""

    label: str
    arguments: dict[str, torch.Tensor]
    outputs: list[torch.Tensor]


@dataclasses.dataclass
class Subject:
    """A built model with mock weights, its inputs and its reference."""

    built: builders.Built
    wrapped: torch.nn.Module
    inputs: list[inputs.Input]
    output_names: list[str]
    samples: list[Sample]  # the golden's first
    weights: list[program_pb2.WeightSpec]
    tied: list[program_pb2.TiedWeight]
    constants: dict = dataclasses.field(default_factory=dict)  # passed to the model beside its inputs


def agree(what: str, reference: list[torch.Tensor], other: list[torch.Tensor]) -> float:
    """Largest absolute difference; an error above tolerance."""
    if len(reference) != len(other):
        raise ExportError(f"{what}: {len(other)} outputs, expected {len(reference)}")
    worst = 0.0
    for index, (a, b) in enumerate(zip(reference, other, strict=True)):
        found = golden.difference(a, b)
        allowed = _TOLERANCE * float(a.double().abs().max()) if a.numel() else 0.0
        if found > allowed:
            raise ExportError(
                f"{what}: output {index} differs from eager by {found:.3g}, allowed {allowed:.3g}"
            )
        worst = max(worst, found)
    return worst


def check_influence(
    given: list[inputs.Input], arguments: dict[str, torch.Tensor], reference: list[torch.Tensor], run
) -> None:
    """Every input that should matter does: a fresh draw of it alone moves some output."""
    for spec in given:
        if not spec.moves:
            continue
        moved = run(**{**arguments, spec.name: spec.make(_FRESH[0])})
        if not any(
            golden.difference(a, b) > 1e-4 * float(a.abs().max())
            for a, b in zip(reference, moved, strict=True)
        ):
            raise Unmoved(spec.name)


def _draw(given: list[inputs.Input], seed: int, batch: int | None = None) -> dict[str, torch.Tensor]:
    return {spec.name: spec.make(seed, batch) for spec in given}


def prepare(entry: catalogue_pb2.CatalogueEntry) -> Subject:
    """Builds the model, binds mock weights, runs eager on the golden's inputs and on fresh ones.

    Where the numbers would tell nothing and the model has batch norms, once more with running variances that fit
    its signals: in eval mode nothing else would keep them from dying.
    """
    try:
        return _prepare(entry, fit=False)
    except golden.UninformativeGolden as error:
        try:
            return _prepare(entry, fit=True)
        except weights.NothingToFit:
            raise error from None


def _prepare(entry: catalogue_pb2.CatalogueEntry, fit: bool) -> Subject:
    built = builders.build(entry)
    if entry.input_maker not in inputs.MAKERS:
        raise ExportError(f"no input maker '{entry.input_maker}' in inputs.py")
    made = inputs.MAKERS[entry.input_maker](built.config)
    given = [item for item in made if isinstance(item, inputs.Input)]
    constants = {name: value for item in made if isinstance(item, dict) for name, value in item.items()}
    if not any(spec.batch_dim is not None for spec in given) and not catalogue.fixed_batch_reason(entry):
        raise ExportError("the batch dimension is fixed, and the entry gives no reason for it")
    return study(built, *weights.bind_mock(built.model), given, constants, fit)


def study(
    built: builders.Built,
    specs: list[program_pb2.WeightSpec],
    tied: list[program_pb2.TiedWeight],
    given: list[inputs.Input],
    constants: dict,
    fit: bool,
    outputs_of=wrapper.main_outputs,
    signals: list[str] | None = None,
) -> Subject:
    """Runs eager on the golden's inputs and on fresh ones; UninformativeGolden where its numbers tell nothing.

    `signals`: what is found of signals that die or explode inside goes there, and is not refused.
    """
    dynamic = [spec for spec in given if spec.batch_dim is not None]
    output_names: list[str] = []
    wrapped = wrapper.wrap(
        built.model, [spec.name for spec in given], constants, output_names, outputs_of=outputs_of
    )
    if fit:
        weights.fit_norms(built.model, specs, lambda: wrapped(**_draw(given, weights.SEED)))
    watch = golden.SignalWatch(built.model)
    samples = []
    draws = [("golden", weights.SEED, None)] + [(f"fresh inputs {seed}", seed, None) for seed in _FRESH]
    draws += [(f"batch {n}", _FRESH[-1] + n, n) for n in _OTHER_BATCHES] if dynamic else []
    for label, seed, batch in draws:
        arguments = _draw(given, seed, batch)
        # A copy each time, so that state that a model keeps between calls cannot matter.
        outputs = copy.deepcopy(wrapped)(**arguments)
        samples.append(Sample(label, arguments, list(outputs)))
        if label == "golden":
            watch.close()
    try:
        watch.check()
    except golden.UninformativeGolden as error:
        if signals is None:
            raise
        signals.append(str(error))
    for name, tensor in zip(output_names, samples[0].outputs, strict=True):
        golden.check_output(name, tensor)
    check_influence(
        given, samples[0].arguments, samples[0].outputs, lambda **a: list(copy.deepcopy(wrapped)(**a))
    )
    return Subject(built, wrapped, given, output_names, samples, specs, tied, constants)


def export_module(
    module: torch.nn.Module, arguments: dict[str, torch.Tensor], batch_dims: dict[str, int | None]
) -> torch.export.ExportedProgram:
    """The functional graph, one dynamic batch dimension shared by the arguments that have one."""
    batch = torch.export.Dim("batch", min=1, max=1 << 16)
    shapes = {name: {} if dim is None else {dim: batch} for name, dim in batch_dims.items()}
    with torch.no_grad():
        program = torch.export.export(module, (), arguments, dynamic_shapes=shapes, strict=False)
        program = program.run_decompositions({})
    for spec in program.graph_signature.output_specs:
        if spec.kind is not OutputKind.USER_OUTPUT:
            raise ExportError(
                f"the graph changes {spec.target} in place ({spec.kind.name}): state must stay out"
            )
    transcribe.prune(program.graph_module)
    return program


@dataclasses.dataclass
class Signature:
    """The graph's placeholders, sorted out."""

    kinds: dict[str, tuple[int, str]]  # placeholder name -> kind and name, as Graph.inputs has them
    values: list[torch.Tensor | None]  # in placeholder order; None: a user input
    weights: list[program_pb2.WeightSpec]
    constants: list[program_pb2.Tensor]


def read_signature(program: torch.export.ExportedProgram, subject: Subject) -> Signature:
    alias = {tie.alias: tie.weight for tie in subject.tied}
    specs = {spec.name: spec for spec in subject.weights}
    nodes = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    made = Signature({}, [], [], [])
    seen: dict[str, str] = {}
    for spec in program.graph_signature.input_specs:
        placeholder = spec.arg.name
        target = spec.target or ""
        if spec.kind is InputKind.USER_INPUT:
            made.kinds[placeholder] = (program_pb2.GraphInput.USER_INPUT, placeholder)
            made.values.append(None)
            continue
        persistent = spec.kind is InputKind.PARAMETER or (spec.kind is InputKind.BUFFER and spec.persistent)
        if persistent:
            name = target.removeprefix(f"{ROOT}.")
            name = alias.get(name, name)
            made.values.append(program.state_dict[target])
            if name in seen:  # tied: one weight, one input
                nodes[placeholder].replace_all_uses_with(nodes[seen[name]])
                continue
            seen[name] = placeholder
            made.kinds[placeholder] = (program_pb2.GraphInput.WEIGHT, name)
            made.weights.append(specs[name])
        elif spec.kind in (InputKind.BUFFER, InputKind.CONSTANT_TENSOR):
            value = program.constants[target]
            made.values.append(value)
            if nodes[placeholder].users:
                name = target.removeprefix(f"{ROOT}.")
                made.kinds[placeholder] = (program_pb2.GraphInput.CONSTANT, name)
                made.constants.append(tensors.to_proto(name, value))
        else:
            raise ExportError(f"input {placeholder} of the graph is a {spec.kind.name}")
    program.graph_module.recompile()
    missing = [name for name in specs if name not in seen]
    if missing:
        raise ExportError(f"weights that the graph has no input for: {', '.join(missing[:5])}")
    return made


def arguments_of(program, signature: Signature, arguments: dict) -> list[torch.Tensor]:
    """Positional arguments of the graph itself: without the guards that ep.module() would add."""
    return [
        arguments[spec.arg.name] if value is None else value
        for spec, value in zip(program.graph_signature.input_specs, signature.values, strict=True)
    ]


def batch_dim(meta, symbol) -> int | None:
    if symbol is None or not isinstance(meta, torch.Tensor):
        return None
    found = [i for i, size in enumerate(meta.shape) if not isinstance(size, int) and size.node.expr == symbol]
    if len(found) > 1:
        raise ExportError("a tensor has the batch dimension twice")
    if any(not isinstance(size, int) and size.node.expr != symbol for size in meta.shape):
        raise ExportError(
            f"an output's shape {tuple(meta.shape)} is not made of the batch size and constants"
        )
    return found[0] if found else None


def input_specs(program, subject: Subject):
    """InputSpecs, and the symbol of the batch dimension that all of them share (None: fixed)."""
    by_name = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    made, symbols = [], set()
    for spec in subject.inputs:
        shape = list(spec.shape)
        proto = program_pb2.InputSpec(name=spec.name, dtype=tensors.scalar_type(spec.dtype), shape=shape)
        if spec.batch_dim is not None:
            proto.batch_dim = spec.batch_dim
            size = by_name[spec.name].meta["val"].shape[spec.batch_dim]
            symbols.add(size.node.expr if not isinstance(size, int) else size)
        if spec.ids is not None:
            proto.id_low, proto.id_high = spec.ids
        made.append(proto)
    if len(symbols) > 1 or any(isinstance(symbol, int) for symbol in symbols):
        raise ExportError(f"inputs do not share one dynamic batch dimension: {symbols}")
    return made, (symbols.pop() if symbols else None)


def _golden_inputs(subject: Subject) -> list[program_pb2.GoldenInput]:
    """Large floating point inputs by rule, the rest by value."""
    made = []
    for spec in subject.inputs:
        tensor = subject.samples[0].arguments[spec.name]
        if spec.dtype.is_floating_point and tensor.numel() > 64 and spec.place is None:
            made.append(program_pb2.GoldenInput(name=spec.name, rule=spec.rule))
        else:
            made.append(program_pb2.GoldenInput(name=spec.name, data=tensors.data(tensor)))
    return made


def patch_record(name: str, difference: float | None) -> program_pb2.Patch:
    """`difference` is None for a program without weights: those are compared with eager checkpoint by checkpoint."""
    patch = patches.load(name)
    made = program_pb2.Patch(name=name, reason=patch.REASON)
    if patches.repairs(patch):
        made.independent_check = patch.INDEPENDENT_CHECK
    elif difference is not None:
        made.eager_difference = difference
    return made


def export(entry: catalogue_pb2.CatalogueEntry, with_variants: bool = True) -> program_pb2.Program:
    """The program of an entry; ValueError with the reason where it would not be what the model computes."""
    torch.set_num_threads(1)
    if entry.builder == "discovered":
        from .discover import attempt

        return attempt.export(entry)
    with contextlib.ExitStack() as stack, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        stack.enter_context(torch.no_grad())
        found = {name: patches.load(name) for name in entry.patch}
        for patch in found.values():
            if patches.repairs(patch):
                stack.enter_context(patch.apply())
        subject = prepare(entry)
        # One that is made like another version's is for `assay gate`, which runs no variant.
        recorded = variants.record(subject) if with_variants and builders.like is None else None
        differences: dict[str, float | None] = dict.fromkeys(entry.patch)
        for name, patch in found.items():
            if patches.repairs(patch):
                continue
            stack.enter_context(patch.apply())
            differences[name] = max(
                agree(
                    f"patch {name} on {sample.label}",
                    sample.outputs,
                    list(subject.wrapped(**sample.arguments)),
                )
                for sample in subject.samples
            )
        batch_dims = {spec.name: spec.batch_dim for spec in subject.inputs}
        program = export_module(subject.wrapped, subject.samples[0].arguments, batch_dims)
        signature = read_signature(program, subject)
        made = assemble(entry, subject, program, signature, differences)
        prove(made, subject.samples)
        add_rounding(made)
        if recorded is not None:
            variants.add(made, entry, subject, recorded)
        return made


def add_variants(entry: catalogue_pb2.CatalogueEntry, program: program_pb2.Program) -> program_pb2.Program:
    """A program that is there, with its variants made anew; all else stays as it is."""
    torch.set_num_threads(1)
    with contextlib.ExitStack() as stack, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        stack.enter_context(torch.no_grad())
        found = [patches.load(name) for name in entry.patch]
        for patch in found:
            if patches.repairs(patch):
                stack.enter_context(patch.apply())
        subject = prepare(entry)
        if {spec.name: spec for spec in subject.weights} != {s.name: s for s in program.manifest.weights}:
            raise ExportError("the program's weights are not the entry's: export it again")
        outputs = [tensors.from_proto(output.tensor) for output in program.golden.outputs]
        agree("the program's golden", outputs, subject.samples[0].outputs)
        recorded = variants.record(subject)
        for patch in found:
            if not patches.repairs(patch):
                stack.enter_context(patch.apply())
        variants.add(program, entry, subject, recorded)
    return program


def assemble(entry, subject: Subject, program, signature: Signature, differences) -> program_pb2.Program:
    module = program.graph_module
    for sample in subject.samples:
        arguments = arguments_of(program, signature, sample.arguments)
        agree(
            f"exported graph on {sample.label}",
            sample.outputs,
            list(torch.fx.Interpreter(module).run(*arguments)),
        )
    written = transcribe.transcribe(module, signature.kinds, ROOT)

    made = program_pb2.Program(format=FORMAT, graph=written.graph, constants=signature.constants)
    specs, symbol = input_specs(program, subject)
    manifest = made.manifest
    manifest.model = entry.name
    manifest.architecture = entry.model_class
    manifest.torch_version = torch.__version__.partition("+")[0]
    manifest.transformers_version = subject.built.library
    manifest.config_json = subject.built.config_json
    manifest.export_schema = ".".join(str(part) for part in SCHEMA_VERSION)
    manifest.weights.extend(signature.weights)
    manifest.inputs.extend(specs)
    manifest.mock_seed = weights.SEED
    manifest.tied.extend(subject.tied)
    manifest.patches.extend(patch_record(name, differences[name]) for name in entry.patch)

    golden_arguments = arguments_of(program, signature, subject.samples[0].arguments)
    recorder = golden.Recorder(module)
    recorder.run(*golden_arguments)
    doubled = golden.Doubled(module).run(*golden_arguments)
    results = next(node for node in module.graph.nodes if node.op == "output").args[0]
    names = subject.output_names
    for name, tensor, node in zip(names, subject.samples[0].outputs, results, strict=True):
        spec = manifest.outputs.add(
            name=name, dtype=tensors.scalar_type(tensor.dtype), shape=list(tensor.shape)
        )
        dim = batch_dim(node.meta["val"], symbol)
        if dim is not None:
            spec.batch_dim = dim
    made.golden.inputs.extend(_golden_inputs(subject))
    made.golden.outputs.extend(golden.outputs(names, subject.samples[0].outputs, list(doubled)))
    made.golden.trace.extend(golden.trace(written.nodes, recorder.results))
    made.golden.cpu_capability = golden.cpu_capability()
    return made


def prove(program: program_pb2.Program, samples: list[Sample]) -> None:
    """The written program, read back and run from its own mock rules, gives what eager gives."""
    runner = replay.Runner(unpack(pack(program)))
    for name, tensor in runner.golden_inputs().items():
        if not torch.equal(tensor, samples[0].arguments[name]):
            raise ExportError(f"the written golden input {name} is not the one that was run")
    for sample in samples:
        agree(
            f"written program on {sample.label}", sample.outputs, list(runner.run(sample.arguments).values())
        )


def add_rounding(program: program_pb2.Program) -> None:
    """What error is legitimate in each output, from the program as it is written."""
    runner = replay.Runner(program)
    outputs = {output.tensor.name: tensors.from_proto(output.tensor) for output in program.golden.outputs}
    rounding.add(program, runner.weights, runner.golden_inputs(), program.golden, outputs)


def pack(program: program_pb2.Program) -> bytes:
    """The file's bytes: the same for the same program."""
    packer = zstandard.ZstdCompressor(level=19, write_checksum=True, write_content_size=True)
    return packer.compress(program.SerializeToString(deterministic=True))


def unpack(data: bytes) -> program_pb2.Program:
    return program_pb2.Program.FromString(zstandard.ZstdDecompressor().decompress(data))
