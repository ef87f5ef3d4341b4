"""Replace function calls by the bodies of the functions, so that one flat graph is left to look at.

Grappler's function optimizer does this too, but it also specialises the calls that stay, names what it makes after its
own internals, and lowers control flow unless every node says otherwise. Here what stays, and the names, must be known.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from typing import Any

import tensorflow as tf
from tensorflow.core.framework import graph_pb2, node_def_pb2
from tensorflow.python.framework import function_def_to_graph

from tf_bnfold.formats.effects import CALLS, V1_CONTROL_FLOW, VARIABLE_READS, effectful_functions, has_effect
from tf_bnfold.formats.model import GraphDef, node_name
from tf_bnfold.formats.prune import called_functions, keep_functions
from tf_bnfold.graph.invariants import FUSED_MARKS


@dataclasses.dataclass(frozen=True)
class _Body:
    """A function as nodes of a graph."""

    nodes: tuple[Any, ...]  # NodeDefs, inputs in the form of a GraphDef
    arguments: tuple[str, ...]  # node names of the arguments, which are not among the nodes
    results: tuple[str, ...]  # tensors, or names of arguments
    effects: tuple[str, ...]  # nodes that a caller must run, whatever it reads


def inline_calls(graph_def: GraphDef) -> GraphDef:
    """Replace calls of library functions by their bodies, nested calls too.

    Nodes of a body are named `<call>/<node>`, made unique. The call itself becomes an Identity (IdentityN for several
    outputs, NoOp for none) with the same name, so whoever fetches it finds it; other nodes read the body's tensors
    directly unless the body has effects. Control inputs of the call go to the nodes of the body that have effects, and
    the Identity has control inputs from those, so their order is kept.

    A call stays when its function carries a mark that the TFLite converter fuses by (`api_implements`, `_implements`),
    or `_noinline` (without jit_compile, which sets it too: the converter inlines such a function), calls itself, has
    type parameters or control flow of TF1; and when the graph that holds the call has control flow of TF1. Functions
    that While, If and Case name stay functions.

    Args:
      graph_def: A graph with its function library; it is not changed.

    Returns:
      A new GraphDef, whose library has only the functions that are still named.
    """
    if any(node.op in V1_CONTROL_FLOW for node in graph_def.node):
        return graph_def
    bodies = _bodies(graph_def)
    effectful = effectful_functions(graph_def.library)
    result = graph_pb2.GraphDef(versions=graph_def.versions)
    redirects: dict[str, str] = {}
    taken = {node.name for node in graph_def.node}
    pending = list(reversed(graph_def.node))
    while pending:
        node = pending.pop()
        body = bodies.get(_callee(node))
        if body is None:
            result.node.add().CopyFrom(node)
            continue
        names = _unique_names(node.name, body, taken)
        inner, identity = _expanded(node, body, names, effectful)
        given = [value for value in node.input if not value.startswith("^")]
        redirects.update((f"{names[name]}:0", value) for name, value in zip(body.arguments, given, strict=True))
        if not any(value.startswith("^") for value in identity.input):
            redirects.update((f"{node.name}:{i}", tensor) for i, tensor in enumerate(identity.input))
        pending.append(identity)
        pending.extend(reversed(inner))
    for node in result.node:
        _redirect(node, redirects)
    keep_functions(result, graph_def.library, called_functions(result.node, graph_def.library))
    return result


def _callee(node: Any) -> str:
    """Name the function that a node calls, "" if it is no call."""
    return str(node.attr["f"].func.name) if node.op in CALLS else ""


def _bodies(graph_def: GraphDef) -> dict[str, _Body]:
    """Make the bodies of all functions that may be inlined."""
    library = graph_def.library
    reachable = called_functions(graph_def.node, library)
    calls = {function.signature.name: set(map(_callee, function.node_def)) for function in library.function}
    candidates = [
        function
        for function in library.function
        if function.signature.name in reachable and _may_be_inlined(function) and not _calls_itself(function, calls)
    ]
    effectful = effectful_functions(library)
    with tf.Graph().as_default():
        tf.graph_util.import_graph_def(graph_pb2.GraphDef(library=library, versions=graph_def.versions), name="")
        return {function.signature.name: _body(function, effectful) for function in candidates}


def _may_be_inlined(function: Any) -> bool:
    if any(mark in function.attr for mark in FUSED_MARKS):
        return False
    if _has(function, "_noinline") and not _has(function, "_XlaMustCompile"):
        return False  # the user asked for it; jit_compile=True sets it too, and says no more than how to run the body
    if function.signature.attr:  # type parameters, which each call would have to fill in
        return False
    return not any(node.op in V1_CONTROL_FLOW for node in function.node_def)


def _has(function: Any, mark: str) -> bool:
    return mark in function.attr and bool(function.attr[mark].b)


def _calls_itself(function: Any, calls: Mapping[str, set[str]]) -> bool:
    start = function.signature.name
    seen: set[str] = set()
    pending = list(calls[start])
    while pending:
        name = pending.pop()
        if name == start:
            return True
        if name not in seen:
            seen.add(name)
            pending += calls.get(name, ())
    return False


def _body(function: Any, effectful: frozenset[str]) -> _Body:
    flat, flat_names = function_def_to_graph.function_def_to_graph_def(function)
    arguments = tuple(argument.name for argument in function.signature.input_arg)
    nodes = tuple(flat.node)[len(arguments) :]
    must_run = set(function.control_ret.values())
    return _Body(
        nodes=nodes,
        arguments=arguments,
        results=tuple(flat_names[function.ret[result.name]] for result in function.signature.output_arg),
        effects=tuple(node.name for node in nodes if _has_to_run(node, must_run, effectful)),
    )


def _has_to_run(node: Any, must_run: set[str], effectful: frozenset[str]) -> bool:
    """Tell whether a call runs the node even where no result needs it; functions of TF1 do not say (no `must_run`)."""
    if node.op in VARIABLE_READS | CALLS and not has_effect(node, effectful):
        return False
    return node.name in must_run if must_run else has_effect(node, effectful)


def _unique_names(call: str, body: _Body, taken: set[str]) -> dict[str, str]:
    """Choose the names in the graph of the body's nodes and arguments, and add them to those that are taken."""
    names = {}
    for local in (*body.arguments, *(node.name for node in body.nodes)):
        candidates = itertools.chain([f"{call}/{local}"], (f"{call}/{local}_{count}" for count in itertools.count(1)))
        names[local] = next(name for name in candidates if name not in taken)
        taken.add(names[local])
    return names


def _expanded(call: Any, body: _Body, names: Mapping[str, str], effectful: frozenset[str]) -> tuple[list[Any], Any]:
    """Return the renamed nodes of the body, and the Identity that takes the place of the call."""
    controls = [value for value in call.input if value.startswith("^")]
    inner = []
    for node in body.nodes:
        copy = node_def_pb2.NodeDef()
        copy.CopyFrom(node)
        copy.name = names[node.name]
        copy.input[:] = [_renamed(value, names) for value in node.input]
        if has_effect(node, effectful):
            copy.input.extend(control for control in controls if control not in copy.input)
        if "_class" in copy.attr:
            groups = copy.attr["_class"].list.s
            groups[:] = [_renamed_group(group, names) for group in groups]
        inner.append(copy)

    types = list(call.attr["Tout"].list.type)
    op = {0: "NoOp", 1: "Identity"}.get(len(types), "IdentityN")
    identity = node_def_pb2.NodeDef(name=call.name, op=op, device=call.device)
    identity.input.extend(_renamed(result, names) for result in body.results)
    identity.input.extend(f"^{names[name]}" for name in body.effects)
    if not body.effects:
        identity.input.extend(controls)
    if op == "Identity":
        identity.attr["T"].type = types[0]
    elif op == "IdentityN":
        identity.attr["T"].list.type.extend(types)
    if "_output_shapes" in call.attr:
        identity.attr["_output_shapes"].CopyFrom(call.attr["_output_shapes"])
    return inner, identity


def _renamed(value: str, names: Mapping[str, str]) -> str:
    """Rename the node in an input or tensor name."""
    mark = "^" if value.startswith("^") else ""
    node, colon, index = value.removeprefix("^").partition(":")
    return f"{mark}{names[node]}{colon}{index}"


def _renamed_group(group: bytes, names: Mapping[str, str]) -> bytes:
    """Rename the node in an entry of `_class`, for instance b"loc:@node"."""
    kind, _, name = group.decode().partition("@")
    return f"{kind}@{names[name]}".encode() if name in names else group


def _redirect(node: Any, redirects: dict[str, str]) -> None:
    """Let a node read the body's tensors, and the caller's in place of arguments, which control inputs may name too."""
    data: list[str] = []
    controls: list[str] = []
    for value in node.input:
        if value.startswith("^"):
            producer = _resolve(f"{value[1:]}:0", redirects) if f"{value[1:]}:0" in redirects else value[1:]
            controls.append(f"^{node_name(producer)}")
        else:
            data.append(_resolve(value if ":" in value else f"{value}:0", redirects))
    node.input[:] = [tensor.removesuffix(":0") for tensor in data] + list(dict.fromkeys(controls))


def _resolve(tensor: str, redirects: dict[str, str]) -> str:
    """Follow the redirects to the end, and shorten them to it."""
    passed = []
    while tensor in redirects:
        passed.append(tensor)
        target = redirects[tensor]
        tensor = target if ":" in target else f"{target}:0"
    redirects.update(dict.fromkeys(passed, tensor))
    return tensor
