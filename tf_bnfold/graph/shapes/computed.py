"""Shape rules of ops that compute: (shapes, node, input shapes) -> output shapes.

A rule may fail; the shape is unknown then.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from tf_bnfold.graph import attributes
from tf_bnfold.graph.graph import Node
from tf_bnfold.graph.shapes.geometry import (
    Dim,
    Shape,
    broadcast,
    channel_axis,
    einsum_terms,
    explicit_pads,
    of_proto,
    per_axis,
    product,
    window,
)

if TYPE_CHECKING:
    from tf_bnfold.graph.shapes import Shapes


def _same(s: Shapes, node: Node, inputs: list[Shape]) -> Sequence[Shape]:
    return [inputs[0]]


def _variable(s: Shapes, node: Node, inputs: list[Shape]) -> Sequence[Shape]:
    """A variable's shape; a constant's where one stands in a variable's place."""
    handle = node.inputs[0].node
    return [of_proto(handle.proto.attr["shape"].shape) if handle.op == "VarHandleOp" else inputs[0]]


def _elementwise(s: Shapes, node: Node, inputs: list[Shape]) -> Sequence[Shape]:
    return [broadcast(*inputs)]


def _placeholder(s: Shapes, node: Node, inputs: list[Shape]) -> Sequence[Shape] | None:
    if "shape" not in node.proto.attr:
        return None
    return [of_proto(node.proto.attr["shape"].shape)]


def _const(s: Shapes, node: Node, inputs: list[Shape]) -> Sequence[Shape]:
    return [tuple([d.size for d in node.proto.attr["value"].tensor.tensor_shape.dim])]


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
    result[channel] = product(w[-2:]) if depthwise else w[-1]
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
    terms = einsum_terms(attributes.value(node, "equation"), [None if x is None else len(x) for x in inputs])
    if terms is None:
        return None
    sizes: dict[str, Dim] = {}
    for labels, shape in zip(terms[:-1], inputs, strict=True):
        for label, size in zip(labels, shape or [None] * len(labels), strict=True):
            sizes[label] = size if sizes.get(label) in (None, 1) else sizes[label]
    return [tuple(sizes[label] for label in terms[-1])]


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


def _select(s: Shapes, node: Node, inputs: list[Shape]) -> Sequence[Shape]:
    return [broadcast(*inputs) if node.op == "SelectV2" else inputs[1]]


def _identity_n(s: Shapes, node: Node, inputs: list[Shape]) -> Sequence[Shape]:
    return inputs


def _switch(s: Shapes, node: Node, inputs: list[Shape]) -> Sequence[Shape]:
    return [inputs[0], inputs[0]]  # output_false, output_true


def _merge(s: Shapes, node: Node, inputs: list[Shape]) -> Sequence[Shape]:
    """What all inputs agree in: any of them may be the one that arrives. The second output is its number.

    A loop's is not known, for NextIteration has no rule: whatever is asked for first, the answers are the same.
    """
    known = [x for x in inputs if x is not None]
    if len(known) < len(inputs) or len({len(x) for x in known}) != 1:
        return [None, ()]
    return [tuple(dims[0] if len(set(dims)) == 1 else None for dims in zip(*known, strict=True)), ()]


def _shape_of(s: Shapes, node: Node, inputs: list[Shape]) -> Sequence[Shape]:
    return [None if x is None else (len(x),) for x in inputs]


Rule = Callable[["Shapes", Node, "list[Shape]"], "Sequence[Shape] | None"]
RULES: dict[str, Rule] = {
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
    "ResizeNearestNeighbor": _resize,
    "ResizeBilinear": _resize,
    "ResizeBicubic": _resize,
    "ResizeArea": _resize,
    "Select": _select,
    "SelectV2": _select,
    "IdentityN": _identity_n,
    "Switch": _switch,
    "Merge": _merge,
    "Shape": _shape_of,
    "ShapeN": _shape_of,
    "AddN": lambda s, node, inputs: [next((x for x in inputs if x is not None), None)],
    "BiasAdd": _same,
    "ReadVariableOp": _variable,
    "Rank": lambda s, node, inputs: [()],
    "Size": lambda s, node, inputs: [()],
}
for _op in ("Mean", "Sum", "Max", "Min", "Prod", "All", "Any"):
    RULES[_op] = _reduce
for _op in [
    "Add",
    "AddV2",
    "Sub",
    "Mul",
    "RealDiv",
    "Div",
    "FloorDiv",
    "FloorMod",
    "Mod",
    "Maximum",
    "Minimum",
    "Pow",
    "SquaredDifference",
    "Less",
    "LessEqual",
    "Greater",
    "GreaterEqual",
    "Equal",
    "NotEqual",
    "LogicalAnd",
    "LogicalOr",
    "DivNoNan",
    "MulNoNan",
    "Atan2",
]:
    RULES[_op] = _elementwise
for _op in [
    "Identity",
    "Enter",
    "StopGradient",
    "PreventGradient",
    "Snapshot",
    "CheckNumerics",
    "EnsureShape",
    "Cast",
    "Relu",
    "Relu6",
    "LeakyRelu",
    "Elu",
    "Selu",
    "Sigmoid",
    "Tanh",
    "Softplus",
    "Softsign",
    "Softmax",
    "LogSoftmax",
    "Erf",
    "Erfc",
    "Exp",
    "Expm1",
    "Log",
    "Log1p",
    "Sin",
    "Cos",
    "Atan",
    "Sqrt",
    "Rsqrt",
    "Square",
    "Abs",
    "Neg",
    "Sign",
    "Floor",
    "Ceil",
    "Round",
    "Rint",
    "Reciprocal",
    "Inv",
    "ZerosLike",
    "OnesLike",
    "ClipByValue",
    "ReverseV2",
    "LRN",
    "FakeQuantWithMinMaxVars",
    "FakeQuantWithMinMaxArgs",
    "FakeQuantWithMinMaxVarsPerChannel",
    "QuantizeAndDequantizeV2",
    "QuantizeAndDequantizeV3",
    "QuantizeAndDequantizeV4",
    "LogicalNot",
    "IsNan",
    "IsFinite",
    "IsInf",
    "PlaceholderWithDefault",
    "Cumsum",
    "Roll",
    "Dequantize",
]:
    RULES.setdefault(_op, _same)
