"""How the ranges of weights changed in a fold, and when to warn of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from tf_bnfold.fold.ranges import Ranges
from tf_bnfold.outcome import Outcome
from tf_bnfold.report import Sink

# With one scale for all weights of an op, int8 leaves the median channel 127 / 16 = 8 steps on each side of zero: half
# of its 8 bits. That is where accuracy is known to break down; a ratio that was there before is not the fold's doing.
BOUND = 16.0
GROWTH = 2.0
_SHOWN = 3
_DETAILED = 8  # sinks of which a report has the range of every channel


def spread(ranges: npt.NDArray[np.float64]) -> float:
    """Return the ratio of the largest to the median channel range; channels that are all zero do not count."""
    living = ranges[(ranges > 0) & np.isfinite(ranges)]
    return float(living.max() / np.median(living)) if living.size else 1.0


def sinks_of(ranges: Sequence[Ranges]) -> tuple[Sink, ...]:
    """Compare the weights of the linear ops that took something before and after the fold.

    Args:
      ranges: Those of each of these ops.

    Returns:
      The sinks in the same order.
    """
    sinks = [
        Sink(each.name, each.op, each.function, each.before.size, spread(each.before), spread(each.after))
        for each in ranges
    ]
    detailed = sorted(range(len(sinks)), key=lambda place: change(sinks[place]), reverse=True)[:_DETAILED]
    for place in detailed:
        both = ranges[place].before, ranges[place].after
        sinks[place] = dataclasses.replace(sinks[place], ranges=tuple(tuple(each.tolist()) for each in both))
    return tuple(sinks)


def change(sink: Sink) -> float:
    """Return the factor by which the spread of an op's weights has grown, or shrunk."""
    return max(sink.after / sink.before, sink.before / sink.after)


def is_grown(sink: Sink) -> bool:
    """Tell whether folding has spread the channel ranges of an op so far that it is worth a warning."""
    return sink.after > BOUND and sink.after > GROWTH * sink.before


def advice(sink: Sink, outcomes: Sequence[Outcome]) -> str:
    """Say what the spread of an op's weights means for quantising it."""
    steps = 127 / sink.after
    if is_grown(sink):
        return (
            f"With one scale per tensor, int8 leaves the median channel {steps:.2g} steps on each side of zero; with "
            "one per channel, as TFLite has, it costs little. If the SQNR is low all the same, give --quantize=int16x8 "
            f"or leave that batch norm alone, as with {_kept(sink, outcomes)}."
        )
    if sink.after > BOUND:
        return (
            f"With one scale per tensor, int8 leaves the median channel {steps:.2g} steps on each side of zero, but "
            "that is not the fold's doing: it was much the same before."
        )
    return f"Harmless: with one scale per tensor too, int8 leaves the median channel {steps:.0f} steps beside zero."


def warnings(sinks: Sequence[Sink], outcomes: Sequence[Outcome]) -> Iterator[str]:
    """Yield a sentence with advice where an op's weights, or the features of an input, are spread beyond the bound."""
    yield from _inputs(outcomes)
    grown = sorted(
        filter(is_grown, sinks),
        key=lambda sink: sink.after,
        reverse=True,
    )
    if not grown:
        return
    shown = ", ".join(f"{sink.name} {sink.before:.3g} to {sink.after:.3g}" for sink in grown[:_SHOWN])
    more = f", and {len(grown) - _SHOWN} more" if len(grown) > _SHOWN else ""
    yield (
        f"folding spread the channel ranges of {len(grown)} weights (largest / median) beyond {BOUND:g}: "
        f"{shown}{more}; with one scale per channel, as TFLite has, that costs little, with one per tensor a lot: look "
        "at the SQNR, and if it is low, give --quantize=int16x8, or leave that batch norm alone, as with "
        f"{_kept(grown[0], outcomes)}"
    )


def _inputs(outcomes: Sequence[Outcome]) -> Iterator[str]:
    for outcome in outcomes:
        if outcome.input_spread > BOUND:
            yield (
                f"{outcome.name} scales the features of an input by factors that are up to {outcome.input_spread:.3g} "
                "times apart, and was folded into what reads it: the input is quantised with one scale now, in which "
                "small features lose; look at the error on real inputs (--representative_data), or leave it alone by "
                f"--keep='{outcome.name}'"
            )


def _kept(sink: Sink, outcomes: Sequence[Outcome]) -> str:
    """Return the flag that leaves alone what a sink took."""
    into = (each.name for each in outcomes if sink.name in each.sinks and each.function == sink.function)
    return f"--keep='{next(into)}'"
