"""Dilated depthwise convolutions are compared on every machine, with zeros between their weights."""

from __future__ import annotations

import graphs as g
import numpy as np
import pytest
import tensorflow as tf
from checker import build, feeds_of, run

from tf_bnfold.verify.spread import with_spread_weights

raw = tf.raw_ops


@pytest.mark.parametrize("rates", [(2, 2), (3, 2), (1, 4)])
@pytest.mark.parametrize("padding", ["SAME", "VALID", "EXPLICIT"])
def test_the_values_stay(rates, padding):
    weights = np.random.default_rng(0).normal(size=(3, 2, 4, 2)).astype(np.float32)
    pads = [1, 2, 0, 3] if padding == "EXPLICIT" else [0] * 4

    def graph(*, native):
        x = tf.compat.v1.placeholder(tf.float32, [2, 9, 8, 4])
        if not native:  # as TensorFlow computes it without a dilated kernel
            x = tf.pad(x, [[0, 0], pads[:2], pads[2:], [0, 0]])
            plain = "SAME" if padding == "SAME" else "VALID"
            return tf.nn.depthwise_conv2d(x, weights, [1] * 4, plain, dilations=rates)
        explicit = [0, 0, *pads, 0, 0] if padding == "EXPLICIT" else []
        return raw.DepthwiseConv2dNative(
            input=x,
            filter=tf.constant(weights),
            strides=[1] * 4,
            padding=padding,
            explicit_paddings=explicit,
            dilations=[1, *rates, 1],
        )

    native, plain = (build(lambda native=native: graph(native=native)) for native in (True, False))
    spread = with_spread_weights(native.graph_def)
    assert all(list(n.attr["dilations"].list.i) == [1] * 4 for n in spread.node if n.op == "DepthwiseConv2dNative")
    feeds = feeds_of(spread, 0, 1.0)
    (found,) = run(spread, [f"{native.outputs[0]}:0"], feeds)
    (expected,) = run(plain.graph_def, [f"{plain.outputs[0]}:0"], feeds_of(plain.graph_def, 0, 1.0))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_other_graphs_are_not_copied():
    graph_def = build(lambda: g.conv(g.image())).graph_def
    assert with_spread_weights(graph_def) is graph_def
