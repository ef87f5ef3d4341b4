"""How a linear op absorbs an affine: `y = op(x, weights) + bias`, from its output and from its input."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt

from tf_bnfold.algebra.affine import Affine, Vector
from tf_bnfold.algebra.channels import IntArray

Array = npt.NDArray[Any]


@dataclasses.dataclass(frozen=True, eq=False)
class Linear:
    """How the weights of a linear op relate to its channels; `y = op(x, weights)`.

    Attributes:
      out_channel: Broadcastable to the weights' shape: the output channel that each weight feeds.
      in_channel: Likewise: the input channel that each weight reads.
      channels_out: Number of output channels.
      channels_in: Number of input channels.
      uniform_taps: Whether every output position sees every tap, so that an offset on the input is a constant
        per output channel (VALID, 1x1, matmul).
    """

    out_channel: IntArray
    in_channel: IntArray
    channels_out: int
    channels_in: int
    uniform_taps: bool

    def after(self, weights: Array, scale: Vector) -> npt.NDArray[np.float64]:
        """`scale * op(x, weights) == op(x, after(weights, scale))`; scale [channels_out] or [1]."""
        return weights * _per_weight(scale, self.out_channel)

    def before(self, weights: Array, scale: Vector) -> npt.NDArray[np.float64]:
        """`op(scale * x, weights) == op(x, before(weights, scale))`; scale [channels_in] or [1]."""
        return weights * _per_weight(scale, self.in_channel)

    def bias_before(self, weights: Array, offset: Vector) -> Vector:
        """`op(x + offset, weights) == op(x, weights) + bias_before(weights, offset)`, where taps are uniform.

        Returns:
          float64 [channels_out].
        """
        products = weights * _per_weight(offset, self.in_channel)
        feeds = np.broadcast_to(self.out_channel, products.shape)
        return np.bincount(feeds.ravel(), products.ravel(), minlength=self.channels_out)

    def peak(self, weights: Array) -> Vector:
        """The largest |weight| of each output channel, float64 [channels_out]."""
        magnitudes = np.abs(weights)
        if self.out_channel.size == self.channels_out:
            others = tuple(axis for axis, size in enumerate(self.out_channel.shape) if size == 1)
            lined_up = magnitudes.max(axis=others, keepdims=True, initial=0.0)
            peaks = np.zeros(self.channels_out)
            peaks[self.out_channel.ravel()] = np.broadcast_to(lined_up, self.out_channel.shape).ravel()
            return peaks
        peaks = np.zeros(self.channels_out)
        np.maximum.at(peaks, np.broadcast_to(self.out_channel, weights.shape).ravel(), magnitudes.ravel())
        return peaks


def absorb(linear: Linear, weights: Array, before: Affine, after: Affine) -> npt.NDArray[np.float64]:
    """The weights that have taken the scales of one affine before and one behind the op, in float64."""
    folded = weights.astype(np.float64)
    if not before.has_unit_scale:
        folded = linear.before(folded, before.scale)
    if not after.has_unit_scale:
        folded = linear.after(folded, after.scale)
    return folded


def _per_weight(vector: Vector, channel: IntArray) -> Vector:
    return vector if vector.size == 1 else vector[channel]
