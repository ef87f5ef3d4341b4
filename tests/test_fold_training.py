"""Batch norms that compute their statistics from the batch are named as such; norms of each sample are none."""

from __future__ import annotations

import graphs as g
import pytest
import tensorflow as tf
from checker import build, check_fold

from tf_bnfold.fold import fold_graph
from tf_bnfold.outcome import Kind
from tf_bnfold.reasons import Reason

raw = tf.raw_ops


def factor_first(x, mean, variance, channels):
    """As tf.nn.batch_normalization."""
    inverse = tf.math.rsqrt(variance + 1e-3) * g.signed(channels)
    return tf.multiply(x, inverse, name="bn") + (g.const(channels) - mean * inverse)


def written_out(x, mean, variance, channels):
    return tf.divide(x - mean, tf.sqrt(variance + 1e-3), name="bn") * g.signed(channels) + g.const(channels)


def squeezed(x, mean, variance, channels):
    return factor_first(x, tf.reshape(mean, [-1]), tf.reshape(variance, [-1]), channels)


@pytest.mark.parametrize("form", [factor_first, written_out, squeezed])
@pytest.mark.parametrize("dense", [False, True])
def test_statistics_of_the_batch(form, dense):
    def graph():
        x = g.rows(4) @ g.const(4, 5) if dense else g.conv(g.image(), 5)
        mean, variance = tf.nn.moments(x, [0] if dense else [0, 1, 2], keepdims=True)
        return tf.nn.relu(form(x, mean, variance, 5))

    built = build(graph)
    (norm,) = [each for each in fold_graph(built.graph_def, built.outputs).outcomes if each.name == "bn"]
    assert norm.kind is Kind.BATCH_NORM
    assert norm.refusal.reason is Reason.TRAINING_MODE
    check_fold(graph)


@pytest.mark.parametrize("axes", [[1, 2], [3], [1, 2, 3]])
def test_statistics_of_each_sample_make_no_batch_norm(axes):
    def graph():
        x = g.conv(g.image(), 5)
        mean, variance = tf.nn.moments(x, axes, keepdims=True)
        return tf.nn.relu(tf.multiply(x - mean, tf.math.rsqrt(variance + 1e-3), name="norm"))

    outcomes = check_fold(graph).outcomes
    assert "norm" not in {each.name for each in outcomes}
    assert not [each for each in outcomes if each.refusal and each.refusal.reason is Reason.TRAINING_MODE]


def test_a_variance_of_something_else():
    def graph():
        x, y = g.conv(g.image(), 5), g.conv(g.image(name="y"), 5)
        _, variance = tf.nn.moments(y, [0, 1, 2], keepdims=True)
        return tf.nn.relu(tf.multiply(x, tf.math.rsqrt(variance + 1e-3), name="norm"))

    assert "norm" not in {each.name for each in check_fold(graph).outcomes}


@pytest.mark.parametrize("batch", [None, 1, 3])
def test_a_layer_norm_of_keras_2_is_none(batch):
    """It makes channels of the samples, and lets a fused batch norm train on them."""

    def graph():
        x = g.placeholder(batch, 7, 6) @ g.const(6, 8)
        sizes = tf.shape(x)
        rows = sizes[0] * sizes[1]
        y = tf.reshape(x, tf.stack([1, rows, 8, 1]))
        ones, zeros = tf.fill([rows], 1.0), tf.fill([rows], 0.0)
        empty = tf.constant([], tf.float32)
        y = raw.FusedBatchNormV3(
            x=y, scale=ones, offset=zeros, mean=empty, variance=empty, data_format="NCHW", is_training=True, name="norm"
        )[0]
        return tf.reshape(y, sizes) * g.signed(8) + g.const(8)

    built = build(graph)
    folding = fold_graph(built.graph_def, built.outputs)
    assert "norm" not in {each.name for each in folding.outcomes}
    assert not [each for each in folding.outcomes if each.refusal.reason is Reason.TRAINING_MODE]
