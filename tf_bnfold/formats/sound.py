"""Refuse a graph that is broken, before anything relies on what a graph is.

Files come from elsewhere: they may be damaged, or made to do harm. Nothing here decodes a constant or allocates what a
graph only declares.
"""

from __future__ import annotations

import collections
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import tensorflow as tf
from tensorflow.core.framework import graph_pb2, node_def_pb2, types_pb2
from tensorflow.python.framework import op_def_registry

from tf_bnfold.errors import InputError
from tf_bnfold.formats.meta_graph import one_line
from tf_bnfold.formats.model import GraphDef, node_name
from tf_bnfold.formats.prune import function_names
from tf_bnfold.formats.quiet import quiet
from tf_bnfold.formats.sound_nodes import REFERENCE, node_problems
from tf_bnfold.formats.tensors import argument_dtypes, input_dtypes, output_dtypes

_NAME = re.compile(r"[A-Za-z0-9._][A-Za-z0-9._/>\\-]*")  # no less than what TensorFlow takes
_MOST_NODES = 1 << 20  # of a graph whose calls are inlined
_MOST_ELEMENTS = 1 << 36  # of a tensor whose shape is known before any run: no machine holds as many
_INFERRED_FROM = 1024  # bytes; TensorFlow infers no shapes from larger constants
_LOOP_BACK = frozenset({"NextIteration", "RefNextIteration"})

# Loading a model and verifying it runs it, and these would reach out of it.
_OUTSIDE = {
    re.compile(
        r"WriteFile|DumpTensor|(Merge)?Save.*|.*DatasetToTFRecord|Write\w*Summary|Create\w*Writer|ImportEvent"
    ): ("writes files"),
    re.compile(r"(Read|Matching)Files?|\w*Reader(V2)?|\w*(TextLine|TFRecord|LMDB|Sql|CSV|FixedLength)\w*Dataset\w*"): (
        "reads files"
    ),
    re.compile(r"(Eager)?PyFunc(Stateless)?"): "calls Python",
    re.compile(r"Rpc\w+|RemoteCall|DataService\w+|DistributedSave|FileSystemSetConfiguration"): "uses the network",
}


def refuse_wrong_names(graph_def: GraphDef, path: str) -> None:
    """Raise if two nodes or functions have one name, or one has a name that TensorFlow does not take.

    Raises:
      InputError: It names the node.
    """
    for what, names in _names(graph_def):
        for name, count in collections.Counter(names).items():
            if count > 1:
                raise InputError(f"{path} is damaged: {count} {what} have the name {name!r}")
            # A function may have any name that is text, such as "__inference_<lambda>_7".
            known = name.isprintable() and bool(name) if what == "functions" else _NAME.fullmatch(name)
            if not known:
                raise InputError(f"{path} is damaged: among its {what} is one with the name {name!r}")


def _names(graph_def: GraphDef) -> Iterator[tuple[str, Iterable[str]]]:
    yield "nodes", (node.name for node in graph_def.node)
    yield "functions", (function.signature.name for function in graph_def.library.function)
    for function in graph_def.library.function:
        names = (node.name for node in function.node_def)
        arguments = (argument.name for argument in function.signature.input_arg)
        yield f"nodes of function {function.signature.name}", (*names, *arguments)


def refuse_broken(graph_def: GraphDef, path: str) -> None:
    """Raise if the nodes do not fit together: edges, attributes, dtypes, sizes of constants, calls.

    Nodes whose op TensorFlow does not know are passed over.

    Args:
      graph_def: A graph without doubled names.
      path: The file, for the message.

    Raises:
      InputError: It names the node.
    """
    functions = {function.signature.name: function for function in graph_def.library.function}
    problem = next(_graph_problems(graph_def, functions), "")
    if problem:
        raise InputError(f"{path} is damaged: {problem}")
    size = _inlined_size(graph_def, functions, path)
    if size > _MOST_NODES:
        raise InputError(f"{path} is too large: its function calls stand for {size} nodes, more than {_MOST_NODES}")


def refuse_outside(graph_def: GraphDef, path: str) -> None:
    """Raise if running the graph would do more than compute: write a file, call Python, use the network.

    Raises:
      InputError: It names the node.
    """
    for nodes in (graph_def.node, *(function.node_def for function in graph_def.library.function)):
        for node in nodes:
            for ops, does in _OUTSIDE.items():
                if ops.fullmatch(node.op):
                    raise InputError(f"{path} does more than compute, and is not run: {node.op} {node.name} {does}")


def refuse_missing(graph_def: GraphDef, tensors: Iterable[str], nodes: Iterable[str], path: str) -> None:
    """Raise if a tensor or node that the SavedModel names is not in the graph.

    Raises:
      InputError: It names the tensor.
    """
    there = {node.name: node for node in graph_def.node}
    for name in nodes:
        if node_name(name) not in there:
            raise InputError(f"{path} is damaged: it names {name}, which its graph does not have")
    for tensor in tensors:
        name, _, index = tensor.partition(":")
        outputs = _outputs(there[name], in_function=False) if name in there else {}
        if not index.isdecimal() or (outputs is not None and index not in outputs):
            raise InputError(f"{path} is damaged: it names {tensor}, which its graph does not have")


def refuse_invalid(graph_def: GraphDef, path: str) -> None:
    """Raise if TensorFlow can not import the graph; it knows what the attributes and shapes of each op may be.

    Raises:
      InputError: It has TensorFlow's reason; or it names the node whose output no memory can hold.
    """
    slim = graph_pb2.GraphDef(versions=graph_def.versions, library=graph_def.library)
    slim.node.extend(_slim(node) for node in graph_def.node)
    with tf.Graph().as_default() as graph, quiet():
        try:
            tf.graph_util.import_graph_def(slim, name="")
        except (ValueError, TypeError, KeyError, tf.errors.OpError) as error:
            raise InputError(f"{path} is damaged: {one_line(error)}") from error
        for operation in graph.get_operations():
            for count in (tensor.shape.num_elements() for tensor in operation.outputs):
                if count is not None and count > _MOST_ELEMENTS:
                    what = f"{operation.type} {operation.name} gives {count} elements"
                    raise InputError(f"{path} is too large: {what}, more than {_MOST_ELEMENTS}")


def _slim(node: Any) -> Any:
    """Return a node, or for a large constant a placeholder of its shape."""
    if node.op != "Const" or node.ByteSize() <= _INFERRED_FROM:
        return node
    placeholder = node_def_pb2.NodeDef(name=node.name, op="Placeholder", device=node.device, input=node.input)
    placeholder.attr["dtype"].CopyFrom(node.attr["dtype"])
    placeholder.attr["shape"].shape.CopyFrom(node.attr["value"].tensor.tensor_shape)
    return placeholder


def _graph_problems(graph_def: GraphDef, functions: Mapping[str, Any]) -> Iterator[str]:
    yield from _scope_problems(graph_def.node, {}, functions, "", in_function=False)
    for name, function in functions.items():
        where = f" of function {name}"
        arguments = {argument.name: argument.type for argument in function.signature.input_arg}
        if function.signature.attr:  # type parameters, that each call fills in
            continue
        yield from _scope_problems(function.node_def, arguments, functions, where, in_function=True)
        for attributes in function.arg_attr.values():
            if len(attributes.attr["_output_shapes"].list.shape if "_output_shapes" in attributes.attr else ".") != 1:
                yield f"an argument{where} has not one shape"
        nodes = {node.name for node in function.node_def}
        for output in function.signature.output_arg:
            if node_name(function.ret.get(output.name, "")) not in nodes | {*arguments}:
                yield f"result {output.name}{where} is not in it"
        for control in function.control_ret.values():
            if control not in nodes:
                yield f"control output {control}{where} is not in it"


def _scope_problems(
    nodes: Sequence[Any], arguments: Mapping[str, int], functions: Mapping[str, Any], where: str, *, in_function: bool
) -> Iterator[str]:
    """Yield what is wrong with the nodes of a graph or of a function's body."""
    for node in nodes:
        yield from (f"{node.op} {node.name}{where} {problem}" for problem in node_problems(node, functions))
    outputs: dict[str, Mapping[str, int] | None] = {name: {"": dtype} for name, dtype in arguments.items()}
    outputs |= {node.name: _outputs(node, in_function=in_function) for node in nodes}
    for node in nodes:
        yield from (f"{node.op} {node.name}{where} {problem}" for problem in _edge_problems(node, outputs))
    stuck = _in_cycle(nodes)
    if stuck:
        yield f"{stuck}{where} stands in or behind a cycle that is no loop"


def _outputs(node: Any, *, in_function: bool) -> Mapping[str, int] | None:
    """Return the dtype of each output by how an input spells it behind the node's name, None where that is not known.

    In a graph that is "" or the number, in a function the name of the output argument and a number within it.
    """
    op_def = op_def_registry.get(node.op)
    if op_def is None:
        return None
    if not in_function:
        dtypes = output_dtypes(node)
        numbered = {str(index): dtype for index, dtype in enumerate(dtypes)}
        return numbered | ({"": dtypes[0]} if dtypes else {})
    return {
        f"{argument.name}:{index}": dtype
        for argument in op_def.output_arg
        for index, dtype in enumerate(argument_dtypes(node, argument))
    }


def _edge_problems(node: Any, outputs: Mapping[str, Mapping[str, int] | None]) -> Iterator[str]:
    """Yield what is wrong with the inputs of a node."""
    data = [value for value in node.input if not value.startswith("^")]
    if any(value.startswith("^") for value in node.input[: len(data)]):
        yield "has a control input before a data input"
    for value in node.input:
        if node_name(value) not in outputs:
            yield f"reads {value!r}, which is not in the graph"
            return
    if op_def_registry.get(node.op) is None:
        return
    expected = input_dtypes(node)
    if len(data) != len(expected):
        yield f"has {len(data)} inputs instead of {len(expected)}"
        return
    for value, dtype in zip(data, expected, strict=True):
        name, _, output = value.partition(":")
        there = outputs[name]
        if there is None:
            continue
        if output not in there:
            yield f"reads {value!r}, which that op does not have"
        elif there[output] % REFERENCE != dtype % REFERENCE:
            yield f"reads {value!r} of dtype {_dtype(there[output])} as {_dtype(dtype)}"


def _dtype(dtype: int) -> str:
    return str(types_pb2.DataType.Name(dtype)).removeprefix("DT_").lower()


def _in_cycle(nodes: Sequence[Any]) -> str:
    """Name a node that waits for itself, "" if there is none."""
    by_name = {node.name: node for node in nodes}
    waits: dict[str, int] = {}
    readers: dict[str, list[str]] = {}
    for node in nodes:
        producers = [name for name in map(node_name, node.input) if name in by_name]
        ahead = [name for name in producers if by_name[name].op not in _LOOP_BACK]
        waits[node.name] = len(ahead)
        for name in ahead:
            readers.setdefault(name, []).append(node.name)
    ready = [name for name, count in waits.items() if count == 0]
    while ready:
        for reader in readers.get(ready.pop(), ()):
            waits[reader] -= 1
            if waits[reader] == 0:
                ready.append(reader)
    return next((name for name, count in waits.items() if count > 0), "")


def _inlined_size(graph_def: GraphDef, functions: Mapping[str, Any], path: str) -> int:
    """Count the nodes that there are once every call is replaced by its body.

    Raises:
      InputError: If a function calls itself.
    """
    if not functions:
        return len(graph_def.node)
    callees = {
        name: [called for node in function.node_def for called in function_names(node) if called in functions]
        for name, function in functions.items()
    }
    order: list[str] = []  # callees first
    waits = {name: len(called) for name, called in callees.items()}
    callers: dict[str, list[str]] = {}
    for name, called in callees.items():
        for callee in called:
            callers.setdefault(callee, []).append(name)
    ready = [name for name, count in waits.items() if count == 0]
    while ready:
        order.append(ready.pop())
        for caller in callers.get(order[-1], ()):
            waits[caller] -= 1
            if waits[caller] == 0:
                ready.append(caller)
    if len(order) < len(functions):
        name = next(name for name, count in waits.items() if count > 0)
        raise InputError(f"{path} can't be converted: its function {name!r} calls itself, which TFLite does not know")
    sizes: dict[str, int] = {}
    for name in order:
        sizes[name] = len(functions[name].node_def) + sum(sizes[callee] for callee in callees[name])
    called_first = (name for node in graph_def.node for name in function_names(node))
    return len(graph_def.node) + sum(sizes.get(name, 0) for name in called_first)
