"""How a linear op `y = op(x, weights)` absorbs an affine.

From its output, `scale * op(x, w) == op(x, w * scale[out_channel])`, and the offset becomes a bias. From its input,
`op(scale * x, w) == op(x, w * scale[in_channel])`, and, where every position sees every tap, an offset adds a constant
to each output channel.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from tf_bnfold.algebra.affine import Vector
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

    def bias_before(self, weights: Array, offset: Vector) -> Vector:
        """Give what a shift of the input adds to the output, where taps are uniform.

        `op(x + offset, w) == op(x, w) + bias_before(w, offset)`.

        Returns:
          float64 [channels_out].
        """
        products = weights * _per_weight(offset, self.in_channel)
        feeds = np.broadcast_to(self.out_channel, products.shape)
        return np.bincount(feeds.ravel(), products.ravel(), minlength=self.channels_out).astype(np.float64)

    def peak(self, weights: Array) -> Vector:
        """The largest |weight| of each output channel, float64 [channels_out]."""
        magnitudes = np.abs(weights)
        shape = self.out_channel.shape
        peaks = np.zeros(self.channels_out)
        if self.out_channel.size == self.channels_out:
            others = tuple(axis for axis, size in enumerate(shape) if size == 1)
            # Without the axes of one element the rest has the shape of the channels, in their order.
            peaks[self.out_channel.ravel()] = np.maximum.reduce(magnitudes, axis=others, initial=0.0).ravel()
            return peaks
        np.maximum.at(peaks, np.broadcast_to(self.out_channel, weights.shape).ravel(), magnitudes.ravel())
        return peaks


def scaled(
    weights: Array, scalings: Iterable[tuple[IntArray, Vector]], dtype: npt.DTypeLike = np.float64
) -> npt.NDArray[Any]:
    """Weights times the scale of each weight's channel, for several channels at once.

    The products are float64; the last one is rounded to the dtype as it is written, without a copy in between.
    """
    factors = [_per_weight(scale, channel) for channel, scale in scalings]
    if not factors:
        return weights.astype(dtype)
    for factor in factors[:-1]:
        weights = np.multiply(weights, factor, dtype=np.float64)
    return np.multiply(weights, factors[-1], out=np.empty(weights.shape, dtype), dtype=np.float64, casting="unsafe")


def _per_weight(vector: Vector, channel: IntArray) -> Vector:
    return vector if vector.size == 1 else vector[channel]
