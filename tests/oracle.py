"""The oracle: a GraphDef as an equivalent one in float64, since TensorFlow has no float64 kernel for every op.

Batch norms are written out, NCHW is transposed, dilated depthwise filters are filled with zeros, groups are split.
`test_oracle.py` holds this against float32 runs of the original ops.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import graph_pb2, node_def_pb2

_FLOATS = {tf.float16.as_datatype_enum, tf.bfloat16.as_datatype_enum, tf.float32.as_datatype_enum}
_DOUBLE = tf.float64.as_datatype_enum
_TYPE_ATTRS = ("T", "dtype", "DstT", "SrcT", "U", "Tparams", "output_type", "Tin", "Tout", "out_type", "Ta", "Tb")


def to_float64(graph_def: graph_pb2.GraphDef) -> graph_pb2.GraphDef:
    """Rewrite a graph so that all its floats are float64; names and values stay."""
    with tf.Graph().as_default() as graph:
        values: dict[str, list[tf.Tensor]] = {}
        nodes = {node.name: node for node in graph_def.node}
        # TensorFlow renames "add" where there is an "add/y", so the nodes get their names at the end.
        stand_ins = {name: f"node{place}" for place, name in enumerate(nodes)}
        for node in _ordered(graph_def, nodes):
            _import(graph, node, values, stand_ins)
        result = graph.as_graph_def()
    names = {stand_in: name for name, stand_in in stand_ins.items()}
    for node in result.node:
        node.name = names.get(node.name, node.name)
        for place, name in enumerate(node.input):
            stem, colon, index = name.lstrip("^").partition(":")
            node.input[place] = ("^" if name.startswith("^") else "") + names.get(stem, stem) + colon + index
    return result


def _ordered(graph_def: graph_pb2.GraphDef, nodes: dict[str, node_def_pb2.NodeDef]) -> list[node_def_pb2.NodeDef]:
    order: list[node_def_pb2.NodeDef] = []
    done: set[str] = set()
    for root in graph_def.node:
        pending = [(root, False)]
        while pending:
            node, ready = pending.pop()
            if ready:
                order.append(node)
            elif node.name not in done:
                done.add(node.name)
                pending.append((node, True))
                pending.extend((nodes[n.lstrip("^").split(":")[0]], False) for n in node.input)
    return order


def _import(
    graph: tf.Graph, node: node_def_pb2.NodeDef, values: dict[str, list[tf.Tensor]], stand_ins: dict[str, str]
) -> None:
    inputs = [_tensor(values, name) for name in node.input if not name.startswith("^")]
    controls = [graph.get_operation_by_name(stand_ins[name[1:]]) for name in node.input if name.startswith("^")]
    rule = _RULES.get(node.op)
    with graph.control_dependencies(controls):
        if rule is not None:
            with tf.name_scope(f"oracle/{stand_ins[node.name]}"):
                result = rule(node, inputs)
            values[node.name] = tf.raw_ops.IdentityN(
                input=result if isinstance(result, list) else [result], name=stand_ins[node.name]
            )
            return
        wide = node_def_pb2.NodeDef()
        wide.CopyFrom(node)
        _widen(wide)
        del wide.input[:]
        wide.input.extend(f"in{i}:0" for i in range(len(inputs)))
        wide.name = stand_ins[node.name]
        values[node.name] = _import_one(wide, inputs)


def _import_one(node: node_def_pb2.NodeDef, inputs: list[tf.Tensor]) -> list[tf.Tensor]:
    single = graph_pb2.GraphDef()
    if "_class" in node.attr:
        del node.attr["_class"]
    for i, tensor in enumerate(inputs):
        stand_in = single.node.add(name=f"in{i}", op="Placeholder")
        stand_in.attr["dtype"].type = tensor.dtype.as_datatype_enum
    single.node.add().CopyFrom(node)
    (operation,) = tf.import_graph_def(
        single, name="", input_map={f"in{i}:0": tensor for i, tensor in enumerate(inputs)}, return_elements=[node.name]
    )
    return list(operation.outputs)


def _widen(node: node_def_pb2.NodeDef) -> None:
    for name in _TYPE_ATTRS:
        if name in node.attr and node.attr[name].type in _FLOATS:
            node.attr[name].type = _DOUBLE
        if name in node.attr and node.attr[name].HasField("list"):
            types = node.attr[name].list.type
            types[:] = [_DOUBLE if item in _FLOATS else item for item in types]
    if node.op == "Const" and node.attr["value"].tensor.dtype in _FLOATS:
        array = tf.make_ndarray(node.attr["value"].tensor).astype(np.float64)
        node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(array))


def _tensor(values: dict[str, list[tf.Tensor]], name: str) -> tf.Tensor:
    node, _, index = name.partition(":")
    return values[node][int(index or 0)]


def _layout(node: node_def_pb2.NodeDef) -> str:
    return node.attr["data_format"].s.decode() if "data_format" in node.attr else "NHWC"


def _last(x: tf.Tensor, layout: str) -> tf.Tensor:
    if not layout.startswith("NC"):
        return x
    rank = x.shape.rank or len(layout)
    return tf.transpose(x, [0, *range(2, rank), 1])


def _back(x: tf.Tensor, layout: str) -> tf.Tensor:
    if not layout.startswith("NC"):
        return x
    rank = x.shape.rank
    return tf.transpose(x, [0, rank - 1, *range(1, rank - 1)])


def _spatial(values: list[int], layout: str) -> list[int]:
    if not values:
        return []
    return list(values[2:]) if layout.startswith("NC") else list(values[1:-1])


def _conv(node: node_def_pb2.NodeDef, inputs: list[tf.Tensor]) -> tf.Tensor:
    layout, x, w = _layout(node), inputs[0], inputs[1]
    x = _last(x, layout)
    dims = w.shape.rank - 2
    strides = _spatial(list(node.attr["strides"].list.i), layout)
    dilations = _spatial(list(node.attr["dilations"].list.i), layout) or [1] * dims
    x = _pad(node, x, w, strides, dilations, layout)
    w = _dilate(w, dilations)
    depthwise = node.op == "DepthwiseConv2dNative"
    if depthwise:
        kh, kw, channels, multiplier = w.shape
        # A depthwise convolution is a convolution with one group per channel.
        parts = [
            tf.nn.conv2d(x[..., c : c + 1], tf.reshape(w[:, :, c], [kh, kw, 1, multiplier]), strides, "VALID")
            for c in range(channels)
        ]
        return _back(tf.concat(parts, -1), layout)
    groups = (x.shape[-1] or w.shape[-2]) // w.shape[-2]
    convolve = tf.nn.conv3d if dims == 3 else tf.nn.conv2d
    steps = [1, *strides, 1] if dims == 3 else strides
    pieces = [
        convolve(a, b, steps, "VALID") for a, b in zip(tf.split(x, groups, -1), tf.split(w, groups, -1), strict=True)
    ]
    return _back(tf.concat(pieces, -1), layout)


def _pad(
    node: node_def_pb2.NodeDef, x: tf.Tensor, w: tf.Tensor, strides: list[int], dilations: list[int], layout: str
) -> tf.Tensor:
    padding = node.attr["padding"].s.decode()
    dims = len(strides)
    if padding == "VALID":
        return x
    if padding == "EXPLICIT":
        flat = list(node.attr["explicit_paddings"].list.i)
        pairs = [flat[2 * i : 2 * i + 2] for i in range(dims + 2)]
        pairs = pairs[2:] if layout.startswith("NC") else pairs[1:-1]
        return tf.pad(x, [[0, 0], *pairs, [0, 0]])
    pairs = []
    size = tf.shape(x)
    for i in range(dims):
        reach = (w.shape[i] - 1) * dilations[i] + 1
        out = (size[1 + i] + strides[i] - 1) // strides[i]
        total = tf.maximum((out - 1) * strides[i] + reach - size[1 + i], 0)
        pairs.append([total // 2, total - total // 2])
    channels = x.shape[-1]
    padded = tf.pad(x, [[0, 0], *pairs, [0, 0]])
    padded.set_shape([*padded.shape[:-1], channels])
    return padded


def _dilate(w: tf.Tensor, dilations: list[int]) -> tf.Tensor:
    """Fill zeros between the taps."""
    for axis, dilation in enumerate(dilations):
        if dilation == 1 or w.shape[axis] == 1:
            continue
        taps = tf.unstack(w, axis=axis)
        spread = [taps[0]]
        for tap in taps[1:]:
            spread.extend([tf.zeros_like(tap)] * (dilation - 1))
            spread.append(tap)
        w = tf.stack(spread, axis=axis)
    return w


def _conv_transpose(node: node_def_pb2.NodeDef, inputs: list[tf.Tensor]) -> tf.Tensor:
    """The transpose of a convolution is its gradient; groups are split."""
    layout, (sizes, w, y) = _layout(node), inputs
    rank = w.shape.rank
    y = _last(y, layout)
    if layout.startswith("NC"):
        sizes = tf.gather(sizes, [0, *range(2, rank), 1])
    static = tf.get_static_value(inputs[0])
    strides = _spatial(list(node.attr["strides"].list.i), layout)
    padding = node.attr["padding"].s.decode()
    if node.op == "DepthwiseConv2dNativeBackpropInput":
        channels, multiplier = w.shape[2], w.shape[3]
        pieces = [
            tf.raw_ops.Conv2DBackpropInput(
                input_sizes=tf.concat([sizes[:-1], [1]], 0),
                filter=tf.reshape(w[:, :, c], [w.shape[0], w.shape[1], 1, multiplier]),
                out_backprop=y[..., c * multiplier : (c + 1) * multiplier],
                strides=[1, *strides, 1],
                padding=padding,
            )
            for c in range(channels)
        ]
        return _back(tf.concat(pieces, -1), layout)
    groups = int(static[1 if layout.startswith("NC") else -1]) // w.shape[-2] if static is not None else 1
    flat = list(node.attr["explicit_paddings"].list.i)
    part_sizes = tf.concat([sizes[:-1], [w.shape[-2]]], 0)
    pieces = []
    for a, b in zip(tf.split(w, groups, -1), tf.split(y, groups, -1), strict=True):
        if rank == 5:
            pieces.append(
                tf.raw_ops.Conv3DBackpropInputV2(
                    input_sizes=part_sizes, filter=a, out_backprop=b, strides=[1, *strides, 1], padding=padding
                )
            )
        else:
            extra = {"explicit_paddings": flat} if flat else {}
            pieces.append(
                tf.raw_ops.Conv2DBackpropInput(
                    input_sizes=part_sizes, filter=a, out_backprop=b, strides=[1, *strides, 1], padding=padding, **extra
                )
            )
    return _back(tf.concat(pieces, -1), layout)


def _fused(node: node_def_pb2.NodeDef, inputs: list[tf.Tensor]) -> list[tf.Tensor]:
    """The value and the statistics: those of the batch when it trains, else those that are given."""
    x, gamma, beta, mean, variance = (tf.cast(t, tf.float64) for t in inputs)
    layout = _layout(node)
    training = node.attr["is_training"].b if "is_training" in node.attr else True
    epsilon = node.attr["epsilon"].f if "epsilon" in node.attr else 1e-4
    x = _last(x, layout)
    if training:
        mean, variance = tf.nn.moments(x, list(range(x.shape.rank - 1)))
    y = _back((x - mean) / tf.sqrt(variance + np.float64(epsilon)) * gamma + beta, layout)
    return [y, mean, variance, mean, variance, tf.zeros([0], tf.float64)]


def _global(node: node_def_pb2.NodeDef, inputs: list[tf.Tensor]) -> tf.Tensor:
    x, mean, variance, beta, gamma = inputs
    y = (x - mean) / tf.sqrt(variance + np.float64(node.attr["variance_epsilon"].f))
    return y * gamma + beta if node.attr["scale_after_normalization"].b else y + beta


def _bias_add(node: node_def_pb2.NodeDef, inputs: list[tf.Tensor]) -> tf.Tensor:
    return _back(_last(inputs[0], _layout(node)) + inputs[1], _layout(node))


def _pool(node: node_def_pb2.NodeDef, inputs: list[tf.Tensor]) -> tf.Tensor:
    layout, x = _layout(node), inputs[0]
    x = _last(x, layout)
    kernel, strides = (_spatial(list(node.attr[name].list.i), layout) for name in ("ksize", "strides"))
    padding = node.attr["padding"].s.decode()
    if padding == "EXPLICIT":
        flat = list(node.attr["explicit_paddings"].list.i)
        pairs = [flat[2 * i : 2 * i + 2] for i in range(len(flat) // 2)]
        pairs = pairs[2:] if layout.startswith("NC") else pairs[1:-1]
        x, padding = tf.pad(x, [[0, 0], *pairs, [0, 0]], constant_values=-np.inf), "VALID"
    if node.op == "AvgPool3D":
        return _back(_mean_of_windows(x, kernel, strides, padding), layout)
    if node.op == "MaxPool3D":
        return _back(_largest_of_windows(x, kernel, strides, padding), layout)
    windows = {"ksize": [1, *kernel, 1], "strides": [1, *strides, 1], "padding": padding}
    if node.op == "MaxPool":
        return _back(tf.raw_ops.MaxPool(input=x, **windows), layout)
    return _back(tf.raw_ops.AvgPool(value=x, **windows), layout)


def _mean_of_windows(x: tf.Tensor, kernel: list[int], strides: list[int], padding: str) -> tf.Tensor:
    """The mean over what a window covers of the image; padding does not count."""
    ones = tf.ones([*kernel, 1, 1], tf.float64)

    def total(part: tf.Tensor) -> tf.Tensor:
        return tf.nn.conv3d(part, ones, [1, *strides, 1], padding)

    parts = [x[..., c : c + 1] for c in range(x.shape[-1])]
    return tf.concat([total(part) / total(tf.ones_like(part)) for part in parts], -1)


def _largest_of_windows(x: tf.Tensor, kernel: list[int], strides: list[int], padding: str) -> tf.Tensor:
    """The largest number that a window covers: one axis after the other, since the largest of largest is it."""
    for axis, (reach, step) in enumerate(zip(kernel, strides, strict=True), start=1):
        size = x.shape[axis]
        count = -(-size // step) if padding == "SAME" else (size - reach) // step + 1
        total = max((count - 1) * step + reach - size, 0) if padding == "SAME" else 0
        pads = [[total // 2, total - total // 2] if i == axis else [0, 0] for i in range(x.shape.rank)]
        padded = tf.pad(x, pads, constant_values=-np.inf)
        taken = [tf.gather(padded, [step * i + tap for i in range(count)], axis=axis) for tap in range(reach)]
        x = tf.reduce_max(tf.stack(taken), 0)
    return x


def _resize(method: str) -> Callable[[node_def_pb2.NodeDef, list[tf.Tensor]], tf.Tensor]:
    def rule(node: node_def_pb2.NodeDef, inputs: list[tf.Tensor]) -> tf.Tensor:
        x, size = inputs
        # These kernels compute in float32; a resize is linear per row and column, so their matrices give it in float64.
        settings = {
            "align_corners": node.attr["align_corners"].b,
            "half_pixel_centers": node.attr["half_pixel_centers"].b,
        }
        op = getattr(tf.raw_ops, method)
        height, width = x.shape[1], x.shape[2]
        rows = op(images=tf.reshape(tf.eye(height), [1, height, 1, height]), size=[size[0], 1], **settings)
        columns = op(images=tf.reshape(tf.eye(width), [1, 1, width, width]), size=[1, size[1]], **settings)
        rows, columns = tf.cast(rows[0, :, 0], tf.float64), tf.cast(columns[0, 0], tf.float64)
        # Only the weights that sum to one in float64 are a resize; float32 rounding of the kernel's own is taken out.
        rows /= tf.reduce_sum(rows, -1, keepdims=True)
        columns /= tf.reduce_sum(columns, -1, keepdims=True)
        return tf.einsum("bhwc,ih,jw->bijc", x, rows, columns)

    return rule


def _depth_to_space(node: node_def_pb2.NodeDef, inputs: list[tf.Tensor]) -> tf.Tensor:
    layout = _layout(node)
    x = _last(inputs[0], layout)
    op = tf.nn.depth_to_space if node.op == "DepthToSpace" else tf.nn.space_to_depth
    return _back(op(x, node.attr["block_size"].i), layout)


def _leaky(node: node_def_pb2.NodeDef, inputs: list[tf.Tensor]) -> tf.Tensor:
    alpha = np.float64(np.float32(node.attr["alpha"].f)) if "alpha" in node.attr else np.float64(np.float32(0.2))
    return tf.where(inputs[0] > 0, inputs[0], alpha * inputs[0])


def _cast(node: node_def_pb2.NodeDef, inputs: list[tf.Tensor]) -> tf.Tensor:
    """Values are not rounded, since the oracle is free of rounding; constants that are stored rounded are."""
    narrow, wide = tf.dtypes.as_dtype(node.attr["DstT"].type), inputs[0]
    if not narrow.is_floating:
        return tf.cast(wide, narrow)
    stored = tf.get_static_value(wide)
    if stored is None:
        return tf.cast(wide, tf.float64)
    return tf.constant(stored.astype(narrow.as_numpy_dtype).astype(np.float64))


def _in_float32(node: node_def_pb2.NodeDef, inputs: list[tf.Tensor]) -> tf.Tensor:
    """A rounding op that has no float64: what it rounds to are float32's numbers anyhow."""
    narrow = [tf.cast(x, tf.float32) for x in inputs]
    copy = node_def_pb2.NodeDef()
    copy.CopyFrom(node)
    copy.name = "narrow"
    copy.input[:] = [f"in{i}:0" for i in range(len(inputs))]
    return tf.cast(_import_one(copy, narrow)[0], tf.float64)


_RULES: dict[str, Callable[[node_def_pb2.NodeDef, list[tf.Tensor]], tf.Tensor | list[tf.Tensor]]] = {
    "Conv2D": _conv,
    "Conv3D": _conv,
    "DepthwiseConv2dNative": _conv,
    "Conv2DBackpropInput": _conv_transpose,
    "Conv3DBackpropInputV2": _conv_transpose,
    "DepthwiseConv2dNativeBackpropInput": _conv_transpose,
    "FusedBatchNorm": _fused,
    "FusedBatchNormV2": _fused,
    "FusedBatchNormV3": _fused,
    "BatchNormWithGlobalNormalization": _global,
    "BiasAdd": _bias_add,
    "AvgPool": _pool,
    "MaxPool": _pool,
    "AvgPool3D": _pool,
    "MaxPool3D": _pool,
    "ResizeNearestNeighbor": _resize("ResizeNearestNeighbor"),
    "ResizeBilinear": _resize("ResizeBilinear"),
    "ResizeBicubic": _resize("ResizeBicubic"),
    "DepthToSpace": _depth_to_space,
    "SpaceToDepth": _depth_to_space,
    "LeakyRelu": _leaky,
    "Cast": _cast,
    "FakeQuantWithMinMaxArgs": _in_float32,
    "FakeQuantWithMinMaxVars": _in_float32,
    "FakeQuantWithMinMaxVarsPerChannel": _in_float32,
}
