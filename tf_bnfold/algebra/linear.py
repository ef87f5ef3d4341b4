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
        if self.out_channel.size == self.channels_out:
            others = tuple(axis for axis, size in enumerate(self.out_channel.shape) if size == 1)
            lined_up = magnitudes.max(axis=others, keepdims=True, initial=0.0)
            peaks = np.zeros(self.channels_out)
            peaks[self.out_channel.ravel()] = np.broadcast_to(lined_up, self.out_channel.shape).ravel()
            return peaks
        peaks = np.zeros(self.channels_out)
        np.maximum.at(peaks, np.broadcast_to(self.out_channel, weights.shape).ravel(), magnitudes.ravel())
        return peaks


def scaled(weights: Array, scalings: Iterable[tuple[IntArray, Vector]]) -> npt.NDArray[np.float64]:
    """Weights times the scale of each weight's channel, for several channels at once, in float64."""
    result = weights.astype(np.float64)
    for channel, scale in scalings:
        result = result * _per_weight(scale, channel)
    return result


def _per_weight(vector: Vector, channel: IntArray) -> Vector:
    return vector if vector.size == 1 else vector[channel]
