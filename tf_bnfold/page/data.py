"""What the scripts of the page get, in the terms of JSON."""

from __future__ import annotations

import collections
import dataclasses
import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Any

from tf_bnfold.explain import Network, site_facts, ways
from tf_bnfold.outcome import Outcome
from tf_bnfold.ranges import advice, change, is_grown
from tf_bnfold.reasons import Reason
from tf_bnfold.report import Measurement, Report, Sink

_ALIKE = 3  # names, of which a common prefix is worth leaving out
_FEWEST = 8  # tensors that are worth a plot
_POINTS = 1500  # of a plot; of more, the largest of each stretch are shown


@dataclasses.dataclass(frozen=True)
class Row:
    """A batch norm or affine in the table of all.

    Attributes:
      outcome: What became of it.
      facts: Sentences on it, without what would help.
      reasons: Names of the reasons for which it stayed.
    """

    outcome: Outcome
    facts: tuple[str, ...]
    reasons: tuple[str, ...]


def rows(network: Network) -> list[Row]:
    """List the batch norms and affines, in the order of the graph."""
    return [
        Row(
            outcome,
            tuple(site_facts(outcome, network, remedies=False)),
            tuple(dict.fromkeys(way.reason.name for way in ways(outcome.refusal))) if outcome.refusal else (),
        )
        for outcome in network.result.outcomes
    ]


def reasons(network: Network) -> list[tuple[Reason, int]]:
    """List the reasons for which batch norms and affines stayed, with how many it kept, the most frequent first."""
    found = [outcome.refusal for outcome in network.result.outcomes if outcome.refusal]
    return collections.Counter(
        reason for refusal in found for reason in dict.fromkeys(way.reason for way in ways(refusal))
    ).most_common()


def prefix_of(network: Network) -> str:
    """Return the scopes that all batch norms, affines and what they went into are in, with a slash, "" for none."""
    names = {name for each in network.result.outcomes for name in (each.name, *each.sinks, *each.route)}
    if len(names) < _ALIKE:
        return ""
    ends = [name.split("/")[:-1] for name in (min(names), max(names))]
    same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(*ends, strict=False))
    return "".join(f"{scope}/" for scope, _ in same)


def data(report: Report, network: Network) -> dict[str, Any]:
    """Return the graph, the sites by the index of their ops, and what is plotted."""
    named = {(each.function, name) for each in network.result.outcomes for name in (*each.nodes, *_ends(each))}
    shown = [op for op in network.ops if not op.constant or (op.function, op.name) in named]
    index = {(op.function, op.name): number for number, op in enumerate(shown)}

    def places(names: Iterable[str], function: str) -> list[int]:
        return [index[function, name] for name in names if (function, name) in index]

    return {
        "ops": [[op.name, op.op, op.function, places(op.inputs, op.function), int(op.survives)] for op in shown],
        "sites": [
            {
                "name": row.outcome.name,
                "function": row.outcome.function,
                "status": row.outcome.status.value,
                "facts": list(site_facts(row.outcome, network)),
                "nodes": places(row.outcome.nodes, row.outcome.function),
                "sinks": places(row.outcome.sinks, row.outcome.function),
                "route": places(row.outcome.route, row.outcome.function),
                "stopped": places(_stops(row.outcome), row.outcome.function),
            }
            for row in rows(network)
        ],
        "sinks": [_sink(sink, report.result.outcomes) for sink in _most_changed(report.result.sinks)],
        "errors": [_errors(each, network) for each in report.run.measurements if len(each.errors) >= _FEWEST],
    }


def _stops(outcome: Outcome) -> list[str]:
    return [way.node for way in ways(outcome.refusal)] if outcome.refusal else []


def _ends(outcome: Outcome) -> list[str]:
    return [*outcome.sinks, *outcome.route, *_stops(outcome)]


def _most_changed(sinks: Sequence[Sink]) -> list[Sink]:
    detailed = [sink for sink in sinks if sink.ranges]
    return sorted(detailed, key=change, reverse=True)


def _sink(sink: Sink, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    return {
        "name": sink.name,
        "op": sink.op,
        "before": _short(sink.before),
        "after": _short(sink.after),
        "warn": is_grown(sink),
        "advice": advice(sink, outcomes),
        "ranges": [[_short(value) for value in ranges] for ranges in sink.ranges],
    }


def _errors(measurement: Measurement, network: Network) -> dict[str, Any]:
    """Return the errors in the order of the graph, without constants that are as before.

    Those of outputs, which have other names, come as they are.
    """
    places = {op.name: number for number, op in enumerate(network.ops) if not op.function}
    constants = {op.name for op in network.ops if op.constant and not op.function}
    found = [(name, error) for name, error in measurement.errors.items() if error or _node(name) not in constants]
    ordered = sorted(found, key=lambda point: places.get(_node(point[0]), -1))
    points = [(name, _short(error)) for name, error in _thinned(ordered)]
    return {
        "compared": measurement.compared,
        "limit": measurement.limit,
        "tensors": len(ordered),
        "points": points,
    }


def _node(tensor: str) -> str:
    return tensor.rpartition(":")[0]


def _thinned(points: Sequence[tuple[str, float]]) -> list[tuple[str, float]]:
    """Keep the largest of each stretch, of all that are more than a plot can show."""
    step = max(1, math.ceil(len(points) / _POINTS))
    return [max(points[start : start + step], key=lambda item: item[1]) for start in range(0, len(points), step)]


def _short(number: float) -> float | None:
    """Return a number with four digits; JSON has none that is not finite."""
    return float(f"{number:.4g}") if math.isfinite(number) else None
