"""What verification finds, as values."""

from __future__ import annotations

import dataclasses
import enum
import math
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from tf_bnfold.errors import VerificationError

Array = npt.NDArray[np.generic]

_NOTHING = 1e-30


class LeftOut(enum.Enum):
    """Why a tensor does not count as compared; the value completes "not compared: ..."."""

    UNREPEATABLE = "random or stateful"
    TOO_LARGE = "too large, or too many"
    CONTROL_FLOW = "inside a loop or branch of TF1, where a tensor has no one value"
    NOT_FETCHED = "could not be computed apart from the rest"
    NOT_FINITE = "no value, or less than half, is a number in the original on these inputs"
    EMPTY = "has no elements on these inputs"
    ROUNDING = "rounding alone moves it as far on these inputs"
    UNWATCHED = "differs, behind a discontinuous op whose inputs could not be compared"


@dataclasses.dataclass(frozen=True)
class Difference:
    """How far one tensor is from its original.

    Attributes:
      error: max|a-b| / max|b| over the values that are finite in the original, inf for a new NaN or infinity; None
        where the error is not to be judged.
      share: Share of the elements that differ: integers at all, floats by more than the limit.
      limit: The error that is accepted.
      left_out: Why it says nothing of the tensor, None where it does.
      by_rounding: Whether the limit is what rounding alone may make, and more than was asked for.
    """

    error: float | None
    share: float
    limit: float
    left_out: LeftOut | None = None
    by_rounding: bool = False

    @property
    def failed(self) -> bool:
        """Tell whether it differs more than it may."""
        return self.error is not None and not self.error <= self.limit

    def told(self, *, decided_otherwise: bool) -> Difference:
        """Return what is told of it: the share where a discontinuous op before it decided otherwise, else the error."""
        return dataclasses.replace(self, error=None) if decided_otherwise else dataclasses.replace(self, share=0.0)

    def unwatched(self) -> Difference:
        """Return it as one that may be a fault as well as a decision of an op that could not be watched."""
        return dataclasses.replace(self, error=None, left_out=LeftOut.UNWATCHED)

    def with_run(self, other: Difference) -> Difference:
        """Return the worse of two runs, in error and in share; one run that can be judged is enough."""
        worst = max(self, other, key=lambda each: each.severity)
        reasons = (self.left_out, other.left_out)
        both = self.left_out if None not in reasons else None
        left_out = LeftOut.UNWATCHED if LeftOut.UNWATCHED in reasons else both
        by_rounding = self.by_rounding or other.by_rounding
        return dataclasses.replace(
            worst, share=max(self.share, other.share), left_out=left_out, by_rounding=by_rounding
        )

    @property
    def severity(self) -> float:
        """Return the error in terms of the limit, -1 where it is not to be judged."""
        return -1.0 if self.error is None else self.error / max(self.limit, _NOTHING)


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What one comparison found.

    Attributes:
      compared: What was compared with what.
      tensors: The largest difference by name: `signature: output` for outputs, names of graph tensors for inner ones.
      samples: Number of runs.
      left_out: Why a tensor was not compared, by name.
    """

    compared: str
    tensors: Mapping[str, Difference]
    samples: int
    left_out: Mapping[str, LeftOut] = dataclasses.field(default_factory=dict)

    @property
    def skipped(self) -> int:
        """Number of tensors that were not compared."""
        return len(self.left_out)

    @property
    def failed(self) -> tuple[str, ...]:
        """Name the tensors that differ more than they may, in the order of the graph."""
        return tuple(name for name, difference in self.tensors.items() if difference.failed)

    @property
    def worst(self) -> str:
        """Name the tensor with the largest error of those that are judged by it, "" if there is none."""
        judged = {name: each.severity for name, each in self.tensors.items() if each.error is not None}
        return max(judged, key=lambda name: judged[name], default="")

    @property
    def error(self) -> float | None:
        """Return the error of the worst tensor."""
        return self.tensors[self.worst].error if self.worst else None

    @property
    def limit(self) -> float | None:
        """Return the limit of the worst tensor."""
        return self.tensors[self.worst].limit if self.worst else None

    @property
    def by_rounding(self) -> tuple[str, ...]:
        """Name the tensors that differ by more than was asked for, and by no more than rounding may make."""
        return tuple(name for name, difference in self.tensors.items() if difference.by_rounding)

    @property
    def failure(self) -> str:
        """Say what failed, "" where nothing did."""
        if not self.failed:
            return ""
        infinite = " (in shape, dtype or integers, or by values that are no numbers)" if self.error == math.inf else ""
        return (
            f"{self.compared}: {len(self.failed)} of {len(self.tensors)} tensors differ, "
            f"first {self.failed[0]}, most {self.worst} by {self.error:.2g}{infinite}, more than {self.limit:.2g}"
        )

    @property
    def advice(self) -> str:
        """Say what the user can do about a failure."""
        return "--keep leaves single batch norms alone, --rtol sets the limit"

    @property
    def differing(self) -> Mapping[str, float]:
        """Return the share of differing elements by tensor behind a discontinuous op that decided otherwise."""
        return {name: each.share for name, each in self.tensors.items() if each.share}


@dataclasses.dataclass(frozen=True)
class NotVerified:
    """A comparison that could not be made.

    Attributes:
      compared: What was to be compared with what.
      reason: Why it could not.
    """

    compared: str
    reason: str


class Judged(Protocol):
    """A comparison that was made.

    Attributes:
      compared: What was compared with what.
      failure: What failed, "" where nothing did.
      advice: What the user can do about it.
    """

    @property
    def compared(self) -> str: ...  # noqa: D102
    @property
    def failure(self) -> str: ...  # noqa: D102
    @property
    def advice(self) -> str: ...  # noqa: D102


def require_verified(findings: Sequence[Judged | NotVerified]) -> None:
    """Raise for findings that fail, or else for one that could not be made.

    Raises:
      VerificationError: It names tensors, errors and limits, or the reason.
    """
    failed = [finding for finding in findings if not isinstance(finding, NotVerified) and finding.failure]
    if failed:
        failures = "; ".join(finding.failure for finding in failed)
        advice = "; ".join(dict.fromkeys(finding.advice for finding in failed))
        raise VerificationError(f"verification failed, so nothing is written: {failures}. {advice}")
    for finding in findings:
        if isinstance(finding, NotVerified):
            raise VerificationError(
                f"not verified, {finding.compared}: {finding.reason}; --noverify writes the result all the same"
            )
