"""From a model to an .onnx that onnxruntime runs; and what tf2onnx would do without our care."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import saved_models
import tensorflow as tf

import tf_bnfold
from tf_bnfold import extras, flags, pipeline
from tf_bnfold.errors import ConverterError, FlagError, VerificationError
from tf_bnfold.formats import onnx as onnx_format
from tf_bnfold.formats.onnx_ready import onnx_ready
from tf_bnfold.formats.saved_model import load_saved_model
from tf_bnfold.options import Options, Request
from tf_bnfold.verify import NotVerified, make_samples
from tf_bnfold.verify.onnx import verify_onnx

MODELS = Path(__file__).parents[2] / "shared" / "models"
needs_models = pytest.mark.skipif(not MODELS.is_dir(), reason=f"{MODELS.name}/ with the trained models is not there")

RANDOM = np.random.default_rng(0)
WEIGHTS = RANDOM.normal(0, 1, (3, 3, 3, 6)).astype(np.float32)
ROWS = RANDOM.normal(0, 1, (6, 1, 1)).astype(np.float32)  # on the rows of an image of 6 x 6, not on its 6 channels
BIASES = RANDOM.normal(0, 1, (2, 6)).astype(np.float32)


def conv(image, channels=6):
    return tf.nn.conv2d(image, WEIGHTS[..., :channels], 1, "SAME")


# What tf2onnx 1.17 converts wrongly.
FAULTS = {
    "rows": lambda image: tf.nn.relu(conv(image) + ROWS),
    "rows_first": lambda image: tf.add(ROWS, conv(image)),
    "two_biases": lambda image: tf.nn.relu(tf.nn.bias_add(tf.nn.bias_add(conv(image), BIASES[0]), BIASES[1])),
    "wider": lambda image: conv(image, 1) * BIASES[0],
}

MESSAGES = {
    "rows": r"^verification failed, so nothing is written: \.onnx with the folded graph: 1 of 1 tensors differ",
    "rows_first": r"^verification failed, so nothing is written: \.onnx with the folded graph: 1 of 1 tensors differ",
    "two_biases": "^tf2onnx made an invalid model, so nothing is written: .*Conv",
    "wider": r"^not verified, \.onnx with the folded graph: onnx\.checker refuses it: .*--noverify",
}


def loaded(folder: Path, function, shape=(None, 6, 6, 3)):
    spec = tf.TensorSpec(shape, name="image")
    return load_saved_model(saved_models.saved(str(folder / "model"), function, spec))


def converted(model, folder: Path, opset: int = 15, key: str = "serving_default") -> bytes:
    work_dir = folder / f"work{len(list(folder.iterdir()))}"
    work_dir.mkdir()
    return onnx_format.convert_to_onnx(model, key, work_dir=str(work_dir), opset=opset)


def test_the_command_gives_the_same_bytes_under_every_hash_seed(keras_saved_model, tmp_path):
    files = [tmp_path / f"{seed}.onnx" for seed in (1, 2)]
    for seed, file in enumerate(files, 1):
        report = tmp_path / "report.json"
        command = ["-m", "tf_bnfold", f"--saved_model={keras_saved_model}", f"--onnx={file}", f"--report={report}"]
        environment = {**os.environ, "PYTHONHASHSEED": str(seed)}
        done = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False, env=environment)
        assert (done.returncode, done.stderr) == (0, "")
        assert "\nONNX: " in done.stdout
        assert ".onnx with the folded graph: largest error" in done.stdout
    content = files[0].read_bytes()
    assert files[1].read_bytes() == content

    model = onnx.load_from_string(content)
    assert [value.name for value in model.graph.input] == ["image"]
    assert [value.name for value in model.graph.output] == ["output_0"]
    assert {each.domain: each.version for each in model.opset_import}[""] == 15
    found = json.loads(report.read_text())
    ops = found["result"]["onnx"]["ops"]
    assert found["result"]["onnx"]["bytes"] == len(content)
    assert ops["Conv"] == 2
    assert not {"Mul", "Sub", "BatchNormalization"} & set(ops)
    assert found["result"]["tflite"] is None
    versions = found["run"]["versions"]
    assert versions["onnx_opset"] == "15"
    assert {"tf2onnx", "onnx", "onnxruntime"} <= set(versions)
    assert found["run"]["outputs"]["onnx"] == str(files[1])
    image = np.random.default_rng(1).normal(0, 2, (3, 8, 8, 3)).astype(np.float32)
    (expected,) = (
        tf.saved_model.load(keras_saved_model).signatures["serving_default"](image=tf.constant(image)).values()
    )
    (result,) = onnxruntime.InferenceSession(content).run(None, {"image": image})
    assert np.abs(result - expected).max() < 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("name", FAULTS)
def test_what_tf2onnx_merges_wrongly_is_found_and_nothing_is_written(name, tmp_path, monkeypatch):
    model = saved_models.saved(str(tmp_path / "model"), FAULTS[name], tf.TensorSpec([1, 6, 6, 3], name="image"))
    monkeypatch.setattr(onnx_format, "onnx_ready", lambda graph_def: graph_def)
    monkeypatch.setattr(pipeline, "fold_graph", lambda graph_def, *_: pipeline.Folding(graph_def, ()))
    (tmp_path / "out").mkdir()
    with pytest.raises(VerificationError, match=MESSAGES[name]) as caught:
        pipeline.run(Request(model, onnx=str(tmp_path / "out" / "model.onnx")))
    assert caught.value.exit_code == 3
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("depthwise", [False, True])
@pytest.mark.parametrize("size", [(3, 1), (2, 3)])
def test_a_dilated_convolution_of_a_free_size_runs_in_onnxruntime(depthwise, size, tmp_path):
    weights = RANDOM.normal(0, 1, (*size, 16, 1 if depthwise else 16)).astype(np.float32)

    def dilated(image):
        conv = tf.nn.depthwise_conv2d if depthwise else tf.nn.conv2d
        strides = [1, 1, 1, 1] if depthwise else 1
        computed = tf.reshape(weights, weights.shape)  # as that of a Conv1D is, behind an ExpandDims
        return tf.nn.relu(conv(image, computed, strides, "SAME", dilations=[2, 3]) + BIASES[0, 0])

    model = loaded(tmp_path, dilated, (None, None, None, 16))
    finding = verify_onnx(model, "serving_default", converted(model, tmp_path), make_samples(model))
    assert not isinstance(finding, NotVerified), finding
    assert finding.failed == ()


def test_our_spelling_is_converted_right(tmp_path):
    model = loaded(tmp_path, lambda image: {name: function(image) for name, function in FAULTS.items()})
    content = converted(model, tmp_path)
    finding = verify_onnx(model, "serving_default", content, make_samples(model))
    assert not isinstance(finding, NotVerified), finding
    assert finding.failed == ()
    assert set(finding.tensors) == {f"serving_default: {name}" for name in FAULTS}
    assert finding.error < 1e-5


def test_our_spelling_changes_nothing_else(tmp_path):
    def usual(image):
        x = tf.nn.relu(tf.nn.bias_add(conv(image), BIASES[0]) * BIASES[1] + BIASES[0])
        return tf.nn.bias_add(x + ROWS[0, 0, 0], BIASES[1]) + tf.nn.relu(x)

    model = loaded(tmp_path, usual)
    assert onnx_ready(model.graph_def) == model.graph_def


def test_names_and_order_are_the_signatures(tmp_path):
    def function(image, unused):
        del unused
        return {"output_10": image * 3, "output_2": conv(image), "again": image * 3, "same": tf.identity(image)}

    spec = [tf.TensorSpec([None, 6, 6, 3], name="image"), tf.TensorSpec([None], tf.int32, name="a_2")]
    module = tf.Module()
    module.call = tf.function(function, input_signature=spec)
    tf.saved_model.save(module, str(tmp_path / "model"), signatures=module.call)
    model = load_saved_model(str(tmp_path / "model"))
    content = converted(model, tmp_path, opset=18)
    graph = onnx.load_from_string(content).graph
    assert [value.name for value in graph.input] == sorted(model.signatures["serving_default"].inputs)
    assert [value.name for value in graph.output] == ["again", "output_2", "output_10", "same"]
    finding = verify_onnx(model, "serving_default", content, make_samples(model))
    assert not isinstance(finding, NotVerified), finding
    assert (finding.failed, len(finding.tensors)) == ((), 4)


def test_a_table_goes_along(tmp_path):
    class Words(tf.Module):
        def __init__(self):
            values = tf.lookup.KeyValueTensorInitializer(["cat", "dog"], tf.constant([1, 2], tf.int64))
            self.table = tf.lookup.StaticHashTable(values, -1)

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="words")])
        def call(self, words):
            return {"ids": self.table.lookup(words)}

    module = Words()
    tf.saved_model.save(module, str(tmp_path / "model"), signatures=module.call)
    model = load_saved_model(str(tmp_path / "model"))
    content = converted(model, tmp_path)
    finding = verify_onnx(model, "serving_default", content, make_samples(model))
    assert (finding.failed, finding.error) == ((), 0)
    session = onnxruntime.InferenceSession(content)
    assert session.run(None, {"words": np.array(["dog", "cow", "cat"], object)})[0].tolist() == [2, -1, 1]


def test_one_of_several_signatures_has_to_be_chosen(tmp_path):
    model, target = saved_models.two_signatures(str(tmp_path / "model")), tmp_path / "out.onnx"
    with pytest.raises(FlagError, match=r"an \.onnx holds one signature, the model has also, run; --signature_keys"):
        pipeline.run(Request(model, onnx=str(target)))
    pipeline.run(Request(model, onnx=str(target), options=Options(signature_keys=("run",))))
    graph = onnx.load(target).graph
    assert [value.name for value in graph.input] == ["apple", "zebra"]
    assert [value.name for value in graph.output] == ["difference", "sum"]


def test_what_tf2onnx_refuses_is_said_in_one_line(tmp_path):
    model = loaded(tmp_path, lambda image: tf.math.bessel_i0e(image))
    with pytest.raises(ConverterError, match=r"^tf2onnx has no ONNX for BesselI0e \(.*\) at opset 15$"):
        converted(model, tmp_path)
    with pytest.raises(ConverterError, match=r"^--opset=99: tf2onnx .* writes up to \d+$"):
        converted(model, tmp_path, opset=99)


def test_an_open_rank_is_refused(tmp_path):
    model = loaded(tmp_path, lambda image: {"twice": 2 * image}, None)
    with pytest.raises(ConverterError, match=r"^ONNX needs the rank of input image, .*; give --input_shapes$"):
        converted(model, tmp_path)


def test_a_crash_of_tf2onnx_is_said_in_one_line(tmp_path, monkeypatch):
    model = loaded(tmp_path, conv)
    monkeypatch.setattr(onnx_format.sys, "path", ["/nowhere"])
    with pytest.raises(ConverterError, match=r"^tf2onnx failed: ModuleNotFoundError"):
        converted(model, tmp_path)


def test_an_input_and_an_output_of_one_name_are_refused(tmp_path):
    model = loaded(tmp_path, lambda image: {"image": conv(image)})
    with pytest.raises(ConverterError, match="image is the name of an input and of an output"):
        converted(model, tmp_path)


def test_a_missing_extra_is_said_before_any_work(tmp_path, monkeypatch):
    find = extras.importlib.util.find_spec
    monkeypatch.setattr(extras.importlib.util, "find_spec", lambda name: None if name == "tf2onnx" else find(name))
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "saved_model.pb").write_bytes(b"never read")
    with pytest.raises(FlagError, match=r"tf2onnx is not installed: pip install 'tf_bnfold\[onnx\]'$"):
        pipeline.run(Request(str(tmp_path / "model"), onnx=str(tmp_path / "out.onnx")))


def test_the_config_runs(keras_saved_model, tmp_path, pytestconfig):
    config, target = pytestconfig.rootpath / "configs" / "onnx.cfg", tmp_path / "out.onnx"
    command = ["tf_bnfold", f"--flagfile={config}", f"--saved_model={keras_saved_model}", f"--onnx={target}"]
    request = flags.request(flags.parse(command), command)
    assert request.options == Options(verify=True, opset=15)
    report = pipeline.run(request)
    assert [measurement.verified for measurement in report.run.measurements] == [True] * 3
    assert config.read_text().startswith("# Flags for ")


@needs_models
@pytest.mark.parametrize(
    ("source", "options", "batch_norms"),
    [
        ({"saved_model": "kws_ds_cnn"}, {}, 9),
        ({"keras_model": "resnet8_cifar10.h5"}, {}, 7),
        ({"keras_model": "ad01_autoencoder.h5"}, {}, 9),
        ({"frozen_graph": "arm_ds_cnn_s.pb"}, {"input_nodes": ("Mfcc",), "output_nodes": ("labels_softmax",)}, 9),
    ],
    ids=lambda value: next(iter(value.values())) if isinstance(value, dict) and value else None,
)
def test_trained_models_in_every_format_at_once(source, options, batch_norms, tmp_path):
    (field, name), *_ = source.items()
    outputs = {"tflite": "m.tflite", "onnx": "m.onnx", "output_saved_model": "folded", "output_graph": "m.pb"}
    places = {flag: str(tmp_path / file) for flag, file in outputs.items()}
    report = pipeline.run(Request(**{field: str(MODELS / name)}, **places, options=Options(**options)))
    assert [measurement.verified for measurement in report.run.measurements] == [True] * 4
    result = report.result
    assert len(result.of_kind(tf_bnfold.report.Kind.BATCH_NORM)) == batch_norms
    assert result.unfolded() == ()
    assert not {"BatchNormalization", "Mul", "Sub"} & set(result.onnx.ops)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(outputs.values())
