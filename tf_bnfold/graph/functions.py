"""Bodies of library functions as GraphDefs, and back.

A FunctionDef names a tensor "node:output_arg:index" and an argument by its name; a GraphDef "node:index", and an
argument is a Placeholder.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import tensorflow as tf
from tensorflow.core.framework import function_pb2, graph_pb2
from tensorflow.python.framework import function_def_to_graph, op_def_registry

from tf_bnfold.graph.graph import GraphDef
from tf_bnfold.graph.invariants import FUSED_MARKS, known_arguments, loop_bodies
from tf_bnfold.graph.reads import needed_elsewhere


@dataclasses.dataclass(frozen=True)
class Body:
    """The body of a function as a graph.

    Attributes:
      graph_def: The body; its arguments are placeholders, or Consts where they are the same constant in every call.
      results: The tensors that it returns, in the order of the signature.
      effects: The nodes that a call runs, whatever it reads.
      handed_on: The results, among these, that are a loop's known arguments for the next turn.
      shared: The known arguments whose constant stays, whatever becomes of this body.
    """

    graph_def: GraphDef
    results: tuple[str, ...]
    effects: tuple[str, ...]
    handed_on: frozenset[str] = frozenset()
    shared: frozenset[str] = frozenset()

    def outputs(self) -> list[str]:
        """What must keep its name and value."""
        results = (result for result in self.results if result not in self.handed_on)
        return [*results, *self.effects, *sorted(self.shared)]


def bodies(graph_def: GraphDef, fed: Iterable[str] = ()) -> Iterator[tuple[Any, Body]]:
    """The functions of a library whose bodies are graphs of their own, each with its body.

    Left out are functions that the converter fuses whole, and those with type parameters.

    Args:
      graph_def: The graph.
      fed: Names of nodes or tensors of the main graph whose value is not theirs.
    """
    functions = [f for f in graph_def.library.function if _has_own_body(f)]
    if not functions:
        return
    known, loops = known_arguments(graph_def, fed), loop_bodies(graph_def)
    shared = needed_elsewhere(graph_def, known)
    with tf.Graph().as_default():
        library = graph_pb2.GraphDef(library=graph_def.library, versions=graph_def.versions)
        try:
            tf.graph_util.import_graph_def(library, name="")
        except (ValueError, tf.errors.OpError):
            return  # a library that TensorFlow does not take: the bodies stay as they are
        for function in functions:
            name = function.signature.name
            if (body := _body(function, known.get(name, {}), is_loop=name in loops)) is not None:
                yield function, dataclasses.replace(body, shared=shared.get(name, frozenset()))


def _has_own_body(function: Any) -> bool:
    known = all(op_def_registry.get(node.op) is not None for node in function.node_def)  # no calls of the old form
    return known and not function.signature.attr and not any(mark in function.attr for mark in FUSED_MARKS)


def _body(function: Any, known: Mapping[str, Any], *, is_loop: bool) -> Body | None:
    try:
        flat, names = function_def_to_graph.function_def_to_graph_def(function)
    except (ValueError, KeyError, IndexError, tf.errors.OpError):
        return None  # an op or function that is not known here
    results = tuple(names[function.ret[arg.name]] for arg in function.signature.output_arg)
    effects = tuple(function.control_ret.values())
    _set_known(flat, known)
    if not (is_loop and known):
        return Body(flat, results, effects)
    arguments = [arg.name for arg in function.signature.input_arg]
    handed_on = {results[place]: name for place, name in enumerate(arguments) if name in known}
    _drop_identities(flat, handed_on, {*results, *effects} - handed_on.keys())
    return Body(
        flat, tuple(handed_on.get(result, result) for result in results), effects, frozenset(handed_on.values())
    )


def _set_known(flat: Any, known: Mapping[str, Any]) -> None:
    """Put Consts in the place of the arguments that are known."""
    for node in flat.node:
        if node.name in known:
            name = node.name
            node.CopyFrom(known[name])
            node.name = name
            del node.input[:]  # what the call's constant waits for is not here
            node.attr.pop("_class", None)


def _drop_identities(flat: Any, names: Iterable[str], kept: set[str]) -> None:
    """Drop the Identities by which results come from arguments, where nothing else reads them."""
    nodes = {node.name: node for node in flat.node}
    readers = collections.Counter(_node_name(value) for node in flat.node for value in node.input)
    readers.update(map(_node_name, kept))
    pending = list(map(_node_name, names))
    while pending:
        name = pending.pop()
        if name in nodes and nodes[name].op == "Identity" and len(nodes[name].input) == 1 and not readers[name]:
            source = _node_name(nodes.pop(name).input[0])
            readers[source] -= 1
            pending.append(source)
    if len(nodes) < len(flat.node):
        copy = graph_pb2.GraphDef(node=nodes.values())
        flat.ClearField("node")
        flat.node.extend(copy.node)


def _node_name(value: str) -> str:
    return value.removeprefix("^").partition(":")[0]


def with_body(function: Any, body: Body, graph_def: GraphDef) -> Any:
    """The function with another body, of which `body`'s results and effects still have their names.

    Returns:
      A new FunctionDef.
    """
    result = function_pb2.FunctionDef()
    result.CopyFrom(function)
    arguments = {arg.name for arg in function.signature.input_arg}
    nodes = {node.name: node for node in graph_def.node}
    del result.node_def[:]
    for node in graph_def.node:
        if node.name in arguments:
            continue
        copy = result.node_def.add()
        copy.CopyFrom(node)
        copy.input[:] = [_nested(name, nodes, arguments) for name in node.input]
    for arg, tensor in zip(function.signature.output_arg, body.results, strict=True):
        result.ret[arg.name] = _nested(tensor, nodes, arguments)
    return result


def _nested(name: str, nodes: dict[str, Any], arguments: set[str]) -> str:
    if name.startswith("^"):
        return name
    node_name, _, index = name.partition(":")
    if node_name in arguments:
        return node_name
    return f"{node_name}:{_output(nodes[node_name], int(index or 0))}"


def _output(node: Any, index: int) -> str:
    """The name of an output within its node, as "output_arg:index"."""
    definition = op_def_registry.get(node.op)
    for arg in definition.output_arg:
        length = 1
        if arg.number_attr:
            length = int(node.attr[arg.number_attr].i)
        elif arg.type_list_attr:
            length = len(node.attr[arg.type_list_attr].list.type)
        if index < length:
            return f"{arg.name}:{index}"
        index -= length
    raise ValueError(f"node {node.name!r}: {node.op} has no output {index}")
