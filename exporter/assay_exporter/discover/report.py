"""What a sweep found: counts, the table of docs/discovered.md, and a content folder to run the programs from."""

import collections
import json
import pathlib
import re
import shutil

from google.protobuf import text_format

from .. import catalogue, export, versions
from ..proto import catalogue_pb2
from . import outcome

TABLE = catalogue.ROOT / "docs" / "discovered.md"

# In the folder of a version's results: its types, one a line; behind the name of a part stands what it is part of.
TYPES = "types.txt"
NOT_RUN = "not run"  # the stage of a type without a result

Results = dict[str, dict[str, dict]]  # by version of transformers, oldest first, and by name

# What a failure is counted as: (pattern on its cause, words).
_CAUSES = [
    (r"auto mappings have no class", "no class of a model in the library's auto mappings"),
    (r"missing package|requires the|No module named", "wants a package that is not installed"),
    (r"million parameters", "does not get small"),
    (r"longer than|process ended with", "time or memory"),
    (r"differ from input to input|data-dependent|unbacked|DataDependent|u0|depends on the data",
     "Python or a shape depends on the data"),
    (r"draws at random", "draws at random"),
    (r"text alone runs", "only its text alone runs"),
    (r"moves no output", "an input moves no output"),
    (r"signals leave", "signals die or explode with mock weights"),
    (r"NaN or infinite|is constant|is complex|of floating point", "outputs that tell nothing"),
    (r"differs from eager|differs by", "differs from eager"),
    (r"main outputs", "no output that is known"),
]  # fmt: skip
_AT_STAGE = {
    "configuration": "its configuration cannot be made small", "build": "the small configuration does not build",
    "eager": "no inputs were found with which it runs", "informative": "fresh inputs or a copy do not run",
    "export": "the tracer refuses it", "equal": "the graph cannot be written as a program",
}  # fmt: skip


def read(folder: pathlib.Path) -> Results:
    """The results of every version that was run."""

    def number(path: pathlib.Path) -> tuple[int, ...]:
        return tuple(int(part) for part in re.findall(r"\d+", path.name))

    def result(path: pathlib.Path) -> dict:
        told = json.loads(path.read_text())
        # What was being done when a sweep was stopped has neither a program nor a cause.
        return told if told["stage"] == "done" or told["cause"] else {"stage": NOT_RUN}

    return {
        version.name.removeprefix("transformers-"): {
            name: (result(path) if (path := version / f"{name}.json").exists() else {"stage": NOT_RUN})
            | {"part": " ".join(part)}
            for name, *part in map(str.split, (version / TYPES).read_text().splitlines())
        }
        for version in sorted(folder.glob("transformers-*"), key=number)
    }


def kind_of_cause(result: dict) -> str:
    for pattern, words in _CAUSES:
        if re.search(pattern, result["cause"]):
            return words
    return _AT_STAGE.get(result["stage"], "another cause")


def _done(result: dict | None) -> bool:
    return result is not None and result["stage"] == "done"


def _run(result: dict | None) -> bool:
    return result is not None and result["stage"] != NOT_RUN


def _main(results: dict[str, dict]) -> dict[str, dict]:
    """Those of the types that the library has a module for; the others are parts of such a one."""
    return {name: result for name, result in results.items() if not result.get("part")}


def _tally(results: dict[str, dict]) -> tuple[int, int, int]:
    """How many were run, are equal, and are equal without a word."""
    equal = [r for r in results.values() if _done(r)]
    return sum(map(_run, results.values())), len(equal), sum(not r["words"] for r in equal)


def _tracked(name: str) -> bool:
    return (catalogue.CATALOGUE / f"{name}.textproto").exists()


def summary(results: Results) -> str:
    lines = []
    for version, found in results.items():
        ran, equal, wordless = _tally(found)
        main = _main(found)
        lines.append(
            f"transformers {version}: {len(found)} types, {ran} run, {equal} equal to eager, {wordless} of them "
            f"without a word; of {len(main)} main types {_tally(main)[0]} run, {_tally(main)[1]} equal"
        )
    return "\n".join(lines)


def program_from(results: Results, name: str) -> str:
    """The newest version with a program of the architecture; empty: none."""
    return next((v for v in reversed(results) if _done(results[v].get(name))), "")


def _cell(text: str) -> str:
    return re.sub(r"'?https?://\S*", "…", text).replace("|", "\\|")


def _line(results: Results, name: str) -> str:
    version = program_from(results, name)
    tracked = "yes" if _tracked(name) else ""
    ran = [found[name] for found in results.values() if _run(found.get(name))]
    if not ran:
        return f"| {name} |  | {tracked} | — | {NOT_RUN} |"
    newest = ran[-1]
    if version:
        result = results[version][name]
        notes = [", ".join(result["inputs"]) + " → " + ", ".join(result["outputs"][:3])]
        notes += [f"{len(result['outputs'])} outputs"] if len(result["outputs"]) > 3 else []
        notes += [" and ".join(result["patches"])] if result["patches"] else []
        notes += ["one batch size"] if result["fixed_batch"] else []
        notes += ["dead or huge signals inside"] if result.get("signals") else []
        notes += ["with words"] if result["words"] else []
        for other, found in results.items():
            if other != version and _run(found.get(name)) and not _done(found[name]):
                notes.append(f"not from {other}: {kind_of_cause(found[name])}")
        told = "; ".join(notes)
    else:
        where = f" ({newest['where']})" if newest["where"] else ""
        told = f"{newest['stage']}: {newest['cause'][:200]}{where}"
    model_class = newest["model_class"].rpartition(".")[2]
    return f"| {name} | {model_class} | {tracked} | {version or '—'} | {_cell(told)} |"


def table(results: Results) -> str:
    names = sorted({name for found in results.values() for name in found})
    lines = [
        "# Every architecture of the library",
        "",
        "Written by `python -m assay_exporter discover --table`: what became of each model type of transformers, its",
        "main class built small and exported with no word about it. *Equal* means: the program, read back from its",
        "file, gives what unpatched eager gives on the golden's inputs and on fresh ones of other seeds (and, where the",
        "batch is dynamic, of other batch sizes), within 1e-6 of an output's largest value; every output is finite and",
        "none constant; and a fresh draw of each input alone (ids, pictures, sounds, masks that the model heeds) moves",
        "eager's and the program's outputs. No shape depends on the data, and nothing draws at random.",
        "",
        "| transformers | types | run | equal | without a word | main types | run | equal | "
        + " | ".join(f"stopped at {s}" for s in outcome.STAGES[:-1]) + " |",
        "|---" * (8 + len(outcome.STAGES) - 1) + "|",
    ]  # fmt: skip
    for version, found in results.items():
        tried, equal, wordless = _tally(found)
        at = collections.Counter(r["stage"] for r in found.values())
        stopped = " | ".join(str(at[stage]) for stage in outcome.STAGES[:-1])
        main = _main(found)
        of_main = f"{len(main)} | {_tally(main)[0]} | {_tally(main)[1]}"
        lines.append(f"| {version} | {len(found)} | {tried} | {equal} | {wordless} | {of_main} | {stopped} |")
    lines += [
        "",
        "Stages: " + ", ".join(outcome.STAGES) + ". A type is a *main* one where the library has a module of its name; the",
        "others (towers, encoders, codecs) are parts in the module of another. Types that only hold two other models, and",
        "second names of a type, are left out. What was *not run* is neither equal nor a failure.",
        "",
    ]
    if (version := versions.pinned()) in results:  # whose programs those of models/ are
        found = results[version]
        both = sum(_done(result) or _tracked(name) for name, result in found.items())
        lines.append(
            f"Of the {len(found)} types of transformers {version}, {both} have a program: tracked, with an entry of "
            f"their own in `models/catalogue` ({sum(map(_tracked, found))}), or discovered."
        )
    lines += ["", "## Why the others have no program", ""]
    for version, found in results.items():
        groups = collections.defaultdict(list)
        for name, result in found.items():
            if _run(result) and not _done(result):
                groups[kind_of_cause(result)].append(name)
        if groups:
            lines += [f"transformers {version}:", "", "| cause | types | which |", "|---|---|---|"]
            for cause, members in sorted(groups.items(), key=lambda group: (-len(group[1]), group[0])):
                lines.append(f"| {cause} | {len(members)} | {', '.join(sorted(members))} |")
            lines.append("")
    lines += [
        "## One by one",
        "",
        "*Program from* is the newest version of transformers that gives a program. Tracked models have programs and",
        "words of their own in `models/`, whatever stands here.",
        "",
        "| type | class | tracked | program from | inputs → outputs; or the stage and the cause |",
        "|---|---|---|---|---|",
        *(_line(results, name) for name in names),
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def write(results: Results) -> None:
    TABLE.write_text(table(results))
    print(f"wrote {TABLE.name}")


def _with_rounding(path: pathlib.Path) -> bytes:
    """The program's bytes with its legitimate errors, which take long and are made when they are first wanted."""
    program = export.unpack(path.read_bytes())
    if not any(output.legitimate for output in program.golden.outputs):
        export.add_rounding(program)
        path.write_bytes(export.pack(program))
    return path.read_bytes()


def content(source: pathlib.Path, results: Results, target: pathlib.Path) -> str:
    """A content folder for `assay run --content-dir`: what is tracked, and beside it, untracked, what was discovered.

    Its models/batches/discovered.json names the latter. One line in its models/registry.json tracks one of them.
    """
    if target.exists() and any(target.iterdir()) and not (target / "templates").is_dir():
        raise ValueError(f"{target} is no content folder, and is not empty")
    shutil.copytree(catalogue.ROOT / "templates", target / "templates", dirs_exist_ok=True)
    shutil.copytree(catalogue.ROOT / "models", target / "models", dirs_exist_ok=True)
    groups: dict[str, list[dict]] = {}
    known = set(catalogue.names())
    for name in sorted({name for found in results.values() for name in found}):
        version = program_from(results, name)
        if not version or name in known:
            continue
        folder = source / f"transformers-{version}"
        entry = text_format.Parse((folder / f"{name}.textproto").read_text(), catalogue_pb2.CatalogueEntry())
        (target / "models" / "programs" / f"{name}.assay").write_bytes(
            _with_rounding(folder / f"{name}.assay")
        )
        (target / "models" / "catalogue" / f"{name}.textproto").write_text(text_format.MessageToString(entry))
        groups.setdefault(entry.arch_type, []).append(
            {"name": name, "template": entry.template, "task": entry.task}
        )
    batch = target / "models" / "batches" / "discovered.json"
    batch.write_text(json.dumps(groups, indent=2) + "\n")
    return f"wrote {sum(map(len, groups.values()))} untracked models to {target}, named in {batch}"
