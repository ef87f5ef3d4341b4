"""The value of a tensor that only constants compute; decoded when it is asked for, float64 inside."""

from __future__ import annotations

import math

import numpy as np
from tensorflow.core.framework import types_pb2

from tf_bnfold.graph import attributes
from tf_bnfold.graph.evaluate import OPS, Array, evaluate
from tf_bnfold.graph.graph import Graph, Node, Tensor

# Parameters of a batch norm are vectors; arithmetic on larger constants is left to TensorFlow.
_LARGEST_RESULT = 1 << 26
# TensorFlow will say what is wrong with it, or it is no arithmetic that is known here.
_NOT_KNOWN = (ValueError, TypeError, IndexError, OverflowError, MemoryError)
_PLACES = (types_pb2.DT_INT32, types_pb2.DT_INT64)  # dtypes of axes, shapes and indices: no elements of a value
_SEVERAL = frozenset({"Split", "SplitV", "Unpack"})  # ops with several outputs


class Constants:
    """The constants of a graph, each decoded at most once and only when asked for."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._is_constant: dict[Node, bool] = {}
        self._values: dict[Node, Array | None] = {}  # of the first output
        self._others: dict[Node, list[Array]] = {}  # of all outputs, where there are several
        self.decoded = 0

    def is_constant(self, tensor: Tensor) -> bool:
        """Whether constants alone compute the tensor, by arithmetic that is known here. Decodes nothing."""
        node, index = tensor
        known = self._is_constant.get(node)
        if known is None:
            known = self._find_out(node) if node.inputs else self._leaf(node)
        return known and (index == 0 or node.op in _SEVERAL)

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
            if node.op not in OPS or self._graph.is_fed(node):
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
        return self._known(tensor)

    def _known(self, tensor: Tensor) -> Array | None:
        """The value of a tensor whose node is evaluated."""
        if tensor.index == 0:
            return self._values[tensor.node]
        several = self._others.get(tensor.node, ())
        return several[tensor.index] if tensor.index < len(several) else None

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
            if node.op == "Const" and (dtype := attributes.dtype(node)) not in _PLACES:
                smallest = min(smallest, attributes.numpy_dtype(dtype).itemsize)
            pending.extend(t.node for t in node.inputs)
        return smallest

    def _evaluate(self, node: Node) -> Array | None:
        if node.array is not None:
            return node.array
        try:
            if node.op == "Const":
                return _inside(self._decode(node, _LARGEST_RESULT))
            inputs = [value for tensor in node.inputs if (value := self._known(tensor)) is not None]
            if len(inputs) < len(node.inputs):
                return None
            results = [_inside(result) for result in evaluate(node, inputs, _LARGEST_RESULT)]
        except _NOT_KNOWN:
            return None
        if node.op in _SEVERAL:
            self._others[node] = results
        return results[0] if results else None


def _inside(array: Array) -> Array:
    kind = array.dtype.kind
    return array.astype(np.float64) if kind == "f" or kind == "V" or array.dtype.name == "bfloat16" else array
