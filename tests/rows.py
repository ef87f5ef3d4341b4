"""One line of a table of folds: a graph, the ops that are left, and why something stays."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping

import pytest
from checker import check_fold

from tf_bnfold.fold import Folding
from tf_bnfold.reasons import Reason


@dataclasses.dataclass(frozen=True)
class Row:
    """A graph and what becomes of it.

    Attributes:
      number: The number of the peer's test in the list that the file names.
      build: Writes the graph.
      left: The ops that are left, with blanks between; constants and identities don't count.
      refused: Why the sites that stay do, by name; a site that is not named is folded wholly.
      rtol: Largest relative error.
    """

    number: str
    build: Callable[[], object]
    left: str
    refused: Mapping[str, Reason] = dataclasses.field(default_factory=dict)
    rtol: float = 2e-6


def check(row: Row) -> Folding:
    """Fold the graph and check everything that a fold promises."""
    return check_fold(row.build, expect=row.left.split(), refused=row.refused, rtol=row.rtol)


def parametrized(rows: Iterable[Row]) -> pytest.MarkDecorator:
    """All rows, each with its number and its place in the name."""
    rows = list(rows)
    return pytest.mark.parametrize("row", rows, ids=[f"{row.number}-{place}" for place, row in enumerate(rows)])
