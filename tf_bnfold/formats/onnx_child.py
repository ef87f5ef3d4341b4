"""The child process that runs tf2onnx, whose output depends on PYTHONHASHSEED and on what it has converted before."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import tensorflow as tf
import tf2onnx
from tensorflow.core.framework import graph_pb2
from tf2onnx import constants, optimizer, tf_loader

from tf_bnfold.formats.model import GraphDef
from tf_bnfold.formats.onnx import GRAPH, MODEL, REFUSAL, TASK, Task
from tf_bnfold.formats.prune import pruned
from tf_bnfold.formats.tensors import tensor_name
from tf_bnfold.parent import end_with_parent

Tables = Mapping[bytes, tuple[npt.NDArray[np.generic], npt.NDArray[np.generic]]]


def _hash_by_name() -> None:
    """Let tf2onnx's sets have an order that depends on names, and not on the addresses of nodes and graphs.

    Where one of several nodes moves first, another may have nowhere to go.
    """
    tf2onnx.graph.Node.__hash__ = lambda node: hash(node.name)
    tf2onnx.graph.Graph.__hash__ = lambda graph: hash(graph.graph_name)


def main(folder: str, parent: int) -> None:
    """Convert the graph in a folder, and leave the model or a refusal there.

    Args:
      folder: Holds the graph and the task.
      parent: Process that waits for the result.
    """
    end_with_parent(parent)
    _hash_by_name()
    with open(os.path.join(folder, GRAPH), "rb") as file:
        graph_def = graph_pb2.GraphDef.FromString(file.read())
    with open(os.path.join(folder, TASK), encoding="utf-8") as file:
        task = Task(**json.load(file))
    if task.opset not in constants.OPSET_TO_IR_VERSION:
        most = max(constants.OPSET_TO_IR_VERSION)
        _refuse(folder, f"--opset={task.opset}: tf2onnx {tf2onnx.__version__} writes up to {most}")
        return
    model = _converted(graph_def, task)
    unknown = sorted(f"{node.op_type} ({node.name})" for node in model.graph.node if not _is_onnx(node, model))
    if unknown:
        _refuse(folder, f"tf2onnx has no ONNX for {', '.join(unknown)} at opset {task.opset}")
        return
    open_rank = [value.name for value in _with_shapes(model, task) if not value.type.tensor_type.HasField("shape")]
    if open_rank:
        name = open_rank[0]
        _refuse(folder, f"ONNX needs the rank of output {name}, which the model leaves open; give --input_shapes")
        return
    with open(os.path.join(folder, MODEL), "wb") as file:
        file.write(model.SerializeToString(deterministic=True))


def _refuse(folder: str, message: str) -> None:
    with open(os.path.join(folder, REFUSAL), "w", encoding="utf-8") as file:
        file.write(message)


def _converted(graph_def: GraphDef, task: Task) -> onnx.ModelProto:
    """Do what tf2onnx.convert.from_graph_def does, with tables."""
    tables = _tables(graph_def, task)
    inputs, outputs = list(task.inputs), list(task.outputs)
    graph_def = pruned(graph_def, [*inputs, *outputs])
    with tf.device("/cpu:0"):
        with tf.Graph().as_default():
            tf.import_graph_def(graph_def, name="")
            optimised = tf_loader.tf_optimize(inputs, outputs, graph_def)
        with tf.Graph().as_default() as graph:
            tf.import_graph_def(optimised, name="")
            converted = tf2onnx.tfonnx.process_tf_graph(
                graph,
                continue_on_error=True,
                opset=task.opset,
                input_names=inputs,
                output_names=outputs,
                tensors_to_rename={**task.inputs, **task.outputs},
                initialized_tables=tables,
            )
    model: onnx.ModelProto = optimizer.optimize_graph(converted).make_model("", graph_name="tf_bnfold")
    _order(model.graph.input, list(task.inputs.values()))
    _order(model.graph.output, list(task.outputs.values()))
    return model


def _order(values: Any, names: list[str]) -> None:
    """Put the inputs or outputs of a graph into this order."""
    by_name = {value.name: value for value in values}
    ordered = [onnx.ValueInfoProto.FromString(by_name[name].SerializeToString()) for name in names]
    del values[:]
    values.extend(ordered)


def _with_shapes(model: onnx.ModelProto, task: Task) -> list[onnx.ValueInfoProto]:
    """Say of outputs what the original says, where tf2onnx does not know their shape, and return them all."""
    values = list(model.graph.output)
    for value in values:
        tensor = value.type.tensor_type
        if not tensor.HasField("shape") and value.name in task.shapes:
            tensor.shape.SetInParent()
            for size in task.shapes[value.name]:
                dim = tensor.shape.dim.add()
                if size >= 0:
                    dim.dim_value = size
    return values


def _is_onnx(node: onnx.NodeProto, model: onnx.ModelProto) -> bool:
    opsets = {each.domain: each.version for each in model.opset_import}
    return bool(onnx.defs.has(node.op_type, opsets.get(node.domain, 1), node.domain))


def _tables(graph_def: GraphDef, task: Task) -> Tables:
    """Initialise the tables of a graph, name those that share no name, and read them."""
    handles = [node for node in graph_def.node if node.op == "HashTableV2"]
    for node in handles:
        node.attr["shared_name"].s = node.attr["shared_name"].s or node.name.encode()
    tables = {}
    with tf.Graph().as_default() as graph, tf.compat.v1.Session() as session:
        if not handles:
            return {}
        tf.import_graph_def(graph_def, name="")
        if task.init_op:
            session.run(task.init_op, dict(task.assets))
        for node in handles:
            dtypes = [tf.as_dtype(node.attr[name].type) for name in ("key_dtype", "value_dtype")]
            handle = graph.get_tensor_by_name(tensor_name(node.name))
            exported = tf.raw_ops.LookupTableExportV2(table_handle=handle, Tkeys=dtypes[0], Tvalues=dtypes[1])
            tables[node.attr["shared_name"].s] = tuple(session.run(exported))
    return tables
