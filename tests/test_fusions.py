"""Folding never costs the TFLite converter a fusion: no more ops than the stock converter makes of the same model."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from saved_models import randomise

from tf_bnfold.flatbuffer import op_counts
from tf_bnfold.fold import fold_graph
from tf_bnfold.formats.saved_model import load_saved_model
from tf_bnfold.formats.tflite import convert_to_tflite


def keras3():
    import keras

    return keras


def keras2():
    import tf_keras

    return tf_keras


def hard_swish_of_six(k, x):
    """x * relu6(x + 3) * (1 / 6), as MobileNetV3 has it."""
    return k.layers.Rescaling(1 / 6)(k.layers.Multiply()([x, k.layers.ReLU(6.0)(k.layers.Rescaling(1.0, 3.0)(x))]))


def hard_swish_inside(k, x):
    """x * (relu6(x + 3) / 6)."""
    inner = k.layers.Rescaling(1 / 6)(k.layers.ReLU(6.0)(k.layers.Rescaling(1.0, 3.0)(x)))
    return k.layers.Multiply()([x, inner])


def gelu(k, x):
    return k.layers.Activation("gelu")(x)


def gelu_approximate(k, x):
    return k.layers.Activation(lambda t: k.activations.gelu(t, approximate=True))(x)


def prelu(k, x):
    return k.layers.PReLU(shared_axes=[1, 2], alpha_initializer=k.initializers.RandomUniform(-0.5, 0.5, seed=1))(x)


def leaky(k, x):
    return k.layers.LeakyReLU(0.1)(x)


def l2_normalisation(k, x):
    return k.layers.UnitNormalization(axis=-1)(x)


def swish(k, x):
    return k.layers.Activation("swish")(x)


def relu6(k, x):
    return k.layers.ReLU(6.0)(x)


ACTIVATIONS = [
    hard_swish_of_six,
    hard_swish_inside,
    gelu,
    gelu_approximate,
    prelu,
    leaky,
    l2_normalisation,
    swish,
    relu6,
]


def before_and_behind(k, activation):
    """A batch norm before the activation and one behind it, and a convolution at both ends."""
    inputs = k.Input((8, 8, 3), batch_size=1)
    x = k.layers.BatchNormalization()(k.layers.Conv2D(6, 3, padding="same", use_bias=False)(inputs))
    x = activation(k, x)
    x = k.layers.BatchNormalization()(x)
    return k.Model(inputs, k.layers.Conv2D(4, 3)(x))


def first(k, activation):
    """A batch norm that can't go up, before the activation."""
    inputs = k.Input((8, 8, 3), batch_size=1)
    return k.Model(inputs, k.layers.Conv2D(4, 3)(activation(k, k.layers.BatchNormalization()(inputs))))


def squeeze_and_excite(k, activation):
    """The gate of MobileNetV3: a hard sigmoid that multiplies."""
    inputs = k.Input((8, 8, 3), batch_size=1)
    x = activation(k, k.layers.BatchNormalization()(k.layers.DepthwiseConv2D(3, use_bias=False)(inputs)))
    gate = k.layers.Conv2D(3, 1)(k.layers.GlobalAveragePooling2D(keepdims=True)(x))
    gate = k.layers.Rescaling(1 / 6)(k.layers.ReLU(6.0)(k.layers.Rescaling(1.0, 3.0)(gate)))
    x = k.layers.Multiply()([x, gate])
    return k.Model(inputs, k.layers.BatchNormalization()(k.layers.Conv2D(4, 1, use_bias=False)(x)))


def export(k, model, folder) -> str:
    randomise(model)
    if k.__name__ == "keras":
        model.export(folder, verbose=False)
    else:
        model.save(folder, save_format="tf", include_optimizer=False)
    return str(folder)


@pytest.mark.parametrize("library", [keras3, keras2])
@pytest.mark.parametrize("net", [before_and_behind, first, squeeze_and_excite])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_no_more_ops_than_the_stock_converter(activation, net, library, tmp_path):
    k = library()
    path = export(k, net(k, activation), tmp_path / "model")
    model = load_saved_model(path, tags=("serve",), signature_keys=())
    folding = fold_graph(model.graph_def, model.outputs(), model.inputs())
    folded = model.with_graph(folding.graph_def)
    ours = convert_to_tflite(folded, work_dir=str(tmp_path), allow_select_tf_ops=False)
    stock = tf.lite.TFLiteConverter.from_saved_model(path).convert()
    assert op_counts(ours).total() <= op_counts(stock).total(), (op_counts(ours), op_counts(stock))
    for op in ("HARD_SWISH", "GELU", "PRELU", "L2_NORMALIZATION", "LEAKY_RELU"):
        assert op_counts(ours)[op] == op_counts(stock)[op], op
    image = np.random.default_rng(0).normal(size=(1, 8, 8, 3)).astype(np.float32)
    left, right = (_run(content, image) for content in (ours, stock))
    assert np.abs(left - right).max() <= 1e-4 * max(np.abs(right).max(), 1e-3)


def _run(content: bytes, image: np.ndarray) -> np.ndarray:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=content)
    runner = interpreter.get_signature_runner("serving_default")
    (name,) = runner.get_input_details()
    return next(iter(runner(**{name: image}).values()))
