"""The report of a run, as values and as JSON (docs/report.md describes the fields).

`result` is a function of the input, the options and the versions; what differs from run to run is in `run`.
"""

from __future__ import annotations

import collections
import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from tf_bnfold.gpu import GpuCompatibility, Leaving
from tf_bnfold.outcome import Copied, Kind, Outcome, Status

SCHEMA_VERSION = 1


@dataclasses.dataclass(frozen=True)
class Size:
    """How large a graph or .tflite is.

    Attributes:
      ops: Number of ops by type; constants are no ops.
      bytes: Size of its serialised form.
    """

    ops: Mapping[str, int]
    bytes: int

    @property
    def total(self) -> int:
        """Number of all ops."""
        return sum(self.ops.values())


@dataclasses.dataclass(frozen=True)
class Sink:
    """A linear op that took something, and how unlike the ranges of its weights are.

    Attributes:
      name: The op, as it was called before folding.
      op: Its type.
      function: The library function that it is in; "" for the main graph.
      channels: Number of output channels.
      before: Ratio of the largest to the median channel range, which is the largest |weight| of an output channel.
      after: The same after folding.
      ranges: float [2][channels]: the channel ranges before and after; only of the ops that changed most.
    """

    name: str
    op: str
    function: str
    channels: int
    before: float
    after: float
    ranges: tuple[tuple[float, ...], ...] = ()


@dataclasses.dataclass(frozen=True)
class OutputQuality:
    """How well an output of a quantised model is that of the float model.

    Attributes:
      name: `signature: output`.
      error: max|a-b| / max|b|; None for integers.
      sqnr: Signal to quantisation noise in dB; None where nothing differs, and for integers.
      top1: Share of the rows with the same largest class; None where the output is not floats [batch, classes].
      floor: The SQNR in dB that it must have; None where it is not judged by that.
    """

    name: str
    error: float | None
    sqnr: float | None
    top1: float | None
    floor: float | None


@dataclasses.dataclass(frozen=True)
class Omission:
    """Tensors that a comparison left out for one reason.

    Attributes:
      reason: Why; it completes "not compared: ...".
      count: How many.
      first: The first one's name.
    """

    reason: str
    count: int
    first: str


@dataclasses.dataclass(frozen=True)
class Measurement:
    """What one comparison of verification found.

    Attributes:
      compared: What was compared with what, for instance "folded graph with SavedModel".
      verified: Whether it ran and stayed below the limit.
      tensors: Number of tensors that were compared.
      samples: Number of runs.
      left_out: Which tensors were not compared, and why.
      error: max|a-b| / max|b| of the worst tensor; None when nothing was compared.
      limit: The error that is accepted for it.
      worst: Its name, "" for none.
      differing: Share of differing elements by tensor behind a discontinuous op; these do not fail.
      note: Why it is not verified; "" where it is.
      quantised: The outputs of a quantised model, which are not judged by error and limit.
      errors: The error of each tensor that is judged by it; the page shows them, the JSON only the worst.
      by_rounding: Number of tensors that differ by more than --rtol, and by no more than rounding alone may make.
    """

    compared: str
    verified: bool
    tensors: int = 0
    samples: int = 0
    left_out: tuple[Omission, ...] = ()
    error: float | None = None
    limit: float | None = None
    worst: str = ""
    differing: Mapping[str, float] = dataclasses.field(default_factory=dict)
    note: str = ""
    quantised: tuple[OutputQuality, ...] = ()
    errors: Mapping[str, float] = dataclasses.field(default_factory=dict)
    by_rounding: int = 0

    @property
    def skipped(self) -> int:
        """Number of tensors that were not compared."""
        return sum(each.count for each in self.left_out)


@dataclasses.dataclass(frozen=True)
class Result:
    """What was folded and what that changed.

    Attributes:
      outcomes: One per batch norm and affine, in graph order.
      before: The frozen graph before folding.
      after: The frozen graph after folding.
      tflite: The .tflite; None when there is none.
      gpu: What TensorFlow's analyser says of the .tflite and the GPU delegate; None when it was not asked.
      onnx: The .onnx; None when there is none.
      notes: Sentences on what is not kept, or a fusion that was lost, and warnings.
      sinks: The linear ops that took something, in graph order.
      copied: The weights that are stored several times now.
    """

    outcomes: tuple[Outcome, ...]
    before: Size
    after: Size
    tflite: Size | None = None
    gpu: GpuCompatibility | None = None
    onnx: Size | None = None
    notes: tuple[str, ...] = ()
    sinks: tuple[Sink, ...] = ()
    copied: tuple[Copied, ...] = ()

    def of_kind(self, kind: Kind) -> tuple[Outcome, ...]:
        """Return the outcomes of batch norms or of affines."""
        return tuple(outcome for outcome in self.outcomes if outcome.kind is kind)

    def unfolded(self) -> tuple[Outcome, ...]:
        """Return the batch norms of which something stayed."""
        return tuple(o for o in self.of_kind(Kind.BATCH_NORM) if o.status in (Status.KEPT, Status.PARTLY))


@dataclasses.dataclass(frozen=True)
class Run:
    """How the result was got.

    Attributes:
      command: The command line; empty when called from Python.
      versions: Versions of tf_bnfold, Python and the libraries that matter.
      seconds: Time by step, in order.
      measurements: What verification found, in order; empty when it was not asked for.
      outputs: The files and folders written, by flag.
    """

    command: tuple[str, ...] = ()
    versions: Mapping[str, str] = dataclasses.field(default_factory=dict)
    seconds: Mapping[str, float] = dataclasses.field(default_factory=dict)
    measurements: tuple[Measurement, ...] = ()
    outputs: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Explanation:
    """What is to be said of one node.

    Attributes:
      name: The node.
      op: Its type.
      function: The library function that it is in; "" for the main graph.
      facts: Sentences.
    """

    name: str
    op: str
    function: str
    facts: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Report:
    """What a run did: `result` is deterministic, `run` is not.

    Attributes:
      result: What was folded and what that changed.
      run: How that was got.
      explanations: Of the nodes that were asked about; no part of the JSON.
    """

    result: Result
    run: Run = dataclasses.field(default_factory=Run)
    explanations: tuple[Explanation, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the report in the terms of JSON; docs/report.md describes the fields."""
        result = self.result
        return {
            "schema_version": SCHEMA_VERSION,
            "result": {
                "batch_norms": counts(result.of_kind(Kind.BATCH_NORM)),
                "affines": counts(result.of_kind(Kind.AFFINE)),
                "sites": [_site(outcome) for outcome in result.outcomes],
                "sinks": [_sink(sink) for sink in result.sinks],
                "copied_weights": {
                    "bytes_added": sum(each.bytes_added for each in result.copied),
                    "constants": [dataclasses.asdict(each) for each in result.copied],
                },
                "graph": {"before": _size(result.before), "after": _size(result.after)},
                "tflite": _size(result.tflite) if result.tflite else None,
                "gpu_compatibility": _gpu(result.gpu) if result.gpu else None,
                "onnx": _size(result.onnx) if result.onnx else None,
                "notes": list(result.notes),
            },
            "run": {
                "command": list(self.run.command),
                "versions": dict(self.run.versions),
                "seconds": {step: round(seconds, 3) for step, seconds in self.run.seconds.items()},
                "verification": [_measurement(measurement) for measurement in self.run.measurements],
                "outputs": dict(self.run.outputs),
            },
        }

    def to_json(self) -> str:
        """Return the report as JSON text.

        Raises:
          ValueError: when a measured error is not finite; JSON has no such number.
        """
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def counts(outcomes: tuple[Outcome, ...]) -> dict[str, int]:
    """Return how many sites were found and what became of them, by status."""
    by_status = collections.Counter(outcome.status for outcome in outcomes)
    return {"found": len(outcomes)} | {status.value: by_status[status] for status in Status}


def _size(size: Size) -> dict[str, Any]:
    return {"total": size.total, "bytes": size.bytes, "ops": dict(sorted(size.ops.items()))}


def _gpu(gpu: GpuCompatibility) -> dict[str, Any]:
    return {"checked": gpu.checked, "note": gpu.note, "leaving": [_leaving(op) for op in gpu.leaving]}


def _leaving(op: Leaving) -> dict[str, Any]:
    place = {"subgraph": op.subgraph, "index": op.index}
    return {"op": op.operator.type, "output": op.operator.output, **place, "reason": op.reason}


def _measurement(measurement: Measurement) -> dict[str, Any]:
    quantised = [dataclasses.asdict(output) for output in measurement.quantised]
    left_out = [dataclasses.asdict(each) for each in measurement.left_out]
    fields = dataclasses.asdict(dataclasses.replace(measurement, errors={}))
    fields |= {"quantised": quantised, "left_out": left_out, "skipped": measurement.skipped}
    return {name: value for name, value in fields.items() if name != "errors"}


def _sink(sink: Sink) -> dict[str, Any]:
    ratios = {"before": round(sink.before, 3), "after": round(sink.after, 3)}
    return {"name": sink.name, "op": sink.op, "function": sink.function, "channels": sink.channels, "spread": ratios}


def _site(outcome: Outcome) -> dict[str, Any]:
    refusal = outcome.refusal
    return {
        "name": outcome.name,
        "nodes": list(outcome.nodes),
        "form": outcome.form,
        "kind": outcome.kind.value,
        "channels": outcome.channels,
        "status": outcome.status.value,
        "sinks": list(outcome.sinks),
        "route": list(outcome.route),
        "reason": refusal.reason.name if refusal else None,
        "reason_node": refusal.node if refusal else None,
        "detail": refusal.detail if refusal else None,
        "function": outcome.function,
    }
