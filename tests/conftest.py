"""What several test modules share."""

from __future__ import annotations

import os

import pytest

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # for the tests that use onnxruntime themselves


@pytest.fixture(scope="session")
def keras_saved_model(tmp_path_factory) -> str:
    """A small net with batch norms behind Conv2D, DepthwiseConv2D and Dense, as Keras 3 exports it.

    Its input is `image` [N, 8, 8, 3]; the statistics are random, and some gammas negative or zero.
    """
    import keras
    import numpy as np

    keras.utils.clear_session()  # names count from the first again, whatever other tests have made
    keras.utils.set_random_seed(0)
    layers = keras.layers
    inputs = x = keras.Input((8, 8, 3), name="image")
    for layer in (layers.Conv2D(8, 3, padding="same"), layers.DepthwiseConv2D(3, strides=2, use_bias=False)):
        x = layers.ReLU()(layers.BatchNormalization()(layer(x)))
    x = layers.BatchNormalization()(layers.Dense(6)(layers.GlobalAveragePooling2D()(x)))
    model = keras.Model(inputs, layers.Dense(4, name="logits")(x))

    random = np.random.default_rng(0)
    for norm in (layer for layer in model.layers if isinstance(layer, layers.BatchNormalization)):
        channels = norm.gamma.shape[0]
        gamma = random.normal(1, 1, channels)
        gamma[0] = 0
        norm.set_weights([gamma, *random.normal(0, 1, (2, channels)), random.uniform(0.2, 3, channels)])
    folder = str(tmp_path_factory.mktemp("keras") / "saved_model")
    model.export(folder, verbose=False)
    return folder
