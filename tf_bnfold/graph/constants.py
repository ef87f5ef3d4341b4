"""The value of a tensor that only constants compute; decoded when it is asked for, float64 inside."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tf_bnfold.graph import attributes
from tf_bnfold.graph.graph import Graph, Node, Tensor

Array = npt.NDArray[Any]

# Parameters of a batch norm are vectors; arithmetic on larger constants is left to TensorFlow.
_LARGEST_RESULT = 1 << 26


def _reshape(node: Node, x: Array, shape: Array) -> Array:
    return x.reshape(shape.astype(int))


def _squeeze(node: Node, x: Array) -> Array:
    axes = tuple(attributes.value(node, "squeeze_dims") or ())
    return x.squeeze(axes) if axes else x.squeeze()


def _transpose(node: Node, x: Array, order: Array) -> Array:
    return x.transpose(order.astype(int))


def _cast(node: Node, x: Array) -> Array:
    return x.astype(attributes.numpy_dtype(attributes.value(node, "DstT")))


def _concat(node: Node, *inputs: Array) -> Array:
    return np.concatenate(inputs[:-1], axis=int(inputs[-1]))


def _pack(node: Node, *inputs: Array) -> Array:
    return np.stack(inputs, axis=attributes.value(node, "axis"))


def _fill(node: Node, shape: Array, x: Array) -> Array:
    return np.full(shape.astype(int), x)


def _real_div(node: Node, x: Array, y: Array) -> Array:
    if np.issubdtype(x.dtype, np.floating):
        return np.divide(x, y)
    raise TypeError  # integer division has its own rounding


# Ops whose further inputs say where elements go, not what they are.
_STEERED = frozenset({"Reshape", "Squeeze", "ExpandDims", "Transpose", "BroadcastTo"})

# What is read as arithmetic on constants. Each gets the node and its inputs' values.
_EVALUATE: dict[str, Callable[..., Array]] = {
    "Identity": lambda node, x: x,
    "ReadVariableOp": lambda node, x: x,
    "StopGradient": lambda node, x: x,
    "PreventGradient": lambda node, x: x,
    "Snapshot": lambda node, x: x,
    "Reshape": _reshape,
    "Squeeze": _squeeze,
    "ExpandDims": lambda node, x, axis: np.expand_dims(x, int(axis)),
    "Transpose": _transpose,
    "Cast": _cast,
    "ConcatV2": _concat,
    "Pack": _pack,
    "Fill": _fill,
    "BroadcastTo": lambda node, x, shape: np.broadcast_to(x, shape.astype(int)),
    "Add": lambda node, x, y: x + y,
    "AddV2": lambda node, x, y: x + y,
    "Sub": lambda node, x, y: x - y,
    "Mul": lambda node, x, y: x * y,
    "RealDiv": _real_div,
    "Div": _real_div,
    "Maximum": lambda node, x, y: np.maximum(x, y),
    "Minimum": lambda node, x, y: np.minimum(x, y),
    "Pow": lambda node, x, y: np.power(x, y),
    "Neg": lambda node, x: -x,
    "Abs": lambda node, x: np.abs(x),
    "Sqrt": lambda node, x: np.sqrt(x),
    "Rsqrt": lambda node, x: 1 / np.sqrt(x),
    "Square": lambda node, x: x * x,
    "Exp": lambda node, x: np.exp(x),
    "Log": lambda node, x: np.log(x),
    "Reciprocal": lambda node, x: 1 / x,
    "Inv": lambda node, x: 1 / x,
}


class Constants:
    """The constants of a graph, each decoded at most once and only when asked for."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._is_constant: dict[Node, bool] = {}
        self._values: dict[Node, Array | None] = {}
        self.decoded = 0

    def is_constant(self, tensor: Tensor) -> bool:
        """Whether constants alone compute the tensor, by arithmetic that is known here. Decodes nothing."""
        node, index = tensor
        known = self._is_constant.get(node)
        if known is None:
            known = self._find_out(node) if node.inputs else self._leaf(node)
        return known and index == 0

    def _leaf(self, node: Node) -> bool:
        self._is_constant[node] = known = node.op == "Const" and not self._graph.is_fed(node)
        return known

    def _find_out(self, asked: Node) -> bool:
        pending, known = [asked], self._is_constant
        while pending:
            node = pending[-1]
            if node in known:
                pending.pop()
                continue
            if node.op not in _EVALUATE or self._graph.is_fed(node):
                self._leaf(node)
            elif unknown := [t.node for t in node.inputs if t.node not in known]:
                known_false = any(known.get(t.node) is False for t in node.inputs)
                if not known_false:
                    pending.extend(unknown)
                    continue
                known[node] = False
            else:
                known[node] = all(known[t.node] for t in node.inputs)
        return known[asked]

    def value(self, tensor: Tensor) -> Array | None:
        """The tensor's value, or None when it is no constant; floats in float64, others in their own dtype."""
        if not self.is_constant(tensor):
            return None
        node = tensor.node
        if node not in self._values:
            if node.inputs:
                self._compute_inputs_of(node)
            self._values[node] = self._evaluate(node)
        return self._values[node]

    def _compute_inputs_of(self, asked: Node) -> None:
        pending = [t.node for t in asked.inputs]
        while pending:
            node = pending[-1]
            missing = [t.node for t in node.inputs if t.node not in self._values]
            if node not in self._values and missing:
                pending.extend(missing)
                continue
            pending.pop()
            if node not in self._values:
                self._values[node] = self._evaluate(node)

    def raw(self, tensor: Tensor) -> Array | None:
        """The value of large weights in the dtype in which they are stored, not kept; None when it is no constant."""
        if tensor.node.op != "Const" or tensor.node.array is not None or tensor.index != 0:
            return self.value(tensor)
        try:
            return self._decode(tensor.node)
        except (ValueError, TypeError):
            return None

    def _decode(self, node: Node, largest: float = math.inf) -> Array:
        self.decoded += 1
        array: Array = attributes.read_tensor(node.proto.attr["value"].tensor, largest)
        return array

    def smallest_item(self, tensor: Tensor) -> int:
        """Bytes per element of the narrowest constant that the tensor is computed from."""
        if tensor.node.op == "Const":
            return attributes.numpy_dtype(attributes.dtype(tensor.node)).itemsize
        pending, seen, smallest = [tensor.node], set[Node](), 16
        while pending:
            node = pending.pop()
            if node in seen:
                continue
            seen.add(node)
            if node.op == "Const":
                smallest = min(smallest, attributes.numpy_dtype(attributes.dtype(node)).itemsize)
            pending.extend(t.node for t in (node.inputs[:1] if node.op in _STEERED else node.inputs))
        return smallest

    def _evaluate(self, node: Node) -> Array | None:
        if node.array is not None:
            return node.array
        inputs = [value for tensor in node.inputs if (value := self._values[tensor.node]) is not None]
        if len(inputs) < len(node.inputs):
            return None
        try:
            if node.op == "Const":
                return _inside(self._decode(node, _LARGEST_RESULT))
            if _result_size(node, inputs) > _LARGEST_RESULT:
                return None
            with np.errstate(all="ignore"):
                result = _inside(np.asarray(_EVALUATE[node.op](node, *inputs)))
        except (ValueError, TypeError, IndexError, OverflowError, MemoryError):
            return None  # TensorFlow will say what is wrong with it, or it is no arithmetic of floats
        return result


def _result_size(node: Node, inputs: Sequence[Array]) -> int:
    """The most elements that the result of an op can have."""
    if node.op in ("Fill", "BroadcastTo"):
        return math.prod(map(int, inputs[0 if node.op == "Fill" else 1].ravel()))
    if node.op in ("ConcatV2", "Pack"):
        return sum(x.size for x in inputs)
    if node.op in _STEERED or len(inputs) < 2:
        return inputs[0].size
    return math.prod(np.broadcast_shapes(*(x.shape for x in inputs)))


def _inside(array: Array) -> Array:
    kind = array.dtype.kind
    return array.astype(np.float64) if kind == "f" or kind == "V" or array.dtype.name == "bfloat16" else array
