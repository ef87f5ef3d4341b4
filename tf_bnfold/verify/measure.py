"""Measure how far one value is from another. Knows numpy only."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tf_bnfold.verify.values import Array, Difference, LeftOut

# Two correct runs may differ by this many roundings of the coarsest dtype on the way. Roundings of n ops in a row add
# up like a random walk, to the square root of n: this allows for 256 ops. For float32 it is far below a sensible rtol.
_ROUNDINGS = 16
_LEAST_CHANNEL = 1 / 32
# Every op of two right runs may round in another way, not the constants alone; what was seen is up to 3.
_MORE_THAN_ROUNDING = 8.0
_NO_LIMIT = 0.1
_NOTHING = 1e-300
_TEXT = frozenset("OSU")  # kinds of dtypes in which strings come
_PRECISE = frozenset({np.dtype(np.float32), np.dtype(np.float64)})  # a difference of two has an error of one rounding


def limit_for(dtype: npt.DTypeLike, rtol: float) -> float:
    """Return the error to accept where the coarsest float dtype on the way is `dtype`: rtol or 16 roundings."""
    return max(rtol, _ROUNDINGS * rounding(dtype))


def rounding(dtype: npt.DTypeLike) -> float:
    """Return the distance from 1 to the next number of a float dtype, 0 for other dtypes."""
    kind = np.dtype(dtype)
    if kind.name == "bfloat16":
        return 2.0**-7
    return float(np.finfo(kind).eps) if kind.kind in "fc" else 0.0


def difference(result: Array, original: Array, limit: float) -> Difference:
    """Measure how far a result is from its original.

    Args:
      result: The value found, any dtype.
      original: The value expected, same dtype.
      limit: The error that is accepted.

    Returns:
      The difference, over the values that are finite in the original. Shapes that differ are an infinite error. It says
      nothing of a tensor that has no such value, or more NaNs than others.
    """
    if result.shape != original.shape:
        return Difference(math.inf, 1.0, limit)
    if not original.size:
        return Difference(0.0, 0.0, limit)
    if rounding(original.dtype) == 0.0:
        share = float(np.mean(result != original))
        return Difference(math.inf if share else 0.0, share, limit)
    if original.dtype in _PRECISE and (found := _finite_difference(result, original, limit)) is not None:
        return found
    wide = np.complex128 if original.dtype.kind == "c" else np.float64
    a, b = result.astype(wide), original.astype(wide)
    finite = np.isfinite(b)
    scale = float(np.max(np.abs(b), where=finite, initial=0.0)) or 1.0
    with np.errstate(invalid="ignore", over="ignore"):
        distance = np.abs(a - b)
    distance = np.where(finite, np.where(np.isfinite(a), distance, math.inf), 0.0)
    left_out = None if is_telling(original) else LeftOut.NOT_FINITE
    return Difference(float(distance.max()) / scale, float(np.mean(distance > limit * scale)), limit, left_out)


def output_difference(result: Array, original: Array, limit: float) -> Difference:
    """Measure how far an output is from its original; without elements it says nothing, as without numbers.

    A dtype that differs is an infinite error, as a shape is: who reads the output would take its bytes for others.
    """
    if result.dtype != original.dtype and not {result.dtype.kind, original.dtype.kind} & _TEXT:
        return Difference(math.inf, 1.0, limit)
    found = difference(result, original, limit)
    return found if found.failed or original.size else dataclasses.replace(found, left_out=LeftOut.EMPTY)


def with_channels(found: Difference, result: Array, original: Array, axis: int) -> Difference:
    """Judge each channel of what a linear op computes by its own size: one may be a thousand times larger than another.

    Args:
      found: The difference of the whole tensor.
      result: The value found.
      original: The value expected, same shape.
      axis: Of the channels.

    Returns:
      The largest error of a channel where that is not accepted, else `found`. Where a coarse dtype is on the way a
      channel may be of any size, and none is judged by itself.
    """
    least = found.limit * _LEAST_CHANNEL
    if found.error is None or not least < found.error <= found.limit or found.limit >= limit_for(np.float16, 0):
        return found
    errors = _channel_errors(result, original, axis)
    error = float(errors.max())
    if error <= found.limit:
        return found
    return dataclasses.replace(found, error=error, share=float(np.mean(errors > found.limit)))


def within_rounding(
    found: Difference, result: Array, original: Array, rounded: Sequence[Array], axis: int | None
) -> Difference:
    """Accept a difference that rounding explains.

    Args:
      found: The difference.
      result: The value found.
      original: The value expected, same shape.
      rounded: What the original's graph computes in runs with constants that are off by one rounding.
      axis: Of the channels, None where these are not judged by themselves.

    Returns:
      The difference with a limit of eight times what rounding makes, where that is enough, else `found`. Where rounding
      moves even the whole tensor further than was to be accepted, single channels of it are not judged; and where that
      limit is no limit any more, the run says nothing of the tensor.
    """
    if any(value.shape != original.shape for value in rounded):
        return found

    def whole(value: Array) -> npt.NDArray[np.float64]:
        return np.array([difference(value, original, found.limit).error or 0.0])

    def limits_by(errors_of: Callable[[Array], npt.NDArray[np.float64]]) -> npt.NDArray[np.float64]:
        moved: npt.NDArray[np.float64] = np.max([errors_of(value) for value in rounded], axis=0)
        return np.maximum(found.limit, _MORE_THAN_ROUNDING * moved)

    errors, limits = whole(result), limits_by(whole)
    if axis is not None and limits[0] == found.limit:
        by_channel = functools.partial(_channel_errors, original=original, axis=axis)
        errors, limits = by_channel(result), limits_by(by_channel)
    if not (np.isfinite(limits) & (errors <= limits)).all():
        return found
    if limits.max() > _NO_LIMIT:
        return dataclasses.replace(found, error=None, share=0.0, left_out=LeftOut.ROUNDING)
    worst = int(np.argmax(errors / limits))
    limit = float(limits[worst])
    return dataclasses.replace(
        found, error=float(errors[worst]), share=0.0, limit=limit, by_rounding=limit > found.limit
    )


def _channel_errors(result: Any, original: Any, axis: int) -> npt.NDArray[np.float64]:
    """The error of each channel, which counts as 1/32 as large as the largest one at least; float64 [channels]."""
    others = tuple(each for each in range(original.ndim) if each != axis % original.ndim)
    finite = np.isfinite(original)
    size = np.max(np.abs(original), axis=others, where=finite, initial=0.0).astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        distance = np.max(np.abs(result - original), axis=others, where=finite, initial=0.0).astype(np.float64)
    errors: npt.NDArray[np.float64] = distance / np.maximum(size, max(size.max() * _LEAST_CHANNEL, _NOTHING))
    return errors


def _finite_difference(result: Array, original: Array, limit: float) -> Difference | None:
    """Measure without a wider copy, which takes far longer than the run; None where not all values are finite."""
    with np.errstate(invalid="ignore", over="ignore"):
        distance = np.abs(np.subtract(result, original))
    most, scale = float(distance.max()), max(float(original.max()), -float(original.min()))
    if not (math.isfinite(most) and math.isfinite(scale)):
        return None
    scale = scale or 1.0
    share = float(np.mean(distance > limit * scale)) if most > limit * scale else 0.0
    return Difference(most / scale, share, limit)


def is_telling(value: Array) -> bool:
    """Tell whether a tensor has numbers to compare: a finite one, and no more NaNs than others."""
    if not value.size or rounding(value.dtype) == 0.0:
        return True
    wide = value.astype(np.complex128 if value.dtype.kind == "c" else np.float64)
    return bool(np.any(np.isfinite(wide)) and np.mean(np.isnan(wide)) <= 0.5)
