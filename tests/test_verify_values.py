"""How two values are compared, and what findings say. Knows numpy only, as the module does."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import tensorflow as tf

from tf_bnfold.verify.measure import difference, limit_for, output_difference, with_channels
from tf_bnfold.verify.values import Comparison, Difference, LeftOut


@pytest.mark.parametrize(
    ("result", "original", "error", "share"),
    [
        ([1.0, 2.0], [1.0, 2.0], 0, 0),
        ([1.0, 2.2], [1.0, 2.0], 0.1, 0.5),
        ([5.0, 2.0], [np.inf, 2.0], 0, 0),
        ([5.0, np.nan], [np.nan, 2.0], math.inf, 0.5),
        ([np.inf, 2.0], [1.0, 2.0], math.inf, 0.5),
        ([0.0, 1e-9], [0.0, 0.0], 1e-9, 0),
        ([1, 3], [1, 2], math.inf, 0.5),
        ([1, 2], [1, 2], 0, 0),
        ([True, False], [True, True], math.inf, 0.5),
        ([], [], 0, 0),
        ([1.0], [1.0, 2.0], math.inf, 1),
        ([1 + 1j], [1.0 + 0j], 1, 1),
    ],
)
def test_difference(result, original, error, share):
    found = difference(np.array(result), np.array(original), 1e-3)
    assert found.error == pytest.approx(error)
    assert found.share == share
    assert found.failed == (error > 1e-3)


@pytest.mark.parametrize(
    ("original", "telling"),
    [
        ([1.0], True),
        ([np.nan, 1.0], True),
        ([np.nan, np.nan, 1.0], False),
        ([np.nan], False),
        ([np.inf, -np.inf], False),
        ([-np.inf, -np.inf, -np.inf, 1.0], True),  # a mask
        ([1], True),
        ([], True),
    ],
)
def test_a_tensor_without_numbers_says_nothing(original, telling):
    found = difference(np.array(original), np.array(original), 1e-3)
    assert found.left_out is (None if telling else LeftOut.NOT_FINITE)
    judged = difference(np.array([1.0]), np.array([1.0]), 1e-3)
    assert found.with_run(judged).left_out is judged.with_run(found).left_out is None
    assert found.unwatched().with_run(judged).left_out is LeftOut.UNWATCHED


def test_limits_follow_the_dtype():
    assert limit_for(np.float32, 1e-3) == 1e-3
    assert limit_for(np.float16, 1e-3) == 16 * 2.0**-10
    assert limit_for(tf.bfloat16.as_numpy_dtype, 1e-3) == 16 * 2.0**-7
    assert limit_for(np.float16, 0.5) == 0.5


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [1e-30, 1.0, 1e30])
def test_a_difference_is_what_float64_gives(dtype, size):
    """Finite values are compared in their own dtype."""
    random = np.random.default_rng(0)
    original = (size * random.normal(size=(50, 7))).astype(dtype)
    result = (original * (1 + 1e-2 * random.normal(size=original.shape))).astype(dtype)
    distance = np.abs(result.astype(np.float64) - original)
    scale = np.abs(original.astype(np.float64)).max()
    found = difference(result, original, 1e-3)
    assert found.error == pytest.approx(distance.max() / scale, rel=1e-6)
    assert found.share == pytest.approx(np.mean(distance > 1e-3 * scale), abs=0.01)


def test_a_difference_too_large_for_the_dtype_is_measured():
    most = np.array([np.finfo(np.float32).max, 1.0], np.float32)
    assert difference(-most, most, 1e-3).error == pytest.approx(2)


def test_the_worst_is_the_nearest_to_its_limit():
    tensors = {
        "half": Difference(5e-3, 0, 1.6e-2),
        "single": Difference(2e-3, 0, 1e-3),
        "decided": Difference(None, 0.5, 1e-3),
    }
    comparison = Comparison("a with b", tensors, 1)
    assert comparison.worst == "single"
    assert comparison.failed == ("single",)
    assert comparison.differing == {"decided": 0.5}
    alone = dataclasses.replace(comparison, tensors={"decided": tensors["decided"]})
    assert alone.error is alone.limit is None
    assert not alone.failed


def values_of_channels(sizes, axis: int):
    """[6, 8, C] or with the channels elsewhere, each channel as large as `sizes` says."""
    values = np.random.default_rng(0).uniform(-1, 1, size=(6, 8, len(sizes)))
    return np.moveaxis(values * np.array(sizes), -1, axis).astype(np.float32)


@pytest.mark.parametrize("axis", [-1, 1])
@pytest.mark.parametrize(
    ("size", "wrong", "error"),
    [
        (1.0, 0.1, 0.1),
        (0.05, 0.01, 0.01),  # of the whole tensor 5e-4, which is accepted
        (0.01, 0.03, 0.03 * 0.01 * 32),  # counts as 1/32
        (1e-3, 0.02, 2e-5),  # too small to tell from rounding
    ],
)
def test_a_channel_is_judged_by_its_own_size(axis, size, wrong, error):
    original = values_of_channels([1.0, size, 0.5], axis)
    result = original + values_of_channels([0.0, wrong * size, 0.0], axis)
    found = with_channels(difference(result, original, 1e-3), result, original, axis)
    assert found.error == pytest.approx(error, rel=0.05)
    assert found.failed == (error > 1e-3)


def test_channels_are_not_judged_by_themselves_where_a_coarse_dtype_is_on_the_way():
    original = values_of_channels([1.0, 0.01], -1)
    result = original * np.array([1, 1.5], np.float32)
    for limit, failed in ((1e-3, True), (limit_for(np.float16, 1e-3), False)):
        whole = difference(original + (result - original) / 10, original, limit)
        found = with_channels(whole, original + (result - original) / 10, original, -1)
        assert not whole.failed
        assert found.failed is failed


def test_an_output_of_another_dtype_is_wrong():
    ones = np.ones(3, np.int64)
    assert output_difference(ones.astype(np.int32), ones, 1e-3).error == math.inf
    assert not output_difference(ones, ones, 1e-3).failed
    texts = np.array([b"a", b"b"], object)
    assert not output_difference(texts.astype("S"), texts, 1e-3).failed
