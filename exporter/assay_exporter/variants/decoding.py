"""Prefill and decode step with a cache, as transformers' own generate calls them.

Eager generates greedily; every call of the model's forward is recorded. What the calls were given says what each
input of a step is: the last token, a state that the call before gave back, a mask that grows, a position that
counts up. The two programs are exported with those inputs, and must give what every recorded call gave, for the
golden's prompt and for a fresh one; and, position by position, what the main program gives without a cache.
"""

import contextlib

import torch

from .. import tensors, wrapper
from ..proto import program_pb2
from . import decisions, generation, graph, steps, structure
from .generation import HELD_BACK, NEW, Recording
from .graph import Missing, NotApplicable

_EXACT, _CACHED = 1e-6, generation.CACHED  # shares of an output's largest number

class _Step(torch.nn.Module):
    """`called`, a submodule of the model or the model itself (""), called as a recorded call was, with its tensors as
    arguments; what it gives is what `part` gives, which is called on the way."""

    def __init__(self, model, called: str, part: str, template: dict, names: dict[structure.Path, str],
                 outputs: list[structure.Path], lengths: dict[structure.Path, tuple[str, int, int]]):  # fmt: skip
        super().__init__()
        self.model = model
        self.called, self.part = called, part
        self.template, self.names, self.outputs, self.lengths = template, names, outputs, lengths
        self.mode = contextlib.nullcontext  # around every run
        self.prepared = False

    def run(self, arguments: dict):
        def see(path, value):
            if path in self.names:
                # changed in place by some models, which a graph may not do to an input
                return arguments[self.names[path]].clone()
            if path in self.lengths:
                source, dim, more = self.lengths[path]
                return arguments[source].shape[dim] + more
            return value.clone() if isinstance(value, torch.Tensor) else value

        given = structure.copied(self.template, see)
        held = given.pop("hidden", {})
        found: dict = {}

        def watch(given, run):
            found["given"] = dict(given)
            found["output"] = run()
            return found["output"]

        part = self.model.get_submodule(self.part)
        with self._holding(held), wrapper.surrounded(), self.mode():
            with generation.watched(part, watch):
                if self.prepared:
                    given = self.model.prepare_inputs_for_generation(**given)
                self.model.get_submodule(self.called)(**given)
            made = dict(found["output"]) | {"hidden": generation.hidden(part), "given": found["given"]}
            leaves = structure.leaves(made, torch.Tensor)
        return (found["output"].logits, *[leaves[path] for path in self.outputs])

    @contextlib.contextmanager
    def _holding(self, held: dict[str, dict[str, torch.Tensor]]):
        """With these tensors inside of modules."""
        with graph.unchanged(self.model):
            for name, own in held.items():
                vars(self.model.get_submodule(name.replace("/", "."))).update(own)
            yield


def _step(*arguments) -> _Step:
    class Step(_Step):  # a class of its own: with_signature writes its forward
        pass

    return Step(*arguments)


def _decide(step: _Step, given: list[dict[str, torch.Tensor]]) -> None:
    """Lets a trace read what every one of these runs reads out of tensors."""
    read = []
    step.run(given[0])  # what patches remember of a first call is read in no later one
    for arguments in given:
        recording = decisions.Recording()
        step.mode = lambda recording=recording: recording
        step.run(arguments)
        read.append(recording.read)
    # Other numbers may mean the same (ids that are looked through for a picture's place): the proof of what was
    # written runs every recorded call.
    if any([type(value) for value in one] != [type(value) for value in read[0]] for one in read):
        raise Missing("what the model reads out of tensors differs from step to step")
    step.mode = lambda: decisions.Replaying(read[0])


def _named(plan: steps.Plan, given: dict) -> dict[str, torch.Tensor]:
    leaves = structure.leaves(given, torch.Tensor)
    return {name: leaves[path] for path, name in plan.names.items()}


def programs(
    subject, recording: Recording, traced: bool = True
) -> tuple[list[program_pb2.VariantProgram], program_pb2.Decoding]:
    """Prefill and decode step, and where their inputs come from; with a trace of the golden's prompt."""
    run = recording.runs[0]
    plan = steps.plan_decode(recording, run)
    prefill_plan = steps.plan_prefill(recording, recording.runs)
    if not plan.states:
        raise Missing("generate hands no state from step to step, and modules keep none that changes")
    order = [*plan.states, *plan.kept]
    names = [plan.states.get(path) or plan.kept[path] for path in order]
    model, part = recording.model, recording.part

    step = _step(model, "", part, steps.prefill_given(recording, run), prefill_plan.names, order, {})
    step.prepared = recording.prepared
    runs = [_named(prefill_plan, steps.prefill_given(recording, one)) for one in recording.runs]
    _decide(step, runs)
    module = graph.with_signature(step, list(runs[0]))
    prefill = graph.write("prefill", module, runs[0], {}, ["logits", *names], subject, runs[0] if traced else None)

    at = steps.example(run, plan)
    step = _step(model, part, part, run.calls[at].given, plan.names, list(plan.states), steps.lengths(run, plan))
    step.prepared = recording.prepared
    runs = [_named(plan, call.given) for call in run.calls[1:]]
    _decide(step, runs)
    module = graph.with_signature(step, list(runs[0]))
    following = run.arguments[recording.tokens][:, recording.prompt : recording.prompt + 1]
    second = runs[0] | {source.input: following for source in plan.sources if source.HasField("tokens")}
    decode = graph.write(
        "decode", module, runs[at - 1], plan.dynamic, ["logits", *plan.states.values()], subject,
        second if traced else None,
    )  # fmt: skip
    for spec in decode.inputs:  # as the first step has it
        spec.shape[:] = runs[0][spec.name].shape
    decoding = program_pb2.Decoding(
        tokens=recording.tokens, output=recording.output, prompt=recording.prompt,
        prefill=prefill_plan.sources, decode=plan.sources,
    )  # fmt: skip
    return [prefill, decode], decoding


def _uncached(subject, recording: Recording) -> tuple[list[program_pb2.VariantProgram], program_pb2.Decoding]:
    """One program, which is given all tokens in every call."""
    run = recording.runs[0]
    first, plan = steps.plan_uncached(recording, run)
    step = _step(recording.model, "", "", run.calls[1].given, plan.names, [], {})
    runs = [_named(plan, call.given) for call in run.calls]
    _decide(step, runs)
    module = graph.with_signature(step, list(runs[0]))
    decode = graph.write("decode", module, runs[1], plan.dynamic, ["logits"], subject, runs[0])
    decoding = program_pb2.Decoding(
        tokens=recording.tokens, output=recording.output, prompt=recording.prompt,
        prefill=first.sources, decode=plan.sources,
    )  # fmt: skip
    return [decode], decoding


def padded(recording: Recording, plain: program_pb2.Decoding) -> program_pb2.Decoding:
    """The same programs on rows of different lengths."""
    run = recording.padded
    prefill, decode = steps.plan_prefill(recording, [run]), steps.plan_decode(recording, run)
    made = program_pb2.Decoding(
        tokens=recording.tokens, output=recording.output, prompt=recording.prompt, prefill=prefill.sources,
        decode=decode.sources, pad_token=generation.PAD,
    )  # fmt: skip
    for ours, theirs in ((made.prefill, plain.prefill), (made.decode, plain.decode)):
        if [one.input for one in ours] != [one.input for one in theirs]:
            raise Missing("generate gives other inputs to padded rows")
        if list(ours) == list(theirs):
            raise Missing("the programs are not told of the padding: generate gives them no mask")
    for pads in run.padding:
        made.row.add(padding=pads, tokens=HELD_BACK)
    return made


def fill(variant: program_pb2.Variant, program: program_pb2.Program, subject, recording: Recording) -> None:
    if recording.no_cache:
        with contextlib.suppress(Missing):
            steps.plan_decode(recording, recording.runs[0])  # one that has no cache at all says so
        raise NotApplicable(recording.no_cache)
    made, decoding = programs(subject, recording)
    variant.program.extend(made)
    variant.decoding.CopyFrom(decoding)
    decoder = Decoder(program, variant.program, variant.decoding)
    _prove_generated(decoder, subject, recording)
    _prove_cached(decoder, subject, recording)
    _fill_padded(variant, program, subject, recording)


def _fill_padded(variant, program, subject, recording: Recording) -> None:
    if recording.padded is None:
        variant.no_left_padding = recording.no_padding
        return
    try:
        decoding = padded(recording, variant.decoding)
        decoder = Decoder(program, variant.program, decoding)
        run, sample = recording.padded, subject.samples[0]
        found = decoder.logits(run.arguments, run.written[:, :-1])
        graph.near("padded rows", [call.logits[:, -1] for call in run.calls], found, _CACHED)
        _prove_rows(decoder, subject, recording, sample)
    except (Missing, NotApplicable) as error:
        variant.no_left_padding = f"rows padded on the left: {graph.one_line(error)}"
        return
    variant.left_padded.CopyFrom(decoding)


class Decoder:
    """A plain reading of Decoding, to prove what was written; the engine is the fast one.

    `run`: runs a VariantProgram on inputs by name; by default with the program's own mock weights.
    """

    def __init__(self, program: program_pb2.Program, parts, decoding: program_pb2.Decoding, run=None):
        self.decoding = decoding
        made = {part.name: run(part) if run else graph.runner(program, part).run for part in parts}
        self.decode = made["decode"]
        self.prefill = made.get("prefill", self.decode)

    def _inputs(self, sources, main, so_far, tokens, step, first, last) -> dict[str, torch.Tensor]:
        made = {}
        for source in sources:
            kind = source.WhichOneof("source")
            if kind == "tokens":
                value = tokens
            elif kind == "all_tokens":
                then = torch.tensor([list(source.all_tokens.then)], dtype=torch.int64).reshape(1, -1)
                value = torch.cat([so_far, then.expand(so_far.shape[0], -1)], 1)
            elif kind == "main_input":
                value = main[source.main_input]
            elif kind == "grown":
                rule = source.grown
                value = steps.grow(main[rule.main_input], rule.dim, self.decoding.prompt, rule.more + step)
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

    def prompts(self, main: dict[str, torch.Tensor]) -> torch.Tensor:
        tokens = main[self.decoding.tokens]
        made = tokens[:, : self.decoding.prompt].clone()
        for number, row in enumerate(self.decoding.row):
            made[number, : row.padding] = self.decoding.pad_token
            made[number, row.padding :] = tokens[number, : self.decoding.prompt - row.padding]
        return made

    def logits(
        self, main: dict[str, torch.Tensor], forced: torch.Tensor | None, new: int = NEW
    ) -> list[torch.Tensor]:
        """The last position's logits after the prompt and after each further token: `forced` ones, or the largest."""
        tokens = so_far = self.prompts(main)
        first = last = self.prefill(self._inputs(self.decoding.prefill, main, so_far, tokens, 0, {}, {}))
        made = [last["logits"][:, -1]]
        for step in range(forced.shape[1] if forced is not None else new - 1):
            token = made[-1].argmax(-1, keepdim=True) if forced is None else forced[:, step : step + 1]
            so_far = torch.cat([so_far, token], 1)
            last = self.decode(self._inputs(self.decoding.decode, main, so_far, token, step, first, last))
            made.append(last["logits"][:, -1])
        return made


def _prove_generated(decoder: Decoder, subject, recording: Recording) -> None:
    for run, sample in zip(recording.runs, subject.samples, strict=False):
        found = decoder.logits(run.arguments, run.written[:, :-1])
        graph.near(f"generate on {sample.label}", [call.logits[:, -1] for call in run.calls], found, _EXACT)
        tokens = torch.stack([one.argmax(-1) for one in found], 1)
        if not torch.equal(tokens, run.written):
            raise Missing(f"the programs write other tokens than generate on {sample.label}")


def _prove_cached(decoder: Decoder, subject, recording: Recording) -> None:
    for run, sample in zip(recording.runs, subject.samples, strict=False):
        whole = sample.outputs[subject.output_names.index(recording.output)]
        tail = run.arguments[recording.tokens][:, recording.prompt :]
        without = [whole[:, whole.shape[1] - HELD_BACK - 1 + k] for k in range(HELD_BACK + 1)]
        graph.near(f"with and without cache on {sample.label}", without, decoder.logits(run.arguments, tail), _CACHED)


def _prove_rows(decoder: Decoder, subject, recording: Recording, sample) -> None:
    """Every padded row, forced on, against its positions in the main program."""
    whole = sample.outputs[subject.output_names.index(recording.output)]
    tokens = sample.arguments[recording.tokens]
    rows = decoder.decoding.row
    begins = [recording.prompt - row.padding for row in rows]
    forced = torch.stack([tokens[r, begin : begin + HELD_BACK] for r, begin in enumerate(begins)])
    found = decoder.logits(sample.arguments, forced)
    for number, row in enumerate(rows):
        at = whole.shape[1] - HELD_BACK - 1 - row.padding
        expected = [whole[number, at + k] for k in range(HELD_BACK + 1)]
        graph.near(f"row {number}, padded, against the main program", expected, [one[number] for one in found], _CACHED)


def fill_generated(variant, program, subject, cache: program_pb2.Variant, recorded) -> None:
    """Greedy tokens of the golden's prompt, by kv_cache's programs; by its own where there is nothing like a cache, or
    none that is like the main program."""
    if isinstance(recorded, Exception):
        raise recorded
    if cache.missing:
        raise Missing(f"its kv_cache: {cache.missing}")
    if cache.not_applicable:
        made, decoding = (programs if recorded.no_cache else _uncached)(subject, recorded)
        _prove_generated(Decoder(program, made, decoding), subject, recorded)
        variant.program.extend(made)
        variant.decoding.CopyFrom(decoding)
    variant.generated.extend(generated(recorded.runs[0].calls, recorded.runs[0].written))


def generated(calls: list[generation.Call], written: torch.Tensor) -> list[program_pb2.Generated]:
    """One a row. Where two tokens are as good as equal, the numbers say so, and whoever compares goes on with ours."""
    made = [program_pb2.Generated(token=row.tolist()) for row in written]
    for call in calls:
        for number, row in enumerate(made):
            top = call.logits[number, -1].topk(2).values
            row.largest.append(float(top[0]))
            row.runner_up.append(float(top[1]))
    return made
