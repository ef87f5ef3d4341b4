"""One value for batch norms, scales and shifts: y[..., c] = scale[c] * x[..., c] + offset[c]."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float64]

_T = TypeVar("_T")


class _Lazy(Generic[_T]):
    """`functools.cached_property` without its lock, which before Python 3.12 costs more than what is cached here."""

    def __init__(self, compute: Callable[[Any], _T]) -> None:
        self._compute = compute
        self.__doc__ = compute.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: Any, owner: type) -> _T:
        value = self._compute(instance)
        instance.__dict__[self._name] = value
        return value


@dataclasses.dataclass(frozen=True, eq=False)
class Affine:
    """A per-channel affine, `y[..., c] = scale[c] * x[..., c] + offset[c]`, in float64.

    An affine of one channel is uniform: it does the same to every channel, whatever the axis.

    Attributes:
      scale: float64 [C].
      offset: float64 [C].
    """

    scale: Vector
    offset: Vector

    @staticmethod
    def of(scale: npt.ArrayLike, offset: npt.ArrayLike) -> Affine:
        """Make an affine of anything that broadcasts to one vector."""
        s, o = np.asarray(scale, np.float64), np.asarray(offset, np.float64)
        if s.ndim == o.ndim == 1 and s.size == o.size:
            return Affine(s, o)
        size = max(s.size, o.size)
        return Affine(_stretched(s, size), _stretched(o, size))

    @staticmethod
    def identity(channels: int = 1) -> Affine:
        """The affine that changes nothing."""
        return _IDENTITY if channels == 1 else Affine(np.ones(channels), np.zeros(channels))

    @staticmethod
    def from_batch_norm(gamma: Vector, beta: Vector, mean: Vector, variance: Vector, epsilon: float) -> Affine:
        """`gamma * (x - mean) / sqrt(variance + epsilon) + beta`; all float64 [C].

        Where variance + epsilon is not positive the result is not finite, which `is_finite` tells.

        Source: Ioffe and Szegedy 2015, algorithm 2 (inference); op documentation of FusedBatchNormV3.
        """
        with np.errstate(all="ignore"):
            scale = gamma / np.sqrt(variance + epsilon)
            return Affine.of(scale, beta - mean * scale)

    @property
    def channels(self) -> int:
        """Number of channels; 1 for a uniform affine."""
        return int(self.scale.size)

    @_Lazy
    def peak_scale(self) -> float:
        """The largest |scale|; not finite when one is not."""
        return peak(self.scale)

    @_Lazy
    def peak_offset(self) -> float:
        """The largest |offset|; not finite when one is not."""
        return peak(self.offset)

    @property
    def is_finite(self) -> bool:
        """Whether every scale and offset is finite."""
        return math.isfinite(self.peak_scale) and math.isfinite(self.peak_offset)

    @_Lazy
    def has_unit_scale(self) -> bool:
        """Whether it only adds."""
        return _all_equal(self.scale, 1.0)

    @_Lazy
    def has_zero_offset(self) -> bool:
        """Whether it only scales."""
        return _all_equal(self.offset, 0.0)

    @property
    def is_identity(self) -> bool:
        """Whether it changes nothing."""
        return self.has_unit_scale and self.has_zero_offset

    @property
    def op_count(self) -> int:
        """How many ops it takes by itself: Mul, Add, or both."""
        return (not self.has_unit_scale) + (not self.has_zero_offset)

    @_Lazy
    def keeps_order(self) -> bool:
        """Whether every scale is at least 0, so that it is monotone and commutes with max."""
        return bool((self.scale >= 0).all())

    def condensed(self) -> Affine:
        """The same affine, uniform where every channel has the same scale and offset."""
        scale, offset = self.scale, self.offset
        if scale.size > 1 and _all_equal(scale, scale.item(-1)) and _all_equal(offset, offset.item(-1)):
            return Affine(self.scale[:1], self.offset[:1])
        return self

    def then(self, other: Affine) -> Affine:
        """`x -> other(self(x))`."""
        return Affine(other.scale * self.scale, other.scale * self.offset + other.offset)

    def scale_part(self) -> Affine:
        """The scale alone: `self == scale_part.then(offset_part)`."""
        return Affine.of(self.scale, 0.0)

    def offset_part(self) -> Affine:
        """The offset alone, as it is added behind the scale."""
        return Affine.of(np.ones_like(self.scale), self.offset)

    def leading_offset(self) -> Affine:
        """The offset alone, as it is added before the scale: `self == leading_offset.then(scale_part)`.

        Not finite where a scale is 0.
        """
        with np.errstate(all="ignore"):
            return Affine.of(np.ones_like(self.scale), self.offset / self.scale)


_IDENTITY = Affine(np.ones(1), np.zeros(1))


def peak(array: npt.NDArray[Any]) -> float:
    """The largest magnitude, 0 of nothing; not finite when one is not."""
    return float(np.maximum.reduce(np.abs(array), axis=None, initial=0.0))


def _stretched(array: Vector, size: int) -> Vector:
    return array.reshape(-1) if array.size == size else array.reshape(-1)[:1].repeat(size)


def _all_equal(vector: Vector, value: float) -> bool:
    """Whether all elements are `value`. The first one most often tells that not, without a pass over all."""
    return vector.size == 0 or (vector.item(0) == value and bool((vector == value).all()))
