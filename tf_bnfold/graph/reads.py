"""What reads the arguments of functions, and the constants that calls pass for them."""

from __future__ import annotations

import collections
import functools
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from tf_bnfold.graph.graph import GraphDef
from tf_bnfold.graph.invariants import Call, calls


def read_arguments(graph_def: GraphDef) -> dict[str, frozenset[str]]:
    """Name by function the arguments that its body reads; handing one on to the next turn of a loop does not count."""
    return {function.signature.name: arguments_read(function) for function in graph_def.library.function}


def arguments_read(function: Any) -> frozenset[str]:
    """Name the arguments that a body reads; handing one on to the next turn of a loop does not count."""
    readers = collections.Counter(node_name(value) for node in function.node_def for value in node.input)
    readers.update(map(node_name, (*function.ret.values(), *function.control_ret.values())))
    readers.subtract(_handed_on(function))
    return frozenset(argument.name for argument in function.signature.input_arg if readers[argument.name] > 0)


def _handed_on(function: Any) -> frozenset[str]:
    """Name the arguments that a function returns at their own place, and by Identities that nothing else reads."""
    nodes = {node.name: node for node in function.node_def}
    readers = collections.Counter(node_name(value) for node in function.node_def for value in node.input)
    readers.update(map(node_name, (*function.ret.values(), *function.control_ret.values())))
    found = set()
    for argument, result in zip(function.signature.input_arg, function.signature.output_arg, strict=False):
        name = node_name(function.ret[result.name])
        while name in nodes and nodes[name].op == "Identity" and len(nodes[name].input) == 1 and readers[name] == 1:
            name = node_name(nodes[name].input[0])
        if name == argument.name:
            found.add(name)
    return frozenset(found)


def needed_elsewhere(graph_def: GraphDef, known: Mapping[str, Collection[str]]) -> dict[str, frozenset[str]]:
    """Name by function those of its known arguments whose constant stays in the graph, whatever this body does with it.

    Others read it, or hand it on: another branch, another call, nodes beside the call.
    """
    places = _Places(graph_def)
    return {
        name: frozenset(argument for argument in arguments if not places.are_sole(name, argument))
        for name, arguments in known.items()
    }


class _Places:
    """Where the constants of arguments are needed."""

    def __init__(self, graph_def: GraphDef) -> None:
        self._functions = {function.signature.name: function for function in graph_def.library.function}
        self._sole = {name: call for call in sole_calls(graph_def) for name in call.functions}
        self._nodes = functools.cache(lambda scope: {node.name: node for node in nodes_of(graph_def, scope)})
        self._readers = functools.cache(lambda scope: readers_of(graph_def, scope))

    def are_sole(self, name: str, argument: str) -> bool:
        """Tell whether a function is all that needs the constant of its argument."""
        while name in self._sole:
            call = self._sole[name]
            place = [each.name for each in self._functions[name].signature.input_arg].index(argument)
            others = [self._functions[other] for other in call.functions if other != name]
            if any(other.signature.input_arg[place].name in arguments_read(other) for other in others):
                return False
            nodes, readers = self._nodes(call.scope), self._readers(call.scope)
            value = node_name(call.arguments[place])
            while value in nodes and readers[value] == 1 and nodes[value].op == "Identity":
                value = node_name(nodes[value].input[0])
            handed_on = call.scope != "" and value in _handed_on(self._functions[call.scope])
            if value in nodes or readers[value] - handed_on > 1:
                return bool(readers[value] == 1)
            name, argument = call.scope, value
        return False


def readers_of(graph_def: GraphDef, scope: str) -> collections.Counter[str]:
    """Count the readers of each node or argument of a graph or function, its results among them."""
    values = [value for node in nodes_of(graph_def, scope) for value in node.input]
    values += [value for ends in ends_of_function(graph_def, scope) for value in ends.values()]
    return collections.Counter(map(node_name, values))


def sole_calls(graph_def: GraphDef) -> list[Call]:
    """List the calls all of whose functions are called by them alone."""
    by_function = calls(graph_def)
    sole = [each[0] for each in by_function.values() if len(each) == 1]
    return [call for call in sole if all(len(by_function.get(name, ())) == 1 for name in call.functions)]


def nodes_of(graph_def: GraphDef, scope: str) -> Any:
    """Return the nodes of a function, or with "" those of the main graph."""
    if scope == "":
        return graph_def.node
    return next(function.node_def for function in graph_def.library.function if function.signature.name == scope)


def ends_of_function(graph_def: GraphDef, scope: str) -> Iterator[Any]:
    """Yield the maps of a function to what it returns and to what it runs; none for the main graph."""
    for function in graph_def.library.function:
        if function.signature.name == scope:
            yield from (function.ret, function.control_ret)


def node_name(value: str) -> str:
    """Return the node or argument that an input names."""
    return value.removeprefix("^").partition(":")[0]
