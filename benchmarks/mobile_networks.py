"""Networks as they are shipped to phones, small, for Keras 3 and Keras 2, with a free or a fixed batch and length.

Each has the structure that its source describes, and few channels. Statistics are real: each batch norm gets those of a
batch that runs through the network. Gammas have both signs, but where a ReLU stands between batch norm and convolution.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from benchmarks.mobile_blocks import conv, inverted_residual, norm
from benchmarks.ssd import combined, post_processed, ssd, suppressed

_CALIBRATION = 8  # examples of which statistics are taken
_CLASSES = 5

Floats = npt.NDArray[np.float32]


@dataclasses.dataclass(frozen=True)
class Network:
    """A network and how to build it.

    Attributes:
      name: What it is.
      build: Takes the module of Keras and an input, and returns the outputs.
      shape: Shape of an example.
      has_length: Whether the first axis of an example may be free, as it is a length.
      is_pre_activation: Whether a ReLU stands between batch norm and convolution, so that gammas are above zero.
      select_tf_ops: Whether TFLite takes an op of it from TensorFlow.
      custom_ops: Whether it has a custom op of TFLite, which Keras does not compute.
    """

    name: str
    build: Callable[[Any, Any], Any]
    shape: tuple[int, ...]
    has_length: bool = False
    is_pre_activation: bool = False
    select_tf_ops: bool = False
    custom_ops: bool = False


@dataclasses.dataclass(frozen=True)
class Variant:
    """A network of one Keras.

    Attributes:
      network: The network.
      keras: "keras" or "tf_keras".
      free: What its input leaves open: "", "batch" or "batch, length".
    """

    network: Network
    keras: str
    free: str

    @property
    def shape(self) -> tuple[int | None, ...]:
        """Shape of its input."""
        first, *rest = self.network.shape
        return (None if "batch" in self.free else 1, None if "length" in self.free else first, *rest)

    @property
    def select_tf_ops(self) -> bool:
        """Whether TFLite takes an op of it from TensorFlow: so the lists of an LSTM, where the batch is free."""
        return self.network.select_tf_ops or (self.network.name == LSTM and bool(self.free))


def _deeplab(keras: Any, image: Any) -> Any:
    """DeepLabv3: MobileNetV2 with an output stride of 8, and atrous spatial pyramid pooling.

    Source: https://arxiv.org/abs/1706.05587, https://arxiv.org/abs/1801.04381
    """
    layers = keras.layers
    x = conv(layers, image, 8, 3, 2, activation="relu6")
    # Expansion, width, blocks, stride and rate; the last two strides became rates.
    for expansion, width, blocks, stride, rate in (
        (1, 8, 1, 1, 1), (3, 8, 2, 2, 1), (3, 12, 2, 2, 1), (3, 16, 2, 1, 2), (3, 24, 2, 1, 4),
    ):  # fmt: skip
        for block in range(blocks):
            x = inverted_residual(layers, x, width, expansion, stride if block == 0 else 1, rate)
    side = x.shape[1]
    pooled = layers.GlobalAveragePooling2D(keepdims=True)(x)
    pooled = layers.UpSampling2D(side, interpolation="bilinear")(conv(layers, pooled, 16, 1))
    branches = [pooled, conv(layers, x, 16, 1)]
    for rate in (2, 4, 6):
        branch = layers.DepthwiseConv2D(3, padding="same", dilation_rate=rate, use_bias=False)(x)
        branches.append(conv(layers, layers.ReLU()(norm(layers, branch)), 16, 1))
    x = layers.Dropout(0.1)(conv(layers, layers.Concatenate()(branches), 16, 1))
    return layers.UpSampling2D(8, interpolation="bilinear")(layers.Conv2D(_CLASSES, 1)(x))


def _tcn(keras: Any, sequence: Any) -> Any:
    """Temporal convolutional network: residual blocks of two causal convolutions, with rates 1, 2, 4 and 8.

    Source: https://arxiv.org/abs/1803.01271, with batch norms in place of weight norms
    """
    layers, x = keras.layers, sequence
    for rate in (1, 2, 4, 8):
        entered = x
        for _ in range(2):
            x = layers.Conv1D(12, 3, padding="causal", dilation_rate=rate)(x)
            x = layers.SpatialDropout1D(0.1)(layers.ReLU()(norm(layers, x)))
        if entered.shape[-1] != 12:
            entered = layers.Conv1D(12, 1)(entered)
        x = layers.ReLU()(layers.Add()([entered, x]))
    return layers.Dense(_CLASSES)(x)


def _splice(keras: Any, sequence: Any) -> Any:
    """Splice predictor: pre-activation residual units with kernels up to 41, rates up to 25, and skip connections.

    Source: https://github.com/Illumina/SpliceAI, training/spliceai.py
    """
    layers = keras.layers
    x = layers.Conv1D(8, 1)(sequence)
    skip = layers.Conv1D(8, 1)(x)
    for kernel, rate in ((11, 1), (11, 4), (21, 10), (41, 25)):
        y = x
        for _ in range(2):
            y = layers.Activation("relu")(norm(layers, y))
            y = layers.Conv1D(8, kernel, padding="same", dilation_rate=rate)(y)
        x = layers.Add()([x, y])
        skip = layers.Add()([skip, layers.Conv1D(8, 1)(x)])
    return layers.Conv1D(3, 1, activation="softmax")(layers.Cropping1D(20)(skip))


def _dilated_residual(keras: Any, sequence: Any) -> Any:
    """The units of the splice predictor in the order convolution, batch norm, ReLU, with the sum at their end."""
    layers = keras.layers
    x = layers.Conv1D(8, 1)(sequence)
    for kernel, rate in ((11, 1), (11, 4), (21, 10), (41, 25)):
        y = layers.Activation("relu")(norm(layers, layers.Conv1D(8, kernel, padding="same", dilation_rate=rate)(x)))
        y = norm(layers, layers.Conv1D(8, kernel, padding="same", dilation_rate=rate)(y))
        x = layers.Activation("relu")(layers.Add()([x, y]))
    return layers.Conv1D(3, 1, activation="softmax")(x)


def _resnet3d(keras: Any, video: Any) -> Any:
    """R3D-18 with one block for each stage of two.

    Source: https://arxiv.org/abs/1711.11248
    """
    layers = keras.layers

    def conv3d(x: Any, width: int, kernel: int, stride: int = 1) -> Any:
        return norm(layers, layers.Conv3D(width, kernel, stride, padding="same", use_bias=False)(x))

    x = layers.ReLU()(conv3d(video, 8, 3, 2))
    for width, stride in ((8, 1), (16, 2), (24, 2)):
        y = conv3d(layers.ReLU()(conv3d(x, width, 3, stride)), width, 3)
        x = conv3d(x, width, 1, stride) if stride > 1 else x
        x = layers.ReLU()(layers.Add()([x, y]))
    return layers.Dense(_CLASSES)(layers.GlobalAveragePooling3D()(x))


def _pointnet(keras: Any, points: Any) -> Any:
    """PointNet for classification: two T-Nets, and Dense layers that all points share.

    Source: https://arxiv.org/abs/1612.00593
    """
    layers = keras.layers

    def dense(x: Any, width: int) -> Any:
        return layers.ReLU()(norm(layers, layers.Dense(width)(x)))

    def transformed(x: Any) -> Any:
        channels = x.shape[-1]
        y = x
        for width in (8, 16, 32):
            y = dense(y, width)
        y = dense(dense(layers.GlobalMaxPooling1D()(y), 16), 8)
        matrix = layers.Reshape((channels, channels))(layers.Dense(channels**2)(y))
        return layers.Dot(axes=(2, 1))([x, matrix])

    x = dense(dense(transformed(points), 8), 8)
    x = transformed(x)
    for width in (8, 16, 32):
        x = dense(x, width)
    x = layers.Dropout(0.3)(dense(dense(layers.GlobalMaxPooling1D()(x), 16), 8))
    return layers.Dense(_CLASSES)(x)


def _conv_lstm(keras: Any, image: Any) -> Any:
    """CRNN: convolutions, the columns of the image as a sequence, and an LSTM.

    Source: https://arxiv.org/abs/1507.05717
    """
    layers, x = keras.layers, image
    for width in (8, 12):
        x = layers.ReLU()(norm(layers, layers.Conv2D(width, 3, padding="same")(x)))
        x = layers.MaxPooling2D(2)(x)
    _, height, columns, channels = x.shape
    x = layers.Reshape((columns, height * channels))(layers.Permute((2, 1, 3))(x))
    return layers.Dense(_CLASSES)(layers.LSTM(6, return_sequences=True)(x))


LSTM = "Conv-BN-LSTM"
NETWORKS = (
    Network("DeepLab", _deeplab, (64, 64, 3)),
    Network("causal TCN", _tcn, (40, 4), has_length=True),
    Network("dilated Conv1D residual", _dilated_residual, (120, 4), has_length=True),
    Network("splice predictor", _splice, (120, 4), has_length=True, is_pre_activation=True),
    Network("3-D ResNet", _resnet3d, (8, 16, 16, 3)),
    Network("PointNet", _pointnet, (32, 3), has_length=True),
    Network(LSTM, _conv_lstm, (8, 24, 1)),
    Network("SSD, built-in NMS", ssd(suppressed), (64, 64, 3)),
    Network("SSD, NMS of TensorFlow", ssd(combined), (64, 64, 3), select_tf_ops=True),
    Network("SSD, TFLite_Detection_PostProcess", ssd(post_processed), (64, 64, 3), custom_ops=True),
)


def variants(network: Network) -> list[Variant]:
    """All of a network, the freest first."""
    lengths = ("batch, length",) if network.has_length else ()
    return [Variant(network, keras, free) for keras in ("keras", "tf_keras") for free in (*lengths, "batch", "")]


def made(variant: Variant) -> Any:
    """Build a variant with the statistics of a batch of made-up examples, and random gammas, betas and biases."""
    keras = importlib.import_module(variant.keras)
    keras.backend.clear_session()
    keras.utils.set_random_seed(0)
    network = variant.network

    def model(batch: int | None, *shape: int | None) -> Any:
        x = keras.layers.Input(shape, batch_size=batch, name="x")
        return keras.Model(x, network.build(keras, x))

    source = model(None, *network.shape)
    random = np.random.default_rng(0)
    for layer in (layer for layer in source.layers if isinstance(layer, keras.layers.BatchNormalization)):
        signs = 1 if network.is_pre_activation else random.choice([-1, 1], layer.gamma.shape, p=[0.3, 0.7])
        layer.gamma.assign(signs * random.uniform(0.5, 1.5, layer.gamma.shape))
        layer.beta.assign(random.normal(0, 0.3, layer.beta.shape))
    for bias in (weight for weight in source.weights if "bias" in weight.name):
        bias.assign(random.normal(0, 0.3, bias.shape))
    source(examples(network, _CALIBRATION), training=True)
    result = model(*variant.shape)
    result.set_weights(source.get_weights())
    return result


def export(variant: Variant, model: Any, folder: str) -> None:
    """Write the SavedModel as this Keras does."""
    if variant.keras == "tf_keras":
        model.save(folder, save_format="tf", include_optimizer=False)
        return
    # By default the batch of an export is free, whatever that of the model is.
    model.export(folder, verbose=False, input_signature=[tf.TensorSpec(variant.shape, tf.float32, name="x")])


def examples(network: Network, count: int) -> Floats:
    """Return made-up inputs, float32 [count, *shape]."""
    return np.random.default_rng(1).normal(0, 1, (count, *network.shape)).astype(np.float32)
