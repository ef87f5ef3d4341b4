"""Shapes of ops that no rule here knows: TensorFlow's own shape functions, asked for one op at a time.

An op takes about a millisecond, which is why the ops that networks are made of have rules here. Networks repeat their
ops, so an answer is kept.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import graph_pb2, node_def_pb2, types_pb2
from tensorflow.python.framework import op_def_registry

from tf_bnfold.graph import attributes
from tf_bnfold.graph.graph import Node
from tf_bnfold.graph.shapes.arithmetic import INTEGERS
from tf_bnfold.graph.shapes.geometry import Shape, of_proto

if TYPE_CHECKING:
    from tf_bnfold.graph.shapes import Shapes

# What a loop of TensorFlow 1 brings back is not known, whatever is asked for first.
_NOT_ASKED = frozenset({"NextIteration", "RefNextIteration", "Exit", "RefExit", "Placeholder", "PlaceholderV2"})
_HANDLES = frozenset({types_pb2.DT_INVALID, types_pb2.DT_RESOURCE, types_pb2.DT_VARIANT})


class _Given(NamedTuple):
    """An input: its DataType, its shape, and the bytes of its value where it is an integer one that is known."""

    dtype: int
    shape: Shape
    value: bytes | None


def infer(s: Shapes, node: Node, inputs: Sequence[Shape]) -> Sequence[Shape] | None:
    """The shapes of an op's outputs as TensorFlow infers them from those of its inputs, or None."""
    if node.op in _NOT_ASKED or op_def_registry.get(node.op) is None:
        return None
    if any(attr.HasField("func") or attr.list.func for attr in node.proto.attr.values()):
        return None
    given = tuple(_given(s, node, port, shape) for port, shape in enumerate(inputs))
    if any(each.dtype in _HANDLES for each in given):
        return None
    asked = node_def_pb2.NodeDef(name="asked", op=node.op, input=[f"given{port}" for port in range(len(given))])
    for name, attr in node.proto.attr.items():
        if not name.startswith("_"):
            asked.attr[name].CopyFrom(attr)
    return _answer(asked.SerializeToString(deterministic=True), given)


def _given(s: Shapes, node: Node, port: int, shape: Shape) -> _Given:
    tensor = node.inputs[port]
    dtype = attributes.dtype(*tensor)
    elements = s.elements(tensor) if dtype in INTEGERS else None
    if elements is None or any(element is None for element in elements.ravel()):
        return _Given(dtype, shape, None)
    return _Given(dtype, elements.shape, elements.astype(attributes.numpy_dtype(dtype)).tobytes())


@functools.lru_cache(4096)
def _answer(node: bytes, given: Sequence[_Given]) -> Sequence[Shape] | None:
    graph_def = graph_pb2.GraphDef(node=[node_def_pb2.NodeDef.FromString(node)])
    try:
        with tf.Graph().as_default():
            inputs = {f"given{port}:0": _tensor(each) for port, each in enumerate(given)}
            (asked,) = tf.graph_util.import_graph_def(graph_def, inputs, return_elements=["asked"], name="")
            return [of_proto(output.shape.as_proto()) for output in asked.outputs]
    except (ValueError, TypeError, tf.errors.OpError):
        return None  # TensorFlow would refuse the graph


def _tensor(given: _Given) -> tf.Tensor:
    if given.value is None:
        return tf.compat.v1.placeholder(given.dtype, given.shape)
    value = np.frombuffer(given.value, attributes.numpy_dtype(given.dtype))
    return tf.constant(value.reshape([size or 0 for size in given.shape or ()]), given.dtype)
