"""Attributes of a node, with the defaults that the op registry gives where a graph leaves them out."""

from __future__ import annotations

import functools
from typing import Any

import ml_dtypes
import numpy as np
from tensorflow.core.framework import attr_value_pb2, node_def_pb2
from tensorflow.python.framework import dtypes, op_def_registry, tensor_util

from tf_bnfold.graph.graph import Node


def value(node: Node, name: str) -> Any:
    """The attribute as a Python value (str, int, float, bool, list, DataType enum), its default where it is left out.

    None when neither the node nor the op has it.
    """
    attr = node.proto.attr.get(name)
    return _plain(attr) if attr is not None else _plain_default(node.op, name)


def dtype(node: Node, index: int = 0) -> int:
    """The DataType of one output of a node, by its op definition; 0 (DT_INVALID) where that can't be told."""
    attr_name, list_name, fixed = _output_type(node.op, index)
    if attr_name:
        attr = node.proto.attr.get(attr_name)
        return int(attr.type) if attr is not None else int(value(node, attr_name) or 0)
    if list_name:
        types = value(node, list_name) or []
        return int(types[index]) if index < len(types) else 0
    return fixed


@functools.cache
def numpy_dtype(data_type: int) -> np.dtype[Any]:
    """The numpy dtype of a DataType (ml_dtypes' for bfloat16)."""
    result: np.dtype[Any] = np.dtype(dtypes.as_dtype(data_type).as_numpy_dtype)
    return result


def unknown(node: Node) -> str | None:
    """The name of an attribute that the op does not have, or None. Names that begin with "_" are annotations."""
    known = _known(node.op)
    if known is None:
        return None
    return next((name for name in node.proto.attr if not name.startswith("_") and name not in known), None)


def of(**values: Any) -> dict[str, attr_value_pb2.AttrValue]:
    """AttrValues of Python values: int for types (keys that begin with T or are dtype), bytes for strings."""
    attrs = {}
    for key, item in values.items():
        if key.startswith("T") or key == "dtype":
            attrs[key] = attr_value_pb2.AttrValue(type=item)
        elif isinstance(item, bool):
            attrs[key] = attr_value_pb2.AttrValue(b=item)
        elif isinstance(item, float):
            attrs[key] = attr_value_pb2.AttrValue(f=item)
        elif isinstance(item, int):
            attrs[key] = attr_value_pb2.AttrValue(i=item)
        else:
            attrs[key] = attr_value_pb2.AttrValue(s=item)
    return attrs


def write_tensor(proto: node_def_pb2.NodeDef, array: Any, data_type: int) -> None:
    """Write an array into a Const's `value`, cast to its dtype."""
    cast = np.ascontiguousarray(array).astype(numpy_dtype(data_type), copy=False)
    tensor = proto.attr["value"].tensor
    tensor.dtype = data_type
    for size in np.shape(array):
        tensor.tensor_shape.dim.add().size = size
    tensor.tensor_content = cast.tobytes()


def read_tensor(proto: node_def_pb2.NodeDef) -> Any:
    """Read a Const's `value` in the dtype in which it is stored.

    Raises:
      ValueError: Its bytes don't fit its shape.
      TypeError: Its dtype has no numpy dtype.
    """
    tensor = proto.attr["value"].tensor
    content = tensor.tensor_content
    if not content:
        return tensor_util.MakeNdarray(tensor)
    return np.frombuffer(content, numpy_dtype(tensor.dtype)).reshape([dim.size for dim in tensor.tensor_shape.dim])


def _plain(attr: attr_value_pb2.AttrValue) -> Any:
    kind = attr.WhichOneof("value")
    if kind == "s":
        return attr.s.decode("utf-8", "replace")
    if kind == "list":
        items = attr.list
        for field in ("i", "s", "f", "b", "type", "shape"):
            values = list(getattr(items, field))
            if values:
                return [v.decode("utf-8", "replace") for v in values] if field == "s" else values
        return []
    return None if kind is None else getattr(attr, kind)


@functools.cache
def _known(op: str) -> frozenset[str] | None:
    definition = op_def_registry.get(op)
    return None if definition is None else frozenset(attr.name for attr in definition.attr)


@functools.cache
def _output_type(op: str, index: int) -> tuple[str, str, int]:
    """What tells the DataType of an output: an attribute, an attribute that is a list, or the op's definition."""
    definition = op_def_registry.get(op)
    if definition is None or not definition.output_arg:
        return "", "", 0
    arg = definition.output_arg[min(index, len(definition.output_arg) - 1)]  # a list of outputs stands last
    return arg.type_attr, arg.type_list_attr, int(arg.type)


@functools.cache
def _plain_default(op: str, name: str) -> Any:
    attr = _default(op, name)
    return None if attr is None else _plain(attr)


def _default(op: str, name: str) -> attr_value_pb2.AttrValue | None:
    definition = op_def_registry.get(op)
    if definition is None:
        return None
    return next((a.default_value for a in definition.attr if a.name == name and a.HasField("default_value")), None)


@functools.cache
def float_limits(data_type: int) -> tuple[float, float]:
    """The largest finite value of a float DataType, and the smallest one that a channel's largest weight may have.

    float16 kernels compute subnormal numbers; the others take them as zero, so that beside a value v they lose
    tiny / v, which must stay below epsilon.
    """
    info = ml_dtypes.finfo(numpy_dtype(data_type))  # type: ignore[no-untyped-call]
    return float(info.max), float(info.tiny) / (1.0 if info.dtype == np.float16 else float(info.eps))
