"""Fix unknown dimensions of the inputs, and compute what depends on shapes alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf
from tensorflow.core.framework import graph_pb2
from tensorflow.core.protobuf import meta_graph_pb2

from tf_bnfold.errors import FlagError
from tf_bnfold.formats.meta_graph import one_line
from tf_bnfold.formats.model import GraphDef, Model, TensorInfo, node_name

TensorShapeProto = Any


def fix_input_shapes(model: Model, shapes: Mapping[str, Sequence[int]]) -> Model:
    """Fix unknown dimensions of signature inputs.

    Args:
      model: The model; it is not changed.
      shapes: Shape per name of a signature's input; -1 leaves a dimension as it is. A name that several signatures have
        means all of them.

    Returns:
      The model with these shapes in placeholders and signatures.

    Raises:
      FlagError: If no signature has the name, the shape contradicts a known dimension or rank, or an op of the graph
        can not take it.
    """
    if not shapes:
        return model
    there = sorted({name for signature in model.signatures.values() for name in signature.inputs})
    for name in shapes:
        if name not in there:
            raise FlagError(f"--input_shapes names {name}, but the inputs of the signatures are: {', '.join(there)}")
    signatures = {}
    fixed: dict[str, TensorShapeProto] = {}
    for key, signature in model.signatures.items():
        signatures[key] = meta_graph_pb2.SignatureDef()
        signatures[key].CopyFrom(signature)
        for name in sorted(signature.inputs.keys() & shapes.keys()):
            info = signatures[key].inputs[name]
            info.tensor_shape.CopyFrom(_merged(name, info, shapes[name]))
            fixed[node_name(info.name)] = info.tensor_shape
    graph_def = with_placeholder_shapes(model.graph_def, fixed)
    _refuse_contradiction(graph_def, shapes)
    return dataclasses.replace(model, signatures=signatures).with_graph(graph_def)


def _merged(name: str, info: TensorInfo, asked: Sequence[int]) -> TensorShapeProto:
    """Return the shape of an input with the asked dimensions in the place of unknown ones."""
    known = tf.TensorShape(info.tensor_shape)
    try:
        return known.merge_with([None if size < 0 else size for size in asked]).as_proto()
    except ValueError as error:
        given = ",".join(map(str, asked))
        raise FlagError(
            f"--input_shapes {name}:{given} contradicts input {name} of shape {_text(info.tensor_shape)}; "
            "only unknown dimensions (-1) can be fixed"
        ) from error


def _text(shape: TensorShapeProto) -> str:
    return "unknown rank" if shape.unknown_rank else ",".join(str(dim.size) for dim in shape.dim)


def with_placeholder_shapes(graph_def: GraphDef, shapes: Mapping[str, TensorShapeProto]) -> GraphDef:
    """Copy the graph with other shapes of placeholders, and without the shapes that were inferred from the old ones."""
    result = graph_pb2.GraphDef()
    result.CopyFrom(graph_def)
    bodies = (function.node_def for function in result.library.function)
    for nodes in (result.node, *bodies):
        for node in nodes:
            if "_output_shapes" in node.attr:
                del node.attr["_output_shapes"]
    for node in result.node:
        if node.name in shapes and node.op.startswith("Placeholder"):
            node.attr["shape"].shape.CopyFrom(shapes[node.name])
    return result


def _refuse_contradiction(graph_def: GraphDef, shapes: Mapping[str, Sequence[int]]) -> None:
    """Let TensorFlow infer all shapes of the graph."""
    try:
        with tf.Graph().as_default():
            tf.graph_util.import_graph_def(graph_def, name="")
    except ValueError as error:
        given = " ".join(f"{name}:{','.join(map(str, shape))}" for name, shape in shapes.items())
        raise FlagError(f"--input_shapes {given}: the graph can not take this: {one_line(error)}") from error
