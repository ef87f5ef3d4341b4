"""Shape rules of ops that move elements: (shapes, node, input shapes) -> output shapes.

A rule may fail; the shape is unknown then.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from tf_bnfold.graph import attributes
from tf_bnfold.graph.graph import Node
from tf_bnfold.graph.shapes.geometry import Dim, Shape, channel_axis, product, total

if TYPE_CHECKING:
    from tf_bnfold.graph.shapes import Shapes


def _reshape(s: Shapes, node: Node, inputs: list[Shape]) -> Sequence[Shape] | None:
    target = s.elements(node.inputs[1])
    if target is None:
        length = inputs[1]
        return [(None,) * length[0]] if length is not None and length[0] is not None else None
    dims: list[Dim] = [None if e is None else int(e) for e in target]
    if -1 in dims:
        dims[dims.index(-1)] = _missing(node, inputs[0], dims, s)
    return [tuple(dims)]


def _missing(node: Node, source: Shape, target: list[Dim], s: Shapes) -> Dim:
    """The dimension that -1 stands for, with a dimension that is copied from the input taken out on both sides."""
    if source is None:
        return None
    left: list[Dim] = list(source)
    known = 1
    for place, dim in enumerate(target):
        if dim is None:
            axis = _copied_axis(node, place, s)
            if axis is None or left[axis] is not None:
                return None
            left[axis] = 1
        elif dim != -1:
            known *= dim
    whole = product(left)
    return whole // known if whole is not None and known else None


def _copied_axis(node: Node, place: int, s: Shapes) -> int | None:
    """The axis of a Reshape's input that an element of its target is copied from, as in Pack(Shape(x)[0], -1)."""
    pack = node.inputs[1].node
    if pack.op != "Pack" or place >= len(pack.inputs):
        return None
    pick = pack.inputs[place].node
    if (
        pick.op != "StridedSlice"
        or pick.inputs[0].node.op != "Shape"
        or pick.inputs[0].node.inputs[0] != node.inputs[0]
    ):
        return None
    actions, rank = strided(s, pick, s.of(pick.inputs[0])), s.rank(node.inputs[0])
    if actions is None or rank is None or len(actions) != 1 or actions[0][0] != "index" or actions[0][1] is None:
        return None
    return int(actions[0][1]) % rank


def _squeeze(s: Shapes, node: Node, inputs: list[Shape]) -> Sequence[Shape] | None:
    x = inputs[0]
    if x is None:
        return None
    axes = attributes.value(node, "squeeze_dims")
    if not axes:
        return None if None in x else [tuple(d for d in x if d != 1)]
    drop = {int(a) % len(x) for a in axes}
    return [tuple(d for i, d in enumerate(x) if i not in drop)]


def _expand_dims(s: Shapes, node: Node, inputs: list[Shape]) -> Sequence[Shape] | None:
    axis, x = s.ints(node.inputs[1]), inputs[0]
    if axis is None or x is None:
        return None
    place = axis[0] % (len(x) + 1)
    return [(*x[:place], 1, *x[place:])]


def _transpose(s: Shapes, node: Node, inputs: list[Shape]) -> Sequence[Shape] | None:
    order, x = s.ints(node.inputs[1]), inputs[0]
    if order is None or x is None:
        return [(None,) * len(x)] if x is not None else None
    return [tuple(x[axis] for axis in order)]


def _concat(s: Shapes, node: Node, inputs: list[Shape]) -> Sequence[Shape] | None:
    last = node.op == "ConcatV2"
    axis = s.ints(node.inputs[-1 if last else 0])
    values = inputs[:-1] if last else inputs[1:]
    if axis is None or any(v is None for v in values):
        return None
    parts = [v for v in values if v is not None]
    place = axis[0] % len(parts[0])
    result = []
    for i in range(len(parts[0])):
        dims = [part[i] for part in parts]
        if i == place:
            result.append(total(dims))
        else:
            result.append(next((d for d in dims if d is not None), None))
    return [tuple(result)]


def _split(s: Shapes, node: Node, inputs: list[Shape]) -> Sequence[Shape] | None:
    axis, x, parts = s.ints(node.inputs[0]), inputs[1], int(attributes.value(node, "num_split"))
    if axis is None or x is None:
        return None
    place = axis[0] % len(x)
    size = x[place]
    shape = (*x[:place], None if size is None else size // parts, *x[place + 1 :])
    return [shape] * parts


def _split_v(s: Shapes, node: Node, inputs: list[Shape]) -> Sequence[Shape] | None:
    sizes, axis, x = s.ints(node.inputs[1]), s.ints(node.inputs[2]), inputs[0]
    if sizes is None or axis is None or x is None:
        return None
    place = axis[0] % len(x)
    total = x[place]
    known = sum(size for size in sizes if size >= 0)
    filled = [size if size >= 0 else (None if total is None else total - known) for size in sizes]
    return [(*x[:place], size, *x[place + 1 :]) for size in filled]


def _pack(s: Shapes, node: Node, inputs: list[Shape]) -> Sequence[Shape] | None:
    x = inputs[0]
    if x is None:
        return None
    place = int(attributes.value(node, "axis")) % (len(x) + 1)
    return [(*x[:place], len(inputs), *x[place:])]


def _unpack(s: Shapes, node: Node, inputs: list[Shape]) -> Sequence[Shape] | None:
    x = inputs[0]
    if x is None:
        return None
    place = int(attributes.value(node, "axis")) % len(x)
    return [(*x[:place], *x[place + 1 :])] * int(attributes.value(node, "num"))


def _slice(s: Shapes, node: Node, inputs: list[Shape]) -> Sequence[Shape] | None:
    begin, size, x = s.ints(node.inputs[1]), s.ints(node.inputs[2]), inputs[0]
    if size is None or x is None:
        return [(None,) * len(x)] if x is not None else None
    result: list[Dim] = []
    for axis, length in enumerate(size):
        whole = x[axis]
        if length >= 0:
            result.append(length)
        else:
            result.append(None if whole is None or begin is None else whole - begin[axis])
    return [tuple(result)]


def strided(s: Shapes, node: Node, shape: Shape) -> list[tuple[str, Any]] | None:
    """What a StridedSlice does with each axis of its input, in order, as (action, detail).

    Actions: "slice" with a Python slice or None when it is not known, "index" with an int or None (the axis goes),
    "new" for a new axis of size 1.
    """
    begin, end, strides = (s.elements(node.inputs[i]) for i in (1, 2, 3))
    length = next((len(v) for v in (begin, end, strides) if v is not None), None)
    if length is None or shape is None:
        return None
    masks = {
        m: int(attributes.value(node, f"{m}_mask")) for m in ("begin", "end", "ellipsis", "new_axis", "shrink_axis")
    }
    actions: list[tuple[str, Any]] = []
    new_axes = sum(bool(masks["new_axis"] >> i & 1) and not masks["ellipsis"] >> i & 1 for i in range(length))
    has_ellipsis = bool(masks["ellipsis"] & ((1 << length) - 1))
    for i in range(length):
        if masks["ellipsis"] >> i & 1:
            covered = len(shape) - (length - 1 - new_axes)
            actions.extend([("slice", slice(None))] * covered)
        elif masks["new_axis"] >> i & 1:
            actions.append(("new", None))
        elif masks["shrink_axis"] >> i & 1:
            actions.append(("index", None if begin is None else begin[i]))
        else:
            bounds: list[int | None] = []
            known = strides is not None and strides[i] is not None
            for mask, vector in (("begin", begin), ("end", end)):
                masked = bool(masks[mask] >> i & 1)
                known = known and (masked or (vector is not None and vector[i] is not None))
                bounds.append(None if masked or not known or vector is None else int(vector[i]))
            actions.append(
                ("slice", slice(bounds[0], bounds[1], int(strides[i])) if known and strides is not None else None)
            )
    if not has_ellipsis:
        consumed = sum(action != "new" for action, _ in actions)
        actions.extend([("slice", slice(None))] * (len(shape) - consumed))
    return actions


def _strided_slice(s: Shapes, node: Node, inputs: list[Shape]) -> Sequence[Shape] | None:
    x = inputs[0]
    actions = strided(s, node, x)
    if actions is None or x is None:
        return None
    result: list[Dim] = []
    axis = 0
    for action, detail in actions:
        if action == "new":
            result.append(1)
            continue
        size = x[axis]
        axis += 1
        if action == "slice":
            if detail == slice(None):
                result.append(size)
            else:
                result.append(None if detail is None or size is None else len(range(*detail.indices(size))))
    return [tuple(result)]


def _pad(s: Shapes, node: Node, inputs: list[Shape]) -> Sequence[Shape] | None:
    x, pads = inputs[0], s.ints(node.inputs[1])
    if x is None or pads is None:
        return [(None,) * len(x)] if x is not None else None
    return [tuple(None if d is None else d + pads[2 * i] + pads[2 * i + 1] for i, d in enumerate(x))]


def _depth_to_space(s: Shapes, node: Node, inputs: list[Shape]) -> Sequence[Shape] | None:
    x, block = inputs[0], int(attributes.value(node, "block_size"))
    if x is None:
        return None
    channel = channel_axis(node, 4)
    grow = node.op == "DepthToSpace"
    result: list[Dim] = []
    for axis, d in enumerate(x):
        if d is None or axis == 0:
            result.append(d)
        elif axis == channel:
            result.append(d // block**2 if grow else d * block**2)
        else:
            result.append(d * block if grow else d // block)
    return [tuple(result)]


def _space_to_batch(s: Shapes, node: Node, inputs: list[Shape]) -> Sequence[Shape] | None:
    x, block, pads = inputs[0], s.ints(node.inputs[1]), s.ints(node.inputs[2])
    if x is None or block is None:
        return [(None,) * len(x)] if x is not None else None
    product = math.prod(block)
    forward = node.op == "SpaceToBatchND"
    batch = None if x[0] is None else (x[0] * product if forward else x[0] // product)
    result: list[Dim] = [batch]
    for i, b in enumerate(block):
        d = x[1 + i]
        if d is None or pads is None:
            result.append(None)
        elif forward:
            result.append((d + pads[2 * i] + pads[2 * i + 1]) // b)
        else:
            result.append(d * b - pads[2 * i] - pads[2 * i + 1])
    return [(*result, *x[1 + len(block) :])]


def _gather(s: Shapes, node: Node, inputs: list[Shape]) -> Sequence[Shape] | None:
    x, indices = inputs[0], inputs[1]
    axis = s.ints(node.inputs[2]) if node.op == "GatherV2" else [0]
    if x is None or indices is None or axis is None or attributes.value(node, "batch_dims"):
        return None
    place = axis[0] % len(x)
    return [(*x[:place], *indices, *x[place + 1 :])]


def _tile(s: Shapes, node: Node, inputs: list[Shape]) -> Sequence[Shape] | None:
    x, multiples = inputs[0], s.elements(node.inputs[1])
    if x is None or multiples is None:
        return [(None,) * len(x)] if x is not None else None
    return [tuple(None if d is None or m is None else d * int(m) for d, m in zip(x, multiples, strict=True))]


def _broadcast_to(s: Shapes, node: Node, inputs: list[Shape]) -> Sequence[Shape] | None:
    target = s.elements(node.inputs[1])
    return None if target is None else [tuple(None if e is None else int(e) for e in target)]


def _fill(s: Shapes, node: Node, inputs: list[Shape]) -> Sequence[Shape] | None:
    target = s.elements(node.inputs[0])
    return None if target is None else [tuple(None if e is None else int(e) for e in target)]


Rule = Callable[["Shapes", Node, "list[Shape]"], "Sequence[Shape] | None"]
RULES: dict[str, Rule] = {
    "Reshape": _reshape,
    "Squeeze": _squeeze,
    "ExpandDims": _expand_dims,
    "Transpose": _transpose,
    "ConcatV2": _concat,
    "Concat": _concat,
    "Split": _split,
    "SplitV": _split_v,
    "Pack": _pack,
    "Unpack": _unpack,
    "Slice": _slice,
    "StridedSlice": _strided_slice,
    "Pad": _pad,
    "PadV2": _pad,
    "MirrorPad": _pad,
    "DepthToSpace": _depth_to_space,
    "SpaceToDepth": _depth_to_space,
    "SpaceToBatchND": _space_to_batch,
    "BatchToSpaceND": _space_to_batch,
    "Gather": _gather,
    "GatherV2": _gather,
    "Tile": _tile,
    "BroadcastTo": _broadcast_to,
    "Fill": _fill,
}
