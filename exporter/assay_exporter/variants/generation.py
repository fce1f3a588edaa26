"""What transformers' generate does, call by call: recorded on unpatched eager."""

import contextlib
import copy
import dataclasses
import functools
import inspect

import torch
from transformers import GenerationConfig, GenerationMixin

from . import structure
from .graph import Missing, NotApplicable, near, one_line

NEW = 8  # tokens that generate writes
HELD_BACK = 4  # of the main program's tokens: they are what the steps are tried with
CACHED = 1e-5  # share of an output's largest number: a cache adds in another order
_FRESH = 1
CHECKPOINT_SEEDS = (1, 2)  # of the prompts that a checkpoint's programs are made with
_PADDING = (2, 0)  # tokens on the left, row by row in turn
PAD = 0  # what stands there; no model's word for it matters behind its mask


@dataclasses.dataclass
class Call:
    """One call of the forward of the model, or of its part that writes."""

    given: dict
    logits: torch.Tensor
    output: dict[structure.Path, torch.Tensor]


@dataclasses.dataclass
class Run:
    arguments: dict[str, torch.Tensor]  # the main program's inputs
    given: dict  # what the model itself is called with for the prompt, where a part of it writes
    calls: list[Call]
    written: torch.Tensor
    padding: list[int]  # of each row


@dataclasses.dataclass
class Recording:
    model: torch.nn.Module  # with its cache in use
    part: str  # the submodule that writes; empty: the model
    tokens: str
    output: str
    prompt: int
    main: list[str]  # the main program's inputs that prefill takes in place of what the encoder made of them
    runs: list[Run]
    # What is recorded are the calls of prepare_inputs_for_generation, which the programs then begin with: the model is
    # given more than tokens, a cache and masks, all of it made of the tokens so far.
    prepared: bool = False
    no_cache: str = ""  # why nothing with a cache is like the main program, in transformers itself
    padded: Run | None = None
    no_padding: str = ""


def with_cache(config) -> None:
    if hasattr(config, "use_cache"):
        config.use_cache = True
    for value in list(vars(config).values()):
        if hasattr(value, "to_dict") and hasattr(value, "model_type"):
            with_cache(value)


def hidden(model: torch.nn.Module) -> dict[str, dict[str, torch.Tensor]]:
    """Tensors that modules hold beside their parameters and buffers: what a model keeps in itself between calls."""
    found = {}
    for name, module in model.named_modules():
        own = {key: value for key, value in vars(module).items() if isinstance(value, torch.Tensor)}
        if own:
            found[name.replace(".", "/")] = own
    return found


@contextlib.contextmanager
def watched(module: torch.nn.Module, see):
    """`see(arguments by name, run)` in place of every call of the module's forward."""
    forward = module.forward
    signature = inspect.signature(forward)

    @functools.wraps(forward)
    def instead(*positional, **given):
        if positional:
            given = dict(zip(signature.parameters, positional, strict=False)) | given
        return see(given, lambda: forward(**given))

    module.forward = instead
    try:
        yield
    finally:
        del module.forward


def cut(arguments: dict[str, torch.Tensor], tokens: str, prompt: int) -> dict[str, torch.Tensor]:
    """The main inputs up to the prompt's end."""
    length = arguments[tokens].shape[1]
    made = {}
    for name, value in arguments.items():
        of_tokens = value.dim() >= 2 and value.shape[1] == length and not value.is_floating_point()
        if tokens == "decoder_input_ids":
            of_tokens &= name.startswith("decoder_")
        made[name] = value[:, :prompt] if of_tokens else value
    return made


def _config(start: int, use_cache: bool) -> GenerationConfig:
    return GenerationConfig(
        do_sample=False, max_new_tokens=NEW, use_cache=use_cache, eos_token_id=None, pad_token_id=PAD,
        bos_token_id=1, decoder_start_token_id=start,
    )  # fmt: skip


def _forget_what_stays(calls: list[Call]) -> None:
    """Of what modules hold, what no call changes is the program's own, and the first call starts without the rest."""
    first = structure.leaves({"hidden": calls[0].given.pop("hidden")}, torch.Tensor)
    changed = set()
    for call in calls:
        for path, value in call.output.items():
            if path[0] == "hidden" and not (path in first and torch.equal(first[path], value)):
                changed.add(path)
    for call in calls:
        call.output = {path: v for path, v in call.output.items() if path[0] != "hidden" or path in changed}
        held = call.given.pop("hidden", {})
        if changed and held:
            call.given["hidden"] = {
                module: {key: value for key, value in own.items() if ("hidden", module, key) in changed}
                for module, own in held.items()
            }


@contextlib.contextmanager
def _preparing(model, see):
    """`see(arguments by name)` before every call of the model's prepare_inputs_for_generation."""
    prepare = model.prepare_inputs_for_generation

    @functools.wraps(prepare)
    def instead(input_ids, **given):
        see({"input_ids": input_ids} | given)
        return prepare(input_ids, **given)

    model.prepare_inputs_for_generation = instead
    try:
        yield
    finally:
        del model.prepare_inputs_for_generation


def generate(
    model, given: dict, start: int, use_cache: bool = True, prepared: bool = False
) -> tuple[list[Call], torch.Tensor]:
    """Every call of the forward, with `prepared` as it was prepared, and the tokens that were written."""
    calls: list[Call] = []
    asked: dict = {}

    def see(given, run):
        before = structure.snapshot((asked if prepared else given) | {"hidden": hidden(model)})
        output = run()
        kept = structure.snapshot(dict(output) | {"hidden": hidden(model)})
        calls.append(Call(before, output.logits.detach().clone(), structure.leaves(kept, torch.Tensor)))
        return output

    before = model.generation_config
    model.generation_config = config = _config(start, use_cache)
    try:
        preparing = _preparing(model, asked.update) if prepared else contextlib.nullcontext()
        with watched(model, see), preparing:
            written = GenerationMixin.generate(model, generation_config=config, **given)
    finally:
        model.generation_config = before
    if len(calls) != NEW:
        raise Missing(f"generate wrote {NEW} tokens in {len(calls)} calls")
    _forget_what_stays(calls)
    return calls, written[:, -NEW:].clone()


# Of what a model gives to its part that writes, what generate makes itself.
_GENERATES = {"position_ids", "cache_position", "labels", "decoder_input_ids", "past_key_values", "token_type_ids"}


def _writes(model: torch.nn.Module) -> str:
    """The outermost submodule that transformers can have write; empty: none."""
    for name, module in model.named_modules():
        if name and isinstance(module, GenerationMixin) and module.can_generate():
            return name
    return ""


def _given_to_part(model, part: str, given: dict) -> dict:
    """What a run of the model on `given` gives to its part."""
    found: list[dict] = []

    def see(given, run):
        found.append(structure.snapshot(given))
        return run()

    with watched(model.get_submodule(part), see):
        model(**given)
    if len(found) != 1:
        raise Missing(f"{part} is called {len(found)} times")
    return {k: v for k, v in found[0].items() if isinstance(v, torch.Tensor) and k not in _GENERATES}


def run(recording: Recording, constants: dict, arguments: dict, use_cache: bool = True) -> Run:
    """Generate's calls for one set of main inputs."""
    start = int(arguments[recording.tokens][0, 0])
    length = arguments[recording.tokens].shape[1]
    # Constants that are as long as the main input would not fit the tokens that are written.
    given = {k: v for k, v in constants.items() if not (isinstance(v, torch.Tensor) and length in v.shape[1:2])}
    given |= cut(arguments, recording.tokens, recording.prompt)
    if recording.part:
        inner = _given_to_part(recording.model, recording.part, given)
        calls, written = generate(recording.model.get_submodule(recording.part), inner, start, use_cache)
        # What the model made for its part may be given again in every step.
        calls[0].output |= structure.leaves({"given": inner}, torch.Tensor)
    else:
        # Positions, and what relates tokens with tokens, are generate's own.
        own = {k for k, v in arguments.items() if k == "position_ids" or list(v.shape).count(length) > 1}
        if recording.prepared:  # nor does it make room in anything else for what it adds to the tokens
            own |= arguments.keys() - {recording.tokens, "attention_mask"}
        given = {k: v for k, v in given.items() if k not in own}
        if not use_cache and "use_mems" in inspect.signature(recording.model.forward).parameters:
            given["use_mems"] = False  # its name for it; it does not read the other one
        calls, written = generate(recording.model, given, start, use_cache, recording.prepared)
    return Run(arguments, given, calls, written, [0] * written.shape[0])


def _compare_with_no_cache(recording: Recording, constants: dict) -> str:
    """How transformers' own generate differs without its cache; empty: it does not."""
    with_it = recording.runs[0]
    try:
        without = run(recording, constants, with_it.arguments, use_cache=False)
    except Exception:  # noqa: BLE001 - then nothing is known, and the comparison of what was written decides
        return ""
    for step, (a, b) in enumerate(zip(with_it.calls, without.calls, strict=True)):
        try:
            near(f"step {step}", [a.logits[:, -1]], [b.logits[:, -1]], CACHED)
        except Missing as error:
            return f"transformers' own generate gives other logits with its cache than without: {error}"
    return ""


def padded_on_the_left(tokens: torch.Tensor, prompt: int, padding: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """[rows, prompt]: `padding` places, then each row's first tokens; and the mask that says which are which."""
    prompts = torch.full((tokens.shape[0], prompt), PAD, dtype=tokens.dtype)
    mask = torch.zeros_like(prompts)
    for row, pads in enumerate(padding):
        prompts[row, pads:] = tokens[row, : prompt - pads]
        mask[row, pads:] = 1
    return prompts, mask


def _pad(recording: Recording, subject) -> Run:
    """The golden's prompts as rows of different lengths, each of them what it is alone; Missing where it is not."""
    first = recording.runs[0].arguments
    tokens = first[recording.tokens]
    padding = [_PADDING[row % len(_PADDING)] for row in range(tokens.shape[0])]
    others = {k: v for k, v in cut(first, recording.tokens, recording.prompt).items()}
    prompts, mask = padded_on_the_left(tokens, recording.prompt, padding)
    given = subject.constants | others | {recording.tokens: prompts, "attention_mask": mask}
    given.pop("position_ids", None)
    calls, written = generate(recording.model, given, 0)
    for row, pads in enumerate(padding):
        alone = subject.constants | {
            k: v[row : row + 1] if v.shape[0] == tokens.shape[0] else v for k, v in others.items()
        }
        alone |= {recording.tokens: tokens[row : row + 1, : recording.prompt - pads]}
        alone["attention_mask"] = torch.ones_like(alone[recording.tokens])
        alone.pop("position_ids", None)
        apart, tokens_apart = generate(recording.model, alone, 0)
        for step, (a, b) in enumerate(zip(apart, calls, strict=True)):
            near(f"row {row} of step {step}", [a.logits[0, -1]], [b.logits[row, -1]], CACHED)
            if tokens_apart[0, step] != written[row, step]:
                break  # a tie; what follows is of other tokens
    return Run(first, given, calls, written, padding)


def _record_padding(recording: Recording, subject) -> None:
    if recording.tokens != "input_ids" or recording.part:
        recording.no_padding = "its prompts are not rows of tokens alone"
        return
    if "attention_mask" not in inspect.signature(recording.model.forward).parameters:
        recording.no_padding = "the model takes no attention mask in transformers"
        return
    if recording.runs[0].arguments[recording.tokens].shape[0] < len(_PADDING):
        recording.no_padding = "its batch has one row, and rows of several lengths are what is compared"
        return
    try:
        recording.padded = _pad(recording, subject)
    except Missing as error:
        recording.no_padding = f"a row padded on the left is another one in transformers itself: {error}"
    except Exception as error:  # noqa: BLE001 - the library's own refusal, told as such
        recording.no_padding = (
            f"transformers' own generate fails on rows padded on the left: {type(error).__name__}: {one_line(error)}"
        )


def _adds_tokens(model, prompt: torch.Tensor) -> bool:
    """Whether a model with a cache is given further tokens behind those that there are."""
    try:
        given = model.prepare_inputs_for_generation(prompt, use_cache=True)
        more = given["input_ids"].shape[1] > prompt.shape[1]
        return more and any(model(**given).get(name) is not None for name in ("past_key_values", "mems"))
    except Exception:  # noqa: BLE001 - it wants to be told more, as generate tells
        return False


def record(subject) -> Recording:
    model = subject.built.model
    if not (isinstance(model, GenerationMixin) and model.can_generate()):
        raise NotApplicable(f"{type(model).__name__} of transformers does not generate")
    names = [spec.name for spec in subject.inputs]
    tokens = next((name for name in ("decoder_input_ids", "input_ids") if name in names), None)
    if tokens is None or "logits" not in subject.output_names:
        raise Missing(f"the main program has no token input and logits to continue: {', '.join(names)}")
    model = copy.deepcopy(model)
    with_cache(model.config)
    length = subject.samples[0].arguments[tokens].shape[1]
    main = [name for name in names if not name.startswith("decoder_")] if tokens == "decoder_input_ids" else []
    made = Recording(model, "", tokens, "logits", length - HELD_BACK, main, [])
    if type(model).generate is not GenerationMixin.generate and tokens == "input_ids":
        # A generate of its own, which does something with pictures and then has a part of the model write.
        made.part = _writes(model)
    made.prepared = tokens == "input_ids" and _adds_tokens(model, subject.samples[0].arguments[tokens][:, : made.prompt])
    for sample in subject.samples[: 1 + _FRESH]:
        made.runs.append(run(made, subject.constants, sample.arguments))
    made.no_cache = _compare_with_no_cache(made, subject.constants)
    _record_padding(made, subject)
    return made
