"""MobileNet-SSD and Tiny YOLO v2 from Keras 3 and Keras 2: all batch norms folded, the same predictions."""

from __future__ import annotations

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from networks import Size, boxes, images, made, mobilenet_ssd, tiny_yolo

import tf_bnfold
from tf_bnfold.outcome import Kind, Status

NETWORKS = {"mobilenet_ssd": (mobilenet_ssd, 35), "tiny_yolo": (tiny_yolo, 8)}
FULL = {"mobilenet_ssd": 300, "tiny_yolo": 416}
SMALL = {"mobilenet_ssd": Size(64, 8), "tiny_yolo": Size(64, 8)}


def exported(kind: str, network, size: Size, folder: str):
    """Export a network as this Keras does, and return the model."""
    if kind == "keras3":
        import keras

        model = made(keras, network, size)
        model.export(folder, verbose=False)
        return model
    import tf_keras

    model = made(tf_keras, network, size)
    model.save(folder, save_format="tf", include_optimizer=False)
    return model


def check(kind: str, name: str, size: Size, tmp_path) -> None:
    """Fold and convert a network, and hold the .tflite to the predictions of Keras."""
    network, norms = NETWORKS[name]
    model = exported(kind, network, size, str(tmp_path / "model"))
    report = tf_bnfold.convert(tmp_path / "model", tmp_path / "out.tflite")
    assert [outcome.status for outcome in report.result.of_kind(Kind.BATCH_NORM)] == [Status.UP] * norms
    assert [measurement.verified for measurement in report.run.measurements] == [True] * 3
    assert not {"MUL", "ADD", "SUB", "RSQRT"} & set(report.result.tflite.ops)

    image = images(size, 1)
    expected = {np.shape(value): np.asarray(value) for value in _outputs(model(image))}
    runner = Interpreter(str(tmp_path / "out.tflite")).get_signature_runner("serving_default")
    found = {value.shape: value for value in runner(**{next(iter(runner.get_input_details())): image}).values()}
    assert found.keys() == expected.keys() == _shapes(name, size)
    for shape, value in expected.items():
        assert np.ptp(value) > 0.03
        assert np.abs(found[shape] - value).max() < 1e-3 * np.abs(value).max()


def _outputs(result) -> list:
    return list(result) if isinstance(result, list | tuple) else [result]


def _shapes(name: str, size: Size) -> set[tuple[int, ...]]:
    if name == "tiny_yolo":
        return {(1, size.side // 32, size.side // 32, 125)}
    return {(1, boxes(size.side), 4), (1, boxes(size.side), 21)}


@pytest.mark.parametrize("kind", ["keras3", "keras2"])
@pytest.mark.parametrize("name", NETWORKS)
def test_small(kind, name, tmp_path):
    check(kind, name, SMALL[name], tmp_path)


@pytest.mark.parametrize("kind", ["keras3", "keras2"])
@pytest.mark.parametrize("name", NETWORKS)
def test_full_size(kind, name, tmp_path):
    check(kind, name, Size(FULL[name]), tmp_path)


@pytest.mark.parametrize(("name", "weights"), [("mobilenet_ssd", 5_821_433), ("tiny_yolo", 15_867_885)])
def test_the_layer_tables_are_the_published_ones(name, weights):
    import keras

    network, norms = NETWORKS[name]
    model = keras.Model(*network(keras.layers, Size(FULL[name])))
    assert sum(isinstance(layer, keras.layers.BatchNormalization) for layer in model.layers) == norms
    assert model.count_params() == weights
    assert {(1, *output.shape[1:]) for output in model.outputs} == _shapes(name, Size(FULL[name]))
    assert boxes(300) == 1917
