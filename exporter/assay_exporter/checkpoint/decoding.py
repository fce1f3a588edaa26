"""Decoding with a cache of a checkpoint: the programs, and what greedy decoding writes after the golden's prompts.

The programs are the configuration's; the prompts, of different lengths and so padded on the left, are the golden's.
"""

import contextlib
import types

import torch
from transformers import GenerationMixin

from .. import builders
from ..proto import program_pb2
from ..variants import decoding, generation, graph
from ..variants.graph import Missing, NotApplicable
from . import compare, questions, run
from .loading import Loaded
from .shapes import Bucket
from .verdict import one_line

_TOKENS, _OUTPUT = "input_ids", "logits"


@contextlib.contextmanager
def _cached(model):
    generation.with_cache(model.config)
    try:
        yield
    finally:
        builders.configure(model.config)


def _cause(error: Exception) -> str:
    return graph.one_line(error) if isinstance(error, (Missing, NotApplicable)) else one_line(error)


def _recording(loaded: Loaded, bucket: Bucket) -> generation.Recording:
    length = next(spec.shape[1] for spec in bucket.inputs if spec.name == _TOKENS)
    prompt = length - questions.NEW_TOKENS
    if prompt < 1:
        raise Missing(f"{length} tokens leave no prompt before the {questions.NEW_TOKENS} that are written")
    return generation.Recording(loaded.model, "", _TOKENS, _OUTPUT, prompt, [], [])


def _decoder(program, bound, parts, how: program_pb2.Decoding) -> decoding.Decoder:
    def runs(part):
        whole = graph.whole(program, part)
        return lambda inputs: run.run(whole, bound, inputs).outputs

    return decoding.Decoder(program, parts, how, runs)


def _variant(program: program_pb2.Program, bucket: Bucket, loaded: Loaded, bound: dict) -> program_pb2.Variant:
    model = loaded.model
    if not (isinstance(model, GenerationMixin) and model.can_generate()):
        raise NotApplicable(f"{type(model).__name__} of transformers does not generate")
    if bucket.family != "text":
        raise Missing("of checkpoints only decoders that read text alone are decoded with a cache")
    recording = _recording(loaded, bucket)
    for seed in generation.CHECKPOINT_SEEDS:
        arguments = {spec.name: spec.make(seed) for spec in bucket.inputs}
        recording.runs.append(generation.run(recording, bucket.constants, arguments))
    subject = types.SimpleNamespace(
        weights=program.manifest.weights, tied=program.manifest.tied, output_names=[_OUTPUT]
    )
    parts, how = decoding.programs(subject, recording, traced=False)
    decoder = _decoder(program, bound, parts, how)
    for index, one in enumerate(recording.runs):
        found = decoder.logits(one.arguments, one.written[:, :-1])
        expected = [call.logits[:, -1] for call in one.calls]
        graph.near(f"generate on draw {index}", expected, found, compare.TOLERANCE)
    made = program_pb2.Variant(name="kv_cache", program=parts)
    made.decoding.CopyFrom(how)
    return made


def add(program: program_pb2.Program, bucket: Bucket, loaded: Loaded, bound: dict) -> str:
    """Writes the variant kv_cache into a program that was made for this checkpoint; a line for the log."""
    made = program_pb2.Variant(name="kv_cache")
    try:
        with torch.no_grad(), _cached(loaded.model):
            made = _variant(program, bucket, loaded, bound)
    except NotApplicable as error:
        made.not_applicable = graph.one_line(error)
    except Exception as error:  # noqa: BLE001 - the library's own, on a checkpoint; the cause is written down
        made.missing = _cause(error)
    del program.variant[:]
    program.variant.append(made)
    return f"decoding with a cache: {made.not_applicable or made.missing or 'exported'}"


def _padded_run(recording, bucket: Bucket, asked: questions.Asked) -> generation.Run:
    tokens = asked.inputs[_TOKENS]
    padding = [recording.prompt - length for length in asked.prompts]
    for row, pads in enumerate(padding):
        if pads < 0:
            raise Missing(f"row {row} has a prompt of {asked.prompts[row]} tokens, the program takes {recording.prompt}")
    prompts, mask = generation.padded_on_the_left(tokens, recording.prompt, padding)
    given = bucket.constants | {_TOKENS: prompts, "attention_mask": mask}
    calls, written = generation.generate(recording.model, given, 0)
    return generation.Run(asked.inputs, given, calls, written, padding)


def _generated(asked: questions.Asked, logits: torch.Tensor) -> list[program_pb2.Generated]:
    """What generate wrote after each row alone, with the two largest numbers that the model gives there without a
    cache."""
    made = []
    for row, (length, tokens) in enumerate(zip(asked.prompts, asked.written, strict=True)):
        one = program_pb2.Generated(token=tokens)
        for k, token in enumerate(tokens):
            best = logits[row, length - 1 + k].topk(2)
            if int(best.indices[0]) != token:
                raise Missing(f"generate writes {token} after row {row}, its outputs say {int(best.indices[0])}")
            one.largest.append(float(best.values[0]))
            one.runner_up.append(float(best.values[1]))
        made.append(one)
    return made


def _fill(made, program, bucket: Bucket, loaded: Loaded, bound, asked: questions.Asked, outputs) -> None:
    variant = next((one for one in program.variant if one.name == "kv_cache"), None)
    if variant is None or not variant.program:
        why = "" if variant is None else variant.not_applicable or variant.missing
        raise Missing(why or "the program was made without decoding")
    if len(asked.prompts) != bucket.rows or max(map(len, asked.written), default=0) < 2:
        raise Missing("there are no prompts after which generate writes something")
    recording = _recording(loaded, bucket)
    recording.padded = _padded_run(recording, bucket, asked)
    how = decoding.padded(recording, variant.decoding)
    for row, tokens in zip(how.row, asked.written, strict=True):
        row.tokens = len(tokens)
    decoder = _decoder(program, bound, variant.program, how)
    tokens, logits = asked.inputs[_TOKENS], outputs[_OUTPUT]
    steps = max(map(len, asked.written))
    ends = [min(length + steps, tokens.shape[1]) for length in asked.prompts]
    forced = torch.zeros((bucket.rows, steps), dtype=tokens.dtype)
    for row, (length, end) in enumerate(zip(asked.prompts, ends, strict=True)):
        forced[row, : end - length] = tokens[row, length:end]
    found = decoder.logits(asked.inputs, forced)
    for row, (length, written) in enumerate(zip(asked.prompts, asked.written, strict=True)):
        expected = [logits[row, length - 1 + k] for k in range(len(written) + 1) if length - 1 + k < logits.shape[1]]
        near = [one[row] for one in found[: len(expected)]]
        graph.near(f"row {row}, padded and with a cache, against eager without", expected, near, generation.CACHED * 10)
    generated = _generated(asked, logits)
    made.decoding.CopyFrom(how)
    made.generated.extend(generated)


def fill(made: program_pb2.CheckpointGolden, program, bucket, loaded, bound, asked, outputs) -> str:
    """Adds to the golden what decoding gives, or why there is none; a line for the log."""
    try:
        with torch.no_grad(), _cached(loaded.model):
            _fill(made, program, bucket, loaded, bound, asked, outputs)
    except Exception as error:  # noqa: BLE001 - as above
        made.no_decoding = _cause(error)
        return f"no decoding in the golden: {made.no_decoding}"
    return f"decoding with a cache: {sum(len(row.token) for row in made.generated)} tokens"
