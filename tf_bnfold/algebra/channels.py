"""How an op lets an affine pass: one law, read in both directions.

A law states `op(A_in(x)) == A_out(op(x))` by a channel map and a condition. `pull` gives A_in from A_out
(towards the producers), `push` gives A_out from A_in (towards the consumers).
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable, Iterable, Mapping

import numpy as np
import numpy.typing as npt

from tf_bnfold.algebra.affine import Affine
from tf_bnfold.reasons import Reason

IntArray = npt.NDArray[np.intp]


@dataclasses.dataclass(frozen=True, eq=False)
class ChannelMap:
    """Which input channels feed which output channels, as pairs (source[i], target[i]).

    Attributes:
      axis_in: Channel axis of the input; None where the input has none, so that only uniform affines enter.
      axis_out: Channel axis of the output.
      channels_in: Number of input channels.
      channels_out: Number of output channels.
      source: Input channel of each pair; None when channel c feeds channel c and no other.
      target: Output channel of each pair; None with `source`.
    """

    axis_in: int | None
    axis_out: int
    channels_in: int
    channels_out: int
    source: IntArray | None = None
    target: IntArray | None = None

    def pull(self, out: Affine) -> Affine | None:
        """The affine on the input that gives `out` on the output, or None when channels disagree.

        Input channels that feed nothing get the identity.
        """
        if out.channels == 1 or self.source is None or self.target is None:
            return out
        return _carry(out, self.target, self.source, self.channels_in)

    def pull_own(self, out: Affine) -> Affine | None:
        """As `pull`, where other input channels feed other outputs: a uniform affine stays with this one's channels."""
        if self.source is None or self.target is None:
            return self.pull(out)
        return _carry(_spread(out, self.channels_out), self.target, self.source, self.channels_in)

    def push(self, into: Affine) -> Affine | None:
        """The affine on the output that `into` on the input gives, or None when channels disagree.

        Output channels that this input does not feed get the identity.
        """
        if self.source is None or self.target is None:
            return into
        return _carry(_spread(into, self.channels_in), self.source, self.target, self.channels_out)

    def feeds(self, channels: int) -> npt.NDArray[np.bool_]:
        """Which of the output's `channels` this input feeds, bool [channels]."""
        if self.target is None:
            return np.ones(channels, bool)
        mask = np.zeros(channels, bool)
        mask[self.target] = True
        return mask


def _spread(affine: Affine, channels: int) -> Affine:
    """The affine with one entry per channel."""
    return Affine(*(np.broadcast_to(v, channels) for v in (affine.scale, affine.offset)))


def _carry(affine: Affine, take: IntArray, put: IntArray, channels: int) -> Affine | None:
    scale, offset = np.ones(channels), np.zeros(channels)
    scale[put], offset[put] = affine.scale[take], affine.offset[take]
    if (scale[put] != affine.scale[take]).any() or (offset[put] != affine.offset[take]).any():
        return None
    return Affine(scale, offset)


class Needs(enum.Flag):
    """What an op asks of an affine that passes it."""

    NOTHING = 0
    ORDER = enum.auto()  # scale >= 0
    ZERO_OFFSET = enum.auto()
    UNIT_SCALE = enum.auto()

    def broken_by(self, affine: Affine) -> Reason | None:
        """The reason for which `affine` may not pass, or None when it may."""
        if Needs.ORDER in self and not affine.keeps_order:
            return Reason.NEEDS_POSITIVE_SCALE
        if Needs.ZERO_OFFSET in self and not affine.has_zero_offset:
            return Reason.NEEDS_ZERO_OFFSET
        if Needs.UNIT_SCALE in self and not affine.has_unit_scale:
            return Reason.NEEDS_UNIT_SCALE
        return None


class Joins(enum.Enum):
    """How the inputs of an op that an affine passes come together."""

    EACH = "each output element is a selection or mean of elements that carry one affine"
    SUM = "inputs are added: the scale goes to all, the offset to any one"
    PRODUCT = "inputs are multiplied: the scale goes to any one"


# maps(port, output, axis_in, axis_out): the channel maps that fit the axis that is given (the other one is None);
# None when the port does not feed the output at all.
MapFinder = Callable[[int, int, "int | None", "int | None"], "Iterable[ChannelMap] | None"]


@dataclasses.dataclass(frozen=True)
class Fill:
    """A constant that the op writes beside its input's values, as Pad does.

    Attributes:
      value: The constant, or None when it is not known.
      axes: The output axes along which it is written.
      port: The input that holds the constant, or None when it is fixed.
    """

    value: float | None
    axes: tuple[int, ...]
    port: int | None


@dataclasses.dataclass(frozen=True)
class Law:
    """`op(A_in(x)) == A_out(op(x))` under `needs`, with `maps` between the channels.

    Attributes:
      needs: The condition on the affine.
      ports: The data inputs that carry values; other inputs must be constants or only steer.
      outputs: The outputs that carry values.
      maps: Channel maps between a port and an output.
      joins: How several ports come together.
      signs: +1 or -1 per port, for SUM.
      fill: The constant that the op writes by itself, or None.
      own_axis: (input axis, output axis) along which ports or outputs differ, or None; an input axis of None means
        that each port is one channel.
    """

    needs: Needs
    ports: tuple[int, ...]
    outputs: tuple[int, ...]
    maps: MapFinder
    joins: Joins = Joins.EACH
    signs: Mapping[int, int] = dataclasses.field(default_factory=dict)
    fill: Fill | None = None
    own_axis: tuple[int | None, int | None] | None = None
