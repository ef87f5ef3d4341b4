"""Random graphs: a program is a list of steps, which hypothesis draws and shrinks and which can be pasted into a test.

A step is (op, operand, other, variant): the operands are places in the pool of tensors so far, counted modulo its
size; a step that does not fit its operands is left out. Constants come from the step's place, so a program says all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf
from hypothesis import strategies as st

Step = tuple[str, int, int, int]
_Op = Callable[["Maker", tf.Tensor, tf.Tensor, int], "list[tf.Tensor] | tf.Tensor | None"]


class Maker:
    """What a step needs to make constants: a generator of its own, and the weights that others may share."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.shared: dict[tuple[int, ...], tf.Tensor] = {}

    def constant(self, *shape: int) -> tf.Tensor:
        """Weights or an offset."""
        return tf.constant(self.rng.uniform(-1.5, 1.5, shape).astype(np.float32))

    def scale(self, shape: Sequence[int], variant: int) -> tf.Tensor:
        """A scale: of mixed signs, above zero (two in three), or with zeros."""
        value = self.rng.uniform(0.2, 2.0, shape)
        if variant % 3 == 0:
            value *= self.rng.choice([-1.0, 1.0], shape)
        if variant % 7 == 3:
            value *= self.rng.choice([0.0, 1.0], shape)
        return tf.constant(value.astype(np.float32))

    def weights(self, variant: int, *shape: int) -> tf.Tensor:
        """Weights that, one time in four, an earlier step has made."""
        if variant % 4 == 0 and shape in self.shared:
            return self.shared[shape]
        self.shared[shape] = self.constant(*shape)
        return self.shared[shape]


def _rank(x: tf.Tensor) -> int:
    return x.shape.rank


def _small(x: tf.Tensor) -> bool:
    return all(d is None or d > 0 for d in x.shape) and np.prod([d or 2 for d in x.shape]) < 20_000


def conv(m: Maker, x: tf.Tensor, _: tf.Tensor, v: int) -> tf.Tensor | None:
    """Conv2D of random kernel, stride, padding, dilation and groups."""
    if _rank(x) != 4 or x.shape[3] is None:
        return None
    channels, kernel = x.shape[3], (1, 2, 3)[v % 3]
    groups = 2 if v % 5 == 1 and channels % 2 == 0 else 1
    padding = "VALID" if v % 2 and all(d is not None and d >= kernel for d in x.shape[1:3]) else "SAME"
    w = m.weights(v, kernel, kernel, channels // groups, 4)
    stride = 2 if v % 11 == 2 else 1
    dilation = 2 if padding == "SAME" and v % 13 == 4 and stride == 1 else 1
    return tf.nn.conv2d(x, w, stride, padding, dilations=dilation)


def depthwise(m: Maker, x: tf.Tensor, _: tf.Tensor, v: int) -> tf.Tensor | None:
    """DepthwiseConv2dNative with multiplier 1 or 2."""
    if _rank(x) != 4 or x.shape[3] is None or x.shape[3] > 8:
        return None
    kernel = (1, 3)[v % 2]
    padding = "VALID" if v % 3 == 0 and all(d is not None and d >= kernel for d in x.shape[1:3]) else "SAME"
    return tf.nn.depthwise_conv2d(x, m.weights(v, kernel, kernel, x.shape[3], 1 + v % 2), [1, 1, 1, 1], padding)


def matmul(m: Maker, x: tf.Tensor, _: tf.Tensor, v: int) -> tf.Tensor | None:
    """MatMul with constant weights, transposed or not."""
    if _rank(x) != 2 or x.shape[1] is None:
        return None
    if v % 3 == 0:
        return tf.matmul(x, m.weights(v, 5, x.shape[1]), transpose_b=True)
    return tf.matmul(x, m.weights(v, x.shape[1], 5))


def dense3(m: Maker, x: tf.Tensor, _: tf.Tensor, v: int) -> tf.Tensor | None:
    """A rank-3 dense layer: Einsum, BatchMatMul or the Tensordot pattern."""
    if _rank(x) != 3 or x.shape[2] is None:
        return None
    w = m.weights(v, x.shape[2], 4)
    return (tf.einsum("abc,cd->abd", x, w), tf.matmul(x, w), tf.tensordot(x, w, 1))[v % 3]


def deconv(m: Maker, x: tf.Tensor, _: tf.Tensor, v: int) -> tf.Tensor | None:
    """A transposed convolution."""
    if _rank(x) != 4 or None in x.shape.as_list() or x.shape[1] > 6:
        return None
    n, h, w, c = x.shape
    return tf.nn.conv2d_transpose(x, m.weights(v, 3, 3, 3, c), [n, h * 2, w * 2, 3], 2)


def batch_norm(m: Maker, x: tf.Tensor, _: tf.Tensor, v: int) -> tf.Tensor | None:
    """A fused batch norm, or a decomposed one in one of its spellings."""
    channels = x.shape[-1] if _rank(x) else None
    if channels is None:
        return None
    gamma, beta, mean = m.scale((channels,), v), m.constant(channels), m.constant(channels)
    variance = tf.constant(m.rng.uniform(0.05, 3.0, channels).astype(np.float32))
    if _rank(x) == 4 and v % 2:
        return tf.compat.v1.nn.fused_batch_norm(x, gamma, beta, mean, variance, epsilon=1e-3, is_training=False)[0]
    if v % 4 == 0:
        return (x - mean) / tf.sqrt(variance + 1e-3) * gamma + beta
    factor = gamma * tf.math.rsqrt(variance + 1e-3)
    return tf.add(tf.multiply(x, factor), beta - mean * factor)


def scale(m: Maker, x: tf.Tensor, _: tf.Tensor, v: int) -> tf.Tensor | None:
    """A per-channel multiplication, on the last axis or on another one."""
    if _rank(x) < 1:
        return None
    axis = -1 if v % 5 else v % _rank(x)
    size = x.shape[axis]
    if size is None:
        return None
    shape = [size] + [1] * (0 if axis == -1 else _rank(x) - 1 - axis)
    return x * m.scale(shape, v)


def shift(m: Maker, x: tf.Tensor, _: tf.Tensor, v: int) -> tf.Tensor | None:
    """A per-channel addition or subtraction."""
    if _rank(x) < 1 or x.shape[-1] is None:
        return None
    c = m.constant(x.shape[-1])
    return (x + c, tf.nn.bias_add(x, c) if _rank(x) > 1 else x + c, x - c, c - x)[v % 4]


def scalar(m: Maker, x: tf.Tensor, _: tf.Tensor, v: int) -> tf.Tensor:
    """A number that is added, multiplied or divided by."""
    return (x * 0.5, x + 0.25, x / -3.0, x * 2.0 - 1.0)[v % 4]


def unary(m: Maker, x: tf.Tensor, _: tf.Tensor, v: int) -> tf.Tensor:
    """An activation or alias."""
    return (
        tf.nn.relu,
        tf.nn.relu,
        tf.nn.relu6,
        lambda t: tf.nn.leaky_relu(t, 0.1),
        tf.abs,
        tf.negative,
        tf.identity,
        tf.sigmoid,
        lambda t: tf.maximum(t, 0.3),
        tf.stop_gradient,
    )[v % 10](x)


def join(m: Maker, x: tf.Tensor, y: tf.Tensor, v: int) -> tf.Tensor | None:
    """Two tensors of one shape: a sum, a product, a maximum, a concat, a pack."""
    if x.shape.as_list() != y.shape.as_list() or not _rank(x):
        return None
    if v % 8 == 6 and _rank(x) < 4:
        return tf.stack([x, y], axis=v % (_rank(x) + 1))
    axis = v % _rank(x)
    return (
        lambda: x + y,
        lambda: x - y,
        lambda: tf.add_n([x, y, x]),
        lambda: x * y,
        lambda: tf.maximum(x, y),
        lambda: tf.concat([x, y], -1),
        lambda: tf.concat([x, y], axis),
        lambda: tf.where(x > 0, x, y),
    )[v % 8]()


def concat(m: Maker, x: tf.Tensor, y: tf.Tensor, v: int) -> tf.Tensor | None:
    """A concat along the last axis, at times with a constant."""
    if _rank(x) != _rank(y) or not _rank(x) or x.shape.as_list()[:-1] != y.shape.as_list()[:-1]:
        return None
    parts = [x, y]
    if v % 5 == 0 and None not in x.shape.as_list():
        parts.append(m.constant(*x.shape.as_list()[:-1], 2))
    return tf.concat(parts, -1)


def pool(m: Maker, x: tf.Tensor, _: tf.Tensor, v: int) -> tf.Tensor | None:
    """A pooling or a mean."""
    if _rank(x) != 4:
        return None
    return (
        lambda: tf.nn.max_pool2d(x, 2, 2, "SAME"),
        lambda: tf.nn.avg_pool2d(x, 2, 1, "SAME"),
        lambda: tf.reduce_mean(x, [1, 2], keepdims=bool(v % 2)),
        lambda: tf.reduce_max(x, [1, 2]),
        lambda: tf.reduce_sum(x, [1]),
    )[v % 5]()


def move(m: Maker, x: tf.Tensor, _: tf.Tensor, v: int) -> tf.Tensor | None:
    """An op that moves elements."""
    rank = _rank(x)
    if not rank or rank > 5:
        return None
    shape = x.shape.as_list()
    whole = None not in shape
    axis = v % rank
    pads = [[0, 0]] * rank
    pads[axis] = [1, 1]
    choices: list[Callable[[], tf.Tensor | None]] = [
        lambda: tf.transpose(x, np.roll(np.arange(rank), 1 + v % max(rank - 1, 1))),
        lambda: tf.reshape(x, [-1, int(np.prod(shape[1:]))]) if rank > 1 and None not in shape[1:] else None,
        lambda: tf.reshape(x, [-1, shape[-1]]) if shape[-1] else None,
        lambda: tf.expand_dims(x, v % (rank + 1)) if rank < 4 else None,
        lambda: tf.squeeze(x, [axis]) if shape[axis] == 1 and rank > 1 else None,
        lambda: tf.reverse(x, [axis]),
        lambda: tf.tile(x, [2 if i == axis else 1 for i in range(rank)]),
        lambda: tf.pad(x, pads),
        lambda: tf.pad(x, pads, constant_values=0.7),
        lambda: tf.pad(x, pads, "REFLECT") if (shape[axis] or 0) > 1 else None,
        lambda: (
            tf.image.resize(x, [7, 5], ["nearest", "bilinear"][v % 2]) if rank == 4 and None not in shape[1:] else None
        ),
        lambda: tf.nn.space_to_depth(x, 2) if rank == 4 and whole and not shape[1] % 2 and not shape[2] % 2 else None,
        lambda: tf.nn.depth_to_space(x, 2) if rank == 4 and whole and not shape[3] % 4 else None,
        lambda: x[..., 1:] if (shape[-1] or 0) > 1 else None,
        lambda: x[..., ::2] if shape[-1] else None,
        lambda: tf.gather(x, m.rng.integers(0, shape[axis], 3), axis=axis) if shape[axis] else None,
        lambda: x[:, 0] if rank > 1 and shape[1] else None,
        lambda: tf.reshape(x, [*shape[:-1], 2, shape[-1] // 2]) if whole and rank < 4 and not shape[-1] % 2 else None,
        lambda: tf.reshape(tf.transpose(x), [-1, shape[0]]) if whole and rank > 1 else None,
        lambda: (
            tf.space_to_batch_nd(x, [2, 2], [[1, 1], [1, 1]])
            if rank == 4 and whole and not shape[1] % 2 and not shape[2] % 2
            else None
        ),
        lambda: tf.batch_to_space(x, [1, 2], [[0, 0], [0, 1]]) if rank == 4 and whole and not shape[0] % 2 else None,
        lambda: tf.cumsum(x, axis),
    ]
    return choices[v % len(choices)]()


def cut(m: Maker, x: tf.Tensor, _: tf.Tensor, v: int) -> list[tf.Tensor] | None:
    """An op with several outputs."""
    if not _rank(x):
        return None
    axis = -1 if v % 3 else v % _rank(x)
    size = x.shape[axis]
    if size is None or size < 2:
        return None
    if v % 5 == 0 and _rank(x) > 2 and size < 4:
        return tf.unstack(x, axis=axis)
    if v % 2 and size > 2:
        return tf.split(x, [1, size - 1], axis)
    return tf.split(x, 2, axis) if size % 2 == 0 else None


def call(m: Maker, x: tf.Tensor, _: tf.Tensor, v: int) -> list[tf.Tensor] | None:
    """A function with a linear op and a batch norm, called once, or twice on different values."""
    linear = {4: conv, 3: dense3, 2: matmul}.get(_rank(x))
    if linear is None or x.shape[-1] is None:
        return None

    def body(t: tf.Tensor) -> tf.Tensor:
        made = linear(Maker(v + 1), t, t, 0 if linear is conv else v)
        normal = batch_norm(m, tf.nn.relu(made) if v % 3 == 0 else made, made, v)
        return unary(m, normal, normal, v // 10) if v % 2 else normal

    function = tf.function(body)
    return [function(x), function(tf.nn.relu(x))] if v % 4 == 1 else [function(x)]


OPS: dict[str, _Op] = {
    f.__name__: f
    for f in (
        conv,
        depthwise,
        matmul,
        dense3,
        deconv,
        batch_norm,
        scale,
        shift,
        scalar,
        unary,
        join,
        concat,
        pool,
        move,
        cut,
        call,
    )
}
# Linear ops and batch norms come up more often than the rest.
WEIGHTED = [*["conv"] * 6, *["depthwise"] * 2, *["matmul"] * 3, *["dense3"] * 2, "deconv", *["batch_norm"] * 6]
WEIGHTED += ["scale", "shift", "scalar"]
WEIGHTED += ["unary"] * 3 + ["join"] * 3 + ["concat", "pool", "move", "move", "move", "cut", "call"]

# Mostly the newest tensor, so that chains grow; at times an older one, so that they fork.
NEAR = [0] * 9 + [1, 1, 2, 3]
FAR = [1, 1, 1, 2, 2, 3, 4, 5, 7]

steps = st.tuples(st.sampled_from(WEIGHTED), st.sampled_from(NEAR), st.sampled_from(FAR), st.integers(0, 999))
programs = st.lists(steps, min_size=3, max_size=14)


def build_program(program: Sequence[Step], *, batch: int | None = 2, fetches: int = 1) -> list[tf.Tensor]:
    """Write a program's ops into the current graph.

    Operands count from the newest tensor backwards: 0 is the newest one.

    Returns:
      The outputs: every tensor that nothing reads, and some that are read.
    """
    x = tf.compat.v1.placeholder(tf.float32, [batch, 6, 6, 4])
    y = tf.compat.v1.placeholder(tf.float32, [batch, 6])
    pool_: list[tf.Tensor] = [y, x]
    for place, (op, a, b, variant) in enumerate(program):
        left, right = pool_[-1 - a % len(pool_)], pool_[-1 - b % len(pool_)]
        made = OPS[op](Maker(1000 * place + variant), left, right, variant)
        if made is None:
            continue
        new = made if isinstance(made, list) else [made]
        if all(_small(t) for t in new):
            pool_.extend(new)
    ends = [t for t in pool_[2:] if not t.consumers()]
    inner = [t for place, t in enumerate(pool_[2:]) if t.consumers() and place % 5 == fetches]
    return ends + inner or [tf.identity(x)]
