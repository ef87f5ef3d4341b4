"""Every command in the documents runs, and every link in them leads somewhere."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import bad_models
import in_process
import numpy as np
import pytest

from tf_bnfold import cli, flags

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *ROOT.glob("docs/*.md")])


def commands(text: str) -> list[str]:
    return re.findall(r"^ +(?:\$ )?(tf_bnfold -.*)$", text, re.MULTILINE)


def anchors(document: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", document.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document):
    for link in re.findall(r"\]\(([^)\s]+)\)", document.read_text(encoding="utf-8")):
        if re.match(r"https://", link):  # tests use no network
            continue
        path, _, anchor = link.partition("#")
        target = document.parent / path if path else document
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def save_models(folder: Path) -> None:
    """Write a SavedModel of images of any size, a Keras model, and a frozen graph."""
    import keras
    import saved_models
    import tensorflow as tf

    weights = tf.Variable(bad_models.WEIGHTS)

    def logits(image):
        conv = tf.nn.conv2d(image, weights, 1, "SAME")
        return {"logits": tf.reduce_mean(tf.nn.batch_normalization(conv, 1.0, 2.0, 3.0, 4.0, 1e-3), [1, 2])}

    spec = tf.TensorSpec([None, None, None, 3], name="image")
    for name in ("my_model", "demo/out/saved_model"):
        saved_models.saved(str(folder / name), logits, spec, variables=[weights])
    keras.Model(*saved_models.conv_net(keras.layers)).save(folder / "my_model.keras")
    np.savez(folder / "samples.npz", image=np.random.default_rng(0).normal(size=(20, 8, 8, 3)))
    (folder / "my_model.pb").write_bytes(bad_models.frozen_model().SerializeToString())


def run_all(lines: list[str], rename: dict[str, str], folder: Path, monkeypatch) -> None:
    save_models(folder)
    (folder / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(folder)
    monkeypatch.setattr(cli.runner, "run", in_process.run)
    for line in lines:
        words = [rename.get(word, word) for word in shlex.split(line, comments=True)]
        assert cli.main(words) == 0, line


def test_the_commands_of_the_readme_run(tmp_path, monkeypatch):
    lines = commands((ROOT / "README.md").read_text(encoding="utf-8"))
    assert len(lines) >= 9
    names = {"Mfcc": "image", "labels_softmax": "logits"}  # those of a model for speech
    names["conv1/BatchNorm/add"] = "StatefulPartitionedCall/StatefulPartitionedCall/batchnorm/add"
    run_all(lines, names, tmp_path, monkeypatch)
    reports = ("report.json", "report.html")
    for output in ("my_model.tflite", "folded/saved_model.pb", "folded.pb", *reports, "demo/out/model.tflite"):
        assert (tmp_path / output).is_file(), output


def test_the_commands_of_the_help_run(tmp_path, monkeypatch):
    lines = commands(flags.help_text())
    assert len(lines) >= 5
    run_all(lines, {}, tmp_path, monkeypatch)


def test_no_other_document_has_a_command():
    run = {"README.md", "android.md"}  # the commands of the latter by tests/test_android.py
    others = [path.name for path in DOCUMENTS if path.name not in run and commands(path.read_text(encoding="utf-8"))]
    assert others == []  # or it is to be run here
