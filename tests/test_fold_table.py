"""What the tests of TensorFlow's own tools and their relatives say about direct folds, one line each.

The numbers are those of the acceptance list: 1 to 11 `optimize_for_inference`, 12 to 30 graph_transforms and
contrib.quantize, 31 to 43 Grappler, 44 to 68 the TFLite converter, 69 to 80 Intel's neural-compressor, 81 to 86 tfjs.
Where a tool folds nothing and the fold is exact, ours is expected to fold.

No line for:
  9 (FusedPadConv2D and its like are made, no batch norm is folded), 10 and 11 (a placeholder becomes a constant),
  24 (a batch norm without a linear op becomes Mul and Add: that is asked of the writer of the .tflite),
  40 (constants of a chain meet each other; the chains are rows of 75 and of test_fold_forms.py),
  41 (as 24), 56 (test_museum_cases.py, since its weights are large), 65 (MatMul's rank), 70 (TensorFlow does not
  load such a graph: test_fold_forms.py), 72 and 77 (a Switch is decided before anything is folded),
  79's _FusedBatchNormEx and 80 (ops that only run time makes, and quantised ones).
"""

# One line each: a table is read by its columns.
# ruff: noqa: E501

from __future__ import annotations

import itertools

import graphs as g
import numpy as np
import tensorflow as tf
from rows import Row, check, parametrized

from tf_bnfold.reasons import Reason

raw = tf.raw_ops

CONV, DEPTHWISE, DENSE = "BiasAdd Conv2D", "BiasAdd DepthwiseConv2dNative", "BiasAdd MatMul"


def linear(op, layout="NHWC", **settings):
    x = g.image() if layout == "NHWC" else g.nchw()
    return {"conv": g.conv, "depthwise": g.depthwise}[op](x, layout=layout, **settings)


def fused(op, layout, version):
    return lambda: g.norm(linear(op, layout, padding="SAME"), layout=layout, version=version)


def decomposed(x, *, gamma=True, turned=False, reshape=None, rooted=tf.math.rsqrt):
    """(x * m) + (beta - mean * m) with m = gamma / sqrt(variance + epsilon), as Keras and TF1 write it."""
    channels = x.shape[-1]
    m = rooted(g.positive(channels) + g.numbers(1e-3))
    if gamma:
        m = m * g.signed(channels)
    offset = g.const(channels) - g.const(channels) * m
    if reshape:
        m, offset = tf.reshape(m, reshape), tf.reshape(offset, reshape)
    product = raw.Mul(x=m, y=x) if turned else raw.Mul(x=x, y=m)
    return raw.Add(x=offset, y=product, name="bn") if turned else raw.Add(x=product, y=offset, name="bn")


def mismatched():
    """One edge differs: the offset comes of another scale. It is an affine all the same."""
    x = g.conv(g.image(), padding="SAME")
    root = tf.math.rsqrt(g.positive(4) + g.numbers(1e-3))
    return x * root + (g.const(4) - g.const(4) * g.const(4))


def two_readers(op):
    x = op()
    return [raw.Mul(x=x, y=g.signed(x.shape[-1]), name="a"), raw.Mul(x=x, y=g.signed(x.shape[-1]), name="b")]


def joined(axis):
    x = g.image()
    return g.norm(tf.concat([g.conv(x, 4), g.conv(x, 4)], axis))


def atrous(form):
    x = raw.SpaceToBatchND(input=g.placeholder(2, 4, 4, 3), block_shape=[2, 2], paddings=[[2, 2], [2, 2]])
    return form(raw.BatchToSpaceND(input=g.conv(x), block_shape=[2, 2], crops=[[0, 0], [0, 0]]))


def quantize_blocks():
    """28: seven linear ops, two activations, with and without a bypass."""
    blocks = {
        "conv": (lambda: g.norm(g.conv(g.image(4), padding="SAME")), "Conv2D"),
        "unknown": (lambda: g.norm(g.conv(g.image(4, None), padding="SAME")), "Conv2D"),
        "no_scale": (lambda: g.norm(g.conv(g.image(4), padding="SAME"), gamma=g.numbers([1.0] * 4)), "Conv2D"),
        "dense": (lambda: decomposed(g.dense(g.rows(4), 4)), "MatMul"),
        "dense_no_scale": (lambda: decomposed(g.dense(g.rows(4), 4), gamma=False), "MatMul"),
        "depthwise": (lambda: g.norm(g.depthwise(g.image(4), padding="SAME")), "DepthwiseConv2dNative"),
        "depthwise_no_scale": (
            lambda: decomposed(g.depthwise(g.image(4), padding="SAME"), gamma=False),
            "DepthwiseConv2dNative",
        ),
    }
    for block, op in blocks.values():
        for activation, bypass in itertools.product((tf.nn.relu, tf.nn.relu6), (False, True)):
            name = "Relu6" if activation is tf.nn.relu6 else "Relu"

            def graph(block=block, activation=activation, bypass=bypass):
                y = block()
                return activation(tf.add(y, g.placeholder(*y.shape, name="skip")) if bypass else y)

            yield Row("28", graph, f"BiasAdd {op} {name}" + (" AddV2" if bypass else ""))


# fmt: off
OPTIMIZE_FOR_INFERENCE = [
    Row("1", lambda: g.tf1_graph(g.global_norm(linear("conv", padding="SAME"), scale_after=False)), CONV),
    *[
        Row(number, fused(op, layout, version), f"BiasAdd {name}")
        for number, version in (("2", 1), ("3", 3), ("81", 1), ("83", 3))
        for op, name in (("conv", "Conv2D"), ("depthwise", "DepthwiseConv2dNative"))
        for layout in ("NHWC", "NCHW")
    ],
    Row("4", lambda: decomposed(g.conv(g.image(), padding="SAME")), CONV),
    Row("5", lambda: decomposed(g.conv(g.image(), padding="SAME"), gamma=False), CONV),
    Row("6", lambda: decomposed(g.conv(g.image(), padding="SAME"), turned=True), CONV),
    Row("7", mismatched, CONV),
    Row("8", lambda: g.scale(g.conv(g.nchw(3, 4), 5, layout="NCHW")), "Conv2D Mul", {"scale": Reason.CHANNEL_AXIS}),
    Row("8", lambda: g.affine(g.conv(g.nchw(3, 4), 5, layout="NCHW"), 1), CONV),
]

GRAPH_TRANSFORMS = [
    Row("12", lambda: g.scale(g.conv(g.image(), 2)), "Conv2D"),
    Row("13", lambda: raw.Mul(x=g.dense(g.rows(), 2), y=g.signed(2)), "MatMul"),
    Row("14", lambda: two_readers(lambda: g.conv(g.image(), 2)), "Conv2D Mul Mul", {"a": Reason.SHARED, "b": Reason.SHARED}),
    Row("15", lambda: g.tf1_graph(g.global_norm(g.conv(g.image(), 2))), CONV),
    Row("16", lambda: g.norm(g.conv(g.image(), 2), version=1), CONV),
    Row("17", lambda: joined(3), "BiasAdd BiasAdd ConcatV2 Conv2D Conv2D"),
    Row("18", lambda: joined(2), "BiasAdd BiasAdd ConcatV2 Conv2D Conv2D"),
    Row("19", lambda: atrous(g.norm), "BiasAdd Conv2D"),
    Row("20", lambda: g.tf1_graph(g.global_norm(g.depthwise(g.image(), 2))), DEPTHWISE),
    Row("21", lambda: g.norm(g.depthwise(g.image(), 2), version=1), DEPTHWISE),
    Row("22", lambda: g.bias(g.scale(g.conv(g.image()))), CONV),
    Row("23", lambda: g.scale(g.bias(g.conv(g.image()))), CONV),
    Row("25", lambda: raw.Mul(x=g.bias(g.conv(g.image())), y=g.numbers([-1.0, 2.0, -3.0, 4.0])), CONV),
    Row("26", lambda: g.affine(g.conv(g.image())), CONV),
    *quantize_blocks(),
    Row("30", lambda: g.norm(g.conv(g.image(3, 7), dilation=(2, 1))), CONV),
]
# fmt: on


def constant(op, *shape, x=None, name="site"):
    """One op with one constant of a shape."""
    return lambda: getattr(raw, op)(x=(x or (lambda: g.conv(g.image(), 3)))(), y=g.const(*shape), name=name)


# fmt: off
GRAPPLER = [
    Row("31", constant("Mul"), "Conv2D"),
    *[Row("32", constant("Mul", *shape), "Conv2D") for shape in ((1,), (1, 1, 1, 1))],
    Row("33", constant("Mul", 1, 1, 1, 1, 1), "Conv2D Mul", {"site": Reason.ENLARGES}),
    Row("34", constant("Mul", 3, 1, 3, x=lambda: g.conv(g.image(3, 4), 3)), "Conv2D Mul"),
    *[Row("35", constant("Mul", *shape), "Conv2D") for shape in ((3,), (1, 3), (1, 1, 3), (1, 1, 1, 3))],
    *[
        Row("36", constant("Mul", *shape, x=lambda: g.conv(g.nchw(3, 4), 3, layout="NCHW")), "Conv2D Mul", {"site": Reason.CHANNEL_AXIS})
        for shape in ((3,), (1, 3), (1, 1, 1, 3))
    ],
    *[Row("36", constant("Mul", *shape, x=lambda: g.conv(g.nchw(3, 4), 3, layout="NCHW")), "Conv2D") for shape in ((3, 1, 1), (1, 3, 1, 1))],
    Row("37", constant("Mul", 3, 1, x=lambda: g.conv(g.image(3, 4), 5, (2, 3))), "Conv2D Mul", {"site": Reason.CHANNEL_AXIS}),
    Row("38", constant("Mul", 1, 1, 3, x=lambda: g.conv3d(g.volume(), 3)), "Conv3D"),
    Row("39", constant("Mul", 3, 1, 1, 1, x=lambda: g.conv3d(g.volume(layout="NCDHW"), 3, layout="NCDHW")), "Conv3D"),
    Row("42", lambda: tf.nn.relu(g.norm(g.conv(g.image()), training=True)), "Conv2D FusedBatchNormV3 Relu", {"bn": Reason.TRAINING_MODE}),
    Row("42", lambda: tf.nn.relu(g.norm(g.conv(g.image()))), f"{CONV} Relu"),
    Row("43", lambda: g.norm(g.conv(g.image(), padding="SAME")), CONV),
    *[
        Row("43", lambda activation=activation: activation(g.norm(g.conv(g.image()))), f"{CONV} {name}")
        for activation, name in ((tf.nn.relu, "Relu"), (tf.nn.relu6, "Relu6"), (tf.nn.elu, "Elu"), (tf.nn.leaky_relu, "LeakyRelu"), (tf.nn.tanh, "Tanh"))
    ],
]
# fmt: on


def image_of_two():
    return g.placeholder(None, 5, 2, 3)


def deconvolution(with_bias):
    x = g.transposed(g.placeholder(2, 3, 4, 5), 3, stride=2)
    return g.bias(x) if with_bias else x


def following(sink, form):
    return lambda: sink(form(g.image()))


def scalar(op, value=0.7):
    return lambda x: getattr(raw, op)(x=x, y=g.numbers(value), name="site")


def vector(op):
    return lambda x: getattr(raw, op)(x=x, y=g.const(x.shape[-1]), name="site")


def fake_quantised(weights):
    return raw.FakeQuantWithMinMaxVars(inputs=weights, min=-2.0, max=2.0)


def splat(op, *shape):
    return lambda x: getattr(raw, op)(x=x, y=g.numbers(np.full(shape, 1.7, np.float32)), name="site")


# fmt: off
TFLITE = [
    *[Row(number, constant("AddV2", *shape), "AddV2 Conv2D") for number, shape in (("44", (3,)), ("45", (1, 1, 3)), ("46", (1, 1, 1, 3)))],
    Row("47", constant("Sub", 3), CONV),
    *[
        Row("48", lambda op=op, with_bias=with_bias: vector(op)(deconvolution(with_bias)), left)
        for op, with_bias, left in (
            ("AddV2", True, "BiasAdd Conv2DBackpropInput"),
            ("AddV2", False, "AddV2 Conv2DBackpropInput"),
            ("Sub", True, "BiasAdd Conv2DBackpropInput"),
            ("Sub", False, "BiasAdd Conv2DBackpropInput"),
            ("Mul", True, "BiasAdd Conv2DBackpropInput"),
            ("Mul", False, "Conv2DBackpropInput"),
        )
    ],
    *[Row("49", following(g.conv, vector(op)), CONV) for op in ("AddV2", "Sub")],
    Row("50", following(lambda x: g.depthwise(x, 2, (2, 1), dilation=(2, 3)), vector("AddV2")), DEPTHWISE),
    *[Row("51", lambda op=op: vector(op)(g.bias(g.depthwise(g.image(), 2, (2, 1), dilation=(2, 3)))), DEPTHWISE) for op in ("AddV2", "Sub")],
    Row("52", constant("Sub", 2, 3, x=lambda: g.depthwise(image_of_two(), kernel=(2, 1))), "DepthwiseConv2dNative Sub"),
    Row("53", lambda: tf.nn.relu6(vector("Sub")(g.conv(g.image()))), f"{CONV} Relu6"),
    Row("53", lambda: tf.nn.relu6(vector("Sub")(g.depthwise(g.image()))), f"{DEPTHWISE} Relu6"),
    *[
        Row("54", lambda y=y: raw.Mul(x=g.conv(g.image(), weights=fake_quantised(g.const(2, 2, 3, 4))), y=g.const(*y), name="site"), "Conv2D Mul", {"site": Reason.FAKE_QUANT})
        for y in ((4,), (1, 1, 1, 4))
    ],
    *[Row("55", constant("Mul", *shape, x=lambda: g.dense(g.rows(), 2)), "MatMul") for shape in ((2,), (1, 2), (1, 1), ())],
    Row("55", constant("Mul", 2, x=lambda: g.bias(g.dense(g.rows(), 2))), DENSE),
    Row("57", lambda: two_readers(lambda: g.dense(g.rows(), 2)), "MatMul Mul Mul", {"a": Reason.SHARED, "b": Reason.SHARED}),
    *[Row("58", lambda op=op: g.bias(g.dense(vector(op)(g.rows()))), DENSE) for op in ("AddV2", "Mul")],
    Row("58", lambda: raw.MatMul(a=vector("Mul")(g.rows()), b=fake_quantised(g.const(4, 3))), "MatMul Mul", {"site": Reason.GRAPH_INPUT}),
    Row("59", lambda: raw.MatMul(a=vector("Mul")(g.rows()), b=g.placeholder(4, 3, name="w")), "MatMul Mul", {"site": Reason.GRAPH_INPUT}),
    *[Row("60", constant("Mul", *shape, x=lambda: g.depthwise(g.image())), "DepthwiseConv2dNative") for shape in ((3,), (1, 1, 1, 3))],
    Row("61", constant("Mul", 2, 3, x=lambda: g.depthwise(image_of_two(), kernel=(2, 1))), "DepthwiseConv2dNative Mul"),
    Row("62", constant("AddV2", 2, x=lambda: g.dense(g.rows(), 2)), "AddV2 MatMul"),
    *[Row("62", constant("AddV2", *shape, x=lambda: g.bias(g.dense(g.rows(), 2))), DENSE) for shape in ((2,), (1, 2), (), (1,))],
    Row("62", constant("AddV2", 1, 1, 2, x=lambda: g.dense(g.rows(), 2)), "AddV2 MatMul", {"site": Reason.ENLARGES}),
    *[
        Row("62", lambda x=x: raw.AddV2(x=x(g.dense(g.placeholder(4, 3), 4)), y=g.const(4, 4)), left)
        for x, left in ((g.bias, "AddV2 BiasAdd MatMul"), (tf.identity, "AddV2 MatMul"))
    ],
    Row("62", lambda: splat("AddV2", 4, 5)(g.dense(g.placeholder(4, 3))), "AddV2 MatMul"),
    *[Row("63", lambda shape=shape: raw.RealDiv(x=g.conv(g.image()), y=g.const(*shape)), "Conv2D") for shape in ((4,), (1, 1, 1, 4), ())],
    Row("63", lambda: raw.RealDiv(x=g.depthwise(g.image()), y=g.const(3)), "DepthwiseConv2dNative"),
    Row("64", lambda: scalar("Mul")(g.conv(g.image())), "Conv2D"),
    Row("64", lambda: splat("Mul", 1, 4, 4, 4)(g.conv(g.image())), "Conv2D"),
    Row("66", lambda: g.norm(g.conv(g.image())), CONV),
    Row("66", lambda: [(y := g.norm_outputs(g.conv(g.image())))[0], y[1]], "Conv2D FusedBatchNormV3", {"bn": Reason.STATISTICS_USED}),
    Row("67", lambda: g.norm(g.conv(g.image()), training=True), "Conv2D FusedBatchNormV3", {"bn": Reason.TRAINING_MODE}),
    *[Row("68", lambda flag=flag: g.tf1_graph(g.global_norm(g.conv(g.image()), scale_after=flag)), CONV) for flag in (True, False)],
]
# fmt: on


def pad(x):
    return tf.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]])


def shared_constants():
    x, weights, gamma, beta = g.image(4), g.const(1, 1, 4, 4), g.signed(4), g.const(4)
    for name in "abc":
        x = g.norm(g.conv(x, weights=weights, name=f"conv_{name}"), gamma=gamma, beta=beta, name=name)
    return x


def pad_of_two():
    x = pad(g.image())
    return [g.norm(g.conv(x), name="a"), g.norm(g.conv(x), name="b")]


def prelu(x):
    return tf.nn.relu(x) + g.const(x.shape[-1]) * -tf.nn.relu(-x)


# fmt: off
INTEL_AND_TFJS = [
    Row("69", lambda: g.norm(g.bias(g.conv(g.image(), padding="SAME"))), CONV),
    *[
        Row(number, lambda gamma=gamma, reshape=reshape: decomposed(g.conv(g.image(), padding="SAME"), gamma=gamma, reshape=reshape), CONV)
        for number, gamma in (("71", True), ("73", False))
        for reshape in (None, [1, 1, 1, 4], [1, 4])
    ],
    Row("74", lambda: tf.nn.relu(vector("Mul")(g.conv(pad(g.image())))), "Conv2D Pad Relu"),
    Row("75", lambda: g.bias(vector("Mul")(vector("RealDiv")(vector("Sub")(g.conv(g.image()))))), CONV),
    Row("76", shared_constants, "BiasAdd BiasAdd BiasAdd Conv2D Conv2D Conv2D"),
    Row("78", lambda: g.norm(g.conv(pad(g.image()))), f"{CONV} Pad"),
    Row("78", pad_of_two, "BiasAdd BiasAdd Conv2D Conv2D Pad"),
    Row("79", lambda: tf.nn.relu6(g.bias(g.depthwise(tf.nn.relu(g.norm(g.conv(g.image())))))), "BiasAdd BiasAdd Conv2D DepthwiseConv2dNative Relu Relu6"),
    Row("79", lambda: tf.nn.relu(g.norm(g.image(), training=True)), "FusedBatchNormV3 Relu", {"bn": Reason.TRAINING_MODE}),
    *[
        Row("79", lambda activation=activation: tf.nn.relu(g.norm(g.conv(activation(g.norm(g.conv(g.image()), name="a"))), name="b")), f"BiasAdd BiasAdd Conv2D Conv2D {name} Relu")
        for activation, name in ((tf.nn.leaky_relu, "LeakyRelu"), (tf.nn.relu, "Relu"))
    ],
    Row("82", lambda: g.norm(g.conv(g.image()), version=1), CONV),
    *[Row("84", lambda version=version: g.norm(g.bias(g.conv(g.image())), version=version), CONV) for version in (1, 2, 3)],
    Row("86", lambda: tf.nn.relu(vector("AddV2")(g.conv(g.image()))), "AddV2 Conv2D Relu"),
    Row("86", lambda: tf.nn.relu(vector("AddV2")(g.depthwise(g.image()))), "AddV2 DepthwiseConv2dNative Relu"),
    Row("86", lambda: tf.nn.relu(vector("AddV2")(g.dense(g.rows()))), "AddV2 MatMul Relu"),
    Row("86", lambda: prelu(g.norm(g.conv(g.image()))), f"{CONV} AddV2 Mul Neg Neg Relu Relu", {"mul": Reason.NEEDS_POSITIVE_SCALE}),
]
# fmt: on


@parametrized([*OPTIMIZE_FOR_INFERENCE, *GRAPH_TRANSFORMS, *GRAPPLER, *TFLITE, *INTEL_AND_TFJS])
def test_row(row):
    check(row)
