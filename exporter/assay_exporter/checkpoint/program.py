"""The program of a configuration at its full size, made without weights."""

import contextlib
import json
import re
import warnings

import torch
import transformers
from torch._export.serde.schema import SCHEMA_VERSION

from .. import builders, export, patches, tensors, transcribe, weights, wrapper
from ..proto import program_pb2
from . import skeleton
from .architecture import Architecture
from .shapes import Bucket
from .verdict import Refused, Unsupported, one_line

# Those that a model type needs beside broadcast_masks, which every export has; as in the catalogue's entries.
_PATCHES = {
    "dinat": ["dinat"], "flaubert": ["xlm_lengths"], "idefics2": ["idefics_images"],
    "idefics3": ["idefics_images"], "llava": ["placeholders", "joined_features"],
    "llava_next_video": ["placeholders", "joined_features"], "mra": ["mra"], "olmoe": ["olmoe"],
    "qwen2_vl": ["placeholders", "qwen2_vl"], "qwen3_vl": ["placeholders", "qwen3_vl"],
    "recurrent_gemma": ["recurrent_gemma"], "speech_to_text_2": ["speech_to_text_2"],
    "switch_transformers": ["switch_transformers"], "xlm": ["xlm_lengths"], "xmod": ["xmod"],
}  # fmt: skip
_PARAMETRIZED = [
    ("weight_g$", "parametrizations.weight.original0"),
    ("weight_v$", "parametrizations.weight.original1"),
]


def patch_names(arch: Architecture) -> list[str]:
    return ["broadcast_masks", *_PATCHES.get(arch.config.model_type, [])]


@contextlib.contextmanager
def repaired(arch: Architecture):
    """Library code that is broken mended, as eager needs it too (see patches/)."""
    with contextlib.ExitStack() as stack:
        for patch in map(patches.load, patch_names(arch)):
            if patches.repairs(patch):
                stack.enter_context(patch.apply())
        yield


def key_renames(arch: Architecture, names: list[str]) -> list[program_pb2.KeyRename]:
    """The class's own rules for keys of older checkpoints, with ECMAScript's `$1` for Python's `\\1`."""
    mapping = dict(getattr(arch.model_class, "_checkpoint_conversion_mapping", None) or {})
    made = [
        program_pb2.KeyRename(pattern=pattern, replacement=re.sub(r"\\(\d)", r"$\1", replacement))
        for pattern, replacement in mapping.items()
    ]
    for pattern, replacement in _PARAMETRIZED:
        if any(name.endswith(replacement) for name in names):
            made.append(program_pb2.KeyRename(pattern=pattern, replacement=replacement))
    return made


def config_json(config) -> str:
    """The configuration without what differs between folders that hold the same."""
    held = config.to_dict()
    held.pop("_name_or_path", None)
    held.pop("transformers_version", None)
    return json.dumps(builders.stable(held), sort_keys=True)


def _trace(wrapped, bucket: Bucket) -> tuple[torch.export.ExportedProgram, str]:
    """The graph, with a dynamic batch dimension where that works; else a note that says why it does not."""
    arguments = {spec.name: spec.make(weights.SEED) for spec in bucket.inputs}
    dims = {spec.name: spec.batch_dim for spec in bucket.inputs}
    note = ""
    if any(dim is not None for dim in dims.values()):
        try:
            return export.export_module(wrapped, arguments, dims), ""
        except Exception as error:  # constraints that the model's code puts on its batch
            note = f"batch size fixed: {one_line(error, 200)}"
    try:
        for spec in bucket.inputs:
            spec.batch_dim = None
        return export.export_module(wrapped, arguments, dict.fromkeys(dims)), note
    except Exception as error:
        raise Unsupported(f"torch.export cannot export this class: {one_line(error)}") from error


def _size(size) -> int:
    return size if isinstance(size, int) else size.node.hint


def make(arch: Architecture, bucket: Bucket) -> tuple[program_pb2.Program, str]:
    """(program, note). No golden inside. Takes the memory of the buffers and of the largest parameter.

    Wants repaired() to be in force.
    """
    config = arch.config
    builders.configure(config)
    with contextlib.ExitStack() as stack, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        stack.enter_context(torch.no_grad())
        for patch in map(patches.load, patch_names(arch)):
            if not patches.repairs(patch):
                stack.enter_context(patch.apply())
        try:
            model, specs, tied = skeleton.build(arch.model_class, config)
        except Exception as error:
            raise Unsupported(
                f"{arch.name} cannot be built from the configuration: {one_line(error)}"
            ) from error
        skeleton.hollow(model)
        output_names: list[str] = []
        wrapped = wrapper.wrap(model, bucket.names(), bucket.constants, output_names, bucket.also)
        built = builders.Built(model, config, config_json(config), "")
        subject = export.Subject(built, wrapped, bucket.inputs, output_names, [], specs, tied)
        graph, note = _trace(wrapped, bucket)
        try:
            return _write(arch, subject, graph), note
        except (export.ExportError, transcribe.TranscriptionError) as error:
            raise Unsupported(f"the exported graph has no form as a program: {error}") from error


def _write(arch: Architecture, subject: export.Subject, graph) -> program_pb2.Program:
    signature = export.read_signature(graph, subject)
    written = transcribe.transcribe(graph.graph_module, signature.kinds, export.ROOT)
    made = program_pb2.Program(format=export.FORMAT, graph=written.graph, constants=signature.constants)
    specs, symbol = export.input_specs(graph, subject)
    manifest = made.manifest
    manifest.model = arch.config.model_type
    manifest.model_type = arch.config.model_type
    manifest.architecture = arch.name
    manifest.torch_version = torch.__version__.partition("+")[0]
    manifest.transformers_version = f"transformers {transformers.__version__}"
    manifest.config_json = subject.built.config_json
    manifest.export_schema = ".".join(str(part) for part in SCHEMA_VERSION)
    manifest.weights.extend(signature.weights)
    manifest.inputs.extend(specs)
    manifest.mock_seed = weights.SEED
    manifest.tied.extend(subject.tied)
    manifest.base_model_prefix = arch.model_class.base_model_prefix or ""
    manifest.key_rename.extend(key_renames(arch, [spec.name for spec in signature.weights]))
    manifest.patches.extend(export.patch_record(name, None) for name in patch_names(arch))
    results = next(node for node in graph.graph.nodes if node.op == "output").args[0]
    for name, node in zip(subject.output_names, results, strict=True):
        if not isinstance(node, torch.fx.Node):
            raise Refused(f"output {name} is no tensor")
        meta = node.meta["val"]
        spec = manifest.outputs.add(
            name=name, dtype=tensors.scalar_type(meta.dtype), shape=[_size(size) for size in meta.shape]
        )
        dim = export.batch_dim(meta, symbol)
        if dim is not None:
            spec.batch_dim = dim
    return made
