"""What is to be said of one node: what it is, what folding did to it or by way of it, and what would have to change."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterator, Mapping, Sequence

from tf_bnfold.errors import InputError
from tf_bnfold.graph.ops import Op
from tf_bnfold.outcome import Kind, Outcome, Status
from tf_bnfold.reasons import Refusal
from tf_bnfold.report import Explanation, Result

KINDS = {Kind.BATCH_NORM: "batch norm", Kind.AFFINE: "per-channel op by a constant"}
_FOLDED = {
    Status.UP: "Folded up, into {sinks} before it.",
    Status.DOWN: "Folded down, into {sinks} behind it.",
    Status.HALVES: "Folded in halves, the scale one way and the offset the other, into {sinks}.",
    Status.PARTLY: "Folded in part: one half went into {sinks}, the other stays as one op.",
}
_SHOWN = 6  # names in a sentence
_NEAR = 5  # names that an unknown one may have meant


@dataclasses.dataclass(frozen=True)
class Network:
    """The ops of a graph with what folding did to them.

    Attributes:
      result: What was folded.
      ops: The ops of the graph before folding.
    """

    result: Result
    ops: tuple[Op, ...]
    _by_place: Mapping[tuple[str, str], Op] = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_by_place", {(op.function, op.name): op for op in self.ops})

    def find(self, name: str, function: str) -> Op | None:
        """Return the op of a name."""
        return self._by_place.get((function, name))

    def names(self, names: Sequence[str], function: str) -> str:
        """Return names with their ops, for a sentence."""
        found = [(name, self.find(name, function)) for name in names[:_SHOWN]]
        shown = ", ".join(f"{name} ({op.op})" if op else name for name, op in found)
        return f"{shown} and {len(names) - _SHOWN} more" if len(names) > _SHOWN else shown


def explain(names: Sequence[str], network: Network) -> tuple[Explanation, ...]:
    """Explain nodes.

    Args:
      names: Names of nodes, or of tensors ("node:0").
      network: The graph that they are in.

    Returns:
      One explanation for each, more for a name that is in several functions.

    Raises:
      InputError: There is no node of a name; the error tells near ones.
    """
    return tuple(explanation for name in names for explanation in _explained(name, network))


def _explained(name: str, network: Network) -> Iterator[Explanation]:
    node = name.removeprefix("^").partition(":")[0]
    found = [op for op in network.ops if op.name == node]
    if not found:
        near = _near(node, network)
        hint = f"did you mean {', '.join(near)}?" if near else "the report names those that concern batch norms"
        raise InputError(f"--explain={name}: the graph has no node of that name; {hint}")
    for op in found:
        yield Explanation(op.name, op.op, op.function, tuple(_facts(op, network)))


def _near(node: str, network: Network) -> list[str]:
    """Return names that a user may have meant: of sites first, then those that hold the text, then those alike."""
    names = list(dict.fromkeys(op.name for op in network.ops if not op.constant))
    sites = {outcome.name for outcome in network.result.outcomes}
    holding = sorted((name for name in names if node.lower() in name.lower()), key=lambda name: name not in sites)
    short = {name.rpartition("/")[2]: name for name in names}
    alike = difflib.get_close_matches(node, names, n=_NEAR) + [
        short[each] for each in difflib.get_close_matches(node.rpartition("/")[2], short, n=_NEAR)
    ]
    return list(dict.fromkeys(holding + alike))[:_NEAR]


def _facts(op: Op, network: Network) -> Iterator[str]:
    outcomes = [outcome for outcome in network.result.outcomes if outcome.function == op.function]
    own = [outcome for outcome in outcomes if op.name in outcome.nodes]
    for outcome in own:
        yield from site_facts(outcome, network, node=op.name)
    others = list(_parts(op, [outcome for outcome in outcomes if op.name not in outcome.nodes], network))
    yield from others
    if op.constant:
        readers = [other.name for other in network.ops if op.name in other.inputs and other.function == op.function]
        read = f"read by {network.names(readers, op.function)}" if readers else "read by nothing"
        yield f"A constant, or computed from constants alone; {read}."
    elif not own and not others:
        yield "No batch norm and no per-channel op by a constant. Nothing was folded into it, and nothing passed it."
    if op.inputs and not op.constant:
        yield f"It reads {network.names(op.inputs, op.function)}."
    yield (
        "The folded graph has a node of this name, with the same value."
        if op.survives
        else "The folded graph has no node of this name."
    )


def _parts(op: Op, outcomes: Sequence[Outcome], network: Network) -> Iterator[str]:
    """Yield what a node that is no site did for the sites around it."""
    took = [outcome.name for outcome in outcomes if op.name in outcome.sinks]
    passed = [outcome for outcome in outcomes if op.name in outcome.route]
    stopped = [o for o in outcomes if o.refusal and any(op.name == way.node for way in ways(o.refusal))]
    if took:
        yield f"It took what was folded: {network.names(took, op.function)}."
        for sink in network.result.sinks:
            if (sink.name, sink.function) == (op.name, op.function):
                yield (
                    f"The ranges of its {sink.channels} channels, largest to median, were {sink.before:.3g} and are "
                    f"{sink.after:.3g} now."
                )
    for outcome in passed[:_SHOWN]:
        yield f"{outcome.name} passed it on its way into {network.names(outcome.sinks, op.function)}."
    for outcome in stopped[:_SHOWN]:
        yield f"It stopped {outcome.name}. " + " ".join(
            _way(way, network, op.function)
            for way in ways(outcome.refusal)  # type: ignore[arg-type]  # those without were left out
            if way.node == op.name
        )


def ways(refusal: Refusal) -> tuple[Refusal, ...]:
    """Return what stopped each way that was looked into."""
    return refusal.ways or (refusal,)


def site_facts(outcome: Outcome, network: Network, node: str = "", *, remedies: bool = True) -> Iterator[str]:
    """Yield sentences on a batch norm or affine: what it is, what became of it, why, and what would help.

    Args:
      outcome: What became of it.
      network: The graph that it is in.
      node: The node that was asked about, where that may be another one than the last of it.
      remedies: Whether to say what would help.
    """
    channels = "1 channel" if outcome.channels == 1 else f"{outcome.channels} channels"
    part = f"Part of {outcome.name}, a" if node not in ("", outcome.name) else "A"
    nodes = f": {', '.join(outcome.nodes)}" if len(outcome.nodes) > 1 else ""
    yield f"{part} {KINDS[outcome.kind]} of {channels}, {outcome.form}{nodes}."
    if outcome.status is Status.KEPT:
        yield "Not folded."
    else:
        yield _FOLDED[outcome.status].format(sinks=network.names(outcome.sinks, outcome.function))
    if outcome.route:
        yield f"On the way it passed {network.names(outcome.route, outcome.function)}."
    if outcome.refusal is None:
        return
    sides = ("Before it: ", "Behind it: ") if outcome.refusal.ways else ("",)
    for side, way in zip(sides, ways(outcome.refusal), strict=True):
        yield side + _way(way, network, outcome.function, remedies=remedies)


def _way(way: Refusal, network: Network, function: str, *, remedies: bool = True) -> str:
    detail = f" ({way.detail})" if way.detail else ""
    at = f" at {network.names([way.node], function)}"
    text = f"{way.reason.value}{detail}, {way.reason.name}{at}."
    return f"{text} What would help: {way.reason.remedy}." if remedies else text
