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
from collections.abc import Callable, Mapping
from typing import Any

from tf_bnfold import verify
from tf_bnfold.clock import Clock
from tf_bnfold.errors import UnfoldedError
from tf_bnfold.flatbuffer import op_counts
from tf_bnfold.fold import Folding, fold_graph
from tf_bnfold.formats.graph_file import byte_size, write_graph_def
from tf_bnfold.formats.load import load_model
from tf_bnfold.formats.model import Model
from tf_bnfold.formats.saved_model import save_saved_model
from tf_bnfold.formats.tflite import convert_to_tflite
from tf_bnfold.formats.widen import widened
from tf_bnfold.options import Options, Request
from tf_bnfold.outcome import Kind
from tf_bnfold.outputs import Staging, writing
from tf_bnfold.report import Measurement, Report, Result, Run, Size
from tf_bnfold.targets import check_paths, targets
from tf_bnfold.version import __version__

GraphDef = Any  # TensorFlow has no type stubs
Finding = verify.Comparison | verify.NotVerified


def _ignore(_: Report) -> None:
    pass


def run(request: Request, clock: Clock | None = None, on_report: Callable[[Report], None] = _ignore) -> Report:
    """Do what the request asks for, in this process.

    Every output is built whole before the first one is put into its place, and none is when something fails.

    Args:
      request: What to read, what to write, and how; without outputs there is only the report.
      clock: Times the steps.
      on_report: Called with what is known, whenever that is more: it shows why a run fails later.

    Returns:
      The report; its times include those of the clock so far.

    Raises:
      FoldError: Of the class that tells what failed; see errors.py.
    """
    check_paths(request)
    clock = clock or Clock()
    options = request.options
    with clock.step("load"):
        model = load_model(request)
    with clock.step("fold"):
        folding = fold_graph(model.graph_def, model.outputs(), model.inputs(), options.keep)
    findings = _Findings(result_of(model.graph_def, folding, model.notes), request, clock, on_report)
    if options.fail_if_unfolded:
        _require_folded(findings.result)
    with Staging(overwrite=options.overwrite) as staging:
        _build(request, model, model.with_graph(folding.graph_def), findings, staging, clock)
        with clock.step("place"):
            staging.place()
    report = findings.report(targets(request))
    on_report(report)
    return report


class _Findings:
    """What is known so far, told to a listener whenever that is more.

    Attributes:
      result: What folding and conversion gave.
      measurements: What verification found.
    """

    def __init__(self, result: Result, request: Request, clock: Clock, listener: Callable[[Report], None]) -> None:
        self.result = result
        self.measurements: tuple[Measurement, ...] = ()
        self._request = request
        self._clock = clock
        self._listener = listener
        self._tell()

    def report(self, outputs: Mapping[str, str]) -> Report:
        """Return the report of a run that writes these outputs."""
        run = Run(self._request.command, _versions(), dict(self._clock.seconds), self.measurements, outputs)
        return Report(self.result, run)

    def noting(self, model: Model) -> Model:
        """Add what the model notes, and return it."""
        self.result = dataclasses.replace(self.result, notes=tuple(dict.fromkeys(self.result.notes + model.notes)))
        self._tell()
        return model

    def add_tflite(self, content: bytes) -> None:
        """Add the converted model."""
        self.result = dataclasses.replace(self.result, tflite=Size(op_counts(content), len(content)))
        self._tell()

    def add(self, *found: Finding) -> None:
        """Add what verification found.

        Raises:
          VerificationError: When something differs, or could not be compared.
        """
        self.measurements += tuple(map(_measurement, found))
        self._tell()
        verify.require_verified(found)

    def _tell(self) -> None:
        self._listener(self.report({}))


def _build(request: Request, frozen: Model, folded: Model, findings: _Findings, staging: Staging, clock: Clock) -> None:
    """Verify, convert, and build every output in the staging."""
    options, wanted = request.options, targets(request)
    samples = None
    if options.verify:
        with clock.step("verify"):
            original = verify.runnable(frozen)
            samples = verify.make_samples(original, options.representative_data)
            findings.add(*_compared(request, original, verify.runnable(folded), samples))
    if request.tflite:
        content = _converted(request, findings.noting(_as_tflite_computes(folded, options)), staging, clock)
        findings.add_tflite(content)
        if samples is not None:
            findings.add(_compared_tflite(request, folded, content, samples, staging, clock))
        if "tflite" in wanted:
            with writing(request.tflite):
                staging.stage(request.tflite).write_bytes(content)
    if "output_saved_model" in wanted:
        with writing(request.output_saved_model):
            save_saved_model(folded, str(staging.stage(request.output_saved_model)))
    if "output_graph" in wanted:
        with writing(request.output_graph):
            write_graph_def(folded.graph_def, str(staging.stage(request.output_graph)))
    if "report" in wanted:
        with writing(request.report):
            staging.stage(request.report).write_text(findings.report(wanted).to_json(), "utf-8", "backslashreplace")


def _compared(
    request: Request, frozen: Model, folded: Model, samples: verify.Samples | verify.NotVerified
) -> tuple[Finding, Finding]:
    """Compare the folded graph with what was read."""
    rtol = request.options.rtol
    if request.frozen_graph:
        return verify.verify_frozen_graph(request.frozen_graph, frozen, folded, samples, rtol=rtol)
    return verify.verify_saved_model(request.saved_model, frozen.tags, frozen, folded, samples, rtol=rtol)


def _compared_tflite(
    request: Request,
    folded: Model,
    content: bytes,
    samples: verify.Samples | verify.NotVerified,
    staging: Staging,
    clock: Clock,
) -> Finding:
    """Compare the .tflite with the folded graph; with custom ops, which nothing here runs, what comes before them."""
    rtol, compared = request.options.rtol, verify.runnable(folded)
    if compared is not folded:
        content = _converted(request, _as_tflite_computes(compared, request.options), staging, clock)
    with clock.step("verify_tflite"):
        if compared is folded:
            return verify.verify_tflite(folded, content, samples, rtol=rtol)
        return verify.verify_tflite(compared, content, samples, rtol=rtol, compared=verify.UP_TO_CUSTOM_OPS)


def _as_tflite_computes(model: Model, options: Options) -> Model:
    return widened(model) if options.widen_to_float32 else model


def _converted(request: Request, model: Model, staging: Staging, clock: Clock) -> bytes:
    """Return the .tflite; the converter's own files lie beside it, or with a dry run among the temporary files."""
    options = request.options
    folder = tempfile.gettempdir() if options.dry_run else os.path.dirname(os.path.abspath(request.tflite))
    with clock.step("convert"), writing(request.tflite):
        work_dir = str(staging.scratch(folder))
        return convert_to_tflite(
            model,
            work_dir=work_dir,
            allow_select_tf_ops=options.allow_select_tf_ops,
            allow_custom_ops=options.allow_custom_ops,
        )


def result_of(graph_def: GraphDef, folding: Folding, notes: tuple[str, ...] = ()) -> Result:
    """Return what folding did to a graph.

    Args:
      graph_def: The graph before folding.
      folding: What fold_graph gave for it.
      notes: Sentences on what is not kept.
    """
    return Result(folding.outcomes, _size(graph_def), _size(folding.graph_def), notes=(*notes, *_dilated(folding)))


def _dilated(folding: Folding) -> list[str]:
    """Say which convolutions are dilated ones now."""
    if not folding.dilated:
        return []
    first, number = folding.dilated[0], len(folding.dilated)
    which = f"{first} and {number - 1} more convolutions" if number > 1 else first
    return [f"{which}: SpaceToBatchND, convolution and BatchToSpaceND became one dilated convolution"]


def _size(graph_def: GraphDef) -> Size:
    nodes = itertools.chain(graph_def.node, *(function.node_def for function in graph_def.library.function))
    return Size(collections.Counter(node.op for node in nodes if node.op != "Const"), byte_size(graph_def))


def _require_folded(result: Result) -> None:
    left, found = result.unfolded(), len(result.of_kind(Kind.BATCH_NORM))
    if left:
        first = f"{left[0].name} ({left[0].refusal})"
        raise UnfoldedError(f"{len(left)} of {found} batch norms stayed, and --fail_if_unfolded is set; first {first}")


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
