"""What the tests of Keras, PyTorch and ONNX tools say about direct folds, one line each; see test_fold_table.py.

The numbers are those of the acceptance list: 87 to 92 BaN-OFF, 93 to 104 Sony's MCT, 105 to 141 AIMET, 142 to 149
coremltools, 150 to 181 ONNX tools, ncnn, ONE, TVM and others. Where a tool refuses and the fold is exact (before a VALID
convolution, into a transposed one of one tap), ours is expected to fold; where it folds inexactly, to refuse.

No line for:
  92 and 129 (whole networks, in the slow tests), 103 (two linear ops become one), 109 to 114, 119, 123, 124, 126, 138
  and 140 (they find layers of a framework, or convert a batch norm that stays), 157 (TensorFlow does not load such a
  graph), 149, 162 and 166 (a Pad goes into a convolution), 175 (dynamic statistics are in test_museum_cases.py),
  179 (binary layers).
"""

# One line each: a table is read by its columns.
# ruff: noqa: E501

from __future__ import annotations

import itertools

import graphs as g
import tensorflow as tf
from rows import Row, check, parametrized

from tf_bnfold.reasons import Reason

raw = tf.raw_ops

CONV, DEPTHWISE, DENSE = "BiasAdd Conv2D", "BiasAdd DepthwiseConv2dNative", "BiasAdd MatMul"
DECONV = "BiasAdd Conv2DBackpropInput"
STAYS_BEFORE = {"bn": Reason.GRAPH_INPUT}


def conv1d(x, out=4, padding="VALID"):
    """As it is exported: expand, convolve, squeeze."""
    y = raw.ExpandDims(input=x, axis=-3)
    y = g.conv(y, out, (1, 3), padding=padding)
    return raw.Squeeze(input=y, axis=[-3])


def sequence(channels=3):
    return g.placeholder(None, 7, channels)


def batch(channels=3):
    """An image for a transposed convolution, whose batch size is known."""
    return g.placeholder(2, 3, 4, channels)


def flat(x):
    return tf.reshape(
        x, [-1, x.shape[1] * x.shape[2] * x.shape[3]] if x.shape.rank == 4 else [-1, x.shape[1] * x.shape[2]]
    )


def maxpool(x):
    return raw.MaxPool(input=x, ksize=[1, 2, 2, 1], strides=[1, 2, 2, 1], padding="VALID")


def with_bias(x, flag, layout="NHWC"):
    return g.bias(x, layout) if flag else x


def two_dense():
    x = g.placeholder(None, 5, 3)
    weights = [g.const(1, 3, 4), g.const(1, 3, 4)]
    return conv1d(g.affine(tf.add(*[raw.BatchMatMulV2(x=x, y=w) for w in weights])))


def three_readers():
    y = g.norm(g.conv(g.image()))
    return [tf.nn.relu(y), tf.concat([y, g.image(2, 4, name="z")[:, :, :4]], -1), tf.tanh(y)]


# fmt: off
BAN = [
    Row("87", lambda: g.norm(g.conv(g.image())), CONV),
    Row("87", lambda: g.affine(g.dense(g.rows())), DENSE),
    Row("87", lambda: g.norm(g.depthwise(g.image())), DEPTHWISE),
    Row("87", lambda: g.norm(g.norm(g.conv(g.image()), name="a")), CONV),
    Row("87", lambda: g.conv(g.norm(g.image())), CONV),
    Row("87", lambda: g.dense(g.affine(g.rows())), DENSE),
    Row("87", lambda: g.depthwise(g.norm(g.image())), DEPTHWISE),
    Row("87", lambda: g.norm(g.norm(g.image(), name="a")), "FusedBatchNormV3", STAYS_BEFORE),
    Row("88", lambda: tf.nn.relu(g.affine(g.bias(g.dense(g.rows())))), f"{DENSE} Relu"),
    Row("89", lambda: flat(g.norm(maxpool(g.conv(g.image())), gamma=g.positive(4))), f"{CONV} MaxPool Reshape"),
    Row("89", lambda: flat(g.norm(g.conv(g.image()))), f"{CONV} Reshape"),
    Row("90", lambda: flat(g.affine(conv1d(sequence()))), f"{CONV} ExpandDims Reshape Squeeze"),
    Row("91", two_dense, "AddV2 BatchMatMulV2 BatchMatMulV2 BiasAdd Conv2D ExpandDims Squeeze"),
]
# fmt: on


def residual():
    x = g.conv(g.image())
    return tf.add(tf.nn.relu(g.norm(x)), x)


def forward_cases():
    """99 and 100: a batch norm, or a 1x1 depthwise one, before a convolution of one tap or more."""
    for before in (lambda x: g.norm(x), lambda x: g.affine(x, name="bn")):
        yield Row("99", lambda before=before: g.conv(before(g.image()), 2, 1, padding="SAME"), CONV)
        yield Row("99", lambda before=before: g.depthwise(before(g.image()), 1, (1, 1), padding="SAME"), DEPTHWISE)
        yield Row("99", lambda before=before: g.transposed(before(batch()), 2, (1, 1)), DECONV)
        yield Row("100", lambda before=before: g.conv(before(g.image()), 2, 2), CONV)
        yield Row("100", lambda before=before: g.depthwise(before(g.image()), 1, (3, 3)), DEPTHWISE)
    name = "bn/add"
    for padding in ("SAME",):
        yield Row(
            "100",
            lambda p=padding: g.conv(g.affine(g.image()), 2, 2, padding=p),
            "AddV2 Conv2D",
            {name: Reason.GRAPH_INPUT},
        )
        yield Row(
            "100",
            lambda p=padding: g.depthwise(g.affine(g.image()), 1, (3, 3), padding=p),
            "AddV2 DepthwiseConv2dNative",
            {name: Reason.GRAPH_INPUT},
        )
    yield Row(
        "100",
        lambda: g.transposed(g.affine(batch()), 2, (1, 3)),
        "AddV2 Conv2DBackpropInput",
        {name: Reason.GRAPH_INPUT},
    )
    yield Row(
        "100",
        lambda: g.transposed(g.affine(batch()), 2, (1, 1), stride=2),
        "AddV2 Conv2DBackpropInput",
        {name: Reason.GRAPH_INPUT},
    )


# fmt: off
MCT = [
    Row("93", lambda: tf.nn.relu(g.norm(g.conv(g.image()))), f"{CONV} Relu"),
    Row("94", three_readers, f"{CONV} ConcatV2 Relu StridedSlice Tanh"),
    Row("95", lambda: g.norm(g.transposed(batch(), stride=2)), DECONV),
    Row("96", lambda: g.norm(g.depthwise(g.image())), DEPTHWISE),
    Row("97", lambda: g.norm(g.depthwise(g.image(), 3)), DEPTHWISE),
    Row("98", lambda: g.norm(g.conv(g.depthwise(g.image()), 4, 1)), "BiasAdd Conv2D DepthwiseConv2dNative"),
    *forward_cases(),
    Row("101", lambda: g.norm(g.conv(g.norm(g.image(), name="a"))), CONV),
    Row("102", residual, "AddV2 Conv2D FusedBatchNormV3 Relu", {"bn": Reason.SHARED}),
    *[
        Row("104", lambda channels=channels, out=out, groups=groups: g.norm(g.transposed(batch(channels), out, groups=groups, stride=2)), DECONV)
        for channels, out, groups in ((6, 9, 3), (3, 3, 3), (6, 4, 2))
    ],
]
# fmt: on


def depthwise_transposed(x, multiplier=2, stride=2, name="transposed"):
    channels = x.shape[-1] // multiplier
    sizes = [2, x.shape[1] * stride, x.shape[2] * stride, channels]
    return raw.DepthwiseConv2dNativeBackpropInput(
        input_sizes=sizes,
        filter=g.const(3, 2, channels, multiplier),
        out_backprop=x,
        strides=[1, stride, stride, 1],
        padding="SAME",
        name=name,
    )


def scale_blocks():
    """125 and 130 to 134: before and behind convolutions, 1-D ones and matrices, with and without a bias."""
    blocks = {
        "conv": (g.conv, g.image, CONV, "Conv2D"),
        "conv1d": (conv1d, sequence, f"{CONV} ExpandDims Squeeze", "Conv2D ExpandDims Squeeze"),
        "linear": (g.dense, g.rows, DENSE, "MatMul"),
        "depthwise": (lambda x: g.depthwise(x, 2), g.image, DEPTHWISE, "DepthwiseConv2dNative"),
    }
    for (sink, source, left, bare), bias in itertools.product(blocks.values(), (True, False)):
        yield Row("125", lambda s=sink, x=source, b=bias: g.scale(with_bias(s(x()), b)), left if bias else bare)
        yield Row("125", lambda s=sink, x=source, b=bias: with_bias(s(g.scale(x())), b), left if bias else bare)
        yield Row("130", lambda s=sink, x=source, b=bias: with_bias(s(g.affine(x())), b), left)
        yield Row("133", lambda s=sink, x=source, b=bias: g.affine(with_bias(s(x()), b)), left)


def grouped_blocks(number, sizes):
    for groups, bias, padding in itertools.product(sizes, (True, False), ("SAME", "VALID")):
        yield Row(
            number,
            lambda n=groups, b=bias, p=padding: g.norm(
                with_bias(g.conv(g.image(2 * n), 3 * n, padding=p, groups=n), b)
            ),
            CONV,
        )


def before_flatten(transposed, form=g.affine):
    x = form(g.placeholder(None, 4, 3, 2), 1 if transposed else -1)
    return g.dense(flat(tf.transpose(x, [0, 2, 3, 1]) if transposed else x))


def two_paths():
    x = tf.nn.relu(g.norm(g.conv(g.image(), 3)))
    return tf.add(g.norm(g.conv(x, 4), name="b"), g.conv(x, 4, name="plain"))


def several_inputs():
    a, b = g.conv(g.image(), 4), g.conv(g.image(2, name="z"), 4)
    return tf.nn.relu(tf.add(g.norm(a, name="a"), g.norm(b, name="b")))


def dynamic_matmul(bias):
    x = raw.MatMul(a=g.rows(), b=g.placeholder(4, 5, name="w"))
    return g.affine(with_bias(x, bias))


def looped():
    x = g.conv(g.image())
    return tf.add(g.norm(x, name="a"), g.norm(tf.nn.relu(x), name="b"))


# fmt: off
AIMET = [
    Row("105", lambda: g.norm(g.conv(tf.nn.relu(g.norm(g.conv(g.image()), name="a")))), "BiasAdd BiasAdd Conv2D Conv2D Relu"),
    Row("106", lambda: g.affine(g.norm(g.conv(g.image()))), CONV),
    Row("107", lambda: g.norm(g.conv(g.image()), gamma=g.numbers([1.0] * 4)), CONV),
    Row("107", lambda: g.norm(g.image(), gamma=g.numbers([1.0] * 3)), "FusedBatchNormV3", STAYS_BEFORE),
    Row("108", two_paths, "AddV2 BiasAdd BiasAdd Conv2D Conv2D Conv2D Relu"),
    Row("115", looped, "AddV2 Conv2D FusedBatchNormV3 FusedBatchNormV3 Relu", {"a": Reason.SHARED, "b": Reason.NEEDS_POSITIVE_SCALE}),
    Row("116", lambda: g.conv(tf.identity(g.norm(g.image()))), CONV),
    Row("117", several_inputs, "AddV2 BiasAdd BiasAdd Conv2D Conv2D Relu"),
    Row("118", lambda: g.conv(g.norm(g.conv(g.image())), 3), "BiasAdd Conv2D Conv2D"),
    Row("120", before_flatten.__get__(False), "BiasAdd MatMul Reshape"),
    Row("121", lambda: g.norm(g.conv(g.image())), CONV),
    Row("122", lambda: g.norm(g.bias(g.depthwise(g.image()))), DEPTHWISE),
    *scale_blocks(),
    Row("125", lambda: g.scale(depthwise_transposed(batch(4))), "DepthwiseConv2dNativeBackpropInput"),
    Row("125", lambda: depthwise_transposed(g.scale(batch(4))), "DepthwiseConv2dNativeBackpropInput"),
    Row("127", lambda: g.transposed(g.affine(batch()), stride=2), "AddV2 Conv2DBackpropInput", {"bn/add": Reason.GRAPH_INPUT}),
    Row("128", before_flatten.__get__(False), "BiasAdd MatMul Reshape"),
    Row("128", before_flatten.__get__(True), "BiasAdd MatMul Reshape Transpose"),
    *grouped_blocks("131", (1, 5, 20)),
    *[Row("132", lambda m=m: g.norm(depthwise_transposed(batch(4 * m), m)), "BiasAdd DepthwiseConv2dNativeBackpropInput") for m in (1, 2)],
    Row("135", lambda: dynamic_matmul(bias=False), "AddV2 MatMul Mul", {"bn/add": Reason.WEIGHTS_NOT_CONSTANT}),
    Row("135", lambda: dynamic_matmul(bias=True), "BiasAdd MatMul Mul", {"bn/add": Reason.WEIGHTS_NOT_CONSTANT}),
    Row("136", lambda: g.conv(g.affine(g.image()), pads=[0, 0, 1, 1, 1, 1, 0, 0]), "AddV2 Conv2D", {"bn/add": Reason.GRAPH_INPUT}),
    Row("137", lambda: g.transposed(g.affine(batch())), "AddV2 Conv2DBackpropInput", {"bn/add": Reason.GRAPH_INPUT}),
    Row("139", lambda: g.affine(g.conv3d(g.volume())), "BiasAdd Conv3D"),
    Row("139", lambda: g.conv3d(g.affine(g.volume())), "BiasAdd Conv3D"),
    Row("141", lambda: g.conv(g.norm(g.bias(g.conv(g.image()))), 3), "BiasAdd Conv2D Conv2D"),
    Row("141", lambda: g.dense(g.affine(g.rows())), DENSE),
]
# fmt: on


def transposed3d(x, out=4):
    sizes = [2, *(2 * d for d in x.shape[1:4]), out]
    weights = g.const(2, 2, 1, out, x.shape[-1])
    return raw.Conv3DBackpropInputV2(
        input_sizes=sizes, filter=weights, out_backprop=x, strides=[1, 2, 2, 2, 1], padding="SAME"
    )


def ranks():
    """142: ranks 3 to 5, groups, with and without a bias, convolutions and transposed ones."""
    for bias in (True, False):
        yield Row("142", lambda b=bias: g.affine(with_bias(conv1d(sequence()), b)), f"{CONV} ExpandDims Squeeze")
        yield Row("142", lambda b=bias: g.affine(with_bias(g.conv3d(g.volume()), b)), "BiasAdd Conv3D")
        yield Row(
            "142",
            lambda b=bias: g.affine(with_bias(transposed3d(g.placeholder(2, 2, 2, 3, 3)), b)),
            "BiasAdd Conv3DBackpropInputV2",
        )
        for groups in (1, 2, 10):
            yield Row("142", lambda b=bias, n=groups: g.norm(with_bias(g.conv(g.image(2 * n), n, groups=n), b)), CONV)
            yield Row(
                "142", lambda b=bias, n=groups: g.norm(with_bias(g.transposed(batch(2 * n), n, groups=n), b)), DECONV
            )


def operands():
    """144: Mul and RealDiv, a scalar and a vector, in either order, behind grouped ops of both kinds."""
    ops = {
        "Conv2D": lambda n: g.conv(g.image(2 * n), 2 * n, groups=n),
        "Conv2DBackpropInput": lambda n: g.transposed(batch(2 * n), 2 * n, groups=n),
    }
    for (name, op), shape, groups in itertools.product(ops.items(), ((), None), (1, 2)):

        def constant(x, shape=shape):
            return g.const(*(x.shape[-1:] if shape is None else shape))

        yield Row("144", lambda op=op, n=groups, c=constant: raw.Mul(x=(x := op(n)), y=c(x)), name)
        yield Row("144", lambda op=op, n=groups, c=constant: raw.Mul(y=(x := op(n)), x=c(x)), name)
        yield Row("144", lambda op=op, n=groups, c=constant: raw.RealDiv(x=(x := op(n)), y=c(x)), name)


def through_transpose(op, turned):
    x = tf.transpose(g.conv(g.image()), [0, 3, 1, 2])
    y = g.const(4, 1, 1)
    return op(x=y, y=x) if turned else op(x=x, y=y)


# fmt: off
COREML = [
    *ranks(),
    Row("143", lambda: g.affine(g.bias(g.conv(g.image(dtype=tf.float16)))), CONV, rtol=3e-3),
    *operands(),
    *[
        Row("145", lambda op=op, turned=turned: through_transpose(op, turned), f"{CONV} Transpose")
        for op in (raw.AddV2, raw.Sub)
        for turned in (False, True)
    ],
    *[Row("146", lambda p=padding: g.affine(conv1d(sequence(), padding=p)), f"{CONV} ExpandDims Squeeze") for padding in ("SAME", "VALID")],
    *[
        Row("147", lambda x=x, w=w, op=op: g.affine(op(x(), tf.cast(g.const(*w, dtype=tf.float16), tf.float32))), f"AddV2 {name} Mul", {"bn/add": Reason.WEIGHTS_COMPRESSED})
        for name, x, w, op in (
            ("Conv2D", g.image, (2, 2, 3, 4), lambda x, w: g.conv(x, weights=w)),
            ("MatMul", g.rows, (4, 5), tf.matmul),
        )
    ],
    Row("148", lambda: raw.Sub(x=g.bias(g.dense(g.rows())), y=g.const(5)), DENSE),
    Row("148", lambda: raw.Sub(x=g.const(5), y=g.dense(g.rows())), DENSE),
]
# fmt: on


def blocks(count):
    x = g.image()
    for place in range(count):
        x = g.norm(g.conv(x, 3, padding="SAME", name=f"block{place}/conv"), name=f"block{place}/bn")
    return x


def one_parent():
    """159: both biases would be called the same."""
    x = g.image()
    with tf.name_scope("parent"):
        return [g.norm(g.conv(x, name="conv")), g.norm(g.conv(x, name="conv"))]


def gemm(bias, turned):
    x = raw.MatMul(a=g.rows(), b=g.const(*((5, 4) if turned else (4, 5))), transpose_b=turned)
    return g.affine(with_bias(x, bias))


def not_constant(what):
    x = g.image()
    weights = g.placeholder(2, 3, 3, 4, name="w") if what == "weights" else None
    y = g.conv(x, weights=weights)
    if what == "bias":
        y = raw.BiasAdd(value=y, bias=g.placeholder(4, name="b"))
    return g.affine(y)


def affine_chain():
    shared = g.signed(4)
    x = raw.Mul(x=g.conv(g.image()), y=shared)
    return raw.Mul(x=raw.AddV2(x=x, y=shared), y=shared)


# fmt: off
ONNX = [
    *[Row("150", lambda v=v: g.norm(g.conv(g.image()), version=v), CONV) for v in (1, 2, 3)],
    *[Row("150", lambda layout=layout: g.norm(g.conv3d(g.volume(layout=layout), layout=layout), layout=layout), left) for layout, left in (("NDHWC", "BiasAdd Conv3D"), ("NCDHW", "AddV2 Conv3D"))],
    Row("150", lambda: g.norm(g.conv(g.image()), training=True), "Conv2D FusedBatchNormV3", {"bn": Reason.TRAINING_MODE}),
    Row("150", lambda: g.norm(g.conv(g.image(dtype=tf.float16))), CONV, rtol=3e-3),
    Row("151", lambda: tf.nn.relu(g.norm(g.conv(g.image()))), f"{CONV} Relu"),
    Row("152", lambda: blocks(3), "BiasAdd BiasAdd BiasAdd Conv2D Conv2D Conv2D"),
    Row("153", lambda: g.norm(g.bias(g.conv(g.image()))), CONV),
    *[Row("154", lambda d=d: g.norm(g.conv(g.image(3, 7), dilation=d)), CONV) for d in ((1, 2), (2, 1), (3, 2))],
    Row("154", lambda: g.norm(g.conv(g.nchw(3, 7), dilation=2, layout="NCHW"), layout="NCHW"), CONV),
    Row("154", lambda: g.norm(g.depthwise(g.image(3, 7), 2, dilation=(2, 2))), DEPTHWISE),
    Row("154", lambda: g.norm(g.conv(g.image(3, None), kernel=(2, 1), dilation=(1, 3))), CONV),
    *[Row("155", lambda op=op: through_transpose(op, turned=False), left) for op, left in ((raw.AddV2, f"{CONV} Transpose"), (raw.Mul, "Conv2D Transpose"))],
    *[Row("156", lambda n=n, b=b: g.norm(with_bias(g.transposed(batch(4), 4, groups=n), b)), DECONV) for n in (1, 4) for b in (True, False)],
    *grouped_blocks("156", (1, 2)),
    *[Row("156", lambda b=b, t=t: gemm(b, t), DENSE) for b in (True, False) for t in (True, False)],
    Row("158", lambda: not_constant("weights"), "AddV2 Conv2D Mul", {"bn/add": Reason.WEIGHTS_NOT_CONSTANT}),
    Row("159", one_parent, "BiasAdd BiasAdd Conv2D Conv2D"),
    Row("161", lambda: g.conv(g.affine(g.image())), CONV),
    Row("161", lambda: not_constant("bias"), "BiasAdd BiasAdd Conv2D Mul", {"bn/add": Reason.GRAPH_INPUT}),
    Row("161", lambda: g.conv(g.affine(g.image()), padding="SAME"), "AddV2 Conv2D", {"bn/add": Reason.GRAPH_INPUT}),
    Row("163", lambda: g.norm(g.conv(g.image(), padding="SAME")), CONV),
    *[Row("164", lambda s=s: raw.AddV2(x=g.bias(g.conv(g.image())), y=g.const(*s)), CONV) for s in ((), (1,), (4,), (1, 1, 4), (1, 1, 1, 4), (1, 1, 1, 1))],
    Row("164", lambda: raw.AddV2(x=g.bias(g.conv(g.image())), y=g.const(4, 4)), "AddV2 BiasAdd Conv2D"),
    *[Row("165", lambda s=s: raw.AddV2(x=g.bias(g.dense(g.placeholder(3, 4))), y=g.const(*s)), DENSE) for s in ((), (1,), (5,), (1, 5))],
    Row("165", lambda: raw.AddV2(x=g.bias(g.dense(g.placeholder(3, 4))), y=g.const(3, 1), name="site"), "AddV2 BiasAdd MatMul", {"site": Reason.CHANNEL_AXIS}),
    *[Row(number, lambda: g.affine(g.conv(g.image())), CONV) for number in ("167", "174")],
    Row("169", lambda: g.scale(g.conv(g.image())), "Conv2D"),
    Row("170", lambda: g.affine(tf.nn.relu(g.conv(g.image())), above_zero=True), "AddV2 Conv2D Relu", {"bn/add": Reason.NEEDS_ZERO_OFFSET}),
    Row("171", lambda: g.scale(tf.nn.relu(g.conv(g.image()))), "Conv2D Mul Relu", {"scale": Reason.NEEDS_POSITIVE_SCALE}),
    Row("172", lambda: g.offset(g.bias(g.conv(g.image()))), CONV),
    Row("172", lambda: raw.Mul(x=g.conv(g.placeholder(4, 5, 6, 3)), y=g.const(4, 1, 1, 1), name="site"), "Conv2D Mul", {"site": Reason.CHANNEL_AXIS}),
    Row("173", affine_chain, CONV),
    *[Row("175", lambda x=x, op=op: g.affine(op(x())), left) for x, op, left in ((sequence, conv1d, f"{CONV} ExpandDims Squeeze"), (g.image, g.conv, CONV))],
    *[Row("176", lambda x=x, op=op: g.affine(op(x())), left) for x, op, left in ((g.volume, g.conv3d, "BiasAdd Conv3D"), (lambda: g.placeholder(2, 2, 2, 3, 3), transposed3d, "BiasAdd Conv3DBackpropInputV2"), (g.rows, g.dense, DENSE))],
    Row("177", lambda: raw.Mul(x=g.conv(g.image(3, 5)), y=g.const(1, 1, 4, 4)), "Conv2D Mul"),
    Row("177", lambda: g.affine(tf.nn.relu6(g.conv(g.image()))), "AddV2 Conv2D Mul Relu6", {"bn/add": Reason.NO_LAW}),
    Row("178", lambda: g.conv(tf.nn.relu(g.scale(g.image(), above_zero=True))), "Conv2D Relu"),
    Row("178", lambda: g.conv(tf.nn.relu(g.scale(g.image()))), "Conv2D Mul Relu", {"scale": Reason.GRAPH_INPUT}),
    *[
        Row("180", lambda x=x, op=op, act=act: act(g.affine(op(x()))), f"{left}{name}")
        for x, op, left in ((g.image, g.conv, CONV), (g.image, g.depthwise, DEPTHWISE), (g.rows, g.dense, DENSE))
        for act, name in ((tf.identity, ""), (tf.nn.relu, " Relu"), (tf.sigmoid, " Sigmoid"))
    ],
    Row("180", lambda: g.affine(tf.reshape(g.dense(g.rows(), 6), [-1, 1, 1, 6])), f"{DENSE} Reshape"),
    *[Row("181", lambda e=e: g.norm(g.conv(g.image()), epsilon=e), CONV) for e in (0.0, 1e-12, 1e-5, 1e-3, 1e-2)],
]
# fmt: on


@parametrized([*BAN, *MCT, *AIMET, *COREML, *ONNX])
def test_row(row):
    check(row)
