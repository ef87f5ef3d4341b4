"""The table of laws: which ops an affine may pass, on which axes and under which condition.

An op that is not in the table is refused, and so is an op with an attribute that it does not know.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from tf_bnfold.algebra.channels import ChannelMap, Fill, Joins, Law, Needs
from tf_bnfold.fold.reshape import reshape_maps
from tf_bnfold.graph import attributes, shapes
from tf_bnfold.graph.graph import Node, Tensor
from tf_bnfold.graph.view import View
from tf_bnfold.reasons import Reason, Refusal

_Answer = Law | Refusal
_Rule = Callable[[View, Node], _Answer]
_AxisOf = Callable[[int], "int | None"]


def law_of(view: View, node: Node) -> Law | Refusal:
    """The law of a node, or why no affine may pass it."""
    rule = _TABLE.get(node.op)
    if rule is None:
        return Refusal(_why_none(node.op), node.name, node.op)
    if (unknown := attributes.unknown(node)) is not None:
        return Refusal(Reason.UNKNOWN_ATTRIBUTE, node.name, unknown)
    if view.graph.is_fed(node):
        return Refusal(Reason.GRAPH_INPUT, node.name)
    return rule(view, node)


def _why_none(op: str) -> Reason:
    if op.startswith(("FakeQuant", "QuantizeAndDequantize")):
        return Reason.FAKE_QUANT
    if op.removeprefix("Ref") in ("Switch", "Merge", "Enter", "Exit", "NextIteration", "LoopCond"):
        return Reason.CONTROL_FLOW
    if op in ("Placeholder", "PlaceholderV2", "PlaceholderWithDefault"):
        return Reason.GRAPH_INPUT
    return Reason.NO_LAW


def _unknown_shape(node: Node) -> Refusal:
    return Refusal(Reason.UNKNOWN_SHAPE, node.name)


def _pick(maps: Iterable[ChannelMap], axis_in: int | None, axis_out: int | None) -> Iterable[ChannelMap]:
    for m in maps:
        if (axis_in is None or m.axis_in == axis_in) and (axis_out is None or m.axis_out == axis_out):
            yield m


def _moves(node: Node, needs: Needs, to_out: _AxisOf, to_in: _AxisOf, *, port: int = 0, fill: Fill | None = None) -> Law:
    """The law of an op with one data input that carries whole axes to axes; None: the axis does not pass."""

    def maps(_port: int, output: int, axis_in: int | None, axis_out: int | None) -> Iterable[ChannelMap]:
        a_in = to_in(axis_out) if axis_out is not None else axis_in
        a_out = to_out(axis_in) if axis_in is not None else axis_out
        if a_in is not None and a_out is not None:
            yield ChannelMap(a_in, a_out, 0, 0)

    return Law(needs, (port,), (0,), maps, fill=fill)


def _stays(node: Node, needs: Needs, axes: Callable[[int], bool] = lambda axis: True, *, port: int = 0, fill: Fill | None = None) -> Law:
    """The law of an op that keeps its axes in place, for those that `axes` admits."""

    def keep(axis: int) -> int | None:
        return axis if axes(axis) else None

    return _moves(node, needs, keep, keep, port=port, fill=fill)


def _elementwise(needs: Needs) -> _Rule:
    return lambda view, node: _stays(node, needs)


def _broadcast(view: View, node: Node, ports: Sequence[int]) -> Callable[[int, int, int | None, int | None], Iterable[ChannelMap]]:
    """Maps of an op whose inputs broadcast against each other."""
    rank = view.shapes.rank(Tensor(node, 0))

    def maps(port: int, output: int, axis_in: int | None, axis_out: int | None) -> Iterable[ChannelMap]:
        tensor = node.inputs[port]
        rank_in = view.shapes.rank(tensor)
        if rank is None or rank_in is None:
            return
        a_out = axis_out if axis_out is not None else (axis_in or 0) + rank - rank_in
        a_in = a_out - (rank - rank_in)
        channels = view.shapes.dim(Tensor(node, 0), a_out)
        size = view.shapes.dim(tensor, a_in) if a_in >= 0 else 1
        if size is None or channels is None:
            # The one data input of an op whose other inputs are constants of fewer elements keeps its shape.
            return
        if size == channels:
            yield ChannelMap(a_in, a_out, size, channels)
        elif size == 1:
            zeros = np.zeros(channels, np.intp)
            yield ChannelMap(a_in if a_in >= 0 else None, a_out, 1, channels, zeros, np.arange(channels))

    return maps


def _joined(needs: Needs, ports: Callable[[Node], Sequence[int]], joins: Joins, signs: dict[int, int] | None = None) -> _Rule:
    def rule(view: View, node: Node) -> Law:
        chosen = tuple(ports(node))
        return Law(needs, chosen, (0,), _broadcast(view, node, chosen), joins, signs or {})

    return rule


def _all_inputs(node: Node) -> Sequence[int]:
    return range(len(node.inputs))


def _bias_add(view: View, node: Node) -> _Answer:
    rank = view.shapes.rank(node.inputs[0])
    if rank is None:
        return _unknown_shape(node)
    channel = shapes.channel_axis(node, rank)

    def maps(port: int, output: int, axis_in: int | None, axis_out: int | None) -> Iterable[ChannelMap]:
        if port == 0:
            axis = axis_in if axis_in is not None else axis_out
            if axis is not None:
                yield ChannelMap(axis, axis, 0, 0)
        elif (axis_in in (0, None)) and axis_out in (channel, None):
            yield ChannelMap(0, channel, 0, 0)

    return Law(Needs.NOTHING, (0, 1), (0,), maps, Joins.SUM)


def _mul(view: View, node: Node) -> _Answer:
    """Two values that are computed. A constant factor makes an affine site, not a law."""
    if any(view.constants.is_constant(t) for t in node.inputs):
        return Refusal(Reason.NO_LAW, node.name, "a scale that stays")
    return Law(Needs.ZERO_OFFSET, (0, 1), (0,), _broadcast(view, node, (0, 1)), Joins.PRODUCT)


def _real_div(view: View, node: Node) -> _Answer:
    if any(view.constants.is_constant(t) for t in node.inputs):
        return Refusal(Reason.NO_LAW, node.name, "a scale that stays")
    return Law(Needs.ZERO_OFFSET, (0,), (0,), _broadcast(view, node, (0,)), Joins.PRODUCT)


def _cast(view: View, node: Node) -> _Answer:
    narrow, wide = attributes.value(node, "SrcT"), attributes.value(node, "DstT")
    widens = {("float16", "float32"), ("bfloat16", "float32"), ("float16", "float64"), ("bfloat16", "float64"), ("float32", "float64")}
    names = (attributes.numpy_dtype(narrow).name, attributes.numpy_dtype(wide).name)
    if names in widens or names[0] == names[1]:
        return _stays(node, Needs.NOTHING)
    return Refusal(Reason.DTYPE, node.name, f"{names[0]} to {names[1]}")


def _pool(needs: Needs) -> _Rule:
    def rule(view: View, node: Node) -> _Answer:
        kernel, strides = attributes.value(node, "ksize"), attributes.value(node, "strides")
        if attributes.value(node, "data_format") == "NCHW_VECT_C":
            return Refusal(Reason.UNKNOWN_ATTRIBUTE, node.name, "data_format")
        return _stays(node, needs, lambda axis: kernel[axis] == 1 and strides[axis] == 1)

    return rule


def _reduce(needs: Needs) -> _Rule:
    def rule(view: View, node: Node) -> _Answer:
        rank, axes = view.shapes.rank(node.inputs[0]), view.shapes.ints(node.inputs[1])
        if rank is None or axes is None:
            return _unknown_shape(node)
        gone = {axis % rank for axis in axes} if rank else set()
        kept = [axis for axis in range(rank) if axis not in gone]
        if attributes.value(node, "keep_dims"):
            return _stays(node, needs, lambda axis: axis in kept)
        return _moves(
            node,
            needs,
            lambda axis: kept.index(axis) if axis in kept else None,
            lambda axis: kept[axis] if axis < len(kept) else None,
        )

    return rule


def _cumsum(view: View, node: Node) -> _Answer:
    rank, axis = view.shapes.rank(node.inputs[0]), view.shapes.ints(node.inputs[1])
    if rank is None or axis is None:
        return _unknown_shape(node)
    return _stays(node, Needs.ZERO_OFFSET, lambda a: a != axis[0] % rank)


def _resize(view: View, node: Node) -> _Answer:
    if node.op != "ResizeNearestNeighbor" and attributes.numpy_dtype(attributes.dtype(node)).name != "float32":
        return Refusal(Reason.DTYPE, node.name)
    return _stays(node, Needs.NOTHING, lambda axis: axis in (0, 3))


def _reshape(view: View, node: Node) -> _Answer:
    """Reshape, Squeeze, ExpandDims: elements keep their row-major order."""
    before, after = view.shapes.of(node.inputs[0]), view.shapes.of(Tensor(node, 0))

    def maps(port: int, output: int, axis_in: int | None, axis_out: int | None) -> Iterable[ChannelMap]:
        if before is not None and after is not None:
            yield from reshape_maps(before, after, axis_in, axis_out)

    return Law(Needs.NOTHING, (0,), (0,), maps)


def _transpose(view: View, node: Node) -> _Answer:
    order = view.shapes.ints(node.inputs[1])
    if order is None:
        return _unknown_shape(node)
    return _moves(node, Needs.NOTHING, lambda axis: order.index(axis), lambda axis: order[axis])


def _concat(view: View, node: Node) -> _Answer:
    last = node.op == "ConcatV2"
    ports = tuple(range(len(node.inputs) - 1)) if last else tuple(range(1, len(node.inputs)))
    place, rank = view.shapes.ints(node.inputs[-1 if last else 0]), view.shapes.rank(node.inputs[ports[0]])
    if place is None or rank is None:
        return _unknown_shape(node)
    axis = place[0] % rank

    def maps(port: int, output: int, axis_in: int | None, axis_out: int | None) -> Iterable[ChannelMap]:
        asked = axis_in if axis_in is not None else axis_out
        if asked is None:
            return
        if asked != axis:
            yield ChannelMap(asked, asked, 0, 0)
            return
        sizes = [view.shapes.dim(node.inputs[p], axis) for p in ports]
        known = [size for size in sizes if size is not None]
        if len(known) < len(sizes):
            return
        start, size = sum(known[: ports.index(port)]), known[ports.index(port)]
        yield ChannelMap(axis, axis, size, sum(known), np.arange(size), np.arange(start, start + size))

    return Law(Needs.NOTHING, ports, (0,), maps, own_axis=(axis, axis))


def _split(view: View, node: Node) -> _Answer:
    versatile = node.op == "SplitV"
    data = node.inputs[0 if versatile else 1]
    place, rank = view.shapes.ints(node.inputs[2 if versatile else 0]), view.shapes.rank(data)
    if place is None or rank is None:
        return _unknown_shape(node)
    axis = place[0] % rank
    outputs = tuple(range(int(attributes.value(node, "num_split"))))

    def maps(port: int, output: int, axis_in: int | None, axis_out: int | None) -> Iterable[ChannelMap]:
        asked = axis_in if axis_in is not None else axis_out
        if asked is None:
            return
        if asked != axis:
            yield ChannelMap(asked, asked, 0, 0)
            return
        sizes = [view.shapes.dim(Tensor(node, o), axis) for o in outputs]
        known = [size for size in sizes if size is not None]
        if len(known) < len(sizes):
            return
        start, size = sum(known[:output]), known[output]
        yield ChannelMap(axis, axis, sum(known), size, np.arange(start, start + size), np.arange(size))

    return Law(Needs.NOTHING, (0 if versatile else 1,), outputs, maps, own_axis=(axis, axis))


def _pack(view: View, node: Node) -> _Answer:
    rank = view.shapes.rank(node.inputs[0])
    if rank is None:
        return _unknown_shape(node)
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


def _unpack(view: View, node: Node) -> _Answer:
    rank = view.shapes.rank(node.inputs[0])
    if rank is None:
        return _unknown_shape(node)
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


def _slice(view: View, node: Node) -> _Answer:
    """Slice and StridedSlice: each output axis reads a range of one input axis."""
    shape = view.shapes.of(node.inputs[0])
    if shape is None:
        return _unknown_shape(node)
    ranges = _slice_ranges(view, node, shape)
    if ranges is None:
        return _unknown_shape(node)

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


def _slice_ranges(view: View, node: Node, shape: shapes.Shape) -> list[tuple[int | None, slice | None]] | None:
    """For each output axis the input axis that it reads and what it takes of it (None: not known)."""
    if shape is None:
        return None
    if node.op == "Slice":
        begin, size = view.shapes.ints(node.inputs[1]), view.shapes.elements(node.inputs[2])
        if begin is None or size is None:
            return None
        result: list[tuple[int | None, slice | None]] = []
        for axis, length in enumerate(size):
            if length is None:
                result.append((axis, None))
            elif begin[axis] == 0 and length in (-1, shape[axis]):
                result.append((axis, slice(None)))
            else:
                result.append((axis, slice(begin[axis], None if length == -1 else begin[axis] + int(length))))
        return result
    actions = shapes.strided(view.shapes, node, shape)
    if actions is None:
        return None
    result, axis = [], 0
    for action, detail in actions:
        if action == "new":
            result.append((None, None))
            continue
        if action == "slice":
            result.append((axis, detail))
        axis += 1
    return result


def _gather(view: View, node: Node) -> _Answer:
    rank, indices_rank = view.shapes.rank(node.inputs[0]), view.shapes.rank(node.inputs[1])
    place = view.shapes.ints(node.inputs[2]) if node.op == "GatherV2" else [0]
    if rank is None or indices_rank is None or place is None:
        return _unknown_shape(node)
    if attributes.value(node, "batch_dims"):
        return Refusal(Reason.UNKNOWN_ATTRIBUTE, node.name, "batch_dims")
    axis, grow = place[0] % rank, indices_rank - 1

    def maps(port: int, output: int, axis_in: int | None, axis_out: int | None) -> Iterable[ChannelMap]:
        candidates = [ChannelMap(a, a if a < axis else a + grow, 0, 0) for a in range(rank) if a != axis]
        indices, size = view.shapes.ints(node.inputs[1]), view.shapes.dim(node.inputs[0], axis)
        if indices_rank == 1 and indices is not None and size is not None:
            source = np.array(indices, np.intp)
            candidates.append(ChannelMap(axis, axis, size, source.size, source, np.arange(source.size)))
        return _pick(candidates, axis_in, axis_out)

    return Law(Needs.NOTHING, (0,), (0,), maps)


def _tile(view: View, node: Node) -> _Answer:
    multiples = view.shapes.elements(node.inputs[1])
    if multiples is None:
        return _unknown_shape(node)

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


def _broadcast_to(view: View, node: Node) -> _Answer:
    return Law(Needs.NOTHING, (0,), (0,), _broadcast(view, node, (0,)))


def _reverse(view: View, node: Node) -> _Answer:
    axes, rank = view.shapes.ints(node.inputs[1]), view.shapes.rank(node.inputs[0])
    if axes is None or rank is None:
        return _unknown_shape(node)
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


def _depth_to_space(view: View, node: Node) -> _Answer:
    """DepthToSpace: input channel j feeds output channel j mod C; SpaceToDepth the other way round."""
    layout = attributes.value(node, "data_format")
    if layout not in ("NHWC", "NCHW"):
        return Refusal(Reason.UNKNOWN_ATTRIBUTE, node.name, "data_format")
    channel = shapes.channel_axis(node, 4)
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


def _batch_to_space(view: View, node: Node) -> _Answer:
    """BatchToSpaceND drops, SpaceToBatchND pads with zeros; axes behind the block stay."""
    block = view.shapes.dim(node.inputs[1], 0)
    if block is None:
        return _unknown_shape(node)
    fill = None
    if node.op == "SpaceToBatchND":
        pads = view.shapes.ints(node.inputs[2])
        padded = [1 + i for i in range(block) if pads is None or pads[2 * i] or pads[2 * i + 1]]
        fill = Fill(0.0, tuple(padded), None) if padded else None
    return _stays(node, Needs.NOTHING, lambda axis: axis > block, fill=fill)


def _mirror_pad(view: View, node: Node) -> _Answer:
    pads = view.shapes.ints(node.inputs[1])
    if pads is None:
        return _unknown_shape(node)
    return _stays(node, Needs.NOTHING, lambda axis: not (pads[2 * axis] or pads[2 * axis + 1]))


def _pad(view: View, node: Node) -> _Answer:
    pads = view.shapes.ints(node.inputs[1])
    if pads is None:
        return _unknown_shape(node)
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


def _identity_n(view: View, node: Node) -> _Answer:
    def maps(port: int, output: int, axis_in: int | None, axis_out: int | None) -> Iterable[ChannelMap] | None:
        axis = axis_in if axis_in is not None else axis_out
        if port != output:
            return None
        return () if axis is None else (ChannelMap(axis, axis, 0, 0),)

    lanes = tuple(range(len(node.inputs)))
    return Law(Needs.NOTHING, lanes, lanes, maps)


_PASS = _elementwise(Needs.NOTHING)
_RECTIFY = _elementwise(Needs.ORDER | Needs.ZERO_OFFSET)

_TABLE: dict[str, _Rule] = {
    "Identity": _PASS,
    "IdentityN": _identity_n,
    "StopGradient": _PASS,
    "PreventGradient": _PASS,
    "Snapshot": _PASS,
    "EnsureShape": _PASS,
    "Relu": _RECTIFY,
    "LeakyRelu": _RECTIFY,
    "Abs": _RECTIFY,
    "Cast": _cast,
    "Neg": _joined(Needs.NOTHING, _all_inputs, Joins.SUM, {0: -1}),
    "Add": _joined(Needs.NOTHING, _all_inputs, Joins.SUM),
    "AddV2": _joined(Needs.NOTHING, _all_inputs, Joins.SUM),
    "AddN": _joined(Needs.NOTHING, _all_inputs, Joins.SUM),
    "Sub": _joined(Needs.NOTHING, _all_inputs, Joins.SUM, {1: -1}),
    "BiasAdd": _bias_add,
    "Mul": _mul,
    "RealDiv": _real_div,
    "Maximum": _joined(Needs.ORDER, _all_inputs, Joins.EACH),
    "Minimum": _joined(Needs.ORDER, _all_inputs, Joins.EACH),
    "ClipByValue": _joined(Needs.ORDER, _all_inputs, Joins.EACH),
    "SelectV2": _joined(Needs.NOTHING, lambda node: (1, 2), Joins.EACH),
    "MaxPool": _pool(Needs.ORDER),
    "MaxPool3D": _pool(Needs.ORDER),
    "AvgPool": _pool(Needs.NOTHING),
    "AvgPool3D": _pool(Needs.NOTHING),
    "Mean": _reduce(Needs.NOTHING),
    "Sum": _reduce(Needs.ZERO_OFFSET),
    "Max": _reduce(Needs.ORDER),
    "Min": _reduce(Needs.ORDER),
    "Cumsum": _cumsum,
    "ResizeNearestNeighbor": _resize,
    "ResizeBilinear": _resize,
    "ResizeBicubic": _resize,
    "Reshape": _reshape,
    "Squeeze": _reshape,
    "ExpandDims": _reshape,
    "Transpose": _transpose,
    "Concat": _concat,
    "ConcatV2": _concat,
    "Split": _split,
    "SplitV": _split,
    "Pack": _pack,
    "Unpack": _unpack,
    "Slice": _slice,
    "StridedSlice": _slice,
    "Gather": _gather,
    "GatherV2": _gather,
    "Tile": _tile,
    "BroadcastTo": _broadcast_to,
    "ReverseV2": _reverse,
    "DepthToSpace": _depth_to_space,
    "SpaceToDepth": _depth_to_space,
    "BatchToSpaceND": _batch_to_space,
    "SpaceToBatchND": _batch_to_space,
    "MirrorPad": _mirror_pad,
    "Pad": _pad,
    "PadV2": _pad,
}
