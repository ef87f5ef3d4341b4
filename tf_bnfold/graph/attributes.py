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
    attr = node.proto.attr[name] if name in node.proto.attr else _default(node.op, name)
    return None if attr is None else _plain(attr)


def dtype(node: Node, index: int = 0) -> int:
    """The DataType of one output of a node, by its op definition; 0 (DT_INVALID) where that can't be told."""
    arg = _output_arg(node.op, index)
    if arg is None:
        return 0
    if arg.type_attr:
        return int(value(node, arg.type_attr) or 0)
    if arg.type_list_attr:
        types = value(node, arg.type_list_attr) or []
        return int(types[index]) if index < len(types) else 0
    return int(arg.type)


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
    cast = np.ascontiguousarray(array).astype(numpy_dtype(data_type), copy=False).reshape(np.shape(array))
    proto.attr["value"].tensor.CopyFrom(tensor_util.make_tensor_proto(cast))


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
def _output_arg(op: str, index: int) -> Any:
    """The definition of the output that `index` counts to; a list of outputs stands last."""
    definition = op_def_registry.get(op)
    if definition is None or not definition.output_arg:
        return None
    return definition.output_arg[min(index, len(definition.output_arg) - 1)]


@functools.cache
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
