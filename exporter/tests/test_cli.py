"""python -m assay_exporter: what it writes, and its exit codes."""

import pytest
from assay_exporter import __main__ as cli
from assay_exporter import export


def test_it_writes_programs_where_it_is_told(tmp_path, capsys):
    assert cli.main(["vit", "--out", str(tmp_path), "-j", "1"]) == 0
    assert export.unpack((tmp_path / "vit.assay").read_bytes()).manifest.model == "vit"
    assert "1 of 1 exported" in capsys.readouterr().out
    assert cli.main(["vit", "--check", "--out", str(tmp_path)]) == 0


def test_it_names_what_failed_and_exits_1(tmp_path, capsys):
    assert cli.main(["no_such_model", "--out", str(tmp_path)]) == 1
    said = capsys.readouterr()
    assert "FAIL no_such_model" in said.out and "failed: no_such_model" in said.err
    assert cli.main(["vit", "--check", "--out", str(tmp_path)]) == 1
    assert "does not exist" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [[], ["--all", "vit"]])
def test_names_or_all_but_not_both(arguments):
    with pytest.raises(SystemExit) as exit_:
        cli.main(arguments)
    assert exit_.value.code == 2
