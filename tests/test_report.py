"""The report as values and as JSON; docs/report.md describes the schema that is held here."""

from __future__ import annotations

import dataclasses
import json
import re

import pytest

from tf_bnfold.gpu import GpuCompatibility, Leaving, Operator
from tf_bnfold.outcome import Copied, Kind, Outcome, Status
from tf_bnfold.reasons import Reason, Refusal
from tf_bnfold.report import Explanation, Measurement, Omission, OutputQuality, Report, Result, Run, Sink, Size

NOISE = (Omission("random or stateful", 1, "noise:0"),)

FOLDED = Outcome("bn1", ("bn1",), "FusedBatchNormV3", Kind.BATCH_NORM, 8, Status.UP, ("conv1",), ("relu",))
PARTLY = Outcome(
    "bn2/add", ("bn2/mul", "bn2/add"), "Mul+AddV2", Kind.BATCH_NORM, 16, Status.PARTLY, ("conv2",),
    refusal=Refusal(Reason.ZERO_PADDING, "conv3"),
)  # fmt: skip
KEPT = Outcome(
    "bn3", ("bn3",), "FusedBatchNormV3", Kind.BATCH_NORM, 1, Status.KEPT,
    refusal=Refusal(Reason.SHARED, "conv4", "read by a and b"), function="body",
)  # fmt: skip
AFFINE = Outcome("scale", ("scale",), "Mul", Kind.AFFINE, 3, Status.DOWN, ("conv5",))

QUALITY = (OutputQuality("serve: out", 0.01, 41.5, 0.96, 10.0), OutputQuality("serve: best", None, None, None, None))

REPORT = Report(
    Result(
        (FOLDED, PARTLY, KEPT, AFFINE),
        before=Size({"FusedBatchNormV3": 2, "Conv2D": 5}, 1000),
        after=Size({"Conv2D": 5, "FusedBatchNormV3": 1}, 900),
        tflite=Size({"CONV_2D": 5}, 800),
        gpu=GpuCompatibility(5, (Leaving(Operator("TOPK_V2", "top"), 0, 4, "Not supported op TOPK_V2"),)),
        onnx=Size({"Conv": 5, "Relu": 4}, 850),
        notes=("The function f was inlined.",),
        sinks=(Sink("conv1", "Conv2D", "", 8, 1.50049, 12.0),),
        copied=(Copied("weights", 2, 400), Copied("kernel", 1, 100, "body")),
    ),
    Run(
        command=("tf_bnfold", "--saved_model=m"),
        versions={"tf_bnfold": "0.1.0"},
        seconds={"load": 1.23456},
        measurements=(
            Measurement(
                "folded graph with SavedModel", True, 4, 3, NOISE, 1e-7, 1e-3, "out:0", {"argmax:0": 0.25}, "", QUALITY
            ),
            Measurement(".tflite with folded graph", False, note="it can't run here"),
        ),
        outputs={"tflite": "m.tflite"},
    ),
)


def test_counts_are_by_kind_and_status():
    result = json.loads(REPORT.to_json())["result"]
    none = {"folded_up": 0, "folded_down": 0, "folded_in_halves": 0, "partly_folded": 0, "kept": 0}
    assert result["batch_norms"] == none | {"found": 3, "folded_up": 1, "partly_folded": 1, "kept": 1}
    assert result["affines"] == none | {"found": 1, "folded_down": 1}
    assert REPORT.result.unfolded() == (PARTLY, KEPT)


def test_a_site_says_all_that_its_outcome_says():
    folded, _, kept, affine = json.loads(REPORT.to_json())["result"]["sites"]
    assert folded == {
        "name": "bn1",
        "nodes": ["bn1"],
        "form": "FusedBatchNormV3",
        "kind": "batch_norm",
        "channels": 8,
        "status": "folded_up",
        "sinks": ["conv1"],
        "route": ["relu"],
        "reason": None,
        "reason_node": None,
        "detail": None,
        "function": "",
    }
    assert (kept["reason"], kept["reason_node"], kept["detail"], kept["function"]) == (
        "SHARED",
        "conv4",
        "read by a and b",
        "body",
    )
    assert affine["kind"] == "affine"


def test_sinks_have_the_spread_of_their_weights():
    assert json.loads(REPORT.to_json())["result"]["sinks"] == [
        {"name": "conv1", "op": "Conv2D", "function": "", "channels": 8, "spread": {"before": 1.5, "after": 12.0}}
    ]


def test_copied_weights_say_the_bytes_that_they_add():
    assert json.loads(REPORT.to_json())["result"]["copied_weights"] == {
        "bytes_added": 500,
        "constants": [
            {"name": "weights", "copies": 2, "bytes_added": 400, "function": ""},
            {"name": "kernel", "copies": 1, "bytes_added": 100, "function": "body"},
        ],
    }


def test_sizes_are_before_and_after():
    result = json.loads(REPORT.to_json())["result"]
    assert result["graph"]["before"] == {"total": 7, "bytes": 1000, "ops": {"Conv2D": 5, "FusedBatchNormV3": 2}}
    assert result["graph"]["after"]["total"] == 6
    assert result["tflite"] == {"total": 5, "bytes": 800, "ops": {"CONV_2D": 5}}
    assert result["onnx"] == {"total": 9, "bytes": 850, "ops": {"Conv": 5, "Relu": 4}}
    empty = Report(Result((), Size({}, 0), Size({}, 0))).to_dict()["result"]
    assert empty["tflite"] is empty["onnx"] is empty["gpu_compatibility"] is None


def test_equal_results_give_equal_bytes_whatever_the_run():
    other = Report(REPORT.result, Run(seconds={"load": 9.0}))
    assert json.dumps(other.to_dict()["result"]) == json.dumps(REPORT.to_dict()["result"])


def test_run_says_how_it_was_got():
    run = json.loads(REPORT.to_json())["run"]
    assert run["command"] == ["tf_bnfold", "--saved_model=m"]
    assert run["seconds"] == {"load": 1.235}
    assert run["outputs"] == {"tflite": "m.tflite"}
    measured, failed = run["verification"]
    assert measured == {
        "compared": "folded graph with SavedModel",
        "verified": True,
        "tensors": 4,
        "samples": 3,
        "skipped": 1,
        "left_out": [{"reason": "random or stateful", "count": 1, "first": "noise:0"}],
        "error": 1e-7,
        "limit": 1e-3,
        "worst": "out:0",
        "differing": {"argmax:0": 0.25},
        "note": "",
        "quantised": [
            {"name": "serve: out", "error": 0.01, "sqnr": 41.5, "top1": 0.96, "floor": 10.0},
            {"name": "serve: best", "error": None, "sqnr": None, "top1": None, "floor": None},
        ],
        "by_rounding": 0,
    }
    assert (failed["verified"], failed["error"]) == (False, None)


def test_what_only_the_page_shows_is_not_in_the_json():
    sink = dataclasses.replace(REPORT.result.sinks[0], ranges=((1.0, 2.0), (3.0, 4.0)))
    result = dataclasses.replace(REPORT.result, sinks=(sink,))
    measured = dataclasses.replace(REPORT.run.measurements[0], errors={"a:0": 0.5})
    run = dataclasses.replace(REPORT.run, measurements=(measured, REPORT.run.measurements[1]))
    explained = Report(result, run, (Explanation("a", "Relu", "", ("It is.",)),))
    assert explained.to_json() == REPORT.to_json()


def test_json_has_no_nan():
    report = Report(REPORT.result, Run(measurements=(Measurement("a with b", False, error=float("nan")),)))
    with pytest.raises(ValueError, match="not JSON compliant"):
        report.to_json()


def keys(value, path=""):
    """Yield the path of every field; below a mapping from names that the model chooses there is none."""
    if isinstance(value, list):
        value = value[0] if value and isinstance(value[0], dict) else {}
        path += "[]"
    for key, inner in value.items():
        here = f"{path}.{key}".lstrip(".")
        yield here
        if isinstance(inner, (dict, list)) and key not in {"ops", "versions", "seconds", "outputs", "differing"}:
            yield from keys(inner, here)


def test_every_field_is_described_in_the_docs_and_every_field_of_the_docs_is_there(pytestconfig):
    text = (pytestconfig.rootpath / "docs" / "report.md").read_text(encoding="utf-8")
    described = set(re.findall(r"^\| `([^`]+)` \|", text, re.MULTILINE))
    assert described == set(keys(REPORT.to_dict()))
