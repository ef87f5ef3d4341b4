"""Compute in float32 what a graph computes in float16, bfloat16 or float64, which TFLite has almost no ops for."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from tensorflow.core.framework import graph_pb2, node_def_pb2, types_pb2
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow.python.framework import tensor_util

from tf_bnfold.errors import ConverterError
from tf_bnfold.formats.model import Model, SignatureDef, node_name
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
    casts = {
        node.name: node_def_pb2.NodeDef(name=f"{node.name}/widened", op="Cast", input=[node.name], device=node.device)
        for node in model.graph_def.node
        if node.op in _PLACEHOLDERS and node.attr["dtype"].type in _OTHERS
    }
    taken = {node.name for node in model.graph_def.node}
    graph_def = graph_pb2.GraphDef(versions=model.graph_def.versions, library=model.graph_def.library)
    for node in model.graph_def.node:
        graph_def.node.append(node)
        if node.name in casts:
            cast = casts[node.name]
            cast.name = unused(cast.name, taken)
            cast.attr["SrcT"].CopyFrom(node.attr["dtype"])
            cast.attr["DstT"].type = _FLOAT
        else:
            _widen(graph_def.node[-1])
            graph_def.node[-1].input[:] = [_redirected(value, casts) for value in node.input]
    graph_def.node.extend(casts.values())
    for function in graph_def.library.function:
        for argument in (*function.signature.input_arg, *function.signature.output_arg):
            argument.type = _FLOAT if argument.type in _OTHERS else argument.type
        for node in function.node_def:
            _widen(node)
    signatures = {key: _narrowed(signature, graph_def, casts, taken) for key, signature in model.signatures.items()}
    dtypes = " and ".join(sorted(found))
    note = (
        f"--widen_to_float32: the .tflite computes in float32 what the graph computes in {dtypes}, "
        "between inputs and outputs of the original's dtypes"
    )
    return dataclasses.replace(model, graph_def=graph_def, signatures=signatures).noting(note)


def _redirected(value: str, casts: dict[str, Any]) -> str:
    return str(casts[short_name(value)].name) if short_name(value) in casts else value


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


def _narrowed(signature: SignatureDef, graph_def: Any, inputs: dict[str, Any], taken: set[str]) -> SignatureDef:
    """Give the signature outputs of its own dtypes, by Casts that are added to the graph."""
    result = meta_graph_pb2.SignatureDef()
    result.CopyFrom(signature)
    for _, info in sorted(result.outputs.items()):
        if info.dtype not in _OTHERS or info.WhichOneof("encoding") != "name" or node_name(info.name) in inputs:
            continue
        cast = graph_def.node.add(name=unused(f"{node_name(info.name)}/narrowed", taken), op="Cast")
        cast.input.append(short_name(info.name))
        cast.attr["SrcT"].type = _FLOAT
        cast.attr["DstT"].type = info.dtype
        info.name = f"{cast.name}:0"
    return result
