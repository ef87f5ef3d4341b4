"""Measure groups of benchmarks, and write what was found into docs/ and README.md.

Usage: python -m benchmarks MODELS [GROUP ...]

MODELS is the folder that holds the trained models; groups are fold, command, latency and accuracy, by default all. What
was measured of the other groups before is kept.
"""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Callable, Iterable

from benchmarks import accuracy, command, fold, latency, page
from benchmarks.measuring import Figure, circumstances

GROUPS: dict[str, Callable[[str], Iterable[Figure]]] = {
    "fold": lambda _: fold.figures(fold.Settings()),
    "command": lambda models: command.figures(command.Settings(models)),
    "latency": lambda _: latency.figures(latency.Settings()),
    "accuracy": lambda models: accuracy.figures(accuracy.Settings(models)),
}


def rounded(figure: Figure) -> dict[str, object]:
    """Return a figure as JSON holds it, with four digits of each sample."""
    return dataclasses.asdict(figure) | {"samples": [float(f"{sample:.4g}") for sample in figure.samples]}


def main(models: str, *groups: str) -> None:
    """Measure the groups, and write what was found of each, even where something fails."""
    unknown = [group for group in groups if group not in GROUPS]
    if unknown:
        sys.exit(f"no group {unknown[0]}: there are {', '.join(GROUPS)}")
    for group in groups or GROUPS:
        started = time.monotonic()
        found, around = list[Figure](), circumstances()  # as busy as the machine was before
        try:
            found.extend(GROUPS[group](models))
        finally:
            result = {**around, "figures": [rounded(figure) for figure in found]}
            page.write({**page.load(), group: result})
        print(f"{group}: {len(found)} figures in {time.monotonic() - started:.0f} seconds", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
