"""What each linear op has absorbed so far; its weights are computed once, from the originals, at the end."""

from __future__ import annotations

import functools
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from tf_bnfold.algebra.affine import Affine, Vector, peak
from tf_bnfold.algebra.channels import IntArray
from tf_bnfold.algebra.linear import Array, scaled
from tf_bnfold.fold import shared
from tf_bnfold.fold.ranges import Ranges
from tf_bnfold.fold.sinks import Sink
from tf_bnfold.graph import attributes
from tf_bnfold.graph.graph import Node, Tensor, controls_of_constant
from tf_bnfold.graph.view import View
from tf_bnfold.outcome import Copied
from tf_bnfold.reasons import Reason, Refusal

# By side ("before" or "after") and channel axis: the channel of each weight and the scale of each channel.
_Scalings = Mapping[tuple[str, int], tuple[IntArray, Vector]]
_Entry = tuple[Sink, _Scalings]


# An offset that is larger, where what is normalised is about 1, costs a linear op that takes it so many roundings; in
# float64 there are digits to spare.
LARGEST_OFFSET = 1e3
_DIGITS_OF_FLOAT64 = float(np.finfo(np.float32).eps / np.finfo(np.float64).eps)


class Ledger:
    """The scales that each sink has absorbed, by linear op; offsets are in the graph's biases.

    Args:
      view: The graph.
      keep_shared: Refuse scales for weights that other ops read too, instead of storing the weights again.
    """

    def __init__(self, view: View, *, keep_shared: bool = False) -> None:
        self._view = view
        self._keep_shared = keep_shared
        self._entries: dict[Node, _Entry] = {}
        self._peaks: dict[Node, Vector] = {}
        self._old: dict[Node, Tensor] = {}  # the weights that were, of each op whose weights were written

    def refuse_after(self, sink: Sink, affine: Affine) -> Refusal | None:
        """Why the weights can't take the scale of an affine behind the op, or None when they can."""
        if (refusal := self._refuse_shared(sink, affine)) is not None:
            return refusal
        if sink.node in self._entries:
            old = self._weights(sink, self._scalings(sink))
            return None if old is None else _unfit(sink.linear.peak(old), affine.scale, sink.node)
        peaks = self._peaks_before(sink)
        if peaks is None:
            return Refusal(Reason.WEIGHTS_NOT_CONSTANT, sink.node.name)
        return _unfit(peaks, affine.scale, sink.node)

    def refuse_before(self, sink: Sink, affine: Affine) -> Refusal | None:
        """Why the weights can't take the scale of an affine before the op, or None when they can."""
        if (refusal := self._refuse_shared(sink, affine)) is not None:
            return refusal
        old, new = (self._weights(sink, s) for s in (self._scalings(sink), self._with_before(sink, affine)))
        if old is None or new is None:
            return Refusal(Reason.WEIGHTS_NOT_CONSTANT, sink.node.name)
        before, after = sink.linear.peak(old), sink.linear.peak(new)
        with np.errstate(all="ignore"):
            return _unfit(before, np.where(before > 0, after / before, 1.0), sink.node)

    def bias_of(self, sink: Sink, affine: Affine) -> Vector:
        """What the offset of an affine before the op adds to its output, float64 [channels_out]."""
        weights = self._weights(sink, self._scalings(sink))
        if affine.has_zero_offset or weights is None:
            return np.zeros(sink.linear.channels_out)
        return sink.linear.bias_before(weights, affine.offset)

    def take_after(self, sink: Sink, affine: Affine) -> None:
        """Note the scale of an affine behind the op."""
        first, scalings = self._entries.get(sink.node, (sink, {}))
        new = _with(scalings, ("after", sink.axis_out), sink.linear.out_channel, affine.scale)
        self._entries[sink.node] = (first, new)

    def take_before(self, sink: Sink, affine: Affine) -> None:
        """Note the scale of an affine before the op."""
        self._entries[sink.node] = (self._entries.get(sink.node, (sink, {}))[0], self._with_before(sink, affine))

    def _refuse_shared(self, sink: Sink, affine: Affine) -> Refusal | None:
        if not self._keep_shared or affine.has_unit_scale:
            return None
        weights = sink.weights
        other = shared.other_reader(self._view.graph, self._view.shapes, sink.node, weights)
        if other is None:
            return None
        name = shared.source(self._view.shapes, weights).name
        reader = "outside of this graph" if self._view.graph.is_fetched(other) else f"by {other.name} too"
        return Refusal(Reason.SHARED_WEIGHTS, sink.node.name, f"{name} is read {reader}")

    def settle(self) -> tuple[Copied, ...]:
        """Write the new weights, and drop the old ones when nobody reads them.

        Sinks whose weights are the same, and took the same, share one new constant.

        Returns:
          The constants that are stored several times now.
        """
        graph, shapes = self._view.graph, self._view.shapes
        by_origin: dict[Node, list[_Entry]] = {}
        for node, (sink, scalings) in self._entries.items():
            if not graph.is_removed(node) and not all((vector == 1).all() for _, vector in scalings.values()):
                by_origin.setdefault(shared.source(shapes, sink.weights), []).append((sink, scalings))
        written = {origin: [self._write(group) for group in self._alike(by_origin[origin])] for origin in by_origin}
        copied = []
        for origin, replaced in written.items():
            stays = not graph.is_removed(origin)
            more = replaced if stays else replaced[1:]
            if more:
                size = sum(shared.byte_count(shapes, weights) for weights in more)
                copied.append(Copied(origin.name, len(more), size))
        return tuple(copied)

    def ranges(self) -> tuple[Ranges, ...]:
        """The ranges of the weights of each op that took something, in topological order; to be asked when settled."""
        found = []
        for node, (sink, scalings) in sorted(self._entries.items(), key=lambda entry: entry[0].order):
            before = self._peaks_before(sink)
            if before is not None and not self._view.graph.is_removed(node):
                found.append(Ranges(node.name, node.op, before, self._peaks_after(sink, scalings, before)))
        return tuple(found)

    def _peaks_before(self, sink: Sink) -> Vector | None:
        """The largest |weight| of each output channel before the op took anything."""
        if sink.node not in self._peaks:
            weights = self._view.constants.raw(self._old.get(sink.node, sink.weights))
            if weights is None:
                return None
            self._peaks[sink.node] = sink.linear.peak(_computable(weights))
        return self._peaks[sink.node]

    def _peaks_after(self, sink: Sink, scalings: _Scalings, before: Vector) -> Vector:
        if not scalings:
            return before
        if scalings.keys() == {("after", sink.axis_out)}:
            _, scale = scalings["after", sink.axis_out]
            return before * np.abs(scale)
        weights = self._view.constants.raw(self._old.get(sink.node, sink.weights))
        assert weights is not None, sink.node.name
        return sink.linear.peak(scaled(weights, scalings.values()))

    def _alike(self, entries: list[_Entry]) -> list[list[_Entry]]:
        """Group sinks whose weights come from one constant by what these become."""
        if len(entries) == 1:
            return [entries]
        groups: dict[Hashable, list[list[_Entry]]] = {}
        for sink, scalings in entries:
            alike = groups.setdefault(self._identity(sink, scalings), [])
            same = next((group for group in alike if self._have_same_weights(group[0][0], sink)), None)
            if same is None:
                alike.append([(sink, scalings)])
            else:
                same.append((sink, scalings))
        return [group for alike in groups.values() for group in alike]

    def _identity(self, sink: Sink, scalings: _Scalings) -> Hashable:
        """What is equal for sinks whose new weights may be one constant: what it took, its device, its controls."""
        took = tuple(
            (side, axis, channel.shape, channel.tobytes(), vector.tobytes())
            for (side, axis), (channel, vector) in scalings.items()
        )
        return took, sink.node.proto.device, tuple(controls_of_constant(sink.weights.node))

    def _have_same_weights(self, one: Sink, other: Sink) -> bool:
        if one.weights == other.weights:
            return True
        arrays = [self._view.constants.raw(sink.weights) for sink in (one, other)]
        return all(array is not None for array in arrays) and np.array_equal(*arrays)  # type: ignore[arg-type]

    def _write(self, group: Sequence[_Entry]) -> Tensor:
        """Let sinks that took the same read one new constant; return the weights that it replaces."""
        graph = self._view.graph
        first, scalings = min(group, key=lambda entry: entry[0].node.order)
        old, node = first.weights, first.node
        dtype = attributes.dtype(old.node, old.index)
        compute = functools.partial(self._rounded, old, tuple(scalings.values()), attributes.numpy_dtype(dtype))
        new = graph.constant(f"{node.name}/weights", compute, dtype, node, like=old)
        for sink, _ in group:
            self._old[sink.node] = sink.weights
            graph.set_input(sink.node, sink.weights_port, new)
            graph.drop_unread(self._old[sink.node].node)
        return old

    def _rounded(self, weights: Tensor, scalings: Sequence[tuple[IntArray, Vector]], dtype: np.dtype[Any]) -> Array:
        raw = self._view.constants.raw(weights)
        assert raw is not None, weights.node.name
        return scaled(raw, scalings, dtype)

    def _scalings(self, sink: Sink) -> _Scalings:
        return self._entries[sink.node][1] if sink.node in self._entries else {}

    def _with_before(self, sink: Sink, affine: Affine) -> _Scalings:
        return _with(self._scalings(sink), ("before", sink.axis_in), sink.linear.in_channel, affine.scale)

    def _weights(self, sink: Sink, scalings: _Scalings) -> npt.NDArray[np.float64] | None:
        weights = self._view.constants.raw(sink.weights)
        return None if weights is None else scaled(weights, scalings.values())


def _with(scalings: _Scalings, key: tuple[str, int], channel: IntArray, scale: Vector) -> _Scalings:
    """The scalings with one more; those of one side and axis are one."""
    if key in scalings:
        known, taken = scalings[key]
        # A uniform scale needs no channels: where they are not known by the shapes, its index is a guess.
        channel, scale = (known if scale.size == 1 else channel), taken * scale
    return {**scalings, key: (channel, scale)}


def _computable(weights: Array) -> Array:
    """Weights in a dtype that numpy computes with."""
    return weights if weights.dtype.kind == "f" and weights.dtype.itemsize > 2 else weights.astype(np.float64)


def unfit_constant(array: Array, dtype: int, name: str) -> Refusal | None:
    """Why a constant of a DataType can't hold an array, or None when it can."""
    return unfit(peak(array), dtype, name)


def unfit(peak: float, dtype: int, name: str) -> Refusal | None:
    """Why a constant of a DataType can't hold a value, or None when it can."""
    largest, _ = attributes.float_limits(dtype)
    return None if peak <= largest else Refusal(Reason.NOT_FINITE, name)


def fits_dtype(affine: Affine, dtype: int) -> bool:
    """Whether constants of a DataType can hold a scale, none of it vanishing among the subnormals, and an offset."""
    _, smallest = attributes.float_limits(dtype)
    vanishes = ((affine.scale != 0) & (np.abs(affine.scale) < smallest)).any()
    return not vanishes and all(unfit(peak, dtype, "") is None for peak in (affine.peak_scale, affine.peak_offset))


def cancels(affine: Affine, dtype: int, name: str) -> Refusal | None:
    """Why an affine before an op of a DataType may not be taken apart, or None when it may.

    `w * (s * x + o)` rounds at the magnitude of its result, and `(w * s) * x + w * o` at that of its offset: where data
    is normalised, so that the result is about 1, the error grows by |o|, which is mean / deviation.
    """
    offsets = np.where(affine.scale == 0, 0.0, affine.offset)
    largest = LARGEST_OFFSET * (_DIGITS_OF_FLOAT64 if attributes.numpy_dtype(dtype) == np.float64 else 1.0)
    return Refusal(Reason.CANCELLATION, name) if peak(offsets) > largest else None


def rounds_well(vector: Vector, scale: Vector, dtype: int) -> bool:
    """Whether an offset in front of a scale is off by no more than an offset may be that goes into an op."""
    info = attributes.numpy_dtype(dtype)
    epsilon = float(ml_dtypes.finfo(info).eps)  # type: ignore[no-untyped-call]
    with np.errstate(all="ignore"):
        error = np.abs(vector.astype(info).astype(np.float64) - vector) * np.abs(scale)
    return bool((error <= LARGEST_OFFSET * epsilon / 2).all())


def _unfit(peaks: Vector, scale: Vector, node: Node) -> Refusal | None:
    """Why weights whose largest magnitudes are `peaks` can't be scaled in the op's dtype, or None when they can.

    A channel whose largest weight comes near the subnormal numbers would lose its precision there.
    """
    largest, smallest = attributes.float_limits(attributes.dtype(node))
    with np.errstate(all="ignore"):
        new = peaks * np.abs(scale)
    top = np.maximum.reduce(new, initial=0.0)
    if not top <= largest:
        return Refusal(Reason.NOT_FINITE, node.name)
    if np.minimum.reduce(new, initial=top) < smallest and ((peaks >= smallest) & (scale != 0) & (new < smallest)).any():
        return Refusal(Reason.SUBNORMAL, node.name)
    return None
