"""Models with a fault in them, as a wrong fold or a wrong conversion would leave it."""

from __future__ import annotations

import numpy as np
import saved_models
import tensorflow as tf
from tensorflow.python.framework import tensor_util

from tf_bnfold import verify
from tf_bnfold.formats.saved_model import load_saved_model
from tf_bnfold.verify.samples import make_samples


def altered(model, name: str, change):
    """Return the model with another value in a constant, under a new name as a fold would have it."""
    graph_def = type(model.graph_def)()
    graph_def.CopyFrom(model.graph_def)
    for node in graph_def.node:
        if node.name == name:
            value = change(tensor_util.MakeNdarray(node.attr["value"].tensor))
            node.attr["value"].tensor.CopyFrom(tensor_util.make_tensor_proto(value, node.attr["dtype"].type))
            node.name = f"{name}/folded"
        node.input[:] = [f"{name}/folded" if value == name else value for value in node.input]
    return model.with_graph(graph_def)


def compare(path, folded_of, **options):
    frozen = load_saved_model(path)
    return verify.verify_saved_model(path, frozen.tags, frozen, folded_of(frozen), make_samples(frozen), **options)


def constant_of(model, op: str) -> str:
    """Name the constant that is the second input of the last node with this op, behind Identity."""
    nodes = {node.name: node for node in model.graph_def.node}
    name = [node for node in model.graph_def.node if node.op == op][-1].input[1]
    while nodes[name].op == "Identity":
        name = nodes[name].input[0]
    return name


# A step that decides, and a row of inputs at which it is about to tip when the second value grows.
STEPS = {
    "argmax": (lambda x: {"y": tf.argmax(x, 1)}, [1, 1, 0]),
    "round": (lambda x: {"y": tf.round(x)}, [1, 0.5, 0]),
    "comparison": (lambda x: {"y": tf.where(x > 0.5, x + 100.0, x)}, [1, 0.5, 0]),
    "cast": (lambda x: {"y": tf.cast(tf.cast(x, tf.int32), tf.float32)}, [3, np.nextafter(np.float32(1), 0), 0]),
    "fake_quant": (
        lambda x: {"y": tf.quantization.fake_quant_with_min_max_args(x, 0, 255)},
        [3, 0.49999994, 0],
    ),
    "top_k": (lambda x: {"y": tf.math.top_k(x, 2).indices}, [1, 1, 0]),
    "branch": (lambda x: {"y": tf.cond(x[0, 1] > x[0, 0], lambda: x + 1.0, lambda: x - 1.0)}, [1, 1, 0]),
}


def saved_step(folder, step: str) -> str:
    weights = tf.Variable(np.eye(3, dtype=np.float32))
    call = STEPS[step][0]
    return saved_models.saved(
        str(folder), lambda x: call(tf.matmul(x, weights)), tf.TensorSpec([None, 3], name="x"), variables=[weights]
    )
