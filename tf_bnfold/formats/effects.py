"""Which nodes do more than compute their outputs from their inputs."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from typing import Any

from tensorflow.core.framework import graph_pb2, node_def_pb2
from tensorflow.python.framework import op_def_registry

from tf_bnfold.formats.model import GraphDef, node_name
from tf_bnfold.formats.prune import function_names

V1_CONTROL_FLOW = frozenset({"Switch", "RefSwitch", "Merge", "RefMerge", "Enter", "RefEnter", "Exit", "RefExit"})

# Ops that TensorFlow calls stateful, although all they do is read (their order only matters beside a write, and
# variables that inference writes have their reads marked).
VARIABLE_READS = frozenset({"ReadVariableOp", "ResourceGather", "ResourceGatherNd", "VariableShape"})
# The mark of a read, an attribute: its place among the writes counts, as if it were one.
READS_STATE = "_reads_state"
_HANDLES = frozenset({"VarHandleOp", "VariableV2", "Variable", "Placeholder"})
# Stateful only on account of the functions that they call.
CALLS = frozenset({"StatefulPartitionedCall", "PartitionedCall"})
FUNCTIONAL = CALLS | {"While", "StatelessWhile", "If", "StatelessIf", "Case", "StatelessCase"}


def effectful_functions(library: Any) -> frozenset[str]:
    """Name the library functions that do more than compute: assign, draw random numbers, print, assert.

    A least fixed point over the call graph, so functions that call themselves are no trouble.
    """
    effectful: set[str] = set()
    callers: dict[str, set[str]] = {}
    for function in library.function:
        name = function.signature.name
        for node in function.node_def:
            for callee in function_names(node):
                callers.setdefault(callee, set()).add(name)
        if any(has_effect(node, ()) for node in function.node_def):
            effectful.add(name)
    pending = list(effectful)
    while pending:
        for caller in callers.get(pending.pop(), ()):
            if caller not in effectful:
                effectful.add(caller)
                pending.append(caller)
    return frozenset(effectful)


def has_effect(node: Any, effectful: Collection[str]) -> bool:
    """Tell whether a NodeDef does more than compute its outputs from its inputs, so that its place in time counts.

    Args:
      node: The node.
      effectful: The library functions that do, from `effectful_functions`.
    """
    if any(name in effectful for name in function_names(node)):
        return True
    if node.op in VARIABLE_READS:
        return READS_STATE in node.attr
    if node.op in _HANDLES or node.op in FUNCTIONAL:
        return False
    op_def = op_def_registry.get(node.op)
    return op_def is not None and bool(op_def.is_stateful)


def without_idle_waits(graph_def: GraphDef) -> GraphDef:
    """Return the graph without control inputs from nodes before which nothing has an effect, in functions too.

    Such an edge orders nothing, as in a function that waits for its reads of variables that are constants now; but it
    would hold on to these constants. A graph with control flow of TF1 keeps all, for there an edge also says whether a
    node runs at all.
    """
    result = without_idle_waits_in_functions(graph_def)
    _drop_idle_waits(result.node, effectful_functions(result.library))
    return result


def without_idle_waits_in_functions(graph_def: GraphDef) -> GraphDef:
    """Return the graph, the bodies of whose functions wait for nothing that has no effect; see `without_idle_waits`."""
    result = graph_pb2.GraphDef()
    result.CopyFrom(graph_def)
    effectful = effectful_functions(result.library)
    for function in result.library.function:
        after_effect = _drop_idle_waits(function.node_def, effectful)
        if after_effect is None:
            continue
        idle = [name for name, node in function.control_ret.items() if node not in after_effect]
        for name in idle:
            del function.control_ret[name]
        kept = [name for name in function.signature.control_output if name not in idle]
        function.signature.control_output[:] = kept
        _drop_unread_noops(function)
    return result


def _drop_idle_waits(nodes: Any, effectful: Collection[str]) -> set[str] | None:
    """Drop control inputs of the nodes of a graph, and name the nodes that come after an effect; None to keep all."""
    if any(node.op in V1_CONTROL_FLOW for node in nodes):
        return None
    readers: dict[str, list[str]] = {}
    for node in nodes:
        for value in node.input:
            readers.setdefault(node_name(value), []).append(node.name)
    after_effect = {node.name for node in nodes if has_effect(node, effectful)}
    pending = deque(after_effect)
    while pending:
        for reader in readers.get(pending.popleft(), ()):
            if reader not in after_effect:
                after_effect.add(reader)
                pending.append(reader)
    for node in nodes:
        kept = [value for value in node.input if not value.startswith("^") or value[1:] in after_effect]
        if len(kept) < len(node.input):
            node.input[:] = kept
    return after_effect


def _drop_unread_noops(function: Any) -> None:
    needed = {node_name(value) for node in function.node_def for value in node.input} | set(
        function.control_ret.values()
    )
    kept = [node for node in function.node_def if node.op != "NoOp" or node.name in needed]
    if len(kept) < len(function.node_def):
        copies = [node_def_pb2.NodeDef.FromString(node.SerializeToString()) for node in kept]
        function.ClearField("node_def")
        function.node_def.extend(copies)
