"""--report FILE.html, --explain and --compare on the command line, in this process."""

from __future__ import annotations

import json
from pathlib import Path

import in_process
import pytest

from tf_bnfold import cli, extras


@pytest.fixture
def run(keras_saved_model, tmp_path, monkeypatch):
    """A function that runs the command on the small net, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli.runner, "run", in_process.run)
    return lambda *args: cli.main(["tf_bnfold", f"--saved_model={keras_saved_model}", *args])


def batch_norm(run) -> str:
    assert run("--report=r.json", "--noverify") == 0
    return json.loads(Path("r.json").read_text("utf-8"))["result"]["sites"][0]["name"]


def test_a_page_and_a_json_report_are_written_together(run):
    assert run("--dry_run", "--report=r.json", "--report=r.html") == 0
    page = Path("r.html").read_text("utf-8")
    assert page.startswith("<!DOCTYPE html>")
    outputs = json.loads(Path("r.json").read_text("utf-8"))["run"]["outputs"]
    assert outputs == {"report": "r.json", "page": "r.html"}
    assert "batch norms found" in page


def test_a_page_needs_its_library(run, monkeypatch, capsys):
    monkeypatch.setitem(extras.EXTRAS, "report", ("jinja2_that_is_missing",))
    assert run("--report=r.html") == 1
    says = "--report=r.html: jinja2_that_is_missing is not installed: pip install 'tf_bnfold[report]'"
    assert says in capsys.readouterr().err
    assert not Path("r.html").exists()


def test_to_explain_prints_that_alone_and_writes_nothing(run, capsys):
    name = batch_norm(run)
    capsys.readouterr()
    assert run(f"--explain={name}") == 0
    out = capsys.readouterr().out
    assert out.startswith(f"{name}: ")
    assert "Folded up, into " in " ".join(out.split())
    assert "Graph " not in out
    assert sorted(path.name for path in Path().iterdir()) == ["r.json"]


def test_to_explain_beside_an_output_adds_to_the_report(run, capsys):
    name = batch_norm(run)
    capsys.readouterr()
    assert run(f"--explain={name},{name}", "--dry_run", "--noverify") == 0
    out = capsys.readouterr().out
    assert out.startswith("3 batch norms: ")
    assert out.count(f"\n\n{name}: ") == 2


def test_silence_is_kept(run, capsys):
    name = batch_norm(run)
    capsys.readouterr()
    assert run(f"--explain={name}", "--compare=r.json", "--verbosity=-1", "--noverify") == 0
    assert capsys.readouterr() == ("", "")


def test_a_node_that_is_not_there_is_an_error_with_near_names(run, capsys):
    assert run("--explain=batch_normalization") == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "--explain=batch_normalization: the graph has no node of that name; did you mean " in err


def test_an_equal_run_compares_as_such(run, capsys):
    batch_norm(run)
    capsys.readouterr()
    assert run("--compare=r.json", "--noverify") == 0
    assert capsys.readouterr().out.endswith("Compared with r.json: nothing changed.\n")


def test_a_batch_norm_that_folds_no_longer_is_exit_code_4_and_nothing_is_written(run, capsys):
    name = batch_norm(run)
    capsys.readouterr()
    assert run("--compare=r.json", "--keep=.", "--tflite=out.tflite", "--report=new.html", "--noverify") == 4
    out, err = capsys.readouterr()
    assert "folds no longer, or less:" in out
    assert f"--compare=r.json: 3 batch norms fold less than they did: {name} (KEPT_BY_USER at " in err
    assert sorted(path.name for path in Path().iterdir()) == ["r.json"]


def test_one_that_folds_now_is_no_fault(run, capsys):
    assert run("--report=old.json", "--keep=.", "--noverify") == 0
    capsys.readouterr()
    assert run("--compare=old.json", "--noverify") == 0
    assert "folds now, or more:" in capsys.readouterr().out


def test_what_is_no_report_is_told_before_the_run(run, capsys, monkeypatch):
    Path("old.json").write_text("{}")
    monkeypatch.setattr(cli.runner, "run", None)
    assert run("--compare=old.json") == 2
    assert "--compare=old.json: no report; give a file" in capsys.readouterr().err
