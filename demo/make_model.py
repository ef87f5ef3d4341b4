"""Train a small convolutional net with batch norms on images that it draws, and export it as a SavedModel.

Usage: python demo/make_model.py DIR
"""

from __future__ import annotations

import sys

import keras
import numpy as np
import numpy.typing as npt

SIZE = 32
SHAPES = ("disc", "square", "ring", "cross")

Floats = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]


def draw(count: int, seed: int) -> tuple[Floats, Labels]:
    """Return images [count, SIZE, SIZE, 1] in -1 to 1 of shapes at random places on noise, and their labels [count]."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(len(SHAPES), size=count)
    radius = rng.uniform(5, 10, (count, 1, 1))
    y, x = np.abs(np.mgrid[:SIZE, :SIZE][:, None] - rng.uniform(11, SIZE - 11, (2, count, 1, 1)))
    distance = np.hypot(x, y)
    masks = np.stack(
        [
            distance < radius,
            np.maximum(x, y) < radius,
            np.abs(distance - radius) < 1.5,
            (np.minimum(x, y) < 1.5) & (np.maximum(x, y) < radius),
        ]
    )
    images = 2 * masks[labels, np.arange(count)] - 1 + rng.normal(0, 0.5, (count, SIZE, SIZE))
    return images[..., None].astype(np.float32), labels


def build() -> keras.Model:
    """Return a classifier whose batch norms follow a convolution, depthwise convolutions and a dense layer."""
    layers = keras.layers

    def normalised(x: keras.KerasTensor, layer: keras.Layer) -> keras.KerasTensor:
        return layers.ReLU()(layers.BatchNormalization(momentum=0.9)(layer(x)))

    inputs = x = keras.Input((SIZE, SIZE, 1), name="image")
    x = normalised(x, layers.Conv2D(16, 3, strides=2, padding="same", use_bias=False))
    for channels in (24, 32):
        x = normalised(x, layers.DepthwiseConv2D(3, strides=2, padding="same", use_bias=False))
        x = normalised(x, layers.Conv2D(channels, 1, use_bias=False))
    x = normalised(layers.GlobalAveragePooling2D()(x), layers.Dense(32))
    return keras.Model(inputs, layers.Dense(len(SHAPES), name="logits")(x))


def main(folder: str) -> None:
    """Train, say how well that went, and export."""
    keras.utils.set_random_seed(0)
    model = build()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(3e-3), loss, metrics=["accuracy"])
    model.fit(*draw(6000, seed=1), batch_size=64, epochs=4, verbose=2)
    _, accuracy = model.evaluate(*draw(1000, seed=2), verbose=0)
    print(f"Accuracy on 1000 images it has not seen: {accuracy:.1%}")
    model.export(folder, verbose=False)
    print(f"Exported to {folder}")


if __name__ == "__main__":
    main(sys.argv[1])
