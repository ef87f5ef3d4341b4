"""Dilated depthwise convolutions that run everywhere: TensorFlow has CPU kernels for them in oneDNN only."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import graph_pb2

from tf_bnfold.formats.model import GraphDef


def with_spread_weights(graph_def: GraphDef) -> GraphDef:
    """Write zeros between the taps of dilated depthwise convolutions, in the place of the dilation.

    Args:
      graph_def: A graph; one whose weights are no constants is left as it is. It is not changed.

    Returns:
      A graph with the same values; the very one that was given where there is nothing to do.
    """
    weights = {node.name: node for node in graph_def.node if node.op == "Const"}
    if not any(_is_dilated(node, weights) for node in graph_def.node):
        return graph_def
    result = graph_pb2.GraphDef()
    result.CopyFrom(graph_def)
    result.node.extend(_spread(node, weights) for node in result.node if _is_dilated(node, weights))
    return result


def _is_dilated(node: Any, weights: dict[str, Any]) -> bool:
    if node.op != "DepthwiseConv2dNative" or node.input[1] not in weights or "dilations" not in node.attr:
        return False
    return any(dilation != 1 for dilation in node.attr["dilations"].list.i)


def _spread(node: Any, weights: dict[str, Any]) -> Any:
    """Let a convolution read weights with zeros between them, and return these."""
    compact = tf.make_ndarray(weights[node.input[1]].attr["value"].tensor)
    rates = list(_spatial(node.attr["dilations"].list.i, node.attr["data_format"].s))
    sizes = [(size - 1) * rate + 1 for size, rate in zip(compact.shape[:2], rates, strict=True)]
    wide = np.zeros((*sizes, *compact.shape[2:]), compact.dtype)
    wide[:: rates[0], :: rates[1]] = compact
    constant = type(node)(name=f"{node.name}/spread", op="Const")
    constant.attr["dtype"].type = node.attr["T"].type
    constant.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(wide))
    node.input[1] = constant.name
    node.attr["dilations"].list.i[:] = [1] * 4
    return constant


def _spatial(per_axis: Any, layout: bytes) -> Iterator[int]:
    yield from (int(per_axis[axis]) for axis in ((2, 3) if layout == b"NCHW" else (1, 2)))
