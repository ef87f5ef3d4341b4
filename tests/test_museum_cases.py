"""Cases that no known tool tests, but where at least one was found wrong; each is named by what the graph holds."""

from __future__ import annotations

import graphs as g
import numpy as np
import pytest
import tensorflow as tf
from checker import Built, build, check_fold, feeds_of, ops_left, run
from tensorflow.python.ops import control_flow_util

from tf_bnfold.fold import fold_graph
from tf_bnfold.outcome import Kind, Status
from tf_bnfold.reasons import Reason

raw = tf.raw_ops


def test_conv_two_batch_norms():
    """Seen: a crash, and an output off by 1. Both readers want other weights."""

    def graph():
        x = g.conv(g.image())
        return [g.norm(x, name="a"), g.norm(x, name="b")]

    check_fold(graph, refused={"a": Reason.SHARED, "b": Reason.SHARED})


def test_one_constant_of_two_convolutions_one_of_them_with_a_batch_norm():
    """Seen: a crash, and an invalid graph."""

    def graph():
        weights, x = g.const(2, 3, 3, 4), g.image()
        return [g.norm(g.conv(x, weights=weights)), g.conv(x, weights=weights, name="plain")]

    check_fold(graph, expect=["BiasAdd", "Conv2D", "Conv2D"], statuses=[Status.UP])


def test_a_bias_of_two_consumers():
    """Seen: a crash: the BiasAdd was rewritten under its other reader."""

    def graph():
        x = g.bias(g.conv(g.image()))
        return [g.norm(x), tf.nn.relu(x)]

    check_fold(graph, refused={"bn": Reason.SHARED})


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("shape", [(4,), (1, 4), (1, 1, 4), (1, 1, 1, 4)])
def test_a_bias_that_is_an_add_of_any_rank(shape, turned):
    """Seen: a wrong result with [1, 1, 1, C], and nothing folded with the bias as the first operand."""

    def graph():
        x, vector = g.conv(g.image()), g.const(*shape)
        return g.norm(raw.AddV2(x=vector, y=x) if turned else raw.AddV2(x=x, y=vector))

    folding = check_fold(graph, expect=["AddV2", "Conv2D"])
    assert len(folding.outcomes) == 1, "a convolution's own bias is no site"


def test_half_precision():
    """Seen: statistics in float32 were written into a float16 graph: it did not load."""

    def graph():
        return g.norm(g.conv(g.image(dtype=tf.float16)))

    folding = check_fold(graph, expect=["BiasAdd", "Conv2D"], rtol=3e-3)
    types = {node.attr["dtype"].type for node in folding.graph_def.node if node.op == "Const"}
    assert types == {tf.float16.as_datatype_enum}


def test_fused_batch_norm_v2():
    """Seen: the converter fails on FusedBatchNormV2, and the folding tools don't know it."""
    check_fold(lambda: g.norm(g.conv(g.image()), version=2), expect=["BiasAdd", "Conv2D"])


def test_negative_variance():
    """Seen: "math domain error", and NaN weights without a word."""
    check_fold(
        lambda: g.norm(g.conv(g.image()), variance=g.numbers([1.0, 2.0, -1.0, 1.0])),
        refused={"bn": Reason.BAD_VARIANCE},
    )


def test_zero_variance_and_no_epsilon():
    """The same without a sign: 1 / sqrt(0)."""
    check_fold(
        lambda: g.norm(g.conv(g.image()), variance=g.numbers([1.0, 2.0, 0.0, 1.0]), epsilon=0.0),
        refused={"bn": Reason.BAD_VARIANCE},
    )


def test_a_decomposed_negative_variance():
    """A Rsqrt of a negative constant is NaN: still a batch norm, and still refused."""

    def graph():
        root = tf.math.rsqrt(g.numbers([1.0, -2.0, 1.0, 1.0]) + g.numbers(0.5))
        return raw.Mul(x=g.conv(g.image()), y=root, name="bn")

    folding = check_fold(graph, refused={"bn": Reason.BAD_VARIANCE})
    assert folding.outcomes[0].kind is Kind.BATCH_NORM


def test_a_tiny_variance_that_overflows():
    """Seen: infinite weights. gamma / sqrt(variance) is above float32's largest number."""
    check_fold(
        lambda: g.norm(
            g.conv(g.image()),
            gamma=g.numbers([1e22, 1.0, 1.0, 1.0]),
            variance=g.numbers([1e-36, 1.0, 1.0, 1.0]),
            epsilon=0.0,
        ),
        refused={"bn": Reason.NOT_FINITE},
    )


@pytest.mark.parametrize("op", ["Mul", "AddV2"])
@pytest.mark.parametrize("shape", [(4, 1, 1), (1, 4, 1), (4, 1), (1, 4, 1, 1)])
def test_a_constant_on_the_wrong_axis(op, shape):
    """Seen: [C, 1, 1] on NHWC was taken for channels, since it broadcasts when height is C: off by 0.5."""

    def graph():
        x = g.conv(g.placeholder(None, 5, 6, 3), 4)
        assert x.shape[1:] == (4, 4, 4)
        return getattr(raw, op)(x=x, y=g.const(*shape), name="site")

    check_fold(graph, refused={"site": Reason.CHANNEL_AXIS})


@pytest.mark.parametrize("op", ["Mul", "AddV2"])
def test_a_constant_that_enlarges(op):
    """Seen: one channel times [5] gives five channels: an invalid model."""
    check_fold(
        lambda: getattr(raw, op)(x=g.conv(g.image(), 1), y=g.const(5), name="site"), refused={"site": Reason.ENLARGES}
    )


@pytest.mark.parametrize("shape", [(1, 1, 1, 1, 4), (2, 1, 1, 1, 1), (1, 1, 1, 1, 1)])
def test_a_constant_of_higher_rank_enlarges(shape):
    """A constant of rank 5 makes a value of rank 5."""
    check_fold(
        lambda: raw.Mul(x=g.conv(g.image(), 4), y=g.const(*shape), name="site"), refused={"site": Reason.ENLARGES}
    )


def test_conv_relu_batch_norm():
    """Seen: a ReLU class that the tool did not know was stepped over."""
    check_fold(
        lambda: g.norm(tf.nn.relu(g.conv(g.image()))),
        refused={"bn": Reason.NEEDS_POSITIVE_SCALE},
        expect=["Conv2D", "FusedBatchNormV3", "Relu"],
    )


def test_conv_relu_batch_norm_of_positive_scale():
    """With gamma above zero the scale goes back through the ReLU, exactly, and one Add stays."""
    check_fold(
        lambda: g.norm(tf.nn.relu(g.conv(g.image())), gamma=g.positive(4)),
        expect=["AddV2", "Conv2D", "Relu"],
        refused={"bn": Reason.NEEDS_ZERO_OFFSET},
        statuses=[Status.PARTLY],
    )


def test_two_batch_norms_in_a_row():
    """Seen: the second one was dropped, or folded with a standard deviation for a variance."""
    check_fold(
        lambda: g.norm(g.norm(g.conv(g.image()), name="a"), name="b"),
        expect=["BiasAdd", "Conv2D"],
        statuses=[Status.UP, Status.UP],
    )


def test_a_negative_scale_does_not_pass_max_pooling():
    """Seen: the sign was not asked."""
    check_fold(
        lambda: g.norm(raw.MaxPool(input=g.conv(g.image()), ksize=[1, 2, 2, 1], strides=[1, 2, 2, 1], padding="VALID")),
        refused={"bn": Reason.NEEDS_POSITIVE_SCALE},
    )


def test_a_gamma_that_is_computed():
    """Conditional batch norm: gamma depends on another input."""

    def graph():
        gamma = g.placeholder(4, name="style")
        return g.norm(g.conv(g.image()), gamma=gamma)

    check_fold(graph, refused={"bn": Reason.PARAMETERS_NOT_CONSTANT})


def test_instance_normalisation():
    """Moments of the data are no constants; only its own gamma and beta are an affine."""

    def graph():
        x = g.conv(g.image())
        mean, variance = tf.nn.moments(x, [1, 2], keepdims=True)
        return g.affine((x - mean) * tf.math.rsqrt(variance + 1e-3))

    check_fold(graph, refused={"add": Reason.LONE_SCALAR, "bn/add": Reason.NEEDS_ZERO_OFFSET})


def test_a_constant_minus_the_convolution():
    """Seen: no tool folds c - conv(x), which is affine, too."""
    check_fold(lambda: raw.Sub(x=g.const(4), y=g.conv(g.image()), name="site"), expect=["BiasAdd", "Conv2D"])


def test_a_constant_over_the_convolution():
    """c / conv(x) is not affine."""
    folding = check_fold(lambda: raw.RealDiv(x=g.const(4), y=g.conv(g.image())), expect=["Conv2D", "RealDiv"])
    assert folding.outcomes == ()


def test_an_nchw_batch_norm_as_output():
    """Seen: skipped, since the batch norm's name is the graph's output."""
    folding = check_fold(
        lambda: g.norm(g.conv(g.nchw(), layout="NCHW"), layout="NCHW", name="out"), expect=["BiasAdd", "Conv2D"]
    )
    added = next(node for node in folding.graph_def.node if node.name == "out")
    assert (added.op, added.attr["data_format"].s) == ("BiasAdd", b"NCHW")


@pytest.mark.parametrize("form", [g.norm, g.affine])
def test_control_edges_survive(form):
    """Seen: control inputs of the removed nodes were dropped, and those on it dangled."""

    def graph():
        x, z = g.image(), g.placeholder(2, name="z")
        before = raw.NoOp(name="before")
        with tf.control_dependencies([before]):
            y = form(g.conv(x))
        with tf.control_dependencies([y]):
            return raw.Relu(features=z, name="after"), y

    folding = check_fold(graph, statuses=[Status.UP])
    nodes = {node.name: node for node in folding.graph_def.node}
    held = {name for name in nodes["after"].input if name.startswith("^")}
    assert held
    assert {name[1:] for name in held} <= set(nodes)
    assert "before" in _ancestors(nodes, "after")


def _ancestors(nodes, name):
    seen, pending = set(), [name]
    while pending:
        for source in nodes[pending.pop()].input:
            source = source.lstrip("^").split(":")[0]
            if source not in seen:
                seen.add(source)
                pending.append(source)
    return seen


@pytest.mark.parametrize("form", [g.norm, g.affine])
def test_dynamic_shapes(form):
    """Height, width and batch are unknown; the weights tell the channels."""
    check_fold(lambda: form(g.conv(g.image(3, None))), expect=["BiasAdd", "Conv2D"])


def outputs_agree(built: Built, folded, rtol=1e-5):
    """Compare in float32, for graphs that can't be rewritten in float64."""
    names = [f"{name}:0" for name in built.outputs]
    feeds = feeds_of(built.graph_def, 0, 1.0)
    for a, b in zip(run(built.graph_def, names, feeds), run(folded, names, feeds), strict=True):
        assert np.abs(a - b).max() <= rtol * np.abs(a).max()


@pytest.mark.parametrize("shape", [None, [None, None, None, None]], ids=str)
@pytest.mark.parametrize("form", [g.norm, g.affine])
def test_an_unknown_shape(form, shape):
    """Nothing is known of the value but that a convolution made it."""

    def graph():
        x = tf.compat.v1.placeholder(tf.float32, shape, name="x")
        return tf.identity(form(g.conv(x, weights=g.const(2, 2, 3, 4))), name="out")

    built = build(graph)
    folding = fold_graph(built.graph_def, built.outputs)
    assert ops_left(folding.graph_def) == ["BiasAdd", "Conv2D"]
    feeds = {"x:0": np.random.default_rng(0).standard_normal((2, 5, 5, 3)).astype(np.float32)}
    before, behind = (run(graph_def, ["out:0"], feeds)[0] for graph_def in (built.graph_def, folding.graph_def))
    assert np.abs(before - behind).max() <= 1e-5 * np.abs(before).max()


def v1_cond(flag, on_true, on_false):
    enabled = control_flow_util.ENABLE_CONTROL_FLOW_V2
    control_flow_util.ENABLE_CONTROL_FLOW_V2 = False
    try:
        return tf.compat.v1.cond(flag, on_true, on_false)
    finally:
        control_flow_util.ENABLE_CONTROL_FLOW_V2 = enabled


def test_a_dead_branch_of_v1_control_flow():
    """TF1's batch norm: the mode is a Switch on a constant; one branch is dead. Nothing is crossed, nothing breaks."""

    def graph():
        x = g.conv(g.image())
        y = v1_cond(
            tf.constant(value=False), lambda: g.norm(x, training=True, name="train"), lambda: g.norm(x, name="infer")
        )
        return tf.identity(y, name="out")

    built = build(graph)
    assert {"Switch", "Merge"} <= {node.op for node in built.graph_def.node}
    folding = fold_graph(built.graph_def, built.outputs)
    assert ops_left(folding.graph_def) == ops_left(built.graph_def)
    reasons = {outcome.name: outcome.refusal.reason for outcome in folding.outcomes}
    assert set(reasons.values()) <= {Reason.TRAINING_MODE, Reason.CONTROL_FLOW, Reason.PARAMETERS_NOT_CONSTANT}
    outputs_agree(built, folding.graph_def)


def test_a_batch_norm_behind_v1_control_flow():
    """A Merge stands between: which convolution it was is known at run time only."""

    def graph():
        x, flag = g.image(), raw.Placeholder(dtype=tf.bool, shape=[], name="flag")
        y = v1_cond(flag, lambda: g.conv(x, name="a"), lambda: g.conv(x, name="b"))
        return g.norm(y)

    built = build(graph)
    folding = fold_graph(built.graph_def, built.outputs)
    assert [outcome.refusal.reason for outcome in folding.outcomes] == [Reason.CONTROL_FLOW]
    assert folding.graph_def == built.graph_def


@pytest.mark.parametrize("taken", [False, True])
def test_affines_inside_and_behind_a_condition_of_v1(taken):
    """Mul and Add need the shape, which goes through Switch and Merge; the fold goes through neither."""

    def graph():
        x = g.placeholder(None, 5, 5, 3)
        flag = raw.PlaceholderWithDefault(input=g.numbers(taken, tf.bool), shape=[], name="flag")
        y = v1_cond(
            flag,
            lambda: g.affine(g.conv(x, 4, 1, name="a"), name="inside"),
            lambda: g.conv(g.affine(tf.tanh(x), name="before"), 4, 1, name="b"),
        )
        return tf.identity(g.conv(g.affine(y, name="behind"), 5, 1, name="c"), name="out")

    built = build(graph)
    folding = fold_graph(built.graph_def, built.outputs)
    statuses = {outcome.name: outcome.status for outcome in folding.outcomes}
    assert statuses == {
        "cond/inside/add": Status.UP,
        "cond/before/add": Status.DOWN,
        "behind/add": Status.DOWN,
    }
    outputs_agree(built, folding.graph_def)


def test_a_v1_loop():
    """A loop's way back is no cycle that breaks the numbering, and new constants stand in the loop's frame."""

    def graph():
        enabled = control_flow_util.ENABLE_CONTROL_FLOW_V2
        control_flow_util.ENABLE_CONTROL_FLOW_V2 = False
        try:
            x = g.norm(g.conv(g.image()))
            steps = (lambda i, _: i < 2, lambda i, v: (i + 1, g.norm(g.conv(v, 4, 1))))
            y = tf.while_loop(*steps, (0, x), shape_invariants=(tf.TensorShape([]), x.shape))[1]
            return tf.identity(y, name="out")
        finally:
            control_flow_util.ENABLE_CONTROL_FLOW_V2 = enabled

    built = build(graph)
    assert "NextIteration" in {node.op for node in built.graph_def.node}
    folding = fold_graph(built.graph_def, built.outputs)
    assert folding.outcomes[0].status is Status.UP
    outputs_agree(built, folding.graph_def)


def test_a_dense_layer_above_128_mib():
    """The TFLite converter leaves Mul and Add behind weights above 2^30 bits; nothing is refused here."""

    def graph():
        weights = tf.constant(0.5, tf.float32, [4096, 8448], name="weights")
        x = raw.MatMul(a=g.placeholder(None, 4096), b=weights)
        return raw.Mul(x=x, y=tf.constant(np.linspace(1, 2, 8448), tf.float32), name="site")

    built = build(graph)
    folding = fold_graph(built.graph_def, built.outputs)
    assert ops_left(folding.graph_def) == ["MatMul"]
    weights = max((node for node in folding.graph_def.node if node.op == "Const"), key=lambda node: node.ByteSize())
    row = tf.make_ndarray(weights.attr["value"].tensor)[17]
    assert np.allclose(row, 0.5 * np.linspace(1, 2, 8448))
