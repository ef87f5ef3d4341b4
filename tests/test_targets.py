"""What is checked about paths before any work is done."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from tf_bnfold.errors import FlagError, InputError, OutputError
from tf_bnfold.options import Options, Request
from tf_bnfold.targets import check_paths, targets, work_folder

pytestmark = pytest.mark.usefixtures("folder")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder with a SavedModel "model", a full folder "full" and a file "file"."""
    for name in ("model", "full", "other_model"):
        (tmp_path / name).mkdir()
    (tmp_path / "full" / "letter.txt").write_text("dear me")
    for name in ("model", "other_model"):
        (tmp_path / name / "saved_model.pb").write_bytes(b"x")
    (tmp_path / "file").write_text("x")
    (tmp_path / "net.keras").write_text("x")
    monkeypatch.chdir(tmp_path)


def ask(**paths: object) -> Request:
    fields = {"saved_model": "model", **paths}
    options = {name: fields.pop(name) for name in ("overwrite", "dry_run", "representative_data") if name in fields}
    return Request(**fields, options=Options(**options))


@pytest.mark.parametrize(
    "paths",
    [
        {"tflite": "new.tflite"},
        {"tflite": "file"},
        {"saved_model": "", "frozen_graph": "file", "output_graph": "new.pb"},
        {"output_saved_model": "new"},
        {"saved_model": "", "keras_model": "net.keras", "tflite": "new", "onnx": "new.onnx"},
        {"output_saved_model": "other_model", "overwrite": True},
        {"tflite": "a", "output_saved_model": "b", "report": "c.json"},
        {"tflite": "missing/a", "dry_run": True},
        {"tflite": "new.tflite", "representative_data": "full"},
    ],
)
def test_what_can_be_written_passes(paths):
    check_paths(ask(**paths))


@pytest.mark.parametrize(
    ("paths", "error", "words"),
    [
        ({"saved_model": "", "frozen_graph": "nope.pb"}, InputError, "--frozen_graph=nope.pb: no such file"),
        (
            {"saved_model": "", "frozen_graph": "model"},
            InputError,
            "model: a folder, not a file; give --saved_model=model",
        ),
        ({"saved_model": "", "frozen_graph": "full"}, InputError, "--frozen_graph=full: a folder, not a file$"),
        ({"saved_model": "", "frozen_graph": "file", "output_graph": "file"}, FlagError, "overlaps --frozen_graph="),
        ({"output_graph": "full"}, OutputError, "--output_graph=full: a folder; give the name of a file"),
        ({"saved_model": "nope"}, InputError, "--saved_model=nope: no such folder"),
        ({"saved_model": "file"}, InputError, "a file, not a SavedModel folder; give its folder"),
        ({"saved_model": "net.keras"}, InputError, "a file, not a SavedModel folder; give --keras_model=net.keras"),
        ({"saved_model": "", "keras_model": "no.keras"}, InputError, "--keras_model=no.keras: no such file"),
        (
            {"saved_model": "", "keras_model": "file"},
            InputError,
            "--keras_model=file: Keras tells the form by the suffix",
        ),
        (
            {"saved_model": "", "keras_model": "net.keras", "onnx": "net.keras"},
            FlagError,
            "--onnx=net.keras: overlaps --keras_model=",
        ),
        ({"onnx": "missing/a"}, OutputError, "--onnx=missing/a: the folder .*missing does not exist; make it"),
        ({"onnx": "a", "tflite": "a"}, FlagError, "--onnx=a: overlaps --tflite="),
        ({"saved_model": "full"}, InputError, "no saved_model.pb in it; give the folder that holds it"),
        ({"saved_model": "."}, InputError, "did you mean model?"),
        ({"representative_data": "/dev/null"}, InputError, "--representative_data=/dev/null: not a regular file"),
        (
            {"tflite": "full/a", "representative_data": "full"},
            FlagError,
            "--tflite=full/a: overlaps --representative_da",
        ),
        ({"representative_data": "no.npz"}, InputError, "--representative_data=no.npz: no such file"),
        ({"report": "r.html"}, FlagError, "--report=r.html: the suffix decides the form; give .json"),
        ({"tflite": "model/a"}, FlagError, "--tflite=model/a: overlaps --saved_model="),
        ({"output_saved_model": "model", "overwrite": True}, FlagError, "overlaps --saved_model="),
        ({"output_saved_model": ".", "overwrite": True}, FlagError, "overlaps --saved_model="),
        ({"tflite": "a.json", "report": "./a.json"}, FlagError, "--report=./a.json: overlaps --tflite="),
        ({"tflite": "file", "representative_data": "file"}, FlagError, "overlaps --representative_data="),
        ({"tflite": "missing/a"}, OutputError, "--tflite=missing/a: the folder .*missing does not exist; make it"),
        ({"tflite": "full"}, OutputError, "--tflite=full: a folder; give the name of a file"),
        ({"tflite": "/dev/null"}, OutputError, "--tflite=/dev/null: not a regular file"),
        ({"output_saved_model": "file"}, OutputError, "a file; give the name of a folder"),
        ({"output_saved_model": "other_model"}, OutputError, "not empty; give another, or --overwrite"),
        ({"output_saved_model": "full", "overwrite": True}, OutputError, "holds no SavedModel"),
    ],
)
def test_what_can_not_be_is_refused_with_the_way_out(paths, error, words):
    with pytest.raises(error, match=words):
        check_paths(ask(**paths))


def test_a_link_to_the_input_is_the_input():
    os.symlink("model", "alias")
    with pytest.raises(FlagError, match="overlaps --saved_model="):
        check_paths(ask(output_saved_model="alias", overwrite=True))


def test_a_folder_that_is_not_writable_is_refused(monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write anywhere
    with pytest.raises(OutputError, match="is not writable"):
        check_paths(ask(tflite="new.tflite"))


def test_a_dry_run_writes_its_report_and_no_model():
    request = ask(tflite="a", output_saved_model="b", report="c.json", dry_run=True)
    assert targets(request) == {"report": "c.json"}


def test_files_that_are_no_output_lie_beside_one():
    assert work_folder(ask(tflite="full/a")) == str(Path("full").resolve())
    assert work_folder(ask(tflite="full/a", dry_run=True)) == tempfile.gettempdir()


def test_an_object_is_no_path():
    check_paths(ask(saved_model="", tflite="a"), exported=True)


def test_targets_are_named_by_flag():
    assert targets(ask(tflite="a", output_saved_model="b")) == {"tflite": "a", "output_saved_model": "b"}


def test_relative_and_absolute_names_of_one_file_are_the_same():
    with pytest.raises(FlagError, match="overlaps --tflite="):
        check_paths(ask(tflite="a.json", report=str(Path("a.json").resolve())))
