"""python -m assay_exporter [--all | NAMES…] [--check] [--out DIR] [-j N]
python -m assay_exporter --variants [--all | NAMES…] [--out DIR] [-j N]
python -m assay_exporter variants
python -m assay_exporter reach [NAMES…]
python -m assay_exporter discover --results DIR [NAMES…]
python -m assay_exporter versions --out DIR --versions VERSION… --names NAME…
python -m assay_exporter checkpoint --request request.json --out DIR
python -m assay_exporter identity
"""

import argparse
import json
import multiprocessing
import multiprocessing.connection
import os
import pathlib
import sys
import time
import traceback
import warnings

if sys.argv[1:2] == ["discover"]:  # no configuration may ask a hub; read when transformers is imported
    os.environ["HF_HUB_OFFLINE"] = "1"

import torch
import transformers

from . import builders, catalogue, check, export, reach, variants, versions
from .variants import table


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m assay_exporter", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAMES", help="catalogue names")
    parser.add_argument("--all", action="store_true", help="every entry of the catalogue")
    parser.add_argument(
        "--check", action="store_true", help="write nothing; compare with the programs in --out"
    )
    parser.add_argument(
        "--variants", action="store_true", help="make the variants of the programs in --out anew, and nothing else"
    )
    parser.add_argument("--out", type=pathlib.Path, default=catalogue.PROGRAMS, metavar="DIR")
    parser.add_argument(
        "-j", type=int, default=multiprocessing.cpu_count(), metavar="N", help="models at a time"
    )
    parser.add_argument(
        "--like",
        type=pathlib.Path,
        metavar="DIR",
        help="take the configurations of the programs in DIR, made with another version of the library",
    )
    parser.add_argument("-v", action="store_true", help="show where an export failed")
    arguments = parser.parse_args(argv)
    if bool(arguments.names) == arguments.all:
        parser.error("give either --all or names")
    if arguments.like and not arguments.like.is_dir():
        parser.error(f"--like {arguments.like}: no such folder")
    return arguments


def _work(name: str, options: argparse.Namespace, answer) -> None:
    """In a process of its own: patches and the library's global state end with it."""
    start = time.monotonic()
    try:
        path = options.out / f"{name}.assay"
        if options.variants:
            program = export.add_variants(catalogue.load(name), export.unpack(path.read_bytes()))
            adapted = f" {variants.summary(program)}"
        else:
            program, adapted = versions.export_entry(catalogue.load(name))
        packed = export.pack(program)
        if options.check:
            note = check.compare(path, program)
        else:
            options.out.mkdir(parents=True, exist_ok=True)
            path.write_bytes(packed)
            without = reach.unexplained(reach.reach(program))
            note = f"WARNING: no output depends on {', '.join(without)}" if without else ""
        rounding = max((output.float64_error for output in program.golden.outputs), default=0.0)
        fixed = "" if any(i.HasField("batch_dim") for i in program.manifest.inputs) else "batch fixed: "
        if fixed:
            fixed += catalogue.fixed_batch_reason(catalogue.load(name))
        answer.send(
            (True, f"{len(program.graph.nodes)} nodes, {len(packed) / 1024:.1f} KB, rounding {rounding:.1e}, "
             f"{time.monotonic() - start:.1f} s {fixed}{note}{adapted}")
        )  # fmt: skip
    except Exception as error:  # the report names the model and goes on with the rest
        notes = "".join(f" ({text})" for text in getattr(error, "__notes__", []))
        shown = f"{type(error).__name__}: {str(error)[:600]}{notes}"
        if options.v:
            shown = traceback.format_exc()
        answer.send((False, shown))


def main(argv: list[str]) -> int:
    if argv[:1] == ["checkpoint"]:
        from .checkpoint import command

        return command.checkpoint(argv[1:])
    if argv[:1] == ["variants"]:
        return table.command(argv[1:])
    if argv[:1] == ["versions"]:
        from . import version_roots

        return version_roots.command(argv[1:])
    if argv[:1] == ["reach"]:
        return reach.command(argv[1:])
    if argv[:1] == ["discover"]:
        from .discover import command

        return command.command(argv[1:])
    if argv[:1] == ["identity"]:
        from .checkpoint import command

        print(json.dumps(command.identity()))
        return 0
    options = _arguments(argv)
    names = catalogue.names() if options.all else options.names
    builders.like = options.like
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", category=FutureWarning, module="copyreg")
    transformers.logging.set_verbosity_error()
    # Children are forked from this process: single-threaded, all that an export imports already there.
    export.export_module(torch.nn.Linear(2, 2), {"input": torch.zeros(2, 2)}, {"input": 0})
    context = multiprocessing.get_context("fork")
    waiting, running, failed = list(names), {}, []
    while waiting or running:
        while waiting and len(running) < max(1, options.j):
            name = waiting.pop(0)
            receive, send = context.Pipe(duplex=False)
            process = context.Process(target=_work, args=(name, options, send))
            process.start()
            send.close()
            running[receive] = (name, process)
        for receive in multiprocessing.connection.wait(list(running)):
            name, process = running.pop(receive)
            try:
                ok, text = receive.recv()
            except EOFError:
                ok, text = False, "the exporting process died"
            process.join()
            if not ok:
                failed.append(name)
            print(f"{'ok  ' if ok else 'FAIL'} {name}: {text}", flush=True)
    print(f"{len(names) - len(failed)} of {len(names)} {'agree' if options.check else 'exported'}")
    if failed:
        print("failed: " + " ".join(sorted(failed)), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
