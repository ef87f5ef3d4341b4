"""Frozen graphs as TensorFlow 1 wrote them, for tests of the formats."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import graphs as g
import numpy as np
import tensorflow as tf
from google.protobuf import text_format

GraphDef = Any
v1 = tf.compat.v1

IMAGE = np.random.default_rng(0).normal(size=(2, 5, 6, 3)).astype(np.float32)


def frozen(build: Callable[[], object]) -> GraphDef:
    """Return the graph that a function builds."""
    with tf.Graph().as_default() as graph:
        build()
        return graph.as_graph_def()


def saved(path: Path, graph_def: GraphDef, *, text: bool = False) -> str:
    """Write a graph."""
    path.write_bytes(text_format.MessageToString(graph_def).encode() if text else graph_def.SerializeToString())
    return str(path)


def run(graph_def: GraphDef, fetches: Sequence[str], feeds: Mapping[str, Any]) -> list[np.ndarray]:
    """Run a graph."""
    with tf.Graph().as_default(), v1.Session() as session:
        tf.graph_util.import_graph_def(graph_def, name="")
        return session.run(list(fetches), dict(feeds))


def net() -> None:
    """Two convolutions, each with its batch norm: image, conv1, bn1, relu1, conv2, bn2, logits."""
    x = tf.nn.relu(g.norm(g.conv(g.image(name="image"), name="conv1"), version=1, name="bn1"), name="relu1")
    y = g.norm(g.conv(x, 6, name="conv2"), version=1, name="bn2")
    tf.reduce_mean(y, [1, 2], name="logits")


def phase_train_net(default: bool | None = False) -> None:
    """A batch norm that uses the batch's statistics while training, as TF1 code with a flag under tf.cond has it.

    Its branches are v1 Switch and Merge. `default` None makes `phase_train` a plain placeholder.
    """
    v1.disable_control_flow_v2()
    try:
        flag = v1.placeholder_with_default if default is not None else None
        phase = flag(default, [], name="phase_train") if flag else v1.placeholder(tf.bool, [], name="phase_train")
        x = g.conv(g.image(name="image"), name="conv")
        mean, variance = g.const(4), g.positive(4)
        mean, variance = v1.cond(phase, lambda: tf.nn.moments(x, [0, 1, 2]), lambda: (mean, variance), name="cond")
        y = tf.nn.batch_normalization(x, mean, variance, g.const(4), g.signed(4), 1e-3, name="bn")
        tf.nn.relu(y, name="logits")
    finally:
        v1.enable_control_flow_v2()
