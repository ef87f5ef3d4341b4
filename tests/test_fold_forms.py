"""Every form in which a batch norm or an affine is written, behind a linear op and before one."""

# One line each: a table is read by its columns.
# ruff: noqa: E501

from __future__ import annotations

import graphs as g
import numpy as np
import pytest
import tensorflow as tf
from checker import Built, build, check_fold
from rows import Row, check, parametrized

from tf_bnfold.fold import fold_graph
from tf_bnfold.outcome import Kind, Status
from tf_bnfold.reasons import Reason

raw = tf.raw_ops

CONV = "BiasAdd Conv2D"


def conv(channels=4):
    return g.conv(g.image(), channels)


def conv_nchw(channels=4):
    return g.conv(g.nchw(3, 7), channels, layout="NCHW")


def root(channels, how):
    """1 / sqrt(variance + epsilon), as exporters write it."""
    shifted = g.positive(channels) + g.numbers(1e-3)
    return {
        "rsqrt": lambda: tf.math.rsqrt(shifted),
        "sqrt": lambda: raw.RealDiv(x=g.numbers(1.0), y=tf.sqrt(shifted)),
        "reciprocal": lambda: tf.math.reciprocal(tf.sqrt(shifted)),
        "pow": lambda: tf.pow(shifted, g.numbers(-0.5)),
    }[how]()


def normalised(x, how):
    """((x - mean) * root) * gamma + beta: four ops in a row."""
    c = x.shape[-1]
    return raw.AddV2(
        x=raw.Mul(x=raw.Mul(x=raw.Sub(x=x, y=g.const(c)), y=root(c, how)), y=g.signed(c)), y=g.const(c), name="bn"
    )


def divided(x):
    """(x - mean) / sqrt(variance + epsilon) * gamma + beta."""
    c = x.shape[-1]
    deviation = tf.sqrt(g.positive(c) + g.numbers(1e-3))
    return raw.Mul(x=raw.RealDiv(x=raw.Sub(x=x, y=g.const(c)), y=deviation), y=g.signed(c)) + g.const(c)


def behind(constant):
    """A batch norm whose parameters stand behind other ops."""
    return lambda x: g.norm(
        x,
        gamma=constant(g.signed(4)),
        beta=constant(g.const(4)),
        mean=constant(g.const(4)),
        variance=constant(g.positive(4)),
    )


def binary(op, *shape, turned=False, name="site"):
    def form(x):
        y = g.const(*shape)
        return getattr(raw, op)(x=y, y=x, name=name) if turned else getattr(raw, op)(x=x, y=y, name=name)

    return form


def pair(*shape):
    """Mul and AddV2 by constants of a shape."""
    return lambda x: raw.AddV2(
        x=raw.Mul(x=x, y=g.signed(4) if shape == (4,) else tf.reshape(g.signed(4), shape)), y=g.const(*shape)
    )


def splat(*shape):
    return lambda x: raw.AddV2(x=raw.Mul(x=x, y=g.numbers(np.full(shape, -1.5))), y=g.numbers(np.full(shape, 0.7)))


def over_several_axes(x):
    """A batch norm over the height and the channels, BatchNormalization(axis=[1, 3])."""
    y = raw.Mul(x=x, y=g.const(1, 4, 1, 4) * tf.math.rsqrt(g.positive(1, 4, 1, 4) + 1e-3), name="site")
    return raw.AddV2(x=y, y=g.const(1, 4, 1, 4))


def full(axis, *shape):
    """A constant of full shape that varies along one axis."""

    def form(x):
        values = (
            np.random.default_rng(0)
            .uniform(1, 2, shape[axis])
            .reshape([-1 if i == axis else 1 for i in range(len(shape))])
        )
        return raw.Mul(x=x, y=g.numbers(np.broadcast_to(values, shape)), name="site")

    return form


def aliased(x):
    return tf.identity(
        raw.AddV2(x=tf.stop_gradient(raw.Mul(x=tf.identity(x), y=tf.identity(g.signed(4)))), y=g.const(4))
    )


# fmt: off
UP = [
    *[Row(f"fused-v{v}", lambda v=v: g.norm(conv(), version=v), CONV) for v in (1, 2, 3)],
    *[Row(f"fused-v{v}-nchw", lambda v=v: g.norm(conv_nchw(), version=v, layout="NCHW"), CONV) for v in (1, 2, 3)],
    *[Row(f"global-{s}", lambda s=s: g.tf1_graph(g.global_norm(conv(), scale_after=s)), CONV) for s in (True, False)],
    Row("global-gamma-unused", lambda: g.tf1_graph(g.global_norm(conv(), scale_after=False, gamma=g.placeholder(4, name="gamma"))), CONV),
    *[Row(f"pair-{shape}", lambda s=shape: pair(*s)(conv()), CONV) for shape in ((4,), (1, 4), (1, 1, 4), (1, 1, 1, 4))],
    *[Row(f"pair-nchw-{shape}", lambda s=shape: pair(*s)(conv_nchw()), CONV) for shape in ((4, 1, 1), (1, 4, 1, 1))],
    *[Row(f"scalar-{shape}", lambda s=shape: binary("Mul", *s)(conv()), "Conv2D") for shape in ((), (1,), (1, 1, 1, 1))],
    *[Row(f"scalars-{shape}", lambda s=shape: binary("AddV2", *s)(binary("Mul", *s, name="m")(conv())), CONV) for shape in ((), (1,))],
    *[Row(f"splat-{shape}", lambda s=shape: splat(*s)(conv()), CONV) for shape in ((4,), (4, 4, 4), (1, 4, 4, 4))],
    Row("full-channel", lambda: full(3, 1, 4, 4, 4)(conv()), "Conv2D"),
    Row("several-axes", lambda: over_several_axes(conv()), "AddV2 Conv2D Mul", {"site": Reason.CHANNEL_AXIS}),
    Row("full-height", lambda: full(1, 1, 4, 4, 4)(conv()), "Conv2D Mul", {"site": Reason.CHANNEL_AXIS}),
    *[Row(f"{op}-{turned}", lambda o=op, t=turned: binary(o, 4, turned=t)(conv()), left) for op, turned, left in (
        ("Mul", False, "Conv2D"), ("Mul", True, "Conv2D"), ("Sub", False, CONV), ("Sub", True, CONV), ("RealDiv", False, "Conv2D"), ("Div", False, "Conv2D"),
        # A convolution's own bias is nothing to fold.
        ("Add", False, "Add Conv2D"), ("AddV2", True, "AddV2 Conv2D"), ("RealDiv", True, "Conv2D RealDiv"),
    )],
    *[Row(f"root-{how}", lambda h=how: normalised(conv(), h), CONV) for how in ("rsqrt", "sqrt", "reciprocal", "pow")],
    Row("divided", lambda: divided(conv()), CONV),
    Row("no-gamma", lambda: raw.AddV2(x=raw.Mul(x=conv(), y=root(4, "rsqrt")), y=g.const(4)), CONV),
    Row("no-beta", lambda: raw.Mul(x=raw.Sub(x=conv(), y=g.const(4)), y=root(4, "rsqrt")), CONV),
    Row("scale-only", lambda: raw.Mul(x=conv(), y=root(4, "rsqrt")), "Conv2D"),
    Row("offset-first", lambda: g.scale(g.offset(g.bias(conv()))), CONV),
    Row("several", lambda: g.affine(g.norm(raw.Sub(x=g.const(4), y=g.affine(conv())))), CONV),
    Row("aliases", lambda: aliased(conv()), CONV),
    Row("neg", lambda: g.affine(raw.Neg(x=conv())), f"{CONV} Neg"),
    *[Row(f"behind-{name}", lambda c=constant: behind(c)(conv()), CONV) for name, constant in (
        ("identity", tf.identity),
        ("reshape", lambda c: tf.reshape(tf.reshape(c, [2, 2]), [4])),
        ("cast-16", lambda c: tf.cast(tf.cast(c, tf.float16), tf.float32)),
        ("cast-64", lambda c: tf.cast(tf.cast(c, tf.float64), tf.float32)),
        ("arithmetic", lambda c: (c * 2.0 - c) * tf.ones([4]) + tf.zeros([4])),
        ("squeeze", lambda c: tf.squeeze(tf.expand_dims(c, 0), 0)),
        ("exp", lambda c: c * tf.exp(tf.math.log(g.positive(4)))),
        ("read", lambda c: tf.stop_gradient(tf.identity(c))),
        ("concat", lambda c: tf.reshape(tf.concat([tf.reshape(c, [1, 4])], 0), [4])),
        ("pack", lambda c: tf.squeeze(tf.stack([c], 1), 1)),
        ("fill", lambda c: c * tf.fill([4], 1.5)),
        ("maximum", lambda c: c * tf.maximum(g.positive(4), 1.0)),
    )],
]
# fmt: on


@parametrized(UP)
def test_up(row):
    check(row)


# fmt: off
FORWARD = [
    *[Row(f"fused-v{v}", lambda v=v: g.conv(g.norm(g.image(4), version=v)), CONV) for v in (1, 2, 3)],
    Row("fused-nchw", lambda: g.conv(g.norm(g.nchw(4), layout="NCHW"), layout="NCHW"), CONV),
    *[Row(f"global-{s}", lambda s=s: g.tf1_graph(g.conv(g.global_norm(g.image(4), scale_after=s))), CONV) for s in (True, False)],
    *[Row(f"pair-{shape}", lambda s=shape: g.conv(pair(*s)(g.image(4))), CONV) for shape in ((4,), (1, 1, 1, 4))],
    Row("pair-nchw", lambda: g.conv(pair(4, 1, 1)(g.nchw(4)), layout="NCHW"), CONV),
    Row("splat", lambda: g.conv(splat(5, 6, 4)(g.image(4))), CONV),
    Row("rescaling", lambda: g.conv(g.image() / 127.5 - 1.0), CONV),
    Row("rescaling-mul", lambda: g.conv(raw.AddV2(x=raw.Mul(x=g.image(), y=g.numbers(1 / 255)), y=g.numbers(-0.5))), CONV),
    Row("normalisation", lambda: g.conv(divided(g.image())), CONV),
    Row("reversed", lambda: g.conv(raw.Sub(x=g.const(4), y=g.image(4))), CONV),
    Row("several", lambda: g.conv(g.affine(g.norm(g.image(4)))), CONV),
    Row("aliases", lambda: g.conv(aliased(g.image(4))), CONV),
    *[Row(f"lone-{op}", lambda op=op: g.conv(binary(op)(tf.tanh(g.image()))), f"Conv2D {op} Tanh", {"site": Reason.LONE_SCALAR}) for op in ("AddV2", "Mul")],
]
# fmt: on


@parametrized(FORWARD)
def test_down(row):
    check(row)


@pytest.mark.parametrize(
    ("form", "kind"),
    [
        (g.norm, Kind.BATCH_NORM),
        (g.affine, Kind.BATCH_NORM),
        (lambda x: raw.Mul(x=x, y=root(4, "pow")), Kind.BATCH_NORM),
        (lambda x: divided(x), Kind.BATCH_NORM),
        (g.scale, Kind.AFFINE),
        (binary("Mul"), Kind.AFFINE),
        (binary("Sub", 4), Kind.AFFINE),
        (splat(1, 4, 4, 4), Kind.BATCH_NORM),
        (lambda x: binary("AddV2")(binary("Mul", name="m")(x)), Kind.AFFINE),
    ],
)
def test_what_counts_as_a_batch_norm(form, kind):
    """A scale that a root gives, or Mul and then Add of vectors on one axis; all else is an affine."""
    built = build(lambda: form(conv()))
    kinds = {outcome.kind for outcome in fold_graph(built.graph_def, built.outputs).outcomes}
    assert kinds == {kind}


@pytest.mark.parametrize(
    "form",
    [
        lambda x: raw.Mul(x=x, y=root(3, "rsqrt"), name="bn/last"),
        lambda x: raw.AddV2(x=raw.Mul(x=x, y=g.signed(3)), y=g.const(3), name="bn/last"),
        lambda x: raw.Mul(x=raw.Sub(x=x, y=g.const(3)), y=root(3, "pow"), name="bn/last"),
    ],
    ids=["root", "affine", "shifted"],
)
def test_a_batch_norm_whose_shape_is_unknown_counts_as_one(form):
    """Of any rank is what it reads; all that stays of it is one batch norm with a reason, not loose affines."""

    def graph():
        x = form(raw.Placeholder(dtype=tf.float32, shape=None, name="x"))
        return g.conv(raw.Reshape(tensor=x, shape=[1, 1, 1, 3]), 4, 1)

    (outcome,) = check_fold(graph, refused={"bn/last": Reason.UNKNOWN_SHAPE}).outcomes
    assert outcome.kind is Kind.BATCH_NORM


def test_a_fed_constant_is_no_constant():
    """A session may feed any tensor, a Const, too; what is named as an input is not known."""

    def graph():
        return raw.Mul(x=conv(), y=g.signed(4, name="gamma"))

    built = build(graph)
    folding = fold_graph(built.graph_def, built.outputs, inputs=["gamma"])
    assert folding.graph_def == built.graph_def


def test_a_fed_value_is_an_input():
    """Nothing goes through a tensor that is fed, up or down."""
    check_fold(lambda: g.norm(tf.identity(conv(), name="cut")), inputs=["cut"], refused={"bn": Reason.GRAPH_INPUT})
    check_fold(
        lambda: g.conv(tf.identity(g.norm(g.image()), name="cut"), name="c"),
        inputs=["cut"],
        refused={"bn": Reason.GRAPH_INPUT},
    )
    check_fold(
        lambda: g.offset(tf.identity(g.scale(conv()), name="cut")),
        inputs=["cut"],
        expect=["AddV2", "Conv2D"],
        refused={"offset": Reason.UNKNOWN_SHAPE},
    )
    check_fold(lambda: g.bias(tf.identity(conv(), name="cut")), inputs=["cut"], refused={"bias": Reason.UNKNOWN_SHAPE})
    check_fold(
        lambda: raw.AddV2(x=tf.identity(conv() * 2.0, name="cut"), y=g.numbers(3.0), name="bn"),
        inputs=["cut"],
        refused={"bn": Reason.GRAPH_INPUT},
    )
    check_fold(lambda: [g.norm(x := g.image()), tf.identity(x)], inputs=["x"], refused={"bn": Reason.GRAPH_INPUT})
    check_fold(lambda: [g.norm(x := g.image()), x], refused={"bn": Reason.GRAPH_INPUT})
    check_fold(lambda: g.norm(conv()), inputs=["bn/gamma:0"], refused={"bn": Reason.PARAMETERS_NOT_CONSTANT})
    check_fold(lambda: g.norm(conv()), inputs=["conv"], refused={"bn": Reason.GRAPH_INPUT})


def test_parameters_of_another_size():
    """gamma [4] on eight channels: TensorFlow does not load it, and nothing is guessed."""
    built = build(lambda: g.norm(g.conv(g.image(), 8)))
    small = build(lambda: g.norm(g.conv(g.image(), 4)))
    for node in built.graph_def.node:
        if node.name.startswith("bn/"):
            node.CopyFrom(next(other for other in small.graph_def.node if other.name == node.name))
    folding = fold_graph(built.graph_def, built.outputs)
    assert folding.graph_def == built.graph_def
    assert folding.outcomes[0].status is Status.KEPT


def without(attributes, function):
    """The graph with attributes left out that have their default value."""

    def graph() -> Built:
        built = build(function)
        for node in built.graph_def.node:
            for name in attributes:
                if name in node.attr:
                    del node.attr[name]
        return built

    return graph


@pytest.mark.parametrize("layout_given", [True, False])
def test_attributes_that_are_left_out_have_their_defaults(layout_given):
    """A reader that takes a missing attribute for an error, or for zero, fails on graphs that were stripped."""
    names = [
        "explicit_paddings",
        "use_cudnn_on_gpu",
        "dilations",
        "exponential_avg_factor",
        "transpose_a",
        "transpose_b",
    ]
    names += [] if layout_given else ["data_format"]

    def graph():
        x = tf.nn.max_pool2d(g.norm(conv(), epsilon=1e-4), 2, 2, "VALID")
        return g.affine(g.bias(g.dense(tf.reshape(x, [-1, 16]))))

    check_fold(
        without([*names, "grad_a", "grad_b", "epsilon"], graph),
        expect=["BiasAdd", "BiasAdd", "Conv2D", "MatMul", "MaxPool", "Reshape"],
    )


def test_nodes_in_any_order():
    """A GraphDef need not be sorted; reversed, it folds to the same."""

    def graph() -> Built:
        built = build(lambda: g.conv(tf.nn.relu(g.norm(conv())), 3) + g.const(3))
        nodes = list(built.graph_def.node)
        del built.graph_def.node[:]
        built.graph_def.node.extend(reversed(nodes))
        return built

    check_fold(graph, expect=["AddV2", "BiasAdd", "Conv2D", "Conv2D", "Relu"], statuses=[Status.UP])


# dtypes


def mixed(scale=1.0):
    """Keras' mixed_float16: a convolution in half, its batch norm in float."""
    x = g.bias(g.conv(g.image(dtype=tf.float16)))
    y = tf.cast(x, tf.float32)
    return tf.cast(raw.AddV2(x=raw.Mul(x=y, y=g.signed(4) * scale), y=g.const(4)), tf.float16)


@pytest.mark.parametrize(("dtype", "rtol"), [(tf.float16, 3e-3), (tf.bfloat16, 3e-2), (tf.float64, 1e-14)])
@pytest.mark.parametrize("form", [g.affine, lambda x: g.offset(g.scale(g.offset(x)))])
def test_dtypes(dtype, rtol, form):
    folding = check_fold(lambda: form(g.bias(g.conv(g.image(dtype=dtype)))), expect=["BiasAdd", "Conv2D"], rtol=rtol)
    assert {n.attr["dtype"].type for n in folding.graph_def.node if n.op == "Const"} == {dtype.as_datatype_enum}
    check_fold(lambda: g.conv(form(g.image(dtype=dtype))), expect=["BiasAdd", "Conv2D"], rtol=rtol)


@pytest.mark.parametrize(("dtype", "rtol"), [(tf.float16, 3e-3), (tf.bfloat16, 3e-2)])
def test_fused_batch_norms_of_half_types(dtype, rtol):
    """x is half, the statistics are float."""
    check_fold(lambda: g.norm(g.conv(g.image(dtype=dtype))), expect=["BiasAdd", "Conv2D"], rtol=rtol)
    check_fold(lambda: g.conv(g.norm(g.image(dtype=dtype))), expect=["BiasAdd", "Conv2D"], rtol=rtol)


def test_half_weights_of_usual_size():
    """Weights of +-0.03 are far from float16's subnormal numbers."""
    weights = np.random.default_rng(0).uniform(-0.03, 0.03, (2, 2, 3, 4))
    check_fold(
        lambda: g.norm(g.conv(g.image(dtype=tf.float16), weights=g.numbers(weights, tf.float16))),
        expect=["BiasAdd", "Conv2D"],
        rtol=3e-3,
    )


def test_mixed_precision():
    check_fold(mixed, expect=["BiasAdd", "Cast", "Cast", "Conv2D"], rtol=3e-3)


def half(scale=1e4, offset=3e4):
    """A product in half whose affine is beyond it: 65504 is the most that float16 holds."""
    x = tf.cast(g.dense(g.rows(dtype=tf.float16)), tf.float32)
    return raw.AddV2(x=raw.Mul(x=x, y=g.numbers(scale)), y=g.numbers(offset), name="bn")


def test_what_float16_may_not_hold_stays_in_float32():
    left = ["AddV2", "Cast", "MatMul", "Mul"]
    check_fold(half, expect=left, refused={"bn": Reason.DTYPE}, rtol=3e-3)
    check_fold(lambda: [tf.cast(y := half(), tf.float16), tf.exp(y)], expect=[*left, "Cast", "Exp"], rtol=3e-3)
    # What float16 holds behind the activation, it might not hold before.
    check_fold(lambda: tf.cast(tf.sigmoid(half()), tf.float16), expect=[*left, "Cast", "Sigmoid"], rtol=3e-3)
    check_fold(lambda: tf.cast(half(), tf.float64), expect=[*left, "Cast"], rtol=3e-3)
    check_fold(lambda: tf.cast(half(), tf.float16), expect=["BiasAdd", "Cast", "Cast", "MatMul"], rtol=3e-3)


def test_one_half_of_what_ends_in_float16_may_be_beyond_it():
    """The scale passes the ReLU and the offset does not: x * 1e4 may be infinite where x * 1e4 - 3e4 is not."""

    def graph():
        x = tf.nn.relu(g.conv(g.image(dtype=tf.float16)))
        y = raw.Mul(x=tf.cast(x, tf.float32), y=g.positive(4))
        y = tf.cast(raw.AddV2(x=y, y=g.const(4)), tf.float16)
        return g.conv(y, padding="SAME")

    check_fold(graph, statuses=[Status.KEPT], rtol=3e-3)


def test_a_cast_that_loses_is_not_crossed():
    """float32 to float16 rounds, and an affine behind it would be rounded otherwise."""
    check_fold(
        lambda: g.affine(tf.cast(conv(), tf.float16), name="bn"),
        expect=["AddV2", "Cast", "Conv2D", "Mul"],
        refused={"bn/add": Reason.DTYPE},
        rtol=3e-3,
    )


@pytest.mark.parametrize("narrow", [tf.float16, tf.bfloat16])
def test_weights_that_are_stored_small_stay_so(narrow):
    """Folding would store them in float32: twice as large."""

    def graph():
        return g.norm(g.conv(g.image(), weights=tf.cast(g.const(2, 2, 3, 4, dtype=narrow), tf.float32)))

    check_fold(graph, refused={"bn": Reason.WEIGHTS_COMPRESSED}, expect=["Conv2D", "FusedBatchNormV3"])


def test_quantised_weights_stay_so():
    """int8 behind Dequantize is no constant that is folded."""

    def graph():
        stored = tf.constant(np.random.default_rng(0).integers(-100, 100, (2, 2, 3, 4)), tf.int8)
        return g.norm(g.conv(g.image(), weights=tf.cast(stored, tf.float32) * 0.01))

    check_fold(graph, refused={"bn": Reason.WEIGHTS_COMPRESSED})


def zero_channels_reversed():
    return tf.reduce_mean(np.zeros((1, 1, 1, 0), np.float32) - g.placeholder(None, 3, 1, 0), 2)


def zero_channels_beside():
    x = g.rows(4)
    return np.zeros(0, np.float32) - x[:, 0:0], g.const(1) + x


def zero_channels_of_a_convolution():
    empty = np.zeros(0, np.float32)
    y = g.conv(g.image(), weights=tf.zeros((2, 2, 3, 0)))
    return g.norm(y, gamma=empty, beta=empty, mean=empty, variance=empty)


@pytest.mark.parametrize("graph", [zero_channels_reversed, zero_channels_beside, zero_channels_of_a_convolution])
def test_of_no_channels_there_is_nothing_to_fold(graph):
    built = build(graph)
    assert fold_graph(built.graph_def, built.outputs).outcomes is not None


PREPARED = {
    "reversed": lambda x: x[..., ::-1] / 255.0,
    "gathered": lambda x: tf.gather(x, [2, 1, 0], axis=-1) / 255.0,
    "resized": lambda x: tf.image.resize(x, [6, 6]) / 255.0,
    "cropped": lambda x: x[:, 1:-1, 1:-1] / 255.0,
    "reshaped": lambda x: tf.transpose(tf.reshape(x, [2, 3, 8, 8]) / 255.0, [0, 2, 3, 1]),
    "transposed": lambda x: tf.transpose(tf.transpose(x, [0, 3, 1, 2]) / 255.0, [0, 2, 3, 1]),
}


@pytest.mark.parametrize("prepare", PREPARED.values(), ids=PREPARED)
def test_one_number_for_an_input_that_was_moved_or_resized(prepare):
    """Nothing that the converter fuses stands at an input."""

    def graph():
        return g.conv(prepare(g.placeholder(2, 8, 8, 3)), 4, 3, padding="SAME")

    (outcome,) = check_fold(graph).outcomes
    assert outcome.status is Status.DOWN


def test_one_number_of_a_hard_swish_behind_an_input_stays():
    def graph():
        x = g.placeholder(2, 8, 8, 3)[..., ::-1]
        return g.conv(x * tf.nn.relu6(x + 3.0) / 6.0, 4)

    outcomes = check_fold(graph).outcomes
    assert {outcome.refusal.reason for outcome in outcomes} == {Reason.LONE_SCALAR}
