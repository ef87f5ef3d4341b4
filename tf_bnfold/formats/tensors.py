"""What is known of a graph's tensors: names, dtypes, shapes."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import tensorflow as tf
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow.python.framework import op_def_registry

from tf_bnfold.formats.model import GraphDef, TensorInfo, node_name
from tf_bnfold.formats.prune import pruned
from tf_bnfold.formats.quiet import quiet

DataType = int  # a value of tensorflow.core.framework.types_pb2.DataType
TensorShapeProto = Any


def tensor_name(name: str) -> str:
    """Return the full name of a tensor: "a" gives "a:0"."""
    return name if ":" in name else f"{name}:0"


def short_name(tensor: str) -> str:
    """Return the name of a tensor as a NodeDef's input spells it: "a:0" gives "a"."""
    return tensor.removesuffix(":0")


def unused(name: str, taken: set[str]) -> str:
    """Return the name, or the first of name_1, name_2, ... that is not taken; it is taken then."""
    number, candidate = 0, name
    while candidate in taken:
        number += 1
        candidate = f"{name}_{number}"
    taken.add(candidate)
    return candidate


def output_dtypes(node: Any) -> tuple[DataType, ...]:
    """Return the dtypes of a NodeDef's outputs, none where TensorFlow does not know the op."""
    op_def = op_def_registry.get(node.op)
    return _dtypes(node, op_def.output_arg, op_def) if op_def else ()


def input_dtypes(node: Any) -> tuple[DataType, ...]:
    """Return the dtypes of a NodeDef's data inputs, none where TensorFlow does not know the op."""
    op_def = op_def_registry.get(node.op)
    return _dtypes(node, op_def.input_arg, op_def) if op_def else ()


def argument_dtypes(node: Any, argument: Any) -> tuple[DataType, ...]:
    """Return the dtypes that an argument of a node's op stands for; TensorFlow must know the op."""
    return _dtypes(node, [argument], op_def_registry.get(node.op))


def _dtypes(node: Any, arguments: Any, op_def: Any) -> tuple[DataType, ...]:
    defaults = {attr.name: attr.default_value for attr in op_def.attr}

    def attr(name: str) -> Any:
        return node.attr[name] if name in node.attr else defaults[name]

    dtypes: list[DataType] = []
    for argument in arguments:
        if argument.type_list_attr:
            dtypes += attr(argument.type_list_attr).list.type
            continue
        dtype = attr(argument.type_attr).type if argument.type_attr else argument.type
        dtypes += [dtype] * (attr(argument.number_attr).i if argument.number_attr else 1)
    return tuple(dtypes)


def tensor_infos(graph_def: GraphDef, tensors: Iterable[str]) -> Mapping[str, TensorInfo]:
    """Describe tensors: name, dtype, and the shape that TensorFlow infers, as far as it can.

    Args:
      graph_def: The graph.
      tensors: Full names of tensors ("a:0").

    Returns:
      A TensorInfo by name; its dtype is invalid for an op that TensorFlow does not know.
    """
    wanted = list(dict.fromkeys(tensors))
    nodes = {node.name: node for node in graph_def.node}
    shapes = _inferred_shapes(graph_def, wanted)
    infos = {}
    for tensor in wanted:
        name, _, index = tensor.partition(":")
        dtypes = output_dtypes(nodes[name])
        infos[tensor] = meta_graph_pb2.TensorInfo(name=tensor, dtype=dtypes[int(index)] if dtypes else 0)
        infos[tensor].tensor_shape.CopyFrom(shapes.get(tensor, tf.TensorShape(None).as_proto()))
    return infos


def _inferred_shapes(graph_def: GraphDef, tensors: Collection[str]) -> Mapping[str, TensorShapeProto]:
    """Let TensorFlow infer shapes; none where it can not import the graph, as with an op that it does not know."""
    if not tensors:
        return {}
    with tf.Graph().as_default() as graph, quiet():
        try:
            tf.graph_util.import_graph_def(pruned(graph_def, map(node_name, tensors)), name="")
        except (tf.errors.OpError, ValueError):
            return {}
        return {tensor: graph.get_tensor_by_name(tensor).shape.as_proto() for tensor in tensors}
