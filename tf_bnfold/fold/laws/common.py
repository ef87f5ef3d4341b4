"""What laws are made of: maps that keep or move whole axes, and joins of inputs that broadcast."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from tf_bnfold.algebra.channels import ChannelMap, Fill, Joins, Law, MapFinder, Needs
from tf_bnfold.graph.graph import Node, Tensor
from tf_bnfold.graph.view import View
from tf_bnfold.reasons import Reason, Refusal

Answer = Law | Refusal
Rule = Callable[[View, Node], Answer]
AxisOf = Callable[[int], "int | None"]


def unknown_shape(node: Node) -> Refusal:
    return Refusal(Reason.UNKNOWN_SHAPE, node.name)


def pick(maps: Iterable[ChannelMap], axis_in: int | None, axis_out: int | None) -> Iterable[ChannelMap]:
    for m in maps:
        if (axis_in is None or m.axis_in == axis_in) and (axis_out is None or m.axis_out == axis_out):
            yield m


def moves(node: Node, needs: Needs, to_out: AxisOf, to_in: AxisOf, *, port: int = 0, fill: Fill | None = None) -> Law:
    """The law of an op with one data input that carries whole axes to axes; None: the axis does not pass."""

    def maps(_port: int, output: int, axis_in: int | None, axis_out: int | None) -> Iterable[ChannelMap]:
        a_in = to_in(axis_out) if axis_out is not None else axis_in
        a_out = to_out(axis_in) if axis_in is not None else axis_out
        if a_in is not None and a_out is not None:
            yield ChannelMap(a_in, a_out, 0, 0)

    return Law(needs, (port,), (0,), maps, fill=fill)


def stays(
    node: Node,
    needs: Needs,
    axes: Callable[[int], bool] = lambda axis: True,
    *,
    port: int = 0,
    fill: Fill | None = None,
) -> Law:
    """The law of an op that keeps its axes in place, for those that `axes` admits."""

    def keep(axis: int) -> int | None:
        return axis if axes(axis) else None

    return moves(node, needs, keep, keep, port=port, fill=fill)


def elementwise(needs: Needs) -> Rule:
    """Every axis stays."""
    return lambda view, node: stays(node, needs)


def broadcast(view: View, node: Node, ports: Sequence[int]) -> MapFinder:
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


def joined(
    needs: Needs, ports: Callable[[Node], Sequence[int]], joins: Joins, signs: dict[int, int] | None = None
) -> Rule:
    """Axes stay, aligned at the last one as inputs broadcast."""

    def rule(view: View, node: Node) -> Law:
        chosen = tuple(ports(node))
        return Law(needs, chosen, (0,), broadcast(view, node, chosen), joins, signs or {})

    return rule


def all_inputs(node: Node) -> Sequence[int]:
    return range(len(node.inputs))
