"""Put constants in the place of inputs: those that the user gives a value, and those that have one by default."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import graph_pb2, node_def_pb2
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow.python.framework import tensor_util

from tf_bnfold.errors import FlagError
from tf_bnfold.formats.model import Model, SignatureDef, node_name
from tf_bnfold.formats.surgery import Surgery, near

_PLACEHOLDERS = ("Placeholder", "PlaceholderV2", "PlaceholderWithDefault")
_MOST_ELEMENTS_TOLD = 8


def fix_inputs(model: Model, surgery: Surgery) -> Model:
    """Make inputs constants.

    A placeholder with a given value becomes a Const. A PlaceholderWithDefault that is no input of a signature, nor
    named as one, hands on its default, as it does for whoever calls the signatures.

    Args:
      model: The model; a frozen graph has no signatures yet.
      surgery: Names the values, and the inputs of the user's choice.

    Returns:
      The model without these inputs. Its notes name them.

    Raises:
      FlagError: If a value is given for what is no input, or can not be its value.
    """
    values = {_placeholder(name, model): (name, value) for name, value in surgery.set_input.items()}
    inputs = {node_name(name) for name in (*model.inputs(), *surgery.input_nodes)}
    keys = {key for signature in model.signatures.values() for key in signature.inputs}
    result = graph_pb2.GraphDef()
    result.CopyFrom(model.graph_def)
    constants = {node.name: node for node in result.node if node.op == "Const"}
    fed, notes = {}, []
    for node in result.node:
        if node.name in values:
            fed[f"{node.name}:0"] = _fixed(node, *values[node.name])
            notes.append(f"--set_input: {node.name} is {_text(fed[f'{node.name}:0'])}, a constant now")
        elif node.op == "PlaceholderWithDefault" and node.name not in inputs:
            notes.append(_default_note(node, constants, keys))
            _hand_on_default(node)
    if not notes:
        return model
    signatures = {key: _without(signature, fed) for key, signature in model.signatures.items()}
    return dataclasses.replace(model, graph_def=result, signatures=signatures, fed=fed).noting(*notes)


def _placeholder(name: str, model: Model) -> str:
    """Name the node of a placeholder, which the user names by node, tensor or key of a signature's input."""
    nodes = {node.name: node.op for node in model.graph_def.node if node.op in _PLACEHOLDERS}
    if node_name(name) in nodes:
        return node_name(name)
    keys = {
        key: node_name(info.name) for signature in model.signatures.values() for key, info in signature.inputs.items()
    }
    if name in keys:
        return keys[name]
    raise FlagError(
        f"--set_input {name}: the graph has no placeholder of that name{near(name, [*nodes, *keys])}"
        if nodes
        else f"--set_input {name}: the graph has no placeholders"
    )


def _fixed(node: Any, name: str, value: Any) -> Any:
    """Make a placeholder a Const, and return its value."""
    dtype, shape = tf.as_dtype(node.attr["dtype"].type), tf.TensorShape(None)
    if "shape" in node.attr:
        shape = tf.TensorShape(node.attr["shape"].shape)
    array = np.asarray(value)
    if not _may_be(array.dtype.kind, dtype):
        raise FlagError(f"--set_input {name}={_text(array)}: the input is {dtype.name}; give a value of that type")
    cast = array.astype(dtype.as_numpy_dtype)
    if array.dtype.kind in "iu" and not np.array_equal(cast.astype(array.dtype), array):
        raise FlagError(f"--set_input {name}={_text(array)}: the input is {dtype.name}, which has no such number")
    if not shape.is_compatible_with(array.shape):
        raise FlagError(f"--set_input {name}={_text(array)}: the input has shape {shape}; give a value of that shape")
    node.CopyFrom(node_def_pb2.NodeDef(name=node.name, op="Const", device=node.device))
    node.attr["dtype"].type = dtype.as_datatype_enum
    node.attr["value"].tensor.CopyFrom(tensor_util.make_tensor_proto(cast, dtype, cast.shape))
    return cast


def _may_be(kind: str, dtype: tf.DType) -> bool:
    """Tell whether a bool (b), integer (i, u) or float (f) can be a value of the dtype."""
    if kind == "b" or dtype == tf.bool:
        return kind == "b" and bool(dtype == tf.bool)
    return bool(dtype.is_floating or dtype.is_complex or (dtype.is_integer and kind in "iu"))


def _text(array: Any) -> str:
    if array.size > _MOST_ELEMENTS_TOLD:
        return f"an array of shape {list(array.shape)}"
    return str(array.tolist()).replace("True", "true").replace("False", "false")


def _default_note(node: Any, constants: Mapping[str, Any], keys: set[str]) -> str:
    default = constants.get(node_name(node.input[0]))
    value = f", {_text(tensor_util.MakeNdarray(default.attr['value'].tensor))}" if default is not None else ""
    way = "--set_input sets another" if keys else "--set_input sets another, --input_nodes makes it an input"
    return f"placeholder {node.name} has its default{value}; {way}"


def _hand_on_default(node: Any) -> None:
    identity = node_def_pb2.NodeDef(name=node.name, op="Identity", input=node.input, device=node.device)
    identity.attr["T"].type = node.attr["dtype"].type
    node.CopyFrom(identity)


def _without(signature: SignatureDef, fed: Mapping[str, Any]) -> SignatureDef:
    """Copy a signature without the inputs that are constants now."""
    result = meta_graph_pb2.SignatureDef()
    result.CopyFrom(signature)
    for key, info in signature.inputs.items():
        if info.name in fed:
            del result.inputs[key]
    return result
