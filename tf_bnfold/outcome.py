"""What became of each site: values that `fold` makes and `report` shows."""

from __future__ import annotations

import dataclasses
import enum

from tf_bnfold.reasons import Refusal


class Kind(enum.Enum):
    """What a site is counted as."""

    BATCH_NORM = "batch_norm"
    AFFINE = "affine"


class Status(enum.Enum):
    """What became of a site."""

    UP = "folded_up"  # into linear ops before it
    DOWN = "folded_down"  # into linear ops behind it
    HALVES = "folded_in_halves"  # scale one way, offset the other: nothing stays
    PARTLY = "partly_folded"  # one Add or Mul stays of a whole batch norm
    KEPT = "kept"


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of one batch norm or affine.

    Attributes:
      name: The node that carried the site's value in the graph that was given.
      nodes: All nodes of the site, in order (Mul and AddV2 of a decomposed batch norm, ...).
      form: Their ops, joined by "+", for instance "FusedBatchNormV3" or "Mul+AddV2".
      kind: Batch norm or plain affine.
      channels: Number of channels; 1 for a scalar.
      status: What became of it.
      sinks: Original names of the ops whose constants took it, in route order.
      route: Original names of the nodes it passed on the way, without the sinks.
      refusal: Why it stayed, wholly or in part; None when nothing stayed.
      function: Name of the library function that it is in; "" for the main graph.
      input_spread: Of scales that an input of the graph lost to the ops that read it: the largest over the smallest;
        1 elsewhere.
    """

    name: str
    nodes: tuple[str, ...]
    form: str
    kind: Kind
    channels: int
    status: Status
    sinks: tuple[str, ...] = ()
    route: tuple[str, ...] = ()
    refusal: Refusal | None = None
    function: str = ""
    input_spread: float = 1.0


@dataclasses.dataclass(frozen=True)
class Copied:
    """Weights that several ops read and that are stored several times now, as the ops took different things.

    Attributes:
      name: The constant in the graph that was given.
      copies: How many more constants there are now.
      bytes_added: What these hold.
      function: Name of the library function that it is in; "" for the main graph.
    """

    name: str
    copies: int
    bytes_added: int
    function: str = ""
