"""How folding spreads the ranges of weights, and when that is a warning."""

from __future__ import annotations

import json
import re

import graphs as g
import numpy as np
import pytest
import saved_models
import tensorflow as tf
from checker import build

import tf_bnfold
from tf_bnfold import pipeline
from tf_bnfold.fold import fold_graph
from tf_bnfold.options import Options, Request
from tf_bnfold.outcome import Kind, Outcome, Status
from tf_bnfold.ranges import BOUND, advice, change, is_grown, sinks_of, spread, warnings
from tf_bnfold.report import Sink


def folded(function, keep=""):
    built = build(function)
    folding = fold_graph(built.graph_def, built.outputs, keep=keep)
    return built.graph_def, folding


def sinks(function, keep=""):
    return sinks_of(folded(function, keep)[1].ranges)


def test_spread_is_largest_to_median_of_the_channels_that_live():
    assert spread(np.array([1.0, 2.0, 3.0, 30.0])) == 12
    assert spread(np.array([0.0, 0.0, 0.0, 2.0, 4.0, 6.0])) == 1.5
    assert spread(np.zeros(3)) == spread(np.array([])) == 1
    assert spread(np.array([1.0, np.inf, 3.0])) == 1.5


def range_of(graph_def, axes):
    """The largest |weight| of each output channel of the only linear op."""
    nodes = {node.name: node for node in graph_def.node}
    (weights,) = (
        nodes[name] for node in nodes.values() if node.op in LINEAR for name in node.input if is_large(nodes[name])
    )
    return np.abs(tf.make_ndarray(weights.attr["value"].tensor)).max(axis=axes).ravel()


def is_large(node):
    return node.op == "Const" and len(node.attr["value"].tensor.tensor_shape.dim) > 1


LINEAR = {"Conv2D", "DepthwiseConv2dNative", "Conv2DBackpropInput", "MatMul"}

# Each op with its weights' axes other than that of the output channel.
OPS = {
    "conv": (lambda: g.conv(g.image(), 4, name="op"), (0, 1, 2)),
    "depthwise": (lambda: g.depthwise(g.image(), 2, name="op"), (0, 1)),
    "grouped": (lambda: g.conv(g.image(4), 6, groups=2, name="op"), (0, 1, 2)),
    "transposed": (lambda: g.transposed(g.placeholder(2, 4, 5, 3), 4, name="op"), (0, 1, 3)),
    "dense": (lambda: g.dense(g.rows(), 5, name="op"), (0,)),
}


@pytest.mark.parametrize("op", OPS)
def test_ranges_are_those_of_the_output_channels(op):
    make, axes = OPS[op]
    before, folding = folded(lambda: g.affine(make()))
    (found,) = folding.ranges
    assert (found.name, found.op in LINEAR, found.function) == ("op", True, "")
    np.testing.assert_allclose(found.before, range_of(before, axes), rtol=1e-6)
    np.testing.assert_allclose(found.after, range_of(folding.graph_def, axes), rtol=1e-6)


@pytest.mark.parametrize("behind", [True, False])
def test_ranges_of_what_takes_an_affine_before_it_are_those_of_the_new_weights(behind):
    def network():
        x = tf.nn.softplus(g.image(3))
        x = g.conv(g.affine(x), 4, padding="VALID", name="op")
        return g.affine(x) if behind else tf.nn.relu(x)

    before, folding = folded(network)
    (found,) = folding.ranges
    np.testing.assert_allclose(found.before, range_of(before, (0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(found.after, range_of(folding.graph_def, (0, 1, 2)), rtol=1e-6)


def test_an_offset_alone_changes_no_range():
    _, folding = folded(lambda: g.conv(g.offset(tf.nn.softplus(g.image(3))), 4, padding="VALID", name="op"))
    (found,) = folding.ranges
    np.testing.assert_array_equal(found.before, found.after)


def blown_up():
    """A depthwise op, one of whose channels was nearly constant in training: its variance is tiny."""
    variance = np.full(8, 1.0)
    variance[3] = 1e-6
    depthwise = g.depthwise(g.image(8), name="depthwise")
    norm = g.norm(depthwise, gamma=g.numbers(np.ones(8)), variance=g.numbers(variance), epsilon=1e-9, name="bn")
    return g.norm(g.conv(tf.nn.relu(norm), 4, name="conv"), name="bn2")


def test_a_depthwise_op_that_the_fold_blows_up_is_found():
    depthwise, conv = sinks(blown_up)
    assert (depthwise.name, depthwise.op, depthwise.channels) == ("depthwise", "DepthwiseConv2dNative", 8)
    assert depthwise.before < 3
    assert depthwise.after > 300
    assert conv.after < BOUND


def test_what_takes_nothing_is_no_sink():
    assert [sink.name for sink in sinks(blown_up, keep="bn$")] == ["conv"]
    assert sinks(lambda: g.conv(g.image(), 4)) == ()


def test_sinks_in_functions_are_found_by_function():
    @tf.function(input_signature=[tf.TensorSpec([None, 4, 4, 4])], experimental_implements=None)
    def body(x):
        return g.norm(g.conv(x, 3, 1, name="conv"), name="bn")

    _, folding = folded(lambda: body.get_concrete_function()(g.conv(g.image(3, 4), 4, (1, 2), name="conv")))
    (sink,) = sinks_of(folding.ranges)
    assert sink.name == "conv"
    assert sink.function


OUTCOME = Outcome("bn", ("bn",), "FusedBatchNormV3", Kind.BATCH_NORM, 4, Status.UP, ("conv",))


@pytest.mark.parametrize(
    ("before", "after", "warns"), [(1, 15.9, False), (1, 16.1, True), (10, 19, False), (20, 500, True)]
)
def test_a_warning_comes_beyond_the_bound_and_where_it_has_grown(before, after, warns):
    found = list(warnings([Sink("conv", "Conv2D", "", 4, before, after)], [OUTCOME]))
    assert bool(found) == warns


def test_the_warning_names_the_worst_and_what_helps():
    listed = [Sink(f"conv{n}", "Conv2D", "", 4, 1.0, 20.0 + n) for n in range(4)]
    listed.append(Sink("conv", "Conv2D", "", 4, 1.5, 640.0))
    (text,) = warnings(listed, [OUTCOME])
    assert text == (
        "folding spread the channel ranges of 5 weights (largest / median) beyond 16: conv 1.5 to 640, conv3 1 to 23, "
        "conv2 1 to 22, and 2 more; with one scale per channel, as TFLite has, that costs little, with one per tensor "
        "a lot: look at the SQNR, and if it is low, give --quantize=int16x8, or leave that batch norm alone, as with "
        "--keep='bn'"
    )


@pytest.fixture(scope="module")
def fragile(tmp_path_factory) -> str:
    """A SavedModel of the graph that is blown up."""

    def call(image):
        variance = np.full(8, 1.0)
        variance[3] = 1e-6
        random = np.random.default_rng(0)
        depthwise = tf.nn.depthwise_conv2d(image, random.normal(size=(3, 3, 8, 1)).astype("f"), [1, 1, 1, 1], "SAME")
        ones = np.ones(8, np.float32)
        parameters = (ones, 0 * ones, 0 * ones, variance.astype(np.float32), 1e-9)
        gamma, beta, mean, variance, epsilon = parameters
        norm, *_ = tf.raw_ops.FusedBatchNormV3(
            x=depthwise, scale=gamma, offset=beta, mean=mean, variance=variance, epsilon=epsilon, is_training=False,
            name="norm",
        )  # fmt: skip
        return {"y": tf.nn.relu6(norm)}

    path = str(tmp_path_factory.mktemp("fragile") / "model")
    return saved_models.saved(path, call, tf.TensorSpec([None, 6, 6, 8], name="image"))


def test_the_report_has_each_sink_and_a_quantised_model_the_warning(fragile, tmp_path):
    options = Options(quantize="dynamic")
    report_file = tmp_path / "report.json"
    request = Request(fragile, tflite=str(tmp_path / "o.tflite"), report=str(report_file), options=options)
    report = pipeline.run(request)
    (sink,) = json.loads(report_file.read_text(encoding="utf-8"))["result"]["sinks"]
    assert sink["op"] == "DepthwiseConv2dNative"
    assert sink["spread"]["before"] < 3
    assert sink["spread"]["after"] > 300
    (warning,) = (note for note in report.result.notes if "channel ranges" in note)
    assert f"{sink['name']} {sink['spread']['before']:.3g} to" in warning
    kept = warning.split("--keep='")[1].rstrip("'")
    again = pipeline.run(Request(fragile, tflite=request.tflite, options=Options(quantize="dynamic", keep=kept)))
    assert not any("channel ranges" in note for note in again.result.notes)
    assert again.result.sinks == ()


def test_a_float_model_is_not_warned_of(fragile, tmp_path):
    report = tf_bnfold.convert(fragile, tmp_path / "o.tflite", Options(quantize="float16"))
    assert report.result.sinks[0].after > 300
    assert not any("channel ranges" in note for note in report.result.notes)


def test_a_folded_graph_def_has_its_sinks_too():
    built = build(blown_up)
    assert len(tf_bnfold.fold_graph_def(built.graph_def, built.outputs).report.result.sinks) == 2


def test_the_sinks_that_changed_most_have_the_range_of_every_channel():
    depthwise, conv = sinks(blown_up)
    before, after = depthwise.ranges
    assert len(before) == len(after) == depthwise.channels
    assert max(after) / np.median(after) == pytest.approx(depthwise.after)
    assert change(depthwise) > change(conv) >= 1


def test_of_many_sinks_only_some_have_all_ranges():
    def many():
        x = g.image(4, 30)
        for number in range(12):
            x = tf.nn.relu(g.norm(g.conv(x, 4, kernel=1, name=f"conv{number}"), name=f"bn{number}"))
        return x

    found = sinks(many)
    detailed = [sink for sink in found if sink.ranges]
    assert (len(found), len(detailed)) == (12, 8)
    assert min(map(change, detailed)) >= max(change(sink) for sink in found if not sink.ranges)


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        (1.5, 40.0, "int8 leaves the median channel 3.2 steps .* as with --keep='bn'"),
        (30.0, 40.0, "not the fold's doing"),
        (1.5, 4.0, "Harmless: .* 32 steps"),
    ],
)
def test_advice_is_by_what_folding_did(before, after, words):
    outcome = Outcome("bn", ("bn",), "Mul", Kind.BATCH_NORM, 4, Status.UP, ("conv",))
    sink = Sink("conv", "Conv2D", "", 4, before, after)
    assert re.search(words, advice(sink, [outcome]))
    assert is_grown(sink) is ("keep" in words)


def scaled_input(factors):
    x = tf.raw_ops.Sub(x=g.rows(), y=g.const(4))
    return g.dense(tf.raw_ops.Mul(x=x, y=g.numbers(factors), name="normal"), 5)


def test_features_of_an_input_that_lost_their_scales_are_a_warning():
    _, folding = folded(lambda: scaled_input([100.0, 1.0, 0.0, -2.0]))
    (outcome,) = folding.outcomes
    assert (outcome.status, outcome.input_spread) == (Status.DOWN, 100)
    (text,) = warnings((), folding.outcomes)
    assert text.startswith("normal scales the features of an input by factors that are up to 100 times apart, and was")
    assert text.endswith("--keep='normal'")


def test_features_of_like_ranges_are_none():
    _, folding = folded(lambda: scaled_input([4.3, 4.5, 4.4, 4.2]))
    assert list(warnings((), folding.outcomes)) == []
    _, folding = folded(lambda: g.conv(g.affine(tf.nn.softplus(g.image(4))), 3, 1))
    assert [outcome.input_spread for outcome in folding.outcomes] == [1]


def test_what_would_be_warned_of_stays_with_quantisation(tmp_path):
    with tf.Graph().as_default() as graph:
        tf.identity(scaled_input([100.0, 1.0, 3.0, -2.0]), name="out")
    (tmp_path / "net.pb").write_bytes(graph.as_graph_def().SerializeToString())
    for quantize, status in (("none", Status.DOWN), ("float16", Status.DOWN), ("dynamic", Status.KEPT)):
        target = str(tmp_path / f"{quantize}.tflite")
        options = Options(quantize=quantize, verify=False)
        report = pipeline.run(Request(frozen_graph=str(tmp_path / "net.pb"), tflite=target, options=options))
        assert [outcome.status for outcome in report.result.outcomes] == [status]
        assert not any("scales the features of an input" in note for note in report.result.notes)
