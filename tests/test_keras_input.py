"""Keras files and Python objects as input: that they are read right, and that what is not safe is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
import saved_models
import tensorflow as tf
import tf_keras
from ai_edge_litert.interpreter import Interpreter

import tf_bnfold
from tf_bnfold import extras, pipeline
from tf_bnfold.errors import InputError
from tf_bnfold.formats import keras_config, keras_file
from tf_bnfold.options import Options, Request
from tf_bnfold.outcome import Kind, Status

MODELS = Path(__file__).parents[2] / "shared" / "models"
needs_models = pytest.mark.skipif(not MODELS.is_dir(), reason=f"{MODELS.name}/ with the trained models is not there")
LIBRARIES = {"keras": keras, "tf_keras": tf_keras}
IMAGE = np.random.default_rng(1).normal(0, 2, (2, 6, 6, 3)).astype(np.float32)


def net(library, *more):
    inputs, outputs = saved_models.conv_net(library.layers)
    for layer in more:
        outputs = layer(outputs)
    model = library.Model(inputs, outputs)
    saved_models.randomise(model)
    return model


def folded(model, tmp_path, **options) -> tuple[tf_bnfold.Report, Path]:
    """Convert a path or an object for two images at once; all of it is verified."""
    options.setdefault("input_shapes", {"image": (2, 6, 6, 3)})
    report = tf_bnfold.convert(model, tmp_path / "out.tflite", Options(**options))
    assert [measurement.verified for measurement in report.run.measurements] == [True] * 3
    assert report.result.unfolded() == ()
    return report, tmp_path / "out.tflite"


def check_outputs(tflite: Path, expected) -> None:
    runner = Interpreter(str(tflite)).get_signature_runner("serving_default")
    (result,) = runner(image=IMAGE).values()
    assert np.abs(result - expected).max() < 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("suffix", ["keras", "h5"])
@pytest.mark.parametrize("library", LIBRARIES)
def test_a_file_of_either_keras_and_either_form(library, suffix, tmp_path):
    model = net(LIBRARIES[library])
    file = tmp_path / f"net.{suffix}"
    model.save(file)
    report, tflite = folded(file, tmp_path)
    check_outputs(tflite, np.asarray(model(IMAGE)))
    assert report.run.measurements[0].compared == "folded graph with the SavedModel exported from it"
    by = f"{'Keras' if library == 'keras' else library} {LIBRARIES[library].__version__}"
    assert f"The original is the SavedModel that {by} exports from net.{suffix}" in report.result.notes
    assert {"keras", "tf_keras"} <= set(report.run.versions)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([file.name, "out.tflite"])


def test_the_command_takes_it(tmp_path):
    net(keras).save(tmp_path / "net.keras")
    command = [f"--keras_model={tmp_path / 'net.keras'}", f"--tflite={tmp_path / 'a.tflite'}", "--verbosity=-1"]
    done = subprocess.run([sys.executable, "-m", "tf_bnfold", *command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (tmp_path / "a.tflite").exists()


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_keras_model_in_hand(library, tmp_path):
    model = net(LIBRARIES[library])
    report, tflite = folded(model, tmp_path)
    check_outputs(tflite, np.asarray(model(IMAGE)))
    assert report.result.notes[-1].startswith("The original is the SavedModel that Keras exports from the model ")


def with_pictures_resized(form):
    layers = keras.layers
    stack = [layers.Resizing(9, 9), layers.RandomFlip(), layers.Conv2D(4, 3), layers.BatchNormalization()]
    if form == "sequential":
        return keras.Sequential([keras.Input((8, 8, 3)), *stack])
    image = value = keras.Input((8, 8, 3))
    for layer in stack:
        value = layer(value)
    if form == "functional":
        return keras.Model(image, value)

    class Subclassed(keras.Model):
        def __init__(self):
            super().__init__()
            self.stack = stack

        def call(self, inputs, training=None):
            for layer in self.stack:
                inputs = layer(inputs)
            return inputs

    model = Subclassed()
    model(np.zeros((1, 8, 8, 3), np.float32))
    return model


@pytest.mark.parametrize("form", ["functional", "sequential", "subclassed"])
def test_a_batch_norm_behind_layers_for_pictures_does_not_train(form, tmp_path):
    """Keras 3 takes the default of Resizing, `training=True`, for all layers behind it, and exports that."""
    model = with_pictures_resized(form)
    known = type(model)
    norm = next(layer for layer in model._flatten_layers() if isinstance(layer, keras.layers.BatchNormalization))
    norm.moving_mean.assign([3.0] * 4)
    norm.moving_variance.assign([0.5] * 4)
    expected = model.predict(np.random.default_rng(0).random((2, 8, 8, 3), np.float32), verbose=0)
    report = tf_bnfold.convert(model, tmp_path / "out.tflite")
    assert type(model) is known
    assert [(each.kind, each.status) for each in report.result.outcomes] == [(Kind.BATCH_NORM, Status.UP)]
    runner = Interpreter(str(tmp_path / "out.tflite")).get_signature_runner("serving_default")
    name = next(iter(runner.get_input_details()))
    (found,) = runner(**{name: np.random.default_rng(0).random((2, 8, 8, 3), np.float32)}).values()
    np.testing.assert_allclose(found, expected, atol=1e-4)


def _batches(library, form):
    """A model whose batch is two, by the structure of its inputs."""
    layers = library.layers
    left, right = (layers.Input((8,), batch_size=2, name=name) for name in ("left", "right"))
    if form == "sequential":
        return library.Sequential([left, layers.Dense(3)])
    if form == "one":
        return library.Model(left, layers.Dense(3)(left))
    inputs = [left, right] if form == "list" else {"left": left, "right": right}
    return library.Model(inputs, layers.Dense(3)(layers.Concatenate()([left, right])))


@pytest.mark.parametrize("form", ["sequential", "one", "list", "dict"])
@pytest.mark.parametrize("library", LIBRARIES)
def test_a_batch_that_the_model_fixes_stays_fixed(library, form, tmp_path):
    """Keras 3 opens it on export; the stock converter keeps it, and recurrent nets need it."""
    model = _batches(LIBRARIES[library], form)
    tf_bnfold.convert(model, tmp_path / "out.tflite")
    details = Interpreter(str(tmp_path / "out.tflite")).get_input_details()
    assert [list(each["shape_signature"]) for each in details] == [[2, 8]] * len(model.inputs)
    if form in ("list", "dict"):
        names = [each["name"].removeprefix("serving_default_").removesuffix(":0") for each in details]
        assert names == ["left", "right"]


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_recurrent_net_of_a_fixed_batch(library, tmp_path):
    layers = LIBRARIES[library].layers
    inputs = layers.Input((6, 4), batch_size=1, name="x")
    normed = layers.BatchNormalization()(layers.Dense(5)(inputs))
    LIBRARIES[library].Model(inputs, layers.LSTM(3)(normed)).save(tmp_path / "net.keras")
    report = tf_bnfold.convert(tmp_path / "net.keras", tmp_path / "out.tflite")
    assert report.result.unfolded() == ()


def test_grouped_convolutions_of_keras_3(tmp_path):
    """Keras calls them in a function of their own, with jit_compile."""
    image = keras.Input((6, 6, 4), name="image")
    x = keras.layers.ReLU()(keras.layers.BatchNormalization()(keras.layers.Conv2D(4, 3, groups=2)(image)))
    model = keras.Model(image, keras.layers.BatchNormalization()(keras.layers.Conv2D(6, 3, groups=2)(x)))
    saved_models.randomise(model)
    report, _ = folded(model, tmp_path, input_shapes={"image": (2, 6, 6, 4)}, fail_if_unfolded=True)
    assert len(report.result.outcomes) == 2


def a_function(image):
    return {"logits": tf.nn.batch_normalization(tf.nn.conv2d(image, WEIGHTS, 1, "SAME"), 1.0, 2.0, 3.0, 4.0, 1e-3)}


WEIGHTS = np.random.default_rng(0).normal(0, 1, (3, 3, 3, 4)).astype(np.float32)
SPEC = tf.TensorSpec([None, 6, 6, 3], name="image")


class Module(tf.Module):
    """Has no name, as it does not call its base class."""

    def __init__(self):
        self.factor = tf.Variable(2.0)

    @tf.function(input_signature=[SPEC])
    def __call__(self, image):
        return {"logits": self.factor * a_function(image)["logits"]}


def test_a_concrete_function_and_a_module(tmp_path):
    _, tflite = folded(tf.function(a_function).get_concrete_function(SPEC), tmp_path)
    check_outputs(tflite, a_function(IMAGE)["logits"])
    module = Module()
    _, tflite = folded(module.__call__.get_concrete_function(), tmp_path)  # with a variable
    check_outputs(tflite, 2 * a_function(IMAGE)["logits"])
    report, tflite = folded(module, tmp_path)
    check_outputs(tflite, 2 * a_function(IMAGE)["logits"])
    assert "The original is the SavedModel of the tf.Module Module" in report.result.notes


def test_a_module_of_several_functions_has_their_names_as_signatures(tmp_path):
    report = tf_bnfold.fold_saved_model(saved_models.TwoSignatures(), tmp_path / "folded")
    assert set(tf.saved_model.load(str(tmp_path / "folded")).signatures) == {"also", "run"}
    assert report.run.outputs == {"output_saved_model": str(tmp_path / "folded")}


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (3, "a int is no model: give a path, a Keras model, a concrete function"),
        (tf.Module(), "has no tf.function with an input_signature"),
        (keras.Sequential([keras.layers.Dense(2)]), "can not be exported: "),
    ],
    ids=["a number", "an empty module", "a model without input"],
)
def test_what_is_no_model_is_said(model, words, tmp_path):
    with pytest.raises(InputError, match=words) as caught:
        tf_bnfold.convert(model, tmp_path / "out.tflite")
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", ["keras", "h5"])
@pytest.mark.parametrize("library", LIBRARIES)
def test_a_lambda_is_refused_unless_it_is_allowed(library, suffix, tmp_path):
    model = net(LIBRARIES[library], LIBRARIES[library].layers.Lambda(lambda x: 2 * x, name="twice"))
    file = tmp_path / f"net.{suffix}"
    model.save(file)
    words = r"holds Python code in layer 'twice' \(Lambda\), which would run here; --allow_unsafe_deserialization"
    with pytest.raises(InputError, match=words):
        tf_bnfold.convert(file, tmp_path / "out.tflite")
    assert list(tmp_path.iterdir()) == [file]
    _, tflite = folded(file, tmp_path, allow_unsafe_deserialization=True)
    check_outputs(tflite, np.asarray(model(IMAGE)))


def rewritten(file: Path, edit) -> Path:
    """Write a .keras archive whose config is edited."""
    with zipfile.ZipFile(file) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    config = json.loads(members["config.json"])
    edit(config)
    members["config.json"] = json.dumps(config).encode()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file


@pytest.fixture
def file(tmp_path) -> Path:
    net(keras).save(tmp_path / "net.keras")
    return tmp_path / "net.keras"


def replace_layer(**entry):
    def edit(config):
        config["config"]["layers"][1].update(entry)

    return edit


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"class_name": "TFSMLayer"}, "has a TFSMLayer .*, which opens other files; export it"),
        ({"class_name": "TorchModuleWrapper"}, "has a TorchModuleWrapper"),
        (
            {"class_name": "StringLookup", "config": {"name": "words", "vocabulary": "/etc/hostname"}},
            r"StringLookup \(layer 'words'\) that reads the file '/etc/hostname'",
        ),
        (
            {"module": "os", "class_name": "function", "config": "system"},
            "names os.system, which is no part of a Keras",
        ),
        ({"module": "builtins", "class_name": "function", "config": "exec"}, "names builtins.exec"),
        ({"module": "keras.utils", "class_name": "function", "config": "get_file"}, "names keras.utils.get_file"),
        ({"module": "mine", "class_name": "Mine", "registered_name": "mine>Mine"}, r"names mine\.Mine"),
        ({"class_name": "TFOpLambda", "config": {"function": "io.gfile.rmtree"}}, r"calls tf\.io\.gfile\.rmtree in"),
        ({"class_name": "TFOpLambda", "config": {"function": "py_function"}}, r"calls tf\.py_function"),
    ],
)
def test_a_config_that_does_more_than_describe_a_model_is_refused(file, entry, words):
    rewritten(file, replace_layer(**entry))
    with pytest.raises(InputError, match=words):
        keras_config.check_keras_file(str(file), allow_lambda=True)


def test_what_keras_writes_by_itself_is_not_refused(file, tmp_path):
    assert keras_config.check_keras_file(str(file)) == keras.__version__
    inputs = tf_keras.Input((6, 6, 3))
    tf_keras.Model(inputs, tf.nn.relu(tf.math.tanh(inputs) + 1.0)[:, 0]).save(tmp_path / "ops.h5")
    assert keras_config.check_keras_file(str(tmp_path / "ops.h5")) == tf_keras.__version__


@keras.saving.register_keras_serializable("test_keras_input")
class Doubled(keras.layers.Layer):
    def call(self, x):
        return 2 * x


def test_a_custom_layer_that_the_program_has_registered_is_read(tmp_path):
    model = net(keras, Doubled())
    model.save(tmp_path / "net.keras")
    _, tflite = folded(tmp_path / "net.keras", tmp_path)
    check_outputs(tflite, np.asarray(model(IMAGE)))


def test_the_limits_are_those_of_the_archive(file, tmp_path, monkeypatch):
    for name in ("../out", "/etc/out", "a\\..\\out", "c:out"):
        bad = tmp_path / "bad.keras"
        bad.write_bytes(file.read_bytes())
        with zipfile.ZipFile(bad, "a") as archive:
            archive.writestr(name, b"x")
        with pytest.raises(InputError, match=r"is not safe to open: its member .* leads out of it"):
            keras_config.check_keras_file(str(bad))
    bad.write_bytes(file.read_bytes())
    with zipfile.ZipFile(bad, "a") as archive:
        link = zipfile.ZipInfo("link")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(InputError, match="its member 'link' leads out of it"):
        keras_config.check_keras_file(str(bad))
    bad.write_bytes(file.read_bytes())
    with zipfile.ZipFile(bad, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("assets/bomb", bytes(1 << 27))
    with pytest.raises(InputError, match=r"is not safe to open: its members declare \d+ bytes, but the file has \d+"):
        keras_config.check_keras_file(str(bad))
    monkeypatch.setattr(keras_config, "_MOST_EXPANSION", 1 << 30)
    keras_config.check_keras_file(str(bad))
    monkeypatch.setattr(keras_config, "_MOST_BYTES", 1 << 26)
    with pytest.raises(InputError, match="is not safe to open"):
        keras_config.check_keras_file(str(bad))


@pytest.mark.parametrize("suffix", ["h5", "keras"])
def test_weights_that_lead_out_of_the_file_are_refused(suffix, tmp_path):
    (tmp_path / "secret").write_bytes(bytes(64))
    file = tmp_path / f"net.{suffix}"
    for damage, words in (
        (lambda h5: h5.__setitem__("link", h5py.ExternalLink(str(tmp_path / "other.h5"), "/")), "/link is a link to"),
        (
            lambda h5: h5.create_dataset("far", (4,), "f4", external=[(str(tmp_path / "secret"), 0, 16)]),
            "/far has its data in another file",
        ),
        (
            lambda h5: h5.create_dataset("bomb", (1 << 30,), "f4", chunks=(1 << 20,), compression="gzip"),
            "declares .* bytes, but has",
        ),
    ):
        net(keras).save(file)
        weights = file
        if suffix == "keras":
            with zipfile.ZipFile(file) as archive:
                archive.extract("model.weights.h5", tmp_path)
                members = {name: archive.read(name) for name in archive.namelist()}
            weights = tmp_path / "model.weights.h5"
        with h5py.File(weights, "a") as opened:
            damage(opened)
        if suffix == "keras":
            with zipfile.ZipFile(file, "w") as archive:
                for name, content in (members | {"model.weights.h5": weights.read_bytes()}).items():
                    archive.writestr(name, content)
        with pytest.raises(InputError, match=words):
            keras_config.check_keras_file(str(file))


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def test_what_is_no_model_file_is_said(file, tmp_path):
    def message(path: Path) -> str:
        with pytest.raises(InputError) as caught:
            tf_bnfold.convert(path, tmp_path / "out.tflite")
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "no such file" in message(tmp_path / "no.keras")
    assert "is damaged, or no file that Keras writes" in message(write(tmp_path / "a.keras", b"not a zip"))
    assert "is damaged, or no file that Keras writes" in message(write(tmp_path / "a.h5", b"not HDF5"))
    net(keras).save_weights(tmp_path / "a.weights.h5")
    assert "holds weights only; give the whole model" in message(tmp_path / "a.weights.h5")
    with zipfile.ZipFile(tmp_path / "b.keras", "w") as archive:
        archive.write(tmp_path / "a.weights.h5", "model.weights.h5")
    assert "there is no config.json in it; it holds weights only" in message(tmp_path / "b.keras")
    rewritten(file, replace_layer(class_name="Conv2D", config={"filters": "many"}))
    assert f"net.keras can not be loaded by Keras {keras.__version__}: " in message(file)
    assert message(file).endswith(
        "; export it as a SavedModel with the code that made it, and give that by --saved_model"
    )
    content = file.read_bytes()
    for size in range(0, len(content), len(content) // 10):
        message(write(tmp_path / "cut.keras", content[:size]))
    with pytest.raises(InputError, match=r"--keras_model=.*net\.txt: Keras tells the form by the suffix; give \.keras"):
        pipeline.run(Request(keras_model=str(write(tmp_path / "net.txt", content)), options=Options(dry_run=True)))


def without_tf_keras(monkeypatch) -> None:
    find = extras.importlib.util.find_spec
    monkeypatch.setattr(extras.importlib.util, "find_spec", lambda name: None if name == "tf_keras" else find(name))


def test_without_tf_keras_a_file_of_keras_2_is_read_by_keras_3_if_that_can(tmp_path, monkeypatch):
    model = net(tf_keras)
    model.save(tmp_path / "net.h5")
    without_tf_keras(monkeypatch)
    report, tflite = folded(tmp_path / "net.h5", tmp_path)
    check_outputs(tflite, np.asarray(model(IMAGE)))
    assert report.result.notes[-1].endswith(f"exports from net.h5 (a file of Keras {tf_keras.__version__})")


def test_without_tf_keras_a_file_that_needs_it_gets_a_hint(tmp_path, monkeypatch):
    inputs = tf_keras.Input((6, 6, 3), name="image")
    tf_keras.Model(inputs, tf.math.tanh(inputs) + 1.0).save(tmp_path / "net.h5")  # functions that Keras 3 has not
    without_tf_keras(monkeypatch)
    hint = r"; it is a file of Keras 2\..*, for which tf_keras is not installed: pip install 'tf_bnfold\[keras2\]'$"
    with pytest.raises(InputError, match=hint):
        tf_bnfold.convert(tmp_path / "net.h5", tmp_path / "out.tflite")


def test_a_dry_run_leaves_nothing(file, tmp_path):
    report = pipeline.run(Request(keras_model=str(file), options=Options(dry_run=True)))
    assert report.result.unfolded() == ()
    assert os.listdir(tmp_path) == ["net.keras"]


def test_a_folded_saved_model_says_which_endpoints_are_not_kept(file, tmp_path):
    report = tf_bnfold.fold_saved_model(file, tmp_path / "folded")
    note = "The folded SavedModel has the signatures; not kept are the Python endpoints .serve() and the variables"
    assert note in report.result.notes
    assert not hasattr(tf.saved_model.load(str(tmp_path / "folded")), "serve")
    again = tf_bnfold.fold_saved_model(tmp_path / "folded", tmp_path / "again")
    assert not any("endpoints" in sentence for sentence in again.result.notes)


@needs_models
@pytest.mark.parametrize(("name", "batch_norms"), [("resnet8_cifar10", 7), ("ad01_autoencoder", 9)])
@pytest.mark.parametrize("library", LIBRARIES)
def test_trained_models(name, batch_norms, library, tmp_path, monkeypatch):
    if library == "keras":
        without_tf_keras(monkeypatch)
    report, _ = folded(MODELS / f"{name}.h5", tmp_path, input_shapes={})
    assert report.result.before.total > report.result.after.total
    assert len(report.result.of_kind(tf_bnfold.report.Kind.BATCH_NORM)) == batch_norms
    expected = keras_file._named(library)
    assert any(expected in note for note in report.result.notes)
