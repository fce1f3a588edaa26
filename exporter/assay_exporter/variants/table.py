"""python -m assay_exporter variants: which model has which variant, written into docs/variants.md."""

import argparse
import pathlib
from collections import Counter

from .. import catalogue
from ..proto import program_pb2
from . import state

NAMES = ("sdpa", "kv_cache", "generate", "dynamic_shapes")
_START = "## What there is"
_WORDS = {"yes": "yes", "batch": "in part", "n/a": "–", "missing": "**missing**", "": "**not exported**"}


def _row(cells) -> str:
    return "| " + " | ".join(cells) + " |"


def render(programs: dict[str, program_pb2.Program]) -> str:
    found = {name: {one.name: one for one in program.variant} for name, program in programs.items()}
    states = {name: {v: state(one[v]) if v in one else "" for v in NAMES} for name, one in found.items()}
    lines = [_START, "Written by `python -m assay_exporter variants`.", ""]
    lines += [_row(["variant", "there", "in part", "missing", "not applicable"]), "|---|---|---|---|---|"]
    for v in NAMES:
        count = Counter(one[v] for one in states.values())
        lines.append(
            _row([f"`{v}`", *(str(count[word]) for word in ("yes", "batch")), str(count["missing"] + count[""]),
                  str(count["n/a"])])
        )  # fmt: skip
    lines += ["", _row(["model", *NAMES]), "|---" * (1 + len(NAMES)) + "|"]
    lines += [_row([name, *(_WORDS[states[name][v]] for v in NAMES)]) for name in sorted(states)]
    for title, words in (("Missing, and in part", ("missing", "batch")), ("Not applicable", ("n/a",))):
        causes: dict[tuple[str, str], list[str]] = {}
        for name in sorted(states):
            for v in NAMES:
                if states[name][v] in words:
                    one = found[name][v]
                    causes.setdefault((v, one.missing or one.partial or one.not_applicable), []).append(name)
        lines += ["", f"### {title}"]
        for (v, cause), names in sorted(causes.items()):
            lines.append(f"- `{v}` of {', '.join(names)}: {cause.replace('|', '/')}")
    caches = {name: one["kv_cache"] for name, one in found.items() if "kv_cache" in one}
    lines += ["", "### Rows padded on the left", *_padded(caches)]
    return "\n".join(lines) + "\n"


def _padded(caches: dict[str, program_pb2.Variant]) -> list[str]:
    """Of the programs with a cache: which ones are tried with such rows, and why the others are not."""
    there = {name: one for name, one in sorted(caches.items()) if one.program}
    with_rows = [name for name, one in there.items() if one.HasField("left_padded")]
    lines = [f"{len(with_rows)} of {len(there)}: {', '.join(with_rows)}."]
    causes: dict[str, list[str]] = {}
    for name, one in there.items():
        if name not in with_rows:
            causes.setdefault(one.no_left_padding or "exported before they were tried", []).append(name)
    for cause, names in sorted(causes.items()):
        lines.append(f"- not of {', '.join(names)}: {cause.replace('|', '/')}")
    return lines


def command(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m assay_exporter variants", description=__doc__)
    parser.add_argument("--out", type=pathlib.Path, default=catalogue.PROGRAMS, metavar="DIR")
    folder = parser.parse_args(argv).out
    programs = {}
    for path in sorted(folder.glob("*.assay")):
        from .. import export

        programs[path.stem] = export.unpack(path.read_bytes())
    page = catalogue.ROOT / "docs" / "variants.md"
    text = page.read_text().partition(_START)[0].rstrip() + "\n\n"
    page.write_text(text + render(programs))
    return 0
