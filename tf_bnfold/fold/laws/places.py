"""Laws of ops that move elements and leave their values: reshapes, joins, cuts, paddings."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from tf_bnfold.algebra.channels import ChannelMap, Fill, Law, Needs
from tf_bnfold.fold.laws.common import Answer, broadcast, moves, pick, stays, unknown_shape
from tf_bnfold.fold.laws.reshape import reshape_maps
from tf_bnfold.graph import attributes
from tf_bnfold.graph.graph import Node, Tensor
from tf_bnfold.graph.shapes import geometry, moved
from tf_bnfold.graph.view import View
from tf_bnfold.reasons import Reason, Refusal


def reshape(view: View, node: Node) -> Answer:
    """Reshape, Squeeze, ExpandDims: elements keep their row-major order."""
    before, after = view.shapes.of(node.inputs[0]), view.shapes.of(Tensor(node, 0))

    def maps(port: int, output: int, axis_in: int | None, axis_out: int | None) -> Iterable[ChannelMap]:
        if before is not None and after is not None:
            yield from reshape_maps(before, after, axis_in, axis_out)

    return Law(Needs.NOTHING, (0,), (0,), maps)


def transpose(view: View, node: Node) -> Answer:
    """Axes move as the permutation says."""
    order = view.shapes.ints(node.inputs[1])
    if order is None:
        return unknown_shape(node)
    return moves(node, Needs.NOTHING, lambda axis: order.index(axis), lambda axis: order[axis])


def concat(view: View, node: Node) -> Answer:
    """Along the joined axis each input feeds channels of its own; other axes stay."""
    last = node.op == "ConcatV2"
    ports = tuple(range(len(node.inputs) - 1)) if last else tuple(range(1, len(node.inputs)))
    place, rank = view.shapes.ints(node.inputs[-1 if last else 0]), view.shapes.rank(node.inputs[ports[0]])
    if place is None or rank is None:
        return unknown_shape(node)
    axis = place[0] % rank
    bounds = _bounds(view, [node.inputs[port] for port in ports], axis)

    def maps(port: int, output: int, axis_in: int | None, axis_out: int | None) -> Iterable[ChannelMap]:
        asked = axis_in if axis_in is not None else axis_out
        if asked is None:
            return
        if asked != axis:
            yield ChannelMap(asked, asked, 0, 0)
        elif (known := bounds()) is not None:
            start, stop = known[port - ports[0]], known[port - ports[0] + 1]
            yield ChannelMap(axis, axis, stop - start, known[-1], np.arange(stop - start), np.arange(start, stop))

    return Law(Needs.NOTHING, ports, (0,), maps, own_axis=(axis, axis))


def _bounds(view: View, parts: Sequence[Tensor], axis: int) -> Callable[[], list[int] | None]:
    """Where each part of a whole begins along an axis, and last where the whole ends; None where a size is not known.

    Told when it is asked, and once for all parts: there may be thousands.
    """

    @functools.cache
    def bounds() -> list[int] | None:
        sizes = [view.shapes.dim(part, axis) for part in parts]
        known = [size for size in sizes if size is not None]
        return [0, *itertools.accumulate(known)] if len(known) == len(sizes) else None

    return bounds


def split(view: View, node: Node) -> Answer:
    """Along the cut axis each output reads channels of its own; other axes stay."""
    versatile = node.op == "SplitV"
    data = node.inputs[0 if versatile else 1]
    place, rank = view.shapes.ints(node.inputs[2 if versatile else 0]), view.shapes.rank(data)
    if place is None or rank is None:
        return unknown_shape(node)
    axis = place[0] % rank
    outputs = tuple(range(int(attributes.value(node, "num_split"))))
    bounds = _bounds(view, [Tensor(node, output) for output in outputs], axis)

    def maps(port: int, output: int, axis_in: int | None, axis_out: int | None) -> Iterable[ChannelMap]:
        asked = axis_in if axis_in is not None else axis_out
        if asked is None:
            return
        if asked != axis:
            yield ChannelMap(asked, asked, 0, 0)
        elif (known := bounds()) is not None:
            start, stop = known[output], known[output + 1]
            yield ChannelMap(axis, axis, known[-1], stop - start, np.arange(start, stop), np.arange(stop - start))

    return Law(Needs.NOTHING, (0 if versatile else 1,), outputs, maps, own_axis=(axis, axis))


def pack(view: View, node: Node) -> Answer:
    """Each input is one channel of the new axis; other axes make room for it."""
    rank = view.shapes.rank(node.inputs[0])
    if rank is None:
        return unknown_shape(node)
    axis = int(attributes.value(node, "axis")) % (rank + 1)
    ports = tuple(range(len(node.inputs)))

    def maps(port: int, output: int, axis_in: int | None, axis_out: int | None) -> Iterable[ChannelMap]:
        if axis_out == axis:
            yield ChannelMap(None, axis, 1, len(ports), np.zeros(1, np.intp), np.array([port]))
        elif axis_out is not None:
            yield ChannelMap(axis_out - (axis_out > axis), axis_out, 0, 0)
        elif axis_in is not None:
            yield ChannelMap(axis_in, axis_in + (axis_in >= axis), 0, 0)

    return Law(Needs.NOTHING, ports, (0,), maps, own_axis=(None, axis))


def unpack(view: View, node: Node) -> Answer:
    """Each output is one channel of the axis that goes; other axes close up."""
    rank = view.shapes.rank(node.inputs[0])
    if rank is None:
        return unknown_shape(node)
    axis, number = int(attributes.value(node, "axis")) % rank, int(attributes.value(node, "num"))

    def maps(port: int, output: int, axis_in: int | None, axis_out: int | None) -> Iterable[ChannelMap]:
        if axis_in == axis:
            # The output has no such axis; the map's place on it is only a label, since it is one channel.
            yield ChannelMap(axis, 0, number, 1, np.array([output]), np.zeros(1, np.intp))
        elif axis_in is not None:
            yield ChannelMap(axis_in, axis_in - (axis_in > axis), 0, 0)
        elif axis_out is not None:
            yield ChannelMap(axis_out + (axis_out >= axis), axis_out, 0, 0)

    return Law(Needs.NOTHING, (0,), tuple(range(number)), maps, own_axis=(axis, None))


def slices(view: View, node: Node) -> Answer:
    """Slice and StridedSlice: each output axis reads a range of one input axis."""
    shape = view.shapes.of(node.inputs[0])
    if shape is None:
        return unknown_shape(node)
    ranges = _slice_ranges(view, node, shape)
    if ranges is None:
        return unknown_shape(node)

    def maps(port: int, output: int, axis_in: int | None, axis_out: int | None) -> Iterable[ChannelMap]:
        for a_out, (a_in, taken) in enumerate(ranges):
            if a_in is None or taken is None or (axis_in is not None and a_in != axis_in):
                continue
            if axis_out is not None and a_out != axis_out:
                continue
            size = shape[a_in]
            if taken == slice(None):
                yield ChannelMap(a_in, a_out, 0, 0)
            elif size is not None:
                source = np.arange(size)[taken]
                yield ChannelMap(a_in, a_out, size, source.size, source, np.arange(source.size))

    return Law(Needs.NOTHING, (0,), (0,), maps)


_Ranges = list[tuple["int | None", "slice | None"]]


def _slice_ranges(view: View, node: Node, shape: geometry.Shape) -> _Ranges | None:
    """For each output axis the input axis that it reads and what it takes of it (None: not known)."""
    if shape is None:
        return None
    return _plain_ranges(view, node, shape) if node.op == "Slice" else _strided_ranges(view, node, shape)


def _plain_ranges(view: View, node: Node, shape: tuple[geometry.Dim, ...]) -> _Ranges | None:
    begin, size = view.shapes.ints(node.inputs[1]), view.shapes.elements(node.inputs[2])
    if begin is None or size is None:
        return None

    def taken(axis: int, length: int | None) -> slice | None:
        if length is None:
            return None
        if begin[axis] == 0 and length in (-1, shape[axis]):
            return slice(None)
        return slice(begin[axis], None if length == -1 else begin[axis] + int(length))

    return [(axis, taken(axis, length)) for axis, length in enumerate(size)]


def _strided_ranges(view: View, node: Node, shape: tuple[geometry.Dim, ...]) -> _Ranges | None:
    actions = moved.strided(view.shapes, node, shape)
    if actions is None:
        return None
    result: _Ranges = []
    axis = 0
    for action, detail in actions:
        if action == "new":
            result.append((None, None))
            continue
        if action == "slice":
            result.append((axis, detail))
        axis += 1
    return result


def gather(view: View, node: Node) -> Answer:
    """Constant indices pick channels of the gathered axis; other axes stay, or move with the rank of the indices."""
    rank, indices_rank = view.shapes.rank(node.inputs[0]), view.shapes.rank(node.inputs[1])
    place = view.shapes.ints(node.inputs[2]) if node.op == "GatherV2" else [0]
    if rank is None or indices_rank is None or place is None:
        return unknown_shape(node)
    if attributes.value(node, "batch_dims"):
        return Refusal(Reason.UNKNOWN_ATTRIBUTE, node.name, "batch_dims")
    axis, grow = place[0] % rank, indices_rank - 1

    def maps(port: int, output: int, axis_in: int | None, axis_out: int | None) -> Iterable[ChannelMap]:
        candidates = [ChannelMap(a, a if a < axis else a + grow, 0, 0) for a in range(rank) if a != axis]
        indices, size = view.shapes.ints(node.inputs[1]), view.shapes.dim(node.inputs[0], axis)
        if indices_rank == 1 and indices and size is not None and min(indices) >= 0 and max(indices) < size:
            source = np.array(indices, np.intp)
            candidates.append(ChannelMap(axis, axis, size, source.size, source, np.arange(source.size)))
        return pick(candidates, axis_in, axis_out)

    return Law(Needs.NOTHING, (0,), (0,), maps)


def tile(view: View, node: Node) -> Answer:
    """Channels of a tiled axis repeat; other axes stay."""
    multiples = view.shapes.elements(node.inputs[1])
    if multiples is None:
        return unknown_shape(node)

    def maps(port: int, output: int, axis_in: int | None, axis_out: int | None) -> Iterable[ChannelMap]:
        axis = axis_in if axis_in is not None else axis_out
        if axis is None or multiples[axis] is None:
            return
        times, size = int(multiples[axis]), view.shapes.dim(node.inputs[0], axis)
        if times == 1:
            yield ChannelMap(axis, axis, 0, 0)
        elif size is not None:
            target = np.arange(size * times)
            yield ChannelMap(axis, axis, size, size * times, target % size, target)

    return Law(Needs.NOTHING, (0,), (0,), maps)


def broadcast_to(view: View, node: Node) -> Answer:
    """Axes stay, aligned at the last one; an axis of size 1 feeds all channels."""
    return Law(Needs.NOTHING, (0,), (0,), broadcast(view, node, (0,)))


def reverse(view: View, node: Node) -> Answer:
    """Channels of a reversed axis change places; other axes stay."""
    axes, rank = view.shapes.ints(node.inputs[1]), view.shapes.rank(node.inputs[0])
    if axes is None or rank is None:
        return unknown_shape(node)
    turned = {axis % rank for axis in axes}

    def maps(port: int, output: int, axis_in: int | None, axis_out: int | None) -> Iterable[ChannelMap]:
        axis = axis_in if axis_in is not None else axis_out
        if axis is None:
            return
        size = view.shapes.dim(node.inputs[0], axis)
        if axis not in turned:
            yield ChannelMap(axis, axis, 0, 0)
        elif size is not None:
            yield ChannelMap(axis, axis, size, size, np.arange(size)[::-1], np.arange(size))

    return Law(Needs.NOTHING, (0,), (0,), maps)


def roll(view: View, node: Node) -> Answer:
    """Channels of a rolled axis move round; other axes stay."""
    shifts, axes = view.shapes.ints(node.inputs[1]), view.shapes.ints(node.inputs[2])
    rank = view.shapes.rank(node.inputs[0])
    if shifts is None or axes is None or rank is None:
        return unknown_shape(node)

    def maps(port: int, output: int, axis_in: int | None, axis_out: int | None) -> Iterable[ChannelMap]:
        axis = axis_in if axis_in is not None else axis_out
        if axis is None:
            return
        shift = sum(s for s, a in zip(shifts, axes, strict=True) if a % rank == axis)
        size = view.shapes.dim(node.inputs[0], axis)
        if shift == 0:
            yield ChannelMap(axis, axis, 0, 0)
        elif size is not None:
            source = np.arange(size)
            yield ChannelMap(axis, axis, size, size, source, (source + shift) % size)

    return Law(Needs.NOTHING, (0,), (0,), maps)


def depth_to_space(view: View, node: Node) -> Answer:
    """DepthToSpace: input channel j feeds output channel j mod C; SpaceToDepth the other way round."""
    layout = attributes.value(node, "data_format")
    if layout not in ("NHWC", "NCHW"):
        return Refusal(Reason.UNKNOWN_ATTRIBUTE, node.name, "data_format")
    channel = geometry.channel_axis(node, 4)
    few_side = Tensor(node, 0) if node.op == "DepthToSpace" else node.inputs[0]
    block = int(attributes.value(node, "block_size")) ** 2

    def maps(port: int, output: int, axis_in: int | None, axis_out: int | None) -> Iterable[ChannelMap]:
        few = view.shapes.dim(few_side, channel)
        if few is None or (axis_in if axis_in is not None else axis_out) != channel:
            return
        many = np.arange(few * block)
        if node.op == "DepthToSpace":
            yield ChannelMap(channel, channel, many.size, few, many, many % few)
        else:
            yield ChannelMap(channel, channel, few, many.size, many % few, many)

    return Law(Needs.NOTHING, (0,), (0,), maps)


def batch_to_space(view: View, node: Node) -> Answer:
    """BatchToSpaceND drops, SpaceToBatchND pads with zeros; axes behind the block stay."""
    block = view.shapes.dim(node.inputs[1], 0)
    if block is None:
        return unknown_shape(node)
    fill = None
    if node.op == "SpaceToBatchND":
        pads = view.shapes.ints(node.inputs[2])
        padded = [1 + i for i in range(block) if pads is None or pads[2 * i] or pads[2 * i + 1]]
        fill = Fill(0.0, tuple(padded), None) if padded else None
    return stays(node, Needs.NOTHING, lambda axis: axis > block, fill=fill)


def mirror_pad(view: View, node: Node) -> Answer:
    """Axes that are not padded stay."""
    pads = view.shapes.ints(node.inputs[1])
    if pads is None:
        return unknown_shape(node)
    return stays(node, Needs.NOTHING, lambda axis: not (pads[2 * axis] or pads[2 * axis + 1]))


def pad(view: View, node: Node) -> Answer:
    """Axes stay; channels of a padded axis move by what is written before them."""
    pads = view.shapes.ints(node.inputs[1])
    if pads is None:
        return unknown_shape(node)
    value: float | None = 0.0
    if node.op == "PadV2":
        constant = view.constants.value(node.inputs[2])
        value = float(constant) if constant is not None and constant.size == 1 else None
    padded = tuple(axis for axis in range(len(pads) // 2) if pads[2 * axis] or pads[2 * axis + 1])
    fill = Fill(value, padded, 2 if node.op == "PadV2" else None) if padded else None

    def maps(port: int, output: int, axis_in: int | None, axis_out: int | None) -> Iterable[ChannelMap]:
        axis = axis_in if axis_in is not None else axis_out
        if axis is None:
            return
        if axis not in padded:
            yield ChannelMap(axis, axis, 0, 0)
            return
        size = view.shapes.dim(node.inputs[0], axis)
        low, high = pads[2 * axis], pads[2 * axis + 1]
        if size is not None and low >= 0 and high >= 0:
            yield ChannelMap(axis, axis, size, low + size + high, np.arange(size), np.arange(low, low + size))

    return Law(Needs.NOTHING, (0,), (0,), maps, fill=fill)


def identity_n(view: View, node: Node) -> Answer:
    """Each input feeds the output of the same number; every axis stays."""

    def maps(port: int, output: int, axis_in: int | None, axis_out: int | None) -> Iterable[ChannelMap] | None:
        axis = axis_in if axis_in is not None else axis_out
        if port != output:
            return None
        return () if axis is None else (ChannelMap(axis, axis, 0, 0),)

    lanes = tuple(range(len(node.inputs)))
    return Law(Needs.NOTHING, lanes, lanes, maps)
