"""Models with state: variables that the signatures write stay variables, start from their value and go in step."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import saved_models
import tensorflow as tf
from tensorflow.core.framework import graph_pb2

from tf_bnfold import pipeline, verify
from tf_bnfold.errors import ConverterError, InputError, VerificationError
from tf_bnfold.fold import fold_graph
from tf_bnfold.formats.saved_model import load_saved_model
from tf_bnfold.formats.surgery import Surgery
from tf_bnfold.formats.variables import state_variables
from tf_bnfold.options import Options, Request
from tf_bnfold.outcome import Kind, Status
from tf_bnfold.verify.litert import LiteRT
from tf_bnfold.verify.session import feeds_of, fetches_of, opened

FRAME = tf.TensorSpec((1, 8), name="frame")
FRAMES = np.random.default_rng(0).standard_normal((12, 1, 8)).astype(np.float32)


class Streaming(tf.Module):
    """A convolution over the last frames, which a variable holds, a batch norm and a Dense; and a way to start anew."""

    def __init__(self, layers):
        self.state = tf.Variable(np.linspace(-1, 1, 24).reshape(1, 3, 1, 8), trainable=False, dtype=tf.float32)
        self.count = tf.Variable(0, trainable=False, name="count")
        self.conv, self.norm = layers.Conv2D(6, (4, 1), use_bias=False), layers.BatchNormalization()
        self.dense = layers.Dense(5)
        self.conv.build((1, 4, 1, 8))
        self.norm.build((1, 1, 1, 6))
        self.dense.build((1, 6))
        saved_models.randomise(self)

    @property
    def weights(self):
        return [*self.conv.weights, *self.norm.weights, *self.dense.weights]

    @tf.function(input_signature=[FRAME])
    def step(self, frame):
        memory = tf.concat([self.state, frame[:, None, None, :]], 1)
        self.state.assign(memory[:, 1:])
        hidden = tf.nn.relu(self.norm(self.conv(memory), training=False))
        return {"logits": self.dense(hidden[:, 0, 0]), "count": self.count.assign_add(1)}

    @tf.function(input_signature=[])
    def start(self):
        self.state.assign(tf.zeros_like(self.state))
        return {"count": self.count.assign(0)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("streaming")


@pytest.fixture(scope="module", params=["keras", "tf_keras"])
def streaming(request, folder):
    module = Streaming(pytest.importorskip(request.param).layers)
    path = str(folder / request.param)
    tf.saved_model.save(module, path, signatures={"serving_default": module.step, "start": module.start})
    return path


def stepwise(run: Callable[..., dict], frames=FRAMES, name="frame") -> list[dict]:
    return [run({name: frame}) for frame in frames]


def of_loaded(path: str, key: str = "serving_default") -> Callable[..., dict]:
    """A function that runs a signature of a SavedModel as TensorFlow 2 loads it."""
    loaded = tf.saved_model.load(path)

    def run(inputs):
        outputs = loaded.signatures[key](**{name: tf.constant(value) for name, value in inputs.items()})
        return {name: value.numpy() for name, value in outputs.items()}

    return run


def assert_same(found: list[dict], expected: list[dict]) -> None:
    for mine, its in zip(found, expected, strict=True):
        assert mine.keys() == its.keys()
        for name, value in its.items():
            np.testing.assert_allclose(mine[name], value, rtol=1e-4, atol=1e-5)


def test_a_stream_converts_and_goes_in_step_with_the_original(streaming, tmp_path):
    file, folded = tmp_path / "out.tflite", str(tmp_path / "folded")
    report = pipeline.run(Request(streaming, tflite=str(file), output_saved_model=folded, options=Options()))
    assert [outcome.status for outcome in report.result.of_kind(Kind.BATCH_NORM)] == [Status.UP]
    assert all(measurement.verified for measurement in report.run.measurements)
    first, inner, tflite = report.run.measurements
    assert (first.tensors, first.samples) == (3, 24)  # twelve steps of each signature
    assert inner.tensors > 5
    assert (tflite.tensors, tflite.samples) == (3, 24)
    ops = report.result.tflite.ops
    assert ops["CONV_2D"] == ops["FULLY_CONNECTED"] == 1
    assert not {"MUL", "RSQRT", "BATCH_MATMUL"} & ops.keys()
    expected = stepwise(of_loaded(streaming))
    assert [step["count"] for step in expected] == list(range(1, 13))
    lite = LiteRT(file.read_bytes())
    assert_same(stepwise(lambda inputs: lite.run("serving_default", inputs)), expected)
    assert_same(stepwise(of_loaded(folded)), expected)


def test_signatures_share_their_state_in_what_is_written(streaming, tmp_path):
    file, folded = tmp_path / "out.tflite", str(tmp_path / "folded")
    pipeline.run(Request(streaming, tflite=str(file), output_saved_model=folded, options=Options()))
    lite = LiteRT(file.read_bytes())
    loaded = tf.saved_model.load(folded).signatures
    for _ in range(3):
        lite.run("serving_default", {"frame": FRAMES[0]})
        loaded["serving_default"](frame=tf.constant(FRAMES[0]))
    assert lite.run("start", {})["count"] == loaded["start"]()["count"] == 0
    found = lite.run("serving_default", {"frame": FRAMES[1]}), loaded["serving_default"](frame=tf.constant(FRAMES[1]))
    original = tf.saved_model.load(streaming).signatures
    original["start"]()
    expected = original["serving_default"](frame=tf.constant(FRAMES[1]))
    assert_same([dict(each) for each in found], [dict(expected)] * 2)


@pytest.fixture(scope="module")
def small(folder):
    """A stream of its own functions, without Keras."""
    weights = tf.constant(np.random.default_rng(1).standard_normal((16, 4)), tf.float32)
    scale, offset = tf.constant([1.5, -2.0, 0.5, 3.0]), tf.constant([0.5, 1.0, -1.0, 2.0])
    state = tf.Variable(np.ones((1, 8)), dtype=tf.float32, name="state")

    def call(frame):
        both = tf.concat([state, frame], 1)
        state.assign(0.5 * frame + 0.25 * state)
        return {"y": tf.nn.relu(both @ weights * scale + offset)}

    return saved_models.saved(str(folder / "small"), call, FRAME, variables=[state])


def altered(model, name: str, change: Callable[[np.ndarray], np.ndarray]):
    graph_def = graph_pb2.GraphDef()
    graph_def.CopyFrom(model.graph_def)
    (node,) = (node for node in graph_def.node if node.name.endswith(name))
    value = change(tf.make_ndarray(node.attr["value"].tensor))
    node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(value))
    return model.with_graph(graph_def)


@pytest.mark.parametrize("name", ["state/initial_value", "mul/x", "mul_1/x"])
def test_verification_finds_a_state_that_starts_or_goes_otherwise(small, name):
    frozen = load_saved_model(small)
    samples = verify.make_samples(frozen)
    assert len(samples["serving_default"]) == 12
    right = verify.verify_saved_model(small, ("serve",), frozen, frozen, samples)
    verify.require_verified(right)
    wrong = altered(frozen, name, lambda value: 1.1 * value)
    outputs, _ = verify.verify_saved_model(small, ("serve",), frozen, wrong, samples)
    assert outputs.failed
    with pytest.raises(VerificationError):
        verify.require_verified((outputs,))


def test_verification_finds_a_tflite_that_goes_otherwise(small, tmp_path):
    file = tmp_path / "out.tflite"
    pipeline.run(Request(small, tflite=str(file), options=Options()))
    frozen = load_saved_model(small)
    samples = verify.make_samples(frozen)
    verify.require_verified((verify.verify_tflite(frozen, file.read_bytes(), samples),))
    wrong = altered(frozen, "mul_1/x", lambda value: 1.1 * value)
    assert verify.verify_tflite(wrong, file.read_bytes(), samples).failed


def read_after_write(state, x):
    before = state + 0.0
    state.assign_add(x)
    between = state * 2.0
    state.assign(state * 0.5 - x)
    return {"y": before, "z": between + state}


def written_by_two_calls(state, x):
    @tf.function
    def turn(v):
        old = state + 0.0
        state.assign(old * 0.5 + v)
        return old

    return {"y": turn(x), "z": turn(2.0 * x) + state}


def written_in_a_branch(state, x):
    def write():
        state.assign_sub(x)
        return state * 1.0

    return {"y": tf.cond(tf.reduce_sum(x) > 0, write, lambda: state * 3.0), "z": state + 0.0}


def written_in_a_loop(state, x):
    def turn(i, total):
        state.assign(0.5 * state + x)
        return i + 1, total + state

    return {"y": tf.while_loop(lambda i, _: i < 3, turn, (0, x))[1], "z": state + 0.0}


def only_written(state, x):
    state.assign(x)
    return {"y": 2.0 * x}


def given_out_before_it_is_written(state, x):
    value = state.read_value()
    state.assign(value + x)
    return {"y": value}


ORDERS = [
    *(read_after_write, written_by_two_calls, written_in_a_branch, written_in_a_loop),
    *(only_written, given_out_before_it_is_written),
]


@pytest.mark.parametrize("call", ORDERS)
def test_reads_and_writes_keep_their_order(folder, call):
    state = tf.Variable(np.linspace(-1, 1, 8).reshape(1, 8), dtype=tf.float32, name="state")
    path = saved_models.saved(str(folder / call.__name__), lambda frame: call(state, frame), FRAME, variables=[state])
    expected = stepwise(of_loaded(path))
    model = load_saved_model(path)
    assert model.state == ("state",)
    folded = model.with_graph(fold_graph(model.graph_def, model.outputs(), model.inputs()).graph_def)
    for each in (model, folded):
        signature = each.signatures["serving_default"]
        fetches = fetches_of(signature)
        with opened(each) as runner:
            values = [runner.run(list(fetches.values()), feeds_of(signature, {"frame": frame})) for frame in FRAMES]
        assert_same([dict(zip(fetches, each, strict=True)) for each in values], expected)


def ring_buffer(path: str) -> str:
    """A graph of TF1 as streaming keyword spotters are made: all behind the write waits for it."""
    v1, random = tf.compat.v1, np.random.default_rng(0)

    def variable(name, *shape):
        value = np.abs(random.normal(0.1, 0.5, shape)) + 0.2
        return v1.get_variable(name, initializer=value.astype(np.float32), use_resource=True)

    with tf.Graph().as_default(), v1.Session() as session:
        frame = v1.placeholder(tf.float32, [1, 1, 8], name="frame")
        ring = v1.get_variable("ring", initializer=tf.zeros([1, 3, 8]), use_resource=True, trainable=False)
        memory = tf.concat([ring[:, 1:], frame], 1)
        with tf.control_dependencies([ring.assign(memory)]):
            x = tf.nn.conv2d(tf.expand_dims(memory, 2), variable("kernel", 3, 1, 8, 6), 1, "VALID")
            norm = v1.nn.fused_batch_norm(x, *(variable(name, 6) for name in "gbmv"), is_training=False)[0]
            scores = tf.nn.relu(norm, name="scores")
        session.run(v1.global_variables_initializer())
        v1.saved_model.simple_save(session, path, {"frame": frame}, {"scores": scores})
    return path


def test_a_ring_buffer_of_tf1(tmp_path):
    path, file = ring_buffer(str(tmp_path / "model")), tmp_path / "out.tflite"
    report = pipeline.run(Request(path, tflite=str(file), options=Options()))
    assert [outcome.status for outcome in report.result.of_kind(Kind.BATCH_NORM)] == [Status.UP]
    assert all(measurement.verified for measurement in report.run.measurements)
    assert not {"MUL", "ADD"} & report.result.tflite.ops.keys()
    lite = LiteRT(file.read_bytes())
    frames = FRAMES[:, None]
    assert_same(stepwise(lambda inputs: lite.run("serving_default", inputs), frames), stepwise(of_loaded(path), frames))


def test_what_is_cut_out_before_the_write_says_that_it_has_no_state(tmp_path):
    path = ring_buffer(str(tmp_path / "model"))
    model = load_saved_model(path, surgery=Surgery(output_nodes=("concat",)))
    assert model.state == ()
    assert "VarHandleOp" not in saved_models.ops(model.graph_def)
    assert any("does not write variables ring any more: they are constants" in note for note in model.notes)


def stateful_rnn(keras, cell: str, path: str) -> str:
    layers = keras.layers
    inputs = layers.Input((4, 8), batch_size=1, name="frames")
    x = layers.BatchNormalization()(layers.Conv1D(6, 3, padding="same")(inputs))
    model = keras.Model(inputs, layers.Dense(3)(getattr(layers, cell)(5, stateful=True)(x)))
    saved_models.randomise(model)
    if keras.__name__ == "keras":
        model.export(path, verbose=False, input_signature=[tf.TensorSpec((1, 4, 8), name="frames")])
    else:
        model.save(path, save_format="tf", include_optimizer=False)
    return path


@pytest.mark.parametrize("cell", ["GRU", "LSTM"])
@pytest.mark.parametrize("keras", ["keras", "tf_keras"])
def test_stateful_recurrent_layers_of_keras(tmp_path, keras, cell):
    path = stateful_rnn(pytest.importorskip(keras), cell, str(tmp_path / "model"))
    report = pipeline.run(Request(path, tflite=str(tmp_path / "out.tflite"), options=Options()))
    assert [outcome.status for outcome in report.result.of_kind(Kind.BATCH_NORM)] == [Status.UP]
    assert all(measurement.verified for measurement in report.run.measurements)
    assert report.result.copied == ()


def test_equal_signatures_share_their_nodes_where_they_write_the_same(tmp_path):
    keras = pytest.importorskip("keras")
    model = load_saved_model(stateful_rnn(keras, "GRU", str(tmp_path / "model")))
    names = [{info.name for info in signature.outputs.values()} for signature in model.signatures.values()]
    assert len(names) == 2
    assert names[0] == names[1]


def test_signatures_that_write_other_variables_do_not_share_them(tmp_path):
    class Two(tf.Module):
        def __init__(self):
            self.one, self.other = (tf.Variable(0.0, name="same") for _ in "12")

        @tf.function(input_signature=[tf.TensorSpec([], name="x")])
        def first(self, x):
            return {"y": self.one.assign_add(x)}

        @tf.function(input_signature=[tf.TensorSpec([], name="x")])
        def second(self, x):
            return {"y": self.other.assign_add(x)}

    path, module = str(tmp_path / "model"), Two()
    tf.saved_model.save(module, path, signatures={"first": module.first, "second": module.second})
    folded = str(tmp_path / "folded")
    pipeline.run(Request(path, output_saved_model=folded, options=Options()))
    loaded = tf.saved_model.load(folded).signatures
    one = tf.constant(1.0)
    assert [loaded[key](x=one)["y"].numpy() for key in ("first", "first", "second", "first")] == [1, 2, 1, 3]


@pytest.mark.parametrize("mode", ["dynamic", "float16", "int8"])
def test_a_quantised_stream_goes_in_step(small, tmp_path, mode):
    data = tmp_path / "frames.npz"
    np.savez(data, frame=np.random.default_rng(0).standard_normal((24, 8)).astype(np.float32))
    options = Options(quantize=mode, representative_data=str(data))
    report = pipeline.run(Request(small, tflite=str(tmp_path / "out.tflite"), options=options))
    (quality,) = report.run.measurements[-1].quantised
    assert report.run.measurements[-1].samples == 24
    assert quality.sqnr > 25


def test_an_onnx_has_no_state(small, tmp_path):
    pytest.importorskip("tf2onnx")
    with pytest.raises(ConverterError, match="ONNX has no variables, and the model writes state"):
        pipeline.run(Request(small, onnx=str(tmp_path / "out.onnx"), options=Options()))


def test_a_table_and_a_state_are_both_initialised(tmp_path):
    class Counting(tf.Module):
        def __init__(self):
            keys, values = tf.constant(["a", "b"]), tf.constant([3, 5], tf.int64)
            self.table = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(keys, values), -1)
            self.total = tf.Variable(7, dtype=tf.int64, name="total")

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="words")])
        def call(self, words):
            return {"total": self.total.assign_add(tf.reduce_sum(self.table.lookup(words)))}

    path, folded, module = str(tmp_path / "model"), str(tmp_path / "folded"), Counting()
    tf.saved_model.save(module, path, signatures=module.call)
    report = pipeline.run(Request(path, output_saved_model=folded, options=Options()))
    assert all(measurement.verified for measurement in report.run.measurements)
    run, words = of_loaded(folded), np.array([b"b", b"a", b"b"])
    assert [run({"words": words})["total"] for _ in range(2)] == [20, 33]


def test_a_state_without_a_value_is_named(tmp_path):
    v1, path = tf.compat.v1, str(tmp_path / "model")
    with tf.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.float32, [], name="x")
        total = v1.get_variable("total", [], use_resource=True, collections=["of_no_saver"])
        kept = v1.get_variable("kept", [], use_resource=True)
        session.run([total.initializer, kept.initializer])
        v1.saved_model.simple_save(session, path, {"x": x}, {"y": total.assign_add(x) + kept})
    with pytest.raises(InputError, match="variable total has no value in the checkpoint"):
        load_saved_model(path)


def test_two_nodes_for_one_variable_are_both_state():
    graph_def = graph_pb2.GraphDef()
    for name, shared in (("a", b"v"), ("b", b"v"), ("c", b"w"), ("d", b"")):
        node = graph_def.node.add(name=name, op="VarHandleOp")
        node.attr["shared_name"].s = shared
    graph_def.node.add(name="write", op="AssignVariableOp", input=["a", "value"])
    graph_def.node.add(name="value", op="ReadVariableOp", input=["c"])
    assert state_variables(graph_def) == {"a", "b"}


def heads(path: str, post: Callable[[tf.Tensor, tf.Tensor], dict]) -> str:
    """Boxes and scores of one convolution with a batch norm, and what is done with them."""
    random = np.random.default_rng(0)
    weights = tf.Variable(random.standard_normal((3, 3, 3, 5)) * 0.3, dtype=tf.float32)
    parameters = [tf.Variable(np.abs(random.standard_normal(5)) + 0.3, dtype=tf.float32) for _ in range(4)]

    def call(image):
        x = tf.nn.conv2d(image, weights, 2, "SAME")
        x = tf.nn.batch_normalization(x, parameters[0], parameters[1], parameters[2], parameters[3], 1e-3)
        corners = tf.reshape(tf.nn.sigmoid(x[..., :4]), [16, 4])
        boxes = tf.concat([corners[:, :2] * 0.5, corners[:, :2] * 0.5 + 0.1 + 0.4 * corners[:, 2:]], 1)
        return post(boxes, tf.reshape(x[..., 4], [16]))

    spec = tf.TensorSpec((1, 8, 8, 3), name="image")
    return saved_models.saved(path, call, spec, variables=[weights, *parameters])


def padded(boxes, scores):
    chosen, valid = tf.raw_ops.NonMaxSuppressionV4(
        boxes=boxes, scores=scores, max_output_size=5, iou_threshold=0.5, score_threshold=-1e9,
        pad_to_max_output_size=True,
    )  # fmt: skip
    return {"chosen": chosen, "valid": valid, "boxes": boxes}


def plain(boxes, scores):
    """TFLite pads what it finds, so that only as many boxes as are wanted are the same."""
    chosen = tf.image.non_max_suppression(boxes, scores, 2, 0.9)
    return {"found": tf.gather(boxes, chosen), "scores": scores}


@pytest.mark.parametrize("post", [padded, plain])
def test_non_maximum_suppression_survives(tmp_path, post):
    path, file = heads(str(tmp_path / "model"), post), tmp_path / "out.tflite"
    report = pipeline.run(Request(path, tflite=str(file), options=Options()))
    assert [outcome.status for outcome in report.result.of_kind(Kind.BATCH_NORM)] == [Status.UP]
    assert all(measurement.verified for measurement in report.run.measurements)
    assert any(op.startswith("NON_MAX_SUPPRESSION") for op in report.result.tflite.ops)


def test_words_and_a_table_before_a_batch_norm_survive(tmp_path):
    random = np.random.default_rng(0)

    class Words(tf.Module):
        def __init__(self):
            keys, values = tf.constant(["cat", "a"]), tf.constant([1, 2], tf.int64)
            self.table = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(keys, values), 0)
            self.vectors = tf.Variable(random.standard_normal((3, 4)), dtype=tf.float32)
            self.weights = tf.Variable(random.standard_normal((4, 3)), dtype=tf.float32)
            self.parameters = [tf.Variable(random.uniform(0.5, 2, 3), dtype=tf.float32) for _ in range(4)]

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="words")])
        def call(self, words):
            x = tf.gather(self.vectors, self.table.lookup(words)) @ self.weights
            return {"y": tf.nn.relu(tf.nn.batch_normalization(x, *self.parameters, 1e-3))}

    path, file, module = str(tmp_path / "model"), tmp_path / "out.tflite", Words()
    tf.saved_model.save(module, path, signatures=module.call)
    report = pipeline.run(Request(path, tflite=str(file), options=Options()))
    assert [outcome.status for outcome in report.result.of_kind(Kind.BATCH_NORM)] == [Status.UP]
    assert all(measurement.verified for measurement in report.run.measurements[:2])
    words = np.array([b"cat", b"dog", b"a"])
    expected = module.call(tf.constant(words))["y"].numpy()
    np.testing.assert_allclose(LiteRT(file.read_bytes()).run("serving_default", {"words": words})["y"], expected, 1e-4)
