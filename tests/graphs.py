"""Builders of test graphs: seeded constants with statistics as trained models have them, and ops as raw ones.

Every constant is seeded by its place in the graph, so that a graph is the same each time it is built. Nothing here is
trivial by chance: gammas have both signs, means and betas are not zero, variances differ by an order of magnitude.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from checker import Built

raw = tf.raw_ops
EPSILON = 1e-3


def random() -> np.random.Generator:
    """A generator that depends on the number of ops that the graph has."""
    return np.random.default_rng(1000 + len(tf.compat.v1.get_default_graph().get_operations()))


def const(*shape: int, low: float = -2.0, high: float = 2.0, dtype: Any = tf.float32, name: str = "const") -> tf.Tensor:
    """Random numbers, none of them close to zero."""
    values = random().uniform(low, high, shape)
    values = np.where(np.abs(values) < 0.05, 0.05 * np.sign(values) + (values == 0) * 0.05, values)
    return tf.constant(values, dtype, name=name)


def positive(*shape: int, dtype: Any = tf.float32, name: str = "const") -> tf.Tensor:
    """Random numbers above zero."""
    return const(*shape, low=0.2, high=3.0, dtype=dtype, name=name)


def numbers(values: Any, dtype: Any = tf.float32, name: str = "const") -> tf.Tensor:
    """A constant of these numbers."""
    return tf.constant(values, dtype, name=name)


def signed(channels: int, dtype: Any = tf.float32, name: str = "gamma") -> tf.Tensor:
    """A gamma with both signs."""
    values = random().uniform(0.3, 2.0, channels) * np.where(np.arange(channels) % 2, -1, 1)
    return tf.constant(values, dtype, name=name)


def placeholder(*shape: int | None, dtype: Any = tf.float32, name: str = "x") -> tf.Tensor:
    """An input of the graph."""
    return tf.compat.v1.placeholder(dtype, shape, name=name)


def image(channels: int = 3, size: int | None = 5, dtype: Any = tf.float32, name: str = "x") -> tf.Tensor:
    """An NHWC input, [batch, size, size + 1, channels]."""
    return placeholder(None, size, None if size is None else size + 1, channels, dtype=dtype, name=name)


def nchw(channels: int = 3, size: int = 5, dtype: Any = tf.float32, name: str = "x") -> tf.Tensor:
    """An NCHW input."""
    return placeholder(None, channels, size, size + 1, dtype=dtype, name=name)


def volume(channels: int = 3, size: int = 4, layout: str = "NDHWC", name: str = "x") -> tf.Tensor:
    """A 3-D image."""
    shape = (None, size, size, size, channels) if layout == "NDHWC" else (None, channels, size, size, size)
    return placeholder(*shape, name=name)


def rows(channels: int = 4, dtype: Any = tf.float32, name: str = "x") -> tf.Tensor:
    """A matrix of one row per example."""
    return placeholder(None, channels, dtype=dtype, name=name)


def axis_of(layout: str, rank: int = 4) -> int:
    """The channel axis."""
    return 1 if layout.startswith("NC") else rank - 1


def per_axis(value: int | Sequence[int], layout: str, rank: int = 4) -> list[int]:
    """A strides-like list from one number, or one number per spatial axis."""
    spatial = [value] * (rank - 2) if isinstance(value, int) else list(value)
    return [1, 1, *spatial] if layout.startswith("NC") else [1, *spatial, 1]


def conv(
    x: tf.Tensor,
    out: int = 4,
    kernel: int | tuple[int, int] = (2, 3),
    *,
    padding: str = "VALID",
    pads: Sequence[int] = (),
    stride: int | tuple[int, int] = 1,
    dilation: int | tuple[int, int] = 1,
    groups: int = 1,
    layout: str = "NHWC",
    weights: tf.Tensor | None = None,
    name: str = "conv",
) -> tf.Tensor:
    """Conv2D; `pads` is explicit_paddings."""
    height, width = (kernel, kernel) if isinstance(kernel, int) else kernel
    if weights is None:
        weights = const(height, width, x.shape[axis_of(layout)] // groups, out, dtype=x.dtype, name=f"{name}/weights")
    return raw.Conv2D(
        input=x,
        filter=weights,
        strides=per_axis(stride, layout),
        padding="EXPLICIT" if pads else padding,
        explicit_paddings=list(pads),
        dilations=per_axis(dilation, layout),
        data_format=layout,
        name=name,
    )


def depthwise(
    x: tf.Tensor,
    multiplier: int = 1,
    kernel: tuple[int, int] = (2, 3),
    *,
    padding: str = "VALID",
    pads: Sequence[int] = (),
    stride: int = 1,
    dilation: int | tuple[int, int] = 1,
    layout: str = "NHWC",
    name: str = "depthwise",
) -> tf.Tensor:
    """DepthwiseConv2dNative."""
    weights = const(*kernel, x.shape[axis_of(layout)], multiplier, dtype=x.dtype, name=f"{name}/weights")
    return raw.DepthwiseConv2dNative(
        input=x,
        filter=weights,
        strides=per_axis(stride, layout),
        padding="EXPLICIT" if pads else padding,
        explicit_paddings=list(pads),
        dilations=per_axis(dilation, layout),
        data_format=layout,
        name=name,
    )


def transposed(
    x: tf.Tensor,
    out: int = 4,
    kernel: tuple[int, int] = (2, 3),
    *,
    stride: int = 1,
    padding: str = "VALID",
    groups: int = 1,
    layout: str = "NHWC",
    batch: int = 2,
    name: str = "transposed",
) -> tf.Tensor:
    """Conv2DBackpropInput; weights are [kernel..., out / groups, in]."""
    spatial = x.shape[2:] if layout == "NCHW" else x.shape[1:3]
    sizes = [
        size * stride if padding == "SAME" else (size - 1) * stride + reach
        for size, reach in zip(spatial, kernel, strict=True)
    ]
    shape = [batch, out, *sizes] if layout == "NCHW" else [batch, *sizes, out]
    weights = const(*kernel, out // groups, x.shape[axis_of(layout)], dtype=x.dtype, name=f"{name}/weights")
    return raw.Conv2DBackpropInput(
        input_sizes=shape,
        filter=weights,
        out_backprop=x,
        strides=per_axis(stride, layout),
        padding=padding,
        data_format=layout,
        name=name,
    )


def conv3d(
    x: tf.Tensor,
    out: int = 4,
    *,
    padding: str = "VALID",
    stride: int = 1,
    dilation: int = 1,
    layout: str = "NDHWC",
    name: str = "conv",
) -> tf.Tensor:
    """Conv3D."""
    weights = const(2, 1, 3, x.shape[axis_of(layout, 5)], out, name=f"{name}/weights")
    return raw.Conv3D(
        input=x,
        filter=weights,
        strides=per_axis(stride, layout, 5),
        padding=padding,
        dilations=per_axis(dilation, layout, 5),
        data_format=layout,
        name=name,
    )


def dense(x: tf.Tensor, out: int = 5, name: str = "dense") -> tf.Tensor:
    """MatMul by constant weights."""
    return raw.MatMul(a=x, b=const(x.shape[-1], out, dtype=x.dtype, name=f"{name}/weights"), name=name)


def bias(x: tf.Tensor, layout: str = "NHWC", name: str = "bias") -> tf.Tensor:
    """BiasAdd."""
    vector = const(x.shape[axis_of(layout, x.shape.rank)], dtype=x.dtype, name=f"{name}/value")
    return raw.BiasAdd(value=x, bias=vector, data_format=layout, name=name)


def norm(
    x: tf.Tensor,
    *,
    version: int = 3,
    layout: str = "NHWC",
    gamma: tf.Tensor | None = None,
    beta: tf.Tensor | None = None,
    mean: tf.Tensor | None = None,
    variance: tf.Tensor | None = None,
    epsilon: float = EPSILON,
    training: bool = False,
    name: str = "bn",
) -> tf.Tensor:
    """FusedBatchNorm, V2 or V3 with its statistics; the first output."""
    return norm_outputs(
        x,
        version=version,
        layout=layout,
        gamma=gamma,
        beta=beta,
        mean=mean,
        variance=variance,
        epsilon=epsilon,
        training=training,
        name=name,
    )[0]


def norm_outputs(
    x: tf.Tensor,
    *,
    version: int = 3,
    layout: str = "NHWC",
    gamma: tf.Tensor | None = None,
    beta: tf.Tensor | None = None,
    mean: tf.Tensor | None = None,
    variance: tf.Tensor | None = None,
    epsilon: float = EPSILON,
    training: bool = False,
    name: str = "bn",
) -> Sequence[tf.Tensor]:
    """All outputs of a fused batch norm. In training mode mean and variance are empty, as Keras 2 exports them."""
    op = {1: raw.FusedBatchNorm, 2: raw.FusedBatchNormV2, 3: raw.FusedBatchNormV3}[version]
    channels = x.shape[axis_of(layout, x.shape.rank)]
    empty = tf.constant([], tf.float32) if training else None
    return op(
        x=x,
        scale=signed(channels, name=f"{name}/gamma") if gamma is None else gamma,
        offset=const(channels, name=f"{name}/beta") if beta is None else beta,
        mean=mean if mean is not None else (empty if training else const(channels, name=f"{name}/mean")),
        variance=variance
        if variance is not None
        else (empty if training else positive(channels, name=f"{name}/variance")),
        epsilon=epsilon,
        data_format=layout,
        is_training=training,
        name=name,
    )


def shaped(vector: tf.Tensor, axis: int, rank: int) -> tf.Tensor:
    """A vector in the shape that puts it on an axis, leading ones included."""
    return tf.reshape(vector, [-1 if i == axis % rank else 1 for i in range(rank)])


def scale(x: tf.Tensor, axis: int = -1, *, above_zero: bool = False, name: str = "scale") -> tf.Tensor:
    """Multiply by a constant per channel; of both signs unless `above_zero`."""
    channels, rank = x.shape[axis], x.shape.rank
    vector = positive(channels, dtype=x.dtype) if above_zero else signed(channels, dtype=x.dtype)
    return raw.Mul(x=x, y=shaped(vector, axis, rank), name=name)


def offset(x: tf.Tensor, axis: int = -1, name: str = "offset") -> tf.Tensor:
    """Add a constant per channel."""
    return raw.AddV2(x=x, y=shaped(const(x.shape[axis], dtype=x.dtype), axis, x.shape.rank), name=name)


def affine(x: tf.Tensor, axis: int = -1, *, above_zero: bool = False, name: str = "bn") -> tf.Tensor:
    """Mul and AddV2 by constants per channel, as Keras 3 exports a batch norm."""
    return offset(scale(x, axis, above_zero=above_zero, name=f"{name}/mul"), axis, name=f"{name}/add")


def global_norm(
    x: tf.Tensor, *, scale_after: bool = True, gamma: tf.Tensor | None = None, name: str = "bn"
) -> tf.Tensor:
    """A stand-in that `tf1_graph` turns into BatchNormWithGlobalNormalization, which TensorFlow 2 doesn't build."""
    channels = x.shape[-1]
    with tf.control_dependencies(None):
        mean, variance, beta = const(channels), positive(channels), const(channels)
        gamma = signed(channels) if gamma is None else gamma
    stand_in = raw.FusedBatchNorm(
        x=x, scale=gamma, offset=beta, mean=mean, variance=variance, epsilon=EPSILON, is_training=False, name=name
    )
    stand_in[0].op._set_attr("_scale_after", tf.compat.v1.AttrValue(b=scale_after))
    return stand_in[0]


def tf1_graph(*outputs: tf.Tensor) -> Built:
    """The graph as TensorFlow 1 wrote it: BatchNormWithGlobalNormalization where `global_norm` was called."""
    graph_def = outputs[0].graph.as_graph_def()
    graph_def.versions.producer = 8
    for node in graph_def.node:
        if "_scale_after" not in node.attr:
            continue
        x, gamma, beta, mean, variance = node.input
        flag = node.attr["_scale_after"].b
        node.op = "BatchNormWithGlobalNormalization"
        node.input[:] = [x, mean, variance, beta, gamma]
        for key in list(node.attr):
            if key != "T":
                del node.attr[key]
        node.attr["variance_epsilon"].f = EPSILON
        node.attr["scale_after_normalization"].b = flag
    return Built(graph_def, [tensor.name.removesuffix(":0") for tensor in outputs])
