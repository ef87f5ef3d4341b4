"""A small valid model, as a SavedModel and as a frozen graph, and ways to damage its graph.

The tables of this file are read by tests/test_errors_table.py; each key is the first column of a row in docs/errors.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import graph_pb2, types_pb2
from tensorflow.core.protobuf import saved_model_pb2

GraphDef = Any
MetaGraphDef = Any
FLOAT = types_pb2.DT_FLOAT


WEIGHTS = np.random.default_rng(0).normal(size=(3, 3, 3, 4)).astype(np.float32)


def _net(v1: Any, weights: Any, channels: int = 4) -> tuple[Any, Any]:
    image = v1.placeholder(tf.float32, [None, 4, 4, 3], name="image")
    conv = tf.nn.conv2d(image, weights, 1, "SAME", name="conv")
    values = {"gamma": [0.5, -1, 2, 1], "beta": [1.5, 1, -1, 0], "mean": [-1, 0.5, 2, 1], "variance": [1, 2, 0.5, 3]}
    parameters = [tf.constant(value[:channels], tf.float32, name=name) for name, value in values.items()]
    norm, *_ = v1.nn.fused_batch_norm(conv, *parameters, is_training=False, name="norm")
    return image, tf.nn.relu(norm, name="logits")


def save_model(folder: Path, weights: Any = WEIGHTS, channels: int = 4) -> None:
    """Write the model as a SavedModel whose graph is flat and whose weights are a variable."""
    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        image, logits = _net(v1, v1.get_variable("weights", initializer=weights, use_resource=True), channels)
        session.run(v1.global_variables_initializer())
        builder = v1.saved_model.Builder(str(folder))
        signature = v1.saved_model.predict_signature_def({"image": image}, {"logits": logits})
        builder.add_meta_graph_and_variables(session, ["serve"], signature_def_map={"serving_default": signature})
        builder.save()


def frozen_model() -> GraphDef:
    """Return the model as a frozen graph."""
    with tf.Graph().as_default() as graph:
        _net(tf.compat.v1, tf.constant(WEIGHTS, name="weights"))
        return graph.as_graph_def()


def edit_saved_model(folder: Path, edit: Callable[[MetaGraphDef], None]) -> None:
    """Change the MetaGraph of a SavedModel in place."""
    file = folder / "saved_model.pb"
    saved_model = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    edit(saved_model.meta_graphs[0])
    file.write_bytes(saved_model.SerializeToString())


def node(graph_def: GraphDef, name: str) -> Any:
    """Return a node by its name."""
    return next(node for node in graph_def.node if node.name == name)


def add(graph_def: GraphDef, name: str, op: str, *inputs: str, dtype: str = "T") -> Any:
    """Add a node of floats."""
    new = graph_def.node.add(name=name, op=op, input=inputs)
    new.attr[dtype].type = FLOAT
    return new


def const(graph_def: GraphDef, name: str, values: Any, dtype: Any = np.float32) -> Any:
    """Add a constant."""
    new = graph_def.node.add(name=name, op="Const")
    new.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(np.asarray(values, dtype)))
    new.attr["dtype"].type = new.attr["value"].tensor.dtype
    return new


def before_logits(graph_def: GraphDef, name: str) -> None:
    """Let logits read another tensor."""
    node(graph_def, "logits").input[0] = name


def _huge(graph_def: GraphDef, op: str) -> None:
    """Scale by a constant of 2**40 elements that a few bytes describe."""
    if op == "Const":
        shape = const(graph_def, "huge", 1.0).attr["value"].tensor.tensor_shape
        for size in (1 << 34, 4, 4, 4):
            shape.dim.add(size=size)
    else:
        const(graph_def, "huge/dims", [1 << 34, 4, 4, 4], np.int64)
        const(graph_def, "huge/value", 1.0)
        inputs = ("huge/dims", "huge/value") if op == "Fill" else ("huge/value", "huge/dims")
        add(graph_def, "huge", op, *inputs).attr["index_type" if op == "Fill" else "Tidx"].type = types_pb2.DT_INT64
    add(graph_def, "scaled", "Mul", "norm", "huge")
    before_logits(graph_def, "scaled")


def _cycle(graph_def: GraphDef) -> None:
    add(graph_def, "around", "AddV2", "norm", "back")
    add(graph_def, "back", "Identity", "around")
    before_logits(graph_def, "around")


def _longer(graph_def: GraphDef, name: str, size: int) -> None:
    tensor = node(graph_def, name).attr["value"].tensor
    content = tf.make_ndarray(tensor).tobytes()
    tensor.ClearField("float_val")
    tensor.tensor_content = (content * 2)[: len(content) + size]


def _rename(graph_def: GraphDef, old: str, new: str) -> None:
    node(graph_def, old).name = new
    for each in graph_def.node:
        for position, name in enumerate(each.input):
            if name == old:
                each.input[position] = new


def _call(graph_def: GraphDef, function: str) -> None:
    call = graph_def.node.add(name="call", op="PartitionedCall", input=["norm"])
    call.attr["Tin"].list.type.append(FLOAT)
    call.attr["Tout"].list.type.append(FLOAT)
    call.attr["f"].func.name = function
    before_logits(graph_def, "call")


def function(graph_def: GraphDef, name: str) -> Any:
    """Add a function of one float tensor `x` whose result is its node `y`, which the caller adds."""
    new = graph_def.library.function.add()
    new.signature.name = name
    new.signature.input_arg.add(name="x", type=FLOAT)
    new.signature.output_arg.add(name="z", type=FLOAT)
    new.ret["z"] = "y:output:0"
    return new


def _calling(graph_def: GraphDef, caller: str, callees: list[str]) -> None:
    body = function(graph_def, caller)
    value = "x"
    for number, callee in enumerate(callees):
        call = body.node_def.add(name=f"call_{number}", op="PartitionedCall", input=[value])
        call.attr["Tin"].list.type.append(FLOAT)
        call.attr["Tout"].list.type.append(FLOAT)
        call.attr["f"].func.name = callee
        value = f"call_{number}:output:0"
    body.node_def.add(name="y", op="Identity", input=[value]).attr["T"].type = FLOAT


def _itself(graph_def: GraphDef) -> None:
    _calling(graph_def, "again", ["again"])
    _call(graph_def, "again")


def _bomb(graph_def: GraphDef) -> None:
    """Let 13 functions unfold to 10**12 nodes."""
    _calling(graph_def, "level_0", [])
    for level in range(1, 13):
        _calling(graph_def, f"level_{level}", [f"level_{level - 1}"] * 10)
    _call(graph_def, "level_12")


def _chain(graph_def: GraphDef) -> None:
    value = "norm"
    for number in range(100_000):
        add(graph_def, f"link_{number}", "Relu", value)
        value = f"link_{number}"
    before_logits(graph_def, value)


def _set(graph_def: GraphDef, name: str, attr: str, **value: Any) -> None:
    node(graph_def, name).attr[attr].Clear()
    for field, each in value.items():
        setattr(node(graph_def, name).attr[attr], field, each)


def _writes(graph_def: GraphDef, op: str) -> None:
    const(graph_def, "file", b"written", object)
    const(graph_def, "words", b"words", object)
    graph_def.node.add(name="effect", op=op, input=["file", "words"][: 2 if op == "WriteFile" else 1])
    node(graph_def, "logits").input.append("^effect")


def _python(graph_def: GraphDef) -> None:
    call = graph_def.node.add(name="python", op="PyFunc", input=["norm"])
    call.attr["token"].s = b"pyfunc_0"
    call.attr["Tin"].list.type.append(FLOAT)
    call.attr["Tout"].list.type.append(FLOAT)
    before_logits(graph_def, "python")


# What is wrong with the graph; each is tried in the SavedModel and in the frozen graph.
IN_GRAPH: Mapping[str, Callable[[GraphDef], Any]] = {
    "an op that TensorFlow does not know": lambda g: setattr(node(g, "norm"), "op", "NoSuchOp"),
    "two nodes of one name": lambda g: g.node.add().CopyFrom(node(g, "norm")),
    "an input that is not in the graph": lambda g: before_logits(g, "gone"),
    "a control input that is not in the graph": lambda g: node(g, "logits").input.append("^gone"),
    "an output that the op does not have": lambda g: before_logits(g, "conv:7"),
    "an input too few": lambda g: node(g, "norm").input.pop(),
    "an input too many": lambda g: node(g, "norm").input.append("conv"),
    "a cycle": _cycle,
    "a node that reads itself": lambda g: before_logits(g, "logits"),
    "an attribute that is missing": lambda g: node(g, "conv").attr.pop("strides"),
    "an attribute of another kind": lambda g: _set(g, "conv", "strides", i=3),
    "an attribute of a value that is not allowed": lambda g: _set(g, "conv", "padding", s=b"NONSENSE"),
    "an attribute that the op does not have": lambda g: _set(g, "conv", "nonsense", i=3),
    "a dtype that does not match": lambda g: _set(g, "norm", "T", type=types_pb2.DT_HALF),
    "a dtype that does not exist": lambda g: _set(g, "conv", "T", type=200),
    "a constant with too few bytes": lambda g: _longer(g, "gamma", -3),
    "a constant with too many bytes": lambda g: _longer(g, "gamma", 4),
    "a constant of another shape than its reader needs": lambda g: (
        const(g, "gamma_5", [1.0] * 5) and node(g, "norm").input.__setitem__(1, "gamma_5")
    ),
    "a constant that declares 2**40 elements": lambda g: _huge(g, "Const"),
    "a Fill of 2**40 elements": lambda g: _huge(g, "Fill"),
    "a BroadcastTo of 2**40 elements": lambda g: _huge(g, "BroadcastTo"),
    "a node without a name": lambda g: _rename(g, "norm", ""),
    "control characters in a name": lambda g: _rename(g, "norm", "no\n\x1b[31mrm"),
    "a chain of 100,000 nodes": _chain,
    "a call of a function that is not there": lambda g: _call(g, "nowhere"),
    "a function that calls itself": _itself,
    "functions that unfold to 10**12 nodes": _bomb,
    "an op that writes a file": lambda g: _writes(g, "WriteFile"),
    "an op that reads a file": lambda g: _writes(g, "ReadFile"),
    "an op that calls Python": _python,
}


# Flags that a row needs.
FLAGS: Mapping[str, tuple[str, ...]] = {"a chain of 100,000 nodes": ("--dry_run", "--noverify")}


def unreadable_text(graph_def: GraphDef) -> bytes:
    """Return the frozen graph with a name that is no UTF-8."""
    return graph_def.SerializeToString().replace(b"\x04norm", b"\x04n\xffrm")


def empty_graph() -> bytes:
    """Return a graph without nodes."""
    return graph_pb2.GraphDef(versions={"producer": 1}).SerializeToString()
