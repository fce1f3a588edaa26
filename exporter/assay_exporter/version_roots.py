"""python -m assay_exporter versions --out DIR --versions 4.57.6 5.0.0 … --names NAME…

Programs of the same models, with the same configurations, in several versions of transformers: DIR/<version>/*.assay,
for `assay gate --bisect DIR/4.57.6 DIR/5.0.0 …`. Environments that are missing are made by exporter/setup.
"""

import argparse
import pathlib
import re
import subprocess
import sys

from . import catalogue, versions

_EXPORTER = pathlib.Path(__file__).resolve().parents[1]


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m assay_exporter versions", description=__doc__)
    parser.add_argument("--out", type=pathlib.Path, required=True, metavar="DIR")
    parser.add_argument("--versions", nargs="+", required=True, metavar="VERSION", help="in order")
    parser.add_argument(
        "--like",
        type=pathlib.Path,
        default=catalogue.PROGRAMS,
        metavar="DIR",
        help="programs whose configurations are taken",
    )
    parser.add_argument("-j", type=int, default=1, metavar="N", help="models at a time")
    parser.add_argument("--names", nargs="+", required=True, metavar="NAME", help="catalogue names")
    arguments = parser.parse_args(argv)
    for version in arguments.versions:
        if not re.fullmatch(r"\d+\.\d+\.\d+", version):
            parser.error(f"'{version}' is no version such as 5.23.0")
    return arguments


def environment(version: str) -> pathlib.Path:
    """The Python that has this version of transformers."""
    folder = ".venv" if version == versions.pinned() else f".venv-{version}"
    return _EXPORTER / folder / "bin" / "python"


def command(argv: list[str]) -> int:
    """0 where every model was exported in every version; else 1. What failed has said so on standard output."""
    options = _arguments(argv)
    failed = []
    for version in options.versions:
        python = environment(version)
        if not python.exists():
            setup = [str(_EXPORTER / "setup")]
            subprocess.run([*setup, "--transformers", version] if version != versions.pinned() else setup, check=True)
        print(f"transformers {version}", flush=True)
        done = subprocess.run(
            [
                str(python), "-m", "assay_exporter", *options.names, "--like", str(options.like.resolve()),
                "--out", str((options.out / version).resolve()), "-j", str(options.j),
            ],
            cwd=_EXPORTER,
            check=False,
        )  # fmt: skip
        if done.returncode != 0:
            failed.append(version)
    if failed:
        print(f"some models failed in {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0
