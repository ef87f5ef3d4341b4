"""Which ops would leave the GPU delegate: the analyser's text as values, and that an empty verdict is none."""

from __future__ import annotations

import json
import sys

import in_process
import pytest
import saved_models
import tensorflow as tf

from tf_bnfold import Options, cli, fold_saved_model
from tf_bnfold.errors import FlagError
from tf_bnfold.flatbuffer import operators
from tf_bnfold.formats import analyser
from tf_bnfold.gpu import GpuCompatibility, Leaving, Operator, read_analysis

# What the analyser of TensorFlow 2.16.2 prints of a model with two signatures, without the tensors.
TEXT = """\
=== TFLite ModelAnalyzer ===

Your TFLite model has '4' subgraph(s). In the subgraph description below,
T# represents the Tensor numbers. For example, in Subgraph#0, the WHILE op takes
tensor #1 and tensor #0 as input and produces tensor #2 and tensor #3 as output.

Subgraph#0 a(T#0) -> [T#3]
  Op#0 WHILE(T#1[0], T#0, Cond: Subgraph#2, Body: Subgraph#3) -> [T#2, T#3]
GPU COMPATIBILITY WARNING: Not supported op WHILE

GPU COMPATIBILITY WARNING: Subgraph#0 has GPU delegate compatibility issues at nodes 0 on TFLite runtime version 2.16.2

Tensors of Subgraph#0
  T#0(a_x:0) shape:[1, 4, 4, 3], type:FLOAT32

Subgraph#1 b(T#1_0) -> [T#1_19]
  Op#0 STRIDED_SLICE(T#1_0, T#1_8[0, 0, 0, 0], T#1_9[0, 0, 4, 3], T#1_10[1, -1, 1, 1]) -> [T#1_11]
  Op#1 TOPK_V2(T#1_11, T#1_7[1]) -> [T#1_12, T#1_13]
GPU COMPATIBILITY WARNING: Not supported op TOPK_V2
  Op#2 STRIDED_SLICE(T#1_14, T#1_5[0, 0, 0, 0, 0], T#1_5[0, 0, 0, 0, 0], T#1_4[1, 1, 1, 1, 1]) -> [T#1_15]
GPU COMPATIBILITY WARNING: STRIDED_SLICE supports for 3 or 4 dimensional tensors only.
  Op#3 FlexMaxPool3D(T#1_15) -> [T#1_16]
GPU COMPATIBILITY WARNING: Not supported custom op FlexMaxPool3D

GPU COMPATIBILITY WARNING: Subgraph#1 has GPU delegate compatibility issues at nodes 1, 2, 3 on \
TFLite runtime version 2.16.2

Subgraph#2 while_cond(T#2_0, T#2_1) -> [T#2_3]
  Op#0 LESS(T#2_0, T#2_2[3]) -> [T#2_3]

---------------------------------------------------------------
Your TFLite model has '2' signature_def(s).

Signature#0 key: 'a'
- Subgraph: Subgraph#0
"""
WHILE, SLICE, TOP, SLICE5, POOL, LESS = (
    Operator("WHILE", "while"),
    Operator("STRIDED_SLICE", "slice"),
    Operator("TOPK_V2", "top"),
    Operator("STRIDED_SLICE", "slice5"),
    Operator("FlexMaxPool3D", "pool"),
    Operator("LESS", "less"),
)
OPS = ((WHILE,), (SLICE, TOP, SLICE5, POOL), (LESS,))
WARNING = "GPU COMPATIBILITY WARNING:"
COMPATIBLE = (
    "Subgraph#0 a(T#0) -> [T#3]\n  Op#0 RELU(T#0) -> [T#3]\n\nYour model looks compatible with GPU delegate on ...\n"
)


def test_the_text_becomes_values():
    verdict = read_analysis(TEXT, OPS)
    assert verdict == GpuCompatibility(
        6,
        (
            Leaving(WHILE, 0, 0, "Not supported op WHILE"),
            Leaving(TOP, 1, 1, "Not supported op TOPK_V2"),
            Leaving(SLICE5, 1, 2, "STRIDED_SLICE supports for 3 or 4 dimensional tensors only."),
            Leaving(POOL, 1, 3, "Not supported custom op FlexMaxPool3D"),
        ),
    )
    assert verdict.checked
    assert read_analysis(COMPATIBLE, ((Operator("RELU", "y"),),)) == GpuCompatibility(1)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "=== TFLite ModelAnalyzer ===",
        TEXT.replace("at nodes 1, 2, 3", "at nodes 1, 3"),
        TEXT.replace("GPU COMPATIBILITY WARNING: Not supported op WHILE\n", ""),
        TEXT.replace("  Op#0 WHILE", "  Op#1 WHILE").replace("nodes 0", "nodes 1"),
        TEXT.replace("Subgraph#1", "Subgraph#7"),
    ],
    ids=[
        "nothing",
        "no verdict",
        "an op more",
        "an op less",
        "an op that is not there",
        "a subgraph that is not there",
    ],
)
def test_a_text_that_is_not_understood_is_no_verdict(text):
    verdict = read_analysis(text, OPS)
    assert not verdict.checked
    assert verdict.leaving == ()
    assert list(verdict.lines()) == ["not checked: the analyser's text has a form that is not known here"]


def test_the_words_are_by_reason_and_name_the_first_ops():
    same = tuple(Leaving(Operator("CAST", f"c{i}"), 0, i, "Not supported Cast case.") for i in range(5))
    other = tuple(Leaving(Operator(op, op.lower()), 0, 9, "Expected 1 runtime input.") for op in ("SUM", "MEAN"))
    assert list(GpuCompatibility(9, same + other).lines()) == [
        "7 of 9 ops would leave it for the CPU, by TensorFlow's analyser:",
        "  Not supported Cast case: CAST c0, CAST c1, CAST c2 and 2 more",
        "  Expected 1 runtime input: SUM sum, MEAN mean",
    ]
    assert list(GpuCompatibility(9, same[:0]).lines()) == ["takes all 9 ops, by TensorFlow's analyser"]
    lone = GpuCompatibility(6, (Leaving(TOP, 1, 1, "Not supported op TOPK_V2"),))
    assert list(lone.lines())[1] == "  Not supported op TOPK_V2: top"


def test_operators_are_those_of_the_file():
    content = analyser._incompatible()
    assert [[op.type for op in ops] for ops in operators(content)] == [["UNIQUE"]]
    assert operators(content)[0][0].output


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    """A SavedModel with an op that the delegate takes and two that it does not."""

    def top(x):
        return {"y": tf.nn.top_k(tf.nn.relu(x)).values, "z": tf.nn.top_k(-x).values}

    folder = str(tmp_path_factory.mktemp("gpu") / "model")
    return saved_models.saved(folder, top, tf.TensorSpec([1, 8], name="x"), variables=[])


def convert(model: str, tmp_path, monkeypatch, *flags: str) -> dict:
    monkeypatch.setattr(cli.runner, "run", in_process.run)
    outputs = (f"--tflite={tmp_path / 'm.tflite'}", f"--report={tmp_path / 'r.json'}")
    assert cli.main(["tf_bnfold", f"--saved_model={model}", *outputs, *flags]) == 0
    return json.loads((tmp_path / "r.json").read_text())["result"]["gpu_compatibility"]


def test_without_a_tflite_there_is_nothing_to_ask_about(model, tmp_path):
    with pytest.raises(FlagError, match=r"--gpu_compatibility is for a \.tflite: give --tflite FILE, or drop it"):
        fold_saved_model(model, str(tmp_path / "folded"), Options(gpu_compatibility=True))


def test_nothing_is_said_where_nothing_was_asked(model, tmp_path, monkeypatch, capsys):
    assert convert(model, tmp_path, monkeypatch) is None
    assert "GPU" not in capsys.readouterr().out


def test_the_analyser_that_is_installed_gives_a_verdict_or_it_is_said_that_it_gives_none(
    model, tmp_path, monkeypatch, capsys
):
    found = convert(model, tmp_path, monkeypatch, "--gpu_compatibility")
    out = " ".join(capsys.readouterr().out.split())
    if tuple(map(int, tf.__version__.split(".")[:2])) < (2, 18):
        assert found["checked"]
        assert [op["op"] for op in found["leaving"]] == ["TOPK_V2", "TOPK_V2"]
        assert {op["reason"] for op in found["leaving"]} == {"Not supported op TOPK_V2"}
        assert "GPU delegate 2 of " in out
    else:
        assert (found["checked"], found["leaving"]) == (False, [])
        assert f"the analyser of TensorFlow {tf.__version__} calls every model compatible" in found["note"]
        assert "GPU delegate not checked: the analyser of TensorFlow" in out


def test_with_an_analyser_that_checks_the_verdict_is_in_the_report(model, tmp_path, monkeypatch, capsys):
    def analyze(model_content, gpu_compatibility):
        """Print what the analyser of TensorFlow 2.16.2 prints where two types of ops are not supported."""
        assert gpu_compatibility
        for i, ops in enumerate(operators(model_content)):
            sys.stdout.write(f"Subgraph#{i} main(T#0) -> [T#3]\n")
            left = [j for j, op in enumerate(ops) if op.type in ("TOPK_V2", "UNIQUE")]
            for j, op in enumerate(ops):
                sys.stdout.write(f"  Op#{j} {op.type}(T#0) -> [T#1]\n")
                sys.stdout.write(f"{WARNING} Not supported op {op.type}\n" * (j in left))
            places = ", ".join(map(str, left))
            sys.stdout.write(f"\n{WARNING} Subgraph#{i} has GPU delegate compatibility issues at nodes {places} on T\n")

    monkeypatch.setattr(tf.lite.experimental.Analyzer, "analyze", staticmethod(analyze))
    found = convert(model, tmp_path, monkeypatch, "--gpu_compatibility")
    assert found["checked"]
    assert [op["reason"] for op in found["leaving"]] == ["Not supported op TOPK_V2"] * 2
    assert "GPU delegate\n  2 of " in capsys.readouterr().out
