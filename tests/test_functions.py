"""Bodies of library functions are folded as graphs of their own: branches, loops, calls."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from checker import build, feeds_of, run

from tf_bnfold.fold import fold_graph
from tf_bnfold.outcome import Status
from tf_bnfold.reasons import Reason

RNG = np.random.default_rng(7)


def constant(*shape: int) -> tf.Tensor:
    return tf.constant(RNG.uniform(-1.5, 1.5, shape).astype(np.float32))


def conv_norm(x: tf.Tensor, *, fused: bool) -> tf.Tensor:
    y = tf.nn.conv2d(x, constant(3, 3, 3, 3), 1, "SAME")
    if not fused:
        return y * constant(3) + constant(3)
    variance = tf.constant(RNG.uniform(0.2, 2.0, 3).astype(np.float32))
    return tf.raw_ops.FusedBatchNormV3(
        x=y, scale=constant(3), offset=constant(3), mean=constant(3), variance=variance, is_training=False
    ).y


def image() -> tf.Tensor:
    return tf.compat.v1.placeholder(tf.float32, [2, 6, 6, 3])


def call() -> tf.Tensor:
    return tf.function(lambda t: tf.nn.relu(conv_norm(t, fused=True)))(image())


def nested_call() -> tf.Tensor:
    inner = tf.function(lambda t: conv_norm(t, fused=False))
    return tf.function(lambda t: tf.nn.relu(inner(t)))(image())


def branch() -> tf.Tensor:
    x = image()
    return tf.cond(tf.reduce_sum(x) > 0, lambda: conv_norm(x, fused=True), lambda: conv_norm(x, fused=False))


def loop() -> tf.Tensor:
    body = tf.function(lambda i, t: (i + 1, tf.nn.softsign(conv_norm(t, fused=True))))
    return tf.while_loop(lambda i, t: i < 3, lambda i, t: body(i, t), [0, image()])[1]


def called_twice() -> tf.Tensor:
    function, x = tf.function(lambda t: conv_norm(t, fused=True)), image()
    return function(x) + function(tf.nn.relu(x))


@pytest.fixture(autouse=True)
def control_flow_v2():
    before = tf.compat.v1.control_flow_v2_enabled()
    tf.compat.v1.enable_control_flow_v2()
    yield
    if not before:
        tf.compat.v1.disable_control_flow_v2()


@pytest.mark.parametrize("function", [call, nested_call, branch, loop, called_twice])
def test_bodies_are_folded(function):
    built = build(function)
    folding = fold_graph(built.graph_def, built.outputs)
    inside = [outcome for outcome in folding.outcomes if outcome.function]
    assert inside
    assert {outcome.status for outcome in inside} == {Status.UP}
    ops = {node.op for body in folding.graph_def.library.function for node in body.node_def}
    assert not ops & {"FusedBatchNormV3", "Mul"}
    fetch = [f"{name.split(':')[0]}:0" for name in built.outputs]
    for scale in (0.1, 1.0, 30.0):
        feeds = feeds_of(built.graph_def, 0, scale)
        (before,), (after,) = (run(graph, fetch, feeds) for graph in (built.graph_def, folding.graph_def))
        assert np.abs(before - after).max() <= 2e-5 * np.abs(before).max()
    again = fold_graph(folding.graph_def, built.outputs)
    assert again.graph_def == folding.graph_def


@pytest.mark.parametrize("mark", ["api_implements", "_implements"])
def test_what_the_converter_fuses_stays_whole(mark):
    built = build(call)
    for function in built.graph_def.library.function:
        function.attr[mark].s = b"lstm"
    folding = fold_graph(built.graph_def, built.outputs)
    assert folding.graph_def == built.graph_def
    assert not folding.outcomes


def test_weights_that_are_an_argument_are_no_constant():
    """Unless each call passes the same constant: tests/test_invariants.py."""

    def function() -> tf.Tensor:
        body = tf.function(lambda t, w: tf.nn.conv2d(t, w, 1, "SAME") * constant(3) + constant(3))
        weights = tf.compat.v1.placeholder_with_default(constant(3, 3, 3, 3), [3, 3, 3, 3])
        return body(image(), weights)

    built = build(function)
    (outcome,) = fold_graph(built.graph_def, built.outputs).outcomes
    assert outcome.status is Status.KEPT
    assert outcome.refusal is not None
    assert outcome.refusal.reason is Reason.WEIGHTS_NOT_CONSTANT
