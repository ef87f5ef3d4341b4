"""How a graph uses its variables: which nodes carry a variable's handle, and which ops do more than read."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

from tensorflow.core.framework import graph_pb2
from tensorflow.python.framework import op_def_registry

from tf_bnfold.formats.effects import READS_STATE, VARIABLE_READS
from tf_bnfold.formats.model import GraphDef
from tf_bnfold.formats.prune import pruned

RESOURCE_VARIABLES = frozenset({"VarHandleOp"})
REF_VARIABLES = frozenset({"VariableV2", "Variable"})
VARIABLES = RESOURCE_VARIABLES | REF_VARIABLES

_SAME_INDEX = frozenset({"Identity", "IdentityN", "Enter", "Exit", "NextIteration", "While", "StatelessWhile"})
_ALL_OUTPUTS = {"Switch": 2, "Merge": 1}
# Op to the position of its first input that becomes an argument of its functions.
_FIRST_ARGUMENT = {
    "While": 0, "StatelessWhile": 0, "PartitionedCall": 0, "StatefulPartitionedCall": 0,
    "If": 1, "StatelessIf": 1, "Case": 1, "StatelessCase": 1,
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Use:
    """A node that takes a variable, and does not just hand it on.

    Attributes:
      variable: Name of the variable's node.
      node: Name of the node that uses it.
      op: Its op.
      function: The library function that the node is in, "" for the graph itself.
      reads: Whether all it does is read.
      is_marked: Whether it is a read of a variable that inference wrote when the model was read.
    """

    variable: str
    node: str
    op: str
    function: str
    reads: bool
    is_marked: bool = False


_Uses = dict[tuple[str, int], list[tuple[Any, int]]]  # (node or argument, output) to its readers and their input


def variable_writes(graph_def: GraphDef) -> Iterator[Use]:
    """Yield every use of a variable that is not known to be a mere read, in function bodies too."""
    return (use for use in variable_uses(graph_def) if not use.reads)


def variable_uses(graph_def: GraphDef) -> Iterator[Use]:
    """Yield every use of a variable, in function bodies too.

    The world is closed: an op that takes a variable's handle and is not known to read does not count as a read.
    """
    readers = _Readers(graph_def)
    for variable in graph_def.node:
        if variable.op in REF_VARIABLES:
            for node, position in readers.of("", variable.name, 0):
                yield Use(variable.name, node.name, node.op, "", reads=not _takes_reference(node, position))
        elif variable.op in RESOURCE_VARIABLES:
            yield from _handle_uses(variable.name, readers)


def state_variables(graph_def: GraphDef) -> frozenset[str]:
    """Name the resource variables that a graph does more than read, and other nodes for the same variables."""
    handles = {node.name: _identity(node) for node in graph_def.node if node.op in RESOURCE_VARIABLES}
    written = {handles[write.variable] for write in variable_writes(graph_def) if write.variable in handles}
    return frozenset(name for name, identity in handles.items() if identity in written)


def _identity(handle: Any) -> tuple[bytes, bytes]:
    """What is the same for nodes that stand for the same variable."""
    return handle.attr["container"].s, handle.attr["shared_name"].s or handle.name.encode()


def with_marked_reads(graph_def: GraphDef, outputs: Sequence[str]) -> GraphDef:
    """Mark the reads of variables that inference writes too, so that they stay in order with the writes.

    Args:
      graph_def: The graph; it is not changed.
      outputs: Names of nodes or tensors that inference fetches or feeds.

    Returns:
      The graph; the very one that was given where inference writes no variable.
    """
    state = state_variables(pruned(graph_def, outputs))
    if not state:
        return graph_def
    reads = {(use.function, use.node) for use in variable_uses(graph_def) if use.reads and use.variable in state}
    result = graph_pb2.GraphDef()
    result.CopyFrom(graph_def)
    scopes = [("", result.node), *((f.signature.name, f.node_def) for f in result.library.function)]
    for scope, nodes in scopes:
        for node in nodes:
            if (scope, node.name) in reads:
                node.attr[READS_STATE].b = True
    return result


class _Readers:
    """Who reads which output, in a graph ("" as scope) and in the bodies of its functions."""

    def __init__(self, graph_def: GraphDef) -> None:
        self.functions = {function.signature.name: function for function in graph_def.library.function}
        self._uses: dict[str, _Uses] = {"": _uses(graph_def.node)}

    def of(self, scope: str, producer: str, output: int) -> Sequence[tuple[Any, int]]:
        """Return the readers of an output, each with the position of its input."""
        if scope not in self._uses:
            self._uses[scope] = _uses(self.functions[scope].node_def)
        return self._uses[scope].get((producer, output), ())


def _handle_uses(variable: str, readers: _Readers) -> Iterator[Use]:
    """Follow a variable's handle to all that takes it."""
    seen = {("", variable, 0)}
    pending = list(seen)
    while pending:
        scope, producer, output = pending.pop()
        for node, position in readers.of(scope, producer, output):
            carriers = {(scope, node.name, index) for index in _carried(node, position)}
            carriers.update(
                (name, readers.functions[name].signature.input_arg[position - _FIRST_ARGUMENT[node.op]].name, 0)
                for name in _called(node, position)
                if name in readers.functions
            )
            if not carriers:
                reads, is_marked = node.op in VARIABLE_READS, READS_STATE in node.attr
                yield Use(variable, node.name, node.op, scope, reads=reads, is_marked=is_marked)
            pending += carriers - seen
            seen |= carriers


def _carried(node: Any, position: int) -> Iterator[int]:
    """Yield the outputs that hand on the handle which comes in at `position`."""
    if node.op in _SAME_INDEX:
        yield position
    yield from range(_ALL_OUTPUTS.get(node.op, 0))


def _called(node: Any, position: int) -> Iterator[str]:
    """Yield the functions that get the handle as an argument."""
    if position < _FIRST_ARGUMENT.get(node.op, position + 1):
        return
    for attr in node.attr.values():
        if attr.HasField("func"):
            yield attr.func.name
        elif attr.HasField("list"):
            yield from (function.name for function in attr.list.func)


def _uses(nodes: Any) -> _Uses:
    uses: _Uses = {}
    for node in nodes:
        for position, value in enumerate(node.input):
            if not value.startswith("^"):
                producer, _, output = value.partition(":")
                index = output.rpartition(":")[2]  # "0" of a graph's "node:0" and of a function's "node:output:0"
                uses.setdefault((producer, int(index or 0)), []).append((node, position))
    return uses


def _takes_reference(node: Any, position: int) -> bool:
    """Tell whether the op takes the input as a reference, through which it could write."""
    op_def = op_def_registry.get(node.op)
    if op_def is None:
        return True
    count = 0
    for argument in op_def.input_arg:
        if argument.number_attr:
            count += node.attr[argument.number_attr].i
        elif argument.type_list_attr:
            count += len(node.attr[argument.type_list_attr].list.type)
        else:
            count += 1
        if position < count:
            return bool(argument.is_ref)
    return True
