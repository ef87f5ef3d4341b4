"""Scale one way and offset the other; what stays when only one half goes; --keep; several affines in one sink."""

from __future__ import annotations

import graphs as g
import numpy as np
import pytest
import tensorflow as tf
from checker import build, check_fold

from tf_bnfold.fold import fold_graph
from tf_bnfold.outcome import Status
from tf_bnfold.reasons import Reason

raw = tf.raw_ops

FORMS = [
    lambda x, above_zero=True: g.affine(x, above_zero=above_zero),
    lambda x, above_zero=True: g.norm(
        x, gamma=g.positive(x.shape[-1]) if above_zero else g.signed(x.shape[-1]), name="bn/add"
    ),
]
forms = pytest.mark.parametrize("form", FORMS, ids=["affine", "fused"])


def maxpool(x):
    return raw.MaxPool(input=x, ksize=[1, 2, 2, 1], strides=[1, 1, 1, 1], padding="SAME")


def statuses_of(folding):
    return [outcome.status for outcome in folding.outcomes]


@forms
def test_activation_before_the_batch_norm(form):
    """Conv - ReLU - BN - Conv VALID: all of it goes down."""
    check_fold(
        lambda: g.conv(form(tf.nn.relu(g.conv(g.image(3, 7)))), 3),
        expect=["BiasAdd", "Conv2D", "Conv2D", "Relu"],
        statuses=[Status.DOWN],
    )


@forms
@pytest.mark.parametrize("activation", [tf.nn.relu, tf.nn.leaky_relu])
def test_the_scale_goes_back_and_the_offset_on(form, activation):
    """Behind a join only the offset goes on, and the scale goes back through the activation."""

    def graph():
        y = form(activation(g.conv(g.image(3, 7), 4)))
        return g.conv(tf.add(y, tf.tanh(g.conv(g.image(3, 7, name="y"), 4))), 3)

    left = [
        "AddV2",
        "BiasAdd",
        "Conv2D",
        "Conv2D",
        "Conv2D",
        "Tanh",
        {tf.nn.relu: "Relu", tf.nn.leaky_relu: "LeakyRelu"}[activation],
    ]
    check_fold(graph, expect=left, statuses=[Status.HALVES], refused={})


@forms
def test_the_offset_goes_back_and_the_scale_on(form):
    """Max pooling lets any offset back, zero padding any scale on."""

    def graph():
        return g.conv(form(maxpool(g.bias(g.conv(g.image(3, 7)))), above_zero=False), 3, padding="SAME")

    check_fold(graph, expect=["BiasAdd", "Conv2D", "Conv2D", "MaxPool"], statuses=[Status.HALVES], refused={})


@forms
def test_activation_before_the_batch_norm_with_padding(form):
    """Conv - ReLU - BN - Conv SAME: the scale goes, and one Add stays."""
    check_fold(
        lambda: g.conv(form(tf.nn.relu(g.conv(g.image(3, 7)))), 3, padding="SAME"),
        expect=["AddV2", "Conv2D", "Conv2D", "Relu"],
        statuses=[Status.PARTLY],
    )


@forms
def test_pre_activation(form):
    """BN - ReLU - Conv behind a sum that others read: the scale passes the ReLU, one Add stays before it."""

    def graph():
        x = tf.add(g.conv(g.image(4, 7), 4, 1), g.image(4, 7, name="y"))
        return [g.conv(tf.nn.relu(form(x)), 3, padding="SAME"), tf.tanh(x)]

    check_fold(graph, expect=["AddV2", "AddV2", "Conv2D", "Conv2D", "Relu", "Tanh"], statuses=[Status.PARTLY])


@forms
def test_pre_activation_into_several(form):
    """The scale goes into all that read the ReLU, or into none."""

    def graph(last):
        def written():
            y = tf.nn.relu(form(g.image(4, 7)))
            return [g.conv(y, 3, padding="SAME"), g.depthwise(y, 2), g.dense(tf.reduce_mean(y, [1, 2])), last(y)]

        return written

    left = ["AddV2", "Conv2D", "DepthwiseConv2dNative", "MatMul", "Mean", "Relu"]
    check_fold(graph(lambda y: g.conv(y, 2, 1, name="last")), expect=[*left, "Conv2D"], statuses=[Status.PARTLY])
    folding = check_fold(graph(tf.tanh), refused={"bn/add": Reason.GRAPH_INPUT})
    assert statuses_of(folding) == [Status.KEPT]


def test_pre_activation_whose_offset_a_branch_takes():
    """The offset over the scale goes up into any branch of the sum; nothing stays."""

    def graph():
        x = tf.add(tf.tanh(g.image(4, 7, name="y")), g.bias(g.conv(g.image(4, 7), 4, 1)))
        return g.conv(tf.nn.relu(g.affine(x, above_zero=True)), 3, padding="SAME")

    check_fold(
        graph, expect=["AddV2", "BiasAdd", "Conv2D", "Conv2D", "Relu", "Tanh"], statuses=[Status.HALVES], refused={}
    )


def test_pre_activation_with_a_negative_scale_stays():
    folding = check_fold(
        lambda: g.conv(tf.nn.relu(g.affine(g.image(4, 7))), 3), expect=["AddV2", "Conv2D", "Mul", "Relu"]
    )
    assert statuses_of(folding) == [Status.KEPT]


@pytest.mark.parametrize("padding", ["SAME", "EXPLICIT"])
def test_padding_takes_the_scale(padding):
    pads = [0, 0, 1, 1, 0, 0, 0, 0] if padding == "EXPLICIT" else ()
    check_fold(
        lambda: g.conv(g.affine(g.image()), padding="SAME", pads=pads),
        expect=["AddV2", "Conv2D"],
        statuses=[Status.PARTLY],
    )


def with_numbers(scale, offset, then):
    """x * scale + offset on four channels, and what reads it."""

    def graph():
        x = raw.Mul(x=g.image(4, 7), y=g.numbers(scale))
        return then(raw.AddV2(x=x, y=g.numbers(offset), name="site"))

    return graph


def same_conv(x):
    return g.conv(x, 3, padding="SAME")


def rectified_conv(x):
    return g.conv(tf.nn.relu(x), 3, padding="SAME")


@pytest.mark.parametrize("then", [same_conv, rectified_conv])
def test_a_scale_of_zero_keeps_the_offset_and_so_the_scale(then):
    """offset / 0 has no value: s * (x + o / s) is not what stays."""
    folding = check_fold(
        with_numbers([1.0, 0.0, 2.0, 3.0], [1.0, 2.0, 3.0, 4.0], then),
        expect=["AddV2", "Conv2D", "Mul", *(["Relu"] if then is rectified_conv else [])],
    )
    assert statuses_of(folding) == [Status.KEPT]


@pytest.mark.parametrize("then", [same_conv, rectified_conv])
def test_an_offset_over_a_tiny_scale_that_overflows_stays(then):
    """1e3 / 1e-36 is above float32's largest number."""
    folding = check_fold(
        with_numbers([1.0, 1e-36, 2.0, 3.0], [1.0, 1e3, 3.0, 4.0], then),
        expect=["AddV2", "Conv2D", "Mul", *(["Relu"] if then is rectified_conv else [])],
    )
    assert statuses_of(folding) == [Status.KEPT]


def test_a_scale_of_zero_goes_back_through_the_activation():
    """The other order needs no division: relu(0 x) + o."""

    def graph():
        y = raw.Mul(x=tf.nn.relu(g.conv(g.image())), y=g.numbers([1.0, 0.0, 2.0, 3.0]))
        return raw.AddV2(x=y, y=g.const(4), name="site")

    check_fold(graph, expect=["AddV2", "Conv2D", "Relu"], statuses=[Status.PARTLY])


@pytest.mark.parametrize("scale", [1e-37, 1e-44])
def test_weights_that_become_subnormal(scale):
    """Scale times weights would keep a few bits only: up, down and in halves."""
    folding = check_fold(with_numbers([scale] * 4, [0.0, 0.0, 0.0, 1e-9], same_conv))
    assert statuses_of(folding) == [Status.KEPT]
    folding = check_fold(
        lambda: raw.Mul(x=g.conv(g.image()), y=g.numbers([1.0, scale, 2.0, 3.0]), name="site"),
        refused={"site": Reason.SUBNORMAL},
    )
    assert statuses_of(folding) == [Status.KEPT]


def test_a_fused_batch_norm_is_not_traded_for_two_ops():
    """The offset could go back through the pool, but a bias and a Mul are more than one batch norm."""
    folding = check_fold(lambda: g.norm(maxpool(g.conv(g.image()))), expect=["Conv2D", "FusedBatchNormV3", "MaxPool"])
    assert statuses_of(folding) == [Status.KEPT]


@pytest.mark.parametrize("only", [g.scale, g.offset])
def test_one_op_has_no_halves(only):
    check_fold(lambda: [only(g.conv(g.image())), g.conv(tf.tanh(only(g.image(4, name="y"))), 3)])


# --keep


def two_blocks():
    x = tf.nn.relu(g.norm(g.conv(g.image(3, 7), name="a/conv"), name="a/bn"))
    return g.affine(g.conv(x, 3, name="b/conv"), name="b/bn")


@pytest.mark.parametrize(
    ("keep", "left"),
    [
        ("", ["BiasAdd", "BiasAdd", "Conv2D", "Conv2D", "Relu"]),
        ("a/", ["BiasAdd", "Conv2D", "Conv2D", "FusedBatchNormV3", "Relu"]),
        ("b/bn", ["AddV2", "BiasAdd", "Conv2D", "Conv2D", "Mul", "Relu"]),
        ("b/bn/mul", ["AddV2", "BiasAdd", "Conv2D", "Conv2D", "Mul", "Relu"]),
        ("^bn", ["BiasAdd", "BiasAdd", "Conv2D", "Conv2D", "Relu"]),
        ("bn$|add$", ["AddV2", "Conv2D", "Conv2D", "FusedBatchNormV3", "Mul", "Relu"]),
    ],
)
def test_keep(keep, left):
    folding = check_fold(two_blocks, expect=left, keep=keep)
    reasons = {outcome.refusal.reason for outcome in folding.outcomes if outcome.refusal}
    assert reasons <= {Reason.KEPT_BY_USER}


def test_what_is_kept_is_not_passed():
    """Nothing goes through a batch norm that is kept, or into it: its parameters stay as they are."""

    def graph():
        x = g.norm(g.conv(g.image(3, 7)), name="kept")
        return g.norm(
            tf.nn.relu(x), gamma=g.positive(4), beta=g.numbers([0.0] * 4), mean=g.numbers([0.0] * 4), name="behind"
        )

    check_fold(graph, keep="kept", refused={"kept": Reason.KEPT_BY_USER, "behind": Reason.KEPT_BY_USER})
    check_fold(
        lambda: g.norm(tf.nn.avg_pool2d(g.norm(g.image(), name="a"), 2, 1, "VALID"), name="kept"),
        keep="kept",
        refused={"a": Reason.GRAPH_INPUT, "kept": Reason.KEPT_BY_USER},
    )


def test_a_bias_that_is_kept_is_not_changed():
    """An op that --keep names keeps its constants, too."""

    def graph():
        return g.norm(g.bias(g.conv(g.image()), name="kept"))

    check_fold(
        graph, keep="^kept$", refused={"bn": Reason.KEPT_BY_USER}, expect=["BiasAdd", "Conv2D", "FusedBatchNormV3"]
    )


# Several affines in one sink


def test_a_sandwich():
    """BN - Conv - BN - ReLU: before and behind."""
    check_fold(
        lambda: tf.nn.relu(g.norm(g.bias(g.conv(g.norm(g.image(), name="a"))), name="b")),
        expect=["BiasAdd", "Conv2D", "Relu"],
        statuses=[Status.DOWN, Status.UP],
    )


def test_two_parts_of_one_convolution():
    """Split with a batch norm on each part, one of them behind a ReLU."""

    def graph():
        a, b, c = tf.split(g.bias(g.conv(g.image(), 6)), 3, 3)
        return [g.norm(a), g.affine(tf.nn.relu(b), above_zero=True), tf.tanh(c)]

    check_fold(
        graph, expect=["AddV2", "BiasAdd", "Conv2D", "Relu", "Split", "Tanh"], statuses=[Status.UP, Status.PARTLY]
    )


def test_a_long_row():
    """Ten affines in front and ten behind are one."""

    def graph():
        x = g.image()
        for _ in range(10):
            x = tf.identity(g.scale(g.offset(x)))
        x = g.conv(x)
        for _ in range(10):
            x = tf.identity(g.norm(g.affine(x)))
        return x

    check_fold(graph, expect=["BiasAdd", "Conv2D"], rtol=1e-5)


def test_constants_are_computed_once():
    """One sink that takes five affines gets one new constant, rounded once."""

    def graph():
        x = g.conv(g.image())
        for _ in range(5):
            x = raw.Mul(x=raw.Mul(x=x, y=g.numbers([3.0] * 4)), y=g.numbers([1 / 3] * 4))
        return x

    built = build(graph)
    folding = fold_graph(built.graph_def, built.outputs)
    before, behind = (
        tf.make_ndarray(
            next(n for n in d.node if n.op == "Const" and len(n.attr["value"].tensor.tensor_shape.dim) == 4)
            .attr["value"]
            .tensor
        )
        for d in (built.graph_def, folding.graph_def)
    )
    exact = before.astype(np.float64) * (3 * np.float64(np.float32(1 / 3))) ** 5
    assert np.array_equal(behind, exact.astype(np.float32))


def test_a_scale_that_would_be_copied_into_each_reader_stays():
    """Three Adds that would be a Mul and an Add each."""

    def graph():
        y = raw.RealDiv(x=g.rows(5), y=g.positive(5), name="site")
        return [tf.sigmoid(y + g.const(5)) for _ in range(3)]

    outcomes = check_fold(graph, expect=["AddV2"] * 3 + ["RealDiv"] + ["Sigmoid"] * 3).outcomes
    assert {outcome.status for outcome in outcomes} == {Status.KEPT}


def test_a_constant_less_a_value_is_no_scale_that_stays():
    """A Mul by -1 in its place would be one op for another, found by the second fold only."""

    def graph():
        x0, x1 = g.rows(8, name="x0"), g.rows(8, name="x1")
        return ((x0 + g.const(8)) - g.const(8)) - (g.const(8) - x1)

    check_fold(graph)  # folds twice
