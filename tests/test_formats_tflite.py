"""The stock converter takes what it is given, keeps names and fusions, and says in one line what it refuses."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import saved_models
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

from tf_bnfold.errors import ConverterError
from tf_bnfold.flatbuffer import op_counts
from tf_bnfold.formats.saved_model import load_saved_model
from tf_bnfold.formats.tflite import convert_to_tflite, signatures_to_convert


def stock(path: str, **options) -> bytes:
    return tf.lite.TFLiteConverter.from_saved_model(path, **options).convert()


def interface(content: bytes):
    """All that a program which runs the .tflite goes by: signatures, names, their order, shapes and dtypes."""
    interpreter = Interpreter(model_content=content)
    details = {}
    for key in interpreter.get_signature_list():
        runner = interpreter.get_signature_runner(key)
        details[key] = [
            [(name, each["name"], list(each["shape_signature"]), each["dtype"]) for name, each in tensors.items()]
            for tensors in (runner.get_input_details(), runner.get_output_details())
        ]
    return list(details), details


def outputs(content: bytes, key: str, inputs):
    return Interpreter(model_content=content).get_signature_runner(key)(**inputs)


IMAGE = np.random.default_rng(0).normal(size=(1, 6, 6, 3)).astype(np.float32)
MODELS = {
    "keras3": (saved_models.keras3, "serving_default", {"image": IMAGE}),
    "keras2": (saved_models.keras2, "serving_default", {"image": IMAGE}),
    "two": (saved_models.two_signatures, "run", {"zebra": np.eye(3, dtype="f"), "apple": np.ones((3, 4), "f")}),
    "tf1": (saved_models.tf1, "serving_default", {"image": np.eye(3, dtype="f")}),
}


@pytest.mark.parametrize("kind", MODELS)
def test_interface_ops_and_predictions_are_those_of_the_stock_converter(kind, tmp_path):
    make, key, inputs = MODELS[kind]
    path = make(str(tmp_path / kind))
    ours, theirs = convert_to_tflite(load_saved_model(path), work_dir=str(tmp_path)), stock(path)
    assert interface(ours) == interface(theirs)
    assert op_counts(ours) == op_counts(theirs)
    expected = outputs(theirs, key, inputs)
    for name, value in outputs(ours, key, inputs).items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-5, atol=1e-6)


def test_serve_of_keras3_is_left_out_only_where_it_is_double(tmp_path):
    path = saved_models.keras3(str(tmp_path / "keras3"))
    assert signatures_to_convert(load_saved_model(path)) == ("serving_default",)
    assert signatures_to_convert(load_saved_model(path, signature_keys=["serve"])) == ("serve",)
    module = saved_models.TwoSignatures()
    tf.saved_model.save(module, str(tmp_path / "two"), {"serve": module.run, "serving_default": module.also})
    assert signatures_to_convert(load_saved_model(str(tmp_path / "two"))) == ("serve", "serving_default")


@pytest.mark.parametrize(("make", "batch"), [(saved_models.keras2, None), (saved_models.keras3, 1)])
def test_lstm_stays_as_fused_as_the_stock_converter_has_it(make, batch, tmp_path):
    options = {"batch": batch} if batch else {}
    path = make(str(tmp_path / "lstm"), saved_models.conv_lstm, **options)
    ours, theirs = convert_to_tflite(load_saved_model(path), work_dir=str(tmp_path)), stock(path)
    assert op_counts(ours) == op_counts(theirs)
    if make is saved_models.keras2:
        assert op_counts(ours)["UNIDIRECTIONAL_SEQUENCE_LSTM"] == 1
    image = {"image": np.random.default_rng(0).normal(size=(1, 6, 8, 3)).astype(np.float32)}
    expected = outputs(theirs, "serving_default", image)
    for name, value in outputs(ours, "serving_default", image).items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-4, atol=1e-5)


def test_tables_are_converted_like_the_stock_converter_does(tmp_path):
    path = saved_models.lookup(str(tmp_path / "lookup"), str(tmp_path / "vocabulary.txt"))
    model = load_saved_model(path)
    assert op_counts(convert_to_tflite(model, work_dir=str(tmp_path))) == op_counts(stock(path))


def test_functions_of_equal_name_do_not_meet(tmp_path):
    """TensorFlow keeps functions by name in the process; two models in one process must not get each other's."""
    results = []
    for factor in (2.0, 3.0):
        work_dir = tmp_path / str(factor)
        work_dir.mkdir()
        model = load_saved_model(tripling(str(work_dir / "loop"), factor))
        for function in model.graph_def.library.function:
            rename(
                model.graph_def, function.signature.name, "body" if "body" in function.signature.name else "condition"
            )
        content = convert_to_tflite(model, work_dir=str(work_dir))
        results.append(outputs(content, "serving_default", {"x": np.ones(2, "f")})["y"][0])
    assert results == [8, 27]


def tripling(folder: str, factor: float) -> str:
    """Save a loop that multiplies by the factor three times."""
    scale = tf.Variable(factor)

    def call(x):
        return {"y": tf.while_loop(lambda step, _: step < 3, lambda step, y: (step + 1, scale * y), [0, x])[1]}

    return saved_models.saved(folder, call, tf.TensorSpec([2], name="x"), variables=[scale])


def rename(graph_def, old: str, new: str) -> None:
    for function in graph_def.library.function:
        if function.signature.name == old:
            function.signature.name = new
    for node in graph_def.node:
        for attr in node.attr.values():
            if attr.HasField("func") and attr.func.name == old:
                attr.func.name = new


def message(model, tmp_path, **options) -> str:
    with pytest.raises(ConverterError) as caught:
        convert_to_tflite(model, work_dir=str(tmp_path), **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_select_ops_need_the_flag(tmp_path):
    path = saved_models.saved(
        str(tmp_path / "inverse"), lambda x: {"y": tf.linalg.inv(x)}, tf.TensorSpec([3, 3], name="x")
    )
    model = load_saved_model(path)
    refused = message(model, tmp_path)
    assert "no built-in op for MatrixInverse (" in refused
    assert "--allow_select_tf_ops" in refused
    content = convert_to_tflite(model, work_dir=str(tmp_path), allow_select_tf_ops=True)
    assert op_counts(content) == {"FlexMatrixInverse": 1}


def test_ops_that_no_flag_helps_with_are_named(tmp_path):
    path = saved_models.saved(
        str(tmp_path / "erfinv"), lambda x: {"y": tf.math.erfinv(x)}, tf.TensorSpec([3], name="x")
    )
    refused = message(load_saved_model(path), tmp_path, allow_select_tf_ops=True)
    assert "no op for Erfinv (" in refused
    assert "--allow_select_tf_ops" not in refused


def test_other_refusals_name_the_node(tmp_path):
    def call(x):
        quantised = tf.raw_ops.UniformQuantize(
            input=x, scales=1.0, zero_points=0, Tout=tf.qint8, quantization_min_val=-128, quantization_max_val=127
        )
        return {"y": quantised}

    path = saved_models.saved(str(tmp_path / "quantised"), call, tf.TensorSpec([3], name="x"))
    assert "refused the graph at UniformQuantize" in message(load_saved_model(path), tmp_path)


def test_lists_of_open_shape(tmp_path):
    """Keras 3 traces an LSTM with a free batch size into lists of elements of unknown size."""
    path = saved_models.keras3(str(tmp_path / "lstm"), saved_models.conv_lstm)
    model = load_saved_model(path)
    refused = message(model, tmp_path)
    assert "TensorListReserve" in refused
    assert "fixed batch size" in refused
    content = convert_to_tflite(model, work_dir=str(tmp_path), allow_select_tf_ops=True)
    assert op_counts(content)["FlexTensorListReserve"] == 1


def test_a_graph_that_is_no_model_is_refused_in_one_line(tmp_path):
    path = saved_models.two_signatures(str(tmp_path / "two"))
    model = load_saved_model(path)
    headless = dataclasses.replace(model, signatures={})
    assert message(headless, tmp_path)
