"""What verification found, as the report tells it."""

from __future__ import annotations

from collections.abc import Mapping

from tf_bnfold import verify
from tf_bnfold.report import Measurement, Omission, OutputQuality
from tf_bnfold.verify.values import LeftOut

Finding = verify.Comparison | verify.QuantisedComparison | verify.NotVerified


def measurement(finding: Finding) -> Measurement:
    """Return a finding as the report tells it."""
    if isinstance(finding, verify.NotVerified):
        return Measurement(finding.compared, verified=False, note=finding.reason)
    if isinstance(finding, verify.QuantisedComparison):
        return Measurement(
            finding.compared,
            verified=not finding.failed,
            tensors=len(finding.outputs),
            samples=finding.samples,
            left_out=_omissions(finding.left_out),
            differing={name: quality.share for name, quality in finding.outputs.items() if quality.share},
            quantised=tuple(
                OutputQuality(name, quality.error, quality.sqnr, quality.top1, quality.floor)
                for name, quality in finding.outputs.items()
            ),
        )
    return Measurement(
        finding.compared,
        verified=not finding.failed,
        tensors=len(finding.tensors),
        samples=finding.samples,
        left_out=_omissions(finding.left_out),
        error=finding.error,
        limit=finding.limit,
        worst=finding.worst,
        differing=finding.differing,
        by_rounding=len(finding.by_rounding),
        errors={name: each.error for name, each in finding.tensors.items() if each.error is not None},
    )


def _omissions(left_out: Mapping[str, LeftOut]) -> tuple[Omission, ...]:
    """Group what was left out by the reason, in the order in which the reasons come first."""
    names: dict[LeftOut, list[str]] = {}
    for name, reason in left_out.items():
        names.setdefault(reason, []).append(name)
    return tuple(Omission(reason.value, len(each), each[0]) for reason, each in names.items())
