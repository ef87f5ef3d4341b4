"""Run the command in this process, where TensorFlow is loaded already, instead of in a child."""

from __future__ import annotations

from typing import Any

from tf_bnfold import worker
from tf_bnfold.clock import Clock
from tf_bnfold.options import Request
from tf_bnfold.report import Report


def run(request: Request, on_step: Any) -> tuple[Report | None, worker.Failed | None]:
    """Stand in for `tf_bnfold.runner.run`."""
    reports: list[Report] = []
    last = worker._run(request, Clock(), reports.append)
    return (reports[-1] if reports else None), (last if isinstance(last, worker.Failed) else None)
