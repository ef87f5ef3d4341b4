"""Arithmetic on constants gives what TensorFlow gives, and weights and parameters that it makes fold."""

# One line each: a table is read by its columns.
# ruff: noqa: E501

from __future__ import annotations

import graphs as g
import numpy as np
import pytest
import tensorflow as tf
from checker import build, check_fold, run
from rows import Row, check, parametrized

from tf_bnfold.graph.graph import Tensor
from tf_bnfold.graph.view import View
from tf_bnfold.reasons import Reason

raw = tf.raw_ops


def ints(*values):
    return tf.constant(values, tf.int32)


def floats(*shape):
    return g.const(*(shape or (2, 3, 4)))


# fmt: off
OPS = {
    "Concat": lambda: raw.Concat(concat_dim=1, values=[floats(), floats(2, 1, 4)]),
    "ConcatV2": lambda: raw.ConcatV2(values=[floats(), floats(2, 1, 4)], axis=-2),
    "Split": lambda: raw.Split(axis=2, value=floats(), num_split=2)[1],
    "Split-first": lambda: raw.Split(axis=-3, value=floats(), num_split=2)[0],
    "SplitV": lambda: raw.SplitV(value=floats(), size_splits=ints(1, -1, 1), axis=2, num_split=3)[1],
    "SplitV-last": lambda: raw.SplitV(value=floats(), size_splits=ints(1, 2), axis=1, num_split=2)[1],
    "Unpack": lambda: raw.Unpack(value=floats(), num=3, axis=1)[2],
    "Slice": lambda: raw.Slice(input=floats(), begin=[0, 1, 1], size=[1, -1, 2]),
    "StridedSlice": lambda: floats()[1:, ::-1, 1:3],
    "StridedSlice-new": lambda: floats()[:, tf.newaxis, ..., 1],
    "StridedSlice-negative": lambda: floats()[-1, -2:, :-1],
    "Gather": lambda: raw.Gather(params=floats(), indices=ints(1, 0, 1)),
    "GatherV2": lambda: raw.GatherV2(params=floats(), indices=[[2, 0], [1, 1]], axis=-2),
    "Tile": lambda: raw.Tile(input=floats(), multiples=[2, 1, 3]),
    "Pad": lambda: raw.Pad(input=floats(), paddings=[[0, 1], [2, 0], [0, 0]]),
    "PadV2": lambda: raw.PadV2(input=floats(), paddings=[[0, 1], [2, 0], [0, 0]], constant_values=1.5),
    "AddN": lambda: raw.AddN(inputs=[floats(), floats(), floats()]),
    "SquaredDifference": lambda: raw.SquaredDifference(x=floats(), y=floats(3, 1)),
    "Relu": lambda: raw.Relu(features=floats()),
    "Sigmoid": lambda: raw.Sigmoid(x=50.0 * floats()),
    "Tanh": lambda: raw.Tanh(x=floats()),
    "Softplus": lambda: raw.Softplus(features=50.0 * floats()),
    "Softmax": lambda: raw.Softmax(logits=100.0 * floats()),
    **{op.__name__: lambda op=op: op(input=floats(), axis=[0, -1]) for op in (raw.Sum, raw.Mean, raw.Max, raw.Min)},
    "Sum-kept": lambda: raw.Sum(input=floats(), axis=1, keep_dims=True),
    "Mean-none": lambda: raw.Mean(input=floats(), axis=tf.constant([], tf.int32)),
    **{f"MatMul-{a}-{b}": lambda a=a, b=b: raw.MatMul(a=floats(*((4, 3), (3, 4))[not a]), b=floats(*((5, 4), (4, 5))[not b]), transpose_a=a, transpose_b=b) for a in (False, True) for b in (False, True)},
    **{f"BatchMatMulV2-{a}-{b}": lambda a=a, b=b: raw.BatchMatMulV2(x=floats(2, *((4, 3), (3, 4))[not a]), y=floats(*((5, 4), (4, 5))[not b]), adj_x=a, adj_y=b) for a in (False, True) for b in (False, True)},
    "Einsum": lambda: raw.Einsum(inputs=[floats(), floats(4, 5)], equation="abc,cd->bad"),
    "Einsum-rest": lambda: raw.Einsum(inputs=[floats(), floats(4, 5)], equation="...c,cd->...d"),
    "ReverseV2": lambda: raw.ReverseV2(tensor=floats(), axis=[0, -1]),
    "Select": lambda: raw.Select(condition=tf.constant([[True, False]] * 3), x=floats(3, 2), y=floats(3, 2)),
    "SelectV2": lambda: raw.SelectV2(condition=tf.constant([True, False, True, True]), t=floats(), e=floats(3, 1)),
    **{f"Cumsum-{e}-{r}": lambda e=e, r=r: raw.Cumsum(x=floats(), axis=-2, exclusive=e, reverse=r) for e in (False, True) for r in (False, True)},
    **{f"MatrixBandPart-{a}-{b}": lambda a=a, b=b: raw.MatrixBandPart(input=floats(2, 4, 6), num_lower=a, num_upper=b) for a, b in ((-1, 0), (0, -1), (1, 2), (0, 0), (-1, -1))},
}
# Nothing is said of these: TensorFlow has rules of its own for integers, or it is an error there.
UNKNOWN = {
    "Mean-integers": lambda: raw.Mean(input=ints(1, 2), axis=[0]),
    "GatherV2-batch": lambda: raw.GatherV2(params=floats(2, 3), indices=[[1], [0]], axis=1, batch_dims=1),
    "GatherV2-negative": lambda: raw.GatherV2(params=floats(), indices=tf.constant([0, -1]) * 1, axis=0),
    "Einsum-integers": lambda: raw.Einsum(inputs=[ints(1, 2), ints(3, 4)], equation="a,a->"),
    "Select-rows": lambda: raw.Select(condition=tf.constant([True, False]), x=floats(2, 2), y=floats(2, 2)),
    "Tile-large": lambda: raw.Tile(input=floats(), multiples=[4000, 4000, 4000]),
}
# fmt: on


def value_of(function):
    built = build(lambda: tf.identity(function(), name="out"))
    view = View.of(built.graph_def, built.outputs)
    tensor = view.graph.nodes["out"].inputs[0]
    assert view.constants.is_constant(tensor)
    return built, view.constants.value(tensor)


@pytest.mark.parametrize("name", OPS)
def test_what_tensorflow_computes(name):
    built, value = value_of(OPS[name])
    (expected,) = run(built.graph_def, ["out:0"], {})
    assert value.shape == expected.shape
    np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_is_not_known(name):
    assert value_of(UNKNOWN[name])[1] is None


def test_an_output_beyond_the_last_has_no_value():
    built, _ = value_of(OPS["Split"])
    view = View.of(built.graph_def, built.outputs)
    split = view.graph.nodes["out"].inputs[0].node
    assert view.constants.value(Tensor(split, 7)) is None


# Weights and parameters that are computed from constants.


def grouped(transposed=False):
    """A grouped convolution as ONNX's converters write it: the weights are split in the graph."""
    parts = tf.split(g.image(4, name="x"), 2, 3)
    weights = tf.split(g.const(2, 3, 2, 6), 2, 3)
    if transposed:
        weights = [tf.transpose(each, [1, 0, 2, 3]) for each in weights]
    return tf.concat([g.conv(x, weights=w) for x, w in zip(parts, weights, strict=True)], 3)


def weight_norm(x):
    """w = g * v / |v|."""
    return g.conv(x, weights=g.positive(4) * tf.nn.l2_normalize(g.const(2, 3, 3, 4), [0, 1, 2]))


def standardised(x):
    """Weights less their mean, over their deviation: convolutions beside group normalisation."""
    v = g.const(2, 3, 3, 4)
    mean, variance = tf.nn.moments(v, [0, 1, 2], keepdims=True)
    return g.conv(x, weights=(v - mean) * tf.math.rsqrt(variance + 1e-5))


def spectral(x):
    """w / sigma, of one step of power iteration."""
    v = g.const(18, 4)
    u = tf.nn.l2_normalize(tf.matmul(g.const(1, 4), v, transpose_b=True))
    sigma = tf.matmul(tf.matmul(u, v), tf.nn.l2_normalize(tf.matmul(u, v)), transpose_b=True)
    return g.conv(x, weights=tf.reshape(v / sigma, [2, 3, 3, 4]))


def fast_attention():
    """BiFPN: each branch is weighted by a number that is above zero, over their sum."""
    weight = tf.nn.relu(g.positive(2))
    weight = weight / (tf.reduce_sum(weight) + 1e-4)
    return weight[0] * g.conv(g.image()) + weight[1] * g.conv(g.image(name="y"))


def soft_attention():
    """The same by Softmax, over a new axis."""
    return tf.reduce_sum(tf.stack([g.conv(g.image()), g.conv(g.image(name="y"))], -1) * tf.nn.softmax(g.const(2)), -1)


TWO = "BiasAdd BiasAdd Conv2D Conv2D"


@parametrized([
    Row("split", lambda: g.affine(grouped()), f"{TWO} ConcatV2 Split"),
    Row("split-transposed", lambda: g.norm(grouped(transposed=True)), f"{TWO} ConcatV2 Split"),
    *[Row(op.__name__, lambda op=op: g.norm(op(g.image())), "BiasAdd Conv2D") for op in (weight_norm, standardised, spectral)],
    Row("fast-attention", fast_attention, "AddV2 Conv2D Conv2D"),
    Row("fast-attention-norm", lambda: g.norm(fast_attention()), "AddV2 BiasAdd Conv2D Conv2D"),
    Row("soft-attention", soft_attention, "Conv2D Conv2D Pack Sum"),
    Row("softplus-gamma", lambda: g.norm(g.conv(g.image()), gamma=tf.nn.softplus(g.const(4))), "BiasAdd Conv2D"),
    Row("parameters-of-several", lambda: g.norm(g.conv(g.image()), gamma=(p := tf.unstack(g.positive(2, 4)))[0], beta=p[1]), "BiasAdd Conv2D"),
    Row("float64", lambda: g.affine(g.conv(g.image(dtype=tf.float64), weights=tf.split(g.const(2, 3, 3, 8, dtype=tf.float64), 2, 3)[1])), "BiasAdd Conv2D"),
    Row("sliced", lambda: g.norm(g.conv(g.image()), mean=g.const(9)[2:6]), "BiasAdd Conv2D"),
])  # fmt: skip
def test_what_constants_compute_folds(row):
    check(row)


def test_weights_that_are_cut_from_smaller_ones_are_not_stored_larger():
    """Half the bytes, in the graph and in the file."""

    def graph():
        halves = tf.split(g.const(2, 3, 3, 8, dtype=tf.float16), 2, 3)
        return g.affine(g.conv(g.image(), weights=tf.cast(halves[1], tf.float32)))

    check_fold(graph, refused={"bn/add": Reason.WEIGHTS_COMPRESSED})
