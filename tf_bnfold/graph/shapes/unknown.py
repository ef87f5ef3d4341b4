"""Integers that only a run tells, so that two of them can be known to differ by a constant."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable


@dataclasses.dataclass(frozen=True)
class Unknown:
    """`constant + sum(factor * name)`: what each name stands for is not known, but it is one number throughout a run.

    Attributes:
      terms: Each name with its factor, which is not zero, in a fixed order.
      constant: What is added.
    """

    terms: tuple[tuple[Hashable, int], ...]
    constant: int = 0

    @staticmethod
    def named(name: Hashable) -> Unknown:
        """A number of which nothing is known but its name."""
        return Unknown(((name, 1),))


Number = int | Unknown


def plus(a: Number, b: Number, factor: int = 1) -> Number:
    """Return `a + factor * b`."""
    terms: dict[Hashable, int] = dict(a.terms) if isinstance(a, Unknown) else {}
    constant = a.constant if isinstance(a, Unknown) else a
    for name, own in b.terms if isinstance(b, Unknown) else ():
        terms[name] = terms.get(name, 0) + factor * own
    constant += factor * (b.constant if isinstance(b, Unknown) else b)
    left = tuple((name, own) for name, own in terms.items() if own != 0)
    return Unknown(left, constant) if left else constant


def minus(a: Number, b: Number) -> Number:
    """Return `a - b`."""
    return plus(a, b, -1)
