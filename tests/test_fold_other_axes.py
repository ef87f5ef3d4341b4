"""An affine along an axis that a constant matrix leaves alone passes the product: graphs, mixers of tokens."""

from __future__ import annotations

import graphs as g
import pytest
import tensorflow as tf
from checker import check_fold

from tf_bnfold.outcome import Status
from tf_bnfold.reasons import Reason

raw = tf.raw_ops
UP = {
    "einsum": lambda x: tf.einsum("vw,bwc->bvc", g.const(6, 6), x),
    "einsum-data-first": lambda x: tf.einsum("bwc,vw->bvc", x, g.const(6, 6)),
    "matrix-first": lambda x: raw.BatchMatMulV2(x=g.const(6, 6), y=x),
    "tokens-last": lambda x: tf.transpose(tf.transpose(x, [0, 2, 1]) @ g.const(6, 6), [0, 2, 1]),
}


@pytest.mark.parametrize("mix", UP.values(), ids=UP)
def test_a_scale_behind_goes_to_the_linear_op_before(mix):
    def graph():
        x = g.placeholder(2, 6, 4) @ g.const(4, 5)
        return tf.nn.relu(g.scale(mix(x), name="site"))

    (outcome,) = check_fold(graph).outcomes
    assert outcome.status is Status.UP
    assert len(outcome.sinks) == 1


@pytest.mark.parametrize("mix", UP.values(), ids=UP)
def test_of_a_batch_norm_behind_the_offset_stays(mix):
    def graph():
        return tf.nn.relu(g.affine(mix(g.placeholder(2, 6, 4) @ g.const(4, 5)), name="bn"))

    (outcome,) = check_fold(graph).outcomes
    assert outcome.status is Status.PARTLY


@pytest.mark.parametrize("mix", UP.values(), ids=UP)
def test_a_scale_before_goes_to_the_linear_op_behind(mix):
    def graph():
        return mix(g.scale(tf.nn.relu(g.placeholder(2, 6, 4)), name="site")) @ g.const(4, 5)

    (outcome,) = check_fold(graph).outcomes
    assert outcome.status is Status.DOWN


def test_a_convolution_lets_nothing_pass():
    def graph():
        return raw.Mul(x=g.conv(g.placeholder(2, 5, 6, 3)), y=g.const(2, 1, 1, 1), name="site")

    check_fold(graph, refused={"site": Reason.CHANNEL_AXIS})
