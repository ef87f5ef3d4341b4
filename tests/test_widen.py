"""Models in float16, bfloat16 and float64: refused by the TFLite stage, or computed in float32 there."""

from __future__ import annotations

import graphs as g
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from frozen_graphs import frozen, run, saved
from tensorflow.core.framework import graph_pb2

from tf_bnfold import pipeline
from tf_bnfold.errors import ConverterError
from tf_bnfold.formats.frozen_graph import load_frozen_graph
from tf_bnfold.formats.model import Model
from tf_bnfold.formats.saved_model import load_saved_model
from tf_bnfold.formats.widen import other_dtype, widened
from tf_bnfold.options import Options, Request
from tf_bnfold.outcome import Kind, Status

DTYPES = {"float16": tf.float16, "bfloat16": tf.bfloat16, "float64": tf.float64}


def net(dtype):
    """Convolution, batch norm by Mul and AddV2, ReLU, Dense; float16 has small weights, so that nothing overflows."""
    x = tf.nn.relu(g.affine(g.conv(g.image(dtype=dtype, name="image"), name="conv")))
    g.dense(tf.reduce_mean(x, [1, 2]), name="logits")


@pytest.fixture(params=DTYPES)
def dtype(request):
    return DTYPES[request.param]


def test_the_converter_stage_refuses_and_names_op_dtype_and_flag(dtype, tmp_path):
    request = Request(
        frozen_graph=saved(tmp_path / "net.pb", frozen(lambda: net(dtype))),
        tflite=str(tmp_path / "out.tflite"),
        options=Options(verify=False),
    )
    with pytest.raises(ConverterError) as caught:
        pipeline.run(request)
    assert str(caught.value) == (
        f"TFLite has no {dtype.name} Conv2D (conv/folded); with --widen_to_float32 the .tflite computes it in float32"
    )


def test_an_op_that_only_the_converter_refuses_gets_the_same_way_out(tmp_path):
    def build():
        tf.nn.relu(g.rows(3, tf.float16, name="rows"), name="relu")

    request = Request(frozen_graph=saved(tmp_path / "net.pb", frozen(build)), tflite=str(tmp_path / "out.tflite"))
    with pytest.raises(ConverterError, match=r"no op for Relu \(relu\) in float16; with --widen_to_float32"):
        pipeline.run(request)


def test_the_tflite_computes_in_float32_between_inputs_and_outputs_of_the_originals_dtype(dtype, tmp_path):
    tflite = tmp_path / "out.tflite"
    path = saved(tmp_path / "net.pb", frozen(lambda: net(dtype)))
    report = pipeline.run(Request(frozen_graph=path, tflite=str(tflite), options=Options(widen_to_float32=True)))
    assert [measurement.verified for measurement in report.run.measurements] == [True] * 3
    assert [outcome.status for outcome in report.result.outcomes] == [Status.UP]
    assert report.result.tflite.ops == {"CAST": 2, "CONV_2D": 1, "MEAN": 1, "FULLY_CONNECTED": 1}
    assert report.result.notes[-1] == (
        f"--widen_to_float32: the .tflite computes in float32 what the graph computes in {dtype.name}, "
        "between inputs and outputs of the original's dtypes"
    )
    runner = Interpreter(str(tflite)).get_signature_runner("serving_default")
    (told,), (output,) = runner.get_input_details().values(), runner.get_output_details().values()
    assert told["dtype"] == output["dtype"] == dtype.as_numpy_dtype


def test_float32_needs_no_widening(tmp_path):
    model = Model(frozen(lambda: net(tf.float32)), {})
    assert widened(model) is model


def test_keras_mixed_float16_from_end_to_end(tmp_path):
    import keras

    layers = keras.layers
    policy = keras.dtype_policies.DTypePolicy("mixed_float16")
    inputs = keras.Input((8, 8, 3), name="image")
    x = layers.Conv2D(6, 3, padding="same", dtype=policy)(inputs)
    x = layers.ReLU(dtype=policy)(layers.BatchNormalization(dtype=policy)(x))
    x = layers.GlobalAveragePooling2D(dtype=policy)(x)
    model = keras.Model(inputs, layers.Dense(4, dtype="float32", name="logits")(x))
    random = np.random.default_rng(0)
    norm = next(layer for layer in model.layers if isinstance(layer, layers.BatchNormalization))
    norm.set_weights([random.normal(1, 1, 6), *random.normal(0, 1, (2, 6)), random.uniform(0.2, 3, 6)])
    model.export(str(tmp_path / "model"), verbose=False)

    request = Request(str(tmp_path / "model"), tflite=str(tmp_path / "out.tflite"))
    with pytest.raises(ConverterError, match=r"TFLite has no float16 Conv2D .*--widen_to_float32"):
        pipeline.run(request)
    report = pipeline.run(Request(request.saved_model, tflite=request.tflite, options=Options(widen_to_float32=True)))
    assert [measurement.verified for measurement in report.run.measurements] == [True] * 3
    assert [outcome.status for outcome in report.result.of_kind(Kind.BATCH_NORM)] == [Status.UP]
    assert report.result.tflite.ops == {"CONV_2D": 1, "MEAN": 1, "FULLY_CONNECTED": 1}


def test_loops_and_branches_are_widened_inside_too(tmp_path):
    class Loop(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([2, 3], tf.float16, name="x")])
        def call(self, x):
            weights = tf.constant(np.eye(3), tf.float16)
            result = tf.while_loop(lambda i, _: i < 3, lambda i, y: (i + 1, y @ weights + 1.0), [0, x])[1]
            return {"y": result}

    module = Loop()
    tf.saved_model.save(module, str(tmp_path / "model"), signatures={"serving_default": module.call})
    model = widened(load_saved_model(str(tmp_path / "model")))
    bodies = [node for function in model.graph_def.library.function for node in function.node_def]
    assert any(node.op == "MatMul" for node in bodies)
    assert not any(map(other_dtype, bodies))
    request = Request(
        str(tmp_path / "model"), tflite=str(tmp_path / "out.tflite"), options=Options(widen_to_float32=True)
    )
    report = pipeline.run(request)
    assert [measurement.verified for measurement in report.run.measurements] == [True] * 3


def widened_graph(build, tmp_path) -> Model:
    return widened(load_frozen_graph(saved(tmp_path / "net.pb", frozen(build))))


def test_casts_between_float_dtypes_go_and_others_stay(tmp_path):
    def build():
        x = g.rows(3, tf.float16, name="x")
        y = tf.cast(tf.cast(x, tf.float32, name="up") * 2.0, tf.float64, name="wide")
        tf.cast(tf.cast(y, tf.int32, name="whole"), tf.float16, name="back")

    model = widened_graph(build, tmp_path)
    ops = {node.name: node.op for node in model.graph_def.node}
    assert (ops["up"], ops["wide"], ops["whole"], ops["back"]) == ("Identity", "Identity", "Cast", "Cast")
    (output,) = model.signatures["serving_default"].outputs.values()
    assert (output.name, output.dtype) == ("back/narrowed:0", tf.float16.as_datatype_enum)
    (found,) = run(model.graph_def, [output.name], {"x:0": np.array([[0.3, 1.0, -2.0]])})
    np.testing.assert_array_equal(found, np.array([[0, 2, -4]], np.float16))


def test_signatures_that_share_their_outputs_still_do(tmp_path):
    model = load_frozen_graph(saved(tmp_path / "net.pb", frozen(lambda: net(tf.float16))))
    twice = Model(model.graph_def, dict.fromkeys(("serve", "serving_default"), model.signatures["serving_default"]))
    serve, default = widened(twice).signatures.values()
    assert serve == default


def huge():
    g.rows(1, tf.float64, name="x") * tf.constant(1e300, tf.float64, name="huge")


def infinite():
    tf.minimum(g.rows(1, tf.float64, name="x"), tf.constant(np.inf, tf.float64))


def bits():
    tf.bitcast(g.rows(1, tf.float16, name="x"), tf.int16, name="bits")


def test_a_constant_beyond_float32_is_refused(tmp_path):
    with pytest.raises(ConverterError, match="constant huge holds a number that float32 does not reach"):
        widened_graph(huge, tmp_path)
    widened_graph(infinite, tmp_path)


def test_an_op_that_reads_bytes_is_refused(tmp_path):
    with pytest.raises(ConverterError, match="Bitcast bits reads float16 from bytes, so it stays"):
        widened_graph(bits, tmp_path)


def test_an_op_of_one_dtype_is_refused():
    graph_def = graph_pb2.GraphDef()
    graph_def.node.add(name="now", op="Timestamp")
    with pytest.raises(ConverterError, match="Timestamp now is of float64 always"):
        widened(Model(graph_def, {}))


def test_the_model_that_is_given_is_not_changed(tmp_path):
    graph_def = frozen(lambda: net(tf.float16))
    model = load_frozen_graph(saved(tmp_path / "net.pb", graph_def))
    widened(model)
    assert model.graph_def == graph_def
