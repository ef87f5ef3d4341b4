"""Weights in variables: a session copies the constants of a graph several times, and again for each set of fetches."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import tensorflow as tf
from tensorflow.core.framework import graph_pb2, node_def_pb2, types_pb2

from tf_bnfold.formats.model import GraphDef
from tf_bnfold.verify.values import Array

_LARGE = 1 << 16  # bytes; what is smaller costs little, and TensorFlow infers shapes from small constants
_SIZES = {types_pb2.DT_HALF: 2, types_pb2.DT_BFLOAT16: 2, types_pb2.DT_FLOAT: 4, types_pb2.DT_DOUBLE: 8}  # bytes
_SUFFIX = "/tf_bnfold_variable"


def with_variable_weights(graph_def: GraphDef) -> tuple[GraphDef, dict[str, Array]]:
    """Put a variable in the place of each large float constant.

    Args:
      graph_def: A graph; it is not changed. Constants that wait for other nodes stay.

    Returns:
      A graph with the same values under the same names, and the values of its variables by the names of their nodes.
    """
    names = {node.name for node in graph_def.node}
    slim = graph_pb2.GraphDef(versions=graph_def.versions)
    slim.library.CopyFrom(graph_def.library)
    values: dict[str, Array] = {}
    for node in graph_def.node:
        variable = f"{node.name}{_SUFFIX}"
        if not _is_large_weight(node) or variable in names:
            slim.node.append(node)
            continue
        values[variable] = tf.make_ndarray(node.attr["value"].tensor)
        slim.node.extend(_variable(variable, node))
    return slim, values


def assign(session: Any, values: Mapping[str, Array]) -> None:
    """Give the variables of the session's graph their values."""
    if not values:
        return
    feeds, assignments = {}, []
    for name, value in values.items():
        fed = tf.compat.v1.placeholder(value.dtype, value.shape)
        feeds[fed] = value
        handle = session.graph.get_tensor_by_name(f"{name}:0")
        assignments.append(tf.raw_ops.AssignVariableOp(resource=handle, value=fed))
    session.run(assignments, feeds)


def _is_large_weight(node: Any) -> bool:
    if node.op != "Const" or node.input or "value" not in node.attr:
        return False
    proto = node.attr["value"].tensor
    size, held = _SIZES.get(proto.dtype), len(proto.tensor_content)
    return size is not None and held >= _LARGE and held == size * math.prod(dim.size for dim in proto.tensor_shape.dim)


def _variable(name: str, constant: Any) -> Iterator[Any]:
    """Return the variable, and the read that takes the name of the constant."""
    proto = constant.attr["value"].tensor
    variable = node_def_pb2.NodeDef(name=name, op="VarHandleOp", device=constant.device)
    variable.attr["dtype"].type = proto.dtype
    variable.attr["shape"].shape.CopyFrom(proto.tensor_shape)
    variable.attr["shared_name"].s = name.encode()
    read = node_def_pb2.NodeDef(name=constant.name, op="ReadVariableOp", device=constant.device, input=[name])
    read.attr["dtype"].type = proto.dtype
    yield from (variable, read)
