"""From a SavedModel on disk to a .tflite that LiteRT runs."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from tf_bnfold.errors import FlagError, InputError, OutputError, UnfoldedError, VerificationError
from tf_bnfold.options import Options, Request
from tf_bnfold.outcome import Kind, Status
from tf_bnfold.outputs import PREFIX


@pytest.fixture(scope="module")
def pipeline():
    from tf_bnfold import pipeline  # imports TensorFlow

    return pipeline


@pytest.fixture(scope="module")
def stubborn(tmp_path_factory) -> str:
    """A SavedModel whose batch norm follows Tanh, and whose Digamma is no op of TFLite."""
    import tensorflow as tf

    class Stubborn(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None, 4, 4, 3], tf.float32, name="image")])
        def call(self, image):
            tanh = tf.tanh(tf.nn.conv2d(image, tf.ones([3, 3, 3, 2]), 1, "SAME"))
            parameters = [tf.constant([float(i), i + 1.0]) for i in range(1, 5)]
            norm, *_ = tf.compat.v1.nn.fused_batch_norm(tanh, *parameters, is_training=False, name="norm")
            return {"norm": norm, "digamma": tf.math.digamma(norm)}

    module = Stubborn()
    folder = str(tmp_path_factory.mktemp("stubborn") / "saved_model")
    tf.saved_model.save(module, folder, signatures={"serving_default": module.call})
    return folder


def command(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "tf_bnfold", *args], capture_output=True, text=True, check=False)


def test_the_whole_command(keras_saved_model, tmp_path):
    import tensorflow as tf
    from ai_edge_litert.interpreter import Interpreter

    tflite, folded, file = tmp_path / "out.tflite", tmp_path / "folded", tmp_path / "report.json"
    outputs = (f"--tflite={tflite}", f"--output_saved_model={folded}", f"--report={file}")
    done = command(f"--saved_model={keras_saved_model}", *outputs)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("3 batch norms: all folded into ops before them.\n")
    assert f"Wrote {tflite}\nWrote {folded}\nWrote {file}\n" in done.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folded", "out.tflite", "report.json"]

    report = json.loads(file.read_text(encoding="utf-8"))
    result, run = report["result"], report["run"]
    assert result["batch_norms"] == {
        "found": 3, "folded_up": 3, "folded_down": 0, "folded_in_halves": 0, "partly_folded": 0, "kept": 0,
    }  # fmt: skip
    assert not {"MUL", "ADD", "RSQRT"} & set(result["tflite"]["ops"])
    assert result["tflite"]["bytes"] == tflite.stat().st_size
    assert [entry["verified"] for entry in run["verification"]] == [True] * 3
    assert run["command"][1:] == [f"--saved_model={keras_saved_model}", *outputs]
    assert list(run["seconds"]) == ["start", "load", "fold", "convert", "verify", "verify_tflite"]

    image = np.random.default_rng(1).normal(0, 2, (1, 8, 8, 3)).astype(np.float32)
    (expected, from_folded) = (
        next(iter(tf.saved_model.load(str(path)).signatures["serving_default"](image=tf.constant(image)).values()))
        for path in (keras_saved_model, folded)
    )
    runner = Interpreter(str(tflite)).get_signature_runner("serving_default")
    (from_tflite,) = runner(image=image).values()
    scale = np.abs(expected).max()
    assert np.abs(from_folded - expected).max() < 1e-5 * scale
    assert np.abs(from_tflite - expected).max() < 1e-5 * scale


def test_the_python_of_the_readme_runs(keras_saved_model, tmp_path, pytestconfig, monkeypatch):
    readme = (pytestconfig.rootpath / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```$", readme, re.MULTILINE | re.DOTALL)
    (tmp_path / "my_model").symlink_to(keras_saved_model)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(code, names)
    assert (tmp_path / "my_model.tflite").stat().st_size == names["report"].result.tflite.bytes


def test_the_same_input_gives_the_same_bytes(keras_saved_model, tmp_path, pipeline):
    found = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        request = Request(
            keras_saved_model,
            tflite=str(tmp_path / name / "out.tflite"),
            output_saved_model=str(tmp_path / name / "folded"),
            options=Options(verify=False),
        )
        result = pipeline.run(request).to_dict()["result"]
        files = sorted(path for path in (tmp_path / name).rglob("*") if path.is_file())
        found.append((result, [(path.relative_to(tmp_path / name), path.read_bytes()) for path in files]))
    assert found[0] == found[1]


def test_what_was_folded_has_nothing_left_to_fold(keras_saved_model, tmp_path, pipeline):
    folded = str(tmp_path / "folded")
    first = pipeline.run(Request(keras_saved_model, output_saved_model=folded, options=Options(verify=False)))
    second = pipeline.run(Request(folded, options=Options(verify=False)))
    assert second.result.before == second.result.after == first.result.after
    assert second.result.of_kind(Kind.BATCH_NORM) == ()


def test_a_dry_run_converts_and_reports_and_writes_no_model(keras_saved_model, tmp_path, pipeline):
    request = Request(
        keras_saved_model,
        tflite=str(tmp_path / "out.tflite"),
        output_saved_model=str(tmp_path / "folded"),
        report=str(tmp_path / "report.json"),
        options=Options(dry_run=True, verify=False),
    )
    report = pipeline.run(request)
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]
    assert report.result.tflite.ops["CONV_2D"] == 1
    assert report.run.outputs == {"report": request.report}


def test_keep_leaves_batch_norms_alone(keras_saved_model, pipeline):
    options = Options(keep="batch_normalization_1/", verify=False)
    result = pipeline.run(Request(keras_saved_model, options=options)).result
    (kept,) = result.unfolded()
    assert "batch_normalization_1/" in kept.name
    assert kept.refusal.reason.name == "KEPT_BY_USER"


def test_shapes_are_fixed(keras_saved_model, tmp_path, pipeline):
    from ai_edge_litert.interpreter import Interpreter

    tflite = str(tmp_path / "out.tflite")
    options = Options(input_shapes={"image": (5, 8, 8, 3)}, verify=False)
    pipeline.run(Request(keras_saved_model, tflite=tflite, options=options))
    (detail,) = Interpreter(tflite).get_input_details()
    assert detail["shape"].tolist() == [5, 8, 8, 3]


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"tags": ("train",)}, InputError, "train"),
        ({"signature_keys": ("nope",)}, InputError, "nope"),
        ({"input_shapes": {"image": (1, 9, 8, 3)}}, FlagError, "image"),
    ],
)
def test_a_failure_leaves_the_old_bytes(keras_saved_model, tmp_path, pipeline, options, error, words):
    target = tmp_path / "out.tflite"
    target.write_bytes(b"old")
    with pytest.raises(error, match=words):
        pipeline.run(Request(keras_saved_model, tflite=str(target), options=Options(**options)))
    assert target.read_bytes() == b"old"
    assert list(tmp_path.glob(f"{PREFIX}*")) == []


def test_a_wrong_fold_is_found_and_nothing_is_written(keras_saved_model, tmp_path, pipeline, monkeypatch):
    def wrong(*args):
        folding = fold_graph(*args)
        for node in folding.graph_def.node:
            if node.op == "Conv2D":
                node.attr["padding"].s = b"VALID"
        return folding

    fold_graph, reports = pipeline.fold_graph, []
    monkeypatch.setattr(pipeline, "fold_graph", wrong)
    with pytest.raises(VerificationError, match=r"^verification failed"):
        pipeline.run(Request(keras_saved_model, tflite=str(tmp_path / "out.tflite")), on_report=reports.append)
    assert not all(measurement.verified for measurement in reports[-1].run.measurements)
    assert list(tmp_path.iterdir()) == []


def test_what_can_not_be_run_is_not_verified_and_not_written_unless_that_is_asked_for(
    keras_saved_model, tmp_path, pipeline, monkeypatch
):
    unknown = pipeline.verify.NotVerified("signature serve", "no inputs can be guessed")
    monkeypatch.setattr(pipeline.verify, "make_samples", lambda *_: unknown)
    target = tmp_path / "folded"
    with pytest.raises(VerificationError, match=r"not verified.*no inputs can be guessed.*--noverify"):
        pipeline.run(Request(keras_saved_model, output_saved_model=str(target)))
    assert list(tmp_path.iterdir()) == []
    pipeline.run(Request(keras_saved_model, output_saved_model=str(target), options=Options(verify=False)))
    assert (target / "saved_model.pb").exists()


def test_a_batch_norm_that_stays_is_an_error_where_that_is_asked_for(stubborn, tmp_path, pipeline):
    reports = []
    request = Request(stubborn, tflite=str(tmp_path / "out.tflite"), options=Options(fail_if_unfolded=True))
    with pytest.raises(UnfoldedError, match=r"^1 of 1 batch norms stayed, .*; first .*/norm \(NO_LAW at .*Tanh"):
        pipeline.run(request, on_report=reports.append)
    assert [outcome.status for outcome in reports[-1].result.unfolded()] == [Status.KEPT]
    assert list(tmp_path.iterdir()) == []


def test_what_the_converter_refuses_is_exit_code_5_after_the_report(stubborn, tmp_path):
    done = command(f"--saved_model={stubborn}", f"--tflite={tmp_path / 'out.tflite'}")
    assert done.returncode == 5
    assert done.stdout.startswith("1 batch norm: all kept.\n")
    assert "/Tanh" in done.stdout
    assert done.stderr.startswith("tf_bnfold: error: the TFLite converter has no op for Digamma")
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_an_output_error(keras_saved_model, tmp_path, pipeline, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pipeline, "save_saved_model", full)
    target = str(tmp_path / "folded")
    with pytest.raises(OutputError, match="folded: can't be written: No space left"):
        pipeline.run(Request(keras_saved_model, output_saved_model=target, options=Options(verify=False)))
    assert list(tmp_path.iterdir()) == []
