"""Laws of ops that compute with values: sums, products, rectifiers, pools, reductions, resizes."""

from __future__ import annotations

from collections.abc import Iterable

from tf_bnfold.algebra.channels import ChannelMap, Joins, Law, Needs
from tf_bnfold.fold.laws.common import Answer, Rule, broadcast, moves, stays, unknown_shape
from tf_bnfold.graph import attributes
from tf_bnfold.graph.graph import Node
from tf_bnfold.graph.shapes import geometry
from tf_bnfold.graph.view import View
from tf_bnfold.reasons import Reason, Refusal


def bias_add(view: View, node: Node) -> Answer:
    """The value keeps its axes; the bias is a vector on the channel axis."""
    rank = view.shapes.rank(node.inputs[0])
    if rank is None:
        return unknown_shape(node)
    channel = geometry.channel_axis(node, rank)

    def maps(port: int, output: int, axis_in: int | None, axis_out: int | None) -> Iterable[ChannelMap]:
        if port == 0:
            axis = axis_in if axis_in is not None else axis_out
            if axis is not None:
                yield ChannelMap(axis, axis, 0, 0)
        elif (axis_in in (0, None)) and axis_out in (channel, None):
            yield ChannelMap(0, channel, 0, 0)

    return Law(Needs.NOTHING, (0, 1), (0,), maps, Joins.SUM)


def mul(view: View, node: Node) -> Answer:
    """Two values that are computed. A constant factor makes an affine site, not a law."""
    if any(view.constants.is_constant(t) for t in node.inputs):
        return Refusal(Reason.NO_LAW, node.name, "a scale that stays")
    return Law(Needs.ZERO_OFFSET, (0, 1), (0,), broadcast(view, node, (0, 1)), Joins.PRODUCT)


def real_div(view: View, node: Node) -> Answer:
    """The dividend, where both are computed. A constant operand makes an affine site, or no law."""
    if any(view.constants.is_constant(t) for t in node.inputs):
        return Refusal(Reason.NO_LAW, node.name, "a scale that stays")
    return Law(Needs.ZERO_OFFSET, (0,), (0,), broadcast(view, node, (0,)), Joins.PRODUCT)


def cast(view: View, node: Node) -> Answer:
    """To the same or a wider float type; every axis stays. Up only where readers cast back what may not fit."""
    narrow, wide = attributes.value(node, "SrcT"), attributes.value(node, "DstT")
    widens = {
        ("float16", "float32"),
        ("bfloat16", "float32"),
        ("float16", "float64"),
        ("bfloat16", "float64"),
        ("float32", "float64"),
    }
    names = (attributes.numpy_dtype(narrow).name, attributes.numpy_dtype(wide).name)
    if names in widens or names[0] == names[1]:
        return stays(node, Needs.NOTHING)
    return Refusal(Reason.DTYPE, node.name, f"{names[0]} to {names[1]}")


def pool(needs: Needs) -> Rule:
    """Axes that are not pooled (kernel and stride 1) stay."""

    def rule(view: View, node: Node) -> Answer:
        kernel, strides = attributes.value(node, "ksize"), attributes.value(node, "strides")
        if attributes.value(node, "data_format") == "NCHW_VECT_C":
            return Refusal(Reason.UNKNOWN_ATTRIBUTE, node.name, "data_format")
        return stays(node, needs, lambda axis: kernel[axis] == 1 and strides[axis] == 1)

    return rule


def reduce(needs: Needs) -> Rule:
    """Axes that are not reduced stay, or close up where the reduced ones go."""

    def rule(view: View, node: Node) -> Answer:
        rank, axes = view.shapes.rank(node.inputs[0]), view.shapes.ints(node.inputs[1])
        if rank is None or axes is None:
            return unknown_shape(node)
        gone = {axis % rank for axis in axes} if rank else set()
        kept = [axis for axis in range(rank) if axis not in gone]
        if attributes.value(node, "keep_dims"):
            return stays(node, needs, lambda axis: axis in kept)
        return moves(
            node,
            needs,
            lambda axis: kept.index(axis) if axis in kept else None,
            lambda axis: kept[axis] if axis < len(kept) else None,
        )

    return rule


def cumsum(view: View, node: Node) -> Answer:
    """Axes that are not summed stay."""
    rank, axis = view.shapes.rank(node.inputs[0]), view.shapes.ints(node.inputs[1])
    if rank is None or axis is None:
        return unknown_shape(node)
    return stays(node, Needs.ZERO_OFFSET, lambda a: a != axis[0] % rank)


def resize(view: View, node: Node) -> Answer:
    """Batch and channel axes stay; bilinear and bicubic give float32 whatever they read, so only float32 passes."""
    if node.op != "ResizeNearestNeighbor" and attributes.numpy_dtype(attributes.dtype(node)).name != "float32":
        return Refusal(Reason.DTYPE, node.name)
    return stays(node, Needs.NOTHING, lambda axis: axis in (0, 3))
