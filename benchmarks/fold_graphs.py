"""The graphs that folds are timed on, as GraphDefs with constants; small tensors, so that what counts is the graph."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

EPSILON = 1e-3
_KINDS = 8  # of blocks with different constants in a chain

Random = np.random.Generator
Floats = npt.NDArray[np.float32]
Norm = Callable[[Any, Random], Any]
GraphDef = Any  # TensorFlow has no type stubs


@dataclasses.dataclass(frozen=True)
class Built:
    """A frozen graph and its output."""

    graph_def: GraphDef
    output: str


def _statistics(channels: int, random: Random) -> tuple[Floats, Floats, Floats, Floats]:
    gamma, beta, mean, variance = (
        random.uniform(low, high, channels).astype(np.float32)
        for low, high in ((0.5, 1.5), (-0.5, 0.5), (-0.5, 0.5), (0.5, 2.0))
    )
    return gamma, beta, mean, variance


def fused(x: Any, random: Random) -> Any:
    """Return one FusedBatchNormV3."""
    gamma, beta, mean, variance = _statistics(x.shape[-1], random)
    return tf.raw_ops.FusedBatchNormV3(
        x=x, scale=gamma, offset=beta, mean=mean, variance=variance, epsilon=EPSILON, is_training=False
    )[0]


def decomposed(x: Any, random: Random) -> Any:
    """Return tf.nn.batch_normalization, which is what Keras 3 exports: Rsqrt, Sub, three Mul and two AddV2."""
    gamma, beta, mean, variance = (tf.constant(values) for values in _statistics(x.shape[-1], random))
    return tf.nn.batch_normalization(x, mean, variance, beta, gamma, EPSILON)


NORMS: dict[str, Norm] = {"fused": fused, "decomposed": decomposed}


def _weights(shape: tuple[int, ...], random: Random) -> Floats:
    return random.standard_normal(shape, np.float32) / np.float32(np.sqrt(np.prod(shape[:-1])))


def _built(build: Callable[[Any], Any], channels: int, size: int = 4) -> Built:
    with tf.Graph().as_default() as graph:
        image = tf.compat.v1.placeholder(tf.float32, [1, size, size, channels], name="image")
        output = tf.identity(build(image), "output")
        return Built(graph.as_graph_def(), output.op.name)


def chain(blocks: int, norm: Norm) -> Built:
    """Return one block of convolution, batch norm and ReLU behind the other, of four channels.

    TensorFlow takes minutes to build such a graph; here a few blocks are built, and copied under other names.
    """

    def block(x: Any, random: Random) -> Any:
        return tf.nn.relu(norm(tf.nn.conv2d(x, _weights((1, 1, 4, 4), random), 1, "SAME"), random))

    random = np.random.default_rng(0)
    kinds = [_built(lambda x: block(x, random), 4) for _ in range(_KINDS)]
    first = kinds[0].graph_def
    graph_def = type(first)(versions=first.versions)
    before = "image"
    graph_def.node.add().CopyFrom(next(node for node in first.node if node.name == before))
    for place in range(blocks):
        names = {"image": before}
        for node in kinds[place % _KINDS].graph_def.node:
            if node.name == "image":
                continue
            copied = graph_def.node.add()
            copied.CopyFrom(node)
            copied.name = names[node.name] = f"block{place}/{node.name}"
            copied.input[:] = [names[name] for name in node.input]
        before = names["output"]
    return Built(graph_def, before)


def wide_concat(branches: int, norm: Norm) -> Built:
    """Return convolutions side by side, a Concat of all, and a batch norm behind it, which has to go into each."""
    random = np.random.default_rng(0)

    def build(x: Any) -> Any:
        parts = [tf.nn.conv2d(x, _weights((1, 1, 4, 2), random), 1, "SAME") for _ in range(branches)]
        return tf.nn.relu(norm(tf.concat(parts, -1), random))

    return _built(build, 4)


# ResNet152: width and number of the bottleneck blocks of each stage; 58 million weights in all.
_RESNET152 = ((64, 3), (128, 8), (256, 36), (512, 3))


def resnet152(divisor: int, norm: Norm) -> Built:
    """Return the convolutions, batch norms, ReLUs and sums of ResNet152, with random weights.

    Args:
      divisor: Of the widths; 1 as published.
      norm: A form of batch norm.

    Source: https://arxiv.org/abs/1512.03385, table 1
    """
    random = np.random.default_rng(0)

    def conv(x: Any, width: int, kernel: int, stride: int = 1) -> Any:
        return norm(tf.nn.conv2d(x, _weights((kernel, kernel, x.shape[-1], width), random), stride, "SAME"), random)

    def build(x: Any) -> Any:
        x = tf.nn.relu(conv(x, 64 // divisor, 7, 2))
        for stage, (published, blocks) in enumerate(_RESNET152):
            width = published // divisor
            for block in range(blocks):
                stride = 2 if stage and not block else 1
                shortcut = x if block else conv(x, 4 * width, 1, stride)
                y = tf.nn.relu(conv(x, width, 1, stride))
                y = tf.nn.relu(conv(y, width, 3))
                x = tf.nn.relu(conv(y, 4 * width, 1) + shortcut)
        return x

    return _built(build, 3, 32)
