"""The algebra: affines compose, pass channel maps both ways, and are absorbed by linear ops as their equations say."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tf_bnfold.algebra.affine import Affine
from tf_bnfold.algebra.channels import ChannelMap, Needs
from tf_bnfold.algebra.linear import Linear, scaled
from tf_bnfold.reasons import Reason

NUMBERS = st.floats(-100, 100).map(lambda v: round(v, 3))


def affines(channels=4):
    vectors = hnp.arrays(np.float64, channels, elements=NUMBERS)
    return st.builds(Affine.of, vectors, vectors)


def apply(affine, x):
    return affine.scale * x + affine.offset


X = np.random.default_rng(0).standard_normal((7, 4))


@given(affines(), affines(), affines())
def test_composition(a, b, c):
    assert np.allclose(apply(a.then(b), X), apply(b, apply(a, X)))
    assert np.allclose(apply(a.then(b).then(c), X), apply(a.then(b.then(c)), X))
    assert np.array_equal(apply(a.then(Affine.identity()), X), apply(a, X))
    assert np.array_equal(apply(Affine.identity().then(a), X), apply(a, X))


@given(affines(1), affines(4))
def test_a_uniform_affine_broadcasts(one, many):
    assert one.then(many).channels == many.then(one).channels == 4
    assert np.allclose(apply(one.then(many), X), apply(many, apply(one, X)))
    assert np.allclose(apply(many.then(one), X), apply(one, apply(many, X)))


@given(affines())
def test_halves(affine):
    assert np.allclose(apply(affine.scale_part().then(affine.offset_part()), X), apply(affine, X))
    assert affine.scale_part().has_zero_offset
    assert affine.offset_part().has_unit_scale
    leading = affine.leading_offset()
    if (affine.scale != 0).all():
        assert leading.is_finite
        assert np.allclose(apply(leading.then(affine.scale_part()), X), apply(affine, X), atol=1e-6)
    elif (affine.offset[affine.scale == 0] != 0).any():
        assert not leading.is_finite


def test_a_leading_offset_of_zero_over_zero_is_not_finite():
    assert not Affine.of([0.0, 1.0], [0.0, 1.0]).leading_offset().is_finite


@given(
    hnp.arrays(np.float64, 4, elements=NUMBERS),
    hnp.arrays(np.float64, 4, elements=NUMBERS),
    hnp.arrays(np.float64, 4, elements=NUMBERS),
    hnp.arrays(np.float64, 4, elements=st.floats(0, 100)),
)
def test_a_batch_norm(gamma, beta, mean, variance):
    affine = Affine.from_batch_norm(gamma, beta, mean, variance, 1e-3)
    assert np.allclose(apply(affine, X), gamma * (X - mean) / np.sqrt(variance + 1e-3) + beta)


@pytest.mark.parametrize("variance", [-1.0, -1e-3, np.nan])
def test_a_batch_norm_without_a_root(variance):
    one = np.ones(1)
    assert not Affine.from_batch_norm(one, one, one, np.array([variance]), 1e-3).is_finite


def test_properties():
    affine = Affine.of([1.0, 2.0], 0.0)
    assert (affine.channels, affine.has_unit_scale, affine.has_zero_offset, affine.keeps_order) == (
        2,
        False,
        True,
        True,
    )
    assert not Affine.of([1.0, -1.0], 0.0).keeps_order
    assert Affine.of([0.0, 1.0], 0.0).keeps_order
    assert Affine.identity(3).is_identity
    assert not Affine.of(1.0, [0.0, 1e-300]).is_identity
    assert Affine.of(2.0, 3.0).channels == 1
    assert not Affine.of([np.inf, 1.0], 0.0).is_finite
    assert not Affine.of(1.0, [np.nan, 1.0]).is_finite


def test_condensed():
    assert Affine.of([2.0, 2.0], [1.0, 1.0]).condensed().channels == 1
    assert Affine.of([2.0, 2.0], [1.0, 1.5]).condensed().channels == 2


@pytest.mark.parametrize(
    ("needs", "affine", "reason"),
    [
        (Needs.NOTHING, Affine.of([-1.0, 2.0], 3.0), None),
        (Needs.ORDER, Affine.of([0.0, 2.0], 3.0), None),
        (Needs.ORDER, Affine.of([-1e-9, 2.0], 3.0), Reason.NEEDS_POSITIVE_SCALE),
        (Needs.ORDER, Affine.of([np.nan, 2.0], 3.0), Reason.NEEDS_POSITIVE_SCALE),
        (Needs.ZERO_OFFSET, Affine.of([-1.0, 2.0], 0.0), None),
        (Needs.ZERO_OFFSET, Affine.of(1.0, [0.0, 1e-300]), Reason.NEEDS_ZERO_OFFSET),
        (Needs.UNIT_SCALE, Affine.of([1.0, 1.0], 3.0), None),
        (Needs.UNIT_SCALE, Affine.of([1.0, 1 + 1e-15], 3.0), Reason.NEEDS_UNIT_SCALE),
        (Needs.ORDER | Needs.ZERO_OFFSET, Affine.of([1.0, 2.0], [0.0, 1.0]), Reason.NEEDS_ZERO_OFFSET),
    ],
)
def test_needs(needs, affine, reason):
    assert needs.broken_by(affine) is reason


# Channel maps: an op that picks output channel target[i] from input channel source[i].


@st.composite
def selections(draw):
    """A map in which each output channel reads one input channel, as Slice, Gather and Tile have."""
    channels_in, channels_out = draw(st.integers(1, 5)), draw(st.integers(1, 6))
    source = draw(st.lists(st.integers(0, channels_in - 1), min_size=channels_out, max_size=channels_out))
    return ChannelMap(0, 0, channels_in, channels_out, np.array(source, np.intp), np.arange(channels_out))


@given(selections(), st.data())
def test_push_through_a_selection(channel_map, data):
    """op(A(x)) == push(A)(op(x)), always: each output channel has one source."""
    into = data.draw(affines(channel_map.channels_in))
    x = np.random.default_rng(0).standard_normal(channel_map.channels_in)
    assert np.array_equal(apply(into, x)[channel_map.source], apply(channel_map.push(into), x[channel_map.source]))


@given(selections(), st.data())
def test_pull_through_a_selection(channel_map, data):
    """op(pull(A)(x)) == A(op(x)), or None exactly where two outputs of one channel want different affines."""
    out = data.draw(affines(channel_map.channels_out))
    x = np.random.default_rng(0).standard_normal(channel_map.channels_in)
    before = channel_map.pull(out)
    if before is None:
        pairs = list(zip(channel_map.source, out.scale, out.offset, strict=True))
        assert len({p[0] for p in pairs}) < len(set(pairs))
        return
    assert np.allclose(apply(before, x)[channel_map.source], apply(out, x[channel_map.source]))


def test_unread_channels_get_the_identity():
    channel_map = ChannelMap(0, 0, 4, 2, np.array([3, 1]), np.array([0, 1]))
    before = channel_map.pull(Affine.of([2.0, 3.0], [4.0, 5.0]))
    assert before is not None
    assert np.array_equal(before.scale, [1, 3, 1, 2])
    assert np.array_equal(before.offset, [0, 5, 0, 4])


def test_a_uniform_affine_and_a_part_of_the_channels():
    """Alone it may go to all channels; beside others it stays with its own."""
    channel_map = ChannelMap(0, 0, 4, 2, np.array([3, 1]), np.array([0, 1]))
    uniform = Affine.of(2.0, 3.0)
    assert channel_map.pull(uniform) is uniform
    own = channel_map.pull_own(uniform)
    assert own is not None
    assert np.array_equal(own.scale, [1, 2, 1, 2])


def test_what_one_input_of_a_concat_feeds():
    channel_map = ChannelMap(3, 3, 2, 5, np.arange(2), np.array([1, 2]))
    assert channel_map.feeds(5).tolist() == [False, True, True, False, False]
    assert ChannelMap(3, 3, 0, 0).feeds(3).all()


def test_channels_that_are_merged_must_agree():
    """Flattening channels away: all of them feed one."""
    channel_map = ChannelMap(0, 0, 3, 1, np.arange(3), np.zeros(3, np.intp))
    assert channel_map.push(Affine.of([1.0, 2.0, 1.0], 0.0)) is None
    merged = channel_map.push(Affine.of([2.0, 2.0, 2.0], 1.0))
    assert merged is not None
    assert (merged.scale, merged.offset) == ([2], [1])


# Linear: a grouped convolution of one tap by an einsum, with index arrays for its channels.


def grouped(groups, fan_in=2, group_out=3):
    outputs, channels = groups * group_out, groups * fan_in
    out_channel = np.arange(outputs)[None, :]
    in_channel = np.arange(fan_in)[:, None] + (out_channel // group_out) * fan_in
    return Linear(out_channel, in_channel, outputs, channels, uniform_taps=True)


def matrix(linear, weights):
    """The dense matrix [in, out] that the weights stand for."""
    dense = np.zeros((linear.channels_in, linear.channels_out))
    np.add.at(dense, np.broadcast_arrays(linear.in_channel, linear.out_channel), weights)
    return dense


@settings(max_examples=50)
@given(st.integers(1, 4), st.data())
def test_a_linear_op_absorbs(groups, data):
    """scale_out * (W (scale_in x + offset_in)) is a matrix and a bias."""
    linear = grouped(groups)
    weights = np.random.default_rng(groups).standard_normal((2, 3 * groups))
    before = data.draw(affines(linear.channels_in))
    after = data.draw(affines(linear.channels_out))
    x = np.random.default_rng(1).standard_normal((5, linear.channels_in))
    expected = after.scale * (apply(before, x) @ matrix(linear, weights))
    behind = (linear.out_channel, after.scale)
    folded = scaled(weights, [(linear.in_channel, before.scale), behind])
    bias = linear.bias_before(scaled(weights, [behind]), before.offset)
    assert np.allclose(x @ matrix(linear, folded) + bias, expected)


@given(affines(1))
def test_a_linear_op_absorbs_a_uniform_affine(affine):
    linear = grouped(2)
    weights = np.random.default_rng(0).standard_normal((2, 6))
    for channel in (linear.in_channel, linear.out_channel):
        assert np.allclose(scaled(weights, [(channel, affine.scale)]), weights * affine.scale)
    assert np.allclose(linear.bias_before(weights, affine.offset), affine.offset * weights.sum(0))


def test_scales_are_multiplied_in_float64():
    """Two scales that cancel leave the weights as they are, to the last bit."""
    linear, weights = grouped(1), np.float32([[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]])
    third = np.full(3, 1 / 3)
    folded = scaled(weights, [(linear.out_channel, third), (linear.out_channel, 1 / third)])
    assert folded.dtype == np.float64
    assert np.array_equal(folded.astype(np.float32), weights)


@pytest.mark.parametrize("groups", [1, 3])
def test_peaks(groups):
    """The largest magnitude of each output channel, by either way of counting."""
    linear = grouped(groups)
    weights = np.random.default_rng(0).standard_normal((2, 3 * groups))
    assert np.array_equal(linear.peak(weights), np.abs(weights).max(0))
    spread = Linear(
        np.broadcast_to(linear.out_channel, weights.shape), linear.in_channel, linear.channels_out, 2, uniform_taps=True
    )
    assert np.array_equal(spread.peak(weights), np.abs(weights).max(0))


def test_peaks_of_channels_in_another_order():
    """Depthwise: output channel c * multiplier + m lies along two axes of the weights."""
    weights = np.random.default_rng(0).standard_normal((2, 2, 3, 2))
    out_channel = np.arange(3)[:, None] * 2 + np.arange(2)
    linear = Linear(out_channel.reshape(1, 1, 3, 2), np.arange(3).reshape(1, 1, 3, 1), 6, 3, uniform_taps=True)
    assert np.array_equal(linear.peak(weights), np.abs(weights).max((0, 1)).ravel())
    assert np.array_equal(linear.peak(weights[:0]), np.zeros(6))
