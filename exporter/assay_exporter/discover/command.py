"""python -m assay_exporter discover: every architecture that the installed transformers has, a process each."""

import argparse
import dataclasses
import gc
import json
import math
import multiprocessing
import multiprocessing.connection
import os
import pathlib
import random
import resource
import signal
import time

import torch
import transformers
from google.protobuf import text_format

from .. import catalogue, export
from ..proto import catalogue_pb2
from . import attempt, library, outcome, report

WORDS = catalogue.ROOT / "models" / "discovered"


def words(name: str) -> catalogue_pb2.CatalogueEntry | None:
    """What is said of an architecture beforehand; None: nothing, as of most."""
    path = WORDS / f"{name}.textproto"
    return text_format.Parse(path.read_text(), catalogue_pb2.CatalogueEntry()) if path.exists() else None


def _keep(folder: pathlib.Path, found: outcome.Found, with_words: bool) -> None:
    told = {**dataclasses.asdict(found), "words": with_words}
    path = folder / f"{found.name}.json"
    part = path.with_suffix(".part")
    part.write_text(json.dumps(told, indent=1) + "\n")
    part.replace(path)


def _work(architecture, folder: pathlib.Path, seconds: float, memory: int, wordless: bool) -> None:
    """In a process of its own, whose end is no matter to the others."""
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    used = math.ceil(time.process_time())
    resource.setrlimit(resource.RLIMIT_CPU, (used + math.ceil(1.5 * seconds),) * 2)
    gc.disable()  # the process is short, and tracing makes so many objects that collecting takes a sixth of it
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    entry = None if wordless else words(architecture.name)
    said, entry = entry is not None, entry or catalogue_pb2.CatalogueEntry()
    found, program = attempt.attempt(
        entry, architecture, seconds, on_stage=lambda found: _keep(folder, found, said)
    )
    if program is not None:
        (folder / f"{found.name}.assay").write_bytes(export.pack(program))
        (folder / f"{found.name}.textproto").write_text(text_format.MessageToString(entry))
    _keep(folder, found, said)


def _end(folder: pathlib.Path, name: str, cause: str) -> None:
    """Adds the cause of its end to what a process left."""
    path = folder / f"{name}.json"
    told = json.loads(path.read_text()) if path.exists() else {"name": name, "stage": "class"}
    said = told.pop("words", False)
    found = outcome.Found(**told)
    if found.stage == "done":
        found.stage = "program"
    found.cause = cause
    _keep(folder, found, said)


def _sweep(chosen: list, folder: pathlib.Path, options: argparse.Namespace) -> None:
    context = multiprocessing.get_context("fork")
    waiting, running = list(chosen), {}
    while waiting or running:
        while waiting and len(running) < options.j:
            architecture = waiting.pop(0)
            for suffix in (".json", ".assay", ".textproto"):
                (folder / f"{architecture.name}{suffix}").unlink(missing_ok=True)
            process = context.Process(
                target=_work,
                args=(architecture, folder, options.seconds, options.memory << 30, options.wordless),
            )
            process.start()
            # Processor time is what is bounded; this ends a process that waits for something. A machine that is
            # busy with other work may give it little for long.
            running[process.sentinel] = (architecture.name, process, time.monotonic() + 100 * options.seconds)
        soonest = min(deadline for _, _, deadline in running.values())
        ended = multiprocessing.connection.wait(list(running), timeout=max(0.0, soonest - time.monotonic()))
        late = [
            s for s, (_, _, deadline) in running.items() if s not in ended and time.monotonic() >= deadline
        ]
        for sentinel in [*ended, *late]:
            name, process, _ = running.pop(sentinel)
            if sentinel in late:
                process.kill()
            process.join()
            if sentinel in late or process.exitcode in (-signal.SIGXCPU, -signal.SIGKILL):
                _end(folder, name, f"took longer than {options.seconds:g} s, or too much memory")
            elif process.exitcode:
                _end(folder, name, f"the process ended with {process.exitcode}")
            told = json.loads((folder / f"{name}.json").read_text())
            print(f"{told['stage']:13} {name}: {told['cause'][:150]}", flush=True)


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m assay_exporter discover", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAMES", help="architectures; without names, all of them")
    parser.add_argument(
        "--results", type=pathlib.Path, required=True, metavar="DIR",
        help="what became of each, its entry and its program; what is there is not done again",
    )  # fmt: skip
    parser.add_argument("--main", action="store_true", help="only types that the library has a module for, not parts")
    parser.add_argument(
        "--sample", type=int, metavar="N", help="of what is to be done only N, drawn at random (the same each time)"
    )
    parser.add_argument("--again", action="store_true", help="do what failed again")
    parser.add_argument("--wordless", action="store_true", help="without models/discovered/")
    parser.add_argument("--content", type=pathlib.Path, metavar="DIR",
                        help="afterwards write a content folder for `assay run --content-dir`: what is tracked, and "
                        "everything that was discovered beside it")  # fmt: skip
    parser.add_argument("--table", action="store_true", help="afterwards write docs/discovered.md")
    parser.add_argument(
        "-j",
        type=int,
        default=2,
        metavar="N",
        help="processes at a time; 0: run none, only write what is asked for",
    )
    parser.add_argument(
        "--seconds", type=float, default=60.0, metavar="S", help="processor time for one architecture, about"
    )
    parser.add_argument("--memory", type=int, default=10, metavar="GIB", help="address space of one process")
    return parser.parse_args(argv)


def command(argv: list[str]) -> int:
    options = _arguments(argv)
    known = library.architectures()
    unknown = [name for name in options.names if name not in known]
    if unknown:
        print(f"the installed transformers has no architecture {' '.join(unknown)}")
        return 2
    folder = options.results / f"transformers-{transformers.__version__}"
    folder.mkdir(parents=True, exist_ok=True)
    types = [architecture for architecture in known.values() if not architecture.skipped]
    (folder / report.TYPES).write_text(
        "".join(f"{a.name} {a.module}\n" if a.part else f"{a.name}\n" for a in types)
    )
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    export.export_module(torch.nn.Linear(2, 2), {"input": torch.zeros(2, 2)}, {"input": 0})
    chosen = []
    tracked = set(catalogue.names())
    # What has no entry of its own comes first.
    for name in options.names or sorted(known, key=lambda name: name in tracked):
        path = folder / f"{name}.json"
        if known[name].skipped or (options.main and known[name].part):
            continue
        done = path.exists() and (not options.again or json.loads(path.read_text())["stage"] == "done")
        if not done or options.names:
            chosen.append(known[name])
    if options.sample is not None:
        chosen = random.Random(0).sample(chosen, min(options.sample, len(chosen)))
    if options.j > 0:
        _sweep(chosen, folder, options)
    results = report.read(options.results)
    print(report.summary(results))
    if options.table:
        report.write(results)
    if options.content is not None:
        print(report.content(options.results, results, options.content))
    return 0
