"""A program is the model, a golden is eager's, and what cannot be vouched for has none."""

import hashlib
import json

import checkpoints
import pytest
import torch
import transformers
from assay_exporter import export, replay
from assay_exporter.checkpoint import command, compare, decoding, loading, record, run, shapes
from assay_exporter.checkpoint.verdict import Refused
from assay_exporter.proto import program_pb2
from safetensors.torch import load_file, save_file

DTYPES = replay.DTYPES


def read(out, result):
    program = export.unpack((out / result["program"]).read_bytes()) if result["program"] else None
    return program, record.unpack((out / result["golden"]).read_bytes())


def inputs_of(program, golden):
    return {
        spec.name: torch.frombuffer(bytearray(given.data), dtype=DTYPES[spec.dtype]).reshape(
            tuple(spec.shape)
        )
        for spec, given in zip(program.manifest.inputs, golden.golden.inputs, strict=True)
    }


def eager(folder, name, inputs):
    model_class = getattr(transformers, checkpoints.CLASSES[name][0])
    model = model_class.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32).eval()
    model.config.use_cache = False
    output = model(**inputs)
    return output["last_hidden_state"] if name == "encoder" else output["logits"]


@pytest.mark.parametrize("name", checkpoints.CLASSES)
def test_program_and_golden_are_the_model(tmp_path, name):
    task = checkpoints.save(tmp_path / "model", name)
    result = checkpoints.export(tmp_path / "model", tmp_path / "out", task)
    assert (result["outcome"], result["no_golden"]) == ("PASSED", ""), result
    program, golden = read(tmp_path / "out", result)
    assert not program.HasField("golden")
    assert program.manifest.model_type == {"encoder": "bert"}.get(name, name)
    assert program.manifest.inputs[0].batch_dim == 0 and program.manifest.outputs[0].batch_dim == 0
    assert golden.weights_digest == checkpoints.DIGEST
    assert (
        golden.program_digest
        == hashlib.sha256((tmp_path / "out" / result["program"]).read_bytes()).hexdigest()
    )
    inputs = inputs_of(program, golden)
    (output,) = golden.golden.outputs
    held = torch.frombuffer(bytearray(output.tensor.data), dtype=torch.float32).reshape(
        tuple(output.tensor.shape)
    )
    assert torch.equal(held, eager(tmp_path / "model", name, inputs))
    assert 0 < output.float64_error < 1e-2
    assert len(golden.golden.trace) > 20
    weights = sum(tensor.nbytes for tensor in load_file(tmp_path / "model" / "model.safetensors").values())
    assert weights < result["memory_bytes"] < weights + (8 << 20)
    assert golden.answer
    if name not in ("gpt2", "llama"):
        assert golden.no_decoding and not golden.generated
        return
    # The prompts of different lengths in one batch, and after each what generate writes after it alone.
    assert [one.name for one in program.variant] == ["kv_cache"]
    assert len({row.padding for row in golden.decoding.row}) == 2
    said = [list(answer.greedy.token) for answer in golden.answer if answer.WhichOneof("kind") == "greedy"]
    assert said and [list(row.token)[: len(one)] for row, one in zip(golden.generated, said, strict=True)] == said


def test_decoding_that_is_not_eagers_is_left_out_with_the_cause(tmp_path, monkeypatch):
    task = checkpoints.save(tmp_path / "model", "gpt2")
    whole = decoding._padded_run

    def without_mask(recording, bucket, asked):
        made = whole(recording, bucket, asked)
        for call in made.calls:
            call.given["attention_mask"].fill_(1)
        return made

    monkeypatch.setattr(decoding, "_padded_run", without_mask)
    result = checkpoints.export(tmp_path / "model", tmp_path / "out", task)
    program, golden = read(tmp_path / "out", result)
    assert result["outcome"] == "PASSED" and program.variant[0].program
    assert not golden.generated and not golden.HasField("decoding")
    assert "padded and with a cache, against eager without" in golden.no_decoding


def test_a_golden_is_the_same_bytes_a_second_time(tmp_path):
    task = checkpoints.save(tmp_path / "model", "llama")
    files = []
    for out in ("a", "b"):
        result = checkpoints.export(tmp_path / "model", tmp_path / out, task)
        files.append([(tmp_path / out / result[what]).read_bytes() for what in ("program", "golden")])
    assert files[0] == files[1]


def test_one_program_serves_every_checkpoint_of_a_configuration(tmp_path):
    programs = []
    for seed in (1, 2):
        folder = tmp_path / f"model{seed}"
        task = checkpoints.save(folder, "bert", seed)
        result = checkpoints.export(folder, tmp_path / f"out{seed}", task)
        programs.append((tmp_path / f"out{seed}" / result["program"]).read_bytes())
    assert programs[0] == programs[1]
    result = checkpoints.export(
        tmp_path / "model2", tmp_path / "given", task, program=str(tmp_path / "out1" / "program.assay")
    )
    assert result["outcome"] == "PASSED" and result["program"] == ""
    assert (tmp_path / "given" / result["golden"]).read_bytes() == (
        tmp_path / "out2" / "golden.assay"
    ).read_bytes()


def test_tied_weights_prefix_and_renames_are_in_the_manifest(tmp_path):
    task = checkpoints.save(tmp_path / "model", "llama")
    program, _ = read(tmp_path / "out", checkpoints.export(tmp_path / "model", tmp_path / "out", task))
    assert program.manifest.base_model_prefix == "model"
    assert [(t.alias, t.weight) for t in program.manifest.tied] == [
        ("lm_head.weight", "model.embed_tokens.weight")
    ]
    wav = shapes_of_renames()
    assert ("weight_g$", "parametrizations.weight.original0") in wav


def shapes_of_renames():
    from assay_exporter.checkpoint import program

    class Arch:
        model_class = transformers.Wav2Vec2ForCTC

    names = ["wav2vec2.encoder.pos_conv_embed.conv.parametrizations.weight.original0"]
    return [(rule.pattern, rule.replacement) for rule in program.key_renames(Arch, names)]


def test_python_group_references_become_ecmascript_ones():
    from assay_exporter.checkpoint import program

    class Model(transformers.PreTrainedModel):
        _checkpoint_conversion_mapping = {r"^model\.(\d+)": r"layers.\1"}

    class Arch:
        model_class = Model

    (rule,) = program.key_renames(Arch, [])
    assert (rule.pattern, rule.replacement) == (r"^model\.(\d+)", "layers.$1")


def test_a_weight_that_eager_would_make_up_leaves_no_golden(tmp_path):
    checkpoints.save(tmp_path / "model", "encoder")
    result = checkpoints.export(
        tmp_path / "model", tmp_path / "out", "fill-mask", model_class="transformers.BertForMaskedLM"
    )
    assert result["outcome"] == "PASSED" and "cls.predictions" in result["no_golden"]
    program, golden = read(tmp_path / "out", result)
    assert program.manifest.architecture == "transformers.BertForMaskedLM"
    assert golden.golden.inputs and not golden.golden.outputs and not golden.answer


def test_a_weight_of_another_shape_leaves_no_golden(tmp_path):
    task = checkpoints.save(tmp_path / "model", "bert")
    checkpoints.edit_config(tmp_path / "model", intermediate_size=48)
    result = checkpoints.export(tmp_path / "model", tmp_path / "out", task)
    assert (
        result["outcome"] == "PASSED"
        and "size mismatch" in result["no_golden"]
        or "shape" in result["no_golden"]
    )


def test_a_truncated_file_leaves_no_golden(tmp_path):
    task = checkpoints.save(tmp_path / "model", "bert")
    path = tmp_path / "model" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    result = checkpoints.export(tmp_path / "model", tmp_path / "out", task)
    assert result["outcome"] == "PASSED" and "cannot load the weights" in result["no_golden"]
    assert result["program"] and result["golden"]


@pytest.mark.parametrize("value", [float("nan"), 0.0])
def test_weights_whose_outputs_tell_nothing_leave_no_golden(tmp_path, value):
    task = checkpoints.save(tmp_path / "model", "bert")
    path = tmp_path / "model" / "model.safetensors"
    held = load_file(path)
    save_file({name: torch.full_like(tensor, value) for name, tensor in held.items()}, path, {"format": "pt"})
    result = checkpoints.export(tmp_path / "model", tmp_path / "out", task)
    assert result["outcome"] == "PASSED"
    assert ("NaN" if value != 0 else "constant") in result["no_golden"]
    _, golden = read(tmp_path / "out", result)
    assert golden.golden.inputs and not golden.golden.outputs


def test_too_large_for_this_exporter_is_said(tmp_path):
    task = checkpoints.save(tmp_path / "model", "bert")
    result = checkpoints.export(tmp_path / "model", tmp_path / "out", task, max_golden_bytes=100 << 20)
    assert result["outcome"] == "PASSED" and "this exporter has 100 MiB" in result["no_golden"]
    program, golden = read(tmp_path / "out", result)
    assert inputs_of(program, golden)["input_ids"].max() < checkpoints.VOCABULARY
    assert not golden.golden.outputs and result["memory_bytes"] > 0


REFUSALS = [
    ({"auto_map": {"AutoModel": "modeling.X"}}, "UNSUPPORTED", "trust_remote_code"),
    ({"model_type": "brand_new"}, "UNSUPPORTED", "'brand_new' is unknown"),
    ({"model_type": "llama"}, "UNSUPPORTED", "made from BertConfig"),
    ({"architectures": ["NoSuchModel"]}, "UNSUPPORTED", "no model class 'NoSuchModel'"),
    ({"architectures": None, "model_type": "bert"}, "PASSED", ""),
    ({"quantization_config": {"quant_method": "gptq"}}, "UNSUPPORTED", "gptq"),
    ({"model_type": None}, "UNSUPPORTED", "no model_type"),
]


@pytest.mark.parametrize("fields,outcome,words", REFUSALS)
def test_configurations(tmp_path, fields, outcome, words):
    task = checkpoints.save(tmp_path / "model", "bert")
    checkpoints.edit_config(tmp_path / "model", **fields)
    result = checkpoints.export(tmp_path / "model", tmp_path / "out", task)
    assert result["outcome"] == outcome and words in result["message"], result


def test_the_librarys_own_class_is_run_where_the_catalogue_names_it(tmp_path):
    entry = tmp_path / "bert.textproto"
    entry.write_text('name: "bert" model_class: "transformers.BertForMaskedLM" task: "fill-mask"')
    task = checkpoints.save(tmp_path / "model", "bert")
    checkpoints.edit_config(tmp_path / "model", auto_map={"AutoModelForMaskedLM": "modeling.X"})
    (tmp_path / "model" / "modeling.py").write_text("raise SystemExit(3)")
    result = checkpoints.export(tmp_path / "model", tmp_path / "out", task, catalogue=str(entry))
    assert result["outcome"] == "PASSED" and result["model_class"] == "transformers.BertForMaskedLM"


def test_a_program_of_other_shapes_is_said_to_be_one(tmp_path):
    task = checkpoints.save(tmp_path / "model", "bert")
    checkpoints.export(tmp_path / "model", tmp_path / "out", task)
    entry = tmp_path / "entry.textproto"
    entry.write_text('sample { text: "a" } sample { text: "b" } sample { text: "c" }')
    result = checkpoints.export(
        tmp_path / "model", tmp_path / "out2", task, entry=str(entry),
        program=str(tmp_path / "out" / "program.assay"),
    )  # fmt: skip
    assert (
        result["outcome"] == "UNSUPPORTED"
        and "the program given takes input_ids of [2, 32]" in result["message"]
    )


def test_a_configuration_that_is_no_json_is_named(tmp_path):
    task = checkpoints.save(tmp_path / "model", "bert")
    (tmp_path / "model" / "config.json").write_text("{")
    result = checkpoints.export(tmp_path / "model", tmp_path / "out", task)
    assert result["outcome"] == "FAILED" and "config.json" in result["message"]


def test_the_catalogues_class_is_taken_for_its_own_task_only(tmp_path):
    entry = tmp_path / "bert.textproto"
    entry.write_text('name: "bert" model_class: "transformers.BertForMaskedLM" task: "fill-mask"')
    checkpoints.save(tmp_path / "model", "encoder")
    result = checkpoints.export(
        tmp_path / "model", tmp_path / "out", "sentence-similarity", catalogue=str(entry)
    )
    assert result["model_class"] == "transformers.BertModel"


def as_pickle(folder, extra=None):
    held = load_file(folder / "model.safetensors")
    held["shared"] = held["bert.embeddings.word_embeddings.weight"]
    (folder / "model.safetensors").unlink()
    torch.save(held | (extra or {}), folder / "pytorch_model.bin")


def test_pickles_are_converted_only_where_that_is_allowed(tmp_path):
    task = checkpoints.save(tmp_path / "model", "bert")
    own = load_file(tmp_path / "model" / "model.safetensors")
    as_pickle(tmp_path / "model")
    result = checkpoints.export(tmp_path / "model", tmp_path / "out", task)
    assert result["outcome"] == "PASSED" and "pickled" in result["no_golden"] and result["weights"] == ""
    result = checkpoints.export(tmp_path / "model", tmp_path / "out2", task, allow_pickle=True)
    assert result["outcome"] == "PASSED" and result["no_golden"] == "", result
    converted = load_file(tmp_path / "out2" / result["weights"])
    assert converted.keys() == own.keys() | {"shared"}
    assert all(torch.equal(converted[name], own[name]) for name in own)


class Evil:
    def __reduce__(self):
        return (print, ("run",))


def test_a_pickle_that_is_more_than_tensors_is_refused(tmp_path, capsys):
    task = checkpoints.save(tmp_path / "model", "bert")
    as_pickle(tmp_path / "model", {"evil": Evil()})
    result = checkpoints.export(tmp_path / "model", tmp_path / "out", task, allow_pickle=True)
    assert result["outcome"] == "FAILED" and "pytorch_model.bin" in result["message"]
    assert "run\n" not in capsys.readouterr().out


def test_an_index_of_pickles_names_files_beside_it(tmp_path):
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": {"a": "../x.bin"}}))
    with pytest.raises(Refused, match="no name of a file beside it"):
        loading.pickles(tmp_path)


def test_a_program_that_is_not_the_model_is_refused(tmp_path):
    task = checkpoints.save(tmp_path / "model", "encoder")
    result = checkpoints.export(tmp_path / "model", tmp_path / "out", task)
    program, golden = read(tmp_path / "out", result)
    inputs = inputs_of(program, golden)
    arch = command.architecture.read(tmp_path / "model", "", None, task)
    loaded, bucket = loading.load(arch, tmp_path / "model"), shapes.of(arch)
    weights = compare.bind(program, loaded)
    compare.with_eager(program, weights, compare.Eager(loaded, bucket), bucket, inputs)
    gelu = next(op for op in program.graph.operators if op.name == "aten::gelu")
    gelu.name = "aten::relu"
    with pytest.raises(Refused, match="the exported program is not the model.*last_hidden_state"):
        compare.with_eager(program, weights, compare.Eager(loaded, bucket), bucket, inputs)


def test_activations_are_counted_at_their_most(tmp_path):
    graph = program_pb2.Graph(value_count=4)
    graph.operators.add(name="aten::neg")
    graph.operators.add(name="aten::add", overload="Tensor")
    graph.inputs.add(kind=program_pb2.GraphInput.USER_INPUT, name="x", value=0)
    for index in range(2):
        node = graph.nodes.add(name=f"neg{index}", op=0, outputs=[index + 1])
        node.arguments.add(name="self").value.value = index
    node = graph.nodes.add(name="add", op=1, outputs=[3])
    node.arguments.add(name="self").value.value = 1
    node.arguments.add(name="other").value.value = 2
    graph.outputs.add(value=3)
    program = program_pb2.Program(graph=graph)
    program.manifest.outputs.add(name="y")
    ran = run.run(program, {}, {"x": torch.ones(1000)}, trace=True)
    assert ran.activations == 3 * 4000 and len(ran.trace) == 3
    assert torch.equal(ran.outputs["y"], torch.zeros(1000))
    assert (
        run.run(program, {}, {"x": torch.ones(1000)}, numbers=run.Double()).outputs["y"].dtype
        == torch.float64
    )


def test_identity_is_of_the_code(capsys):
    from assay_exporter.__main__ import main

    assert main(["identity"]) == 0
    held = json.loads(capsys.readouterr().out)
    assert held.keys() == {"exporter", "transformers", "torch"} and len(held["exporter"]) == 64


def test_a_request_with_unknown_fields_is_no_request(tmp_path, capsys):
    (tmp_path / "request.json").write_text(json.dumps({"folder": "x", "colour": "red"}))
    assert command.checkpoint(["--request", str(tmp_path / "request.json"), "--out", str(tmp_path)]) == 2
    assert "colour" in capsys.readouterr().err
    assert not (tmp_path / "result.json").exists()
