"""The ranges of weights, channel by channel: what a quantiser that knows one scale per tensor suffers from."""

from __future__ import annotations

import dataclasses

from tf_bnfold.algebra.affine import Vector


@dataclasses.dataclass(frozen=True)
class Ranges:
    """The ranges of the weights of a linear op that took something.

    Attributes:
      name: The op, as it was called before folding.
      op: Its type.
      before: float64 [output channels]: the largest |weight| of each, before folding.
      after: The same after folding.
      function: The library function that it is in; "" for the main graph.
    """

    name: str
    op: str
    before: Vector
    after: Vector
    function: str = ""
