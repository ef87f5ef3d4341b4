"""Arguments of functions that are the same constant whenever the function is called.

A loop or branch gets the variables that its body reads as arguments, and freezing makes constants of these: each call
passes a Const. It is the argument's value in the body where every call passes that same Const, and where a While loop
hands it on unchanged from one turn to the next.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from tf_bnfold.graph.graph import GraphDef

# What the TFLite converter fuses by, whole: it looks for the mark, not into the body.
FUSED_MARKS = ("api_implements", "_implements")
# The other half of such a function computes its gradient, and gets what this one computes.
_GRADIENT_MARKS = ("forward_function_name", "backward_function_name")

# By op: its attributes that name functions, and the position of the first input that becomes an argument of these.
_CALLS = {
    "While": (("cond", "body"), 0),
    "StatelessWhile": (("cond", "body"), 0),
    "If": (("then_branch", "else_branch"), 1),
    "StatelessIf": (("then_branch", "else_branch"), 1),
    "Case": (("branches",), 1),
    "StatelessCase": (("branches",), 1),
    "PartitionedCall": (("f",), 0),
    "StatefulPartitionedCall": (("f",), 0),
}
_LOOPS = ("While", "StatelessWhile")


@dataclasses.dataclass(frozen=True)
class Call:
    """A node that calls functions with some of its inputs.

    Attributes:
      node: The node.
      scope: The function that it is in, "" for the main graph.
      functions: The functions that it calls, each once.
      body: The body of a loop, whose results are the arguments of the next turn; "" where it is no loop.
      first: Position of the first input that becomes an argument.
    """

    node: Any
    scope: str
    functions: tuple[str, ...]
    body: str
    first: int

    @property
    def arguments(self) -> tuple[str, ...]:
        """The inputs that become arguments, as the node names them."""
        return tuple(name for name in self.node.input if not name.startswith("^"))[self.first :]


def known_arguments(graph_def: GraphDef, fed: Iterable[str] = ()) -> dict[str, dict[str, Any]]:
    """Find the arguments that are the same constant in every call.

    Args:
      graph_def: The graph.
      fed: Names of nodes or tensors of the main graph whose value is not theirs.

    Returns:
      By function and argument: the Const (a NodeDef) that each call passes.
    """
    if not graph_def.library.function:
        return {}
    proof = _Proof(graph_def, {name.removeprefix("^").partition(":")[0] for name in fed})
    known: dict[str, dict[str, Any]] = {}
    for name, function in proof.functions.items():
        for position, argument in enumerate(function.signature.input_arg):
            if (constant := proof.argument(name, position)) is not None:
                known.setdefault(name, {})[argument.name] = constant
    return known


def calls(graph_def: GraphDef) -> dict[str, tuple[Call, ...]]:
    """Return the calls of each function whose calls are all known, so that these and the function may change together.

    Left out are functions that are named in another way too, that belong together with their gradient, or that the
    converter fuses whole.
    """
    functions = {function.signature.name: function for function in graph_def.library.function}
    opaque = {name for name, function in functions.items() if not _is_plain(function)}
    for gradient in graph_def.library.gradient:
        opaque |= {gradient.function_name, gradient.gradient_func}
    found: dict[str, list[Call]] = {name: [] for name in functions}  # in the order of the graph
    scopes = [("", graph_def.node), *((name, function.node_def) for name, function in functions.items())]
    for scope, nodes in scopes:
        for node in nodes:
            call, others = _call(node, scope)
            opaque |= others
            if call is not None:
                for name in found.keys() & set(call.functions):
                    found[name].append(call)
    return {name: tuple(each) for name, each in found.items() if each and name not in opaque}


def _is_plain(function: Any) -> bool:
    marked = any(mark in function.attr for mark in (*FUSED_MARKS, *_GRADIENT_MARKS))
    return not marked and not function.signature.attr


def _call(node: Any, scope: str) -> tuple[Call | None, set[str]]:
    """Return the call that a node is, or None, and the functions that it names in any other way."""
    roles, first = _CALLS.get(node.op, ((), 0))
    named = {
        attr: [value.func] if value.HasField("func") else list(value.list.func)
        for attr, value in node.attr.items()
        if value.HasField("func") or value.list.func
    }
    others = {function.name for attr, each in named.items() if attr not in roles for function in each}
    called = [function for role in roles for function in named.get(role, ())]
    others |= {node.op} | {function.name for function in called if function.attr}
    if not called:
        return None, others
    body = node.attr["body"].func.name if node.op in _LOOPS else ""
    return Call(node, scope, tuple(dict.fromkeys(function.name for function in called)), body, first), others


class _Proof:
    """What is known of arguments so far; nothing of one that is being looked at."""

    def __init__(self, graph_def: GraphDef, fed: set[str]) -> None:
        self.functions = {function.signature.name: function for function in graph_def.library.function}
        self._calls = calls(graph_def)
        self._fed = fed
        self._nodes: dict[str, dict[str, Any]] = {"": {node.name: node for node in graph_def.node}}
        self._known: dict[tuple[str, int], Any] = {}

    def argument(self, function: str, position: int) -> Any:
        """Return the Const that an argument is in every call, or None."""
        key = function, position
        if key not in self._known:
            self._known[key] = None  # for a function that calls itself
            self._known[key] = self._same_everywhere(function, position)
        return self._known[key]

    def _same_everywhere(self, function: str, position: int) -> Any:
        constant = None
        for call in self._calls.get(function, ()):
            arguments = call.arguments
            if position >= len(arguments) or (call.body and not self.is_handed_on(call.body, position)):
                return None
            passed = self._constant(call.scope, arguments[position])
            if passed is None or not (constant is None or _equal(passed, constant)):
                return None
            constant = passed
        return constant

    def is_handed_on(self, body: str, position: int) -> bool:
        """Tell whether a function returns an argument, unchanged, at the argument's own position."""
        signature = self.functions[body].signature if body in self.functions else None
        if signature is None or position >= min(len(signature.input_arg), len(signature.output_arg)):
            return False
        result = self.functions[body].ret[signature.output_arg[position].name]
        return self._origin(body, result) == str(signature.input_arg[position].name)

    def _constant(self, scope: str, tensor: str) -> Any:
        """Return the Const that a tensor is, or None."""
        name = self._origin(scope, tensor)
        node = self._scope(scope).get(name)
        if node is not None:
            return node if node.op == "Const" and not (scope == "" and name in self._fed) else None
        names = [argument.name for argument in self.functions[scope].signature.input_arg] if scope else []
        return self.argument(scope, names.index(name)) if name in names else None

    def _origin(self, scope: str, tensor: str) -> str:
        """Return the node or argument whose value a row of Identities hands on."""
        name, nodes = tensor.partition(":")[0], self._scope(scope)
        passed = set()
        while name in nodes and nodes[name].op == "Identity" and name not in passed:
            passed.add(name)
            if scope == "" and name in self._fed:
                break
            name = nodes[name].input[0].partition(":")[0]
        return name

    def _scope(self, scope: str) -> Mapping[str, Any]:
        if scope not in self._nodes:
            self._nodes[scope] = {node.name: node for node in self.functions[scope].node_def}
        return self._nodes[scope]


def loop_bodies(graph_def: GraphDef) -> frozenset[str]:
    """Name the functions that are the body of loops and nothing else: a known argument is the next turn's too."""
    return frozenset(name for name, each in calls(graph_def).items() if all(call.body == name for call in each))


def _equal(one: Any, other: Any) -> bool:
    return one is other or bool(one.attr["value"].tensor == other.attr["value"].tensor)
