"""What eager's outputs say to the questions: labels and the expected text; a close call is left out."""

import torch

from ..proto import program_pb2
from . import samples

_LABELLED = 50  # ids that get a label at each place
# Relative to an output's largest value: nearer than this, another processor may decide otherwise.
_MARGIN = 1e-4


def _places(answer: program_pb2.Answer, output: torch.Tensor) -> list[torch.Tensor]:
    """The rows of scores that an answer is read off, with suppressed ids at minus infinity."""
    if answer.WhichOneof("kind") == "top":
        return [output[tuple(answer.top.index)].double()]
    greedy = answer.greedy
    rows = []
    for i in range(len(greedy.token)):
        scores = output[greedy.row, greedy.first + i].double().clone()
        never = list(greedy.suppressed) + (list(greedy.suppressed_first) if i == 0 else [])
        scores[never] = float("-inf")
        rows.append(scores)
    return rows


def _slack(output: torch.Tensor, error: float) -> float:
    return max(_MARGIN * float(output.double().abs().max()), 10 * error)


def _read_top(answer, output, error, label) -> str:
    """Why it is left out; empty: it stands."""
    scores = _places(answer, output)[0]
    best = torch.topk(scores, min(_LABELLED, scores.numel()))
    if float(best.values[0] - best.values[1]) <= _slack(output, error):
        return f"the two best differ by {float(best.values[0] - best.values[1]):.2g}, within rounding"
    if not answer.label:
        for number in best.indices.tolist():
            if text := label(number):
                answer.label[number] = text
    first = int(best.indices[0])
    answer.expected = answer.label[first] if first in answer.label else f"#{first}"
    return ""


def _read_greedy(answer, output, error, label, text_of) -> str:
    greedy = answer.greedy
    sure = 0
    for token, scores in zip(greedy.token, _places(answer, output), strict=True):
        best = torch.topk(scores, 2)
        if int(best.indices[0]) != token:
            largest = int(best.indices[0])
            return f"token {sure} of generate() is {token}, the outputs' largest value is at {largest}"
        if float(best.values[0] - best.values[1]) <= _slack(output, error):
            break  # what follows would rest on a close call
        sure += 1
    del greedy.token[sure:]
    greedy.text = text_of(list(greedy.token)).strip() if sure else ""
    if not greedy.text:
        return "no token of it is beyond rounding"
    for scores in _places(answer, output):
        for number in torch.topk(scores, min(_LABELLED, scores.numel())).indices.tolist():
            if number not in answer.label and (text := label(number)):
                answer.label[number] = text
    answer.expected = greedy.text
    return ""


def embedding(answer: program_pb2.Answer, output: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """[rows, width] in float64: the mean over positions where the mask is not zero, or the output itself."""
    output = output.double()
    if mask is None:
        return output
    weight = (mask != 0).double().unsqueeze(-1)
    return (output * weight).sum(dim=1) / weight.sum(dim=1)


def _read_nearest(answer, output, inputs) -> str:
    mask = inputs[answer.nearest.mask] if answer.nearest.mask else None
    rows = torch.nn.functional.normalize(embedding(answer, output, mask), dim=1)
    cosines = rows @ rows[answer.nearest.row]
    cosines[answer.nearest.row] = float("-inf")
    best = torch.topk(cosines, 2)
    if float(best.values[0] - best.values[1]) <= _MARGIN:
        return f"the two nearest differ by {float(best.values[0] - best.values[1]):.2g}, within rounding"
    found = int(best.indices[0])
    answer.expected = answer.label[found] if found in answer.label else f"#{found}"
    return ""


def _class_label(config):
    names = getattr(config, "id2label", None) or {}

    def label(number: int) -> str:
        name = str(names.get(number, ""))
        return "" if name == f"LABEL_{number}" else samples.clean(name)

    return label


def read(
    asked: list[program_pb2.Answer],
    outputs: dict[str, torch.Tensor],
    errors: dict[str, float],
    inputs: dict[str, torch.Tensor],
    texts: samples.Texts | None,
    config,
) -> tuple[list[program_pb2.Answer], list[str]]:
    """(answers with labels and expected texts, why others are left out). `errors`: float64_error by name."""
    kept, notes = [], []
    for answer in asked:
        kind = answer.WhichOneof("kind")
        name = getattr(answer, kind).output
        if name in outputs and kind == "nearest" and outputs[name].dim() != (3 if answer.nearest.mask else 2):
            notes.append(f"answer '{answer.name}' left out: {name} has {outputs[name].dim()} dimensions")
            continue
        if name not in outputs:
            notes.append(f"answer '{answer.name}' left out: the model gives no {name}")
            continue
        output, error = outputs[name], errors.get(name, 0.0)
        by_class = texts is None or output.dim() == 2
        label = _class_label(config) if by_class else texts.label
        if kind == "top":
            why = _read_top(answer, output, error, label)
        elif kind == "greedy":
            why = _read_greedy(answer, output, error, label, texts.text)
        else:
            why = _read_nearest(answer, output, inputs)
        if why:
            notes.append(f"answer '{answer.name}' left out: {why}")
        else:
            kept.append(answer)
    return kept, notes
