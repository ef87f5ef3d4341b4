"""One value for batch norms, scales and shifts: y[..., c] = scale[c] * x[..., c] + offset[c]."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float64]


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
        return Affine(*(v.reshape(-1) if v.size == size else np.full(size, v.reshape(-1)[0]) for v in (s, o)))

    @staticmethod
    def identity(channels: int = 1) -> Affine:
        """The affine that changes nothing."""
        return Affine(np.ones(channels), np.zeros(channels))

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

    @functools.cached_property
    def is_finite(self) -> bool:
        """Whether every scale and offset is finite."""
        return bool(np.isfinite(self.scale).all() and np.isfinite(self.offset).all())

    @functools.cached_property
    def has_unit_scale(self) -> bool:
        """Whether it only adds."""
        return bool((self.scale == 1).all())

    @functools.cached_property
    def has_zero_offset(self) -> bool:
        """Whether it only scales."""
        return bool((self.offset == 0).all())

    @property
    def is_identity(self) -> bool:
        """Whether it changes nothing."""
        return self.has_unit_scale and self.has_zero_offset

    @functools.cached_property
    def keeps_order(self) -> bool:
        """Whether every scale is at least 0, so that it is monotone and commutes with max."""
        return bool((self.scale >= 0).all())

    def condensed(self) -> Affine:
        """The same affine, uniform where every channel has the same scale and offset."""
        if self.channels > 1 and (self.scale == self.scale[0]).all() and (self.offset == self.offset[0]).all():
            return Affine(self.scale[:1], self.offset[:1])
        return self

    def then(self, other: Affine) -> Affine:
        """`x -> other(self(x))`."""
        return Affine.of(other.scale * self.scale, other.scale * self.offset + other.offset)

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
