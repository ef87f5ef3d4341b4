"""Spell the batch norms that the TFLite converter does not take, and that were not folded, as ones that it takes."""

from __future__ import annotations

from typing import Any

from tensorflow.core.framework import graph_pb2, node_def_pb2
from tensorflow.python.framework import tensor_util

from tf_bnfold.formats.model import GraphDef
from tf_bnfold.formats.tensors import unused

_V2 = "FusedBatchNormV2"
_GLOBAL = "BatchNormWithGlobalNormalization"


def convertible(graph_def: GraphDef) -> GraphDef:
    """Replace FusedBatchNormV2 by V3, and BatchNormWithGlobalNormalization by the arithmetic that it is.

    V3 computes what V2 does, in both modes. `y = (x - m) * rsqrt(v + variance_epsilon) * gamma + beta`, gamma only with
    scale_after_normalization, becomes Rsqrt, Mul, Sub and AddV2; the converter computes those of constants.

    Args:
      graph_def: The graph; it is not changed.

    Returns:
      The graph; the very one that was given if it has neither op.

    Source: the op definitions in tensorflow/core/ops/nn_ops.cc
    """
    bodies = (function.node_def for function in graph_def.library.function)
    if not any(node.op in (_V2, _GLOBAL) for nodes in (graph_def.node, *bodies) for node in nodes):
        return graph_def
    result = graph_pb2.GraphDef(versions=graph_def.versions, library=graph_def.library)
    taken = {node.name for node in graph_def.node}
    for node in graph_def.node:
        result.node.extend(_arithmetic(node, taken) if node.op == _GLOBAL else [node])
    for nodes in (result.node, *(function.node_def for function in result.library.function)):
        for node in nodes:
            if node.op == _V2:
                node.op = "FusedBatchNormV3"
    return result


def _arithmetic(node: Any, taken: set[str]) -> list[Any]:
    x, mean, variance, beta, gamma, *controls = node.input
    dtype = node.attr["T"].type
    made: list[Any] = []

    def op(kind: str, *inputs: str, name: str = "") -> str:
        new = node_def_pb2.NodeDef(name=name or unused(f"{node.name}/{kind}", taken), op=kind, device=node.device)
        new.input.extend(inputs)
        new.attr["T"].type = dtype
        made.append(new)
        return str(new.name)

    epsilon = node_def_pb2.NodeDef(name=unused(f"{node.name}/epsilon", taken), op="Const", device=node.device)
    epsilon.attr["dtype"].type = dtype
    value = node.attr["variance_epsilon"].f
    epsilon.attr["value"].tensor.CopyFrom(tensor_util.make_tensor_proto(value, dtype, []))
    made.append(epsilon)
    scale = op("Rsqrt", op("AddV2", variance, epsilon.name))
    if node.attr["scale_after_normalization"].b:
        scale = op("Mul", scale, gamma)
    offset = op("Sub", beta, op("Mul", mean, scale))
    op("AddV2", op("Mul", x, scale), offset, name=node.name)
    made[-1].input.extend(controls)
    return made
