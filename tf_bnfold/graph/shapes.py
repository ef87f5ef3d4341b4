"""Static shapes by local rules, asked only where a decision needs them.

Importing a large graph into TensorFlow costs more than folding it, so shapes are inferred here: a shape is a tuple with
None for an unknown dimension, or None for an unknown rank. Integer vectors that shape arithmetic computes are followed
too, with None for an unknown element, so that Reshape(x, Pack(Shape(x)[0], 7, 7, 64)) has a shape.

An op that no rule names has an unknown shape; `_output_shapes` annotations are believed then.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tf_bnfold.graph import attributes
from tf_bnfold.graph.constants import Constants
from tf_bnfold.graph.graph import Graph, Node, Tensor

Dim = int | None
Shape = tuple[Dim, ...] | None
Elements = npt.NDArray[np.object_] | None  # ints, None where unknown
_LARGEST_VECTOR = 1024


class Shapes:
    """The shapes of a graph's tensors, each inferred at most once and only when asked for."""

    def __init__(self, graph: Graph, constants: Constants) -> None:
        self._graph = graph
        self._constants = constants
        self._shapes: dict[Node, tuple[Shape, ...] | Shape] = {}
        self._elements: dict[Node, Elements] = {}

    def of(self, tensor: Tensor) -> Shape:
        """The shape of a tensor, as far as it is known."""
        self._infer(tensor.node)
        return self._read(tensor)

    def rank(self, tensor: Tensor) -> int | None:
        """The rank of a tensor, or None."""
        known = _RANK_BY_OP.get(tensor.node.op)
        if known is not None and tensor.index == 0:
            return known
        shape = self.of(tensor)
        return None if shape is None else len(shape)

    def dim(self, tensor: Tensor, axis: int) -> Dim:
        """One dimension of a tensor, or None."""
        shape = self.of(tensor)
        return shape[axis] if shape is not None and -len(shape) <= axis < len(shape) else None

    def elements(self, tensor: Tensor) -> Elements:
        """The elements of an integer tensor, as far as shape arithmetic tells them."""
        self._infer(tensor.node)
        return self._elements.get(tensor.node) if tensor.index == 0 else None

    def inherit(self, node: Node, like: Tensor) -> None:
        """Give a node that an edit added the shape of another tensor."""
        self._shapes[node] = (self.of(like),)

    def _read(self, tensor: Tensor) -> Shape:
        shapes = self._shapes.get(tensor.node, ())
        return shapes[tensor.index] if tensor.index < len(shapes) else None  # type: ignore[arg-type,return-value]

    def _infer(self, node: Node) -> None:
        pending = [(node, False)]
        while pending:
            current, ready = pending.pop()
            if current in self._shapes and not ready:
                continue
            if not ready:
                self._shapes[current] = ()  # on a v1 loop's way back nothing is known yet
                pending.append((current, True))
                pending.extend((t.node, False) for t in current.inputs if t.node not in self._shapes)
                continue
            self._shapes[current] = self._outputs(current)

    def _outputs(self, node: Node) -> tuple[Shape, ...]:
        if node.array is not None:
            return (node.array.shape,)
        rule = _RULES.get(node.op)
        inputs = [self._read(t) for t in node.inputs]
        shapes: Sequence[Shape] | None = None
        try:
            if rule is not None and not (self._graph.is_fed(node) and node.op not in _SOURCES):
                shapes = rule(self, node, inputs)
            self._elements[node] = self._shape_arithmetic(node, inputs)
        except (ValueError, TypeError, IndexError, KeyError, AttributeError):
            shapes = None  # a graph that TensorFlow would refuse: nothing is known
        return tuple(shapes) if shapes is not None else _annotated(node)

    def _shape_arithmetic(self, node: Node, inputs: list[Shape]) -> Elements:
        rule = _ELEMENTS.get(node.op)
        if rule is None:
            return None
        result = rule(self, node, inputs)
        return result if result is None or result.size <= _LARGEST_VECTOR else None

    def ints(self, tensor: Tensor) -> list[int] | None:
        """A small integer vector or scalar that is wholly known, as a list."""
        elements = self.elements(tensor)
        if elements is None or any(e is None for e in elements.ravel()):
            return None
        return [int(e) for e in elements.ravel()]


# The rank that these ops always have; asking upstream is not needed then.
_RANK_BY_OP = {
    "Conv2D": 4,
    "DepthwiseConv2dNative": 4,
    "Conv2DBackpropInput": 4,
    "DepthwiseConv2dNativeBackpropInput": 4,
    "FusedBatchNorm": 4,
    "FusedBatchNormV2": 4,
    "BatchNormWithGlobalNormalization": 4,
    "MaxPool": 4,
    "AvgPool": 4,
    "Conv3D": 5,
    "Conv3DBackpropInput": 5,
    "Conv3DBackpropInputV2": 5,
    "MatMul": 2,
}

_SOURCES = ("Placeholder", "PlaceholderV2", "PlaceholderWithDefault")


def _annotated(node: Node) -> tuple[Shape, ...]:
    if "_output_shapes" not in node.proto.attr:
        return ()
    return tuple(_of_proto(shape) for shape in node.proto.attr["_output_shapes"].list.shape)


def _of_proto(proto: Any) -> Shape:
    if proto.unknown_rank:
        return None
    return tuple(d.size if d.size >= 0 else None for d in proto.dim)


def channel_axis(node: Node, rank: int) -> int:
    """The channel axis by the attribute data_format."""
    return 1 if (attributes.value(node, "data_format") or "NHWC").startswith("NC") else rank - 1


def broadcast(*shapes: Shape) -> Shape:
    """The shape that numpy broadcasting gives; an unknown dimension stays unknown unless another one decides."""
    if any(shape is None for shape in shapes):
        return None
    known = [shape for shape in shapes if shape is not None]
    rank = max((len(shape) for shape in known), default=0)
    result: list[Dim] = []
    for axis in range(rank):
        dims = [shape[axis - rank + len(shape)] for shape in known if axis - rank + len(shape) >= 0]
        large = [d for d in dims if d is not None and d != 1]
        result.append(large[0] if large else (None if None in dims else 1))
    return tuple(result)


def window(size: Dim, kernel: int, stride: int, dilation: int, padding: str, explicit: tuple[int, int]) -> Dim:
    """The output size of a sliding window."""
    if size is None:
        return None
    if padding == "SAME":
        return -(-size // stride)
    reach = (kernel - 1) * dilation + 1
    return (size + sum(explicit) - reach) // stride + 1


def same_padding(size: Dim, kernel: int, stride: int, dilation: int) -> int | None:
    """How many zeros SAME adds in total, or None when the size decides and is unknown.

    Source: TensorFlow, `tf.nn` "Notes on padding".
    """
    reach = (kernel - 1) * dilation + 1
    if reach == 1:
        return 0
    if size is None:
        return None
    return max((-(-size // stride) - 1) * stride + reach - size, 0)


def explicit_pads(node: Node, rank: int) -> list[tuple[int, int]]:
    """`explicit_paddings` as a pair per axis; zeros where the padding is another one."""
    if attributes.value(node, "padding") != "EXPLICIT":
        return [(0, 0)] * rank
    flat = attributes.value(node, "explicit_paddings")
    return [(int(flat[2 * axis]), int(flat[2 * axis + 1])) for axis in range(rank)]


def per_axis(node: Node, name: str, rank: int) -> list[int]:
    """A list attribute such as strides or dilations with one number per axis."""
    values = attributes.value(node, name)
    return [int(v) for v in values] if values else [1] * rank


# The rules: (shapes, node, input shapes) -> output shapes. A rule may fail; the shape is unknown then.


def _same(s: Shapes, node: Node, inputs: list[Shape]) -> Sequence[Shape]:
    return [inputs[0]]


def _elementwise(s: Shapes, node: Node, inputs: list[Shape]) -> Sequence[Shape]:
    return [broadcast(*inputs)]


def _placeholder(s: Shapes, node: Node, inputs: list[Shape]) -> Sequence[Shape] | None:
    if "shape" not in node.proto.attr:
        return None
    return [_of_proto(node.proto.attr["shape"].shape)]


def _const(s: Shapes, node: Node, inputs: list[Shape]) -> Sequence[Shape]:
    return [tuple(int(d.size) for d in node.proto.attr["value"].tensor.tensor_shape.dim)]


def _conv(s: Shapes, node: Node, inputs: list[Shape]) -> Sequence[Shape] | None:
    x, w = inputs[0], inputs[1]
    if w is None:
        return None
    rank = len(w)
    channel = channel_axis(node, rank)
    first = 2 if channel == 1 else 1
    strides, dilations = per_axis(node, "strides", rank), per_axis(node, "dilations", rank)
    padding, pads = attributes.value(node, "padding"), explicit_pads(node, rank)
    result: list[Dim] = [None] * rank
    result[0] = x[0] if x is not None else None
    for i in range(rank - 2):
        axis, kernel = first + i, w[i]
        if x is not None and kernel is not None:
            result[axis] = window(x[axis], kernel, strides[axis], dilations[axis], padding, pads[axis])
    depthwise = node.op == "DepthwiseConv2dNative"
    result[channel] = _product(w[-2:]) if depthwise else w[-1]
    return [tuple(result)]


def _conv_transpose(s: Shapes, node: Node, inputs: list[Shape]) -> Sequence[Shape]:
    sizes, data = s.elements(node.inputs[0]), inputs[2]
    if sizes is not None:
        shape = [None if e is None else int(e) for e in sizes]
    else:
        w = inputs[1]
        rank = len(w) if w is not None else 4
        shape = [None] * rank
    if shape[0] is None and data is not None:
        shape[0] = data[0]
    return [tuple(shape)]


def _matmul(s: Shapes, node: Node, inputs: list[Shape]) -> Sequence[Shape]:
    a, b = inputs[0] or (None, None), inputs[1] or (None, None)
    rows = a[1] if attributes.value(node, "transpose_a") else a[0]
    columns = b[0] if attributes.value(node, "transpose_b") else b[1]
    return [(rows, columns)]


def _batch_matmul(s: Shapes, node: Node, inputs: list[Shape]) -> Sequence[Shape] | None:
    a, b = inputs
    if a is None or b is None:
        return None
    batch = broadcast(a[:-2], b[:-2]) or ()
    rows = a[-1] if attributes.value(node, "adj_x") else a[-2]
    columns = b[-2] if attributes.value(node, "adj_y") else b[-1]
    return [(*batch, rows, columns)]


def _einsum(s: Shapes, node: Node, inputs: list[Shape]) -> Sequence[Shape] | None:
    left, right = attributes.value(node, "equation").replace(" ", "").split("->")
    if "." in left:
        return None
    sizes: dict[str, Dim] = {}
    for labels, shape in zip(left.split(","), inputs, strict=True):
        for label, size in zip(labels, shape or [None] * len(labels), strict=True):
            sizes[label] = size if sizes.get(label) is None else sizes[label]
    return [tuple(sizes[label] for label in right)]


def _batch_norm(s: Shapes, node: Node, inputs: list[Shape]) -> Sequence[Shape]:
    return [inputs[0], inputs[1], inputs[1], inputs[1], inputs[1], None]


def _pool(s: Shapes, node: Node, inputs: list[Shape]) -> Sequence[Shape] | None:
    x = inputs[0]
    if x is None:
        return None
    rank = len(x)
    kernel, strides = per_axis(node, "ksize", rank), per_axis(node, "strides", rank)
    pads = explicit_pads(node, rank) if node.op == "MaxPool" else [(0, 0)] * rank
    padding = attributes.value(node, "padding")
    return [tuple(window(x[i], kernel[i], strides[i], 1, padding, pads[i]) for i in range(rank))]


def _reshape(s: Shapes, node: Node, inputs: list[Shape]) -> Sequence[Shape] | None:
    target = s.elements(node.inputs[1])
    if target is None:
        length = inputs[1]
        return [(None,) * length[0]] if length is not None and length[0] is not None else None
    dims: list[Dim] = [None if e is None else int(e) for e in target]
    if -1 in dims:
        hole = dims.index(-1)
        others = dims[:hole] + dims[hole + 1 :]
        dims[hole] = _missing(inputs[0], others)
    return [tuple(dims)]


def _missing(source: Shape, others: list[Dim]) -> Dim:
    """The dimension that -1 stands for; unknown dimensions may stand on both sides once."""
    if source is None:
        return None
    unknown_in, unknown_out = source.count(None), others.count(None)
    if unknown_in != unknown_out or unknown_in > 1:
        return None
    rest = _product([d for d in others if d is not None])
    total = _product([d for d in source if d is not None])
    # One unknown on each side: by TensorFlow's conventions both are the batch, carried over by shape arithmetic,
    # which can't be told from here; so only the wholly known case is decided.
    return total // rest if unknown_in == 0 and rest else None


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
            result.append(_sum(dims))
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
    masks = {m: int(attributes.value(node, f"{m}_mask")) for m in ("begin", "end", "ellipsis", "new_axis", "shrink_axis")}
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
            actions.append(("slice", slice(bounds[0], bounds[1], int(strides[i])) if known and strides is not None else None))
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


def _reduce(s: Shapes, node: Node, inputs: list[Shape]) -> Sequence[Shape] | None:
    x, axes = inputs[0], s.ints(node.inputs[1])
    if x is None or axes is None:
        return None
    gone = {axis % len(x) for axis in axes} if x else set()
    keep = attributes.value(node, "keep_dims")
    return [tuple(1 if i in gone else d for i, d in enumerate(x) if keep or i not in gone)]


def _resize(s: Shapes, node: Node, inputs: list[Shape]) -> Sequence[Shape] | None:
    x, size = inputs[0], s.elements(node.inputs[1])
    if x is None:
        return None
    height, width = (None, None) if size is None else (size[0], size[1])
    return [(x[0], height, width, x[3])]


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


def _select(s: Shapes, node: Node, inputs: list[Shape]) -> Sequence[Shape]:
    return [broadcast(*inputs) if node.op == "SelectV2" else inputs[1]]


def _identity_n(s: Shapes, node: Node, inputs: list[Shape]) -> Sequence[Shape]:
    return inputs


def _shape_of(s: Shapes, node: Node, inputs: list[Shape]) -> Sequence[Shape]:
    return [None if x is None else (len(x),) for x in inputs]


def _product(dims: Sequence[Dim]) -> Dim:
    return None if None in dims else math.prod(d for d in dims if d is not None)


def _sum(dims: Sequence[Dim]) -> Dim:
    return None if None in dims else sum(d for d in dims if d is not None)


_Rule = Callable[[Shapes, Node, "list[Shape]"], "Sequence[Shape] | None"]
_RULES: dict[str, _Rule] = {
    "Placeholder": _placeholder,
    "PlaceholderV2": _placeholder,
    "PlaceholderWithDefault": _placeholder,
    "Const": _const,
    "Conv2D": _conv,
    "Conv3D": _conv,
    "DepthwiseConv2dNative": _conv,
    "Conv2DBackpropInput": _conv_transpose,
    "Conv3DBackpropInput": _conv_transpose,
    "Conv3DBackpropInputV2": _conv_transpose,
    "DepthwiseConv2dNativeBackpropInput": _conv_transpose,
    "MatMul": _matmul,
    "BatchMatMul": _batch_matmul,
    "BatchMatMulV2": _batch_matmul,
    "BatchMatMulV3": _batch_matmul,
    "Einsum": _einsum,
    "FusedBatchNorm": _batch_norm,
    "FusedBatchNormV2": _batch_norm,
    "FusedBatchNormV3": _batch_norm,
    "BatchNormWithGlobalNormalization": _batch_norm,
    "MaxPool": _pool,
    "AvgPool": _pool,
    "MaxPool3D": _pool,
    "AvgPool3D": _pool,
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
    "ResizeNearestNeighbor": _resize,
    "ResizeBilinear": _resize,
    "ResizeBicubic": _resize,
    "ResizeArea": _resize,
    "DepthToSpace": _depth_to_space,
    "SpaceToDepth": _depth_to_space,
    "SpaceToBatchND": _space_to_batch,
    "BatchToSpaceND": _space_to_batch,
    "Gather": _gather,
    "GatherV2": _gather,
    "Tile": _tile,
    "BroadcastTo": _broadcast_to,
    "Fill": lambda s, node, inputs: _broadcast_to_first(s, node),
    "Select": _select,
    "SelectV2": _select,
    "IdentityN": _identity_n,
    "Shape": _shape_of,
    "ShapeN": _shape_of,
    "AddN": lambda s, node, inputs: [next((x for x in inputs if x is not None), None)],
    "BiasAdd": _same,
    "Rank": lambda s, node, inputs: [()],
    "Size": lambda s, node, inputs: [()],
}
for _op in ("Mean", "Sum", "Max", "Min", "Prod", "All", "Any"):
    _RULES[_op] = _reduce
for _op in (
    "Add AddV2 Sub Mul RealDiv Div FloorDiv FloorMod Mod Maximum Minimum Pow SquaredDifference Less LessEqual Greater "
    "GreaterEqual Equal NotEqual LogicalAnd LogicalOr DivNoNan MulNoNan Atan2"
).split():
    _RULES[_op] = _elementwise
for _op in (
    "Identity StopGradient PreventGradient Snapshot CheckNumerics EnsureShape ReadVariableOp Cast Relu Relu6 LeakyRelu Elu Selu "
    "Sigmoid Tanh Softplus Softsign Softmax LogSoftmax Erf Exp Log Sqrt Rsqrt Square Abs Neg Sign Floor Ceil Round Rint "
    "Reciprocal Inv ZerosLike OnesLike ClipByValue ReverseV2 LRN FakeQuantWithMinMaxVars FakeQuantWithMinMaxArgs "
    "FakeQuantWithMinMaxVarsPerChannel QuantizeAndDequantizeV2 QuantizeAndDequantizeV3 QuantizeAndDequantizeV4 "
    "LogicalNot IsNan IsFinite IsInf PlaceholderWithDefault Cumsum Roll Dequantize"
).split():
    _RULES.setdefault(_op, _same)


def _broadcast_to_first(s: Shapes, node: Node) -> Sequence[Shape] | None:
    target = s.elements(node.inputs[0])
    return None if target is None else [tuple(None if e is None else int(e) for e in target)]


# Shape arithmetic: (shapes, node, input shapes) -> elements.


def _constant_elements(s: Shapes, node: Node, inputs: list[Shape]) -> Elements:
    tensor = node.proto.attr["value"].tensor
    if tensor.dtype not in (3, 9) or math.prod(d.size for d in tensor.tensor_shape.dim) > _LARGEST_VECTOR:  # int32, int64
        return None
    value = s._constants.value(Tensor(node, 0))
    return None if value is None else value.astype(object)


def _shape_elements(s: Shapes, node: Node, inputs: list[Shape]) -> Elements:
    shape = inputs[0]
    if shape is None:
        return None
    result = np.empty(len(shape), object)
    result[:] = shape
    return result


def _pass_elements(s: Shapes, node: Node, inputs: list[Shape]) -> Elements:
    return s.elements(node.inputs[0])


def _pack_elements(s: Shapes, node: Node, inputs: list[Shape]) -> Elements:
    parts = [s.elements(t) for t in node.inputs]
    if any(shape != () for shape in inputs):
        return None
    result = np.empty(len(parts), object)
    result[:] = [None if part is None else part.item() for part in parts]
    return result


def _concat_elements(s: Shapes, node: Node, inputs: list[Shape]) -> Elements:
    parts: list[npt.NDArray[np.object_]] = []
    for tensor, shape in zip(node.inputs[:-1], inputs[:-1], strict=True):
        part = s.elements(tensor)
        if part is None:
            if shape is None or len(shape) != 1 or shape[0] is None:
                return None
            part = np.full(shape[0], None, object)
        parts.append(part)
    return np.concatenate(parts)


def _strided_elements(s: Shapes, node: Node, inputs: list[Shape]) -> Elements:
    x = s.elements(node.inputs[0])
    actions = strided(s, node, inputs[0])
    if x is None or actions is None or len(actions) != 1 or actions[0][1] is None:
        return None
    action, detail = actions[0]
    if action == "index":
        result = np.empty((), object)
        result[()] = x[int(detail)]
        return result
    return x[detail]


def _gather_elements(s: Shapes, node: Node, inputs: list[Shape]) -> Elements:
    x, indices = s.elements(node.inputs[0]), s.ints(node.inputs[1])
    if x is None or indices is None or x.ndim != 1:
        return None
    picked = [x[i] for i in indices]
    result = np.empty(len(picked), object)
    result[:] = picked
    return result.reshape([d for d in inputs[1] or () if d is not None])


def _prod_elements(s: Shapes, node: Node, inputs: list[Shape]) -> Elements:
    x = s.elements(node.inputs[0])
    if x is None or x.ndim != 1:
        return None
    result = np.empty((1,) if attributes.value(node, "keep_dims") else (), object)
    result[...] = _product(list(x))
    return result


def _binary_elements(operation: Callable[[int, int], int]) -> Callable[[Shapes, Node, list[Shape]], Elements]:
    def rule(s: Shapes, node: Node, inputs: list[Shape]) -> Elements:
        x, y = s.elements(node.inputs[0]), s.elements(node.inputs[1])
        if x is None or y is None:
            return None
        x, y = np.broadcast_arrays(x, y)
        result = np.empty(x.shape, object)
        for place in np.ndindex(x.shape):
            a, b = x[place], y[place]
            result[place] = None if a is None or b is None else operation(int(a), int(b))
        return result

    return rule


def _reshape_elements(s: Shapes, node: Node, inputs: list[Shape]) -> Elements:
    x, shape = s.elements(node.inputs[0]), s.ints(node.inputs[1])
    return None if x is None or shape is None else x.reshape(shape)


_ELEMENTS: dict[str, Callable[[Shapes, Node, "list[Shape]"], Elements]] = {
    "Const": _constant_elements,
    "Shape": _shape_elements,
    "Identity": _pass_elements,
    "Cast": _pass_elements,
    "StopGradient": _pass_elements,
    "Pack": _pack_elements,
    "ConcatV2": _concat_elements,
    "StridedSlice": _strided_elements,
    "GatherV2": _gather_elements,
    "Prod": _prod_elements,
    "Reshape": _reshape_elements,
    "Mul": _binary_elements(lambda a, b: a * b),
    "Add": _binary_elements(lambda a, b: a + b),
    "AddV2": _binary_elements(lambda a, b: a + b),
    "Sub": _binary_elements(lambda a, b: a - b),
    "FloorDiv": _binary_elements(lambda a, b: a // b),
    "Maximum": _binary_elements(max),
    "Minimum": _binary_elements(min),
}
