"""Give the variables that inference writes the values from which it starts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tensorflow.core.framework import graph_pb2, node_def_pb2

from tf_bnfold.formats.model import GraphDef
from tf_bnfold.formats.tensors import unused


def with_initial_values(graph_def: GraphDef, init_op: str, values: Mapping[str, Any]) -> tuple[GraphDef, str]:
    """Let the init op assign variables their initial values, as constants of the graph.

    Args:
      graph_def: The graph; it is not changed.
      init_op: The node that initialises tables, "" if there is none.
      values: TensorProto by variable (a VarHandleOp).

    Returns:
      The graph, and its init op; the very ones that were given where there is no variable.
    """
    if not values:
        return graph_def, init_op
    result = graph_pb2.GraphDef()
    result.CopyFrom(graph_def)
    taken = {node.name for node in result.node}
    for node in result.node:
        if node.name in values and not node.attr["shared_name"].s:
            node.attr["shared_name"].s = node.name.encode()  # what it is called by in the graph, wherever that goes
    init = node_def_pb2.NodeDef(name=unused("initial_state", taken), op="NoOp")
    init.input.extend([f"^{init_op}"] if init_op else [])
    for name, value in values.items():
        constant = result.node.add(name=unused(f"{name}/initial_value", taken), op="Const")
        constant.attr["dtype"].type = value.dtype
        constant.attr["value"].tensor.CopyFrom(value)
        assign = result.node.add(name=unused(f"{name}/initialize", taken), op="AssignVariableOp")
        assign.input.extend([name, constant.name])
        assign.attr["dtype"].type = value.dtype
        init.input.append(f"^{assign.name}")
    result.node.append(init)
    return result, init.name
