"""Carry an affine across one op by its law: `pull` from an output to an input, `push` from the inputs to an output."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from tf_bnfold.algebra.affine import Affine
from tf_bnfold.algebra.channels import ChannelMap, Fill, Joins, Law
from tf_bnfold.fold.ledger import unfit_constant
from tf_bnfold.fold.route import Placed, Route, SetFill
from tf_bnfold.graph import attributes
from tf_bnfold.graph.graph import Node, Tensor
from tf_bnfold.graph.view import View
from tf_bnfold.reasons import Reason, Refusal


def pull(view: View, node: Node, law: Law, port: int, output: int, placed: Placed) -> Placed | Refusal | None:
    """The affine on one input; None where the input does not feed the output."""
    affine, axis = placed.affine, placed.axis
    if law.maps(port, output, None, axis if axis is not None else 0) is None:
        return None
    uniform = affine.channels == 1
    others = [o for o in law.outputs if o != output and (view.graph.uses(Tensor(node, o)) or node.readers.get(o))]
    alone = not others or len(law.ports) > 1
    if uniform and alone:
        return Placed(affine, None)
    if uniform:
        axis_in, _ = law.own_axis or (None, None)
        found = law.maps(port, output, axis_in, None) or ()
        candidates = [(m, m.pull_own(affine)) for m in found]
    else:
        found = law.maps(port, output, None, axis) or ()
        candidates = [(m, m.pull_own(affine)) for m in found]
    reason = Reason.CHANNELS_DIFFER if candidates else _why_no_map(view, node, port, output)
    for channel_map, before in candidates:
        if before is None:
            continue
        result = Placed(before, channel_map.axis_in)
        if alone or all(_leaves(law, port, o, result) for o in others):
            return result
    return Refusal(reason, node.name)


def _why_no_map(view: View, node: Node, port: int, output: int) -> Reason:
    """Why no channel of an input belongs to the channels of an output."""
    shapes = (view.shapes.of(node.inputs[port]), view.shapes.of(Tensor(node, output)))
    # A free batch alone leaves every channel axis known.
    unknown = any(shape is None or None in shape[1:] for shape in shapes)
    return Reason.UNKNOWN_SHAPE if unknown else Reason.CHANNEL_AXIS


def _leaves(law: Law, port: int, output: int, before: Placed) -> bool:
    """Whether an affine on an input leaves another output as it is."""
    found = law.maps(port, output, before.axis, None)
    if found is None:
        return True
    for channel_map in found:
        pushed = channel_map.push(before.affine)
        if pushed is not None:
            return pushed.is_identity
    return False


def push(node: Node, law: Law, output: int, arrived: Mapping[int, Placed]) -> Placed | Refusal:
    """The affine on an output, of those on the inputs; an input without one carries the identity."""
    # A factor without one changes nothing, whatever its axes are.
    ports = law.ports if law.joins is not Joins.PRODUCT else [port for port in law.ports if port in arrived]
    fed = [port for port in ports if law.maps(port, output, None, 0) is not None]
    inputs = {port: arrived.get(port, Placed(Affine.identity(), None)) for port in fed}
    affines = [placed.affine for placed in inputs.values()]
    axis_out, maps = _common_axis(law, output, inputs)
    if axis_out is None and maps is None:
        if law.joins is not Joins.EACH or _all_equal(affines):
            return _joined(node, law, {port: p.affine for port, p in inputs.items()}, None, None)
        return Refusal(Reason.MIXED_BRANCHES, node.name)
    if axis_out is None or maps is None:
        return Refusal(Reason.UNKNOWN_SHAPE if maps is None else Reason.CHANNELS_DIFFER, node.name)
    pushed: dict[int, Affine] = {}
    for port, placed in inputs.items():
        behind = maps[port].push(placed.affine)
        if behind is None:
            return Refusal(Reason.CHANNELS_DIFFER, node.name)
        pushed[port] = behind
    return _joined(node, law, pushed, axis_out, maps)


def _all_equal(affines: list[Affine]) -> bool:
    first = affines[0]
    return all((a.scale == first.scale).all() and (a.offset == first.offset).all() for a in affines)


def _common_axis(
    law: Law, output: int, inputs: Mapping[int, Placed]
) -> tuple[int | None, dict[int, ChannelMap] | None]:
    """The output's channel axis and a map for each port. (None, None): all is uniform, and no axis is needed."""
    placed_ports = [(port, placed) for port, placed in inputs.items() if placed.affine.channels > 1]
    if placed_ports:
        port, placed = placed_ports[0]
        candidates = [m for m in law.maps(port, output, placed.axis, None) or () if m.push(placed.affine) is not None]
    elif law.own_axis is not None and not _all_equal([p.affine for p in inputs.values()]):
        port = next(iter(inputs))
        candidates = list(law.maps(port, output, None, law.own_axis[1]) or ()) if law.own_axis[1] is not None else []
    elif law.own_axis is not None and law.own_axis[1] is None and len(inputs) == 1:
        return None, None
    else:
        return None, None
    if len(inputs) == 1 and candidates:
        return candidates[0].axis_out, {port: candidates[0]}
    for candidate in candidates:
        maps: dict[int, ChannelMap] = {}
        for other, placed in inputs.items():
            found = [
                m
                for m in law.maps(other, output, None, candidate.axis_out) or ()
                if placed.axis is None or placed.affine.channels == 1 or m.axis_in == placed.axis
            ]
            if not found:
                break
            maps[other] = candidate if other == port else found[0]
        else:
            return candidate.axis_out, maps
    return (candidates[0].axis_out, None) if candidates else (None, {})


def _joined(
    node: Node, law: Law, pushed: Mapping[int, Affine], axis: int | None, maps: Mapping[int, ChannelMap] | None
) -> Placed | Refusal:
    channels = max(affine.channels for affine in pushed.values())
    if law.joins is Joins.SUM:
        first = next(iter(pushed.values()))
        if any((affine.scale != first.scale).any() for affine in pushed.values()):
            return Refusal(Reason.NEEDS_UNIT_SCALE, node.name)
        offsets = [law.signs.get(port, 1) * affine.offset for port, affine in pushed.items()]
        return Placed(Affine.of(first.scale, sum(offsets)), axis if channels > 1 else None)
    if law.joins is Joins.PRODUCT:
        scale = np.ones(1)
        for affine in pushed.values():
            scale = scale * affine.scale
        return Placed(Affine.of(scale, 0.0), axis if channels > 1 else None)
    scale, offset, seen = np.ones(channels), np.zeros(channels), np.zeros(channels, bool)
    for port, affine in pushed.items():
        feeds = np.ones(channels, bool) if maps is None else maps[port].feeds(channels)
        s, o = np.broadcast_to(affine.scale, channels), np.broadcast_to(affine.offset, channels)
        clash = seen & feeds & ((scale != s) | (offset != o))
        if clash.any():
            return Refusal(Reason.MIXED_BRANCHES, node.name)
        scale[feeds], offset[feeds] = s[feeds], o[feeds]
        seen |= feeds
    return Placed(Affine(scale, offset), axis if channels > 1 else None)


def pull_fill(law: Law, node: Node, placed: Placed) -> Route | Refusal:
    """What becomes of the constant that an op writes by itself, when its output carries the affine."""
    fill = law.fill
    if fill is None:
        return []
    if fill.value is None:
        return Refusal(Reason.PARAMETERS_NOT_CONSTANT, node.name)
    affine = placed.affine
    wanted = affine.scale * fill.value + affine.offset
    if (placed.axis is not None and set(fill.axes) == {placed.axis}) or not (wanted == wanted[0]).all():
        # Only some channels meet the constant, or they want different ones: it must do as it is.
        return [] if (wanted == fill.value).all() else Refusal(Reason.ZERO_PADDING, node.name)
    return _set_fill(fill, node, float(wanted[0]))


def push_fill(law: Law, node: Node, placed: Placed) -> Route | Refusal:
    """What becomes of the constant that an op writes by itself, when its input carries the affine."""
    fill = law.fill
    if fill is None:
        return []
    if fill.value is None:
        return Refusal(Reason.PARAMETERS_NOT_CONSTANT, node.name)
    if placed.axis is not None and set(fill.axes) == {placed.axis}:
        return []  # the channels that hold the constant are others than those that carry the affine
    affine = placed.affine
    if (affine.scale * fill.value + affine.offset == fill.value).all():
        return []
    with np.errstate(all="ignore"):
        wanted = (fill.value - affine.offset) / affine.scale
    if not np.isfinite(wanted).all() or not (wanted == wanted[0]).all():
        return Refusal(Reason.ZERO_PADDING, node.name)
    if placed.axis is not None and placed.axis in fill.axes:
        return Refusal(Reason.ZERO_PADDING, node.name)
    return _set_fill(fill, node, float(wanted[0]))


def _set_fill(fill: Fill, node: Node, value: float) -> Route | Refusal:
    if value == fill.value:
        return []
    if node.op not in ("Pad", "PadV2"):
        return Refusal(Reason.ZERO_PADDING, node.name)
    return unfit_constant(np.array(value), attributes.dtype(node), node.name) or [SetFill(node, value)]
