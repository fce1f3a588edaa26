"""One architecture: built small, run, exported, and held against eager on fresh inputs."""

import collections
import contextlib
import copy
import dataclasses
import functools
import itertools
import json
import time
import warnings
from collections.abc import Callable, Iterator

import torch

from .. import (
    catalogue,
    golden,
    inputs,
    patches,
    versions,
    wrapper,
)
from .. import (
    export as exporting,
)
from ..proto import catalogue_pb2, program_pb2
from . import building, candidates, complexes, library, media, mending, places, proof, shrinking
from .outcome import STAGES, Failed, Found, text, where

_MOST_CANDIDATES = 60
_MOST_STUDIES = 4  # of one model: candidates that run, but whose numbers tell nothing
# In force for every architecture, where the version of the library has what they change.
_PATCHES = ("broadcast_masks", "same_dtype")
_FOUND = ("dense_experts", "recorded_values")  # where they are needed


@functools.cache
def _patches() -> list[str]:
    left_out = versions.unfit(list(_PATCHES))
    return [name for name in _PATCHES if name not in left_out]


class _Infinite(golden.UninformativeGolden):
    """An output has no number for what is padded."""


def _constants_for(
    model: torch.nn.Module, candidate: media.Candidate, thinker: candidates.Thinker
) -> dict:
    off = {name: False for name in ("use_cache", "return_loss") if thinker.has(name)}
    return {**{n: v for n, v in candidate.constants.items() if thinker.has(n)}, **off}


def _with_copies(module, given: tuple, named: dict) -> tuple[tuple, dict]:
    """For a model that writes into its inputs, which are not its own."""
    return given, {n: v.clone() if isinstance(v, torch.Tensor) else v for n, v in named.items()}


class _Attempt:
    def __init__(self, entry: catalogue_pb2.CatalogueEntry, architecture: library.Architecture, deadline: float,
                 on_stage: Callable[[Found], None]):  # fmt: skip
        self.entry, self.architecture, self.deadline, self.on_stage = (
            entry,
            architecture,
            deadline,
            on_stage,
        )
        self.said = list(entry.patch)
        self.found = Found(architecture.name, "class")
        self.failures: list[Failed] = []
        # Of each strength: the numbers of the ideas for inputs that did not run, why, and with which overrides.
        self.errors: dict[str, list[tuple[int, BaseException, dict]]] = collections.defaultdict(list)

    def _stage(self, stage: str) -> None:
        if STAGES.index(stage) > STAGES.index(self.found.stage):
            self.found.stage = stage
            self.on_stage(self.found)

    def _late(self, share: float) -> bool:
        return time.process_time() > self.deadline - (1 - share) * self.seconds

    def run(self, seconds: float) -> tuple[Found, program_pb2.Program | None]:
        self.seconds = seconds
        try:
            return self.found, self._run()
        except Failed as failed:
            worst = failed
        except Exception as error:  # whatever the library or the tracer raises
            worst = Failed(self.found.stage, text(error), where(error))
        self.found.stage, self.found.cause, self.found.where = (worst.stage, worst.cause, worst.where)
        return self.found, None

    def _run(self) -> program_pb2.Program:
        for name in self.said:
            if patches.repairs(patches.load(name)):
                raise Failed("class", f"patch {name} mends the library itself: what it runs is not held against it here")
        config_class = library.lookup(self.architecture.config_class, self.architecture.module)
        model_class, head, config_class = building.head(self.architecture, config_class, self.entry.model_class)
        self.found.model_class = f"{model_class.__module__}.{model_class.__name__}"
        entry = self.entry
        entry.model_class = self.found.model_class
        entry.config_class = f"{config_class.__module__}.{config_class.__name__}"
        entry.task, entry.arch_type = (entry.task or head.task, entry.arch_type or head.arch_type)
        given = catalogue.overrides(entry)
        for strength, overrides in self._ways_to_shrink(model_class, config_class, given):
            if self.failures and self._late(0.5):
                break
            try:
                model = building.build(model_class, config_class, strength, overrides)
                self._stage("eager")
                self.found.parameters = building.parameters(model.built.model)
                for candidate, subject in self._subjects(model, strength, overrides):
                    self.found.strength, self.found.library = (strength, model.built.library)
                    self.found.mended = json.dumps(overrides) if overrides != given else ""
                    self._stage("export")
                    try:
                        return self._program(candidate, subject, model)
                    except Failed as failed:
                        self.failures.append(failed)
                        if self._late(0.6):
                            break
                    break
            except Failed as failed:
                self.failures.append(failed)
            if any(
                STAGES.index(f.stage) >= STAGES.index("export") and not proof.rounding(f) for f in self.failures
            ):
                break  # another strength has the same code
        raise max(self.failures, key=lambda f: STAGES.index(f.stage))

    # Configurations.

    def _ways_to_shrink(self, model_class, config_class, given: dict) -> Iterator[tuple[str, dict]]:
        """Every strength; then those with what the errors of the first two say of their fields."""
        for strength in shrinking.STRENGTHS:
            yield strength, given
            if (
                self.failures
                and self.failures[-1].stage in ("configuration", "build")
                and self.failures[-1].__cause__ is not None
            ):
                self.errors[strength].insert(0, (-1, self.failures[-1].__cause__, given))
        seen = set()
        for strength in shrinking.STRENGTHS[:3]:
            # What a mended one comes to is appended meanwhile.
            for number, error, before in self.errors[strength]:
                if self._late(0.5) or len(seen) > 8:
                    return
                if str(error) in seen:
                    continue
                seen.add(str(error))
                overrides = mending.mended(
                    functools.partial(self._trial, model_class, config_class, strength, number), before,
                    lambda: self._late(0.5),
                )  # fmt: skip
                if overrides is not None and overrides != before:
                    yield strength, overrides

    def _trial(self, model_class, config_class, strength: str, number: int, overrides: dict):
        """For `mending`: what becomes of one idea for the inputs, or of building alone where `number` is negative."""
        try:
            config = building.configuration(config_class, strength, overrides)
        except Failed as failed:
            return None, failed.__cause__
        try:
            model = building.build(model_class, config_class, strength, overrides, bind=False)
        except Failed as failed:
            # One that became large is no way further, whatever its error says.
            return (config if failed.__cause__ is not None else None), failed.__cause__ or failed
        if number < 0:
            return config, None
        thinker = candidates.Thinker(model.built.model, model.built.config)
        try:
            idea = next(itertools.islice(self._ideas(thinker, model), number, None))
            return config, self._first_run(thinker, idea)[1]
        except Exception as problem:  # noqa: BLE001 - an idea that contradicts the configuration
            return config, problem

    # Inputs.

    def _subjects(
        self, model: building.Model, strength: str, overrides: dict
    ) -> Iterator[tuple[media.Candidate, exporting.Subject]]:
        """Candidates that run and whose every input moves the outputs."""
        studies, first = 0, None
        for candidate in self._running(model, strength, overrides):
            if studies >= _MOST_STUDIES or self._late(0.5):
                break
            if candidate.text_only:
                first = first or Failed("informative", "only its text alone runs, without picture or sound")
                continue
            self._stage("informative")
            studies += 1
            try:
                found = self._study(candidate, model)
            except (golden.UninformativeGolden, exporting.ExportError) as error:
                first = first or Failed("informative", str(error))
                continue
            except Exception as error:  # noqa: BLE001 - e.g. fresh inputs or a copy that does not run
                first = first or Failed("informative", text(error), where(error))
                continue
            yield found
        raise first or Failed("eager", "no inputs were found with which it runs")

    def _running(self, model: building.Model, strength: str, overrides: dict) -> Iterator[media.Candidate]:
        """Candidates that run in eager."""
        first = None
        trial = model.copy()
        thinker = candidates.Thinker(trial.built.model, trial.built.config)
        self.thinker = thinker
        ran = False
        for number, candidate in enumerate(self._ideas(thinker, model)):
            if number >= _MOST_CANDIDATES or self._late(0.5):
                break
            try:
                found, error = self._first_run(thinker, candidate)
            except Exception as problem:  # noqa: BLE001 - an idea that contradicts the configuration
                found, error = None, problem
            if found is not None:
                ran = True
                yield found
            elif error is not None:
                self.errors[strength].append((number, error, overrides))
                first = first or Failed("eager", text(error), where(error))
        if not ran:
            raise first or Failed("eager", "no idea for its inputs")

    def _ideas(self, thinker: candidates.Thinker, model: building.Model) -> Iterator[media.Candidate]:
        if not self.entry.input_maker:
            yield from thinker.candidates()
            return
        made = inputs.MAKERS[self.entry.input_maker](model.built.config)
        given = {item.name: item for item in made if isinstance(item, inputs.Input)}
        constants = {n: v for item in made if isinstance(item, dict) for n, v in item.items()}
        yield media.Candidate(given, constants)

    def _first_run(self, thinker, candidate) -> tuple[media.Candidate | None, Exception | None]:
        """Runs a candidate; where the model wants places for features among the ids, with those."""
        error = None
        if (
            "input_ids" in candidate.inputs
            and candidate.media
            and places.placeholder(thinker, candidate.media) is not None
        ):
            grid = candidate.constants.get("image_grid_thw")
            if grid is not None:
                merge = (
                    media.anywhere(thinker.config, "spatial_merge_size", "merge_size", default=2) or 2
                )
                count = int(grid.prod()) // merge**2
            else:
                count = places.features(thinker, candidate)
            candidate = (places.with_placeholders(thinker, candidate, count) if count else None) or candidate
        for _ in range(3):
            constants = _constants_for(thinker.model, candidate, thinker)
            try:
                drawn = candidate.draw()
                before = {name: tensor._version for name, tensor in drawn.items()}
                output = thinker.model(**drawn, **constants)
                wrapper.any_outputs(output)
                written = any(drawn[name]._version != version for name, version in before.items())
                return dataclasses.replace(candidate, constants=constants, written=written), None
            except Exception as raised:  # noqa: BLE001
                error = error or raised
                count = places.counted_features(str(raised))
                if not count and candidate.media and error is raised and "input_ids" in candidate.inputs:
                    # Two a row: the error of a wrong number may name the right one.
                    count = 2 * candidate.inputs["input_ids"].shape[0]
                repaired = places.with_placeholders(thinker, candidate, count) if count and candidate.media else None
                if repaired is None:
                    break
                candidate = repaired
        return None, error

    def _study(self, candidate, model: building.Model) -> tuple[media.Candidate, exporting.Subject]:
        """The subject of a candidate, less what it takes no notice of and can do without."""
        kept = {"input_ids", "decoder_input_ids", candidate.media, *self.thinker.required}
        fit = False
        while True:
            # Where batch norms can be fitted to the signals, that is tried before a dead one is borne.
            signals: list[str] = []
            fresh = model.copy()
            if candidate.written:
                fresh.built.model.register_forward_pre_hook(_with_copies, with_kwargs=True)
            try:
                subject = exporting.study(
                    fresh.built, fresh.specs, fresh.tied, candidate.listed(), candidate.constants, fit,
                    wrapper.any_outputs, signals if fit or not self._has_norms(model) else None,
                )  # fmt: skip
                self._check(subject)
                self.found.signals = signals[0][:200] if signals else ""
                return candidate, subject
            except exporting.Unmoved as error:
                spec = candidate.inputs[error.name]
                if error.name not in kept:
                    candidate = candidate.without({error.name})
                elif isinstance(spec, media.Mask):
                    candidate = self._with(candidate, dataclasses.replace(spec, moves=False))
                elif not fit and self._has_norms(model):
                    fit = True
                else:
                    raise
            except golden.UninformativeGolden as error:
                if not fit and self._has_norms(model):
                    fit = True
                    continue
                padding = {
                    name
                    for name, spec in candidate.inputs.items()
                    if isinstance(spec, media.Mask) and name not in kept
                }
                if not isinstance(error, _Infinite) or not padding:
                    raise
                candidate = candidate.without(padding)  # as where no mask gets through the tracer
            except Exception:
                if all(spec.batch_dim is None for spec in candidate.listed()):
                    raise
                # Perhaps it is the other batch sizes that do not run.
                candidate = _fixed(candidate)

    @staticmethod
    def _has_norms(model: building.Model) -> bool:
        return any(isinstance(m, torch.nn.modules.batchnorm._BatchNorm) for m in model.built.model.modules())

    @staticmethod
    def _with(candidate, spec):
        return dataclasses.replace(candidate, inputs={**candidate.inputs, spec.name: spec})

    @staticmethod
    def _check(subject: exporting.Subject) -> None:
        """What a tracked model's entry vouches for is looked at here: numbers on every sample, and the same twice."""
        for sample in subject.samples:
            for name, tensor in zip(subject.output_names, sample.outputs, strict=True):
                if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                    raise _Infinite(f"output {name} has NaN or infinite values on {sample.label}")
                if tensor.is_complex():
                    raise golden.UninformativeGolden(f"output {name} is complex")
        if not any(t.is_floating_point() for t in subject.samples[0].outputs):
            raise golden.UninformativeGolden("no output is of floating point")
        first = subject.samples[0]
        again = list(copy.deepcopy(subject.wrapped)(**first.arguments))
        try:
            exporting.agree("a second run of eager", first.outputs, again)
        except exporting.ExportError as error:
            raise golden.UninformativeGolden(f"draws at random: {error}") from error

    # The program.

    def _program(self, candidate, subject: exporting.Subject, model: building.Model) -> program_pb2.Program:
        """The first way that gives a program equal to eager; with masks before without."""
        try:
            return self._of_subject(subject)
        except Failed as failed:
            optional = {
                name
                for name, spec in candidate.inputs.items()
                if isinstance(spec, media.Mask) and name not in self.thinker.required
            }
            if not optional or self._late(0.8):
                raise
            whole = {
                n: torch.ones(candidate.inputs[n].shape, dtype=candidate.inputs[n].dtype) for n in optional
            }
            # Left out, or else, where the model cannot do without them, constants that mask nothing.
            for constants in ({}, whole):
                bare = candidate.without(optional)
                bare = dataclasses.replace(bare, constants={**bare.constants, **constants})
                try:
                    _, unmasked = self._study(bare, model)
                    break
                except Exception:  # noqa: BLE001 - it does not run so
                    continue
            else:
                raise failed
            return self._of_subject(unmasked)

    def _of_subject(self, subject: exporting.Subject) -> program_pb2.Program:
        """A dynamic batch before a fixed one."""
        failures, fixed = [], "eager itself runs with this batch alone"
        tried = [] if all(spec.batch_dim is None for spec in subject.inputs) else [(subject, True)]
        tried.append((proof.without_batches(subject), False))
        with contextlib.ExitStack() as stack:
            for name in [*_patches(), *self.said]:
                stack.enter_context(patches.load(name).apply())
            for one, dynamic in tried:
                try:
                    names, modes = proof.way(one)
                    return self._prove(one, names, modes, "" if dynamic else fixed)
                except Exception as error:  # noqa: BLE001 - whatever the tracer raises
                    stage = "equal" if isinstance(error, exporting.ExportError) else "export"
                    failed = (
                        error if isinstance(error, Failed) else Failed(stage, text(error), where(error))
                    )
                    fixed = failed.cause
                    failures.append(failed)
                if self._late(0.9):
                    break
        raise max(failures, key=lambda f: STAGES.index(f.stage))  # the one that went further

    def _prove(self, subject, names, modes, fixed: str) -> program_pb2.Program:
        from ..patches import recorded_values

        entry = catalogue_pb2.CatalogueEntry()
        entry.CopyFrom(self.entry)
        entry.ClearField("patch")
        entry.patch.extend([*_patches(), *self.said, *names])
        batch_dims = {spec.name: spec.batch_dim for spec in subject.inputs}
        with contextlib.ExitStack() as stack:
            for mode in modes:
                stack.enter_context(wrapper.around(mode))
            if modes:
                stack.enter_context(recorded_values.whole_lists())
            # A copy, so that what tracing leaves in a model cannot matter for another way.
            traced = copy.deepcopy(subject.wrapped)
            graph = exporting.export_module(traced, subject.samples[0].arguments, batch_dims)
            graph = complexes.as_pairs(graph)
        self._stage("equal")
        proof.check_graph(graph)
        signature = exporting.read_signature(graph, subject)
        # The graph is held against unpatched eager itself, whatever was in force while it was traced.
        difference = max(
            exporting.agree(f"patched eager on {sample.label}", sample.outputs,
                            list(copy.deepcopy(subject.wrapped)(**sample.arguments)))
            for sample in subject.samples
        )  # fmt: skip
        differences = dict.fromkeys(entry.patch, difference)
        program = exporting.assemble(entry, subject, graph, signature, differences)
        exporting.prove(program, subject.samples)
        self._stage("program")
        proof.check_reads(program, subject)
        found = self.found
        found.inputs = [spec.name for spec in subject.inputs]
        found.outputs = list(subject.output_names)
        found.patches, found.fixed_batch = list(names), fixed
        found.nodes = len(program.graph.nodes)
        self.entry.CopyFrom(entry)
        if fixed:
            for check in ("batch_invariance", "batch_order"):
                self.entry.not_applicable.add(
                    case_name="test_model_with_mock", check=check, reason=f"the batch is fixed: {fixed}"
                )
        self._stage("done")
        return program


def _fixed(candidate: media.Candidate) -> media.Candidate:
    given = {name: dataclasses.replace(spec, batch_dim=None) for name, spec in candidate.inputs.items()}
    return dataclasses.replace(candidate, inputs=given)


def attempt(
    entry: catalogue_pb2.CatalogueEntry,
    architecture: library.Architecture,
    seconds: float = 60.0,
    on_stage: Callable[[Found], None] = lambda found: None,
) -> tuple[Found, program_pb2.Program | None]:
    """What became of the architecture, and its program without legitimate errors.

    `entry` has the words that are needed, and is completed.
    """
    torch.set_num_threads(1)
    entry.name = architecture.name
    if architecture.model_type != architecture.name:
        entry.original_name = architecture.model_type
    entry.builder, entry.template = "discovered", entry.template or "architecture"
    if architecture.skipped:
        return Found(architecture.name, "class", cause=architecture.skipped), None
    with warnings.catch_warnings(), torch.no_grad(), proof.unvalidated():
        warnings.simplefilter("ignore")
        return _Attempt(entry, architecture, time.process_time() + seconds, on_stage).run(seconds)


def export(entry: catalogue_pb2.CatalogueEntry) -> program_pb2.Program:
    """The program of an entry that was discovered, made anew; ExportError with the stage and the cause."""
    architecture = library.architectures().get(entry.name)
    if architecture is None:
        raise exporting.ExportError(f"the installed transformers has no architecture '{entry.name}'")
    words = catalogue_pb2.CatalogueEntry(input_maker=entry.input_maker, model_class=entry.model_class)
    words.patch.extend(name for name in entry.patch if name not in (*_PATCHES, *_FOUND))
    words.config_override.extend(entry.config_override)
    found, program = attempt(words, architecture, seconds=600)
    if program is None:
        raise exporting.ExportError(f"{found.stage}: {found.cause}")
    exporting.add_rounding(program)
    return program
