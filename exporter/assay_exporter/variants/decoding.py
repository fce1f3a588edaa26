"""Prefill and decode step with a cache, as transformers' own generate calls them.

Eager generates greedily; every call of the model's forward is recorded. What the calls were given says what each
input of a step is: the last token, a state that the call before gave back, a mask that grows, a position that
counts up. The two programs are exported with those inputs, and must give what every recorded call gave, for the
golden's prompt and for a fresh one; and, position by position, what the main program gives without a cache.
"""

import contextlib
import copy
import dataclasses
import functools

import torch
from transformers import GenerationConfig, GenerationMixin

from .. import tensors, wrapper
from ..proto import program_pb2
from . import decisions, graph, structure
from .graph import Missing, NotApplicable

NEW = 8  # tokens that generate writes
HELD_BACK = 4  # of the main program's tokens: they are what the steps are tried with
_EXACT, _CACHED = 1e-6, 1e-5  # shares of an output's largest number
_FRESH = 1


LAST_HIDDEN_STATE = (("last_hidden_state",), ("0",), (0,))  # within a model's `encoder_outputs`


@dataclasses.dataclass
class Call:
    """One call of the model's forward."""

    given: dict
    logits: torch.Tensor
    output: dict[structure.Path, torch.Tensor]


@dataclasses.dataclass
class Recording:
    model: torch.nn.Module  # with its cache in use
    tokens: str
    output: str
    prompt: int
    main: list[str]  # the main program's inputs that prefill takes in place of what the encoder made of them
    runs: list[tuple[dict[str, torch.Tensor], list[Call], torch.Tensor]]  # main inputs, calls, tokens written


def _with_cache(config) -> None:
    if hasattr(config, "use_cache"):
        config.use_cache = True
    for value in list(vars(config).values()):
        if hasattr(value, "to_dict") and hasattr(value, "model_type"):
            _with_cache(value)


def _generate(model, constants, arguments, tokens, prompt):
    calls: list[Call] = []
    forward = model.forward

    @functools.wraps(forward)
    def recorded(*positional, **given):
        if positional:
            raise Missing("generate passes arguments by position")
        before = structure.snapshot(given)
        output = forward(**given)
        kept = structure.leaves(structure.snapshot(dict(output)), torch.Tensor)
        calls.append(Call(before, output.logits.detach().clone(), kept))
        return output

    given = dict(constants)
    length = arguments[tokens].shape[1]
    for name, value in arguments.items():
        of_tokens = value.dim() >= 2 and value.shape[1] == length and not value.is_floating_point()
        if tokens == "decoder_input_ids":
            of_tokens &= name.startswith("decoder_")
        if name == "position_ids":
            continue  # generate's own
        given[name] = value[:, :prompt] if of_tokens else value
    config = GenerationConfig(
        do_sample=False, max_new_tokens=NEW, use_cache=True, eos_token_id=None, pad_token_id=0, bos_token_id=1,
        decoder_start_token_id=int(arguments[tokens][0, 0]),
    )  # fmt: skip
    model.generation_config = config
    model.forward = recorded
    try:
        written = GenerationMixin.generate(model, generation_config=config, **given)
    finally:
        del model.forward
    return calls, written[:, -NEW:].clone(), written.shape[1]


def record(subject) -> Recording:
    model = subject.built.model
    if not (isinstance(model, GenerationMixin) and model.can_generate()):
        raise NotApplicable(f"{type(model).__name__} of transformers does not generate")
    names = [spec.name for spec in subject.inputs]
    tokens = next((name for name in ("decoder_input_ids", "input_ids") if name in names), None)
    if tokens is None or "logits" not in subject.output_names:
        raise Missing(f"the main program has no token input and logits to continue: {', '.join(names)}")
    model = copy.deepcopy(model)
    _with_cache(model.config)
    runs = []
    length = subject.samples[0].arguments[tokens].shape[1]
    prompt = length - HELD_BACK
    for sample in subject.samples[: 1 + _FRESH]:
        arguments = sample.arguments
        calls, written, total = _generate(model, subject.constants, arguments, tokens, prompt)
        if total != prompt + NEW or len(calls) != NEW:
            raise Missing(f"generate wrote {total - prompt} tokens in {len(calls)} calls, expected {NEW}")
        runs.append((arguments, calls, written))
    main = [name for name in names if not name.startswith("decoder_")] if tokens == "decoder_input_ids" else []
    return Recording(model, tokens, "logits", prompt, main, runs)


class _Step(torch.nn.Module):
    """The model called as a recorded call was, with its tensors as arguments."""

    def __init__(self, model, template: dict, names: dict[structure.Path, str], outputs: list[structure.Path],
                 lengths: dict[structure.Path, tuple[str, int, int]]):  # fmt: skip
        super().__init__()
        self.model = model
        self.template, self.names, self.outputs, self.lengths = template, names, outputs, lengths
        self.mode = contextlib.nullcontext  # around every run

    def run(self, arguments: dict):
        changed = {}

        def see(path, value):
            if path in self.names:
                changed[path] = arguments[self.names[path]]
                return changed[path].clone()  # changed in place by some models, which a graph may not do to an input
            if path in self.lengths:
                source, dim, more = self.lengths[path]
                return arguments[source].shape[dim] + more
            return value.clone() if isinstance(value, torch.Tensor) else value

        with wrapper.surrounded(), self.mode():
            output = self.model(**structure.copied(self.template, see))
        found = structure.leaves(dict(output), torch.Tensor)
        return (output.logits, *[found[path] for path in self.outputs])


def _step(*arguments) -> _Step:
    class Step(_Step):  # a class of its own: with_signature writes its forward
        pass

    return Step(*arguments)


def _decide(step: _Step, given: list[dict[str, torch.Tensor]]) -> None:
    """Lets a trace read what every one of these runs reads out of tensors."""
    read = []
    for arguments in given:
        recording = decisions.Recording()
        step.mode = lambda recording=recording: recording
        step.run(arguments)
        read.append(recording.read)
    if any(one != read[0] for one in read):
        raise Missing("what the model reads out of tensors differs from step to step")
    step.mode = lambda: decisions.Replaying(read[0])


def _same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and torch.equal(a, b)


def _counted(values: list[torch.Tensor]) -> program_pb2.StepInput.Counted | None:
    """The rule that gives `values`, one a step; None: there is none."""
    if values[0].is_floating_point():
        return None
    made = program_pb2.StepInput.Counted(first=tensors.to_proto("", values[0]))
    if values[0].dtype != torch.bool and len(values) > 1 and values[0].shape == values[1].shape:
        step = (values[1] - values[0]).unique()
        made.add = int(step[0]) if len(step) == 1 else 0
    made.append = len(values) > 1 and values[1].shape[:-1] == values[0].shape[:-1] and values[1].shape != values[0].shape
    now = values[0]
    for value in values[1:]:
        now = torch.cat([now, now[..., -1:]], -1) if made.append else now + made.add if made.add else now
        if not _same(now, value):
            return None
    return made


@dataclasses.dataclass
class _Plan:
    """The inputs of one of the two programs, and where each comes from."""

    names: dict[structure.Path, str] = dataclasses.field(default_factory=dict)
    sources: list[program_pb2.StepInput] = dataclasses.field(default_factory=list)

    def add(self, path, name, **source):
        """Two places that are given the same tensor of an earlier call share an input of that name."""
        made = program_pb2.StepInput(input=name, **source)
        if name not in self.names.values():
            self.sources.append(made)
        elif made not in self.sources:
            raise Missing(f"two inputs of a step are called {name}")
        self.names[path] = name


def _prefill_given(recording: Recording, arguments: dict, call: Call) -> dict:
    """What prefill is called with: the encoder's inputs where generate gave what the encoder made of them."""
    given = dict(call.given)
    if recording.main and given.get("encoder_outputs") is not None:
        del given["encoder_outputs"]
        given |= {name: arguments[name] for name in recording.main}
    return given


def _plan_prefill(recording: Recording) -> _Plan:
    plan = _Plan()
    arguments, calls, _ = recording.runs[0]
    given = [_prefill_given(recording, a, c[0]) for a, c, _ in recording.runs]
    found = [structure.leaves(one, torch.Tensor) for one in given]
    for path, value in found[0].items():
        name = "_".join(path)
        if path == (recording.tokens,):
            if not _same(value, arguments[recording.tokens][:, : recording.prompt]):
                raise Missing("generate's first call is not given the prompt")
            plan.add(path, name, tokens=True)
            continue
        main = next((k for k, v in arguments.items() if _same(v, value)), None)
        if main is not None and all(_same(a[main], f[path]) for (a, _, _), f in zip(recording.runs, found, strict=True)):
            plan.add(path, name, main_input=main)
        elif not all(_same(value, f[path]) for f in found):
            raise Missing(f"generate's first call is given {name}, which is neither the prompt nor an input")
        elif not value.is_floating_point():
            plan.add(path, name, counted=_counted([value]))
        # What is left is the empty state of a cache, which is the program's own.
    return plan


def _plan_decode(recording: Recording):
    """The plan of the step, its output paths by name, prefill's output paths by name, and free dimensions."""
    plan = _Plan()
    arguments, calls, written = recording.runs[0]
    steps = [structure.leaves(call.given, torch.Tensor) for call in calls[1:]]
    if any(step.keys() != steps[0].keys() for step in steps):
        raise Missing("generate's calls are not given the same tensors in every step")
    states: dict[structure.Path, str] = {}  # of the output
    kept: dict[structure.Path, str] = {}  # of prefill's output alone
    dynamic: dict[str, list[int]] = {}
    for path, value in steps[0].items():
        values = [step[path] for step in steps]
        name = "_".join(path)
        if path == (recording.tokens,):
            for k, one in enumerate(values):
                if one.shape[1] == recording.prompt + k + 1:
                    raise NotApplicable("it has no cache in transformers: generate gives it all tokens in every step")
                if not _same(one, written[:, k : k + 1]):
                    raise Missing("a step is given something else than the token before")
            plan.add(path, name, tokens=True)
            continue
        still = all(_same(one, value) for one in values)
        main = next((k for k, v in arguments.items() if still and _same(v, value)), None)
        counted = None if main else _counted(values)
        if main is not None:
            plan.add(path, name, main_input=main)
        elif counted is not None:
            plan.add(path, name, counted=counted)
        else:
            def gives(call: Call, out: structure.Path, wanted: torch.Tensor) -> bool:
                return out in call.output and _same(call.output[out], wanted)

            first = [out for out in calls[0].output if gives(calls[0], out, value)]
            state = next(
                (out for out in first if all(gives(c, out, v) for c, v in zip(calls[1:], values[1:], strict=False))),
                None,
            )
            if still and first:
                kept.setdefault(first[0], f"kept_{len(kept)}")
                plan.add(path, f"given_{kept[first[0]]}", prefill_output=kept[first[0]])
            elif path[0] == "encoder_outputs" and still and path[1:] not in LAST_HIDDEN_STATE:
                continue  # what decoders do not read: a program that did would not follow another prompt
            elif path[0] == "encoder_outputs" and still:
                out = ("encoder_last_hidden_state",)
                kept.setdefault(out, f"kept_{len(kept)}")
                plan.add(path, f"given_{kept[out]}", prefill_output=kept[out])
            elif state is not None:
                states.setdefault(state, f"state_{len(states)}")
                plan.add(path, f"past_{states[state]}", state=states[state])
            else:
                raise Missing(f"where a step has its {name} from is not seen")
        for dim, size in enumerate(value.shape):
            if any(one.dim() != value.dim() or one.shape[dim] != size for one in values):
                dynamic.setdefault(plan.names[path], []).append(dim)
    return plan, states, kept, dynamic


def _lengths(recording: Recording, plan: _Plan, dynamic) -> dict[structure.Path, tuple[str, int, int]]:
    """Ints inside the cache that count tokens, each as the size of an input's dimension plus a constant."""
    calls = recording.runs[0][1][1:]
    steps = [structure.leaves(call.given, int) for call in calls]
    sizes = [structure.leaves(call.given, torch.Tensor) for call in calls]
    found = {}
    for path, value in steps[0].items():
        if all(step.get(path) == value for step in steps):
            continue
        for source, name in plan.names.items():
            for dim in dynamic.get(name, []):
                more = {step[path] - size[source].shape[dim] for step, size in zip(steps, sizes, strict=True)}
                if len(more) == 1:
                    found[path] = (name, dim, more.pop())
        if path not in found:
            raise Missing(f"{'.'.join(path)} counts tokens, and no input has a size to read it from")
    return found


def fill(variant: program_pb2.Variant, program: program_pb2.Program, subject, recording: Recording) -> None:
    prefill_plan = _plan_prefill(recording)
    decode_plan, states, kept, dynamic = _plan_decode(recording)
    if not states:
        raise Missing("generate hands no state from step to step: the model keeps it in its own modules")
    arguments, calls, _ = recording.runs[0]
    order = [*states, *kept]
    names = [states.get(path) or kept[path] for path in order]

    template = _prefill_given(recording, arguments, calls[0])

    def named(call_given: dict, plan: _Plan) -> dict[str, torch.Tensor]:
        leaves = structure.leaves(call_given, torch.Tensor)
        return {name: leaves[path] for path, name in plan.names.items()}

    step = _step(recording.model, template, prefill_plan.names, order, {})
    runs = [named(_prefill_given(recording, a, c[0]), prefill_plan) for a, c, _ in recording.runs]
    _decide(step, runs)
    given = runs[0]
    prefill = graph.write(
        "prefill", graph.with_signature(step, list(given)), given, {}, ["logits", *names], subject
    )
    step = _step(
        recording.model, calls[1].given, decode_plan.names, list(states), _lengths(recording, decode_plan, dynamic)
    )
    runs = [named(call.given, decode_plan) for call in calls[1:]]
    _decide(step, runs)
    given = runs[0]
    decode = graph.write(
        "decode", graph.with_signature(step, list(given)), given, dynamic, ["logits", *states.values()], subject
    )
    variant.program.extend([prefill, decode])
    variant.decoding.CopyFrom(
        program_pb2.Decoding(
            tokens=recording.tokens, output=recording.output, prompt=recording.prompt,
            prefill=prefill_plan.sources, decode=decode_plan.sources,
        )
    )  # fmt: skip
    _prove(variant, program, subject, recording)


class Decoder:
    """A plain reading of Decoding, to prove what was written; the engine is the fast one."""

    def __init__(self, program: program_pb2.Program, cache: program_pb2.Variant):
        self.decoding = cache.decoding
        self.prefill, self.decode = (graph.runner(program, part) for part in cache.program)

    def _inputs(self, sources, main, tokens, step, first, last) -> dict[str, torch.Tensor]:
        made = {}
        for source in sources:
            kind = source.WhichOneof("source")
            if kind == "tokens":
                value = tokens
            elif kind == "main_input":
                value = main[source.main_input]
            elif kind == "state":
                value = last[source.state]
            elif kind == "prefill_output":
                value = first[source.prefill_output]
            else:
                value = tensors.from_proto(source.counted.first) 
                if source.counted.add:
                    value = value + source.counted.add * step
                if source.counted.append:
                    value = torch.cat([value, value[..., -1:].expand(*value.shape[:-1], step)], -1)
            made[source.input] = value
        return made

    def logits(self, main: dict[str, torch.Tensor], forced: torch.Tensor | None) -> list[torch.Tensor]:
        """The last position's logits after the prompt and after each further token: `forced` ones, or the largest."""
        tokens = main[self.decoding.tokens][:, : self.decoding.prompt]
        first = last = self.prefill.run(self._inputs(self.decoding.prefill, main, tokens, 0, {}, {}))
        made = [last["logits"][:, -1]]
        for step in range(forced.shape[1] if forced is not None else NEW - 1):
            token = made[-1].argmax(-1, keepdim=True) if forced is None else forced[:, step : step + 1]
            last = self.decode.run(self._inputs(self.decoding.decode, main, token, step, first, last))
            made.append(last["logits"][:, -1])
        return made


def _prove(variant, program, subject, recording: Recording) -> None:
    decoder = Decoder(program, variant)
    for (arguments, calls, written), sample in zip(recording.runs, subject.samples, strict=False):
        found = decoder.logits(arguments, None)
        graph.near(f"generate on {sample.label}", [call.logits[:, -1] for call in calls], found, _EXACT)
        tokens = torch.stack([one.argmax(-1) for one in found], 1)
        if not torch.equal(tokens, written):
            raise Missing(f"the programs write other tokens than generate on {sample.label}")
        whole = sample.outputs[subject.output_names.index(recording.output)]
        tail = arguments[recording.tokens][:, recording.prompt :]
        without = [whole[:, whole.shape[1] - HELD_BACK - 1 + k] for k in range(HELD_BACK + 1)]
        graph.near(f"with and without cache on {sample.label}", without, decoder.logits(arguments, tail), _CACHED)


def fill_generated(variant, program, cache: program_pb2.Variant, recorded) -> None:
    """Greedy tokens of the golden's prompt. They say something only where no step is near a tie."""
    if isinstance(recorded, Exception):
        raise recorded
    if cache.not_applicable:
        raise Missing(f"only decoding with a cache is exported, and {cache.not_applicable}")
    if cache.missing:
        raise Missing(f"its kv_cache: {cache.missing}")
    _, calls, written = recorded.runs[0]
    for row in range(written.shape[0]):
        made = variant.generated.add(token=written[row].tolist())
        for call in calls:
            top = call.logits[row, -1].topk(2).values
            if float(top[0] - top[1]) < 2e-5 * float(call.logits[row, -1].abs().max()):
                raise Missing("two tokens are as good as equal in a step: rounding would decide")
            made.largest.append(float(top[0]))
            made.runner_up.append(float(top[1]))
