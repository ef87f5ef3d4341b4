"""Weights that several ops read: who reads them, and what it costs to store them again."""

from __future__ import annotations

import math
from collections.abc import Iterator

from tf_bnfold.graph import attributes
from tf_bnfold.graph.graph import Graph, Node, Tensor
from tf_bnfold.graph.shapes import Shapes


def source(shapes: Shapes, weights: Tensor) -> Node:
    """Return the constant that stores what a tensor is computed from: the largest one, where there are several."""
    *_, last = _chain(shapes, weights)
    return last


def other_reader(graph: Graph, shapes: Shapes, reader: Node, weights: Tensor) -> Node | None:
    """Return a node beside `reader` that needs the constant which stores the weights, or None where there is none."""
    above = reader
    for node in _chain(shapes, weights):
        readers = [use.node for uses in node.readers.values() for use in uses]
        if graph.is_fetched(node):
            return node
        for other in [*readers, *node.followers]:
            if other is not above:
                return other
        above = node
    return None


def byte_count(shapes: Shapes, tensor: Tensor) -> int:
    """Return how many bytes a constant of a tensor's shape and dtype holds."""
    return _elements(shapes, tensor) * attributes.numpy_dtype(attributes.dtype(*tensor)).itemsize


def _chain(shapes: Shapes, tensor: Tensor) -> Iterator[Node]:
    """Yield the nodes from a constant tensor to the constant that stores it."""
    yield tensor.node
    while tensor.node.inputs:
        tensor = max(tensor.node.inputs, key=lambda each: _elements(shapes, each))
        yield tensor.node


def _elements(shapes: Shapes, tensor: Tensor) -> int:
    """Return the number of elements, 0 where it is not known."""
    shape = shapes.of(tensor)
    return 0 if shape is None else math.prod(size or 0 for size in shape)
