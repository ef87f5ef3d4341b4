"""Shape arithmetic: (shapes, node, input shapes) -> the elements of an integer tensor, None where unknown."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from tf_bnfold.graph import attributes
from tf_bnfold.graph.graph import Node, Tensor
from tf_bnfold.graph.shapes.geometry import Elements, Shape, product
from tf_bnfold.graph.shapes.moved import strided

if TYPE_CHECKING:
    from tf_bnfold.graph.shapes import Shapes

LARGEST_VECTOR = 1024


def _constant_elements(s: Shapes, node: Node, inputs: list[Shape]) -> Elements:
    tensor = node.proto.attr["value"].tensor
    if (
        tensor.dtype not in (3, 9) or math.prod(d.size for d in tensor.tensor_shape.dim) > LARGEST_VECTOR
    ):  # int32, int64
        return None
    value = s.constants.value(Tensor(node, 0))
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
    part: npt.NDArray[np.object_] = x[detail]
    return part


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
    result[...] = product(list(x))
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


ELEMENTS: dict[str, Callable[[Shapes, Node, list[Shape]], Elements]] = {
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
