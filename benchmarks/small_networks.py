"""Small networks whose batch norms the stock converter leaves, and the same without batch norms: the ideal by hand."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

layers = keras.layers

Norm = Callable[[Any], Any]

_BATCH = 32  # of which the statistics are taken


def causal_tcn(batch: int | None, norm: Norm) -> Any:
    """Temporal convolutions, dilated and causal, each with a batch norm and a ReLU behind it."""
    inputs = x = keras.Input((256, 32), batch_size=batch)
    for dilation in (1, 2, 4, 8, 1, 2, 4, 8):
        x = layers.Conv1D(64, 3, padding="causal", dilation_rate=dilation, kernel_initializer="he_normal")(x)
        x = layers.ReLU()(norm(x))
    return keras.Model(inputs, layers.Dense(10)(layers.GlobalAveragePooling1D()(x)))


def dilated_cnn(batch: int | None, norm: Norm) -> Any:
    """Dilated 2-D convolutions, as for segmentation."""
    inputs = x = keras.Input((64, 64, 3), batch_size=batch)
    for dilation in (1, 2, 4, 8, 4, 2):
        x = layers.Conv2D(32, 3, padding="same", dilation_rate=dilation, kernel_initializer="he_normal")(x)
        x = layers.ReLU()(norm(x))
    return keras.Model(inputs, layers.Conv2D(4, 1)(x))


def _conv_relu_norm(batch: int | None, norm: Norm, padding: str) -> Any:
    inputs = x = keras.Input((48, 48, 16), batch_size=batch)
    for _ in range(6):
        x = layers.Conv2D(32, 3, padding=padding, activation="relu", kernel_initializer="he_normal")(x)
        x = norm(x)
    return keras.Model(inputs, layers.Conv2D(4, 1)(x))


def conv_relu_norm_valid(batch: int | None, norm: Norm) -> Any:
    """Batch norms between the ReLU and the next convolution, which pads nothing."""
    return _conv_relu_norm(batch, norm, "valid")


def conv_relu_norm_same(batch: int | None, norm: Norm) -> Any:
    """Batch norms between the ReLU and the next convolution, which pads zeros: no offset may go into it."""
    return _conv_relu_norm(batch, norm, "same")


def dense_relu_norm(batch: int | None, norm: Norm) -> Any:
    """Dense layers with batch norms behind the ReLU."""
    inputs = x = keras.Input((256,), batch_size=batch)
    for _ in range(6):
        x = norm(layers.Dense(512, activation="relu", kernel_initializer="he_normal")(x))
    return keras.Model(inputs, layers.Dense(10)(x))


def pre_activation_resnet(batch: int | None, norm: Norm) -> Any:
    """Residual blocks with batch norm and ReLU before each convolution."""
    inputs = keras.Input((32, 32, 3), batch_size=batch)
    x = layers.Conv2D(16, 3, padding="same", kernel_initializer="he_normal")(inputs)
    for width, stride in ((16, 1), (32, 2), (64, 2)):
        y = layers.ReLU()(norm(x))
        shortcut = layers.Conv2D(width, 1, stride)(y) if stride > 1 else x
        y = layers.Conv2D(width, 3, stride, padding="same", kernel_initializer="he_normal")(y)
        y = layers.Conv2D(width, 3, padding="same", kernel_initializer="he_normal")(layers.ReLU()(norm(y)))
        x = layers.Add()([shortcut, y])
    x = layers.GlobalAveragePooling2D()(layers.ReLU()(norm(x)))
    return keras.Model(inputs, layers.Dense(10)(x))


def cnn_3d(batch: int | None, norm: Norm) -> Any:
    """Convolutions of volumes."""
    inputs = x = keras.Input((8, 32, 32, 3), batch_size=batch)
    for width, stride in ((16, 1), (16, 2), (32, 2)):
        x = layers.Conv3D(width, 3, stride, padding="same", kernel_initializer="he_normal")(x)
        x = layers.ReLU()(norm(x))
    return keras.Model(inputs, layers.Dense(10)(layers.GlobalAveragePooling3D()(x)))


def batch_norm(x: Any) -> Any:
    """Take the statistics of whatever batch is trained on."""
    return layers.BatchNormalization(momentum=0.0)(x)


def nothing(x: Any) -> Any:
    """Leave the batch norm out."""
    return x


def offset(x: Any) -> Any:
    """Add a constant per channel, which is all that a fold may have to leave of a batch norm."""
    return Offset()(x)


class Offset(keras.layers.Layer):  # type: ignore[misc]  # keras has no stubs
    """One Add of a constant per channel."""

    def build(self, shape: tuple[int | None, ...]) -> None:
        """Make the constant."""
        self.offset = self.add_weight(shape=(shape[-1],), initializer="random_normal")

    def call(self, x: Any) -> Any:
        """Add it."""
        return x + self.offset


@dataclasses.dataclass(frozen=True)
class Network:
    """A network.

    Attributes:
      build: Makes it for a batch size, None for a free one, and a norm.
      left: What the ideal has in place of a batch norm; None where there is no ideal.
    """

    build: Callable[[int | None, Norm], Any]
    left: Norm | None = nothing


def application(name: str, size: int) -> Network:
    """Return a model of keras.applications with random weights, for which there is no ideal by hand."""

    def build(batch: int | None, _: Norm) -> Any:
        image = keras.Input((size, size, 3), batch_size=batch)
        return getattr(keras.applications, name)(weights=None, input_tensor=image)

    return Network(build, left=None)


NETWORKS = {
    "causal TCN": Network(causal_tcn),
    "dilated CNN": Network(dilated_cnn),
    "Conv-ReLU-BN-Conv, VALID": Network(conv_relu_norm_valid),
    "Conv-ReLU-BN-Conv, SAME": Network(conv_relu_norm_same, left=offset),
    "Dense-ReLU-BN-Dense": Network(dense_relu_norm),
    "pre-activation ResNet": Network(pre_activation_resnet),
    "3-D CNN": Network(cnn_3d),
    "DenseNet121": application("DenseNet121", 224),
    "NASNetMobile": application("NASNetMobile", 224),
    "MobileNetV2": application("MobileNetV2", 224),
    "ResNet50": application("ResNet50", 224),
}


def made(network: Network, batch: int | None) -> Any:
    """Build a network with gammas above zero and betas; small ones with the statistics of random inputs."""
    keras.utils.set_random_seed(0)
    model = network.build(batch, batch_norm)
    random = np.random.default_rng(0)
    norms = [layer for layer in model.layers if isinstance(layer, layers.BatchNormalization)]
    for norm in norms:
        for variable, low, high in ((norm.gamma, 0.5, 1.5), (norm.beta, -0.3, 0.3)):
            if variable is not None:
                variable.assign(random.uniform(low, high, variable.shape))
    if network.left:
        free = network.build(None, batch_norm)
        free.set_weights(model.get_weights())
        free(random.standard_normal((_BATCH, *model.input_shape[1:]), np.float32), training=True)
        model.set_weights(free.get_weights())
    return model


def export(model: Any, folder: str) -> None:
    """Export a model with its batch size; by itself Keras makes that a free one."""
    model.export(folder, verbose=False, input_signature=[tf.TensorSpec(model.input_shape, tf.float32)])


def ideal(network: Network, batch: int | None) -> Any | None:
    """Return the network without its batch norms, None where there is no ideal.

    Biases are random: the converter leaves out those that are zero, and int8 is slower without them.
    """
    if network.left is None:
        return None
    keras.utils.set_random_seed(0)
    model = network.build(batch, network.left)
    random = np.random.default_rng(0)
    for bias in (weights for weights in model.weights if weights.name == "bias"):
        bias.assign(random.uniform(-0.3, 0.3, bias.shape))
    return model
