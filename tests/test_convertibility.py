"""What the stock converter refuses converts here: batch norms of its blind spots, and custom ops."""

from __future__ import annotations

import subprocess
import sys

import frozen_graphs as f
import graphs as g
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from checker import build
from frozen_graphs import IMAGE, run, saved, v1
from tensorflow.core.framework import graph_pb2

import tf_bnfold
from tf_bnfold import pipeline, verify
from tf_bnfold.errors import ConverterError, InputError
from tf_bnfold.formats.convertible import convertible
from tf_bnfold.formats.custom_ops import register_custom_ops
from tf_bnfold.formats.frozen_graph import load_frozen_graph
from tf_bnfold.formats.saved_model import save_saved_model
from tf_bnfold.formats.surgery import Surgery
from tf_bnfold.options import Options, Request
from tf_bnfold.outcome import Kind, Status
from tf_bnfold.report import Report


def convert(graph_def, tmp_path, **options) -> Report:
    path = saved(tmp_path / "net.pb", graph_def)
    report = pipeline.run(Request(frozen_graph=path, tflite=str(tmp_path / "out.tflite"), options=Options(**options)))
    assert [measurement.verified for measurement in report.run.measurements] == [True] * 3
    return report


def stock(graph_def, tmp_path) -> bytes:
    """Convert with TensorFlow's converter alone."""
    save_saved_model(load_frozen_graph(saved(tmp_path / "stock.pb", graph_def)), str(tmp_path / "stock"))
    return tf.lite.TFLiteConverter.from_saved_model(str(tmp_path / "stock")).convert()


def version_2(training: bool = False):
    g.norm(tf.tanh(g.image(4)), version=2, training=training, name="bn")


def shared_gamma() -> tf.Tensor:
    return tf.abs(g.placeholder(4, name="gamma"))


GLOBAL = {
    "constant": lambda: g.tf1_graph(g.global_norm(tf.tanh(g.image(4)))),
    "without scale": lambda: g.tf1_graph(g.global_norm(tf.tanh(g.image(4)), scale_after=False)),
    "computed gamma": lambda: g.tf1_graph(g.global_norm(g.image(4), gamma=shared_gamma())),
}


def test_a_fused_batch_norm_v2_that_stays_converts(tmp_path):
    graph_def = f.frozen(version_2)
    with pytest.raises(Exception, match="FusedBatchNormV2"):
        stock(graph_def, tmp_path)
    report = convert(graph_def, tmp_path)
    assert [outcome.status for outcome in report.result.of_kind(Kind.BATCH_NORM)] == [Status.KEPT]
    assert report.result.tflite.ops == {"TANH": 1, "MUL": 1, "ADD": 1}
    assert report.result.after.ops["FusedBatchNormV2"] == 1  # the folded graph has what the original had


def test_one_that_stays_converts_in_the_stand_in_for_the_converter_too(tmp_path):
    model = load_frozen_graph(saved(tmp_path / "net.pb", f.frozen(version_2)))
    save_saved_model(model, str(tmp_path / "model"))
    converter = tf_bnfold.lite.TFLiteConverter.from_saved_model(str(tmp_path / "model"))
    runner = Interpreter(model_content=converter.convert()).get_signature_runner("serving_default")
    values = np.random.default_rng(0).normal(0, 3, runner.get_input_details()["x"]["shape"]).astype(np.float32)
    (result,) = runner(x=values).values()
    (expected,) = run(model.graph_def, ["bn:0"], {"x:0": values})
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-5)


def test_a_fused_batch_norm_v2_in_training_mode_is_v3_in_training_mode():
    graph_def = f.frozen(lambda: version_2(training=True))
    result = convertible(graph_def)
    assert [node.op for node in result.node if "Norm" in node.op] == ["FusedBatchNormV3"]
    image = np.random.default_rng(0).normal(size=(2, 5, 6, 4)).astype(np.float32)
    for output in range(3):
        (expected,), (found,) = (run(each, [f"bn:{output}"], {"x:0": image}) for each in (graph_def, result))
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("form", GLOBAL)
def test_a_global_normalization_that_stays_converts(form, tmp_path):
    graph_def = build(GLOBAL[form]).graph_def
    with pytest.raises(Exception, match="BatchNormWithGlobalNormalization"):
        stock(graph_def, tmp_path)
    report = convert(graph_def, tmp_path)
    assert report.result.after.ops["BatchNormWithGlobalNormalization"] == 1
    assert {"MUL", "ADD"} <= set(report.result.tflite.ops)


@pytest.mark.parametrize("form", GLOBAL)
def test_the_arithmetic_is_that_of_the_op(form):
    graph_def = build(GLOBAL[form]).graph_def
    result = convertible(graph_def)
    assert not any("Global" in node.op for node in result.node)
    image = np.random.default_rng(0).normal(size=(2, 5, 6, 4)).astype(np.float32)
    feeds = {"x:0": image} | ({"gamma:0": np.arange(4.0, dtype=np.float32)} if "gamma" in form else {})
    (expected,), (found,) = (run(each, ["bn:0"], feeds) for each in (graph_def, result))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_one_that_folds_needs_no_other_spelling(tmp_path):
    report = convert(build(lambda: g.tf1_graph(g.global_norm(g.conv(g.image())))).graph_def, tmp_path)
    assert [outcome.status for outcome in report.result.of_kind(Kind.BATCH_NORM)] == [Status.UP]
    assert report.result.tflite.ops == {"CONV_2D": 1}


def test_a_version_2_in_a_function_is_spelled_anew_too():
    graph_def = f.frozen(version_2)
    result = graph_pb2.GraphDef()
    function = result.library.function.add()
    function.signature.name = "body"
    function.node_def.extend(graph_def.node)
    assert [node.op for node in convertible(result).library.function[0].node_def if "Norm" in node.op] == [
        "FusedBatchNormV3"
    ]
    assert [node.op for node in result.library.function[0].node_def if "Norm" in node.op] == ["FusedBatchNormV2"]


def test_a_graph_without_them_is_the_one_that_was_given():
    graph_def = f.frozen(f.net)
    assert convertible(graph_def) is graph_def


def detector(op: str = "TFLite_Detection_PostProcess") -> graph_pb2.GraphDef:
    """Boxes and scores of two heads on one backbone, and the op that TFLite's detection models end with."""

    def heads():
        x = tf.nn.relu(g.norm(g.conv(g.image(name="image"), 5, name="conv"), name="bn"))
        boxes = g.norm(g.conv(x, 8, 1, name="box_conv"), name="box_bn")
        scores = g.norm(g.conv(x, 6, 1, name="score_conv"), name="score_bn")
        tf.reshape(boxes, [1, 32, 4], name="boxes")
        tf.sigmoid(tf.reshape(scores, [1, 16, 6])[:, :, :3], name="raw_scores")
        tf.reshape(tf.tile(scores, [1, 1, 1, 1])[:, :, :, :6], [1, 32, 3], name="scores")
        tf.constant(np.random.default_rng(0).uniform(size=(32, 4)), tf.float32, name="anchors")
        tf.reduce_max(x, name="brightness")

    graph_def = f.frozen(heads)
    post = graph_def.node.add(name="detections", op=op, input=["boxes", "scores", "anchors"])
    for name, number in {"max_detections": 5, "max_classes_per_detection": 1, "detections_per_class": 5}.items():
        post.attr[name].i = number
    post.attr["num_classes"].i = 2
    post.attr["use_regular_nms"].b = False
    for name, value in {
        "nms_score_threshold": 1e-8,
        "nms_iou_threshold": 0.6,
        "x_scale": 10,
        "y_scale": 10,
        "h_scale": 5,
        "w_scale": 5,
    }.items():
        post.attr[name].f = value
    post.attr["_output_types"].list.type.extend([1] * 4)
    return graph_def


NAMES = ("detections", "detections:1", "detections:2", "detections:3")


def test_a_custom_op_is_refused_unless_it_is_allowed(tmp_path):
    path = saved(tmp_path / "net.pb", detector("NeverHeardOf"))
    with pytest.raises(InputError, match=r"does not know: NeverHeardOf at detections; .*--allow_custom_ops"):
        load_frozen_graph(path, Surgery(output_nodes=NAMES[:1]))
    cut = load_frozen_graph(path, Surgery(output_nodes=("boxes", "scores")))
    assert not cut.custom_ops


def command(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "tf_bnfold", *args], capture_output=True, text=True, check=False)


def test_a_custom_op_is_folded_up_to_compared_up_to_and_converted(tmp_path):
    op, shape = "NeverHeardOfBefore", {"image": (1, 5, 6, 3)}
    outputs = (*NAMES, "brightness")
    report = convert(detector(op), tmp_path, allow_custom_ops=True, output_nodes=outputs, input_shapes=shape)
    assert [outcome.status for outcome in report.result.of_kind(Kind.BATCH_NORM)] == [Status.UP] * 3
    assert report.result.tflite.ops[op] == 1
    with_graph, _, with_tflite = report.run.measurements
    assert (with_graph.compared, with_graph.tensors) == ("folded graph with the frozen graph", 3)
    assert (with_tflite.compared, with_tflite.tensors) == (verify.UP_TO_CUSTOM_OPS, 3)


def test_the_post_processing_of_detection_models_runs_in_litert(tmp_path):
    path, tflite = saved(tmp_path / "net.pb", detector()), tmp_path / "out.tflite"
    folder = tmp_path / "folded"
    done = command(
        f"--frozen_graph={path}", f"--tflite={tflite}", f"--output_saved_model={folder}", "--allow_custom_ops",
        f"--output_nodes={','.join(NAMES)}", "--input_shapes=image:1,5,6,3",
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    found = Interpreter(str(tflite)).get_signature_runner("serving_default")(image=IMAGE[:1])
    assert {name: value.shape for name, value in found.items()} == {
        "detections": (1, 5, 4), "detections:1": (1, 5), "detections:2": (1, 5), "detections:3": (1,),
    }  # fmt: skip
    # The folded SavedModel has the op too.
    again = command(f"--saved_model={folder}", f"--tflite={tflite}", "--allow_custom_ops")
    assert (again.returncode, again.stderr) == (0, "")
    assert "folded graph with the SavedModel: no difference" in again.stdout
    assert verify.UP_TO_CUSTOM_OPS in again.stdout.replace("\n   ", "")


def test_a_custom_op_that_an_earlier_conversion_registered_is_refused_in_one_line(tmp_path):
    convert(f.frozen(f.net), tmp_path)  # TensorFlow's converter knows the post-processing from now on, without a kernel
    with pytest.raises(ConverterError, match=r"TFLite_Detection_PostProcess: .* in a process of its own"):
        convert(detector(), tmp_path, allow_custom_ops=True, output_nodes=NAMES, input_shapes={"image": (1, 5, 6, 3)})


def test_a_wrong_fold_before_a_custom_op_is_found(tmp_path):
    path = saved(tmp_path / "net.pb", detector())
    surgery = Surgery(output_nodes=NAMES, allow_custom_ops=True)
    frozen = load_frozen_graph(path, surgery)
    wrong = graph_pb2.GraphDef()
    wrong.CopyFrom(frozen.graph_def)
    for node in wrong.node:
        if node.name == "box_bn":
            node.attr["epsilon"].f = 1.0
    parts = verify.runnable(frozen), verify.runnable(frozen.with_graph(wrong))
    outputs, _ = verify.verify_frozen_graph(path, *parts, verify.make_samples(parts[0]))
    assert outputs.failed == ("serving_default: detections input 0",)


def unknown(*nodes: tuple[str, str, list[str]], attributes: dict[str, int] | None = None) -> graph_pb2.GraphDef:
    graph_def = f.frozen(lambda: v1.placeholder(tf.float32, [2], name="x"))
    for name, op, inputs in nodes:
        node = graph_def.node.add(name=name, op=op, input=inputs)
        if (attributes or {}).get(name):
            node.attr["extra"].list.i.append(attributes[name])
    return graph_def


def test_custom_ops_may_feed_each_other():
    graph_def = unknown(("b", "CustomSecond", ["a:1", "x"]), ("a", "CustomFirst", ["x"]), attributes={"a": 1, "b": 2})
    assert register_custom_ops(graph_def) == {"CustomFirst", "CustomSecond"}
    assert register_custom_ops(graph_def) == {"CustomFirst", "CustomSecond"}
    with tf.Graph().as_default() as graph:
        tf.graph_util.import_graph_def(graph_def, name="")
        first = graph.get_operation_by_name("a")
        assert [output.dtype for output in first.outputs] == [tf.float32, tf.float32]


@pytest.mark.parametrize(
    ("graph_def", "words"),
    [
        (unknown(("a", "CustomLoop", ["b"]), ("b", "CustomLoop", ["a"])), "it can not be told what CustomLoop a takes"),
        (unknown(("a", "CustomTwoWays", ["x"]), ("b", "CustomTwoWays", ["x", "x"])), "used in two ways, at a and b"),
        (unknown(("a", "custom_op", ["x"])), "custom_op at a is no name of an op"),
    ],
)  # fmt: skip
def test_a_custom_op_that_can_not_be_described_is_refused(graph_def, words):
    with pytest.raises(InputError, match=words):
        register_custom_ops(graph_def)


def test_what_tflite_lacks_is_refused_with_both_ways_out(tmp_path):
    def build():
        tf.math.digamma(g.rows(3, name="rows"))

    path = saved(tmp_path / "net.pb", f.frozen(build))
    with pytest.raises(ConverterError, match=r"no op for Digamma .*--output_nodes, .*with --allow_custom_ops"):
        pipeline.run(Request(frozen_graph=path, tflite=str(tmp_path / "out.tflite")))
