"""What each linear op has absorbed so far; its weights are computed once, from the originals, at the end."""

from __future__ import annotations

import dataclasses

import numpy as np

from tf_bnfold.algebra import linear
from tf_bnfold.algebra.affine import Affine, Vector
from tf_bnfold.fold.sinks import Sink
from tf_bnfold.graph import attributes
from tf_bnfold.graph.graph import Node, Tensor
from tf_bnfold.graph.view import View
from tf_bnfold.reasons import Reason, Refusal


@dataclasses.dataclass(frozen=True)
class Absorbed:
    """What one sink has absorbed: the scales of all affines before it and of all behind it.

    Attributes:
      sink: The linear op as it was when it was first asked.
      before: The affine on its input, nearest last.
      after: The scale on its output.
    """

    sink: Sink
    before: Affine
    after: Affine


class Ledger:
    """The absorptions of a run, by linear op."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._entries: dict[Node, Absorbed] = {}
        self._peaks: dict[Node, Vector] = {}

    def refuse_after(self, sink: Sink, affine: Affine) -> Refusal | None:
        """Why the weights can't take the scale of an affine behind the op, or None when they can."""
        entry = self._entry(sink)
        if not entry.before.has_unit_scale:
            return self._refuse(dataclasses.replace(entry, after=entry.after.then(affine)))
        if sink.node not in self._peaks:
            weights = self._view.constants.raw(sink.weights)
            if weights is None:
                return Refusal(Reason.WEIGHTS_NOT_CONSTANT, sink.node.name)
            self._peaks[sink.node] = sink.linear.peak(weights.astype(np.float64) if weights.dtype.kind == "V" else weights)
        scale = entry.after.then(affine).scale
        return _unfit(self._peaks[sink.node] * np.abs(scale), sink.node)

    def refuse_before(self, sink: Sink, affine: Affine) -> Refusal | None:
        """Why the weights can't take an affine before the op, or None when they can."""
        entry = self._entry(sink)
        return self._refuse(dataclasses.replace(entry, before=affine.then(entry.before)))

    def take_after(self, sink: Sink, affine: Affine) -> None:
        """Note the scale of an affine behind the op."""
        entry = self._entry(sink)
        self._entries[sink.node] = dataclasses.replace(entry, after=entry.after.then(affine.scale_part()))

    def take_before(self, sink: Sink, affine: Affine) -> Vector:
        """Note an affine before the op.

        Returns:
          What its offset adds to the op's output as it is now, float64 [channels_out].
        """
        entry = self._entry(sink)
        added = self.bias_of(sink, affine)
        self._entries[sink.node] = dataclasses.replace(entry, before=affine.scale_part().then(entry.before))
        return added

    def bias_of(self, sink: Sink, affine: Affine) -> Vector:
        """What the offset of an affine before the op adds to its output, float64 [channels_out]."""
        if affine.has_zero_offset:
            return np.zeros(sink.linear.channels_out)
        folded = self._weights(self._entry(sink))
        return sink.linear.bias_before(folded, affine.offset)

    def settle(self) -> None:
        """Write the new weights: one new constant for each sink, the old one dropped when nobody reads it."""
        for node, entry in self._entries.items():
            sink = entry.sink
            if entry.before.has_unit_scale and entry.after.has_unit_scale:
                continue
            old = node.inputs[sink.weights_port]
            new = self._view.graph.constant(f"{node.name}/weights", self._weights(entry), attributes.dtype(node), node)
            self._view.graph.set_input(node, sink.weights_port, new)
            self._view.graph.drop_unread(old.node)

    def _entry(self, sink: Sink) -> Absorbed:
        return self._entries.get(sink.node, Absorbed(sink, Affine.identity(), Affine.identity()))

    def _weights(self, entry: Absorbed) -> np.ndarray:
        weights = self._view.constants.raw(entry.sink.weights)
        assert weights is not None, entry.sink.node.name
        return linear.absorb(entry.sink.linear, weights, entry.before, entry.after)

    def _refuse(self, entry: Absorbed) -> Refusal | None:
        if self._view.constants.raw(entry.sink.weights) is None:
            return Refusal(Reason.WEIGHTS_NOT_CONSTANT, entry.sink.node.name)
        return _unfit(entry.sink.linear.peak(self._weights(entry)), entry.sink.node)


def unfit_constant(array: np.ndarray, node: Node, name: str) -> Refusal | None:
    """Why a new constant of `node`'s dtype can't hold an array, or None when it can."""
    largest, _ = attributes.float_limits(attributes.dtype(node))
    fits = np.isfinite(array).all() and np.abs(array).max(initial=0.0) <= largest
    return None if fits else Refusal(Reason.NOT_FINITE, name)


def _unfit(peaks: Vector, node: Node) -> Refusal | None:
    """Why weights with these largest magnitudes per channel don't fit the op's dtype.

    A channel whose largest weight is near the subnormal numbers would lose its precision there.
    """
    largest, smallest = attributes.float_limits(attributes.dtype(node))
    if not np.isfinite(peaks).all() or peaks.max(initial=0.0) > largest:
        return Refusal(Reason.NOT_FINITE, node.name)
    if ((peaks != 0) & (peaks < smallest)).any():
        return Refusal(Reason.SUBNORMAL, node.name)
    return None


def new_tensor(node: Node) -> Tensor:
    """The first output of a node."""
    return Tensor(node, 0)
