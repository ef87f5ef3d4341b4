"""What verification finds, as values, and how it judges them. Knows numpy only."""

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

# Two correct runs may differ by this many roundings of the coarsest dtype on the way. Roundings of n ops in a row add
# up like a random walk, to the square root of n: this allows for 256 ops. For float32 it is far below a sensible rtol.
_ROUNDINGS = 16
_NOTHING = 1e-30
_PRECISE = frozenset({np.dtype(np.float32), np.dtype(np.float64)})  # a difference of two has an error of one rounding


class LeftOut(enum.Enum):
    """Why a tensor does not count as compared; the value completes "not compared: ..."."""

    UNREPEATABLE = "random or stateful"
    TOO_LARGE = "too large, or too many"
    CONTROL_FLOW = "inside a loop or branch of TF1, where a tensor has no one value"
    NOT_FETCHED = "could not be computed apart from the rest"
    NOT_FINITE = "no value, or less than half, is a number in the original on these inputs"
    EMPTY = "has no elements on these inputs"
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
    """

    error: float | None
    share: float
    limit: float
    left_out: LeftOut | None = None

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
        errors = [error for error in (self.error, other.error) if error is not None]
        reasons = (self.left_out, other.left_out)
        both = self.left_out if None not in reasons else None
        left_out = LeftOut.UNWATCHED if LeftOut.UNWATCHED in reasons else both
        return Difference(max(errors, default=None), max(self.share, other.share), self.limit, left_out)


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
        judged = {
            name: each.error / max(each.limit, _NOTHING)
            for name, each in self.tensors.items()
            if each.error is not None
        }
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
    def failure(self) -> str:
        """Say what failed, "" where nothing did."""
        if not self.failed:
            return ""
        return (
            f"{self.compared}: {len(self.failed)} of {len(self.tensors)} tensors differ, "
            f"first {self.failed[0]}, most {self.worst} by {self.error:.2g}, more than {self.limit:.2g}"
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


def limit_for(dtype: npt.DTypeLike, rtol: float) -> float:
    """Return the error to accept where the coarsest float dtype on the way is `dtype`: rtol or 16 roundings."""
    return max(rtol, _ROUNDINGS * rounding(dtype))


def rounding(dtype: npt.DTypeLike) -> float:
    """Return the distance from 1 to the next number of a float dtype, 0 for other dtypes."""
    kind = np.dtype(dtype)
    if kind.name == "bfloat16":
        return 2.0**-7
    return float(np.finfo(kind).eps) if kind.kind in "fc" else 0.0


def difference(result: Array, original: Array, limit: float) -> Difference:
    """Measure how far a result is from its original.

    Args:
      result: The value found, any dtype.
      original: The value expected, same dtype.
      limit: The error that is accepted.

    Returns:
      The difference, over the values that are finite in the original. Shapes that differ are an infinite error. It says
      nothing of a tensor that has no such value, or more NaNs than others.
    """
    if result.shape != original.shape:
        return Difference(math.inf, 1.0, limit)
    if not original.size:
        return Difference(0.0, 0.0, limit)
    if rounding(original.dtype) == 0.0:
        share = float(np.mean(result != original))
        return Difference(math.inf if share else 0.0, share, limit)
    if original.dtype in _PRECISE and (found := _finite_difference(result, original, limit)) is not None:
        return found
    wide = np.complex128 if original.dtype.kind == "c" else np.float64
    a, b = result.astype(wide), original.astype(wide)
    finite = np.isfinite(b)
    scale = float(np.max(np.abs(b), where=finite, initial=0.0)) or 1.0
    with np.errstate(invalid="ignore", over="ignore"):
        distance = np.abs(a - b)
    distance = np.where(finite, np.where(np.isfinite(a), distance, math.inf), 0.0)
    left_out = None if is_telling(original) else LeftOut.NOT_FINITE
    return Difference(float(distance.max()) / scale, float(np.mean(distance > limit * scale)), limit, left_out)


def output_difference(result: Array, original: Array, limit: float) -> Difference:
    """Measure how far an output is from its original; without elements it says nothing, as without numbers."""
    found = difference(result, original, limit)
    return found if found.failed or original.size else dataclasses.replace(found, left_out=LeftOut.EMPTY)


def _finite_difference(result: Array, original: Array, limit: float) -> Difference | None:
    """Measure without a wider copy, which takes far longer than the run; None where not all values are finite."""
    with np.errstate(invalid="ignore", over="ignore"):
        distance = np.abs(np.subtract(result, original))
    most, scale = float(distance.max()), max(float(original.max()), -float(original.min()))
    if not (math.isfinite(most) and math.isfinite(scale)):
        return None
    scale = scale or 1.0
    share = float(np.mean(distance > limit * scale)) if most > limit * scale else 0.0
    return Difference(most / scale, share, limit)


def is_telling(value: Array) -> bool:
    """Tell whether a tensor has numbers to compare: a finite one, and no more NaNs than others."""
    if not value.size or rounding(value.dtype) == 0.0:
        return True
    wide = value.astype(np.complex128 if value.dtype.kind == "c" else np.float64)
    return bool(np.any(np.isfinite(wide)) and np.mean(np.isnan(wide)) <= 0.5)
