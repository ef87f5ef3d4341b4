"""The order of the rooms: load, fold, verify, convert, verify again, place."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import importlib.metadata
import itertools
import os
import platform
import tempfile
from collections.abc import Sequence
from typing import Any

from tf_bnfold import verify
from tf_bnfold.clock import Clock
from tf_bnfold.errors import UnfoldedError
from tf_bnfold.flatbuffer import op_counts
from tf_bnfold.fold import Folding, fold_graph
from tf_bnfold.formats.input_shapes import fix_input_shapes
from tf_bnfold.formats.model import Model
from tf_bnfold.formats.saved_model import load_saved_model, save_saved_model
from tf_bnfold.formats.tflite import convert_to_tflite
from tf_bnfold.options import Request
from tf_bnfold.outcome import Kind
from tf_bnfold.outputs import Staging, writing
from tf_bnfold.report import Measurement, Report, Result, Run, Size
from tf_bnfold.targets import check_paths, targets
from tf_bnfold.version import __version__

GraphDef = Any  # TensorFlow has no type stubs
Finding = verify.Comparison | verify.NotVerified


class StayedError(UnfoldedError):
    """A batch norm stayed; carries the report that says why."""

    def __init__(self, message: str, report: Report) -> None:
        super().__init__(message)
        self.report = report


def run(request: Request, clock: Clock | None = None) -> Report:
    """Do what the request asks for, in this process.

    Every output is built whole before the first one is put into its place, and none is when something fails.

    Args:
      request: What to read, what to write, and how; without outputs there is only the report.
      clock: Times the steps.

    Returns:
      The report; its times include those of the clock so far.

    Raises:
      FoldError: Of the class that tells what failed; see errors.py.
    """
    check_paths(request)
    clock = clock or Clock()
    options = request.options
    with clock.step("load"):
        model = load_saved_model(request.saved_model, tags=options.tags, signature_keys=options.signature_keys)
        model = fix_input_shapes(model, options.input_shapes) if options.input_shapes else model
    with clock.step("fold"):
        folding = fold_graph(model.graph_def, model.outputs(), model.inputs(), options.keep)
    folded = model.with_graph(folding.graph_def)
    report = Report(result_of(model.graph_def, folding, model.notes), Run(request.command, _versions(), clock.seconds))
    if options.fail_if_unfolded:
        _require_folded(report)
    samples = None
    if options.verify:
        with clock.step("verify"):
            samples = verify.make_samples(model, options.representative_data)
            paths = (request.saved_model, folded.tags)
            found = verify.verify_saved_model(*paths, model, folded, samples, rtol=options.rtol)
            report = _with_findings(report, found)
    with Staging(overwrite=options.overwrite) as staging:
        if request.tflite:
            report = _build_tflite(request, folded, samples, report, staging, clock)
        report = _build_rest(request, folded, report, staging)
        with clock.step("place"):
            staging.place()
    return report


def _build_tflite(
    request: Request,
    folded: Model,
    samples: verify.Samples | verify.NotVerified | None,
    report: Report,
    staging: Staging,
    clock: Clock,
) -> Report:
    """Convert, compare unless `samples` is None, and build the file; a dry run stops before that."""
    options = request.options
    with clock.step("convert"), writing(request.tflite):
        folder = tempfile.gettempdir() if options.dry_run else os.path.dirname(os.path.abspath(request.tflite))
        work_dir = str(staging.scratch(folder))
        content = convert_to_tflite(folded, work_dir=work_dir, allow_select_tf_ops=options.allow_select_tf_ops)
    size = Size(op_counts(content), len(content))
    report = dataclasses.replace(report, result=dataclasses.replace(report.result, tflite=size))
    if samples is not None:
        with clock.step("verify_tflite"):
            report = _with_findings(report, [verify.verify_tflite(folded, content, samples, rtol=options.rtol)])
    if not options.dry_run:
        with writing(request.tflite):
            staging.stage(request.tflite).write_bytes(content)
    return report


def _build_rest(request: Request, folded: Model, report: Report, staging: Staging) -> Report:
    """Build the SavedModel and the report file, and return the report that is in it."""
    wanted = targets(request)
    report = dataclasses.replace(report, run=dataclasses.replace(report.run, outputs=wanted))
    if "output_saved_model" in wanted:
        with writing(request.output_saved_model):
            save_saved_model(folded, str(staging.stage(request.output_saved_model)))
    if "report" in wanted:
        with writing(request.report):
            staging.stage(request.report).write_text(report.to_json(), encoding="utf-8")
    return report


def result_of(graph_def: GraphDef, folding: Folding, notes: tuple[str, ...] = ()) -> Result:
    """Return what folding did to a graph.

    Args:
      graph_def: The graph before folding.
      folding: What fold_graph gave for it.
      notes: Sentences on what is not kept.
    """
    return Result(folding.outcomes, _size(graph_def), _size(folding.graph_def), notes=notes)


def _size(graph_def: GraphDef) -> Size:
    nodes = itertools.chain(graph_def.node, *(function.node_def for function in graph_def.library.function))
    return Size(collections.Counter(node.op for node in nodes if node.op != "Const"), graph_def.ByteSize())


def _require_folded(report: Report) -> None:
    """Raise when a batch norm stayed."""
    left = report.result.unfolded()
    if left:
        first = f"{left[0].name}: {left[0].refusal}" if left[0].refusal else left[0].name
        found = len(report.result.of_kind(Kind.BATCH_NORM))
        raise StayedError(f"{len(left)} of {found} batch norms stayed, and --fail_if_unfolded is set; {first}", report)


def _with_findings(report: Report, findings: Sequence[Finding]) -> Report:
    """Add what verification found to the report.

    Raises:
      VerificationError: When something differs, or could not be compared.
    """
    verify.require_verified(findings)
    measurements = report.run.measurements + tuple(map(_measurement, findings))
    return dataclasses.replace(report, run=dataclasses.replace(report.run, measurements=measurements))


def _measurement(finding: Finding) -> Measurement:
    if isinstance(finding, verify.NotVerified):
        return Measurement(finding.compared, verified=False, note=finding.reason)
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
    )


def _versions() -> dict[str, str]:
    versions = {"tf_bnfold": __version__, "python": platform.python_version()}
    for name in ("tensorflow", "numpy", "ai-edge-litert"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):  # tensorflow-cpu and its like
            versions[name] = importlib.metadata.version(name)
    return versions
