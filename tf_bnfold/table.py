"""The report as text for a terminal."""

from __future__ import annotations

import collections
import itertools
import math
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence

from tf_bnfold.compare import Changes, Site
from tf_bnfold.outcome import Copied, Kind, Outcome, Status
from tf_bnfold.report import Explanation, Measurement, OutputQuality, Report, Result, counts

_WORDS = {
    Status.UP: "folded into ops before them",
    Status.DOWN: "folded into ops behind them",
    Status.HALVES: "folded with scale and offset apart",
    Status.PARTLY: "folded in part",
    Status.KEPT: "kept",
}
_REMEDIES = 3
_BOLD, _GREEN, _YELLOW = "1", "1;32", "1;33"
_SHOWN = 10  # sites per reason, and op types that changed; the report file has them all


def table(report: Report, *, width: int, colour: bool) -> str:
    """Return the report as text.

    Args:
      report: What to show.
      width: Columns of the terminal; long node names are never cut and may reach beyond.
      colour: Whether to use terminal colours.
    """
    result = report.result
    blocks = [
        _summary(result, colour=colour),
        *_unfolded(result, width),
        _sizes(result, width),
        *([_list("GPU delegate", result.gpu.lines(), width)] if result.gpu else []),
        _checked(report.run.measurements, width),
        *([_list("Notes", result.notes, width)] if result.notes else []),
        _end(report),
    ]
    return "\n\n".join(block for block in blocks if block)


def _summary(result: Result, *, colour: bool) -> str:
    norms, affines = result.of_kind(Kind.BATCH_NORM), result.of_kind(Kind.AFFINE)
    done = norms and not result.unfolded()
    head = f"{_count(len(norms), 'batch norm')}: {_statuses(norms)}." if norms else "No batch norm found."
    lines = [_styled(head, _GREEN if done else _YELLOW, colour=colour)]
    if affines:
        noun = _count(len(affines), "other per-channel op")
        lines.append(f"{noun} (Mul, Add, ... by a constant): {_statuses(affines)}.")
    return "\n".join(lines)


def _count(number: int, noun: str) -> str:
    return _plural(number, noun, f"{noun}s")


def _plural(number: int, one: str, more: str) -> str:
    return f"{number} {one if number == 1 else more}"


def _statuses(outcomes: tuple[Outcome, ...]) -> str:
    by_status = counts(outcomes)
    parts = [(by_status[status.value], words) for status, words in _WORDS.items() if by_status[status.value]]
    return f"all {parts[0][1]}" if len(parts) == 1 else ", ".join(f"{number} {words}" for number, words in parts)


def _unfolded(result: Result, width: int) -> Iterator[str]:
    """Yield a block per reason: what it means, the batch norms that stayed for it, and what would help."""
    left = sorted(result.unfolded(), key=_reason)  # stable: graph order within a reason
    for reason, group in itertools.groupby(left, key=_reason):
        outcomes = list(group)
        refusal = outcomes[0].refusal
        text = refusal.reason.value if refusal else "no reason given"
        lines = _wrapped(f"{len(outcomes)} not folded: {text} ({reason})", width, first="", rest="  ")
        for outcome in outcomes[:_SHOWN]:
            lines += _stayed(outcome, width)
        if len(outcomes) > _SHOWN:
            lines.append(f"  ... and {len(outcomes) - _SHOWN} more; --report FILE.json has them all")
        if refusal:
            lines += _wrapped(f"What helps: {_remedies(outcomes)}.", width, first="  ", rest="    ")
        yield "\n".join(lines)


def _remedies(outcomes: Sequence[Outcome]) -> str:
    """Return what helps, on the way up or else on the way down, the most frequent first."""
    refusals = [outcome.refusal for outcome in outcomes if outcome.refusal]
    ways = [way.reason.remedy for refusal in refusals for way in refusal.ways or (refusal,)]
    return "; or ".join(remedy for remedy, _ in collections.Counter(ways).most_common(_REMEDIES))


def _reason(outcome: Outcome) -> str:
    return outcome.refusal.reason.name if outcome.refusal else ""


def _stayed(outcome: Outcome, width: int) -> list[str]:
    facts = [f"{outcome.form}, {_count(outcome.channels, 'channel')}"]
    if outcome.function:
        facts.append(f"in function {outcome.function}")
    if outcome.status is Status.PARTLY:
        facts.append(f"the other half went into {', '.join(outcome.sinks)}")
    if outcome.refusal:
        detail = f" ({outcome.refusal.detail})" if outcome.refusal.detail else ""
        facts.append(f"look at {outcome.refusal.node}{detail}")
    return [f"  {outcome.name}", *_wrapped("; ".join(facts), width, first=" " * 6, rest=" " * 6)]


def _sizes(result: Result, width: int) -> str:
    before, after = result.before, result.after
    changed = [op for op in sorted({*before.ops, *after.ops}) if before.ops.get(op, 0) != after.ops.get(op, 0)]
    rows = [("Graph", "before", "after"), ("ops", f"{before.total:,}", f"{after.total:,}")]
    rows += [(f"  {op}", f"{before.ops.get(op, 0):,}", f"{after.ops.get(op, 0):,}") for op in changed[:_SHOWN]]
    rows += [("bytes", f"{before.bytes:,}", f"{after.bytes:,}")]
    lines = [*_aligned(rows), *_copies(result.copied, width)]
    for name, converted in (("TFLite", result.tflite), ("ONNX", result.onnx)):
        if converted:
            size = f"{converted.bytes:,} bytes, {_count(converted.total, 'op')}"
            lines += ["", *_wrapped(f"{name}: {size}: {_ops(converted.ops)}", width, first="", rest="  ")]
    return "\n".join(lines)


def _copies(copied: tuple[Copied, ...], width: int) -> list[str]:
    """Say what it cost to store weights again that several ops read."""
    if not copied:
        return []
    added = sum(each.bytes_added for each in copied)
    copies = _plural(sum(each.copies for each in copied), "copy", "copies")
    names = ", ".join(each.name for each in copied[:_SHOWN]) + (", ..." if len(copied) > _SHOWN else "")
    text = (
        f"of these, {added:,} are in {copies} of weights that several ops read ({names}); "
        "--shared_weights=keep stores them once"
    )
    return _wrapped(text, width, first="  ", rest="    ")


def _ops(ops: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {op}" for op, count in sorted(ops.items(), key=lambda item: (-item[1], item[0])))


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Return the rows with the first column to the left and the others to the right."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return [
        "  ".join([first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True))])
        for first, *rest in rows
    ]


def _checked(measurements: tuple[Measurement, ...], width: int) -> str:
    if not measurements:
        return "Not verified (--noverify)."
    title = "Verified" if all(measurement.verified for measurement in measurements) else "Not verified"
    return _list(title, itertools.chain.from_iterable(map(_measured, measurements)), width)


def _measured(measurement: Measurement) -> Iterator[str]:
    """Yield a line, and for a quantised model one for each output, the worst first."""
    yield _comparison(measurement)
    worst_first = sorted(measurement.quantised, key=_sqnr)
    yield from (f"  {_quality(output)}" for output in worst_first[:_SHOWN])
    if len(worst_first) > _SHOWN:
        yield f"  ... and {len(worst_first) - _SHOWN} better ones; --report FILE.json has them all"


def _sqnr(output: OutputQuality) -> float:
    return math.inf if output.sqnr is None else output.sqnr


def _quality(output: OutputQuality) -> str:
    if output.error is None:
        return f"{output.name}: integers"
    if output.sqnr is None:
        facts = ["no difference" if output.error == 0 else "values that are not finite"]
    else:
        below = output.floor is not None and output.sqnr < output.floor
        facts = [f"largest error {output.error:.1e}", f"SQNR {output.sqnr:.1f} dB"]
        facts[1] += f", BELOW the floor {output.floor:g} dB" if below else ""
    if output.top1 is not None:
        facts.append(f"same top class in {output.top1:.1%}")
    return f"{output.name}: {', '.join(facts)}"


def _comparison(measurement: Measurement) -> str:
    text = measurement.compared
    if measurement.error == 0:
        text += ": no difference"
    elif measurement.verified and not measurement.tensors:
        text += ": nothing to compare"
    elif measurement.error is not None:
        judged = f"{'within' if measurement.verified else 'ABOVE'} the limit {measurement.limit:.0e}"
        text += f": largest error {measurement.error:.1e} at {measurement.worst}, {judged}"
    if measurement.quantised:
        text += f", {_count(measurement.samples, 'run')}"
    if measurement.differing:
        share = max(measurement.differing.values())
        text += f"; behind discontinuous ops up to {share:.2%} of the elements differ"
    if measurement.by_rounding:
        tensors = _count(measurement.by_rounding, "tensor")
        text += f"; of {tensors} the limit is what rounding alone may make on these inputs"
    for each in measurement.left_out:
        names = each.first if each.count == 1 else f"{each.first} and {each.count - 1} more"
        text += f"; not compared: {names} ({each.reason})"
    return f"{text}; {measurement.note}" if measurement.note else text


def _list(title: str, lines: Iterable[str], width: int) -> str:
    wrapped = (_wrapped(line, width, first="  ", rest="    ") for line in lines)
    return "\n".join([title, *itertools.chain.from_iterable(wrapped)])


def _wrapped(text: str, width: int, *, first: str, rest: str) -> list[str]:
    """Return the text as lines; a name that is longer than a line stays whole, so that it can be copied."""
    return textwrap.wrap(
        text, width, initial_indent=first, subsequent_indent=rest, break_long_words=False, break_on_hyphens=False
    )


def _end(report: Report) -> str:
    steps = ", ".join(f"{step} {seconds:.1f}" for step, seconds in report.run.seconds.items())
    wrote = [f"Wrote {path}" for path in report.run.outputs.values()] or ["Nothing written."]
    return "\n".join([*wrote, *([f"Seconds: {steps}"] if steps else [])])


def explanation_text(explanations: Sequence[Explanation], *, width: int, colour: bool) -> str:
    """Return what is said of nodes as text.

    Args:
      explanations: What to show.
      width: Columns of the terminal; long node names are never cut and may reach beyond.
      colour: Whether to use terminal colours.
    """
    return "\n\n".join(_explanation(each, width, colour=colour) for each in explanations)


def _explanation(explanation: Explanation, width: int, *, colour: bool) -> str:
    where = f", in function {explanation.function}" if explanation.function else ""
    name = _styled(explanation.name, _BOLD, colour=colour)
    lines = (_wrapped(fact, width, first="  ", rest="    ") for fact in explanation.facts)
    return "\n".join([f"{name}: {explanation.op}{where}", *itertools.chain.from_iterable(lines)])


def comparison_text(changes: Changes, path: str, *, width: int, colour: bool) -> str:
    """Return what changed between two reports as text.

    Args:
      changes: What changed.
      path: Where the old report is.
      width: Columns of the terminal; long node names are never cut and may reach beyond.
      colour: Whether to use terminal colours.
    """
    title = f"Compared with {path}"
    if changes == Changes((), (), (), ()):
        return f"{title}: nothing changed."
    lines = [_styled(title, _YELLOW if changes.lost else _BOLD, colour=colour)]
    if changes.figures:
        rows = [("", "old", "new"), *changes.figures]
        lines += [f"  {line}".rstrip() for line in _aligned(rows)]
    worse = [(old, new) for old, new in changes.sites if new.folded < old.folded]
    better = [(old, new) for old, new in changes.sites if new.folded > old.folded]
    other = [(old, new) for old, new in changes.sites if new.folded == old.folded]
    for words, pairs in (("folds no longer, or less", worse), ("folds now, or more", better), ("otherwise", other)):
        lines += _cut([f"{words}: {_change(old, new)}" for old, new in pairs], width)
    for words, sites in (("gone", changes.gone), ("new", changes.new)):
        lines += _cut([f"{words}: {_state(site)}" for site in sites], width)
    return "\n".join(lines)


def _cut(texts: Sequence[str], width: int) -> list[str]:
    """Return the first of the texts, wrapped, and how many more there are."""
    more = [f"  ... and {len(texts) - _SHOWN} more"] if len(texts) > _SHOWN else []
    return [line for text in texts[:_SHOWN] for line in _wrapped(text, width, first="  ", rest="    ")] + more


def _change(old: Site, new: Site) -> str:
    name = new.name if old.name == new.name else f"{old.name}, now {new.name}"
    return f"{name}: {_status(old)} -> {_status(new)}"


def _state(site: Site) -> str:
    return f"{site.name}: {_status(site)}"


def _status(site: Site) -> str:
    status = site.status.replace("_", " ")
    return f"{status} ({site.why})" if site.why else status


def _styled(text: str, style: str, *, colour: bool) -> str:
    return f"\033[{style}m{text}\033[0m" if colour else text
