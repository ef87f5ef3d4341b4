"""What can be wrong with a node by itself: its attributes, and the function that it calls."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import tensorflow as tf
from tensorflow.core.framework import types_pb2
from tensorflow.python.framework import op_def_registry

from tf_bnfold.formats.effects import FUNCTIONAL
from tf_bnfold.formats.graph_file import MOST_BYTES

REFERENCE = 100  # what the dtype of a reference is above that of its value

_MOST_OUTPUTS = 1 << 16  # of one op

# The field of an AttrValue that an attribute of each type has.
_FIELDS = {"string": "s", "int": "i", "float": "f", "bool": "b"}
_VALUES = (
    "half_val", "float_val", "double_val", "int_val", "string_val", "int64_val", "bool_val", "uint32_val", "uint64_val",
    "scomplex_val", "dcomplex_val", "resource_handle_val", "variant_val",
)  # fmt: skip
_DTYPES = frozenset(types_pb2.DataType.values()) - {types_pb2.DT_INVALID}
_COMPLEX = (types_pb2.DT_COMPLEX64, types_pb2.DT_COMPLEX128)  # two numbers per value


def node_problems(node: Any, functions: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong with the attributes of a node."""
    op_def = op_def_registry.get(node.op)
    if op_def is None:
        return
    for definition in op_def.attr:
        yield from _attribute_problems(node, definition)
    for argument in (*op_def.input_arg, *op_def.output_arg):
        if argument.number_attr and not 0 <= node.attr[argument.number_attr].i <= _MOST_OUTPUTS:
            yield f"has {argument.number_attr} = {node.attr[argument.number_attr].i}"
    if node.op == "Const" and node.attr["value"].tensor.dtype != node.attr["dtype"].type:
        yield "has a value of another dtype"
    if node.op in FUNCTIONAL:
        yield from _call_problems(node, functions)


def _attribute_problems(node: Any, definition: Any) -> Iterator[str]:
    if definition.name not in node.attr:
        if not definition.HasField("default_value"):
            yield f"lacks the attribute {definition.name}"
        return
    value = node.attr[definition.name]
    if not _is_of_type(value, definition.type):
        yield f"has an attribute {definition.name} that is no {definition.type}"
    elif not _is_allowed(value, definition):
        yield f"has an attribute {definition.name} of a value that this op does not take"
    elif definition.type == "tensor":
        yield from _tensor_problems(value.tensor)


def _is_of_type(value: Any, kind: str) -> bool:
    if kind.startswith("list("):
        kind = kind[len("list(") : -1]
        items = value.list
        fields = [field.name for field, each in items.ListFields() if each]
        if value.WhichOneof("value") != "list" or not set(fields) <= {_FIELDS.get(kind, kind)}:
            return False
        return _DTYPES.issuperset(items.type)
    return value.WhichOneof("value") == _FIELDS.get(kind, kind) and (kind != "type" or value.type in _DTYPES)


def _is_allowed(value: Any, definition: Any) -> bool:
    """Tell whether a value is among those that the op's definition lists, and no less than its minimum."""
    if definition.has_minimum and definition.type == "int":
        return bool(value.i >= definition.minimum)
    if not definition.HasField("allowed_values"):
        return True
    allowed, given = definition.allowed_values.list, value.list if definition.type.startswith("list(") else value
    if allowed.type:
        types = given.type if given is value.list else [given.type]
        return {dtype % REFERENCE for dtype in types} <= {*allowed.type}
    texts = given.s if given is value.list else [given.s]
    return {*texts} <= {*allowed.s}


def _tensor_problems(tensor: Any) -> Iterator[str]:
    """Yield what is wrong with a value: it may declare more than it holds, as one value may stand for all."""
    sizes = [dim.size for dim in tensor.tensor_shape.dim]
    if tensor.dtype not in _DTYPES or tensor.tensor_shape.unknown_rank or min(sizes, default=0) < 0:
        yield "has a value without dtype or shape"
        return
    count, item = math.prod(sizes), tf.as_dtype(tensor.dtype).size or 1
    if count * item > MOST_BYTES:
        yield f"declares {count} elements, more than the {MOST_BYTES} bytes that a graph can hold"
    elif tensor.tensor_content:
        if tensor.dtype != types_pb2.DT_STRING and len(tensor.tensor_content) != count * item:
            yield f"has {len(tensor.tensor_content)} bytes, but the shape {sizes} takes {count * item}"
    else:
        values = max(len(getattr(tensor, field)) for field in _VALUES) // (2 if tensor.dtype in _COMPLEX else 1)
        if values > count:
            yield f"has {values} values, but the shape {sizes} takes {count}"


def _call_problems(node: Any, functions: Mapping[str, Any]) -> Iterator[str]:
    """Yield how a call differs from what it calls."""
    given = (node.attr["Tin"] if "Tin" in node.attr else node.attr["T"]).list.type
    taken = (node.attr["Tout"] if "Tout" in node.attr else node.attr["T"]).list.type
    for name, attr in node.attr.items():
        for callee in [attr.func] if attr.HasField("func") else attr.list.func:
            if callee.name not in functions:
                yield f"calls {callee.name!r}, which is not in the file"
                return
            signature = functions[callee.name].signature
            if signature.attr:
                continue
            results = [argument.type for argument in signature.output_arg]
            if [argument.type for argument in signature.input_arg] != list(given):
                yield f"gives {callee.name} other arguments than that takes"
            if results != list(taken) and (name != "cond" or len(results) != 1):
                yield f"takes other results than {callee.name} gives"
