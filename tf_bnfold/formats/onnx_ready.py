"""Write a graph so that tf2onnx converts it as it is: what it merges wrongly is spelled in another way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from tensorflow.core.framework import graph_pb2, node_def_pb2, types_pb2
from tensorflow.python.framework import tensor_util

from tf_bnfold.formats.convertible import convertible
from tf_bnfold.formats.model import GraphDef, node_name
from tf_bnfold.formats.tensors import tensor_infos, tensor_name, unused

_CONVOLUTIONS = ("Conv2D", "DepthwiseConv2dNative", "Conv3D")
_BIASED = ("Conv2D", "Conv2DBackpropInput")
_PADDED = ("Conv2D", "DepthwiseConv2dNative")
_FLOATS = (types_pb2.DT_FLOAT, types_pb2.DT_HALF, types_pb2.DT_DOUBLE, types_pb2.DT_BFLOAT16)


def onnx_ready(graph_def: GraphDef) -> GraphDef:
    """Spell four things otherwise, with the same values in each element.

    - `x + c` with c on another axis than the last becomes `x - (-c)`: tf2onnx takes such an Add behind a convolution
      for the convolution's bias, on the channel axis.
    - The second of two BiasAdds in a row becomes AddV2: tf2onnx gives the convolution two biases.
    - `x * c` where x has one channel and c several becomes `tile(x) * c`: tf2onnx multiplies the weights and keeps the
      old shape.
    - SAME of a dilated convolution becomes EXPLICIT: where a size is free, tf2onnx writes SAME_UPPER, and onnxruntime
      takes no dilation with that.

    The batch norms that TFLite does not take are spelled for tf2onnx too.

    Args:
      graph_def: The graph; it is not changed.

    Returns:
      The graph.

    Source: tf2onnx/optimizer/transpose_optimizer.py and tf2onnx/rewriter/conv2d_with_add_rewriter.py
    """
    result = graph_pb2.GraphDef()
    result.CopyFrom(convertible(graph_def))
    nodes = {node.name: node for node in result.node}
    taken = set(nodes)
    made: list[Any] = []
    second = [node for node in result.node if _is_second_bias(node, nodes)]
    for node in second:
        node.op = "AddV2"
        if "data_format" in node.attr:
            del node.attr["data_format"]
    for node in result.node:
        if node.op in ("Add", "AddV2") and node.attr["T"].type in _FLOATS:
            made += _subtracted(node, nodes, taken)
    made += _tiled(result, nodes, taken)
    result.node.extend(made)
    _pad_explicitly(result)
    return result


def _producer(value: str, nodes: Mapping[str, Any]) -> Any:
    """Return the node that computes a value, Identity aside."""
    node = nodes[node_name(value)]
    while node.op == "Identity":
        node = nodes[node_name(node.input[0])]
    return node


def _is_second_bias(node: Any, nodes: Mapping[str, Any]) -> bool:
    if node.op != "BiasAdd" or ("data_format" in node.attr and node.attr["data_format"].s == b"NCHW"):
        return False
    first = _producer(node.input[0], nodes)
    return first.op == "BiasAdd" and _producer(first.input[0], nodes).op in _BIASED


def _constant(value: str, nodes: Mapping[str, Any]) -> npt.NDArray[np.generic] | None:
    node = _producer(value, nodes)
    if node.op != "Const":
        return None
    array: npt.NDArray[np.generic] = tensor_util.MakeNdarray(node.attr["value"].tensor)
    return array


def _subtracted(node: Any, nodes: Mapping[str, Any], taken: set[str]) -> list[Any]:
    """Make a Sub of an Add of one axis that is not the last; return the new constant."""
    for position in (0, 1):
        value = _constant(node.input[position], nodes)
        if value is None or value.size < 2 or max(value.shape) != value.size or value.shape[-1] > 1:
            continue
        negated = _const(unused(f"{node.name}/negated", taken), np.negative(value), node.attr["T"].type)
        node.op = "Sub"
        node.input[:2] = [node.input[1 - position], negated.name]
        return [negated]
    return []


def _pad_explicitly(graph_def: GraphDef) -> None:
    """Write the zeros of SAME as numbers, where a convolution is dilated and its stride of 1 makes them known."""
    dilated = [node for node in graph_def.node if _is_dilated(node)]
    infos = tensor_infos(graph_def, [tensor_name(node.input[1]) for node in dilated])
    for node in dilated:
        sizes = [dim.size for dim in infos[tensor_name(node.input[1])].tensor_shape.dim[:2]]
        if len(sizes) < 2 or min(sizes) < 0:
            continue
        first = 2 if "data_format" in node.attr and node.attr["data_format"].s == b"NCHW" else 1
        paddings = [0] * 8
        for axis, size in enumerate(sizes, start=first):
            total = (size - 1) * node.attr["dilations"].list.i[axis]
            paddings[2 * axis : 2 * axis + 2] = [total // 2, total - total // 2]
        node.attr["padding"].s = b"EXPLICIT"
        node.attr["explicit_paddings"].list.i[:] = paddings


def _is_dilated(node: Any) -> bool:
    """Whether a node is a dilated convolution of stride 1 that pads as much as it takes (SAME)."""
    if node.op not in _PADDED or node.attr["padding"].s != b"SAME" or "dilations" not in node.attr:
        return False
    return max(node.attr["dilations"].list.i, default=1) > 1 and max(node.attr["strides"].list.i) == 1


def _tiled(graph_def: GraphDef, nodes: Mapping[str, Any], taken: set[str]) -> list[Any]:
    """Let each value of one channel that a Mul broadcasts have all channels before it; return the new nodes."""
    found = []
    for node in graph_def.node:
        for position in (0, 1) if node.op == "Mul" else ():
            value = _constant(node.input[1 - position], nodes)
            wide = value is not None and value.size > 1 and value.shape[-1] == value.size
            if wide and _producer(node.input[position], nodes).op in _CONVOLUTIONS:
                found.append((node, position, value.shape[-1] if value is not None else 0))
    infos = tensor_infos(graph_def, [tensor_name(node.input[position]) for node, position, _ in found])
    made = []
    for node, position, channels in found:
        dims = infos[tensor_name(node.input[position])].tensor_shape.dim
        if dims and dims[-1].size == 1:
            count = np.array([1] * (len(dims) - 1) + [channels], np.int32)
            multiples = _const(unused(f"{node.name}/multiples", taken), count, types_pb2.DT_INT32)
            tile = node_def_pb2.NodeDef(name=unused(f"{node.name}/tile", taken), op="Tile")
            tile.input.extend([node.input[position], multiples.name])
            tile.attr["T"].type = node.attr["T"].type
            tile.attr["Tmultiples"].type = types_pb2.DT_INT32
            node.input[position] = tile.name
            made += [multiples, tile]
    return made


def _const(name: str, value: npt.NDArray[np.generic], dtype: int) -> Any:
    node = node_def_pb2.NodeDef(name=name, op="Const")
    node.attr["dtype"].type = dtype
    node.attr["value"].tensor.CopyFrom(tensor_util.make_tensor_proto(value, dtype, value.shape))
    return node
