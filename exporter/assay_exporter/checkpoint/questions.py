"""The golden's inputs, row by row, and what can be asked of the outputs that they give."""

import dataclasses
import pathlib

import torch
from transformers import GenerationConfig

from .. import weights
from ..proto import catalogue_pb2, program_pb2
from . import samples
from .architecture import Architecture
from .shapes import Bucket
from .verdict import Refused, one_line

NEW_TOKENS = 8
_SPOKEN_TOKENS = 20
_SHOWN = 5  # of a Top


@dataclasses.dataclass
class Prepared:
    """What is known of the inputs before there is a bucket."""

    texts: samples.Texts | None
    rows: list[samples.Row]
    own: int  # how many of the rows are the entry's
    labels: list[samples.Row]
    notes: list[str]
    longest: int = 0  # tokens that the longest row needs


@dataclasses.dataclass
class Asked:
    inputs: dict[str, torch.Tensor]
    answers: list[program_pb2.Answer]  # without labels and expected texts
    notes: list[str]
    # Of a decoder, row by row: how many tokens its prompt has, and what greedy decoding writes after it.
    prompts: list[int] = dataclasses.field(default_factory=list)
    written: list[list[int]] = dataclasses.field(default_factory=list)


def _continues(arch: Architecture) -> bool:
    return arch.model_class.__name__.endswith(("ForCausalLM", "LMHeadModel"))


def prepare(
    arch: Architecture, entry: catalogue_pb2.CheckpointEntry | None, folder: pathlib.Path | None, family: str
) -> Prepared:
    """Reads samples through the checkpoint's tokenizer. Refused where the entry's samples cannot be used."""
    takes_text = family in ("text", "seq2seq", "speech", "picture_and_labels")
    texts = samples.load_tokenizer(arch) if takes_text else None
    made = Prepared(texts, [], len(entry.sample) if entry is not None else 0, [], [])
    if texts is not None and texts.tokenizer is None:
        made.notes.append(f"no tokenizer: {texts.why_not}")
    if family in ("text", "seq2seq"):
        made.rows = samples.text_rows(arch, entry, texts)
        new = NEW_TOKENS if family == "text" and _continues(arch) else 0
        made.longest = max((len(row.ids) + new for row in made.rows), default=0)
    elif family in ("image", "speech", "waveform", "picture_and_labels"):
        made.rows = samples.file_rows(entry, folder, speech=family in ("speech", "waveform"))
        if not made.rows:
            made.notes.append("no samples of pictures or speech are there: inputs are noise")
    elif made.own:
        raise Refused(f"the entry has samples, and inputs of {arch.name} are made by rule alone")
    if family == "picture_and_labels":
        made.labels = samples.label_rows(texts)
    return made


def by_rule(bucket: Bucket) -> dict[str, torch.Tensor]:
    """Inputs that are only drawn, as fresh ones are."""
    return {spec.name: spec.make(weights.SEED) for spec in bucket.inputs}


def _fill(given: dict, names: tuple[str, str], rows: list[list[int]], pad: int) -> None:
    """Puts rows of ids into inputs `names` (ids, mask), padded on the right."""
    ids = given[names[0]]
    for row, values in enumerate(rows[: ids.shape[0]]):
        if len(values) > ids.shape[1]:
            raise Refused(f"a sample has {len(values)} tokens, the program takes {ids.shape[1]}")
        ids[row] = pad
        ids[row, : len(values)] = torch.tensor(values)
        if names[1] in given:
            given[names[1]][row] = 0
            given[names[1]][row, : len(values)] = 1


def _top(name: str, question: str, output: str, index: list[int], count: int = _SHOWN) -> program_pb2.Answer:
    top = program_pb2.Answer.Top(output=output, index=index, count=count)
    return program_pb2.Answer(name=name, question=question, top=top)


def _nearest(rows: list[samples.Row], number: int, output: str, mask: str) -> program_pb2.Answer:
    nearest = program_pb2.Answer.Nearest(output=output, mask=mask, row=number)
    answer = program_pb2.Answer(name=rows[number].answer, question=rows[number].question, nearest=nearest)
    for other, row in enumerate(rows):
        answer.label[other] = row.question
    return answer


def _plain_greedy(model, eos) -> GenerationConfig:
    held = model.generation_config
    pad = held.pad_token_id
    if pad is None:
        pad = eos[0] if isinstance(eos, list) else eos
    return GenerationConfig(
        do_sample=False, num_beams=1, max_new_tokens=NEW_TOKENS, eos_token_id=eos, pad_token_id=pad or 0,
        bos_token_id=held.bos_token_id, decoder_start_token_id=held.decoder_start_token_id,
    )  # fmt: skip


def _continued(arch, model, prepared: Prepared, rows: list[samples.Row], asked: Asked) -> list[list[int]]:
    """Each row with what greedy decoding writes after it, and the questions about both."""
    longer = []
    for number, row in enumerate(rows):
        ids = list(row.ids)
        asked.prompts.append(len(ids))
        asked.written.append([])
        if row.answer:
            question = row.question or prepared.texts.text(ids)
            asked.answers.append(_top(row.answer, question, "logits", [number, len(ids) - 1]))
            try:
                written = model.generate(
                    torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long),
                    generation_config=_plain_greedy(model, model.generation_config.eos_token_id),
                )[0, len(ids) :].tolist()  # fmt: skip
            except Exception as error:
                asked.notes.append(
                    f"answer '{row.answer}_text' left out: generate fails: {one_line(error, 200)}"
                )
                longer.append(ids)
                continue
            greedy = program_pb2.Answer.Greedy(output="logits", row=number, first=len(ids) - 1, token=written)
            asked.answers.append(
                program_pb2.Answer(name=f"{row.answer}_text", question=question, greedy=greedy)
            )
            ids += written
            asked.written[-1] = written
        longer.append(ids)
    return longer


def _text(arch, bucket, prepared: Prepared, model) -> Asked:
    asked = Asked(by_rule(bucket), [], list(prepared.notes))
    texts, rows = prepared.texts, prepared.rows[: bucket.rows]
    if not rows:
        asked.notes.append("no answers: inputs are seeded ids")
        return asked
    ids = [row.ids for row in rows]
    outputs = arch.model_class.__name__
    if _continues(arch) and model is not None:
        ids = _continued(arch, model, prepared, rows, asked)
    elif outputs.endswith("ForMaskedLM") and texts.mask_id is not None:
        for number, row in enumerate(rows):
            places = [i for i, token in enumerate(row.ids) if token == texts.mask_id]
            for count, place in enumerate(places if row.answer else []):
                name = row.answer if count == 0 else f"{row.answer}_{count + 1}"
                asked.answers.append(_top(name, row.question, "logits", [number, place]))
    elif outputs.endswith("ForSequenceClassification"):
        classes = min(_SHOWN, arch.config.num_labels)
        asked.answers.extend(
            _top(row.answer, row.question, "logits", [number], classes)
            for number, row in enumerate(rows)
            if row.answer and classes > 1
        )
    elif outputs.endswith("Model") and "attention_mask" in asked.inputs and len(rows) >= 3:
        for number, row in enumerate(rows):
            if row.answer:
                asked.answers.append(_nearest(rows, number, "last_hidden_state", "attention_mask"))
    while len(ids) < bucket.rows:  # tokens alone, without a tokenizer for more
        ids.append(ids[0])
        if asked.prompts:
            asked.prompts.append(asked.prompts[0])
            asked.written.append(asked.written[0])
    _fill(asked.inputs, ("input_ids", "attention_mask"), ids, texts.pad_id)
    return asked


def _seq2seq(arch, bucket, prepared: Prepared, model) -> Asked:
    asked = Asked(by_rule(bucket), [], list(prepared.notes))
    texts, rows = prepared.texts, prepared.rows[: bucket.rows]
    start = getattr(arch.config, "decoder_start_token_id", None)
    if not rows or start is None:
        asked.notes.append("no answers: inputs are seeded ids")
        return asked
    ids = [row.ids for row in rows]
    while len(ids) < bucket.rows:
        ids.append(ids[0])
    _fill(asked.inputs, ("input_ids", "attention_mask"), ids, texts.pad_id)
    written = []
    for number, row in enumerate(rows):
        decoder = [start]
        if row.answer and model is not None and hasattr(model, "lm_head"):
            try:
                config = _plain_greedy(model, model.generation_config.eos_token_id)
                config.decoder_start_token_id = start
                decoder = model.generate(
                    torch.tensor([row.ids]), attention_mask=torch.ones(1, len(row.ids), dtype=torch.long),
                    generation_config=config,
                )[0].tolist()  # fmt: skip
                greedy = program_pb2.Answer.Greedy(output="logits", row=number, first=0, token=decoder[1:])
                asked.answers.append(
                    program_pb2.Answer(name=row.answer, question=row.question, greedy=greedy)
                )
            except Exception as error:
                asked.notes.append(f"answer '{row.answer}' left out: generate fails: {one_line(error, 200)}")
        written.append(decoder)
    while len(written) < bucket.rows:
        written.append(written[0])
    _fill(asked.inputs, ("decoder_input_ids", ""), written, texts.pad_id)
    return asked


def _transcribe(
    model, texts: samples.Texts, features: torch.Tensor
) -> tuple[list[int], list[int], list[int], list[int]]:
    """(prefix, tokens with the end, never chosen, never chosen first) of a Whisper model's own generate()."""
    held = model.generation_config
    more = {}
    if getattr(held, "is_multilingual", False):
        texts.tokenizer.set_prefix_tokens(language="english", task="transcribe", predict_timestamps=False)
        more = {"language": "en", "task": "transcribe"}
    prefix = list(getattr(texts.tokenizer, "prefix_tokens", []))
    if not prefix or prefix[0] != held.decoder_start_token_id:
        prefix = [held.decoder_start_token_id]
    without_times = getattr(held, "no_timestamps_token_id", None)
    if without_times is not None and without_times not in prefix:
        prefix.append(without_times)
    tokens = model.generate(features, max_new_tokens=_SPOKEN_TOKENS, do_sample=False, num_beams=1, **more)[
        0
    ].tolist()
    if tokens[: len(prefix)] == prefix:
        tokens = tokens[len(prefix) :]
    end = held.eos_token_id[0] if isinstance(held.eos_token_id, list) else held.eos_token_id
    tokens = tokens[: tokens.index(end)] if end in tokens else tokens
    if len(tokens) < _SPOKEN_TOKENS:  # it came to an end of its own, which generate() leaves out
        tokens = [*tokens, end]
    return prefix, tokens, list(held.suppress_tokens or []), list(held.begin_suppress_tokens or [])


def _speech(arch, bucket, prepared: Prepared, model) -> Asked:
    asked = Asked(by_rule(bucket), [], list(prepared.notes))
    if not prepared.rows:
        return asked
    shape = tuple(asked.inputs["input_features"].shape)
    rows = prepared.rows[: bucket.rows]
    try:
        asked.inputs["input_features"] = samples.speech_features(arch, rows, shape)
    except (OSError, ValueError, TypeError, KeyError) as error:
        asked.notes.append(f"no answers: no features of speech: {one_line(error, 200)}")
        return asked
    if model is None or prepared.texts.tokenizer is None or not hasattr(model, "proj_out"):
        return asked
    written = []
    for number, row in enumerate(rows):
        try:
            features = asked.inputs["input_features"][number : number + 1]
            prefix, tokens, never, not_first = _transcribe(model, prepared.texts, features)
        except Exception as error:
            asked.notes.append(f"answer '{row.answer}' left out: generate fails: {one_line(error, 200)}")
            continue
        written.append(prefix + tokens)
        if row.answer:
            greedy = program_pb2.Answer.Greedy(
                output="logits", row=number, first=len(prefix) - 1, token=tokens,
                suppressed=never, suppressed_first=not_first,
            )  # fmt: skip
            asked.answers.append(program_pb2.Answer(name=row.answer, question=row.question, greedy=greedy))
    if not written:
        return asked
    while len(written) < bucket.rows:
        written.append(written[0])
    _fill(asked.inputs, ("decoder_input_ids", ""), written, prepared.texts.pad_id)
    return asked


def _pictures(arch, bucket, prepared: Prepared, model) -> Asked:
    asked = Asked(by_rule(bucket), [], list(prepared.notes))
    rows = prepared.rows[: bucket.rows]
    if not rows:
        return asked
    shape = tuple(asked.inputs["pixel_values"].shape)
    try:
        asked.inputs["pixel_values"] = samples.pixels(arch, rows, shape)
    except Exception as error:  # whatever a processor's file may hold
        asked.notes.append(f"no answers: pictures do not pass the image processor: {one_line(error, 200)}")
        return asked
    named = [(number, row) for number, row in enumerate(rows) if row.answer]
    if bucket.family == "picture_and_labels":
        if not prepared.labels:
            asked.notes.append("no answers: no tokenizer for the labels' texts")
            return asked
        _fill(
            asked.inputs, ("input_ids", "attention_mask"), [row.ids for row in prepared.labels],
            prepared.texts.pad_id,
        )  # fmt: skip
        for number, row in named:
            answer = _top(row.answer, row.question, "logits_per_image", [number], len(prepared.labels))
            for other, label in enumerate(prepared.labels):
                answer.label[other] = label.question
            asked.answers.append(answer)
    elif arch.model_class.__name__.endswith("ForImageClassification") and arch.config.num_labels > 1:
        count = min(_SHOWN, arch.config.num_labels)
        asked.answers.extend(
            _top(row.answer, row.question, "logits", [number], count) for number, row in named
        )
    elif bucket.also and len(rows) >= 3:
        asked.answers.extend(_nearest(rows, number, bucket.also[0], "") for number, _ in named)
    return asked


def _waveform(arch, bucket, prepared: Prepared, model) -> Asked:
    asked = Asked(by_rule(bucket), [], list(prepared.notes))
    if prepared.rows:
        shape = tuple(asked.inputs["input_values"].shape)
        try:
            asked.inputs["input_values"] = samples.speech_features(arch, prepared.rows, shape)
        except Exception as error:  # whatever a feature extractor's file may hold
            asked.notes.append(f"inputs are noise: no features of speech: {one_line(error, 200)}")
    return asked


def _special(arch, bucket, prepared: Prepared, model) -> Asked:
    return Asked(by_rule(bucket), [], [*prepared.notes, "no answers: inputs are made by rule"])


_FAMILIES = {
    "text": _text, "seq2seq": _seq2seq, "speech": _speech, "image": _pictures,
    "picture_and_labels": _pictures, "waveform": _waveform, "special": _special,
}  # fmt: skip


def ask(arch: Architecture, bucket: Bucket, prepared: Prepared, model: torch.nn.Module | None) -> Asked:
    """Inputs of the bucket's shapes; questions that need a decoding only where there is a `model`."""
    with torch.no_grad():
        asked = _FAMILIES[bucket.family](arch, bucket, prepared, model)
    names = [answer.name for answer in asked.answers]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise Refused(f"samples: answers of one name: {', '.join(twice)}")
    return asked
