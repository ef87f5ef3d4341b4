"""Frozen graphs: read in both forms, cut where the user says, written, and compared with what is on disk."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import graphs as g
import numpy as np
import onnx
import pytest
import saved_models
import tensorflow as tf
from ai_edge_litert import interpreter
from frozen_graphs import IMAGE, frozen, net, run, saved
from google.protobuf import text_format
from tensorflow.core.framework import graph_pb2

import tf_bnfold
from tf_bnfold import pipeline
from tf_bnfold.errors import FlagError, InputError
from tf_bnfold.formats import graph_file
from tf_bnfold.formats.frozen_graph import load_frozen_graph
from tf_bnfold.formats.saved_model import load_saved_model
from tf_bnfold.formats.surgery import Surgery
from tf_bnfold.options import Options, Request
from tf_bnfold.outcome import Kind, Status

ARM = Path(__file__).parents[2] / "shared" / "models" / "arm_ds_cnn_s.pb"


@pytest.fixture(scope="module")
def graph_def():
    return frozen(net)


@pytest.fixture(scope="module")
def file(graph_def, tmp_path_factory) -> str:
    return saved(tmp_path_factory.mktemp("frozen") / "net.pb", graph_def)


def described(model):
    """Name, dtype and shape of each input and output."""
    (signature,) = model.signatures.values()
    return [
        {
            name: (info.name, tf.as_dtype(info.dtype).name, tf.TensorShape(info.tensor_shape).as_list())
            for name, info in infos.items()
        }
        for infos in (signature.inputs, signature.outputs)
    ]


def test_placeholders_are_the_inputs_and_what_nothing_reads_the_outputs(file, graph_def):
    model = load_frozen_graph(file)
    assert list(model.signatures) == ["serving_default"]
    inputs, outputs = described(model)
    assert inputs == {"image": ("image:0", "float32", [None, 5, 6, 3])}
    assert outputs == {"logits": ("logits:0", "float32", [None, 6])}
    assert model.notes == (
        "inputs, by their ops: image; --input_nodes names others",
        "outputs, as nothing reads them: logits; --output_nodes names others",
    )
    assert model.graph_def == graph_def


def test_the_content_tells_text_from_binary(tmp_path, graph_def):
    for text in (False, True):
        for name in ("net.pb", "net.pbtxt"):
            assert load_frozen_graph(saved(tmp_path / name, graph_def, text=text)).graph_def == graph_def
    (tmp_path / "lines.pb").write_text("\n\n# a comment\n" + text_format.MessageToString(graph_def))
    assert load_frozen_graph(str(tmp_path / "lines.pb")).graph_def == graph_def


def test_an_inner_tensor_becomes_the_input(file, graph_def):
    model = load_frozen_graph(file, Surgery(input_nodes=("relu1",), output_nodes=("bn2:0",)))
    assert described(model) == [
        {"relu1": ("relu1:0", "float32", [None, 4, 4, 4])},
        {"bn2": ("bn2:0", "float32", [None, 3, 2, 6])},
    ]
    assert "conv1" not in [node.name for node in model.graph_def.node]
    (relu,) = run(graph_def, ["relu1:0"], {"image:0": IMAGE})
    assert np.array_equal(
        run(model.graph_def, ["bn2:0"], {"relu1:0": relu + 1}), run(graph_def, ["bn2:0"], {"relu1:0": relu + 1})
    )
    assert model.notes == ()


def split() -> None:
    a, b = tf.split(g.rows(6, name="rows"), 2, axis=1, name="split")
    with tf.control_dependencies([a.op]):
        tf.add(a * 2.0, b * 3.0, name="sum")


def test_later_outputs_of_a_node_become_inputs_too(tmp_path):
    file = saved(tmp_path / "split.pb", frozen(split))
    model = load_frozen_graph(file, Surgery(input_nodes=("split:1", "split")))
    assert described(model)[0] == {
        "split": ("split:0", "float32", [None, 3]),
        "split:1": ("split_1:0", "float32", [None, 3]),
    }
    ones = np.ones((1, 3), np.float32)
    (found,) = run(model.graph_def, ["sum:0"], {"split:0": ones, "split_1:0": 10 * ones})
    np.testing.assert_array_equal(found, 32 * ones)
    options = Options(input_nodes=("split", "split:1"))
    report = pipeline.run(Request(frozen_graph=file, output_graph=str(tmp_path / "out.pb"), options=options))
    assert all(measurement.verified for measurement in report.run.measurements)


@pytest.mark.parametrize(
    ("surgery", "words"),
    [
        (Surgery(input_nodes=("rely1",)), "--input_nodes names rely1, which .* does not have; did you mean relu1?"),
        (Surgery(output_nodes=("loggits",)), "--output_nodes names loggits, .*; did you mean logits?"),
        (Surgery(input_nodes=("relu1:1",)), "--input_nodes names relu1:1, but Relu relu1 has no such output"),
        (Surgery(input_nodes=("relu1:x",)), "relu1:x, but Relu relu1 has no such output"),
        (Surgery(input_nodes=("image", "conv1/weights"), output_nodes=("bn2", "logits")), None),
        (Surgery(input_nodes=("image", "relu1")), "--input_nodes names image, but no output needs it"),
        (Surgery(input_nodes=("bn2/gamma",), output_nodes=("bn2",)), "the outputs need placeholder image too: name it"),
        (Surgery(output_nodes=("bn1/gamma",)), "no placeholder leads to bn1/gamma; name the inputs by --input_nodes"),
    ],
)
def test_what_is_named_wrongly_is_refused_with_the_way_out(file, surgery, words):
    if words is None:
        assert set(load_frozen_graph(file, surgery).signatures["serving_default"].inputs) == {"image", "conv1/weights"}
        return
    with pytest.raises(FlagError, match=words) as caught:
        load_frozen_graph(file, surgery)
    assert "\n" not in str(caught.value)


def test_a_cut_through_half_of_a_node_names_the_other_half(tmp_path):
    file = saved(tmp_path / "split.pb", frozen(split))
    with pytest.raises(FlagError, match="cuts at split, but mul_1 needs split:1 too: name it as well"):
        load_frozen_graph(file, Surgery(input_nodes=("split",)))


def training() -> None:
    net()
    tf.compat.v1.summary.scalar("loss", tf.reduce_sum(tf.compat.v1.get_default_graph().get_tensor_by_name("logits:0")))


def test_a_graph_that_does_more_than_infer_needs_its_outputs_named(tmp_path):
    file = saved(tmp_path / "training.pb", frozen(training))
    with pytest.raises(FlagError, match="what the outputs are is not clear, for ScalarSummary loss gives none"):
        load_frozen_graph(file)
    assert list(described(load_frozen_graph(file, Surgery(output_nodes=("logits",))))[1]) == ["logits"]


def constants() -> None:
    tf.add(tf.constant(1.0), tf.constant(2.0))


def variables() -> None:
    tf.compat.v1.get_variable("v", [2], use_resource=False)


@pytest.mark.parametrize(
    ("content", "error", "words"),
    [
        (b"", InputError, "holds no graph; a SavedModel is given by its folder"),
        (b"\x08\x01\x12\x03abc", InputError, "no GraphDef|holds no graph"),
        (b"\x89PNG\r\n\x1a\n", InputError, "is no GraphDef, or is damaged: it can not be parsed"),
        (b"hello", InputError, "is no GraphDef, neither binary nor text: 1:1"),
        (b"node { name: 'a' opp: 'Const' }", InputError, "neither binary nor text: 1:18"),
        (frozen(net).SerializeToString()[:-9], InputError, "is no GraphDef, or is damaged"),
        (frozen(variables).SerializeToString(), InputError, "is not frozen: VariableV2 v is a variable"),
        (frozen(constants).SerializeToString(), FlagError, "nothing that is computed from an input is left unread"),
    ],
)
def test_what_is_no_frozen_graph_is_refused(tmp_path, content, error, words):
    (tmp_path / "file.pb").write_bytes(content)
    with pytest.raises(error, match=words) as caught:
        load_frozen_graph(str(tmp_path / "file.pb"))
    assert "\n" not in str(caught.value)


def test_a_folder_that_can_not_be_read_is_refused(tmp_path):
    with pytest.raises(InputError, match="can not be read: Is a directory"):
        load_frozen_graph(str(tmp_path))


def test_broken_graphs_are_refused(tmp_path):
    broken = graph_pb2.GraphDef()
    broken.node.add(name="x", op="Placeholder").attr["dtype"].type = 1
    broken.node.add(name="y", op="Add", input=["x", "gone"]).attr["T"].type = 1
    with pytest.raises(InputError, match="gone"):
        pipeline.run(Request(frozen_graph=saved(tmp_path / "b.pb", broken), options=Options(dry_run=True)))


def test_the_whole_command(tmp_path, file, graph_def):
    tflite, folded, text = tmp_path / "net.tflite", tmp_path / "folded.pb", tmp_path / "folded.pbtxt"
    command = (sys.executable, "-m", "tf_bnfold", f"--frozen_graph={file}", f"--tflite={tflite}")
    done = subprocess.run([*command, f"--output_graph={folded}"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("2 batch norms: all folded into ops before them.\n")
    assert "folded graph with the frozen graph: largest error" in done.stdout
    result = graph_pb2.GraphDef.FromString(folded.read_bytes())
    assert not {"FusedBatchNorm", "Mul"} & {node.op for node in result.node}
    (expected,), (found,) = (run(each, ["logits:0"], {"image:0": IMAGE}) for each in (graph_def, result))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    pipeline.run(Request(frozen_graph=file, output_graph=str(text), options=Options(verify=False)))
    assert text_format.Parse(text.read_text(), graph_pb2.GraphDef()) == result


def test_from_python(tmp_path, file):
    report = tf_bnfold.convert(file, tmp_path / "net.tflite")
    assert [outcome.status for outcome in report.result.outcomes] == [Status.UP] * 2
    assert [measurement.verified for measurement in report.run.measurements] == [True] * 3


def test_a_saved_model_gives_a_frozen_graph_too(tmp_path):
    path = saved_models.tf1(str(tmp_path / "model"))
    pipeline.run(Request(path, output_graph=str(tmp_path / "folded.pb")))
    model = load_frozen_graph(str(tmp_path / "folded.pb"), Surgery(output_nodes=("logits",)))
    image = np.eye(3, dtype=np.float32)
    (found,) = run(model.graph_def, ["logits:0"], {"image:0": image})
    np.testing.assert_allclose(found, saved_models.run_original(path, "serving_default", {"image": image})["logits"])


def test_a_saved_model_is_cut_and_compared_with_its_graph_on_disk(tmp_path):
    path = saved_models.tf1(str(tmp_path / "model"))
    surgery = Surgery(input_nodes=("image",), output_nodes=("matmul", "logits"))
    model = load_saved_model(path, surgery=surgery)
    inputs, outputs = described(model)
    assert inputs == {"image": ("image:0", "float32", [None, 3])}
    assert sorted(outputs) == ["logits", "matmul"]
    options = Options(input_nodes=("matmul",), output_nodes=("logits",))
    report = pipeline.run(Request(path, tflite=str(tmp_path / "out.tflite"), options=options))
    assert [each.compared for each in report.run.measurements] == [
        "folded graph with the SavedModel",
        "inner tensors with those before folding",
        ".tflite with the folded graph",
    ]
    assert all(each.verified for each in report.run.measurements)


def test_a_cut_inside_a_function_is_compared_with_the_graph_before_folding(tmp_path):
    path = saved_models.keras2(str(tmp_path / "model"))
    names = [node.name for node in load_saved_model(path).graph_def.node if node.op == "Relu"]
    options = Options(input_nodes=(names[0],))
    report = pipeline.run(Request(path, tflite=str(tmp_path / "out.tflite"), options=options))
    assert report.run.measurements[0].compared == "folded graph with the graph before folding"
    assert all(each.verified for each in report.run.measurements)
    assert report.result.of_kind(Kind.BATCH_NORM) == ()


def test_names_of_the_signature_are_taken_and_kept(tmp_path):
    path = saved_models.two_signatures(str(tmp_path / "model"))
    surgery = Surgery(input_nodes=("zebra",), output_nodes=("product",))
    with pytest.raises(FlagError, match="cut one signature: name it by --signature_keys, of also, run"):
        load_saved_model(path, surgery=surgery)
    model = load_saved_model(path, signature_keys=("also",), surgery=surgery)
    assert list(model.signatures) == ["also"]
    assert [list(names) for names in described(model)] == [["zebra"], ["product"]]
    with pytest.raises(FlagError, match=r"--output_nodes names produce, .*; did you mean product\?"):
        load_saved_model(path, signature_keys=("also",), surgery=Surgery(output_nodes=("produce",)))


def test_the_signature_that_is_cut_is_the_default_one(tmp_path):
    path = saved_models.keras3(str(tmp_path / "model"))
    model = load_saved_model(path, surgery=Surgery(input_nodes=("image",)))
    assert list(model.signatures) == ["serving_default"]
    assert model.notes == ("of the signatures only serving_default is kept, not serve",)


def test_a_table_that_is_cut_off_goes_with_its_asset(tmp_path):
    path = saved_models.lookup(str(tmp_path / "model"), str(tmp_path / "words.txt"))
    lookup = next(node.name for node in load_saved_model(path).graph_def.node if node.op == "LookupTableFindV2")
    model = load_saved_model(path, surgery=Surgery(input_nodes=(lookup,)))
    assert (model.init_op, model.assets) == ("", ())
    report = pipeline.run(Request(path, tflite=str(tmp_path / "o.tflite"), options=Options(input_nodes=(lookup,))))
    assert report.result.tflite.ops == {"GATHER": 1}


@pytest.mark.parametrize("where", ["load", "fold", "write", "text"])
def test_a_graph_beyond_2_gib_is_one_clear_line(tmp_path, file, monkeypatch, where):
    size = Path(file).stat().st_size
    request = Request(frozen_graph=file, output_graph=str(tmp_path / "out.pb"), options=Options(verify=False))
    if where == "load":
        monkeypatch.setattr(graph_file, "MOST_BYTES", size - 1)
    elif where == "text":
        text = saved(tmp_path / "net.pbtxt", graph_pb2.GraphDef.FromString(Path(file).read_bytes()), text=True)
        request = Request(frozen_graph=text, options=Options(dry_run=True, verify=False))
        monkeypatch.setattr(graph_file, "MOST_BYTES", size - 1)
    else:
        module = pipeline if where == "fold" else graph_file
        original = getattr(module, "fold_graph" if where == "fold" else "write_graph_def")

        def later(*args):
            monkeypatch.setattr(graph_file, "MOST_BYTES", 100)
            return original(*args)

        monkeypatch.setattr(pipeline, original.__name__, later)
    with pytest.raises(InputError, match="is larger than the 2 GiB that a GraphDef can hold") as caught:
        pipeline.run(request)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out.pb").exists()


def pictures() -> None:
    file = tf.compat.v1.placeholder(tf.string, [], name="file")
    image = tf.cast(tf.io.decode_jpeg(file, channels=3), tf.float32)
    g.norm(g.conv(tf.reshape(image, [1, 64, 64, 3]), name="conv"), name="norm")


def test_a_graph_that_begins_with_a_decoder_is_compared_on_a_file(tmp_path):
    file = saved(tmp_path / "pictures.pb", frozen(pictures))
    report = pipeline.run(Request(frozen_graph=file, options=Options(dry_run=True)))
    assert [measurement.verified for measurement in report.run.measurements] == [True] * 2
    assert [outcome.status for outcome in report.result.outcomes] == [Status.UP]


@pytest.mark.skipif(not ARM.is_file(), reason=f"{ARM.name} is not there")
def test_keyword_spotting_behind_a_wav_decoder(tmp_path):
    cut = Options(input_nodes=("Mfcc",), output_nodes=("labels_softmax",))
    report = pipeline.run(Request(frozen_graph=str(ARM), tflite=str(tmp_path / "arm.tflite"), options=cut))
    assert [outcome.status for outcome in report.result.of_kind(Kind.BATCH_NORM)] == [Status.UP] * 9
    assert [measurement.verified for measurement in report.run.measurements] == [True] * 3
    assert report.result.tflite.ops == {
        "AVERAGE_POOL_2D": 1, "CONV_2D": 5, "DEPTHWISE_CONV_2D": 4, "FULLY_CONNECTED": 1, "RESHAPE": 1, "SOFTMAX": 1,
    }  # fmt: skip
    whole = Request(frozen_graph=str(ARM), tflite=str(tmp_path / "whole.tflite"))
    reports: list[tf_bnfold.Report] = []
    with pytest.raises(tf_bnfold.FoldError, match="no built-in op for AudioSpectrogram") as caught:
        pipeline.run(whole, on_report=reports.append)
    assert caught.value.exit_code == 5
    assert [measurement.verified for measurement in reports[-1].run.measurements] == [True] * 2  # on a random WAV file


@pytest.mark.parametrize("quantize", ["none", "int8"])
def test_inputs_and_outputs_keep_the_order_in_which_they_are_given(quantize, tmp_path):
    def two_by_two():
        zebra, apple = (g.image(name=name) for name in ("zebra", "apple"))
        tf.nn.relu(g.norm(g.conv(zebra, 3), version=1), name="zoo")
        tf.nn.relu(g.norm(g.conv(apple, 5), version=1), name="bar")

    given = {"input_nodes": ("zebra", "apple"), "output_nodes": ("zoo", "bar")}
    data = {name: np.random.default_rng(0).normal(size=(20, 5, 6, 3)).astype(np.float32) for name in ("apple", "zebra")}
    np.savez(tmp_path / "data.npz", **data)
    options = Options(**given, quantize=quantize, representative_data=str(tmp_path / "data.npz"))
    file, lite, onnx_file = saved(tmp_path / "net.pb", frozen(two_by_two)), tmp_path / "m.tflite", tmp_path / "m.onnx"
    pipeline.run(Request(frozen_graph=file, tflite=str(lite), onnx=str(onnx_file), options=options))

    runner = interpreter.Interpreter(str(lite))
    assert [detail["name"].partition(":")[0] for detail in runner.get_input_details()] == ["zebra", "apple"]
    assert [detail["shape"][-1] for detail in runner.get_output_details()] == [3, 5]
    signature = runner.get_signature_runner("serving_default")
    assert {name: detail["shape"][-1] for name, detail in signature.get_output_details().items()} == {
        "zoo": 3,
        "bar": 5,
    }
    graph = onnx.load(onnx_file).graph
    assert [value.name for value in (*graph.input, *graph.output)] == ["zebra", "apple", "zoo", "bar"]


def test_the_size_counted_node_by_node_is_that_of_the_whole(graph_def):
    whole = graph_pb2.GraphDef()
    whole.CopyFrom(graph_def)
    whole.library.function.add().signature.name = "function"
    for length in (0, 1, 120, 127, 128, 16_380, 16_384, 2_097_152):  # where the length takes a byte more
        whole.node.add(name="x" * length)
    assert graph_file.byte_size(whole) == len(whole.SerializeToString())
