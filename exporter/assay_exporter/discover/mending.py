"""What an error of a small configuration says of its fields: two sizes that must agree, or a field that is missing.

A small configuration is made field by field, so that fields that must agree may come to differ, and a field that
the library leaves to checkpoints may be missed. The error that follows names the two numbers or the field, or stands
at the line that reads it. Each field that may be meant is changed in turn, and what gets the model further is kept.
Nothing here knows a model; whether a change is right is found by running it.
"""

import dataclasses
import inspect
import linecache
import re
import traceback
from collections.abc import Callable, Iterator
from typing import Any

from transformers import PretrainedConfig

from . import library, shrinking

MOST_TRIES = 48  # of one small configuration
_MOST_EDITS = 4  # made together
_NUMBER = r"(\d+)"
_DISAGREE = [
    re.compile(pattern)
    for pattern in (
        rf"shapes cannot be multiplied \(\d+x{_NUMBER} and {_NUMBER}x\d+\)",
        rf"expected input\[.*?\] to have {_NUMBER} channels, but got {_NUMBER} channels",
        rf"size of tensor a \({_NUMBER}\) must match the size of tensor b \({_NUMBER}\)",
        rf"Expected size {_NUMBER} but got size {_NUMBER}",
        rf"normalized_shape=\[{_NUMBER}\], expected input with shape \[\*, \d+\], but got input of size\[(?:\d+, )*{_NUMBER}\]",  # noqa: E501
        rf"batch2 tensor to be: \[\d+, {_NUMBER}\] but got: \[\d+, {_NUMBER}\]",
        rf"{_NUMBER}\)? must be divisible by [^0-9]*{_NUMBER}",
        rf"divisible by [^0-9]*\(got [^0-9]*{_NUMBER}[^0-9]+{_NUMBER}\)",
        rf"running_mean should contain {_NUMBER} elements not {_NUMBER}",
        rf"expanded size of the tensor \({_NUMBER}\) must match the existing size \({_NUMBER}\)",
        rf"got weight of shape \[{_NUMBER}\] and input of shape \[\d+, {_NUMBER},",
        rf"expected tensor \[{_NUMBER}\] and src \[{_NUMBER}\]",
    )
]
# A field that the library itself says the value of: `part.field` (8) must equal another (4).
_TOLD = re.compile(rf"`([\w.]+)` \({_NUMBER}\) must (?:equal|match|be)\b[^(]*\({_NUMBER}\)")
_LACKING = re.compile(r"'(\w+)' object has no attribute '(\w+)'")
_SPLIT = re.compile(rf"split_sizes to sum exactly to {_NUMBER} .*split_sizes=\[([\d, ]+)\]")
_OF_LAYERS = re.compile(rf"`([\w.]+)` \[([\d, ]+)\] must index the {_NUMBER} layers")
# What stands for a None, by the name of the field: what the first that fits says, and others of the same name.
_INSTEAD: list[tuple[str, Any]] = [
    (r"^position_embedding_type$", "absolute"),
    (r"^rope_theta$", 10000.0),
    (r"layers?(_block)?_types?$", ["mamba", "attention"]),
    (r"layers?(_block)?_types?$", ["conv", "full_attention"]),
    (r"layers?(_block)?_types?$", ["linear_attention", "full_attention"]),
    (r"layers?(_block)?_types?$", ["full_attention", "full_attention"]),
    (r"^rope_(scaling|parameters)$",
     {"rope_type": "default", "type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]}),
    (r"token_(id|index)$", shrinking._VOCAB - 1),
    (r"vocab_size$", shrinking._VOCAB),
    (r"(intermediate|ffn)\w*(size|dim)$", shrinking._FFN),
    (r"(_size|_dim|_channels|_width)$|^dim$", shrinking._WIDTH),
    (r"^(num|n)_\w*heads$", shrinking._HEADS),
    (r"^(num|n)_|_(layers|groups|experts|rank|length)$", 2),
    (r"^(use|is|do|has|with|norm)_", True),
    (r"factor$|_scale$|_eps$|_std$|range$|clip|threshold", 1.0),
]  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Edit:
    """Another value of a field; `path` names the configurations that it is inside of, then the field."""

    path: tuple[str, ...]
    value: Any

    def overrides(self) -> dict:
        made: Any = self.value
        for name in reversed(self.path):
            made = {name: made}
        return made


def disagreeing(message: str) -> tuple[int, int] | None:
    """The two numbers that an error of torch or of the library says should be one."""
    message = " ".join(message.split())
    for pattern in _DISAGREE:
        if found := pattern.search(message):
            first, second = (int(number) for number in found.groups())
            return (first, second) if first != second else None
    return None


def _parts(
    config: PretrainedConfig, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], PretrainedConfig]]:
    """A configuration and those inside it, the outermost last: what is inside is likelier made wrong."""
    for name, value in list(vars(config).items()):
        if isinstance(value, PretrainedConfig) and len(path) < 3:
            yield from _parts(value, (*path, name))
    yield path, config


def _fields(config: PretrainedConfig) -> Iterator[tuple[str, Any]]:
    for name in shrinking._fields(type(config))[0]:
        value = shrinking._get(config, name)
        if not isinstance(value, PretrainedConfig):
            yield name, value


def _agreements(config: PretrainedConfig, numbers: tuple[int, int]) -> Iterator[Edit]:
    for have, want in (numbers, numbers[::-1]):
        for path, part in _parts(config):
            for name, value in _fields(part):
                if re.search(r"token|vocab|_ids?$", name):
                    continue
                if value == have and isinstance(value, int) and not isinstance(value, bool):
                    yield Edit((*path, name), want)
                elif (
                    isinstance(value, (list, tuple))
                    and have in value
                    and all(isinstance(v, int) for v in value)
                ):
                    yield Edit((*path, name), [want if v == have else v for v in value])


def _instead(name: str) -> list[Any]:
    first = next((pattern for pattern, _ in _INSTEAD if re.search(pattern, name)), None)
    return [value for pattern, value in _INSTEAD if pattern == first]


def _missing(config: PretrainedConfig, error: BaseException) -> Iterator[Edit]:
    """Fields that are None and that the line of the library at which it ended reads, or the function around it."""
    frames = [
        f for f in traceback.walk_tb(error.__traceback__) if "/transformers/" in f[0].f_code.co_filename
    ]
    read: list[str] = []
    for frame, line in reversed(frames[-3:]):
        here = linecache.getline(frame.f_code.co_filename, line)
        try:
            around = inspect.getsource(frame.f_code)
        except OSError:  # code that was made at run time
            around = ""
        read += [name for text in (here, around) for name in re.findall(r"\b\w*(?:self|config)\.(\w+)", text)]
    empty = [(path, name) for path, part in _parts(config) for name, value in _fields(part) if value is None]
    for path, name in sorted(empty, key=lambda one: read.index(one[1]) if one[1] in read else len(read)):
        if name not in read and "NoneType" not in str(error):
            continue
        for value in _instead(name):
            yield Edit((*path, name), value)


def _absent(config: PretrainedConfig, error: BaseException) -> Iterator[Edit]:
    """A field that the configuration's class does not know and its model reads; a configuration that is None."""
    message = str(error)
    if found := _LACKING.search(message):
        holder, name = found.groups()
        for path, part in _parts(config):
            if type(part).__name__ == holder:
                for value in _instead(name):
                    yield Edit((*path, name), value)
    if "NoneType" in message or "without a " in message:
        for path, part in _parts(config):
            for name, kind in library.parts(type(part)).items():
                if shrinking._get(part, name) is None:
                    yield Edit((*path, name), shrinking.arguments(kind, "tiny"))


def _sections(config: PretrainedConfig, numbers: tuple[int, list[int]]) -> Iterator[Edit]:
    """Another way to cut a head into sections, in the shares of the one that does not fit it."""
    total, sizes = numbers
    if len(sizes) < 2 or total < len(sizes):
        return
    parts = [max(1, size * total // sum(sizes)) for size in sizes]
    parts[0] += total - sum(parts)
    if min(parts) < 1:
        return
    for path, part in _parts(config):
        for name in ("rope_parameters", "rope_scaling"):
            value = shrinking._get(part, name)
            if isinstance(value, dict):
                yield Edit((*path, name), {**value, "mrope_section": parts})
        for name, value in _fields(part):
            if isinstance(value, (list, tuple)) and list(value) == sizes:
                yield Edit((*path, name), parts)


def _by_kind(config: PretrainedConfig, error: KeyError) -> Iterator[Edit]:
    """Rotary embeddings by the kind of a layer, where a kind has none."""
    for path, part in _parts(config):
        kinds = shrinking._get(part, "layer_types") or []
        rope = shrinking._get(part, "rope_parameters")
        if isinstance(rope, dict) and error.args and error.args[0] in kinds:
            plain = {"rope_type": "default", "rope_theta": 10000.0}
            yield Edit((*path, "rope_parameters"), {kind: rope.get(kind, plain) for kind in dict.fromkeys(kinds)})
        if error.args and error.args[0] in kinds:
            for value in _instead("layer_types"):
                yield Edit((*path, "layer_types"), value)


def _turned(config: PretrainedConfig) -> Iterator[Edit]:
    """Sections of a head in the other order, where it is other ones of them that must be alike."""
    for path, part in _parts(config):
        for name in ("rope_parameters", "rope_scaling"):
            value = shrinking._get(part, name)
            if isinstance(value, dict) and value.get("mrope_section"):
                yield Edit((*path, name), {**value, "mrope_section": list(value["mrope_section"])[::-1]})


def _divided(config: PretrainedConfig, error: BaseException) -> Iterator[Edit]:
    """A field of which the library's line divides by a number that the small one does not reach."""
    for frame, line in traceback.walk_tb(error.__traceback__):
        here = linecache.getline(frame.f_code.co_filename, line)
        for name, by in re.findall(r"config\.(\w+) // (\d+)", here):
            for path, part in reversed(list(_parts(config))):
                value = shrinking._get(part, name)
                if shrinking._whole(value) and value < int(by):
                    yield Edit((*path, name), int(by))


def _deeper(config: PretrainedConfig) -> Iterator[Edit]:
    """More layers, for one that has a pattern of them or picks them by number."""
    for path, part in _parts(config):
        for name, value in _fields(part):
            if shrinking._whole(value) and value == 2 and shrinking._LAYERS.search(name):
                yield Edit((*path, name), 4)


def _told(error: BaseException) -> Iterator[Edit]:
    """What an error says by name, without a look at the configuration: there may be none yet."""
    message = str(error)
    if found := _TOLD.search(message):
        yield Edit(tuple(found[1].split(".")), int(found[3]))
    if found := _OF_LAYERS.search(message):
        last = int(found[3]) - 1
        count = len(found[2].split(","))
        yield Edit(tuple(found[1].split(".")), [max(0, last - i) for i in range(count)])
    for name, value in re.findall(r"\b([a-z]\w*_\w+)=(\d+)\b", message):
        if int(value) > 0 and not re.search("token|vocab", name):
            yield Edit((name,), 0)


def edits(config: PretrainedConfig | None, error: BaseException) -> list[Edit]:
    """What may be meant by an error, the likeliest first. `config` is None where that itself could not be made."""
    message = " ".join(str(error).split())
    if config is None or _TOLD.search(message) or _OF_LAYERS.search(message):
        return list(_told(error))
    if found := _SPLIT.search(message):
        return list(_sections(config, (int(found[1]), [int(n) for n in found[2].split(",")])))
    numbers = disagreeing(message)
    if numbers is not None:
        return list(_agreements(config, numbers))
    made = list(_absent(config, error))
    if "None" in message:
        made += _missing(config, error)
    made += _divided(config, error)
    if "stack expects each tensor to be equal size" in message:
        made += _turned(config)
    if isinstance(error, KeyError):
        made += _by_kind(config, error)
    if isinstance(error, (IndexError, StopIteration)):
        made += _deeper(config)
    return made


Trial = Callable[[dict], tuple[PretrainedConfig | None, BaseException | None]]


def mended(trial: Trial, overrides: dict, late: Callable[[], bool]) -> dict | None:
    """Overrides with which `trial` ends without an error; None: none were found.

    `trial` takes overrides, and gives the configuration (None where that itself could not be made) and the error.
    """
    tries = 0
    current = overrides
    config, error = trial(current)
    for _ in range(_MOST_EDITS):
        if error is None:
            return current
        further = None
        for edit in edits(config, error):
            if tries >= MOST_TRIES or late():
                return None
            tries += 1
            tried = shrinking.merged(current, edit.overrides())
            made, left = trial(tried)
            if left is None:
                return tried
            # The first that comes to another error may be right, and have more to be changed.
            if further is None and str(left) != str(error) and edits(made, left):
                further = tried, made, left
        if further is None:
            return None
        current, config, error = further
    return current if error is None else None
