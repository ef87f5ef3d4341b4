"""The two networks that this project began with, by their published layer tables, for Keras 3 and Keras 2.

Statistics are real: each batch norm gets those of a batch that runs through the network. Gammas have both signs.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

# MobileNet-SSD for Caffe: stride and width of the pointwise convolution of conv1 to conv13.
_MOBILENET = (
    (1, 64), (2, 128), (1, 128), (2, 256), (1, 256), (2, 512), (1, 512), (1, 512), (1, 512), (1, 512), (1, 512),
    (2, 1024), (1, 1024),
)  # fmt: skip
# Widths of conv14_1 to conv17_2: 1x1, then 3x3 with stride 2.
_EXTRA = ((256, 512), (128, 256), (128, 256), (64, 128))
# Layers that feed the heads, with their number of default boxes.
_HEADS = {"conv11": 3, "conv13": 6, "conv14_2": 6, "conv15_2": 6, "conv16_2": 6, "conv17_2": 6}
_CLASSES = 21

# Tiny YOLO v2 for VOC: width of each convolution, and stride of the max-pooling behind it (0: none).
_TINY_YOLO = ((16, 2), (32, 2), (64, 2), (128, 2), (256, 2), (512, 1), (1024, 0), (1024, 0))
_YOLO_OUTPUT = 125  # 5 anchors of 20 classes, 4 coordinates and 1 confidence

_BATCH = 32  # of which statistics are taken: the last layers of a small MobileNet-SSD see each image as one pixel


@dataclasses.dataclass(frozen=True)
class Size:
    """How large a network is: its input's side, and the divisor of its widths."""

    side: int
    divisor: int = 1

    def width(self, published: int) -> int:
        """Return the number of channels for a published one."""
        return max(published // self.divisor, 8)


def mobilenet_ssd(layers: Any, size: Size) -> tuple[Any, list[Any]]:
    """MobileNet-SSD, 300x300x3 as published: 35 batch norms, six heads without.

    Caffe pads both sides alike, which is a zero padding before each 3x3 convolution. Its BatchNorm and Scale layers
    together are one batch norm.

    Source: https://github.com/chuanqi305/MobileNet-SSD, template of deploy.prototxt
    """

    def normed(x: Any, name: str) -> Any:
        return layers.ReLU(name=f"{name}_relu")(
            layers.BatchNormalization(epsilon=1e-5, momentum=0.0, name=f"{name}_bn")(x)
        )

    def conv(x: Any, width: int, kernel: int, stride: int, name: str) -> Any:
        x = layers.ZeroPadding2D(1, name=f"{name}_pad")(x) if kernel == 3 else x
        x = layers.Conv2D(size.width(width), kernel, stride, use_bias=False, kernel_initializer="he_normal", name=name)(
            x
        )
        return normed(x, name)

    def depthwise(x: Any, stride: int, name: str) -> Any:
        x = layers.ZeroPadding2D(1, name=f"{name}_pad")(x)
        layer = layers.DepthwiseConv2D(3, stride, use_bias=False, depthwise_initializer="he_normal", name=name)
        return normed(layer(x), name)

    image = layers.Input((size.side, size.side, 3), name="image")
    ends = {"conv0": conv(image, 32, 3, 2, "conv0")}
    x = ends["conv0"]
    for number, (stride, width) in enumerate(_MOBILENET, start=1):
        x = ends[f"conv{number}"] = conv(depthwise(x, stride, f"conv{number}_dw"), width, 1, 1, f"conv{number}")
    for number, (narrow, wide) in enumerate(_EXTRA, start=14):
        x = conv(x, narrow, 1, 1, f"conv{number}_1")
        x = ends[f"conv{number}_2"] = conv(x, wide, 3, 2, f"conv{number}_2")
    located, classified = [], []
    for name, boxes in _HEADS.items():
        head = layers.Conv2D(boxes * 4, 1, name=f"{name}_mbox_loc")(ends[name])
        located.append(layers.Reshape((-1, 4), name=f"{name}_mbox_loc_flat")(head))
        head = layers.Conv2D(boxes * _CLASSES, 1, name=f"{name}_mbox_conf")(ends[name])
        classified.append(layers.Reshape((-1, _CLASSES), name=f"{name}_mbox_conf_flat")(head))
    scores = layers.Softmax(name="mbox_conf_softmax")(layers.Concatenate(axis=1, name="mbox_conf")(classified))
    return image, [layers.Concatenate(axis=1, name="mbox_loc")(located), scores]


def tiny_yolo(layers: Any, size: Size) -> tuple[Any, list[Any]]:
    """Tiny YOLO v2, 416x416x3 as published: 8 batch norms with LeakyReLU, a linear convolution at the end.

    Source: https://github.com/pjreddie/darknet, cfg/yolov2-tiny-voc.cfg
    """
    image = x = layers.Input((size.side, size.side, 3), name="image")
    for number, (width, stride) in enumerate(_TINY_YOLO, start=1):
        layer = layers.Conv2D(
            size.width(width), 3, padding="same", use_bias=False, kernel_initializer="he_normal", name=f"conv{number}"
        )
        x = layers.BatchNormalization(epsilon=1e-6, momentum=0.0, name=f"bn{number}")(layer(x))
        x = layers.LeakyReLU(0.1, name=f"leaky{number}")(x)
        if stride:
            x = layers.MaxPooling2D(2, stride, padding="same", name=f"pool{number}")(x)
    return image, [layers.Conv2D(_YOLO_OUTPUT, 1, name="conv9")(x)]


def boxes(side: int) -> int:
    """Count the default boxes of MobileNet-SSD for an input of this side: 1917 for 300."""
    sides = [math.ceil(side / 2**halvings) for halvings in range(1, 10)]
    return sum(number * cell * cell for number, cell in zip(_HEADS.values(), sides[3:], strict=True))


def made(keras: Any, network: Any, size: Size) -> Any:
    """Build a network with gammas of both signs, betas, and the statistics of a batch of random images."""
    keras.utils.set_random_seed(0)
    model = keras.Model(*network(keras.layers, size))
    random = np.random.default_rng(0)
    for norm in (layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)):
        shape = norm.gamma.shape
        norm.gamma.assign(random.uniform(0.5, 1.5, shape) * np.where(random.random(shape) < 0.3, -1, 1))
        norm.beta.assign(random.normal(0, 0.3, shape))
    for head in (layer for layer in model.layers if layer.name.endswith(("_mbox_loc", "_mbox_conf"))):
        head.kernel.assign(0.2 * head.kernel)  # logits of a size that a softmax does not magnify the rounding of
    model(images(size, _BATCH), training=True)
    return model


def images(size: Size, count: int) -> np.ndarray:
    """Return random images that differ as photographs do, in large things too.

    Of mere noise all images look the same to the last layers, whose statistics would have almost no variance.
    """
    random = np.random.default_rng(1)
    images = np.zeros((count, size.side, size.side, 3))
    for cells in (1, 2, 4, 8, 16, 32, size.side):
        coarse = random.normal(0, 0.3, (count, cells, cells, 3))
        place = np.arange(size.side) * cells // size.side
        images += coarse[:, place][:, :, place]
    return images.astype(np.float32)
