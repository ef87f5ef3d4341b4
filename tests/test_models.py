"""Real trained models through the whole pipeline. The models lie beside the checkout; without them this is skipped."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import tensorflow as tf

import tf_bnfold
from tf_bnfold.flatbuffer import op_counts
from tf_bnfold.outcome import Kind, Status

MODELS = Path(__file__).parents[2] / "shared" / "models"
needs_models = pytest.mark.skipif(not MODELS.is_dir(), reason=f"{MODELS.name}/ with the trained models is not there")


def folded(saved_model: Path, tflite: Path) -> tf_bnfold.Report:
    """Convert, and hold the report to what every model must show."""
    report = tf_bnfold.convert(saved_model, tflite)
    assert all(measurement.verified for measurement in report.run.measurements)
    assert len(report.run.measurements) == 3  # with the SavedModel, inside, and the .tflite
    return report


def statuses(report: tf_bnfold.Report) -> list[Status]:
    return [outcome.status for outcome in report.result.of_kind(Kind.BATCH_NORM)]


@needs_models
def test_keyword_spotting_that_the_stock_converter_refuses(tmp_path):
    saved_model = MODELS / "kws_ds_cnn"
    # Where tf_keras is installed, it lends TensorFlow the class that is missing; users of Keras 3 don't have it.
    stock = (
        "import sys; sys.modules['tf_keras'] = None\n"
        "import tensorflow as tf\n"
        f"tf.lite.TFLiteConverter.from_saved_model({str(saved_model)!r})"
    )
    failure = subprocess.run([sys.executable, "-c", stock], capture_output=True, text=True, check=False)
    assert failure.returncode != 0
    assert "add_slot" in failure.stderr
    report = folded(saved_model, tmp_path / "kws.tflite")
    assert statuses(report) == [Status.UP] * 9
    assert op_counts((tmp_path / "kws.tflite").read_bytes()) == {
        "CONV_2D": 5,
        "DEPTHWISE_CONV_2D": 4,
        "AVERAGE_POOL_2D": 1,
        "RESHAPE": 1,
        "FULLY_CONNECTED": 1,
        "SOFTMAX": 1,
    }


def export_keras3(file: Path, folder: Path) -> None:
    import keras

    keras.models.load_model(file, compile=False).export(folder, verbose=False)


def export_keras2(file: Path, folder: Path) -> None:
    import tf_keras

    tf_keras.models.load_model(file, compile=False).save(folder, save_format="tf")


@needs_models
@pytest.mark.parametrize("export", [export_keras3, export_keras2])
@pytest.mark.parametrize(("name", "batch_norms"), [("resnet8_cifar10", 7), ("ad01_autoencoder", 9)])
def test_keras_models_fold_whole_and_leave_no_more_ops_than_stock(name, batch_norms, export, tmp_path):
    export(MODELS / f"{name}.h5", tmp_path / "model")
    report = folded(tmp_path / "model", tmp_path / "model.tflite")
    assert statuses(report) == [Status.UP] * batch_norms
    stock = tf.lite.TFLiteConverter.from_saved_model(str(tmp_path / "model")).convert()
    ours, theirs = op_counts((tmp_path / "model.tflite").read_bytes()), op_counts(stock)
    assert ours["MUL"] == ours["SUB"] == 0
    assert ours.total() <= theirs.total()
