"""Shape arithmetic: (shapes, node, input shapes) -> the elements of an integer tensor, ints or `Unknown`s."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from tensorflow.core.framework import types_pb2

from tf_bnfold.graph import attributes
from tf_bnfold.graph.graph import Node, Tensor
from tf_bnfold.graph.shapes.geometry import Elements, Shape, product
from tf_bnfold.graph.shapes.moved import strided
from tf_bnfold.graph.shapes.unknown import Number, Unknown, minus, plus

if TYPE_CHECKING:
    from tf_bnfold.graph.shapes import Shapes

LARGEST_VECTOR = 1024
INTEGERS = (types_pb2.DT_INT32, types_pb2.DT_INT64)  # what shapes are computed in

_Rule = Callable[["Shapes", Node, "list[Shape]"], Elements]


def _constant_elements(s: Shapes, node: Node, inputs: list[Shape]) -> Elements:
    tensor = node.proto.attr["value"].tensor
    if math.prod(d.size for d in tensor.tensor_shape.dim) > LARGEST_VECTOR:
        return None
    value = s.constants.value(Tensor(node, 0))
    return None if value is None else value.astype(object)


def _shape_elements(s: Shapes, node: Node, inputs: list[Shape]) -> Elements:
    shape = inputs[0]
    if shape is None:
        return None
    result = np.empty(len(shape), object)
    result[:] = [Unknown.named((node.inputs[0], axis)) if dim is None else dim for axis, dim in enumerate(shape)]
    return result


def _pass_elements(s: Shapes, node: Node, inputs: list[Shape]) -> Elements:
    return s.symbols(node.inputs[0])


def _part(s: Shapes, tensor: Tensor, shape: Shape) -> Elements:
    """The elements of an operand; where nothing is known of a small one, each has a name of its own."""
    part = s.symbols(tensor)
    if part is not None or shape is None or None in shape or math.prod(d or 0 for d in shape) > LARGEST_VECTOR:
        return part
    part = np.empty([d or 0 for d in shape], object)
    for place in np.ndindex(part.shape):
        part[place] = Unknown.named((tensor, place))
    return part


def _pack_elements(s: Shapes, node: Node, inputs: list[Shape]) -> Elements:
    parts = [_part(s, tensor, shape) for tensor, shape in zip(node.inputs, inputs, strict=True)]
    known = [part for part in parts if part is not None]
    return np.stack(known, axis=int(attributes.value(node, "axis"))) if len(known) == len(parts) else None


def _concat_elements(s: Shapes, node: Node, inputs: list[Shape]) -> Elements:
    parts = [_part(s, tensor, shape) for tensor, shape in zip(node.inputs[:-1], inputs[:-1], strict=True)]
    known = [part for part in parts if part is not None]
    axis = s.ints(node.inputs[-1])
    return np.concatenate(known, axis=axis[0]) if axis is not None and len(known) == len(parts) else None


def _strided_elements(s: Shapes, node: Node, inputs: list[Shape]) -> Elements:
    x, actions = s.symbols(node.inputs[0]), strided(s, node, inputs[0])
    if x is None or actions is None or any(detail is None for action, detail in actions if action != "new"):
        return None
    index = [None if action == "new" else int(d) if action == "index" else d for action, d in actions]
    result = np.empty(x[tuple(index)].shape if isinstance(x[tuple(index)], np.ndarray) else (), object)
    result[...] = x[tuple(index)]
    return result


def _gather_elements(s: Shapes, node: Node, inputs: list[Shape]) -> Elements:
    x, indices = s.symbols(node.inputs[0]), s.ints(node.inputs[1])
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
    whole = product(list(x))
    result[...] = Unknown.named(node) if whole is None else whole
    return result


def _binary_elements(operation: Callable[[int, int], int]) -> _Rule:
    """Ints give ints; what an operation makes of an unknown has a name of its own."""

    def apply(a: Number, b: Number, name: object) -> Number:
        return Unknown.named(name) if isinstance(a, Unknown) or isinstance(b, Unknown) else operation(int(a), int(b))

    return _elementwise(apply)


def _elementwise(
    operation: Callable[[Number, Number, object], Number],
) -> Callable[[Shapes, Node, list[Shape]], Elements]:
    def rule(s: Shapes, node: Node, inputs: list[Shape]) -> Elements:
        x, y = (_part(s, tensor, shape) for tensor, shape in zip(node.inputs, inputs, strict=True))
        if x is None or y is None:
            return None
        x, y = np.broadcast_arrays(x, y)
        result = np.empty(x.shape, object)
        for place in np.ndindex(x.shape):
            a: Number = x[place]  # type: ignore[assignment]  # an element, not a part
            b: Number = y[place]  # type: ignore[assignment]
            result[place] = operation(a, b, (node, place))
        return result

    return rule


def _reshape_elements(s: Shapes, node: Node, inputs: list[Shape]) -> Elements:
    x, shape = s.symbols(node.inputs[0]), s.ints(node.inputs[1])
    return None if x is None or shape is None else x.reshape(shape)


_SUM = _elementwise(lambda a, b, name: plus(a, b))

ELEMENTS: dict[str, _Rule] = {
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
    "Add": _SUM,
    "AddV2": _SUM,
    "Sub": _elementwise(lambda a, b, name: minus(a, b)),
    "FloorDiv": _binary_elements(lambda a, b: a // b),
    "FloorMod": _binary_elements(lambda a, b: a % b),
    "Maximum": _binary_elements(max),
    "Minimum": _binary_elements(min),
}
