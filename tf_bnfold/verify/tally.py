"""Collect differences over runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping

from tf_bnfold.verify.values import Comparison, Difference, LeftOut, NotVerified


@dataclasses.dataclass
class Tally:
    """The worst of each tensor so far.

    Attributes:
      compared: What is compared with what.
      tensors: The differences by name, in the order in which the names first came.
      samples: Number of runs.
      left_out: Why a tensor is not compared, by name.
      refusal: Why a run could not be made, "" as long as all could.
    """

    compared: str
    tensors: dict[str, Difference] = dataclasses.field(default_factory=dict)
    samples: int = 0
    left_out: dict[str, LeftOut] = dataclasses.field(default_factory=dict)
    refusal: str = ""

    def add(self, differences: Mapping[str, Difference]) -> None:
        """Add the differences of one run."""
        for name, difference in differences.items():
            known = self.tensors.get(name)
            self.tensors[name] = known.with_run(difference) if known else difference

    def leave_out(self, reason: LeftOut, names: Iterable[str]) -> None:
        """Say of tensors why they are not compared."""
        self.left_out.update(dict.fromkeys(names, reason))

    def finding(self) -> Comparison | NotVerified:
        """Return what was found; where nothing was compared, why."""
        found = self.comparison()
        if found.tensors:
            return found
        reasons = dict.fromkeys(reason.value for reason in found.left_out.values())
        return NotVerified(self.compared, self.refusal or f"every output is left out: {'; '.join(reasons)}")

    def comparison(self) -> Comparison:
        """Return what was found; it may be nothing."""
        silent = {
            name: each.left_out for name, each in self.tensors.items() if each.left_out is not None and not each.failed
        }
        judged = {name: each for name, each in self.tensors.items() if name not in silent}
        left_out = {name: reason for name, reason in self.left_out.items() if name not in judged} | silent
        return Comparison(self.compared, judged, self.samples, left_out)
