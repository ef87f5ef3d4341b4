"""What networks for phones are made of, for Keras 3 and Keras 2; `layers` is the module of either."""

from __future__ import annotations

from typing import Any


def inverted_residual(layers: Any, x: Any, width: int, expansion: int, stride: int = 1, rate: int = 1) -> Any:
    """Bottleneck of MobileNetV2: expand, filter by channel, project; the input is added where the shape is the same."""
    entered, channels = x, x.shape[-1]
    if expansion > 1:
        x = conv(layers, x, channels * expansion, 1, activation="relu6")
    x = layers.DepthwiseConv2D(3, stride, padding="same", dilation_rate=rate, use_bias=False)(x)
    x = layers.ReLU(6.0)(norm(layers, x))
    x = conv(layers, x, width, 1, activation="")
    return layers.Add()([entered, x]) if stride == 1 and channels == width else x


def conv(layers: Any, x: Any, width: int, kernel: int, stride: int = 1, activation: str = "relu") -> Any:
    """Conv2D, batch norm and ReLU ("relu", "relu6" or "")."""
    x = layers.Conv2D(width, kernel, stride, padding="same", use_bias=False)(x)
    x = norm(layers, x)
    return layers.ReLU(6.0 if activation == "relu6" else None)(x) if activation else x


def norm(layers: Any, x: Any) -> Any:
    """Batch norm that takes the statistics of one batch as they are."""
    return layers.BatchNormalization(momentum=0.0)(x)
