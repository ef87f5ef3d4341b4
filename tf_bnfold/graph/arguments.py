"""Take out arguments of functions that a fold left unread: the constants that calls pass for them would stay.

A loop returns what it takes, so an output of it goes with each argument. Where that moves other outputs, the loop gets
a new name: a name that survives keeps its values.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from tf_bnfold.graph.graph import GraphDef
from tf_bnfold.graph.invariants import Call
from tf_bnfold.graph.reads import arguments_read, ends_of_function, node_name, nodes_of, readers_of, sole_calls

_INPUT_LISTS = ("T", "Tin")  # attributes with an entry for each argument
_HANDED_ON = ("Const", "Identity")


def drop_unread_arguments(
    graph_def: GraphDef, read: Mapping[str, Collection[str]], outputs: Iterable[str] | None, inputs: Iterable[str] = ()
) -> None:
    """Take out arguments that functions do not read any more, in place, with the constants that only they needed.

    Args:
      graph_def: The graph.
      read: The arguments that each function read once, from `read_arguments`; others stay, read or not.
      outputs: Names of nodes or tensors of the main graph that keep their name and value; None for those that nothing
        reads.
      inputs: Names of nodes or tensors of the main graph that are fed.
    """
    fetched = _ends(graph_def) if outputs is None else {node_name(name) for name in outputs}
    fetched |= {node_name(name) for name in inputs}
    while True:  # what an outer loop hands on to an inner one is unread only when the inner one lost it
        found = ((call, _unread(graph_def, call, read, fetched)) for call in sole_calls(graph_def))
        call, places = next(((call, places) for call, places in found if places), (None, []))
        if call is None:
            return
        _take_out(graph_def, call, places, fetched)


def _unread(
    graph_def: GraphDef, call: Call, was_read: Mapping[str, Collection[str]], fetched: Collection[str]
) -> list[int]:
    """List the places of the arguments of a call that can go."""
    functions = [f for f in graph_def.library.function if f.signature.name in call.functions]
    number = len(call.arguments)
    once, now = set[int](), set[int]()
    for function in functions:
        names, read = [argument.name for argument in function.signature.input_arg], arguments_read(function)
        once |= {place for place, name in enumerate(names) if name in was_read.get(function.signature.name, ())}
        now |= {place for place, name in enumerate(names) if name in read}
    places = sorted(once - now)
    if not (call.body and places):
        return places
    used = _used_outputs(nodes_of(graph_def, call.scope), call.node.name) | _returned(graph_def, call)
    places = [place for place in places if place not in used]
    moves = bool(places) and places[0] < number - len(places)
    is_fetched = call.scope == "" and call.node.name in fetched
    return [] if is_fetched or (moves and _is_colocated(graph_def, call)) else places


def _take_out(graph_def: GraphDef, call: Call, places: Sequence[int], fetched: Collection[str]) -> None:
    node, lost = call.node, [call.arguments[place] for place in places]
    number = len(call.arguments)
    positions = [call.first + place for place in places]
    node.input[:] = [value for position, value in enumerate(node.input) if position not in positions]
    for attr in _INPUT_LISTS:
        if attr in node.attr:
            _without(node.attr[attr].list.type, places, number)
    if "_read_only_resource_inputs" in node.attr:
        held = node.attr["_read_only_resource_inputs"].list.i
        held[:] = [_moved(place, positions) for place in held if place not in positions]
    for function in graph_def.library.function:
        if function.signature.name in call.functions:
            _take_out_of_function(function, places, is_body=function.signature.name == call.body)
    if call.body:
        _take_out_of_loop(graph_def, call, places, number)
    _drop_unread(graph_def, call.scope, map(node_name, lost), fetched)


def _take_out_of_function(function: Any, places: Sequence[int], *, is_body: bool) -> None:
    number = len(function.signature.input_arg)
    _without(function.signature.input_arg, places, number)
    if "_input_shapes" in function.attr:
        _without(function.attr["_input_shapes"].list.shape, places, number)
    for numbered in (function.arg_attr, function.resource_arg_unique_id):
        _renumber(numbered, places)
    if is_body:
        for place in places:
            del function.ret[function.signature.output_arg[place].name]
        _without(function.signature.output_arg, places, number)


def _take_out_of_loop(graph_def: GraphDef, call: Call, places: Sequence[int], number: int) -> None:
    """Take out outputs of a loop; where others move, give it a new name and let its readers follow."""
    node, old = call.node, call.node.name
    for attr in ("output_shapes", "_output_shapes"):
        if attr in node.attr:
            _without(node.attr[attr].list.shape, places, number)
    if "_num_original_outputs" in node.attr:
        node.attr["_num_original_outputs"].i -= len(places)
    if places[0] == number - len(places):
        return
    nodes = nodes_of(graph_def, call.scope)
    node.name = _unused(f"{old}/folded", {each.name for each in nodes} | _argument_names(graph_def, call.scope))
    for each in nodes:
        if any(node_name(value) == old for value in each.input):
            each.input[:] = [_redirected(value, old, node.name, places) for value in each.input]
    for ends in ends_of_function(graph_def, call.scope):
        for name, value in ends.items():
            ends[name] = _redirected(value, old, node.name, places)


def _redirected(value: str, old: str, new: str, places: Sequence[int]) -> str:
    """A reader's name of an output of a loop: "^loop", "loop", "loop:3", or in a function "loop:output:3"."""
    if node_name(value) != old:
        return value
    if value.startswith("^"):
        return f"^{new}"
    inner = value.removeprefix(old).rpartition(":")[0]  # ":output" in a function
    moved = _moved(_index(value), places)
    return f"{new}{inner}:{moved}" if inner or moved else new


def _moved(place: int, gone: Sequence[int]) -> int:
    return place - sum(each < place for each in gone)


def _without(field: Any, places: Sequence[int], number: int) -> None:
    """Take entries out of a repeated field that has one for each argument."""
    if len(field) == number:
        for place in reversed(places):
            del field[place]


def _renumber(numbered: Any, places: Sequence[int]) -> None:
    """Take entries out of a map by number of argument, and number the others anew."""
    kept = {_moved(place, places): value for place, value in numbered.items() if place not in places}
    copies = {place: type(value)() if hasattr(value, "CopyFrom") else value for place, value in kept.items()}
    for place, value in kept.items():
        if hasattr(value, "CopyFrom"):
            copies[place].CopyFrom(value)
    numbered.clear()
    for place, value in copies.items():
        if hasattr(value, "CopyFrom"):
            numbered[place].CopyFrom(value)
        else:
            numbered[place] = value


def _drop_unread(graph_def: GraphDef, scope: str, names: Iterable[str], fetched: Collection[str]) -> None:
    """Drop constants, and what hands them on, that nothing needs any more."""
    nodes = nodes_of(graph_def, scope)
    by_name = {node.name: node for node in nodes}
    readers = readers_of(graph_def, scope)
    if scope == "":
        readers.update(fetched)
    pending, gone = list(names), set[str]()
    while pending:
        node = by_name.get(pending.pop())
        if node is None or node.op not in _HANDED_ON or node.name in gone or readers[node.name]:
            continue
        gone.add(node.name)
        readers.subtract(map(node_name, node.input))
        pending += map(node_name, node.input)
    for place in reversed(range(len(nodes))):
        if nodes[place].name in gone:
            del nodes[place]


def _used_outputs(nodes: Iterable[Any], name: str) -> set[int]:
    values = (value for node in nodes for value in node.input)
    return {_index(value) for value in values if not value.startswith("^") and node_name(value) == name}


def _returned(graph_def: GraphDef, call: Call) -> set[int]:
    """The outputs of a loop that the function which it is in returns."""
    values = [value for ends in ends_of_function(graph_def, call.scope) for value in ends.values()]
    return {_index(value) for value in values if node_name(value) == call.node.name}


def _index(value: str) -> int:
    return int(value.rpartition(":")[2]) if ":" in value else 0


def _is_colocated(graph_def: GraphDef, call: Call) -> bool:
    group = f"loc:@{call.node.name}".encode()
    return any(group in node.attr["_class"].list.s for node in nodes_of(graph_def, call.scope) if "_class" in node.attr)


def _argument_names(graph_def: GraphDef, scope: str) -> set[str]:
    return {a.name for f in graph_def.library.function if f.signature.name == scope for a in f.signature.input_arg}


def _ends(graph_def: GraphDef) -> set[str]:
    read = {node_name(value) for node in graph_def.node for value in node.input}
    return {node.name for node in graph_def.node if node.name not in read}


def _unused(name: str, taken: Collection[str]) -> str:
    number, candidate = 0, name
    while candidate in taken:
        number += 1
        candidate = f"{name}_{number}"
    return candidate
