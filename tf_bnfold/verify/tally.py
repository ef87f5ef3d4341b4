"""Collect differences over runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from tf_bnfold.verify.values import Comparison, Difference, NotVerified


@dataclasses.dataclass
class Tally:
    """The worst of each tensor so far.

    Attributes:
      compared: What is compared with what.
      tensors: The differences by name, in the order in which the names first came.
      samples: Number of runs.
      skipped: Number of tensors that are not compared.
      refusal: Why a run could not be made, "" as long as all could.
    """

    compared: str
    tensors: dict[str, Difference] = dataclasses.field(default_factory=dict)
    samples: int = 0
    skipped: int = 0
    refusal: str = ""

    def add(self, differences: Mapping[str, Difference]) -> None:
        """Add the differences of one run."""
        for name, difference in differences.items():
            known = self.tensors.get(name)
            self.tensors[name] = known.with_run(difference) if known else difference

    def finding(self, otherwise: str) -> Comparison | NotVerified:
        """Return what was found; where nothing was compared, the refusal or else `otherwise` says why."""
        if not self.tensors:
            return NotVerified(self.compared, self.refusal or otherwise)
        return Comparison(self.compared, self.tensors, self.samples, self.skipped)
