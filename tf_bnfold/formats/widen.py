"""Compute in float32 what a graph computes in float16, bfloat16 or float64, which TFLite has almost no ops for."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from tensorflow.core.framework import graph_pb2, node_def_pb2, types_pb2
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow.python.framework import tensor_util

from tf_bnfold.errors import ConverterError
from tf_bnfold.formats.model import GraphDef, Model, SignatureDef, node_name
from tf_bnfold.formats.tensors import input_dtypes, output_dtypes, short_name, unused

_FLOAT = types_pb2.DT_FLOAT
_OTHERS = {types_pb2.DT_HALF: "float16", types_pb2.DT_BFLOAT16: "bfloat16", types_pb2.DT_DOUBLE: "float64"}
# Here a dtype says how bytes are read, not how something is computed.
_OF_BYTES = frozenset({"Bitcast", "DecodeRaw", "DecodePaddedRaw"})
_PLACEHOLDERS = ("Placeholder", "PlaceholderV2")


def other_dtype(node: Any) -> str:
    """Name the float dtype other than float32 that a NodeDef computes in, "" if there is none."""
    dtypes = (*output_dtypes(node), *input_dtypes(node))
    return next((_OTHERS[dtype] for dtype in dtypes if dtype in _OTHERS), "")


def widened(model: Model) -> Model:
    """Let a model compute in float32 throughout.

    Constants and the dtypes of all ops are float32 then, and a Cast between two of these dtypes is an Identity. Inputs
    and outputs of the signatures keep their dtypes by a Cast right behind or before them.

    Args:
      model: The model; it is not changed.

    Returns:
      The model, whose notes say which dtypes were widened; the very one that was given if it has only float32.

    Raises:
      ConverterError: If a constant is beyond float32, or an op's dtype can not change.
    """
    bodies = [function.node_def for function in model.graph_def.library.function]
    found = {other_dtype(node) for nodes in (model.graph_def.node, *bodies) for node in nodes} - {""}
    if not found:
        return model
    taken = {node.name for node in model.graph_def.node}
    graph_def = graph_pb2.GraphDef(versions=model.graph_def.versions, library=model.graph_def.library)
    casts: dict[str, Any] = {}  # by the placeholder that they widen
    for node in model.graph_def.node:
        graph_def.node.append(node)
        if node.op in _PLACEHOLDERS and node.attr["dtype"].type in _OTHERS:
            casts[node.name] = _cast(node.name, f"{node.name}/widened", node.attr["dtype"].type, _FLOAT, taken)
        else:
            _widen(graph_def.node[-1])
    for node in graph_def.node:
        node.input[:] = [str(casts[short_name(v)].name) if short_name(v) in casts else v for v in node.input]
    graph_def.node.extend(casts.values())
    for function in graph_def.library.function:
        _widen_function(function)
    dtypes = " and ".join(sorted(found))
    note = (
        f"--widen_to_float32: the .tflite computes in float32 what the graph computes in {dtypes}, "
        "between inputs and outputs of the original's dtypes"
    )
    signatures = _with_dtypes(model.signatures, graph_def, casts.keys(), taken)
    return dataclasses.replace(model, graph_def=graph_def, signatures=signatures).noting(note)


def _cast(source: str, name: str, before: int, after: int, taken: set[str]) -> Any:
    cast = node_def_pb2.NodeDef(name=unused(name, taken), op="Cast", input=[source])
    cast.attr["SrcT"].type = before
    cast.attr["DstT"].type = after
    return cast


def _with_dtypes(
    signatures: Mapping[str, SignatureDef], graph_def: GraphDef, untouched: Collection[str], taken: set[str]
) -> Mapping[str, SignatureDef]:
    """Give signatures outputs of their own dtypes, by Casts that are added to the graph; a shared one stays shared."""
    casts: dict[str, str] = {}
    result = {}
    for key, signature in signatures.items():
        result[key] = meta_graph_pb2.SignatureDef()
        result[key].CopyFrom(signature)
        for _, info in sorted(result[key].outputs.items()):
            if info.dtype not in _OTHERS or node_name(info.name) in untouched:
                continue
            if info.name not in casts:
                name = f"{node_name(info.name)}/narrowed"
                graph_def.node.append(_cast(short_name(info.name), name, _FLOAT, info.dtype, taken))
                casts[info.name] = f"{graph_def.node[-1].name}:0"
            info.name = casts[info.name]
    return result


def _widen_function(function: Any) -> None:
    for argument in (*function.signature.input_arg, *function.signature.output_arg):
        argument.type = _FLOAT if argument.type in _OTHERS else argument.type
    for node in function.node_def:
        _widen(node)


def _widen(node: Any) -> None:
    """Make every dtype of a NodeDef float32."""
    if node.op in _OF_BYTES and other_dtype(node):
        raise ConverterError(
            f"--widen_to_float32: {node.op} {node.name} reads {other_dtype(node)} from bytes, so it stays"
        )
    if node.op == "Const" and node.attr["dtype"].type in _OTHERS:
        _widen_constant(node)
    for name, attr in node.attr.items():
        if name.startswith("_"):  # an annotation
            continue
        if attr.type in _OTHERS:
            attr.type = _FLOAT
        if any(dtype in _OTHERS for dtype in attr.list.type):
            attr.list.type[:] = [_FLOAT if dtype in _OTHERS else dtype for dtype in attr.list.type]
    if other_dtype(node):
        raise ConverterError(f"--widen_to_float32: {node.op} {node.name} is of {other_dtype(node)} always")
    if node.op == "Cast" and node.attr["SrcT"].type == node.attr["DstT"].type == _FLOAT:
        inputs = list(node.input)
        node.CopyFrom(node_def_pb2.NodeDef(name=node.name, op="Identity", input=inputs, device=node.device))
        node.attr["T"].type = _FLOAT


def _widen_constant(node: Any) -> None:
    value = tensor_util.MakeNdarray(node.attr["value"].tensor)
    with np.errstate(over="ignore"):
        wide = value.astype(np.float32)
    if np.any(np.isfinite(value) & ~np.isfinite(wide)):
        raise ConverterError(f"--widen_to_float32: constant {node.name} holds a number that float32 does not reach")
    node.attr["value"].tensor.CopyFrom(tensor_util.make_tensor_proto(wide, _FLOAT, wide.shape))
