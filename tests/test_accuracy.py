"""Folding rounds no worse than the original: errors of both against the same stack in float64."""

from __future__ import annotations

import numpy as np
import tensorflow as tf
from checker import build, run

from tf_bnfold.fold import fold_graph

LAYERS, SEEDS = 50, 20


def stack(seed: int, dtype: tf.DType = tf.float32) -> list[tf.Tensor]:
    """Conv - batch norm - ReLU, fused and decomposed in turn, with statistics that keep the values in range.

    In float64 every batch norm is written out: TensorFlow fuses none in that dtype.
    """
    rng = np.random.default_rng(seed)

    def constant(values: np.ndarray) -> tf.Tensor:
        return tf.constant(values.astype(np.float32).astype(dtype.as_numpy_dtype))

    def vector(low: float, high: float) -> tf.Tensor:
        return constant(rng.uniform(low, high, 8))

    x = tf.compat.v1.placeholder(dtype, [2, 8, 8, 8])
    for layer in range(LAYERS):
        x = tf.nn.conv2d(x, constant(rng.standard_normal((3, 3, 8, 8)) / 8), 1, "SAME")
        gamma, beta, mean, variance = vector(-1.5, 1.5), vector(-0.5, 1.0), vector(-0.3, 0.3), vector(0.3, 1.2)
        if layer % 2 and dtype == tf.float32:
            x = tf.compat.v1.nn.fused_batch_norm(x, gamma, beta, mean, variance, epsilon=1e-3, is_training=False)[0]
        else:
            scale = gamma * tf.math.rsqrt(variance + float(np.float32(1e-3)))
            x = tf.add(tf.multiply(x, scale), beta - mean * scale)
        x = tf.nn.relu(x)
    return [x]


def test_folding_a_deep_stack_rounds_no_worse():
    ratios = []
    for seed in range(SEEDS):
        built = build(lambda seed=seed: stack(seed))
        folded = fold_graph(built.graph_def, built.outputs).graph_def
        output = [f"{built.outputs[0]}:0"]
        image = np.random.default_rng(seed).standard_normal((2, 8, 8, 8)).astype(np.float32)
        wide = build(lambda seed=seed: stack(seed, tf.float64))
        (exact,) = run(wide.graph_def, [f"{wide.outputs[0]}:0"], {"Placeholder:0": image.astype(np.float64)})
        (before,), (after,) = (run(graph, output, {"Placeholder:0": image}) for graph in (built.graph_def, folded))
        ratios.append(np.sqrt(np.mean((after - exact) ** 2)) / np.sqrt(np.mean((before - exact) ** 2)))
    assert np.exp(np.mean(np.log(ratios))) <= 1.05, ratios
    assert max(ratios) <= 2, ratios
