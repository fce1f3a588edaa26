"""The exporter in other versions of transformers than the pinned one, which only their environments have."""

import json

import pytest
from assay_exporter import __main__ as cli
from assay_exporter import catalogue, export, patches, version_roots, versions
from assay_exporter.proto import catalogue_pb2
from transformers import masking_utils


def test_the_pinned_version_exports_what_the_entry_says(monkeypatch):
    assert versions.is_pinned()
    seen = []
    monkeypatch.setattr(export, "export", lambda entry: seen.append(list(entry.patch)) or "program")
    assert versions.export_entry(catalogue.load("gemma")) == ("program", "")
    assert seen == [["broadcast_masks"]]


def test_a_patch_that_does_not_fit_is_left_out(monkeypatch):
    assert versions.unfit(["broadcast_masks"]) == {}
    monkeypatch.delattr(masking_utils, "_vmap_for_bhqkv")
    assert list(versions.unfit(["broadcast_masks", "dense_experts"])) == ["broadcast_masks"]
    entry = catalogue_pb2.CatalogueEntry(patch=["broadcast_masks", "unvalidated"])
    tries, left_out = versions.attempts(entry)
    assert left_out == ["broadcast_masks"]
    assert tries == [["unvalidated"], ["unvalidated", "dense_experts"], ["dense_experts"], []]


def test_what_mends_broken_code_is_never_left_out():
    tries, left_out = versions.attempts(catalogue_pb2.CatalogueEntry(patch=["mra"]))
    assert patches.repairs(patches.load("mra")) and left_out == []
    assert all("mra" in names for names in tries)


def test_another_version_tries_in_turn_and_tells_the_first_error(monkeypatch):
    monkeypatch.setattr(versions.transformers, "__version__", "99.0.0")
    entry = catalogue.load("gemma")
    tried = []

    def refuse(adapted):
        tried.append(list(adapted.patch))
        raise ValueError(f"attempt {len(tried)}")

    monkeypatch.setattr(export, "export", refuse)
    with pytest.raises(ValueError, match="attempt 1"):
        versions.export_entry(entry)
    assert len(tried) == 4 and tried[0] == ["broadcast_masks"] and [] in tried


def test_like_takes_another_programs_configuration(tmp_path):
    program = export.unpack((catalogue.PROGRAMS / "vit.assay").read_bytes())
    config = json.loads(program.manifest.config_json)
    config["layer_norm_eps"] = 0.25
    program.manifest.config_json = json.dumps(config)
    other = tmp_path / "other"
    other.mkdir()
    (other / "vit.assay").write_bytes(export.pack(program))
    assert cli.main(["vit", "--like", str(other), "--out", str(tmp_path), "-j", "1"]) == 0
    made = export.unpack((tmp_path / "vit.assay").read_bytes())
    assert json.loads(made.manifest.config_json)["layer_norm_eps"] == 0.25


def test_the_committed_program_is_its_own_likeness(tmp_path):
    assert cli.main(["vit", "--like", str(catalogue.PROGRAMS), "--out", str(tmp_path), "-j", "1"]) == 0
    made = export.unpack((tmp_path / "vit.assay").read_bytes())
    assert made.graph == export.unpack((catalogue.PROGRAMS / "vit.assay").read_bytes()).graph


@pytest.mark.parametrize("version", ["5", "newest", "5.0.0;ls"])
def test_versions_are_versions(version):
    with pytest.raises(SystemExit) as ended:
        version_roots.command(["--out", "/nowhere", "--versions", version, "--names", "vit"])
    assert ended.value.code == 2


def test_each_version_has_an_environment_of_its_own():
    assert version_roots.environment(versions.pinned()).parts[-3] == ".venv"
    assert version_roots.environment("5.0.0").parts[-3] == ".venv-5.0.0"
