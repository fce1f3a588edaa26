"""Where each input of a prefill and of a decode step comes from, read off the calls that generate made."""

import dataclasses
import re

import torch

from .. import tensors
from ..proto import program_pb2
from . import generation, structure
from .generation import Call, Recording, Run
from .graph import Missing, NotApplicable

LAST_HIDDEN_STATE = (("last_hidden_state",), ("0",), (0,))  # within a model's `encoder_outputs`


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and torch.equal(a, b)


def counted(values: list[torch.Tensor]) -> program_pb2.StepInput.Counted | None:
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
        if not same(now, value):
            return None
    return made


def grow(value: torch.Tensor, dim: int, prompt: int, more: int) -> torch.Tensor:
    """`value` up to the prompt's end along `dim`, and its last slice there `more` times."""
    cut = value.narrow(dim, 0, prompt)
    last = cut.narrow(dim, prompt - 1, 1)
    return torch.cat([cut, *[last] * more], dim)


def grown(values: list[torch.Tensor], main: dict[str, torch.Tensor], prompt: int):
    """The rule by which `values`, one a step, are a main input that grows; None: there is none."""
    for name, value in main.items():
        for dim in range(value.dim()):
            more = values[0].shape[dim] - prompt if values[0].dim() == value.dim() else -1
            if value.shape[dim] <= prompt or more < 0:
                continue
            if all(same(grow(value, dim, prompt, more + k), one) for k, one in enumerate(values)):
                return program_pb2.StepInput.Grown(main_input=name, dim=dim, more=more)
    return None


@dataclasses.dataclass
class Plan:
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


def _name(path: structure.Path) -> str:
    return re.sub(r"\W", "_", "_".join(path))


def prompts(recording: Recording, run: Run) -> torch.Tensor:
    """The tokens that prefill is given."""
    tokens = run.arguments[recording.tokens]
    made = tokens[:, : recording.prompt].clone()
    for row, pads in enumerate(run.padding):
        made[row, pads:] = tokens[row, : recording.prompt - pads]
        made[row, :pads] = generation.PAD
    return made


def prefill_given(recording: Recording, run: Run) -> dict:
    """What prefill is called with: the model's own inputs where only a part of it writes, the encoder's inputs where
    generate gave what the encoder made of them."""
    if recording.part:
        return dict(run.given)
    given = dict(run.calls[0].given)
    if recording.main and given.get("encoder_outputs") is not None:
        del given["encoder_outputs"]
        given |= {name: run.arguments[name] for name in recording.main}
    return given


def plan_prefill(recording: Recording, runs: list[Run]) -> Plan:
    plan = Plan()
    found = [structure.leaves(prefill_given(recording, run), torch.Tensor) for run in runs]
    for path, value in found[0].items():
        name = _name(path)
        if path == (recording.tokens,):
            if not same(value, prompts(recording, runs[0])):
                raise Missing("generate's first call is not given the prompt")
            plan.add(path, name, tokens=True)
            continue
        arguments = runs[0].arguments
        main = next((k for k, v in arguments.items() if same(v, value)), None)
        if main is not None and all(same(r.arguments[main], f[path]) for r, f in zip(runs, found, strict=True)):
            plan.add(path, name, main_input=main)
        elif all(same(value, f[path]) for f in found):
            if not value.is_floating_point():
                plan.add(path, name, counted=counted([value]))
            # What is left is the empty state of a cache, which is the program's own.
        else:
            rules = [grown([f[path]], r.arguments, recording.prompt) for r, f in zip(runs, found, strict=True)]
            if rules[0] is None or any(rule != rules[0] for rule in rules):
                raise Missing(f"generate's first call is given {name}, which is neither the prompt nor an input")
            plan.add(path, name, grown=rules[0])
    return plan


@dataclasses.dataclass
class DecodePlan(Plan):
    states: dict[structure.Path, str] = dataclasses.field(default_factory=dict)  # outputs of every run, by path
    kept: dict[structure.Path, str] = dataclasses.field(default_factory=dict)  # of prefill's outputs alone
    dynamic: dict[str, list[int]] = dataclasses.field(default_factory=dict)  # inputs' free dimensions


def _given(run: Run) -> list[dict[structure.Path, torch.Tensor]]:
    steps = [structure.leaves(call.given, torch.Tensor) for call in run.calls[1:]]
    # Nothing comes with an empty one (Reformer puts one more of them into its cache with every step).
    steps = [{path: value for path, value in step.items() if value.numel()} for step in steps]
    if any(step.keys() != steps[0].keys() for step in steps):
        raise Missing("generate's calls are not given the same tensors in every step")
    return steps


def plan_decode(recording: Recording, run: Run) -> DecodePlan:
    plan = DecodePlan()
    calls, steps = run.calls, _given(run)
    for path, value in steps[0].items():
        values = [step[path] for step in steps]
        name = _name(path)
        if recording.prepared and path == (recording.tokens,):
            so_far = [torch.cat([prompts(recording, run), run.written[:, : k + 1]], 1) for k in range(len(values))]
            if not all(same(one, tokens) for one, tokens in zip(values, so_far, strict=True)):
                raise Missing("a step is prepared for something else than all tokens so far")
            plan.add(path, name, all_tokens=program_pb2.StepInput.AllTokens())
            plan.dynamic[name] = [1]
            continue
        if path == (recording.tokens,) or (recording.part and path == ("input_ids",)):
            for k, one in enumerate(values):
                if values[1].shape[1] == value.shape[1] + 1:
                    raise NotApplicable("it has no cache in transformers: generate gives it all tokens in every step")
                if not same(one, run.written[:, k : k + 1]):
                    raise Missing("a step is given something else than the token before")
            plan.add(path, name, tokens=True)
            continue
        still = all(same(one, value) for one in values)
        main = next((k for k, v in run.arguments.items() if still and same(v, value)), None)
        rule = None if main else counted(values)
        if main is not None:
            plan.add(path, name, main_input=main)
        elif rule is not None:
            plan.add(path, name, counted=rule)
        elif not _add_state(plan, path, values, calls, still):
            rule = grown(values, run.arguments, recording.prompt)
            if rule is None:
                raise Missing(f"where a step has its {name} from is not seen")
            plan.add(path, name, grown=rule)
        if path not in plan.names:
            continue
        for dim, size in enumerate(value.shape):
            if any(one.dim() != value.dim() or one.shape[dim] != size for one in values):
                plan.dynamic.setdefault(plan.names[path], []).append(dim)
    return plan


def _add_state(plan: DecodePlan, path, values: list[torch.Tensor], calls: list[Call], still: bool) -> bool:
    """False: no call before gave these values."""

    def gives(call: Call, out: structure.Path, wanted: torch.Tensor) -> bool:
        return out in call.output and same(call.output[out], wanted)

    if path[0] == "encoder_outputs" and still:
        if path[1:] in LAST_HIDDEN_STATE:
            out = ("encoder_last_hidden_state",)
            plan.kept.setdefault(out, f"kept_{len(plan.kept)}")
            plan.add(path, f"given_{plan.kept[out]}", prefill_output=plan.kept[out])
        return True  # the rest decoders do not read: a program that did would not follow another prompt
    first = [out for out in calls[0].output if gives(calls[0], out, values[0])]
    if still and first:
        plan.kept.setdefault(first[0], f"kept_{len(plan.kept)}")
        plan.add(path, f"given_{plan.kept[first[0]]}", prefill_output=plan.kept[first[0]])
        return True
    later = list(zip(calls[1:], values[1:], strict=False))
    state = next((out for out in first if all(gives(call, out, value) for call, value in later)), None)
    if state is None:
        return False
    plan.states.setdefault(state, f"state_{len(plan.states)}")
    plan.add(path, f"past_{plan.states[state]}", state=plan.states[state])
    return True


def lengths(run: Run, plan: DecodePlan) -> dict[structure.Path, tuple[str, int, int]]:
    """Ints inside the cache that count tokens, each as the size of an input's dimension plus a constant."""
    steps = [structure.leaves(call.given, int) for call in run.calls[1:]]
    sizes = _given(run)
    found = {}
    for path, value in steps[0].items():
        if all(step.get(path) == value for step in steps):
            continue
        for source, name in plan.names.items():
            for dim in plan.dynamic.get(name, []):
                more = {step[path] - size[source].shape[dim] for step, size in zip(steps, sizes, strict=True)}
                if len(more) == 1:
                    found[path] = (name, dim, more.pop())
        if path not in found:
            raise Missing(f"{'.'.join(path)} counts tokens, and no input has a size to read it from")
    return found


def example(run: Run, plan: DecodePlan) -> int:
    """The first step whose free dimensions have other sizes than one: torch.export takes one for a constant."""
    for k, step in enumerate(_given(run)):
        if all(step[path].shape[d] != 1 for path, name in plan.names.items() for d in plan.dynamic.get(name, [])):
            return k + 1
    return 1


def plan_uncached(recording: Recording, run: Run) -> tuple[Plan, DecodePlan]:
    """Of a model that is given all tokens in every call: the plans of the first call and of the others."""
    plans = Plan(), DecodePlan()
    tokens = run.arguments[recording.tokens][:, : recording.prompt]
    so_far = [torch.cat([tokens, run.written[:, :k]], 1) for k in range(len(run.calls))]
    for call in run.calls:
        call.given.pop("cache_position", None)  # where the cache ends that it has not
    calls = [structure.leaves(call.given, torch.Tensor) for call in run.calls]
    if any(call.keys() != calls[0].keys() for call in calls):
        raise Missing("generate's calls are not given the same tensors in every step")
    for path in calls[0]:
        values = [call[path] for call in calls]
        name = _name(path)
        for plan, part in zip(plans, (values[:1], values[1:]), strict=True):
            if path == (recording.tokens,):
                then = values[0][0, recording.prompt :]
                behind = then.expand(values[0].shape[0], -1)
                if not all(same(torch.cat([a, behind], 1), v) for a, v in zip(so_far, values, strict=True)):
                    raise Missing("a call is given something else than all tokens so far")
                plan.add(path, name, all_tokens=program_pb2.StepInput.AllTokens(then=then.tolist()))
            elif (rule := counted(part)) is not None:
                plan.add(path, name, counted=rule)
            else:
                raise Missing(f"where a call has its {name} from is not seen")
        for dim in range(values[0].dim()):
            if any(value.shape[dim] != values[0].shape[dim] for value in values):
                plans[1].dynamic.setdefault(name, []).append(dim)
    return plans
