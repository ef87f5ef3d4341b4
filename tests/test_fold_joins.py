"""Joins send an affine to all producers, forks need all consumers, and ops that move channels carry it along."""

# One line each: a table is read by its columns.
# ruff: noqa: E501

from __future__ import annotations

import graphs as g
import numpy as np
import pytest
import tensorflow as tf
from checker import build, check_fold
from rows import Row, check, parametrized

from tf_bnfold.fold import fold_graph
from tf_bnfold.outcome import Status
from tf_bnfold.reasons import Reason

raw = tf.raw_ops

TWO = "BiasAdd BiasAdd Conv2D Conv2D"


def pair(channels=4, names=("a", "b")):
    """Two convolutions of one input."""
    x = g.image()
    return [g.conv(x, channels, name=name) for name in names]


def concat(axis, values, v1=False):
    if v1:
        return raw.Concat(concat_dim=axis, values=values)
    return raw.ConcatV2(values=values, axis=axis)


def plus(*values):
    return raw.AddV2(x=values[0], y=values[1])


def minus(*values):
    return raw.Sub(x=values[0], y=values[1])


def same(x):
    """An affine that is one for all channels, from vectors."""
    return raw.AddV2(x=raw.Mul(x=x, y=g.numbers([1.5] * x.shape[-1])), y=g.numbers([-0.5] * x.shape[-1]), name="site")


def positive_norm(x):
    return g.affine(x, above_zero=True)


# fmt: off
UP = [
    *[Row(f"concat-{axis}", lambda a=axis: g.affine(concat(a, pair())), f"{TWO} ConcatV2") for axis in (0, 1, 2, 3, -1, -2)],
    *[Row(f"concat-v1-{axis}", lambda a=axis: g.affine(concat(a, pair(), v1=True)), f"{TWO} Concat") for axis in (1, 3)],
    Row("concat-sizes", lambda: g.norm(concat(3, [g.conv(g.image(), 3), g.bias(g.depthwise(g.image(name="y"), 2)), g.conv(g.image(name="z"), 1)])), "BiasAdd BiasAdd BiasAdd ConcatV2 Conv2D Conv2D DepthwiseConv2dNative"),
    Row("concat-nested", lambda: g.norm(concat(3, [concat(3, pair()), concat(1, [g.conv(g.image(name="y"), 4, (2, 3))[:, :2], g.conv(g.image(name="z"), 4)[:, :2]])])), "BiasAdd BiasAdd BiasAdd BiasAdd ConcatV2 ConcatV2 ConcatV2 Conv2D Conv2D Conv2D Conv2D StridedSlice StridedSlice"),
    Row("concat-constant", lambda: g.norm(concat(3, [g.conv(g.placeholder(2, 5, 6, 3)), g.const(2, 4, 4, 2)])), "BiasAdd ConcatV2 Conv2D"),
    Row("concat-pool", lambda: g.affine(concat(3, [g.conv(g.image()), tf.nn.avg_pool2d(g.conv(g.image(name="y")), 2, 1, "SAME")])), f"{TWO} AvgPool ConcatV2"),
    Row("concat-nchw", lambda: g.norm(concat(1, [g.conv(g.nchw(), 2, layout="NCHW"), g.conv(g.nchw(name="y"), 3, layout="NCHW")]), layout="NCHW"), f"{TWO} ConcatV2"),
    *[Row(f"{op.__name__}", lambda op=op: g.affine(op(*pair())), f"BiasAdd Conv2D Conv2D {left}") for op, left in ((plus, "AddV2"), (minus, "Sub"))],
    Row("add-v1", lambda: g.affine(raw.Add(x=(p := pair())[0], y=p[1])), "Add BiasAdd Conv2D Conv2D"),
    Row("addn", lambda: g.affine(raw.AddN(inputs=pair(names="abc"))), "AddN BiasAdd Conv2D Conv2D Conv2D"),
    Row("sub-takes-the-offset-right", lambda: g.affine(minus(g.conv(g.image()), g.bias(g.conv(g.image(name="y"))))), f"BiasAdd {TWO} Sub".replace("BiasAdd BiasAdd BiasAdd", "BiasAdd BiasAdd")),
    Row("add-chain", lambda: g.affine(plus(plus(*pair()), plus(*pair(names="cd")))), "AddV2 AddV2 AddV2 BiasAdd Conv2D Conv2D Conv2D Conv2D"),
    # The pool takes no other offset than zero, the second branch does.
    Row("offset-to-the-other-branch", lambda: positive_norm(plus(tf.nn.relu(g.conv(g.image())), g.conv(g.image(name="y")))), "AddV2 BiasAdd Conv2D Conv2D Relu"),
    Row("offset-to-the-first-branch", lambda: positive_norm(plus(g.conv(g.image()), tf.nn.relu(g.conv(g.image(name="y"))))), "AddV2 BiasAdd Conv2D Conv2D Relu"),
    Row("offset-right-of-a-sub", lambda: positive_norm(minus(tf.nn.relu(g.conv(g.image())), g.conv(g.image(name="y")))), "BiasAdd Conv2D Conv2D Relu Sub"),
    Row("offset-nowhere", lambda: positive_norm(plus(tf.nn.relu(g.conv(g.image())), tf.abs(g.conv(g.image(name="y"))))), "Abs AddV2 AddV2 Conv2D Conv2D Relu", {"bn/add": Reason.NEEDS_ZERO_OFFSET}),
    Row("broadcast-branch", lambda: g.affine(plus(g.conv(g.image()), tf.reduce_mean(g.conv(g.image(name="y")), [1, 2], keepdims=True))), "AddV2 BiasAdd Conv2D Conv2D Mean"),
    Row("broadcast-vector", lambda: g.affine(plus(g.conv(g.placeholder(1, 5, 6, 3)), tf.reshape(g.dense(g.placeholder(1, 3, name="y"), 4), [4]))), "AddV2 BiasAdd Conv2D MatMul Reshape"),
    Row("one-channel-branch", lambda: g.scale(plus(g.conv(g.image()), g.conv(g.image(name="y"), 1))), "AddV2 Conv2D Conv2D Mul", {"scale": Reason.CHANNELS_DIFFER}),
    Row("one-channel-branch-uniform", lambda: same(plus(g.conv(g.image()), g.conv(g.image(name="y"), 1))), "AddV2 BiasAdd Conv2D Conv2D"),
    Row("positions", lambda: g.affine(tf.reshape(g.conv(g.image()), [-1, 16, 4]) + g.const(1, 16, 4)), "AddV2 Conv2D Reshape"),
    Row("positions-first", lambda: g.affine(g.const(16, 4) + tf.reshape(g.conv(g.image()), [-1, 16, 4])), "AddV2 Conv2D Reshape"),
    *[Row(f"pack-{axis}", lambda a=axis: g.affine(raw.Pack(values=pair(), axis=a)), f"{TWO} Pack") for axis in (0, 1, 2, 3, -2)],
    *[Row(f"pack-own-{axis}", lambda a=axis: g.affine(raw.Pack(values=pair(), axis=a), a), f"{TWO} Pack") for axis in (4, 1)],
    Row("maximum", lambda: positive_norm(raw.Maximum(x=(p := pair())[0], y=p[1])), f"{TWO} Maximum"),
    Row("minimum", lambda: positive_norm(raw.Minimum(x=(p := pair())[0], y=p[1])), f"{TWO} Minimum"),
    Row("maximum-negative", lambda: g.affine(raw.Maximum(x=(p := pair())[0], y=p[1])), f"{TWO} Maximum Mul", {"bn/add": Reason.NEEDS_POSITIVE_SCALE}),
    Row("maximum-of-zero", lambda: g.scale(tf.maximum(g.conv(g.image()), 0.0), above_zero=True), "Conv2D Maximum"),
    Row("select-v1", lambda: g.affine(raw.Select(x=(p := pair())[0], y=p[1], condition=raw.Placeholder(dtype=tf.bool, shape=p[0].shape))), f"{TWO} Select"),
    Row("select", lambda: g.affine(raw.SelectV2(condition=raw.Placeholder(dtype=tf.bool, shape=[]), t=(p := pair())[0], e=p[1])), f"{TWO} SelectV2"),
    Row("identity-n", lambda: g.affine(plus(*raw.IdentityN(input=pair()))), "AddV2 BiasAdd Conv2D Conv2D"),
    Row("identity-n-constant", lambda: g.affine(plus(*raw.IdentityN(input=[g.const(1, 4, 4, 4), g.conv(g.image())]))), "AddV2 Conv2D"),
    Row("gate", lambda: g.scale(g.conv(g.image()) * tf.sigmoid(g.conv(g.image(name="y")))), "Conv2D Conv2D Mul Sigmoid"),
    Row("gate-right", lambda: g.scale(tf.sigmoid(g.conv(g.image())) * g.conv(g.image(name="y"))), "Conv2D Conv2D Mul Sigmoid"),
    Row("gate-offset", lambda: g.affine(g.conv(g.image()) * tf.sigmoid(g.conv(g.image(name="y")))), "AddV2 Conv2D Conv2D Mul Sigmoid", {"bn/add": Reason.NEEDS_ZERO_OFFSET}),
    Row("quotient", lambda: g.scale(g.conv(g.image()) / tf.exp(tf.tanh(g.conv(g.image(name="y"))))), "Conv2D Conv2D Exp RealDiv Tanh"),
    Row("divisor", lambda: g.scale(tf.tanh(g.conv(g.image())) / tf.exp(tf.tanh(g.conv(g.image(name="y"))))), "Conv2D Conv2D Exp Mul RealDiv Tanh Tanh", {"scale": Reason.NO_LAW}),
    Row("embedding", lambda: g.affine(raw.GatherV2(params=g.const(7, 3), indices=g.placeholder(None, 5, dtype=tf.int32), axis=0)), "GatherV2"),
    Row("embedding-stored-small", lambda: g.affine(raw.GatherV2(params=tf.cast(g.const(7, 3, dtype=tf.float16), tf.float32), indices=g.placeholder(None, 5, dtype=tf.int32), axis=0)), "AddV2 GatherV2 Mul", {"bn/add": Reason.WEIGHTS_COMPRESSED}),
    # One value that a join reads twice, and one sink that a join reaches twice.
    Row("shuffle", lambda: g.affine(concat(3, tf.split(g.bias(g.conv(g.image())), 2, 3)[::-1])), "BiasAdd ConcatV2 Conv2D Split"),
    Row("shuffle-positions", lambda: g.affine(concat(3, tf.split(g.conv(g.image()) + g.const(1, 4, 4, 4), 2, 3)[::-1])), "AddV2 ConcatV2 Conv2D Split"),
    Row("shuffle-bare", lambda: g.affine(concat(3, tf.split(g.conv(g.image()), 2, 3)[::-1])), "BiasAdd ConcatV2 Conv2D Split"),
    Row("shuffle-relu", lambda: g.scale(concat(3, tf.split(tf.nn.relu(g.bias(g.conv(g.image()))), 4, 3)[::-1]), above_zero=True), "BiasAdd ConcatV2 Conv2D Relu Split"),
    Row("unstack-stack", lambda: g.affine(tf.stack(tf.unstack(g.conv(g.image(), 3), axis=3)[::-1], 3)), "BiasAdd Conv2D Pack Unpack"),
]
# fmt: on


@parametrized(UP)
def test_up(row):
    check(row)


def split_two(axis=3, forms=(g.affine, g.norm), left=2):
    x = g.conv(g.image(3, 5), 6, (2, 1))
    return [form(part) for form, part in zip(forms, tf.split(x, 2, axis), strict=True)]


def with_other(form, other):
    """One part of a split has a batch norm, the other one is read as it is."""
    a, b = tf.split(g.conv(g.image(), 6), 2, 3)
    return [form(a), other(b)]


# fmt: off
MOVES = [
    Row("split", split_two, "BiasAdd Conv2D Split"),
    Row("split-one", lambda: with_other(g.affine, tf.nn.relu), "BiasAdd Conv2D Relu Split"),
    Row("split-v", lambda: [g.norm(a) for a in raw.SplitV(value=g.conv(g.image(), 6), size_splits=[1, -1, 2], axis=3, num_split=3)], "BiasAdd Conv2D SplitV"),
    Row("split-v-one", lambda: [g.affine((p := raw.SplitV(value=g.conv(g.image(), 6), size_splits=[2, 4], axis=-1, num_split=2))[1]), tf.nn.relu(p[0])], "BiasAdd Conv2D Relu SplitV"),
    Row("split-space", lambda: split_two(2), "AddV2 Conv2D FusedBatchNormV3 Mul Split", {"bn/add": Reason.CHANNELS_DIFFER, "bn": Reason.CHANNELS_DIFFER}),
    Row("split-space-one-read", lambda: g.affine(tf.split(g.conv(g.image(3, 5), 6, (2, 1)), 2, 1)[0]), "BiasAdd Conv2D Split"),
    Row("split-uniform-one", lambda: with_other(same, tf.nn.relu), "BiasAdd Conv2D Relu Split"),
    Row("split-fetched", lambda: (p := tf.split(g.conv(g.image(), 6), 2, 3)) and [g.affine(p[0]), tf.identity(p[1], name="out")], "BiasAdd Conv2D Split"),
    Row("unpack", lambda: [raw.Mul(x=a, y=g.numbers(np.full((4, 4), i + 2.0))) for i, a in enumerate(tf.unstack(g.conv(g.image(), 3), axis=3))], "Conv2D Unpack"),
    Row("unpack-axis", lambda: g.affine(tf.unstack(g.conv(g.image(3, 5), 3, (3, 3)), axis=1)[1]), "BiasAdd Conv2D Unpack"),
    Row("slice-channels", lambda: g.affine(raw.Slice(input=g.conv(g.image(), 6), begin=[0, 0, 0, 2], size=[-1, -1, -1, 3])), "BiasAdd Conv2D Slice"),
    Row("strided-channels", lambda: g.affine(g.conv(g.image(), 6)[..., 1::2]), "BiasAdd Conv2D StridedSlice"),
    Row("strided-backwards", lambda: g.affine(g.conv(g.image(), 6)[:, 1:, :, 5:1:-2]), "BiasAdd Conv2D StridedSlice"),
    Row("strided-shrink", lambda: g.affine(g.conv(g.image(), 6)[:, -1, ..., :4]), "BiasAdd Conv2D StridedSlice"),
    Row("strided-new-axis", lambda: g.affine(g.conv(g.image(), 6)[:, tf.newaxis, ..., 2:]), "BiasAdd Conv2D StridedSlice"),
    Row("gather-channels", lambda: g.affine(tf.gather(g.conv(g.image(), 4), [3, 1, 0], axis=3)), "BiasAdd Conv2D GatherV2"),
    Row("gather-twice", lambda: g.affine(tf.gather(g.conv(g.image(), 4), [3, 3, 0], axis=3)), "AddV2 Conv2D GatherV2 Mul", {"bn/add": Reason.CHANNELS_DIFFER}),
    Row("gather-twice-alike", lambda: raw.Mul(x=tf.gather(g.conv(g.image(), 4), [3, 3, 0], axis=3), y=g.numbers([2.0, 2.0, -1.0])), "Conv2D GatherV2"),
    Row("tile-channels", lambda: raw.Mul(x=tf.tile(g.conv(g.image(), 2), [1, 1, 1, 2]), y=g.numbers([2.0, -1.0, 2.0, -1.0])), "Conv2D Tile"),
    Row("tile-channels-differ", lambda: g.scale(tf.tile(g.conv(g.image(), 2), [1, 1, 1, 2])), "Conv2D Mul Tile", {"scale": Reason.CHANNELS_DIFFER}),
    Row("reverse-channels", lambda: g.affine(tf.reverse(g.conv(g.image()), [-1, 1])), "BiasAdd Conv2D ReverseV2"),
    Row("transpose", lambda: g.affine(tf.transpose(g.conv(g.image()), [0, 3, 1, 2]), 1), "BiasAdd Conv2D Transpose"),
    Row("flatten", lambda: raw.Mul(x=tf.reshape(g.conv(g.image()), [-1, 64]), y=g.numbers(np.tile([1.0, -2.0, 3.0, 4.0], 16))), "Conv2D Reshape"),
    Row("flatten-differs", lambda: g.scale(tf.reshape(g.conv(g.image()), [-1, 64])), "Conv2D Mul Reshape", {"scale": Reason.CHANNELS_DIFFER}),
    Row("unflatten", lambda: g.norm(tf.reshape(g.dense(g.rows(), 24), [-1, 2, 3, 4])), "BiasAdd MatMul Reshape"),
    Row("unflatten-nchw", lambda: g.norm(tf.reshape(g.dense(g.rows(), 24), [-1, 4, 2, 3]), layout="NCHW"), "BiasAdd MatMul Reshape"),
    Row("dense-form", lambda: tf.reshape(g.norm(tf.reshape(g.dense(g.rows(), 6), [-1, 1, 1, 6])), [-1, 6]), "BiasAdd MatMul Reshape Reshape"),
    Row("heads", lambda: g.affine(tf.transpose(tf.reshape(g.dense(g.rows(), 6), [-1, 2, 3]), [1, 0, 2])), "BiasAdd MatMul Reshape Transpose"),
    Row("heads-own", lambda: g.affine(tf.transpose(tf.reshape(g.dense(g.rows(), 6), [-1, 2, 3]), [1, 0, 2]), 0), "BiasAdd MatMul Reshape Transpose"),
    Row("mean-flat", lambda: g.affine(tf.reduce_mean(g.conv(g.image()), [1, 2])), "BiasAdd Conv2D Mean"),
    Row("mean-of-channels", lambda: same(tf.reduce_mean(g.conv(g.image()), [3])), "BiasAdd Conv2D Mean"),
    Row("mean-of-channels-differ", lambda: g.affine(tf.reduce_mean(g.conv(g.image()), [2, 3], keepdims=True), 1), "AddV2 Conv2D Mean Mul", {"bn/add": Reason.CHANNEL_AXIS}),
    Row("batch-to-space", lambda: g.affine(raw.BatchToSpaceND(input=g.conv(g.placeholder(4, 5, 6, 3)), block_shape=[2, 2], crops=[[0, 1], [1, 0]])), "BatchToSpaceND BiasAdd Conv2D"),
    Row("resized", lambda: g.norm(tf.compat.v1.image.resize_bilinear(g.conv(g.image()), [7, 9])), "BiasAdd Conv2D ResizeBilinear"),
    Row("cast", lambda: g.affine(tf.cast(g.conv(g.image(dtype=tf.bfloat16)), tf.float32)), "BiasAdd Cast Conv2D", rtol=1e-2),
    Row("uniform-anywhere", lambda: same(tf.reshape(tf.transpose(g.conv(g.image()), [0, 2, 3, 1]), [-1, 8, 8])), "BiasAdd Conv2D Reshape Transpose"),
]
# fmt: on


@parametrized(MOVES)
def test_moves(row):
    check(row)


def fork(*readers):
    y = g.affine(g.placeholder(2, 5, 6, 4))
    return [reader(y) for reader in readers]


def flat_dense(x):
    return g.dense(tf.reshape(x, [-1, x.shape[1] * x.shape[2] * x.shape[3]]))


STAYS = {"bn/add": Reason.GRAPH_INPUT}

# fmt: off
DOWN = [
    Row("two", lambda: fork(lambda y: g.conv(y, 3), lambda y: g.depthwise(y)), "BiasAdd BiasAdd Conv2D DepthwiseConv2dNative"),
    Row("three", lambda: fork(lambda y: g.conv(y, 3), flat_dense, lambda y: g.dense(tf.reduce_mean(y, [1, 2]))), "BiasAdd BiasAdd BiasAdd Conv2D MatMul MatMul Mean Reshape"),
    Row("one-refuses", lambda: fork(lambda y: g.conv(y, 3), tf.tanh), "AddV2 Conv2D Mul Tanh", STAYS),
    Row("one-is-fetched", lambda: fork(lambda y: g.conv(y, 3), lambda y: tf.identity(y)), "AddV2 Conv2D Mul", STAYS),
    Row("one-refuses-the-offset", lambda: fork(lambda y: g.conv(y, 3), lambda y: g.conv(y, 3, padding="SAME")), "AddV2 Conv2D Conv2D", STAYS),
    Row("shape-is-no-reader", lambda: [g.conv(y := g.affine(g.image(4)), 3), tf.cast(tf.shape(y), tf.float32)], "BiasAdd Cast Conv2D"),
    Row("flatten", lambda: flat_dense(g.affine(g.image(4))), "BiasAdd MatMul Reshape"),
    Row("flatten-nchw", lambda: flat_dense(g.affine(g.nchw(4), 1)), "BiasAdd MatMul Reshape"),
    Row("transpose-flatten", lambda: flat_dense(tf.transpose(g.affine(g.image(4)), [0, 3, 1, 2])), "BiasAdd MatMul Reshape Transpose"),
    Row("concat-others-stay", lambda: g.conv(concat(3, [g.affine(g.image(4)), tf.tanh(g.image(2, name="y"))]), 3), "BiasAdd ConcatV2 Conv2D Tanh"),
    Row("concat-middle", lambda: g.conv(concat(3, [g.image(1, name="y"), g.affine(g.image(4)), g.image(2, name="z")]), 3), "BiasAdd ConcatV2 Conv2D"),
    Row("concat-both", lambda: g.conv(concat(3, [g.affine(g.image(4)), g.norm(g.image(2, name="y"))]), 3), "BiasAdd ConcatV2 Conv2D"),
    Row("concat-space", lambda: g.conv(concat(1, [g.affine(g.image(4)), g.image(4, name="y")]), 3), "AddV2 ConcatV2 Conv2D Mul", STAYS),
    Row("concat-of-one-value", lambda: (y := g.affine(g.image(4))) is not None and g.conv(concat(3, [y, y]), 3), "BiasAdd ConcatV2 Conv2D"),
    Row("concat-of-one-value-space", lambda: (y := g.affine(g.image(4))) is not None and g.conv(concat(1, [y, y]), 3), "BiasAdd ConcatV2 Conv2D"),
    Row("pack", lambda: g.conv3d(raw.Pack(values=[g.affine(g.placeholder(2, 3, 3, 4))] * 2, axis=1), 3), "BiasAdd Conv3D Pack"),
    Row("add-offset", lambda: g.conv(plus(g.offset(g.image(4)), tf.tanh(g.image(4, name="y"))), 3), "AddV2 BiasAdd Conv2D Tanh"),
    Row("sub-offset", lambda: g.conv(minus(tf.tanh(g.image(4, name="y")), g.offset(g.image(4))), 3), "BiasAdd Conv2D Sub Tanh"),
    Row("add-scale", lambda: g.conv(plus(g.scale(g.image(4)), tf.tanh(g.image(4, name="y"))), 3), "AddV2 Conv2D Mul Tanh", {"scale": Reason.GRAPH_INPUT}),
    Row("add-itself", lambda: (y := g.affine(g.image(4))) is not None and g.conv(plus(y, y), 3), "AddV2 BiasAdd Conv2D"),
    Row("sub-itself", lambda: (y := g.affine(g.image(4))) is not None and g.conv(minus(y, y), 3), "Conv2D Sub"),
    Row("times-itself", lambda: (y := g.scale(g.image(4))) is not None and g.conv(y * y, 3), "Conv2D Mul"),
    Row("times-its-activation", lambda: (y := g.scale(g.image(4))) is not None and g.conv(y * tf.sigmoid(y), 3), "Conv2D Mul Mul Sigmoid", {"scale": Reason.GRAPH_INPUT}),
    Row("divisor", lambda: g.conv(g.image(4, name="y") / g.scale(tf.exp(g.image(4)), above_zero=True), 3), "Conv2D Exp Mul RealDiv", {"scale": Reason.NO_LAW}),
    Row("weights", lambda: raw.MatMul(a=g.rows(4), b=g.scale(g.placeholder(4, 3, name="w"), 0)), "MatMul Mul", {"scale": Reason.GRAPH_INPUT}),
    Row("addn-both", lambda: (y := g.offset(g.image(4))) is not None and g.conv(raw.AddN(inputs=[y, tf.tanh(g.image(4, name="y")), y]), 3), "AddN BiasAdd Conv2D Tanh"),
    Row("split", lambda: [g.conv(a, 3) for a in tf.split(g.affine(g.image(4)), 2, 3)], "BiasAdd BiasAdd Conv2D Conv2D Split"),
    Row("split-one-refuses", lambda: [(p := tf.split(g.affine(g.image(4)), 2, 3)) and g.conv(p[0], 3), tf.tanh(p[1])], "AddV2 Conv2D Mul Split Tanh", STAYS),
    Row("unstack", lambda: [g.dense(a) for a in tf.unstack(g.affine(g.placeholder(None, 3, 4)), axis=1)], "BiasAdd BiasAdd BiasAdd MatMul MatMul MatMul Unpack"),
    Row("unstack-own", lambda: [g.dense(a) for a in tf.unstack(g.affine(g.placeholder(None, 3, 4), 1), axis=1)], "BiasAdd BiasAdd BiasAdd MatMul MatMul MatMul Unpack"),
    Row("slice", lambda: g.conv(g.affine(g.image(4))[..., 1:], 3), "BiasAdd Conv2D StridedSlice"),
    Row("gather", lambda: g.conv(tf.gather(g.affine(g.image(4)), [3, 0, 0], axis=3), 3), "BiasAdd Conv2D GatherV2"),
    Row("tile", lambda: g.conv(tf.tile(g.affine(g.image(4)), [1, 1, 1, 2]), 3), "BiasAdd Conv2D Tile"),
    Row("reverse", lambda: g.conv(tf.reverse(g.affine(g.image(4)), [3]), 3), "BiasAdd Conv2D ReverseV2"),
    Row("no-reader", lambda: [g.image(), g.affine(g.image(name="y"))][:1], "AddV2 Mul", {"bn/add": Reason.GRAPH_INPUT}),
    Row("into-another", lambda: g.norm(tf.nn.max_pool2d(g.norm(g.image(4), gamma=g.positive(4), name="a"), 2, 2, "VALID"), name="b"), "FusedBatchNormV3 MaxPool", {"b": Reason.NEEDS_POSITIVE_SCALE}),
]
# fmt: on


@parametrized(DOWN)
def test_down(row):
    check(row)


def test_what_a_constant_branch_costs():
    """A constant of one number may grow to one number a channel, but not to a whole image."""

    def graph(constant):
        return lambda: g.affine(plus(g.conv(g.placeholder(2, 5, 6, 3)), constant()))

    check_fold(graph(lambda: g.const(1, 4, 4, 4)), expect=["AddV2", "Conv2D"], statuses=[Status.UP])
    check_fold(graph(lambda: g.const(4, 4, 1)), refused={"bn/add": Reason.CONSTANT_GROWS})


def test_batch_affine():
    """A constant along the batch is no channel of any sink."""
    check_fold(
        lambda: raw.Mul(x=g.conv(g.placeholder(3, 5, 6, 3)), y=g.const(3, 1, 1, 1), name="site"),
        refused={"site": Reason.CHANNEL_AXIS},
    )


@pytest.mark.parametrize("form", [g.norm, g.affine])
def test_a_branch_that_nobody_reads(form):
    """What no output needs is folded or left, but it does no harm."""

    def graph(function):
        def written():
            x = g.image()
            function(x)
            return tf.tanh(x)

        return written

    check_fold(graph(lambda x: form(g.conv(x))))
    check_fold(graph(lambda x: g.conv(form(x))))
    check_fold(graph(lambda x: form(tf.nn.relu(g.conv(form(g.conv(x)))))))


def test_an_index_out_of_range():
    """TensorFlow takes such a graph and fails when it runs; the fold leaves it alone."""
    built = build(lambda: g.affine(raw.GatherV2(params=g.conv(g.image()), indices=[3, 4, 0], axis=3)))
    folding = fold_graph(built.graph_def, built.outputs)
    assert [outcome.status for outcome in folding.outcomes] == [Status.KEPT]


def test_merging_behind_a_join_does_not_lengthen_the_other_branch():
    """An offset that goes down through a Sub would make a Mul a Mul and an Add, for the other branch, too."""

    def graph():
        x = g.placeholder(2, 5, 6, 4)
        long = raw.Mul(x=raw.AddN(inputs=[x, tf.tanh(x)]), y=g.const(5, 1, 1))
        return raw.Mul(x=raw.Sub(x=g.offset(tf.abs(x)), y=long), y=g.signed(4))

    check_fold(graph)
