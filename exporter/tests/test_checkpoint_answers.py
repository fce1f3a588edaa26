"""Answers are what eager says, unless it is a close call; samples are put in as asked."""

import checkpoints
import pytest
import torch
import transformers
from assay_exporter import export
from assay_exporter.checkpoint import answers, architecture, questions, record, samples, shapes
from assay_exporter.checkpoint.verdict import Refused, Unsupported
from assay_exporter.proto import catalogue_pb2, program_pb2
from google.protobuf import text_format


class Words:
    """Texts of ids, as samples.Texts gives them."""

    def label(self, number):
        return f"word{number}"

    def text(self, ids):
        return " ".join(map(self.label, ids))


def entry_of(text):
    return text_format.Parse(text, catalogue_pb2.CheckpointEntry())


def read(asked, outputs, inputs=None, error=0.0, config=None):
    errors = dict.fromkeys(outputs, error)
    return answers.read([asked], outputs, errors, inputs or {}, Words(), config)


def top(index, count=3):
    return program_pb2.Answer(name="a", top=program_pb2.Answer.Top(output="logits", index=index, count=count))


def test_top_is_the_largest_with_labels_of_those_near_it():
    logits = torch.zeros(1, 2, 100)
    logits[0, 1, 42], logits[0, 1, 7] = 5.0, 3.0
    (answer,), notes = read(top([0, 1]), {"logits": logits})
    assert (
        answer.expected == "word42" and answer.label[7] == "word7" and len(answer.label) == 50 and not notes
    )


def test_a_class_without_a_name_is_its_number():
    class Config:
        id2label = {0: "LABEL_0", 1: "cat"}

    (answer,), _ = read(top([0]), {"logits": torch.tensor([[1.0, 0.0]])}, config=Config)
    assert answer.expected == "#0" and dict(answer.label) == {1: "cat"}


@pytest.mark.parametrize("gap,error,kept", [(1e-2, 0.0, 1), (1e-5, 0.0, 0), (1e-2, 5e-3, 0)])
def test_a_close_call_is_no_answer(gap, error, kept):
    logits = torch.tensor([[[1.0, 1.0 + gap, 0.0]]])
    found, notes = read(top([0, 0]), {"logits": logits}, error=error)
    assert len(found) == kept and len(notes) == 1 - kept
    assert kept or "within rounding" in notes[0]


def greedy(tokens, **more):
    return program_pb2.Answer(
        name="a", greedy=program_pb2.Answer.Greedy(output="logits", row=0, first=1, token=tokens, **more)
    )


def chain(tokens, first=1, length=8, size=20):
    logits = torch.zeros(1, length, size)
    for place, token in enumerate(tokens):
        logits[0, first + place, token] = 4.0
    return logits


def test_greedy_is_the_largest_at_each_place_without_suppressed_ids():
    logits = chain([3, 4, 5])
    logits[0, 1, 9] = logits[0, 2, 8] = 9.0
    (answer,), _ = read(greedy([3, 4, 5], suppressed=[8], suppressed_first=[9]), {"logits": logits})
    assert answer.expected == answer.greedy.text == "word3 word4 word5"
    found, notes = read(greedy([3, 4, 5], suppressed=[8]), {"logits": logits})
    assert not found and "largest value is at 9" in notes[0]


def test_greedy_ends_before_a_close_call():
    logits = chain([3, 4, 5])
    logits[0, 2, 6] = 4.0 - 1e-6
    (answer,), _ = read(greedy([3, 4, 5]), {"logits": logits})
    assert list(answer.greedy.token) == [3] and answer.expected == "word3"


def nearest(mask="mask"):
    answer = program_pb2.Answer(name="a", nearest=program_pb2.Answer.Nearest(output="h", mask=mask, row=0))
    for row, text in enumerate(["ask", "near", "far"]):
        answer.label[row] = text
    return answer


def test_nearest_is_by_the_cosine_of_means_over_the_mask():
    hidden = torch.tensor([[[1.0, 0.0], [9.0, 9.0]], [[1.0, 0.1], [-9.0, 9.0]], [[0.0, 1.0], [1.0, 0.0]]])
    mask = torch.tensor([[1, 0], [1, 0], [1, 0]])
    (answer,), _ = read(nearest(), {"h": hidden}, {"mask": mask})
    assert answer.expected == "near"
    (answer,), _ = read(nearest(), {"h": hidden}, {"mask": torch.ones_like(mask)})
    assert answer.expected == "far"
    found, notes = read(nearest(""), {"h": hidden})
    assert not found and "3 dimensions" in notes[0]


def run(tmp_path, name, entry="", **fields):
    task = checkpoints.save(tmp_path / "model", name)
    if entry:
        (tmp_path / "entry.textproto").write_text(entry)
        fields["entry"] = str(tmp_path / "entry.textproto")
    result = checkpoints.export(tmp_path / "model", tmp_path / "out", task, **fields)
    if result["outcome"] != "PASSED":
        return result, None, None
    program = export.unpack((tmp_path / "out" / result["program"]).read_bytes())
    return result, program, record.unpack((tmp_path / "out" / result["golden"]).read_bytes())


def ids_of(program, golden, name="input_ids"):
    for spec, given in zip(program.manifest.inputs, golden.golden.inputs, strict=True):
        if spec.name == name:
            return torch.frombuffer(bytearray(given.data), dtype=torch.long).reshape(tuple(spec.shape))
    raise KeyError(name)


def test_generated_text_is_what_generate_writes(tmp_path):
    _, program, golden = run(tmp_path, "gpt2")
    said = {answer.name: answer for answer in golden.answer}
    assert "capital" in said and "capital_text" in said
    greedy = said["capital_text"].greedy
    words = checkpoints.tokenizer()("The capital of France is", return_tensors="pt")
    model = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "model").eval()
    length = words.input_ids.shape[1]
    written = model.generate(
        words.input_ids, max_new_tokens=questions.NEW_TOKENS, do_sample=False, pad_token_id=0
    )
    count = len(greedy.token)
    assert list(greedy.token) == written[0, length : length + count].tolist() and greedy.first == length - 1
    ids = ids_of(program, golden)
    assert ids.shape[1] == shapes.TOKENS
    assert ids[0, : written.shape[1]].tolist() == written[0].tolist()
    assert said["capital"].expected == checkpoints.tokenizer().decode(written[0, length])


def test_an_entrys_samples_come_first_and_widen_the_bucket(tmp_path):
    long = " ".join(["weather"] * 40)
    entry = f"""sample {{ answer: "long" text: "{long} [MASK]" }} sample {{ text: "paris" }}
        sample {{ answer: "tokens" token: ["[CLS]", "paris", "is", "[MASK]"] }}"""
    _, program, golden = run(tmp_path, "bert", entry)
    ids = ids_of(program, golden)
    assert list(ids.shape) == [3, 64] and int((ids[0] != 0).sum()) == 41
    mask = ids_of(program, golden, "attention_mask")
    assert mask.sum(dim=1).tolist()[2] == 4
    assert {answer.name for answer in golden.answer} <= {"long", "tokens"} and golden.answer
    (tokens,) = [answer for answer in golden.answer if answer.name == "tokens"]
    assert list(tokens.top.index) == [2, 3]


def test_samples_that_cannot_be_used_are_named(tmp_path):
    result, _, _ = run(tmp_path, "bert", 'sample { token: ["nonsense"] }')
    assert result["outcome"] == "FAILED" and "nonsense" in result["message"]
    result, _, _ = run(tmp_path, "bert", 2 * 'sample { answer: "a" text: "paris is [MASK]" }')
    assert result["outcome"] == "FAILED" and "answers of one name: a" in result["message"]
    result, _, _ = run(tmp_path, "vit", 'sample { picture: "none.jpg" }')
    assert result["outcome"] == "FAILED" and "none.jpg" in result["message"]
    result, _, _ = run(tmp_path, "vit", 'sample { picture: "../entry.textproto" }')
    assert result["outcome"] == "FAILED" and "plain file name" in result["message"]


def test_without_a_tokenizer_ids_are_seeded_and_nothing_is_answered(tmp_path, capsys):
    task = checkpoints.save(tmp_path / "model", "bert")
    (tmp_path / "model" / "tokenizer.json").unlink()
    (tmp_path / "model" / "tokenizer_config.json").unlink()
    result = checkpoints.export(tmp_path / "model", tmp_path / "out", task)
    assert result["outcome"] == "PASSED" and result["no_golden"] == ""
    golden = record.unpack((tmp_path / "out" / result["golden"]).read_bytes())
    assert golden.golden.outputs and not golden.answer
    assert "no tokenizer" in capsys.readouterr().out


def test_a_tokenizer_of_a_larger_vocabulary_is_not_used(tmp_path):
    checkpoints.save(tmp_path / "model", "bert", vocab_size=20)
    arch = architecture.read(tmp_path / "model", "", None, "fill-mask")
    texts = samples.load_tokenizer(arch)
    assert texts.tokenizer is None and "vocabulary has 20" in texts.why_not


def test_texts_that_no_message_holds_are_mended():
    texts = samples.Texts(None, {"\ud800x": 3, "y" * 5000: 4})
    assert texts.label(3) == "?x" and len(texts.label(4)) == 1000


def test_free_ids_keep_away_from_special_ones():
    config = transformers.LlamaConfig(vocab_size=1000, image_token_id=500, pad_token_id=300)
    low, high = shapes.free_ids(config)
    assert (low, high) == (501, 875)
    with pytest.raises(Unsupported, match="no vocabulary"):
        shapes.free_ids(transformers.ViTConfig())


def test_speech_must_be_in_the_form_that_is_read(tmp_path):
    assert len(samples.read_speech(checkpoints.SAMPLES / "apples.wav")) == 38805
    (tmp_path / "x.wav").write_bytes(b"RIFFxxxx")
    with pytest.raises(Refused, match="x.wav"):
        samples.read_speech(tmp_path / "x.wav")
