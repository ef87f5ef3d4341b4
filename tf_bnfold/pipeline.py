"""The order of the rooms: load, fold, convert, verify, place."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import importlib
import importlib.metadata
import itertools
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from tf_bnfold import verify
from tf_bnfold.clock import Clock
from tf_bnfold.compare import read_report, require_no_loss
from tf_bnfold.errors import ConverterError, UnfoldedError
from tf_bnfold.explain import Network, explain
from tf_bnfold.export_stage import Export, as_saved_model
from tf_bnfold.fold import Folding, fold_graph
from tf_bnfold.formats.graph_file import byte_size, write_graph_def
from tf_bnfold.formats.load import load_model
from tf_bnfold.formats.model import Model
from tf_bnfold.formats.saved_model import save_saved_model
from tf_bnfold.gpu import GpuCompatibility, check_gpu_compatibility
from tf_bnfold.graph.ops import ops_of
from tf_bnfold.measurements import Finding, measurement
from tf_bnfold.memory import give_back
from tf_bnfold.options import Options, Request
from tf_bnfold.outcome import Kind
from tf_bnfold.outputs import Staging, writing
from tf_bnfold.quantisation import check_quantisation
from tf_bnfold.ranges import sinks_of, warnings
from tf_bnfold.report import Explanation, Measurement, Report, Result, Run, Size
from tf_bnfold.targets import check_paths, targets, work_folder
from tf_bnfold.tflite_stage import TFLite, left_float, size_of, source_of
from tf_bnfold.version import __version__

GraphDef = Any  # TensorFlow has no type stubs


def _ignore(_: Report) -> None:
    pass


def run(
    request: Request,
    clock: Clock | None = None,
    on_report: Callable[[Report], None] = _ignore,
    export: Export | None = None,
) -> Report:
    """Do what the request asks for, in this process.

    Every output is built whole before the first one is put into its place, and none is when something fails.

    Args:
      request: What to read, what to write, and how; without outputs there is only the report.
      clock: Times the steps.
      on_report: Called with what is known, whenever that is more: it shows why a run fails later.
      export: Writes the input as a SavedModel into a folder, where the request names none, and says what it is.

    Returns:
      The report; its times include those of the clock so far.

    Raises:
      FoldError: Of the class that tells what failed; see errors.py.
    """
    check_paths(request, exported=export is not None)
    check_quantisation(request)
    check_gpu_compatibility(request)
    clock = clock or Clock()
    options = request.options
    with Staging(overwrite=options.overwrite) as staging:
        request, notes = as_saved_model(request, export, staging, clock)
        with clock.step("load"):
            model = load_model(request).noting(*notes)
        if request.onnx:
            _onnx_stage().check(model)
        with clock.step("fold"):
            folding = fold_graph(
                model.graph_def,
                model.outputs(),
                model.inputs(),
                options.keep,
                options.shared_weights,
                options.quantize,
            )
            result = result_of(model.graph_def, folding, model.notes)
            give_back()
        findings = _Findings(result, request, clock, on_report)
        if request.explain:
            ops = ops_of(model.graph_def, folding.graph_def)
            findings.add_explanations(explain(request.explain, Network(result, ops)))
        _require_folded(request, findings.report({}))
        _build(request, model, model.with_graph(folding.graph_def), findings, staging, clock)
        with clock.step("place"):
            staging.place()
    report = findings.report(targets(request))
    on_report(report)
    return report


def _onnx_stage() -> Any:
    return importlib.import_module("tf_bnfold.onnx_stage")  # its libraries are an extra


class _Findings:
    """What is known so far, told to a listener whenever that is more.

    Attributes:
      result: What folding and conversion gave.
      measurements: What verification found.
    """

    def __init__(self, result: Result, request: Request, clock: Clock, listener: Callable[[Report], None]) -> None:
        self.result = result
        self.measurements: tuple[Measurement, ...] = ()
        self.explanations: tuple[Explanation, ...] = ()
        self._request = request
        self._clock = clock
        self._listener = listener
        self._tell()

    def report(self, outputs: Mapping[str, str]) -> Report:
        """Return the report of a run that writes these outputs."""
        run = Run(
            self._request.command, _versions(self._request), dict(self._clock.seconds), self.measurements, outputs
        )
        return Report(self.result, run, self.explanations)

    def add_explanations(self, explanations: tuple[Explanation, ...]) -> None:
        """Add what is said of the nodes that were asked about."""
        self.explanations = explanations
        self._tell()

    def noting(self, model: Model) -> Model:
        """Add what the model notes, and return it."""
        self.result = dataclasses.replace(self.result, notes=tuple(dict.fromkeys(self.result.notes + model.notes)))
        self._tell()
        return model

    def add_tflite(self, content: bytes, options: Options) -> None:
        """Add the .tflite, with what quantisation left float and what may have cost accuracy."""
        notes = left_float(content, options.quantize)
        if options.quantize not in ("none", "float16"):
            notes += tuple(warnings(self.result.sinks, self.result.outcomes))
        self.result = dataclasses.replace(self.result, tflite=size_of(content), notes=(*self.result.notes, *notes))
        self._tell()

    def add_gpu(self, gpu: GpuCompatibility | None) -> None:
        """Add what the analyser says of the .tflite."""
        self.result = dataclasses.replace(self.result, gpu=gpu)
        self._tell()

    def add_onnx(self, size: Size) -> None:
        """Add the .onnx."""
        self.result = dataclasses.replace(self.result, onnx=size)
        self._tell()

    def add(self, *found: Finding) -> None:
        """Add what verification found.

        Raises:
          VerificationError: When something differs, or could not be compared.
        """
        self.measurements += tuple(map(measurement, found))
        self._tell()
        verify.require_verified(found)

    def _tell(self) -> None:
        self._listener(self.report({}))


def _build(request: Request, frozen: Model, folded: Model, findings: _Findings, staging: Staging, clock: Clock) -> None:
    """Convert, verify, and build every output in the staging.

    The converter comes first, as TensorFlow keeps the memory of its runs, and the converter's would add to it. What it
    refuses is told behind the verification of the fold, which may be to blame.
    """
    options = request.options
    source, samples = source_of(options), None
    stage = TFLite(request, source, staging, clock)
    content, refused = b"", None
    if request.tflite:
        try:
            content = stage.convert(findings.noting(stage.as_computed(folded)))
        except ConverterError as error:
            refused = error
        give_back()
    if options.verify:
        with clock.step("verify"):
            original = verify.runnable(frozen)
            samples = verify.make_samples(original, source)
            findings.add(*_compared(request, original, verify.runnable(folded), samples))
    if refused:
        raise refused
    if request.tflite:
        findings.add_tflite(content, options)
        findings.add_gpu(stage.gpu_compatibility(content))
        if samples is not None:
            findings.add(stage.compare(folded, content, samples))
    if "tflite" in targets(request):
        with writing(request.tflite):
            staging.stage(request.tflite).write_bytes(content)
    if request.onnx:
        _build_onnx(request, folded, samples, findings, staging, clock)
    _stage_graphs_and_reports(request, frozen, folded, findings, staging)


def _stage_graphs_and_reports(
    request: Request, frozen: Model, folded: Model, findings: _Findings, staging: Staging
) -> None:
    wanted = targets(request)
    if "output_saved_model" in wanted:
        with writing(request.output_saved_model):
            save_saved_model(folded, str(staging.stage(request.output_saved_model)))
    if "output_graph" in wanted:
        with writing(request.output_graph):
            write_graph_def(folded.graph_def, str(staging.stage(request.output_graph)))
    if "report" in wanted:
        with writing(request.report):
            staging.stage(request.report).write_text(findings.report(wanted).to_json(), "utf-8", "backslashreplace")
    if "page" in wanted:
        page = importlib.import_module("tf_bnfold.page")  # its library is an extra
        network = Network(findings.result, ops_of(frozen.graph_def, folded.graph_def))
        with writing(request.page):
            content = page.render(findings.report(wanted), network)
            staging.stage(request.page).write_text(content, "utf-8", "backslashreplace")


def _build_onnx(
    request: Request,
    folded: Model,
    samples: verify.Samples | verify.NotVerified | None,
    findings: _Findings,
    staging: Staging,
    clock: Clock,
) -> None:
    stage, options = _onnx_stage(), request.options
    with writing(request.onnx):
        content, size = stage.convert(folded, options, clock, staging.scratch(work_folder(request)))
    findings.add_onnx(size)
    if samples is not None:
        findings.add(stage.verify(folded, content, samples, options, clock))
    if "onnx" in targets(request):
        with writing(request.onnx):
            staging.stage(request.onnx).write_bytes(content)


def _compared(
    request: Request, frozen: Model, folded: Model, samples: verify.Samples | verify.NotVerified
) -> tuple[Finding, Finding]:
    """Compare the folded graph with what was read."""
    rtol = request.options.rtol
    if request.frozen_graph:
        return verify.verify_frozen_graph(request.frozen_graph, frozen, folded, samples, rtol=rtol)
    name = "the SavedModel exported from it" if request.keras_model else "the SavedModel"
    return verify.verify_saved_model(request.saved_model, frozen.tags, frozen, folded, samples, rtol=rtol, name=name)


def result_of(graph_def: GraphDef, folding: Folding, notes: tuple[str, ...] = ()) -> Result:
    """Return what folding did to a graph.

    Args:
      graph_def: The graph before folding.
      folding: What fold_graph gave for it.
      notes: Sentences on what is not kept.
    """
    return Result(
        folding.outcomes,
        _size(graph_def),
        _size(folding.graph_def),
        notes=(*notes, *_moved(folding)),
        sinks=sinks_of(folding.ranges),
        copied=folding.copied,
    )


def _moved(folding: Folding) -> Iterator[str]:
    """Say which convolutions are dilated ones now, and which biases stand elsewhere."""
    if folding.dilated:
        which = _first(folding.dilated, "convolutions")
        yield f"{which}: SpaceToBatchND, convolution and BatchToSpaceND became one dilated convolution"
    if folding.biases:
        yield f"{_first(folding.biases, 'biases')}: moved right behind the linear op, which TFLite computes them with"


def _first(names: Sequence[str], what: str) -> str:
    return f"{names[0]} and {len(names) - 1} more {what}" if len(names) > 1 else names[0]


def _size(graph_def: GraphDef) -> Size:
    nodes = itertools.chain(graph_def.node, *(function.node_def for function in graph_def.library.function))
    return Size(collections.Counter(node.op for node in nodes if node.op != "Const"), byte_size(graph_def))


def _require_folded(request: Request, report: Report) -> None:
    result = report.result
    left, found = result.unfolded(), len(result.of_kind(Kind.BATCH_NORM))
    if left and request.options.fail_if_unfolded:
        first = f"{left[0].name} ({left[0].refusal})"
        raise UnfoldedError(f"{len(left)} of {found} batch norms stayed, and --fail_if_unfolded is set; first {first}")
    if request.compare:
        require_no_loss(read_report(request.compare), report.to_dict(), request.compare)


def _versions(request: Request) -> dict[str, str]:
    versions = {"tf_bnfold": __version__, "python": platform.python_version()}
    keras = ("keras", "tf_keras") if request.keras_model else ()
    for name in ("tensorflow", "numpy", "ai-edge-litert", *keras):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):  # tensorflow-cpu and its like
            versions[name] = importlib.metadata.version(name)
    return versions | (_onnx_stage().versions(request.options) if request.onnx else {})
