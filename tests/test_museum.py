"""Faults that were found in admired tools, each as a test; the fault stands in the docstring."""

from __future__ import annotations

import graphs as g
import numpy as np
import pytest
import tensorflow as tf
from checker import build, check_fold

from tf_bnfold.fold import Folding, fold_graph
from tf_bnfold.outcome import Status
from tf_bnfold.reasons import Reason

raw = tf.raw_ops


def assert_untouched(function) -> Folding:
    """Nothing folds, and the graph is the one that was given, byte by byte."""
    built = build(function)
    folding = fold_graph(built.graph_def, built.outputs)
    assert folding.graph_def == built.graph_def
    return folding


# 1: a second consumer.


def test_a_second_consumer_keeps_the_convolution():
    """A known tool scaled the weights of a convolution that another op read, too: that output was off by 10."""

    def graph():
        x = g.conv(g.image())
        return [g.norm(x), tf.nn.relu(x)]

    folding = check_fold(graph, refused={"bn": Reason.SHARED})
    assert folding.outcomes[0].refusal.node == "conv"
    assert_untouched(graph)


@pytest.mark.parametrize("fetched", ["conv", "bias"])
def test_a_fetched_value_keeps_the_convolution(fetched):
    """The same tool changed a convolution that was an output of the graph itself."""

    def graph():
        x = g.conv(g.image())
        y = g.bias(x)
        return [x if fetched == "conv" else y, g.norm(y)]

    check_fold(graph, refused={"bn": Reason.FETCHED})


# 2: training mode.


@pytest.mark.parametrize("version", [1, 2, 3])
def test_training_mode_is_no_affine(version):
    """A batch norm that computes its statistics from the batch was folded with the moving ones: off by 24.3."""
    check_fold(lambda: g.norm(g.conv(g.image()), version=version, training=True), refused={"bn": Reason.TRAINING_MODE})


def test_training_mode_with_statistics_is_no_affine():
    """As above, where moving statistics are at hand (exponential_avg_factor is not 1)."""
    check_fold(
        lambda: raw.FusedBatchNormV3(
            x=g.conv(g.image()),
            scale=g.signed(4),
            offset=g.const(4),
            mean=g.const(4),
            variance=g.positive(4),
            exponential_avg_factor=0.5,
            is_training=True,
            name="bn",
        )[0],
        refused={"bn": Reason.TRAINING_MODE},
    )


def test_an_absent_is_training_means_true():
    """A reader that takes a missing attribute for false folds a training graph."""

    def graph():
        built = build(lambda: g.norm(g.conv(g.image())))
        node = next(node for node in built.graph_def.node if node.name == "bn")
        del node.attr["is_training"]
        return built

    check_fold(graph, refused={"bn": Reason.TRAINING_MODE})


@pytest.mark.parametrize("output", [1, 2, 3, 4])
@pytest.mark.parametrize("how", ["read", "fetched"])
def test_used_statistics_keep_the_batch_norm(output, how):
    """Outputs 1 to 4 were left dangling, or read from a node that was gone."""

    def graph():
        outputs = g.norm_outputs(g.conv(g.image()))
        return [outputs[0], tf.nn.relu(outputs[output]) if how == "read" else outputs[output]]

    check_fold(graph, refused={"bn": Reason.STATISTICS_USED})


# 3: grouped transposed convolution.


@pytest.mark.parametrize("groups", [1, 2, 3])
@pytest.mark.parametrize("stride", [1, 2])
def test_a_grouped_transposed_convolution_keeps_its_channels(groups, stride):
    """The weights of a transposed convolution are [.., out / groups, in]: the scale landed on the wrong channel."""
    check_fold(
        lambda: g.norm(g.transposed(g.placeholder(2, 3, 4, 6), 6 * groups, stride=stride, groups=groups)),
        expect=["BiasAdd", "Conv2DBackpropInput"],
    )


@pytest.mark.parametrize(("channels", "out", "groups"), [(6, 9, 3), (3, 3, 3), (4, 6, 2)])
def test_a_grouped_convolution_keeps_its_channels(channels, out, groups):
    """The same with a convolution, whose weights are [.., in / groups, out], in both directions."""
    check_fold(
        lambda: g.norm(g.conv(g.affine(g.image(channels)), out, groups=groups)),
        expect=["BiasAdd", "Conv2D"],
        statuses=[Status.DOWN, Status.UP],
    )


# 4: an attribute that was not understood.


@pytest.mark.parametrize("where", ["conv", "Relu", "bn"])
def test_an_unknown_attribute_is_refused(where):
    """A rewriter carried on an attribute that it did not know (Gemm's beta), and the bias came in twice."""
    built = build(
        lambda: g.norm(
            tf.nn.relu(g.conv(g.image())), gamma=g.positive(4), beta=g.numbers([0.0] * 4), mean=g.numbers([0.0] * 4)
        )
    )
    node = next(node for node in built.graph_def.node if node.name == where)
    node.attr["alpha_of_the_future"].f = 0.5
    folding = fold_graph(built.graph_def, built.outputs)
    assert folding.graph_def == built.graph_def
    assert folding.outcomes[0].refusal.reason is Reason.UNKNOWN_ATTRIBUTE
    assert folding.outcomes[0].refusal.node == where


def test_an_annotation_is_no_unknown_attribute():
    """Closed is not deaf: attributes that begin with _ are notes, and they survive."""

    def graph():
        built = build(lambda: g.norm(g.conv(g.image())))
        node = next(node for node in built.graph_def.node if node.name == "conv")
        node.attr["_grappler_note"].s = b"hello"
        return built

    folding = check_fold(graph, expect=["BiasAdd", "Conv2D"])
    convolution = next(node for node in folding.graph_def.node if node.op == "Conv2D")
    assert convolution.attr["_grappler_note"].s == b"hello"


# 5: a constant that others read, too.


def test_a_shared_constant_is_not_overwritten():
    """Several tools scaled a Const in place that a second convolution read."""

    def graph():
        weights, x = g.const(2, 3, 3, 4, name="weights"), g.image()
        return [g.norm(g.conv(x, weights=weights)), tf.nn.relu(g.conv(tf.tanh(x), weights=weights, name="other"))]

    before = {node.name: node for node in build(graph).graph_def.node}
    behind = {
        node.name: node
        for node in check_fold(graph, expect=["BiasAdd", "Conv2D", "Conv2D", "Relu", "Tanh"]).graph_def.node
    }
    assert behind["weights"] == before["weights"]
    assert behind["other"] == before["other"]


def test_two_convolutions_of_one_constant_get_their_own():
    """... or scaled it twice, once for each batch norm."""

    def graph():
        weights, x = g.const(2, 3, 3, 4, name="weights"), g.image()
        return [g.norm(g.conv(x, weights=weights)), g.norm(g.conv(tf.tanh(x), weights=weights))]

    folding = check_fold(graph, expect=["BiasAdd", "BiasAdd", "Conv2D", "Conv2D", "Tanh"])
    assert "weights" not in {node.name for node in folding.graph_def.node}


def test_a_shared_bias_is_not_overwritten():
    """The bias, too: it was deleted although another op read it."""

    def graph():
        vector, x = g.const(4, name="vector"), g.image()
        first = raw.BiasAdd(value=g.conv(x), bias=vector)
        return [g.norm(first), raw.BiasAdd(value=g.conv(tf.tanh(x)), bias=vector), tf.nn.relu(vector)]

    check_fold(graph, expect=["BiasAdd", "BiasAdd", "Conv2D", "Conv2D", "Tanh"], statuses=[Status.UP])


def test_parameters_of_two_batch_norms_may_be_one_constant():
    """A batch norm's own constants were removed with it, although a second one read them."""

    def graph():
        gamma, beta, x = g.signed(4), g.const(4), g.image()
        kept = g.conv(tf.tanh(x))
        return [g.norm(g.conv(x), gamma=gamma, beta=beta), g.norm(kept, gamma=gamma, beta=beta), kept]

    check_fold(graph, statuses=[Status.UP, Status.KEPT])


# 6: giving up half-way.


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("join", ["concat", "add", "pack"])
def test_giving_up_changes_nothing(join, turned):
    """A compiler's scale folding changed its first input before it found that the second one could not follow."""

    def graph():
        x = g.image(4)
        inputs = [g.conv(x, 4, 1), tf.tanh(x)]
        if turned:
            inputs.reverse()
        joined = {
            "concat": lambda: tf.concat(inputs, -1),
            "add": lambda: tf.add_n(inputs),
            "pack": lambda: tf.stack(inputs, -2),
        }[join]()
        return g.scale(joined)

    assert assert_untouched(graph).outcomes[0].status is Status.KEPT


def test_giving_up_on_the_way_down_changes_nothing():
    """The same towards the consumers: one of two convolutions can not take it."""

    def graph():
        x = g.affine(g.image(4))
        return [g.conv(x, 4, 1), g.conv(x, 4, 1, weights=g.placeholder(1, 1, 4, 4, name="weights"))]

    assert assert_untouched(graph).outcomes[0].status is Status.KEPT


# 7, tests that see nothing, is test_checker.py.


# 8: an offset through zero padding.


def border(pads):
    """BN - Conv SAME: what a tool gives that takes the offset through the padding, and what is right."""
    x = np.random.default_rng(0).standard_normal((1, 6, 6, 2))
    weights = np.random.default_rng(1).standard_normal((3, 3, 2, 2))
    scale, offset = np.array([2.0, -1.0]), np.array([0.5, 3.0])
    right = tf.nn.conv2d(scale * x + offset, weights, 1, pads).numpy()
    taken = tf.nn.conv2d(x, weights * scale[:, None], 1, pads).numpy() + np.einsum("hwio,i->o", weights, offset)
    return np.abs(right - taken)


def test_an_offset_does_not_pass_zero_padding():
    """The interior is right and the border is wrong: several tools folded BN - Conv SAME all the same."""
    wrong = border("SAME")
    assert wrong[:, 1:-1, 1:-1].max() < 1e-12
    assert wrong.max() > 0.1
    assert border("VALID").max() < 1e-12
    check_fold(
        lambda: g.conv(g.norm(g.image()), padding="SAME"),
        expect=["AddV2", "Conv2D"],
        refused={"bn": Reason.GRAPH_INPUT},
        statuses=[Status.PARTLY],
    )


@pytest.mark.parametrize("pads", [(0, 0, 1, 0, 0, 0, 0, 0), (0, 0, 0, 0, 0, 2, 0, 0)])
def test_an_offset_does_not_pass_explicit_padding(pads):
    """As above with EXPLICIT padding of one side; with zeros only it is VALID."""
    check_fold(lambda: g.conv(g.norm(g.image()), pads=pads), expect=["AddV2", "Conv2D"], statuses=[Status.PARTLY])
    check_fold(lambda: g.conv(g.norm(g.image()), pads=(0,) * 8), expect=["BiasAdd", "Conv2D"], statuses=[Status.DOWN])


def test_a_batch_norm_does_not_go_up_through_a_pad():
    """A tool saw Conv - Pad - BN as neighbours: the border got the wrong constant."""
    check_fold(
        lambda: g.norm(tf.pad(g.conv(g.image()), [[0, 0], [1, 1], [1, 1], [0, 0]])),
        expect=["AddV2", "Conv2D", "Pad"],
        refused={"bn": Reason.ZERO_PADDING},
    )


# 9: a law that holds only on the inputs that were tried.


def test_relu6_lets_no_scale_pass():
    """Relu6 passed a check with N(0, 1) inputs: nothing came near 6. Wide inputs tell."""
    x, scale = np.random.default_rng(0).standard_normal((64, 3)), np.array([0.5, 1.2, 1.4])

    def relu6(values):
        return np.clip(values, 0, 6)

    assert np.allclose(scale * relu6(x), relu6(scale * x))
    assert not np.allclose(scale * relu6(30 * x), relu6(30 * scale * x))
    check_fold(
        lambda: g.scale(tf.nn.relu6(g.conv(g.image())), above_zero=True),
        expect=["Conv2D", "Mul", "Relu6"],
        refused={"scale": Reason.NO_LAW},
    )


# 10, a gate that gates nothing, is test_gates.py. What no peer tests, but where one was found wrong, is
# test_museum_cases.py.
