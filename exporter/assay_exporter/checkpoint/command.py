"""python -m assay_exporter checkpoint --request request.json --out DIR; python -m assay_exporter identity

Request and result are described in docs/checkpoints.md. Exit status 0 whenever result.json was written.
"""

import argparse
import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
import sys
import time
import traceback

import torch
import transformers
from google.protobuf import text_format

from .. import export
from ..proto import catalogue_pb2, program_pb2
from . import answers, architecture, compare, decoding, loading, memory, program, questions, record, run, shapes
from .verdict import OutOfMemory, Refused, Unsupported, one_line

PROGRAM, GOLDEN = "program.assay", "golden.assay"
_PACKAGE = pathlib.Path(__file__).resolve().parents[1]
# Not of what is exported: made by other commands, or generated.
_NOT_IDENTITY = {"convert", "assay", "__pycache__"}
_FIELDS = {
    "folder": str, "id": str, "commit": str, "model_class": str, "task": str, "template": str, "entry": str,
    "catalogue": str, "weights_digest": str, "program": str, "want_golden": bool, "max_golden_bytes": int,
    "allow_pickle": bool, "samples": str,
}  # fmt: skip


def identity() -> dict[str, str]:
    """Who made a program or golden: a digest of this package's own code, and the libraries' versions."""
    code = hashlib.sha256()
    for path in sorted(_PACKAGE.rglob("*.py"), key=lambda p: p.relative_to(_PACKAGE).as_posix()):
        relative = path.relative_to(_PACKAGE)
        if relative.parts[0] not in _NOT_IDENTITY and relative.name != "synthetic.py":
            data = path.read_bytes()
            code.update(f"{relative.as_posix()} {len(data)}\n".encode() + data)
    return {
        "exporter": code.hexdigest(),
        "transformers": transformers.__version__,
        "torch": torch.__version__.partition("+")[0],
    }


@dataclasses.dataclass
class Request:
    folder: pathlib.Path
    id: str
    commit: str
    model_class: str
    task: str
    template: str
    entry: catalogue_pb2.CheckpointEntry | None
    catalogue: catalogue_pb2.CatalogueEntry | None
    weights_digest: str
    program: pathlib.Path | None
    want_golden: bool
    max_golden_bytes: int  # of memory, for eager; 0: what there is
    allow_pickle: bool
    samples: pathlib.Path | None

    @staticmethod
    def read(path: pathlib.Path) -> "Request":
        held = json.loads(path.read_text(encoding="utf-8"))
        unknown = held.keys() - _FIELDS.keys()
        if unknown:
            raise Refused(f"request: unknown fields {', '.join(sorted(unknown))}")
        for name, kind in _FIELDS.items():
            value = held.setdefault(name, kind())
            if type(value) is not kind:
                raise Refused(f"request: {name} is a {type(value).__name__}, not a {kind.__name__}")
        if not held["folder"]:
            raise Refused("request: no folder")
        for name, message in (
            ("entry", catalogue_pb2.CheckpointEntry), ("catalogue", catalogue_pb2.CatalogueEntry),
        ):  # fmt: skip
            text = held[name]
            try:
                held[name] = text_format.Parse(pathlib.Path(text).read_text(), message()) if text else None
            except (OSError, text_format.ParseError) as error:
                raise Refused(f"request: {name} {text}: {one_line(error)}") from error
        for name in ("folder", "program", "samples"):
            held[name] = pathlib.Path(held[name]) if held[name] else None
        return Request(**held)


class Work:
    """One request on its way to a result."""

    def __init__(self, request: Request, out: pathlib.Path):
        self.request, self.out = request, out
        self.folder = request.folder
        self.result: dict = {
            "outcome": "FAILED", "message": "", "model_class": "", "model_type": "", "program": "",
            "golden": "",
            "no_golden": "", "weights": "", "memory_bytes": 0, "seconds": {"program": 0.0, "golden": 0.0},
        }  # fmt: skip
        who = identity()
        self.result["exporter"] = (
            f"assay-exporter {who['exporter'][:12]}, transformers {who['transformers']}, torch {who['torch']}"
        )

    def log(self, text: str) -> None:
        print(text, flush=True)

    def save(self) -> None:
        path = self.out / "result.json.part"
        path.write_text(json.dumps(self.result, indent=1))
        os.replace(path, self.out / "result.json")

    def write(self, name: str, data: bytes) -> None:
        (self.out / f"{name}.part").write_bytes(data)
        os.replace(self.out / f"{name}.part", self.out / name)

    def run(self) -> None:
        """Fills `result`; raises Refused (or its kinds) where the outcome is not PASSED."""
        start = time.monotonic()
        arch = architecture.read(
            self.folder, self.request.model_class, self.request.catalogue, self.request.task
        )
        self.result["model_class"], self.result["model_type"] = arch.name, arch.config.model_type
        self.log(f"{arch.name} of {self.request.id or self.folder}")
        with contextlib.ExitStack() as stack:
            stack.enter_context(program.repaired(arch))
            prepared = questions.prepare(
                arch, self.request.entry, self.request.samples, shapes.of(arch).family
            )
            bucket = shapes.of(arch, prepared.own, prepared.longest)
            made, data = self.program(arch, bucket)
            self.result["seconds"]["program"] = time.monotonic() - start
            start = time.monotonic()
            self.result["memory_bytes"] = memory.of_run(made, None)
            folder = self.convert(stack)
            self.golden(arch, bucket, prepared, made, data, folder)
            self.result["seconds"]["golden"] = time.monotonic() - start
        self.result["outcome"] = "PASSED"

    def program(self, arch, bucket: shapes.Bucket) -> tuple[program_pb2.Program, bytes]:
        """The program given, or a new one, which is not written before it was compared with eager."""
        if self.request.program is not None:
            data = self.request.program.read_bytes()
            given = export.unpack(data)
            if given.manifest.architecture != arch.name:
                raise Refused(f"the program given is of {given.manifest.architecture}, not of {arch.name}")
            specs = {spec.name: spec for spec in given.manifest.inputs}
            if list(specs) != bucket.names():
                raise Unsupported(
                    f"the program given takes {', '.join(specs)}, not {', '.join(bucket.names())}"
                )
            for spec in bucket.inputs:
                if tuple(specs[spec.name].shape) != tuple(spec.shape):
                    raise Unsupported(
                        f"the program given takes {spec.name} of {list(specs[spec.name].shape)}, "
                        f"the samples make {list(spec.shape)}"
                    )
                spec.batch_dim = (
                    specs[spec.name].batch_dim if specs[spec.name].HasField("batch_dim") else None
                )
            self.log("program given")
            return given, data
        made, note = program.make(arch, bucket)
        data = export.pack(made)
        self.log(f"program: {len(made.graph.nodes)} nodes, {len(data)} bytes{'; ' + note if note else ''}")
        return made, data

    def convert(self, stack: contextlib.ExitStack) -> pathlib.Path:
        """The folder whose weights are loaded: with pickles converted, where that is allowed."""
        paths = loading.pickles(self.folder)
        if not paths or not self.request.allow_pickle:
            return self.folder
        loading.convert(paths, self.out / loading.CONVERTED)
        self.result["weights"] = loading.CONVERTED
        self.log(f"{', '.join(path.name for path in paths)} converted to {loading.CONVERTED}")
        return stack.enter_context(
            loading.as_folder(self.folder, self.out / loading.CONVERTED, self.out / "folder")
        )

    def load(self, arch, made: program_pb2.Program, folder: pathlib.Path) -> loading.Loaded:
        """The checkpoint's weights, or NoGolden with the reason."""
        if loading.pickles(folder):
            raise loading.NoGolden("the weights are pickled, and no conversion was asked for")
        return loading.load(arch, folder)

    def golden(self, arch, bucket, prepared, made, data: bytes, folder: pathlib.Path) -> None:
        needed, limit = memory.of_eager(made, bool(arch.gguf)), memory.available()
        if self.request.max_golden_bytes:
            limit = min(limit, self.request.max_golden_bytes)
        loaded, why = None, ""
        if needed > limit:
            why = (
                f"eager transformers needs about {needed >> 20} MiB of memory, "
                f"this exporter has {limit >> 20} MiB"
            )
            self.log(f"not compared with eager: {why}")
        else:
            try:
                loaded = self.load(arch, made, folder)
            except loading.NoGolden as error:
                why = str(error)
                self.log(f"no golden: {why}")
                self.compare_seeded(arch, bucket, made)
        if loaded is not None and self.request.program is None:
            self.log(decoding.add(made, bucket, loaded, compare.bind(made, loaded)))
            data = export.pack(made)
        asked = questions.ask(arch, bucket, prepared, loaded.model if loaded else None)
        for note in asked.notes:
            self.log(note)
        kept = record.inputs_only(data, asked.inputs, self.request.weights_digest)
        if loaded is not None:
            why = self.record(arch, bucket, prepared, made, loaded, asked, kept)
        if self.request.program is None:
            self.write(PROGRAM, data)
            self.result["program"] = PROGRAM
        if why or not self.request.want_golden:
            kept = record.inputs_only(data, asked.inputs, self.request.weights_digest)
        self.result["no_golden"] = why or ("" if self.request.want_golden else "none was asked for")
        self.write(GOLDEN, record.pack(kept))
        self.result["golden"] = GOLDEN

    def compare_seeded(self, arch, bucket, made) -> None:
        """The program against eager with mock weights in both."""
        seeded = loading.seeded(arch)
        inputs = questions.by_rule(bucket)
        bound = compare.bind(made, seeded)
        _, worst = compare.with_eager(made, bound, compare.Eager(seeded, bucket), bucket, inputs)
        self.log(f"compared with eager on seeded weights: largest difference {worst:.2g}")

    def record(self, arch, bucket, prepared, made, loaded, asked, kept) -> str:
        """Compares, and fills `kept` with the golden; why there is none, or empty."""
        bound = compare.bind(made, loaded)
        eager = compare.Eager(loaded, bucket)
        outputs, worst = compare.with_eager(made, bound, eager, bucket, asked.inputs)
        self.log(f"compared with eager: largest difference {worst:.2g}")
        try:
            record.check(outputs)
        except loading.NoGolden as error:
            return str(error)
        traced = run.run(made, bound, asked.inputs, trace=True)
        self.result["memory_bytes"] = memory.of_run(made, traced.activations)
        if deaf := compare.deaf_to(made, bound, bucket, asked.inputs, outputs):
            return f"with these weights, input {deaf} moves no output"
        rounded = record.study(made, bound, asked.inputs, outputs)
        for note in rounded.notes:
            self.log(note)
        texts = prepared.texts
        said, left_out = answers.read(
            asked.answers, outputs, rounded.float64_errors, asked.inputs, texts, arch.config
        )
        for line in left_out:
            self.log(line)
        for answer in said:
            self.log(f"{answer.name}: {answer.question!r} → {answer.expected!r}")
        try:
            record.fill(kept, outputs, rounded, traced.trace, said)
        except loading.NoGolden as error:
            return str(error)
        self.log(decoding.fill(kept, made, bucket, loaded, bound, asked, outputs))
        if not kept.weights_digest:
            return "the digest of the weights was not given"
        return ""


def _out_of_memory(error: BaseException) -> bool:
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and "not enough memory" in str(error)
    )


def checkpoint(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m assay_exporter checkpoint")
    parser.add_argument("--request", type=pathlib.Path, required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    options = parser.parse_args(argv)
    options.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    os.environ["TQDM_DISABLE"] = "1"  # a log is no terminal
    try:
        work = Work(Request.read(options.request), options.out)
    except (OSError, ValueError, AttributeError, Refused) as error:
        print(f"request: {one_line(error)}", file=sys.stderr)
        return 2
    try:
        work.run()
    except Refused as error:
        work.result["outcome"], work.result["message"] = error.outcome, str(error)
    except Exception as error:  # the library's own, on a checkpoint that it does not take
        traceback.print_exc()
        outcome = OutOfMemory.outcome if _out_of_memory(error) else Refused.outcome
        work.result["outcome"], work.result["message"] = outcome, one_line(error)
    if work.result["outcome"] != "PASSED":
        print(f"{work.result['outcome']}: {work.result['message']}", flush=True)
    work.save()
    return 0
