"""`(x - mean) / deviation` before a linear op goes into it as long as that costs few digits."""

from __future__ import annotations

import graphs as g
import numpy as np
import pytest
import tensorflow as tf
from checker import build, check_fold, run
from oracle import to_float64

from tf_bnfold.fold import fold_graph
from tf_bnfold.outcome import Status
from tf_bnfold.reasons import Reason

raw = tf.raw_ops


def normalised(x, mean, deviation, beta=None):
    y = raw.Sub(x=x, y=g.numbers(np.full(8, mean)))
    y = raw.Mul(x=y, y=g.numbers(np.full(8, 1 / deviation)), name="bn")
    return y if beta is None else raw.AddV2(x=y, y=g.numbers(np.full(8, beta)), name="bn/add")


def fused(x, mean, deviation):
    ones = tf.ones(8)
    return g.norm(x, gamma=ones, beta=tf.zeros(8), mean=mean * ones, variance=deviation**2 * ones, epsilon=0.0)


def errors(function, mean, deviation):
    """The largest error of a graph and of its folded one, in relation to the largest value, in float32 on its data."""
    built = build(function)
    folding = fold_graph(built.graph_def, built.outputs)
    shape = [
        dim.size for node in built.graph_def.node if node.op == "Placeholder" for dim in node.attr["shape"].shape.dim
    ]
    x = (mean + deviation * np.random.default_rng(2).standard_normal(shape)).astype(np.float32)
    names = [f"{built.outputs[0]}:0"]
    true = run(to_float64(built.graph_def), names, {"x:0": x.astype(np.float64)})[0]
    found = [run(each, names, {"x:0": x})[0] for each in (built.graph_def, folding.graph_def)]
    return folding, [np.abs(value - true).max() / np.abs(true).max() for value in found]


@pytest.mark.parametrize(
    ("mean", "deviation", "status"),
    [
        (127.5, 127.5, Status.DOWN),
        (2000, 10, Status.DOWN),
        (101325, 20, Status.PARTLY),
        (1.7e9, 604800, Status.PARTLY),
    ],
)
def test_no_more_digits_are_lost_than_the_bound_says(mean, deviation, status):
    """Beyond it x - mean stays, which is exact near the mean, and only the deviation goes into the weights."""
    for function in (
        lambda: g.dense(normalised(g.placeholder(16, 8), mean, deviation)),
        lambda: g.conv(fused(g.placeholder(4, 3, 3, 8), mean, deviation), 4),
    ):
        folding, (before, behind) = errors(function, mean, deviation)
        assert [outcome.status for outcome in folding.outcomes] == [status]
        assert behind <= (1e3 * 2.0**-24 if status is Status.DOWN else max(4 * before, 1e-6))


def test_the_mean_alone_stays_before_the_linear_op():
    check_fold(
        lambda: g.dense(normalised(g.placeholder(16, 8), 101325, 20)),
        expect=["AddV2", "MatMul"],
        statuses=[Status.PARTLY],
    )


def test_float64_has_the_digits():
    def graph():
        x = raw.Mul(x=g.placeholder(16, 8, dtype=tf.float64), y=g.numbers(np.full(8, 0.05), tf.float64))
        x = raw.AddV2(x=x, y=g.numbers(np.full(8, -5066.25), tf.float64), name="bn")
        return raw.MatMul(a=x, b=g.numbers(np.random.default_rng(0).normal(size=(8, 3)), tf.float64))

    check_fold(graph, expect=["BiasAdd", "MatMul"], statuses=[Status.DOWN], refused={})


def test_an_offset_behind_the_deviation_does_not_hide_in_the_mean():
    """-101325.7 + 0.123 * 2 in float32 would lose most digits of the 0.123."""

    def graph():
        return g.dense(normalised(g.placeholder(16, 8), 101325.7, 2, beta=0.123))

    folding, (before, behind) = errors(graph, 101325.7, 2)
    assert [outcome.status for outcome in folding.outcomes] == [Status.KEPT]
    assert behind <= 2 * before


@pytest.mark.parametrize("large_first", [True, False])
def test_a_batch_norm_does_not_merge_with_a_large_offset(large_first):
    """Written anew it would multiply first and add then."""

    def graph():
        x = g.placeholder(4, 3, 3, 8)
        for large in (large_first, not large_first):
            x = fused(x, 101325, 20) if large else g.norm(x)
        return tf.atan(x)

    folding, (before, behind) = errors(graph, 101325 if large_first else 0, 20 if large_first else 1)
    assert [outcome.status for outcome in folding.outcomes] == [Status.KEPT, Status.KEPT]
    assert folding.outcomes[0].refusal.ways[1].reason is Reason.CANCELLATION
    assert behind <= before


def test_a_channel_that_is_a_constant_cancels_nothing():
    def graph():
        y = raw.Mul(x=g.rows(), y=g.numbers([1.0, 0.0, 2.0, 0.0]))
        return g.dense(raw.AddV2(x=y, y=g.numbers([1.0, 5000.0, -1.0, 0.0]), name="bn"))

    check_fold(graph, expect=["BiasAdd", "MatMul"], statuses=[Status.DOWN], refused={})


def test_the_reason_names_the_op():
    built = build(lambda: g.dense(normalised(g.placeholder(16, 8), 101325, 20)))
    (outcome,) = fold_graph(built.graph_def, built.outputs).outcomes
    assert [way.reason for way in outcome.refusal.ways] == [Reason.GRAPH_INPUT, Reason.CANCELLATION]
