"""Put constants in the place of variables that nothing writes; those that inference writes stay, as its state."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Sequence
from typing import Any

import tensorflow as tf
from tensorflow.core.framework import graph_pb2, node_def_pb2, types_pb2
from tensorflow.python.framework import convert_to_constants, tensor_util
from tensorflow.python.ops import gen_resource_variable_ops

from tf_bnfold.errors import InputError
from tf_bnfold.formats.effects import FUNCTIONAL, without_idle_waits
from tf_bnfold.formats.model import GraphDef, node_name
from tf_bnfold.formats.prune import function_names, pruned
from tf_bnfold.formats.quiet import quiet
from tf_bnfold.formats.state import with_initial_values
from tf_bnfold.formats.variables import (
    REF_VARIABLES,
    RESOURCE_VARIABLES,
    VARIABLES,
    state_variables,
    variable_uses,
    variable_writes,
)

_LIMIT = 2**31 - 1  # bytes that a protocol buffer, and so a GraphDef, can hold
_READ_THEN = {"ResourceGather": "GatherV2", "ResourceGatherNd": "GatherNd", "VariableShape": "Shape"}


@dataclasses.dataclass(frozen=True)
class Frozen:
    """A graph whose variables are constants, but for its state.

    Attributes:
      graph_def: What the outputs and the init op need.
      init_op: The node that initialises tables and state, "" if there is none.
      state: Names of the variables that inference writes.
    """

    graph_def: GraphDef
    init_op: str
    state: tuple[str, ...] = ()


def freeze_variables(session: Any, graph_def: GraphDef, outputs: Sequence[str], init_op: str) -> Frozen:
    """Replace the variables that the outputs and the init op read by constants of their values in the session.

    A variable that inference writes stays one; the init op assigns it its value in the session.

    Args:
      session: A session over `graph_def` in which the variables have their values. Reads are added to its graph.
      graph_def: The graph.
      outputs: Names of nodes or tensors that inference fetches or feeds.
      init_op: The node that initialises tables, "" if there is none. A variable that it assigns stays one when only the
        init op reads it (TF2 hands the path of an asset on in this way); else its constant is the value assigned.

    Returns:
      The graph, with its init op.

    Raises:
      InputError: If inference writes a reference variable, or a variable has no value.
    """
    inference = pruned(graph_def, outputs)
    refuse_reference_writes(inference)
    state = state_variables(inference)
    graph = pruned(graph_def, [*outputs, init_op])
    read = {node.name for node in inference.node}
    assigned = {write.variable for write in variable_writes(graph)}
    variables = [
        node
        for node in graph.node
        if node.op in VARIABLES and node.name not in state and (node.name in read or node.name not in assigned)
    ]
    graph = _without_assignments(graph, init_op, {node.name for node in variables} | state)
    values = _values(session, [node for node in graph.node if node.name in state])
    if variables:
        graph = _with_constants(session, graph, [*outputs, init_op], variables)
    graph, init_op = with_initial_values(graph, init_op, values)
    return Frozen(pruned(without_idle_waits(graph), [*outputs, init_op]), init_op, tuple(values))


def _with_constants(session: Any, graph: GraphDef, outputs: Sequence[str], variables: Sequence[Any]) -> GraphDef:
    _refuse_too_large(variables)
    graph = _with_plain_reads(graph, {node.name for node in variables})
    _add_reads(session.graph, variables)
    try:
        with quiet():
            frozen = convert_to_constants.convert_variables_to_constants_from_session_graph(
                session,
                graph,
                [node_name(output) for output in outputs if output],
                variable_names_allowlist=[node.name for node in variables],
            )
    except tf.errors.FailedPreconditionError as error:
        raise _no_value([node.name for node in variables], error) from error
    _refuse_other_shapes(frozen, variables)
    _name_functions(frozen)
    _drop_shapes_of_handles(frozen)
    return frozen


def _no_value(variables: Sequence[str], error: tf.errors.OpError) -> InputError:
    names = sorted(name for name in variables if re.search(rf"\b{re.escape(name)}\b", error.message))
    return InputError(f"variable {', '.join(names) or '?'} has no value in the checkpoint of the SavedModel")


def _values(session: Any, variables: Sequence[Any]) -> dict[str, Any]:
    """Return the values of variables in the session, as TensorProtos by name."""
    if not variables:
        return {}
    _add_reads(session.graph, variables)
    reads = {node.name: session.graph.get_tensor_by_name(f"{node.name}/Read/ReadVariableOp:0") for node in variables}
    try:
        values = session.run(reads)
    except tf.errors.FailedPreconditionError as error:
        raise _no_value(list(reads), error) from error
    return {
        node.name: tensor_util.make_tensor_proto(values[node.name], dtype=node.attr["dtype"].type) for node in variables
    }


def refuse_reference_writes(graph_def: GraphDef) -> None:
    """Raise if the graph does more than read a reference variable, as only TF1 has them.

    Raises:
      InputError: It names the variable and the op.
    """
    references = {node.name for node in graph_def.node if node.op in REF_VARIABLES}
    for write in variable_writes(graph_def):
        if write.variable in references:
            raise InputError(
                f"variable {write.variable} is not only read: {write.op} {write.node} may change it, so it can not "
                "become a constant; export the model for inference, or choose by --signature_keys those that only read"
            )


def _refuse_too_large(variables: Sequence[Any]) -> None:
    size = 0
    for node in variables:
        dims = [dim.size for dim in node.attr["shape"].shape.dim]
        size += int(tf.TensorShape(dims if min(dims, default=0) >= 0 else []).num_elements() or 0) * int(
            tf.as_dtype(node.attr["dtype"].type).size
        )
    if size > _LIMIT:
        raise InputError(
            f"the variables hold {size} bytes, more than the {_LIMIT} that a graph with constants can hold; "
            "save the model in parts"
        )


def _refuse_other_shapes(frozen: GraphDef, variables: Sequence[Any]) -> None:
    """Raise if the value of a variable has not the variable's shape, as in the checkpoint of another model."""
    declared = {node.name: tf.TensorShape(node.attr["shape"].shape) for node in variables}
    for node in frozen.node:
        if node.op == "Const" and node.name in declared:
            found = tf.TensorShape(node.attr["value"].tensor.tensor_shape)
            if not declared[node.name].is_compatible_with(found):
                raise InputError(
                    f"variable {node.name} has shape {declared[node.name]}, but its value in the checkpoint {found}: "
                    "the variables are those of another model"
                )


def _without_assignments(graph_def: GraphDef, init_op: str, variables: set[str]) -> GraphDef:
    """Take out of the init op what it assigned to these variables."""
    result = graph_pb2.GraphDef()
    result.CopyFrom(graph_def)
    nodes = {node.name: node for node in result.node}
    for write in variable_writes(pruned(graph_def, [init_op] if init_op else [])):
        if write.variable not in variables:
            continue
        if write.function:
            raise InputError(
                f"variable {write.variable} is assigned by {write.op} {write.node} of function {write.function}, which "
                "the init op calls; save the model with the variable's value in its checkpoint"
            )
        _make_idle(nodes[write.node], write.variable, is_reference=nodes[write.variable].op in REF_VARIABLES)
    return result


def _make_idle(node: Any, variable: str, *, is_reference: bool) -> None:
    """Let an assignment only hand on the variable, as a reference does, or do nothing."""
    idle = node_def_pb2.NodeDef(name=node.name, op="Identity" if is_reference else "NoOp", device=node.device)
    if is_reference:
        idle.input.append(variable)
        idle.attr["T"].CopyFrom(node.attr["T"])
    idle.input.extend(value for value in node.input if value.startswith("^"))
    node.CopyFrom(idle)


def _with_plain_reads(graph_def: GraphDef, names: Collection[str]) -> GraphDef:
    """Spell gathers and shapes of variables as a read and the plain op: TensorFlow freezes only these in functions."""
    variables = {
        node.name: node.attr["dtype"].type
        for node in graph_def.node
        if node.op in RESOURCE_VARIABLES and node.name in names
    }
    dtypes = {
        (use.function, use.node): variables[use.variable]
        for use in variable_uses(graph_def)
        if use.op in _READ_THEN and use.variable in variables
    }
    result = graph_pb2.GraphDef(versions=graph_def.versions)
    result.node.extend(new for node in graph_def.node for new in _plain_read(node, dtypes.get(("", node.name)), "", ""))
    result.library.CopyFrom(graph_def.library)
    for function in result.library.function:
        scope = function.signature.name
        nodes = [
            new
            for node in function.node_def
            for new in _plain_read(node, dtypes.get((scope, node.name)), ":value:0", ":output:0")
        ]
        function.ClearField("node_def")
        function.node_def.extend(nodes)
    return result


def _plain_read(node: Any, dtype: int | None, value: str, output: str) -> list[Any]:
    """Return the nodes for one node that reads a variable of this dtype, or for another if that is None.

    `value` and `output` end the names of tensors; they are empty in a graph.
    """
    if dtype is None:
        return [node]
    read = node_def_pb2.NodeDef(name=f"{node.name}/Read", op="ReadVariableOp", device=node.device)
    read.input.append(node.input[0])
    read.attr["dtype"].type = dtype
    plain = node_def_pb2.NodeDef(name=node.name, op=_READ_THEN[node.op], device=node.device)
    plain.input.append(read.name + value)
    plain.input.extend(node.input[1:])
    if node.op == "VariableShape":
        plain.attr["T"].type = dtype
        plain.attr["out_type"].CopyFrom(node.attr["out_type"])
        return [read, plain]
    plain.attr["Tparams"].type = dtype
    plain.attr["Tindices"].CopyFrom(node.attr["Tindices"])
    if node.op == "ResourceGatherNd":
        return [read, plain]
    batch_dims = node.attr["batch_dims"].i if "batch_dims" in node.attr else 0
    axis = node_def_pb2.NodeDef(name=f"{node.name}/axis", op="Const", device=node.device)
    axis.attr["dtype"].type = types_pb2.DT_INT32
    axis.attr["value"].tensor.CopyFrom(tensor_util.make_tensor_proto(batch_dims, dtype=tf.int32, shape=[]))
    plain.input.insert(2, axis.name + output)
    plain.attr["Taxis"].type = types_pb2.DT_INT32
    plain.attr["batch_dims"].i = batch_dims
    return [read, axis, plain]


def _add_reads(graph: Any, variables: Sequence[Any]) -> None:
    """Add the reads by which TensorFlow's freezing looks up values: `<variable>/Read/ReadVariableOp`."""
    present = {operation.name for operation in graph.get_operations()}
    with graph.as_default():
        for node in variables:
            name = f"{node.name}/Read/ReadVariableOp"
            if node.op not in RESOURCE_VARIABLES or name in present:
                continue
            handle = graph.get_tensor_by_name(f"{node.name}:0")
            gen_resource_variable_ops.read_variable_op(handle, tf.as_dtype(node.attr["dtype"].type), name=name)


def _name_functions(graph_def: GraphDef) -> None:
    """Number the functions that freezing renamed from 0: it takes the numbers from a counter of the process."""
    numbered = {}
    for function in graph_def.library.function:
        match = re.fullmatch(r"(.*_frozen_)(\d+)", function.signature.name)
        if match:
            numbered[int(match[2])] = (function.signature.name, match[1])
    names = {old: f"{base}{rank}" for rank, (_, (old, base)) in enumerate(sorted(numbered.items()))}
    for function in graph_def.library.function:
        function.signature.name = names.get(function.signature.name, function.signature.name)
    bodies = (function.node_def for function in graph_def.library.function)
    for nodes in (graph_def.node, *bodies):
        for node in nodes:
            if names.keys().isdisjoint(function_names(node)):
                continue
            for attr in node.attr.values():
                for function in [attr.func] if attr.HasField("func") else attr.list.func:
                    function.name = names.get(function.name, function.name)


def _drop_shapes_of_handles(graph_def: GraphDef) -> None:
    """Drop the noted output shapes of loops and branches, which still have handles where constants go through now."""
    bodies = (function.node_def for function in graph_def.library.function)
    for nodes in (graph_def.node, *bodies):
        for node in nodes:
            if node.op in FUNCTIONAL and "_output_shapes" in node.attr:
                del node.attr["_output_shapes"]
