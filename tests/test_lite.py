"""The stock converter over the folded graph: one line of a script changes, and every other setting stays."""

from __future__ import annotations

import gc
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import saved_models
import tensorflow as tf
import tf_keras
from ai_edge_litert.interpreter import Interpreter

import tf_bnfold
from tf_bnfold.errors import InputError
from tf_bnfold.flatbuffer import op_counts
from tf_bnfold.options import Options

IMAGE = np.random.default_rng(1).normal(0, 2, (1, 8, 8, 3)).astype(np.float32)


def run(content: bytes, image, key: str = "serving_default"):
    (result,) = Interpreter(model_content=content).get_signature_runner(key)(image=image).values()
    return result


def close(result, expected, limit: float = 1e-5) -> bool:
    return bool(np.abs(result - expected).max() < limit * np.abs(expected).max())


def test_a_script_that_quantises_works_as_before(keras_saved_model):
    # Of an existing script, only the name of the class in the next line is another.
    converter = tf_bnfold.lite.TFLiteConverter.from_saved_model(keras_saved_model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([each[None]] for each in np.repeat(IMAGE, 8, 0))
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    content = converter.convert()
    assert type(converter) is type(tf.lite.TFLiteConverter.from_saved_model(keras_saved_model))
    assert converter.fold_report.result.unfolded() == ()
    assert not {"MUL", "ADD", "SUB"} & set(op_counts(content))
    (expected,) = (
        tf.saved_model.load(keras_saved_model).signatures["serving_default"](image=tf.constant(IMAGE)).values()
    )
    assert close(run(content, IMAGE), expected.numpy(), 0.1)


def test_keys_tags_and_options_are_passed_on(tmp_path):
    folder = saved_models.two_signatures(str(tmp_path / "model"))
    converter = tf_bnfold.lite.TFLiteConverter.from_saved_model(folder, signature_keys=["also"], tags={"serve"})
    assert list(Interpreter(model_content=converter.convert()).get_signature_list()) == ["also"]
    with pytest.raises(InputError, match="has no MetaGraph with the tags train"):
        tf_bnfold.lite.TFLiteConverter.from_saved_model(folder, tags=["train"])
    kept = tf_bnfold.lite.TFLiteConverter.from_saved_model(folder, options=Options(verify=False))
    assert kept.fold_report.run.measurements == ()


@pytest.mark.parametrize("library", [keras, tf_keras])
def test_a_keras_model(library):
    inputs, outputs = saved_models.conv_net(library.layers, batch=1)
    model = library.Model(inputs, outputs)
    saved_models.randomise(model)
    converter = tf_bnfold.lite.TFLiteConverter.from_keras_model(model)
    assert converter.fold_report.result.unfolded() == ()
    assert close(run(converter.convert(), IMAGE[:, :6, :6]), np.asarray(model(IMAGE[:, :6, :6])))


def test_concrete_functions():
    variable = tf.Variable(np.random.default_rng(0).normal(0, 1, (3, 3, 3, 4)).astype(np.float32))

    @tf.function(input_signature=[tf.TensorSpec([1, 8, 8, 3], name="image")])
    def scores(image):
        return tf.nn.batch_normalization(tf.nn.conv2d(image, variable, 1, "SAME"), 1.0, 2.0, 3.0, 4.0, 1e-3)

    function = scores.get_concrete_function()
    converter = tf_bnfold.lite.TFLiteConverter.from_concrete_functions([function], scores)
    assert close(run(converter.convert(), IMAGE), scores(IMAGE))
    two = [function, tf.function(lambda image: 2 * image).get_concrete_function(tf.TensorSpec([1, 3], name="image"))]
    content = tf_bnfold.lite.TFLiteConverter.from_concrete_functions(two).convert()
    assert list(Interpreter(model_content=content).get_signature_list()) == ["lambda", "scores"]


def test_the_folded_model_goes_with_its_converter(keras_saved_model):
    converter = tf_bnfold.lite.TFLiteConverter.from_saved_model(keras_saved_model, options=Options(verify=False))
    folder = converter.saved_model_dir if hasattr(converter, "saved_model_dir") else converter._tf_bnfold_folder.name
    assert os.path.isdir(folder)
    del converter
    gc.collect()
    assert not os.path.exists(folder)


def test_having_the_class_costs_no_tensorflow():
    code = "import sys, tf_bnfold; tf_bnfold.lite.TFLiteConverter; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
