"""Attributes of a node, with the defaults that the op registry gives where a graph leaves them out."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import ml_dtypes
import numpy as np
from tensorflow.core.framework import attr_value_pb2, node_def_pb2, tensor_pb2
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
    if index != 0:
        return _find_dtype(node, index)
    if node.dtype is None:
        node.dtype = _find_dtype(node, 0)
    return node.dtype


def _find_dtype(node: Node, index: int) -> int:
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


@functools.cache
def is_float(data_type: int) -> bool:
    """Whether a DataType is one of the floats that a fold computes with."""
    return numpy_dtype(data_type).name in ("float16", "bfloat16", "float32", "float64")


def unknown(node: Node) -> str | None:
    """The name of an attribute that the op does not have, or None. Names that begin with "_" are annotations."""
    known = _known(node.op)
    if known is None or known.issuperset(node.proto.attr):
        return None
    return next((name for name in node.proto.attr if not name.startswith("_") and name not in known), None)


def with_window(
    proto: node_def_pb2.NodeDef, dilations: Sequence[int], padding: str, explicit: Sequence[int]
) -> node_def_pb2.NodeDef:
    """Copy a convolution with other dilations and paddings; the annotated shapes are true of the old one only."""
    result = without_shapes(proto)
    result.attr.pop("explicit_paddings", None)
    result.attr["dilations"].list.i[:] = dilations
    result.attr["padding"].s = padding.encode()
    if explicit:
        result.attr["explicit_paddings"].list.i[:] = explicit
    return result


def without_shapes(proto: node_def_pb2.NodeDef) -> node_def_pb2.NodeDef:
    """Copy a node whose value gets another shape than the annotated one."""
    result = node_def_pb2.NodeDef()
    result.CopyFrom(proto)
    result.attr.pop("_output_shapes", None)
    return result


def write_tensor(proto: node_def_pb2.NodeDef, array: Any, data_type: int) -> None:
    """Write an array into a Const's `value`, cast to its dtype."""
    tensor = proto.attr["value"].tensor
    tensor.dtype = data_type
    dims = tensor.tensor_shape.dim
    for size in np.shape(array):
        dims.add().size = size
    # In C order, as tobytes writes whatever order an array is in.
    tensor.tensor_content = np.asarray(array).astype(numpy_dtype(data_type), copy=False).tobytes()


def read_tensor(tensor: tensor_pb2.TensorProto, largest: float) -> Any:
    """Read a TensorProto in the dtype in which it is stored.

    Args:
      tensor: The tensor.
      largest: The most elements that it may declare without holding them: one value may stand for all.

    Raises:
      ValueError: Its bytes don't fit its shape, or it declares more.
      TypeError: Its dtype has no numpy dtype.
    """
    content = tensor.tensor_content
    shape = [dim.size for dim in tensor.tensor_shape.dim]
    if content:
        return np.frombuffer(content, numpy_dtype(tensor.dtype)).reshape(shape)
    if math.prod(shape) > largest:
        raise ValueError(f"a tensor of shape {shape} that holds one value for all")
    return tensor_util.MakeNdarray(tensor)


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
