"""What verification found, as the report tells it."""

from __future__ import annotations

from tf_bnfold import verify
from tf_bnfold.report import Measurement, OutputQuality

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
            skipped=finding.skipped,
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
        skipped=finding.skipped,
        error=finding.error,
        limit=finding.limit,
        worst=finding.worst,
        differing=finding.differing,
        errors={name: each.error for name, each in finding.tensors.items() if each.error is not None},
    )
