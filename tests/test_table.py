"""The report as text."""

from __future__ import annotations

import dataclasses
import math

import pytest

from tf_bnfold.outcome import Kind, Outcome, Status
from tf_bnfold.reasons import Reason, Refusal
from tf_bnfold.report import Explanation, Measurement, Omission, OutputQuality, Report, Result, Run, Size
from tf_bnfold.table import explanation_text, table

NOISE = (Omission("random or stateful", 2, "noise:0"),)

NONE = Size({}, 0)


def norm(name: str, status: Status = Status.UP, refusal: Refusal | None = None, **fields: object) -> Outcome:
    return Outcome(name, (name,), "FusedBatchNormV3", Kind.BATCH_NORM, 8, status, refusal=refusal, **fields)


def text(*outcomes: Outcome, width: int = 80, colour: bool = False, run: Run | None = None) -> str:
    return table(Report(Result(outcomes, NONE, NONE), run or Run()), width=width, colour=colour)


def test_a_whole_report():
    affine = Outcome("scale", ("scale",), "Mul", Kind.AFFINE, 3, Status.KEPT, refusal=Refusal(Reason.NO_LAW, "tanh"))
    report = Report(
        Result(
            (
                norm("bn1"),
                norm("bn2", Status.PARTLY, Refusal(Reason.ZERO_PADDING, "conv3"), sinks=("conv2",)),
                norm("bn3", Status.KEPT, Refusal(Reason.SHARED, "conv4", "read by a and b"), function="body"),
                norm("bn4", Status.KEPT, Refusal(Reason.SHARED, "conv5")),
                affine,
            ),
            before=Size({"FusedBatchNormV3": 4, "Conv2D": 5}, 10000),
            after=Size({"FusedBatchNormV3": 2, "Conv2D": 5, "AddV2": 1}, 9000),
            tflite=Size({"CONV_2D": 5, "ADD": 1}, 8000),
            onnx=Size({"Conv": 5, "Add": 1}, 8500),
            notes=("The function f was inlined.",),
        ),
        Run(
            seconds={"load": 1.23, "fold": 0.04},
            measurements=(
                Measurement(
                    "SavedModel and folded graph", True, 4, 3, NOISE, 1.25e-7, 1e-3, "out:0", {"argmax:0": 0.25}
                ),
                Measurement("folded graph and .tflite", True, 1, 3, (), 2e-6, 1e-3, "out:0"),
            ),
            outputs={"tflite": "m.tflite", "report": "r.json"},
        ),
    )
    expected = """\
4 batch norms: 1 folded into ops before them, 1 folded in part, 2 kept.
1 other per-channel op (Mul, Add, ... by a constant): all kept.

2 not folded: the value that would change has another reader (SHARED)
  bn3
      FusedBatchNormV3, 8 channels; in function body; look at conv4 (read by a
      and b)
  bn4
      FusedBatchNormV3, 8 channels; look at conv5
  What helps: let the other reader read the batch norm's output, or give it a
    linear op of its own.

1 not folded: an offset does not pass zero padding: the border would change
  (ZERO_PADDING)
  bn2
      FusedBatchNormV3, 8 channels; the other half went into conv2; look at
      conv3
  What helps: put the batch norm behind the convolution, or pad nothing (VALID).

Graph               before  after
ops                      9      8
  AddV2                  0      1
  FusedBatchNormV3       4      2
bytes               10,000  9,000

TFLite: 8,000 bytes, 6 ops: 5 CONV_2D, 1 ADD

ONNX: 8,500 bytes, 6 ops: 5 Conv, 1 Add

Verified
  SavedModel and folded graph: largest error 1.2e-07 at out:0, within the limit
    1e-03; behind discontinuous ops up to 25.00% of the elements differ; not
    compared: noise:0 and 1 more (random or stateful)
  folded graph and .tflite: largest error 2.0e-06 at out:0, within the limit
    1e-03

Notes
  The function f was inlined.

Wrote m.tflite
Wrote r.json
Seconds: load 1.2, fold 0.0"""
    assert table(report, width=80, colour=False) == expected


@pytest.mark.parametrize(
    ("outcomes", "head"),
    [
        ((), "No batch norm found."),
        ((norm("a"),), "1 batch norm: all folded into ops before them."),
        ((norm("a"), norm("b")), "2 batch norms: all folded into ops before them."),
        (
            (norm("a"), norm("b", Status.DOWN), norm("c", Status.HALVES)),
            "3 batch norms: 1 folded into ops before them, 1 folded into ops behind them, "
            "1 folded with scale and offset apart.",
        ),
    ],
)
def test_the_first_line_is_the_summary(outcomes, head):
    assert text(*outcomes).splitlines()[0] == head


def test_colour_tells_whether_all_are_folded():
    assert text(norm("a"), colour=True).startswith("\033[1;32m1 batch norm: ")
    assert text(norm("a", Status.KEPT), colour=True).startswith("\033[1;33m1 batch norm: ")
    assert "\033" not in text(norm("a"))


def test_a_long_list_is_cut_and_says_where_the_rest_is():
    shown = text(*(norm(f"bn{i}", Status.KEPT, Refusal(Reason.SHARED, f"conv{i}")) for i in range(100)))
    assert "100 not folded" in shown
    assert "bn9\n" in shown
    assert "bn10\n" not in shown
    assert "... and 90 more; --report FILE.json has them all" in shown


def test_names_stay_whole_on_a_narrow_terminal_and_all_else_fits():
    name = "functional_1/" + "a-very-long_name/" * 4
    shown = text(norm(name, Status.KEPT, Refusal(Reason.NEEDS_POSITIVE_SCALE, name)), width=40)
    assert shown.count(name) == 2
    assert all(len(line) <= 40 for line in shown.splitlines() if name not in line)


def test_it_says_when_nothing_was_verified_or_written():
    shown = text()
    assert "Not verified (--noverify)." in shown
    assert "Nothing written." in shown


def test_one_failed_comparison_makes_it_not_verified():
    good = Measurement("a and b", True, 1, 3, (), 1e-7, 1e-3, "x")
    impossible = dataclasses.replace(good, verified=False, error=None, note="the op Foo has no kernel here")
    shown = text(run=Run(measurements=(good, impossible)))
    assert "Not verified\n" in shown
    assert "a and b; the op Foo has no kernel here" in shown
    shown = text(run=Run(measurements=(good, dataclasses.replace(good, verified=False, error=float("inf")))))
    assert "Not verified\n" in shown
    assert "a and b: largest error inf at x, ABOVE the limit 1e-03" in shown


def test_equal_is_said_in_words():
    assert "a and b: no difference" in text(run=Run(measurements=(Measurement("a and b", True, error=0.0),)))


def test_outputs_of_a_quantised_model_come_worst_first():
    outputs = (
        OutputQuality("serve: a", 0.012, 38.25, 0.984, 10.0),
        OutputQuality("serve: b", 0.5, 4.5, None, 10.0),
        OutputQuality("serve: c", 0.0, None, 1.0, 10.0),
        OutputQuality("serve: best", None, None, None, None),
        *(OutputQuality(f"serve: {n}", 0.001, 50.0, None, None) for n in range(9)),
    )
    measured = Measurement("int8 .tflite with the folded graph", False, samples=3, quantised=outputs)
    lines = text(run=Run(measurements=(measured,)), width=120).splitlines()
    start = lines.index("Not verified")
    assert lines[start + 1 : start + 4] == [
        "  int8 .tflite with the folded graph, 3 runs",
        "    serve: b: largest error 5.0e-01, SQNR 4.5 dB, BELOW the floor 10 dB",
        "    serve: a: largest error 1.2e-02, SQNR 38.2 dB, same top class in 98.4%",
    ]
    assert lines[start + 12] == "    ... and 3 better ones; --report FILE.json has them all"
    few = Measurement("int8", True, samples=1, quantised=outputs[2:4])
    shown = text(run=Run(measurements=(few,)), width=120)
    assert "    serve: c: no difference, same top class in 100.0%\n    serve: best: integers\n" in shown
    broken = Measurement("int8", False, samples=1, quantised=(OutputQuality("serve: a", math.inf, None, None, None),))
    assert "    serve: a: values that are not finite" in text(run=Run(measurements=(broken,)))


def test_what_helps_is_told_for_both_ways():
    up, down = Refusal(Reason.GRAPH_INPUT, "x"), Refusal(Reason.ZERO_PADDING, "conv")
    both = Refusal(Reason.GRAPH_INPUT, "x", f"behind it: {down}", (up, down))
    shown = " ".join(text(norm("bn", Status.KEPT, both)).split())
    assert f"What helps: {Reason.GRAPH_INPUT.remedy}; or {Reason.ZERO_PADDING.remedy}." in shown
    assert text(norm("bn", Status.KEPT, up)).count("; or ") == 0


def test_a_long_list_of_ops_keeps_to_the_width():
    size = Size({f"SOME_LONG_NAME_{number}": number for number in range(30)}, 10)
    shown = table(Report(Result((), NONE, NONE, tflite=size, onnx=size)), width=60, colour=False)
    assert max(map(len, shown.splitlines())) <= 60


def test_explanations_are_wrapped_under_their_node():
    fact = "It took what was folded: " + ", ".join(f"block{number}/bn" for number in range(9)) + "."
    explanations = (
        Explanation("conv", "Conv2D", "", (fact, "It is there.")),
        Explanation("bn", "Mul", "body", ("A batch norm.",)),
    )
    shown = explanation_text(explanations, width=50, colour=False)
    assert shown.splitlines()[0] == "conv: Conv2D"
    assert "\n  It is there.\n\nbn: Mul, in function body\n  A batch norm." in shown
    assert max(map(len, shown.splitlines())) <= 50
    assert explanation_text(explanations, width=50, colour=True).startswith("\033[1mconv\033[0m: Conv2D\n")
