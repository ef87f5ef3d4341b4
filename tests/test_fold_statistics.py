"""Statistics as trained models have them, and constants that do not fit the graph's dtype."""

from __future__ import annotations

import graphs as g
import numpy as np
import pytest
import tensorflow as tf
from checker import build, check_fold, ops_left, run

from tf_bnfold.fold import fold_graph
from tf_bnfold.outcome import Status
from tf_bnfold.reasons import Reason

raw = tf.raw_ops

CHANNELS = 256


def trained(seed=0, *, dead=0, spread=1.0):
    """gamma, beta, mean and variance of many channels; `dead` of them have variance 0, as a ReLU that never fires."""
    rng = np.random.default_rng(seed)
    gamma = rng.normal(1, 0.5, CHANNELS) * np.where(rng.random(CHANNELS) < 0.1, -1, 1)
    beta, mean = rng.normal(0, 1, (2, CHANNELS))
    variance = np.exp(rng.normal(0, spread, CHANNELS))
    gone = rng.choice(CHANNELS, dead, replace=False)
    variance[gone] = 0.0
    mean[gone] = 0.0
    return {
        name: g.numbers(v, name=name)
        for name, v in (("gamma", gamma), ("beta", beta), ("mean", mean), ("variance", variance))
    }


def block(x=None, out=CHANNELS):
    return g.conv(g.image() if x is None else x, out, 1)


@pytest.mark.parametrize("up", [True, False])
@pytest.mark.parametrize("epsilon", [1e-12, 1e-7, 1e-5, 1e-3, 1e-2])
def test_variance_of_zero_in_hundreds_of_channels(epsilon, up):
    """gamma / sqrt(0 + epsilon) is 1e6 at the most: large, finite and what the original computes."""

    def graph():
        statistics = trained(dead=200)
        if up:
            return g.norm(block(), epsilon=epsilon, **statistics)
        return g.conv(g.norm(g.image(CHANNELS), epsilon=epsilon, **statistics), 4, 1)

    check_fold(graph, expect=["BiasAdd", "Conv2D"], rtol=1e-5)


def test_scales_of_eleven_decades_in_one_graph():
    """6e-9 to 165 in one model; each channel is right beside its own size."""

    def graph():
        scales = np.geomspace(6e-9, 165.0, CHANNELS) * np.where(np.arange(CHANNELS) % 3, 1, -1)
        return raw.Mul(x=block(), y=g.numbers(scales))

    check_fold(graph, expect=["Conv2D"])


def test_variance_of_1e13():
    def graph():
        statistics = trained(spread=15.0)
        variance = tf.constant(np.where(np.arange(CHANNELS) % 2, 1e13, 0.5), tf.float32)
        return g.norm(block(), **{**statistics, "variance": variance})

    check_fold(graph, expect=["BiasAdd", "Conv2D"], rtol=1e-5)


@pytest.mark.parametrize("gamma", [0.0, 1.0, -1.0])
def test_gamma_the_same_throughout(gamma):
    """Zero, as residual branches begin with; 1, as Keras' scale=False; -1."""

    def graph():
        return g.norm(block(), **{**trained(), "gamma": g.numbers([gamma] * CHANNELS)})

    check_fold(graph, expect=["BiasAdd", "Conv2D"])


def test_gamma_of_zero_before_a_convolution():
    """The weights of those channels become zero; beta is all that is left of them."""

    def graph():
        gamma = g.numbers([0.0, 1.0, 0.0, -2.0])
        return g.conv(g.norm(g.image(4), gamma=gamma), 3)

    check_fold(graph, expect=["BiasAdd", "Conv2D"], statuses=[Status.DOWN])


def test_epsilon_of_zero():
    check_fold(lambda: g.norm(block(), epsilon=0.0, **trained()), expect=["BiasAdd", "Conv2D"])


def test_a_batch_norm_that_changes_nothing():
    """gamma 1, beta 0, mean 0, variance 1, epsilon 0: it goes, and no constant is rewritten."""

    def graph():
        one, zero = g.numbers([1.0] * 4), g.numbers([0.0] * 4)
        return g.norm(g.conv(g.image()), gamma=one, beta=zero, mean=zero, variance=one, epsilon=0.0)

    folding = check_fold(graph, expect=["Conv2D"])
    assert "conv/weights" in {node.name for node in folding.graph_def.node}


@pytest.mark.parametrize(
    "form", [lambda x: x * 1.0 + 0.0, lambda x: x * g.numbers([1.0] * 4), lambda x: x + g.numbers([[0.0] * 4])]
)
def test_identities_go(form):
    """Where nothing could take them either."""
    for source in (lambda: g.image(4), lambda: tf.tanh(g.image(4))):
        check_fold(lambda source=source: tf.nn.elu(form(source())))


# What does not fit.


@pytest.mark.parametrize(
    ("scale", "reason"),
    [
        (1e38, None),
        (3e38, Reason.NOT_FINITE),
        (1e-30, None),
        (1e-36, Reason.SUBNORMAL),
        (1e-40, Reason.SUBNORMAL),
        (np.inf, Reason.NOT_FINITE),
        (np.nan, Reason.NOT_FINITE),
    ],
)
def test_scales_at_the_ends_of_float32(scale, reason):
    """Weights of 1.5: the largest and the smallest scale that they can take."""

    def graph():
        weights = g.numbers(np.full((1, 1, 3, 4), 1.5))
        return raw.Mul(x=g.conv(g.image(), weights=weights), y=g.numbers([1.0, 2.0, scale, 3.0]), name="site")

    built = build(graph)
    folding = fold_graph(built.graph_def, built.outputs)
    assert [o.refusal.reason if o.refusal else None for o in folding.outcomes] == [reason]
    if reason is None:
        assert ops_left(folding.graph_def) == ["Conv2D"]
    else:
        assert folding.graph_def == built.graph_def


@pytest.mark.parametrize("offset", [3e38, np.inf, np.nan])
def test_an_offset_that_does_not_fit(offset):
    """beta - mean * scale overflows, or is no number."""

    def graph():
        beta = g.numbers([1.0, offset, 0.0, 0.0])
        return g.norm(g.conv(g.image()), beta=beta, mean=g.numbers([0.0, -3e38, 0.0, 0.0]), gamma=g.numbers([1.0] * 4))

    built = build(graph)
    folding = fold_graph(built.graph_def, built.outputs)
    assert folding.graph_def == built.graph_def
    assert folding.outcomes[0].refusal.reason is Reason.NOT_FINITE


def test_a_bias_before_that_does_not_fit():
    """Each weight fits, but their sum times the offset does not."""

    def graph():
        x = raw.AddV2(x=g.image(4), y=g.numbers([1e38] * 4), name="site")
        return g.conv(x, weights=g.numbers(np.full((2, 2, 4, 3), 10.0)))

    built = build(graph)
    folding = fold_graph(built.graph_def, built.outputs)
    assert folding.graph_def == built.graph_def
    assert "NOT_FINITE" in folding.outcomes[0].refusal.detail


@pytest.mark.parametrize("scale", [60000.0, 1e6, 1e-9])
def test_half_precision_ends_earlier(scale):
    """float16 holds 65504 at the most, and loses its precision below 6e-5."""

    def graph():
        weights = g.numbers(np.full((1, 1, 3, 4), 1.5), tf.float16)
        x = tf.cast(g.conv(g.image(dtype=tf.float16), weights=weights), tf.float32)
        return raw.Mul(x=x, y=g.numbers([1.0, 2.0, scale, 3.0]), name="site")

    built = build(graph)
    folding = fold_graph(built.graph_def, built.outputs)
    assert folding.outcomes[0].status is Status.KEPT
    assert folding.outcomes[0].refusal.reason in (Reason.NOT_FINITE, Reason.SUBNORMAL)
    assert folding.graph_def == built.graph_def


def test_weights_that_are_not_finite_stay():
    """An infinite weight times a scale of zero would be NaN."""

    def graph():
        values = np.full((1, 1, 3, 4), 1.5)
        values[0, 0, 1, 2] = np.inf
        return raw.Mul(x=g.conv(g.image(), weights=g.numbers(values)), y=g.numbers([1.0, 2.0, 0.0, 3.0]), name="site")

    built = build(graph)
    folding = fold_graph(built.graph_def, built.outputs)
    assert folding.outcomes[0].refusal.reason is Reason.NOT_FINITE


def test_a_division_by_zero():
    """x / 0 is no affine."""

    def graph():
        return raw.RealDiv(x=g.conv(g.image()), y=g.numbers([1.0, 0.0, 2.0, 3.0]), name="site")

    built = build(graph)
    folding = fold_graph(built.graph_def, built.outputs)
    assert folding.graph_def == built.graph_def
    assert folding.outcomes[0].refusal.reason in (Reason.NOT_FINITE, Reason.BAD_VARIANCE)


def layers(seed, depth=50, channels=16):
    """Weights, gamma, beta, mean and variance of a stack whose values keep their size; float32."""
    rng = np.random.default_rng(seed)
    for _ in range(depth):
        gamma = rng.uniform(1.0, 2.0, channels) * np.where(rng.random(channels) < 0.2, -1, 1)
        beta, mean = rng.normal(0, 0.5, (2, channels))
        weights = rng.normal(0, 1 / np.sqrt(9 * channels), (3, 3, channels, channels))
        yield [v.astype(np.float32) for v in (weights, gamma, beta, mean, np.exp(rng.normal(0, 0.5, channels)))]


def stack(seed):
    """Convolution, batch norm, ReLU, fifty times."""
    x = g.placeholder(2, 16, 16, 16)
    for weights, gamma, beta, mean, variance in layers(seed):
        x = g.conv(x, weights=g.numbers(weights), padding="SAME")
        x = g.norm(x, gamma=g.numbers(gamma), beta=g.numbers(beta), mean=g.numbers(mean), variance=g.numbers(variance))
        x = tf.nn.relu(x)
    return tf.identity(x, name="out")


def exact_stack(seed, x):
    """The same in float64, op by op."""
    for weights, gamma, beta, mean, variance in layers(seed):
        y = tf.nn.conv2d(x, weights.astype(np.float64), 1, "SAME")
        x = tf.nn.relu(
            (y - mean) / np.sqrt(variance.astype(np.float64) + np.float64(np.float32(g.EPSILON))) * gamma + beta
        )
    return x.numpy()


def test_folding_costs_no_precision():
    """Against float64, over 20 stacks of 50 layers: the folded graph's error is the original's, on the average."""
    ratios = []
    for seed in range(20):
        built = build(lambda seed=seed: stack(seed))
        folding = fold_graph(built.graph_def, built.outputs)
        x = np.random.default_rng(seed).standard_normal((2, 16, 16, 16)).astype(np.float32)
        exact = exact_stack(seed, tf.constant(x, tf.float64))
        original, folded = (run(d, ["out:0"], {"x:0": x})[0] for d in (built.graph_def, folding.graph_def))
        ratios.append(np.linalg.norm(folded - exact) / np.linalg.norm(original - exact))
    assert np.exp(np.mean(np.log(ratios))) <= 1.05, ratios
    assert max(ratios) <= 2, ratios


@pytest.mark.parametrize("tiny", [1e-20, 1e-30])
def test_scales_that_vanish_together(tiny):
    """1e-30 and 1e-30 are numbers of float32, their product is not: large inputs would become zero."""

    def graph():
        x = raw.Mul(x=g.image(4), y=g.numbers([tiny, 2.0 * tiny, tiny, tiny]))
        x = raw.MaxPool(input=x, ksize=[1, 2, 2, 1], strides=[1, 1, 1, 1], padding="SAME")
        return raw.Mul(x=x, y=g.numbers([tiny, tiny, 3.0 * tiny, tiny]))

    check_fold(graph, expect=["MaxPool", "Mul", "Mul"])


@pytest.mark.parametrize(
    "form", [lambda x, s: raw.Mul(x=x, y=g.numbers(s)), lambda x, s: g.norm(x, gamma=g.numbers(s))]
)
def test_scales_that_overflow_together(form):
    """1e30 times 1e30 would be infinite in one constant; inputs of 1e-30 give 1e30."""

    def graph():
        x = raw.Mul(x=g.image(4), y=g.numbers([1e30, 2e30, 1e30, 1e30]))
        x = raw.MaxPool(input=x, ksize=[1, 2, 2, 1], strides=[1, 1, 1, 1], padding="SAME")
        return form(x, [1e30, 1e30, 3e30, 1e30])

    built = build(graph)
    folding = fold_graph(built.graph_def, built.outputs)
    assert folding.graph_def == built.graph_def
