"""What a search finds: the edits that a route is made of, and what a search looks at."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

from tf_bnfold.algebra.affine import Affine
from tf_bnfold.algebra.linear import Array
from tf_bnfold.fold.elements import Element
from tf_bnfold.fold.ledger import Ledger
from tf_bnfold.fold.sinks import Sink
from tf_bnfold.fold.sites import Site
from tf_bnfold.graph.graph import Node, Use
from tf_bnfold.graph.view import View

# A fork of forks can ask more often than it is worth; beyond this many steps the answer is no.
MOST_STEPS = 20_000


@dataclasses.dataclass(frozen=True)
class Placed:
    """An affine on a tensor, along an axis; a uniform affine has none, whatever axis is given."""

    affine: Affine
    axis: int | None

    def __post_init__(self) -> None:
        if self.affine.channels == 1:
            object.__setattr__(self, "axis", None)

    def equals(self, other: Placed) -> bool:
        """Whether two are the same affine on the same axis."""
        mine, its = self.affine, other.affine
        same = mine.channels == its.channels and self.axis == other.axis
        return same and bool((mine.scale == its.scale).all() and (mine.offset == its.offset).all())


class After(NamedTuple):
    """A sink takes an affine behind it."""

    sink: Sink
    affine: Affine


class Before(NamedTuple):
    """A sink takes an affine before it; `bias` is what the offset adds to its output, and where it goes."""

    sink: Sink
    affine: Affine
    bias: BiasPlace | None


@dataclasses.dataclass(frozen=True)
class BiasPlace:
    """A constant operand behind a sink that takes an offset, and the nodes between the two."""

    node: Node
    port: int
    array: Array
    between: tuple[Node, ...]


@dataclasses.dataclass(frozen=True)
class AdaptConstant:
    """The constant that `node` reads as input `port` becomes `constant * scale + offset`, by broadcasting.

    One route may reach a constant twice, with different channels each time: both count.
    """

    node: Node
    port: int
    scale: Array
    offset: Array


@dataclasses.dataclass(frozen=True)
class SetFill:
    """The value that a Pad writes becomes another one."""

    node: Node
    value: float


class Touch(NamedTuple):
    """The value of a node changes."""

    node: Node


@dataclasses.dataclass(frozen=True)
class Merge:
    """Another site takes an affine before it."""

    site: Site
    affine: Placed


@dataclasses.dataclass(frozen=True)
class Demand:
    """`use` asks for an affine on a tensor that others read, too; it is met when they all ask for the same.

    It stands in for a part of a route that is still to be found.
    """

    use: Use
    placed: Placed


Edit = After | Before | AdaptConstant | SetFill | Touch | Merge | Demand
Route = list[Edit]


@dataclasses.dataclass(frozen=True)
class Scene:
    """What a search looks at.

    Attributes:
      view: The graph.
      ledger: What its sinks have absorbed.
      elements: Its elements by node.
      waiting: The sites that are not decided yet, by each of their nodes.
      kept: Nodes that the user wants left alone.
      keeps_input_ranges: Whether what brings channels of a graph input into like ranges stays.
      copies_always: Whether one site may cost many copies of shared weights.
    """

    view: View
    ledger: Ledger
    elements: dict[Node, Element]
    waiting: dict[Node, Site]
    kept: frozenset[Node]
    keeps_input_ranges: bool = False
    copies_always: bool = False
