"""Static shapes by local rules, asked only where a decision needs them.

Importing a large graph into TensorFlow costs more than folding it, so shapes are inferred here: a shape is a tuple with
None for an unknown dimension, or None for an unknown rank. Integer vectors that shape arithmetic computes are followed
too, with None for an unknown element, so that Reshape(x, Pack(Shape(x)[0], 7, 7, 64)) has a shape.

Of an op that no rule names `_output_shapes` annotations are believed, else TensorFlow is asked.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tf_bnfold.graph import attributes
from tf_bnfold.graph.constants import Constants
from tf_bnfold.graph.graph import Graph, GraphDef, Node, Tensor
from tf_bnfold.graph.shapes import arithmetic, calls, computed, geometry, moved, native
from tf_bnfold.graph.shapes.geometry import Dim, Elements, Shape, of_proto
from tf_bnfold.graph.shapes.unknown import Unknown

_RULES = computed.RULES | moved.RULES | calls.RULES

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


_BINARY = frozenset({"Add", "AddV2", "Sub", "Mul", "RealDiv"})
_KEEP_RANK = frozenset({"BiasAdd", "Relu", "Relu6", "LeakyRelu", "Identity"})
_SOURCES = ("Placeholder", "PlaceholderV2", "PlaceholderWithDefault")


class Shapes:
    """The shapes of a graph's tensors, each inferred at most once and only when asked for."""

    def __init__(self, graph: Graph, constants: Constants) -> None:
        self._graph = graph
        self.constants = constants
        self._shapes: dict[Node, tuple[Shape, ...]] = {}
        self._elements: dict[Node, Elements] = {}

    @functools.cached_property
    def functions(self) -> Mapping[str, Any]:
        """The FunctionDefs of the graph's library by name."""
        return {function.signature.name: function for function in self._graph.source.library.function}

    def of(self, tensor: Tensor) -> Shape:
        """The shape of a tensor, as far as it is known."""
        if tensor.node not in self._shapes:
            self._infer(tensor.node)
        return self._read(tensor)

    def results(self, graph_def: GraphDef, results: Sequence[str]) -> list[Shape]:
        """The shapes of tensors of another graph, for instance of a body."""
        graph = Graph(graph_def, results)
        shapes = Shapes(graph, Constants(graph))
        return [shapes.of(graph.tensor(name)) for name in results]

    def rank(self, tensor: Tensor) -> int | None:
        """The rank of a tensor, or None."""
        node, least = tensor.node, 0
        while self._keeps_rank(node) and node not in self._shapes:
            if (constant := _constant_operand(node)) is not None:
                least = max(least, len(self.of(constant) or ()))
            node = _data(node)
        known = _own_rank(node)
        if known is not None and known >= least and tensor.index == 0 and not self._graph.is_fed(node):
            return known
        shape = self.of(tensor)
        return None if shape is None else len(shape)

    def dim(self, tensor: Tensor, axis: int) -> Dim:
        """One dimension of a tensor, or None."""
        local = self._local_dim(tensor, axis)
        if local is not None:
            return local
        shape = self.of(tensor)
        return shape[axis] if shape is not None and -len(shape) <= axis < len(shape) else None

    def _local_dim(self, tensor: Tensor, axis: int) -> Dim:
        """A dimension that the constants beside a value tell, without a look upstream."""
        node, rank = tensor.node, self.rank(tensor)
        if node in self._shapes or rank is None:
            return None
        axis %= rank
        while self._keeps_rank(node):
            own = self._constant_dim(node, rank, axis)
            if own is not None and own > 1:
                return own
            node = _data(node)
        if node.op not in ("Conv2D", "MatMul") or self._graph.is_fed(node):
            return None
        weights = self.of(node.inputs[1])
        if weights is None:
            return None
        if node.op == "MatMul":
            columns = weights[0 if attributes.value(node, "transpose_b") else -1]
            return columns if axis == 1 else None
        return weights[-1] if axis == geometry.channel_axis(node, 4) else None

    def _keeps_rank(self, node: Node) -> bool:
        """Whether an op hands on the rank of its one input that is computed."""
        if self._graph.is_fed(node):
            return False
        return node.op in _KEEP_RANK or (node.op in _BINARY and _constant_operand(node) is not None)

    def _constant_dim(self, node: Node, rank: int, axis: int) -> Dim:
        """A dimension by the constant operand of an elementwise op, where its rank is that of the value."""
        constant = _constant_operand(node)
        if constant is None:
            return None
        shape = self.of(constant)
        return None if shape is None or axis < rank - len(shape) else shape[axis - rank]

    def elements(self, tensor: Tensor) -> Elements:
        """The elements of an integer tensor, as far as shape arithmetic tells them; None for one that is not known."""
        symbols = self.symbols(tensor)
        if symbols is None:
            return None
        result = np.empty(symbols.shape, object)
        for place in np.ndindex(symbols.shape):
            result[place] = None if isinstance(symbols[place], Unknown) else symbols[place]
        return result

    def symbols(self, tensor: Tensor) -> Elements:
        """As `elements`, with a named `Unknown` for one that is not known."""
        self._infer(tensor.node)
        return self._elements.get(tensor.node) if tensor.index == 0 else None

    def _read(self, tensor: Tensor) -> Shape:
        shapes = self._shapes.get(tensor.node, ())
        return shapes[tensor.index] if tensor.index < len(shapes) else None

    def _infer(self, node: Node) -> None:
        pending = [(node, False)]
        while pending:
            current, ready = pending.pop()
            if current in self._shapes and not ready:
                continue
            if current.inputs and not ready:
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
            if rule is not None and (node.op in _SOURCES or not self._graph.is_fed(node)):
                shapes = rule(self, node, inputs)
            self._elements[node] = self._shape_arithmetic(node, inputs)
        except (ValueError, TypeError, IndexError, KeyError, AttributeError, ZeroDivisionError):
            shapes = None  # a graph that TensorFlow would refuse: nothing is known
        if shapes is None:
            shapes = _annotated(node)
        if not shapes and rule is None and not self._graph.is_fed(node):
            shapes = native.infer(self, node, inputs) or ()
        return tuple(shapes)

    def _shape_arithmetic(self, node: Node, inputs: list[Shape]) -> Elements:
        rule = arithmetic.ELEMENTS.get(node.op)
        if rule is None or attributes.dtype(node) not in arithmetic.INTEGERS:
            return None
        result = rule(self, node, inputs)
        return result if result is None or result.size <= arithmetic.LARGEST_VECTOR else None

    def ints(self, tensor: Tensor) -> list[int] | None:
        """A small integer vector or scalar that is wholly known, as a list."""
        elements = self.elements(tensor)
        if elements is None or any(e is None for e in elements.ravel()):
            return None
        return [int(e) for e in elements.ravel()]


def _own_rank(node: Node) -> int | None:
    """The rank that an op's value has whatever it reads, or None."""
    if node.op == "FusedBatchNormV3":
        return len(attributes.value(node, "data_format") or "NHWC")
    return _RANK_BY_OP.get(node.op)


def _constant_operand(node: Node) -> Tensor | None:
    """The constant that a binary op reads, where it reads one directly."""
    if node.op not in _BINARY:
        return None
    for tensor in node.inputs:
        if tensor.node.op == "Const":
            return tensor
    return None


def _data(node: Node) -> Node:
    """What an op that keeps the rank of its value reads it from."""
    for tensor in node.inputs:
        if tensor.node.op != "Const":
            return tensor.node
    return node.inputs[0].node


def _annotated(node: Node) -> tuple[Shape, ...]:
    if "_output_shapes" not in node.proto.attr:
        return ()
    return tuple(of_proto(shape) for shape in node.proto.attr["_output_shapes"].list.shape)
