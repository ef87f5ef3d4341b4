"""Quantised .tflites: what they hold, how they are compared with the float graph, and what is refused."""

from __future__ import annotations

import dataclasses
import math
import re
from pathlib import Path

import numpy as np
import pytest
import saved_models
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

from tf_bnfold import flags, pipeline, verify
from tf_bnfold.algebra.affine import Affine
from tf_bnfold.clock import Clock
from tf_bnfold.errors import FlagError, InputError, VerificationError
from tf_bnfold.flatbuffer import float_ops, op_counts
from tf_bnfold.fold.input_ranges import spreads_input
from tf_bnfold.formats.quantisation import Quantisation, calibration
from tf_bnfold.formats.representative import open_source
from tf_bnfold.formats.saved_model import load_saved_model
from tf_bnfold.formats.tflite import convert_to_tflite
from tf_bnfold.options import Options, Request
from tf_bnfold.quantisation import TYPES, check_quantisation
from tf_bnfold.reasons import Reason
from tf_bnfold.verify.litert import dequantised, quantised
from tf_bnfold.verify.quantised import Quality, QuantisedComparison, _Sums

CONFIGS = Path(__file__).parents[1] / "configs"


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> str:
    """Images for `keras_saved_model`."""
    path = str(tmp_path_factory.mktemp("data") / "images.npz")
    np.savez(path, image=np.random.default_rng(3).normal(0, 1, (40, 8, 8, 3)))
    return path


def convert(model: str, tmp_path, clock: Clock | None = None, **options):
    """Run the pipeline; return the report and the .tflite."""
    tflite = tmp_path / "out.tflite"
    report = pipeline.run(Request(model, tflite=str(tflite), options=Options(**options)), clock)
    return report, tflite.read_bytes()


def interface(content: bytes):
    """The dtypes of inputs and outputs of the one signature."""
    runner = Interpreter(model_content=content).get_signature_runner()
    return tuple(
        next(iter(details.values()))["dtype"].__name__
        for details in (runner.get_input_details(), runner.get_output_details())
    )


@pytest.mark.parametrize(
    ("mode", "types", "sqnr"),
    [
        ("dynamic", ("float32", "float32"), 30),
        ("float16", ("float32", "float32"), 50),
        ("int8", ("float32", "float32"), 20),
        ("int8", ("int8", "uint8"), 20),
        ("int16x8", ("float32", "float32"), 25),
        ("int16x8", ("int16", "int16"), 25),
    ],
)
def test_each_mode_is_measured_and_keeps_its_types(mode, types, sqnr, keras_saved_model, data, tmp_path):
    options = {"quantize": mode, "inference_input_type": types[0], "inference_output_type": types[1]}
    report, content = convert(keras_saved_model, tmp_path, representative_data=data, **options)
    measured = report.run.measurements[-1]
    assert measured.compared == f"{mode} .tflite with the folded graph"
    assert measured.verified
    assert (measured.error, measured.limit) == (None, None)
    (output,) = measured.quantised
    assert output.name.startswith("serving_default: ")
    assert output.sqnr > sqnr
    assert 0 < output.error < 10 ** (-sqnr / 20) * 2
    assert 0.9 <= output.top1 <= 1
    assert interface(content) == types
    if mode in ("int8", "int16x8"):
        assert not float_ops(content)
        assert report.result.notes == load_saved_model(keras_saved_model).notes


def test_without_data_random_inputs_are_compared(keras_saved_model, tmp_path):
    report, _ = convert(keras_saved_model, tmp_path, quantize="float16")
    assert report.run.measurements[-1].samples == 3


def test_the_numbers_are_those_of_litert_and_the_original(keras_saved_model, data, tmp_path):
    options = {"inference_input_type": "int8", "inference_output_type": "int8"}
    report, content = convert(keras_saved_model, tmp_path, quantize="int8", representative_data=data, **options)
    images = np.load(data)["image"].astype(np.float32)[:32]
    (expected,) = saved_models.run_original(keras_saved_model, "serving_default", {"image": images}).values()
    runner = Interpreter(model_content=content).get_signature_runner()
    ((scale, zero),) = (each["quantization"] for each in runner.get_input_details().values())
    fed = np.clip(np.round(images / scale) + zero, -128, 127).astype(np.int8)
    (found,) = runner(image=fed).values()
    ((scale, zero),) = (each["quantization"] for each in runner.get_output_details().values())
    real = (found.astype(float) - zero) * scale
    output = report.run.measurements[-1].quantised[0]
    assert output.sqnr == pytest.approx(10 * np.log10(np.sum(expected**2) / np.sum((real - expected) ** 2)), abs=0.1)
    assert output.error == pytest.approx(np.abs(real - expected).max() / np.abs(expected).max(), rel=0.02)
    assert output.top1 == np.mean(real.argmax(1) == expected.argmax(1))


def test_each_signature_is_calibrated(tmp_path):
    """One that is not stays float, and the converter says nothing."""
    model = saved_models.two_signatures(str(tmp_path / "two"))
    random = np.random.default_rng(0)
    np.savez(tmp_path / "data.npz", zebra=random.normal(size=(8, 3)), apple=random.normal(size=(8, 4)))
    told = []
    clock = Clock(on_progress=lambda done, of: told.append((done, of)))
    options = {"quantize": "int8", "representative_data": str(tmp_path / "data.npz"), "calibration_samples": 6}
    report, content = convert(model, tmp_path, clock, **options)
    assert not float_ops(content)
    assert told == [(n, 12) for n in range(1, 13)]  # six of each signature
    names = {output.name for output in report.run.measurements[-1].quantised}
    assert names == {"run: sum", "run: difference", "also: product"}


def test_ops_without_an_integer_form_are_named(tmp_path):
    weights = tf.Variable(np.random.default_rng(0).normal(size=(8, 8)).astype(np.float32))

    def call(x):
        return {"y": tf.cumsum(x @ weights, axis=1)}

    model = saved_models.saved(str(tmp_path / "m"), call, tf.TensorSpec([None, 8], name="x"), variables=[weights])
    np.savez(tmp_path / "x.npz", x=np.random.default_rng(1).normal(size=(9, 8)))
    for mode in ("int8", "int16x8"):
        report, content = convert(model, tmp_path, quantize=mode, representative_data=str(tmp_path / "x.npz"))
        assert float_ops(content) == {"CUMSUM": 1}
        assert report.result.notes[-1] == (
            f"--quantize={mode}: ops without an integer form compute in float32: 1 CUMSUM; a chip for integers alone "
            "can not run them"
        )


def test_the_same_input_gives_the_same_bytes(keras_saved_model, data, tmp_path):
    options = {"quantize": "int8", "representative_data": data, "verify": False}
    assert convert(keras_saved_model, tmp_path, **options)[1] == convert(keras_saved_model, tmp_path, **options)[1]


def test_select_ops_and_quantisation_go_together(tmp_path):
    weights = tf.Variable(np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32))

    def call(x):
        return {"y": tf.linalg.inv(x @ weights)}

    path = saved_models.saved(str(tmp_path / "m"), call, tf.TensorSpec([64, 64], name="x"), variables=[weights])
    content = convert_to_tflite(
        load_saved_model(path),
        work_dir=str(tmp_path),
        allow_select_tf_ops=True,
        quantisation=Quantisation("dynamic"),
    )
    assert op_counts(content) == {"FULLY_CONNECTED": 1, "FlexMatrixInverse": 1}
    assert len(content) < 64 * 64 * 2  # the weights are int8


def test_features_of_unlike_ranges_are_rounded_behind_their_normalisation(tmp_path):
    """LiteRT rounds what a MatMul reads with one scale per row."""
    random = np.random.default_rng(0)
    deviations = 10 ** random.uniform(-1, 3, 32)
    mean, scale = tf.constant(deviations, tf.float32), tf.constant(1 / deviations, tf.float32)
    weights = tf.Variable(random.normal(size=(32, 8)).astype(np.float32))
    rows = (deviations + deviations * random.normal(size=(64, 32))).astype(np.float32)
    path = saved_models.saved(
        str(tmp_path / "m"),
        lambda x: {"y": tf.matmul((x - mean) * scale, weights)},
        tf.TensorSpec([None, 32], name="x"),
        variables=[weights],
    )
    np.savez(tmp_path / "rows.npz", x=rows)
    data = str(tmp_path / "rows.npz")
    sqnr = {"none": None, "float16": 50, "dynamic": 30, "int8": None, "int16x8": None}
    for mode, least in sqnr.items():
        (tmp_path / mode).mkdir()
        report, _ = convert(path, tmp_path / mode, quantize=mode, representative_data=data, min_sqnr=-100)
        (outcome,) = report.result.outcomes
        if mode in ("none", "float16"):
            assert outcome.refusal is None
        else:
            assert outcome.refusal.reason is Reason.INPUT_RANGES
        assert least is None or report.run.measurements[-1].quantised[0].sqnr > least


@pytest.mark.parametrize(
    ("scale", "offset", "spreads"),
    [
        ([1 / 127.5] * 3, [-1.0] * 3, False),
        ([1 / 58.4, 1 / 57.1, 1 / 57.4], [-2.12, -2.04, -1.80], False),  # pictures of ImageNet
        ([1.0, 2.0, 0.0], [0.0, 0.0, 5.0], False),
        ([1.0, 100.0], [0.0, 0.0], True),
        ([1.0, -100.0], [0.0, 0.0], True),
        ([1.0, 1.0], [-1000.0, -1000.0], True),  # a year
        ([0.0, 0.0], [1.0, 2.0], False),
    ],
)
def test_what_an_affine_at_the_input_is_worth(scale, offset, spreads):
    assert spreads_input(Affine.of(scale, offset)) is spreads


def test_too_much_noise_is_a_failure_and_writes_nothing(keras_saved_model, data, tmp_path):
    options = {"quantize": "int8", "representative_data": data, "min_sqnr": 90.0}
    with pytest.raises(VerificationError, match=r"has an SQNR of \d+\.\d dB, less than 90 dB\. --min_sqnr") as caught:
        convert(keras_saved_model, tmp_path, **options)
    assert "--rtol" not in str(caught.value)
    assert not (tmp_path / "out.tflite").exists()


def test_a_fault_in_late_rows_is_found_while_calibrating(keras_saved_model, tmp_path):
    images = np.random.default_rng(0).normal(size=(300, 8, 8, 3))
    images[290] = np.nan
    np.savez(tmp_path / "d.npz", image=images)
    options = {"quantize": "int8", "representative_data": str(tmp_path / "d.npz")}
    with pytest.raises(InputError, match=r"array image of .*d\.npz has values that are not finite"):
        convert(keras_saved_model, tmp_path, **options)
    convert(keras_saved_model, tmp_path, calibration_samples=290, **options)


def test_what_was_converted_from_another_graph_fails(keras_saved_model, data, tmp_path):
    model = load_saved_model(keras_saved_model)
    content = convert_to_tflite(model, work_dir=str(tmp_path), quantisation=Quantisation("float16"))
    wrong = model.graph_def.__class__()
    wrong.CopyFrom(model.graph_def)
    (tensor,) = (
        node.attr["value"].tensor
        for node in wrong.node
        if node.op == "Const" and [dim.size for dim in node.attr["value"].tensor.tensor_shape.dim] == [6, 4]
    )  # the weights of the last layer
    tensor.CopyFrom(tf.make_tensor_proto(-tf.make_ndarray(tensor)))
    samples = verify.make_samples(model, open_source(data))
    finding = verify.verify_quantised(model.with_graph(wrong), content, samples, floor=10, compared="float16")
    assert len(finding.failed) == 1
    with pytest.raises(VerificationError, match="too far off"):
        verify.require_verified([finding])


def test_what_can_not_run_is_not_verified(keras_saved_model):
    model = load_saved_model(keras_saved_model)
    samples = verify.make_samples(model)
    assert isinstance(
        verify.verify_quantised(model, b"no flatbuffer", samples, floor=10, compared="int8"), verify.NotVerified
    )
    unknown = verify.NotVerified("signature s", "no inputs")
    finding = verify.verify_quantised(model, b"", unknown, floor=10, compared="int8")
    assert finding == verify.NotVerified("int8", "signature s: no inputs")


def sums(found, expected, floor=10.0) -> Quality:
    each = _Sums(floor)
    each.add(None if found is None else np.asarray(found), np.asarray(expected))
    return each.quality()


FLOATS = np.array([[1.0, 2.0], [4.0, 3.0]])


def test_how_an_output_is_judged():
    assert sums(FLOATS, FLOATS) == Quality(0.0, None, 1.0, 0.0, 10.0)
    assert not sums(FLOATS, FLOATS).failed
    swapped = sums(FLOATS[:, ::-1], FLOATS)
    assert swapped.top1 == 0
    assert swapped.error == pytest.approx(0.25)
    assert swapped.sqnr == pytest.approx(10 * math.log10(30 / 4))
    assert swapped.failed
    assert not dataclasses.replace(swapped, floor=None).failed
    assert sums(FLOATS * np.nan, FLOATS, None).failed
    assert sums(FLOATS * np.inf, FLOATS, None).failed
    assert sums(None, FLOATS, None).failed
    assert sums(FLOATS[:1], FLOATS, None).failed
    assert sums(FLOATS * 1.1, FLOATS * 0).sqnr == -math.inf
    assert sums(FLOATS[0], FLOATS[0]).top1 is None
    assert not sums([np.inf, 1.0], [np.inf, 1.0]).failed  # what the original gives too
    integers = sums(np.array([1, 2, 3, 4]), np.array([1, 2, 3, 5]))
    assert integers == Quality(None, None, None, 0.25, None)
    assert not integers.failed


def test_a_failure_says_what_is_wrong():
    found = QuantisedComparison("int8", {"s: y": sums(FLOATS * np.nan, FLOATS)}, 1)
    assert found.failure.endswith("first s: y, which has values that are not finite, or is missing")
    assert QuantisedComparison("int8", {"s: y": sums(FLOATS, FLOATS)}, 1).failure == ""


def test_outputs_behind_a_decision_are_told_and_not_judged(tmp_path):
    weights = tf.Variable(np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32))

    def call(x):
        return {"best": tf.argmax(x @ weights, 1), "rounded": tf.round(x @ weights), "plain": x @ weights}

    path = saved_models.saved(str(tmp_path / "m"), call, tf.TensorSpec([None, 64], name="x"), variables=[weights])
    report, _ = convert(path, tmp_path, quantize="dynamic")
    floors = {output.name.split()[-1]: output.floor for output in report.run.measurements[-1].quantised}
    assert floors == {"best": None, "rounded": None, "plain": 10.0}


def test_values_go_in_and_come_out_as_the_file_says():
    detail = {"dtype": np.int8, "quantization": (0.5, -3)}
    assert quantised(np.array([0.0, 1.2, 100.0, -100.0]), detail).tolist() == [-3, -1, 127, -128]
    assert dequantised(np.array([-3, -1], np.int8), detail).tolist() == [0.0, 1.0]
    plain = {"dtype": np.float32, "quantization": (0.0, 0)}
    value = np.array([1.5], np.float32)
    assert quantised(value, plain) is dequantised(value, plain) is value


def test_custom_ops_can_not_be_calibrated(keras_saved_model, data):
    model = dataclasses.replace(load_saved_model(keras_saved_model), custom_ops=frozenset({"Mystery"}))
    with pytest.raises(FlagError, match="nothing here can run its custom op Mystery; cut it off with --output_nodes"):
        calibration(Quantisation("int8", source=open_source(data)), model, ["serving_default"])
    with pytest.raises(FlagError, match="--quantize=int8 needs inputs to calibrate on: give --representative_data"):
        calibration(Quantisation("int8"), model, ["serving_default"])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"quantize": "int4"}, "--quantize=int4: give one of none, dynamic, float16, int8, int16x8"),
        ({"quantize": "int8"}, "--quantize=int8 needs inputs to calibrate on, a few hundred typical ones: give --repr"),
        ({"quantize": "int16x8"}, "--quantize=int16x8 needs inputs to calibrate on"),
        (
            {"quantize": "dynamic", "inference_input_type": "int8"},
            "--inference_input_type=int8: with --quantize=dynamic give float32; --quantize=int8 admits it",
        ),
        (
            {"quantize": "int8", "inference_output_type": "int16", "representative_data": "d"},
            "--inference_output_type=int16: with --quantize=int8 give float32 or int8 or uint8; --quantize=int16x8 adm",
        ),
        (
            {"quantize": "int16x8", "inference_input_type": "uint8", "representative_data": "d"},
            "--inference_input_type=uint8: with --quantize=int16x8 give float32 or int16; --quantize=int8 admits it",
        ),
        ({"inference_input_type": "int4"}, "--inference_input_type=int4: with --quantize=none give float32$"),
        ({"calibration_samples": 0}, "--calibration_samples=0: give a number above zero"),
        ({"min_sqnr": math.nan}, "--min_sqnr=nan: give a number of decibels, such as 10"),
        ({"image_std": (0.0,)}, "--image_std: give one number, or one per channel, as in 127.5"),
        ({"image_mean": ()}, "--image_mean: give one number, or one per channel, as in 123.7,116.8,103.9"),
        ({"image_mean": (127.5,)}, "--image_mean is for pictures: give their folder with --representative_data"),
        ({"representative_data": "d", "verify": False}, "is read by verification, and by --quantize=int8 or int16x8"),
    ],
)
def test_options_that_do_not_fit_are_refused_with_the_way_out(options, words):
    with pytest.raises(FlagError, match=re.escape(words).replace(r"\$", "$")) as caught:
        check_quantisation(Request("m", tflite="t", options=Options(**options)))
    assert "\n" not in str(caught.value)


def test_quantisation_is_for_a_tflite():
    with pytest.raises(FlagError, match=r"--quantize=float16 is for a .tflite: give --tflite FILE, or drop it"):
        check_quantisation(Request("m", output_saved_model="o", options=Options(quantize="float16")))


def test_options_that_fit_pass():
    for mode, types in TYPES.items():
        for each in types:
            options = {"inference_input_type": each, "representative_data": "d"}
            check_quantisation(Request("m", tflite="t", options=Options(quantize=mode, **options)))
    check_quantisation(
        Request("m", tflite="t", options=Options(quantize="int8", representative_data="d", verify=False))
    )


TYPES_OF_CONFIGS = {
    "mobile_float32": ("float32", "float32"),
    "mobile_float16": ("float32", "float32"),
    "mobile_dynamic": ("float32", "float32"),
    "mobile_int8": ("float32", "float32"),
    "edge_int8": ("int8", "int8"),
}


@pytest.mark.parametrize("name", TYPES_OF_CONFIGS)
def test_each_config_runs_and_explains_itself(name, keras_saved_model, data, tmp_path):
    file, tflite = CONFIGS / f"{name}.cfg", tmp_path / "out.tflite"
    assert re.match(r"# Flags for an? .*\.tflite .*\n", file.read_text(encoding="utf-8"))
    command = ["tf_bnfold", f"--flagfile={file}", f"--saved_model={keras_saved_model}", f"--tflite={tflite}"]
    command += [f"--representative_data={data}"] if name.endswith("int8") else []
    pipeline.run(flags.request(flags.parse(command), command))
    assert interface(tflite.read_bytes()) == TYPES_OF_CONFIGS[name]
    dtypes = {
        detail["dtype"].__name__ for detail in Interpreter(str(tflite)).get_tensor_details() if detail["shape"].size > 1
    }
    assert ("float16" in dtypes) == (name == "mobile_float16")
    assert ("int8" in dtypes) == (name in ("mobile_int8", "edge_int8"))


def test_pictures_go_through_the_command(keras_saved_model, tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(8):
        pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        (folder / f"{number}.png").write_bytes(tf.io.encode_png(pixels).numpy())
    tflite = tmp_path / "out.tflite"
    command = ["tf_bnfold", f"--saved_model={keras_saved_model}", f"--tflite={tflite}", "--quantize=int8"]
    command += [f"--representative_data={folder}", "--image_mean=127.5,127.5,127.5", "--image_std=64"]
    command += ["--inference_input_type=uint8", "--calibration_samples=4", "--min_sqnr=8"]
    pipeline.run(flags.request(flags.parse(command), command))
    ((scale, zero),) = (
        each["quantization"] for each in Interpreter(str(tflite)).get_signature_runner().get_input_details().values()
    )
    assert (0 - zero) * scale == pytest.approx(-127.5 / 64, abs=0.05)  # the darkest pixel
    assert (255 - zero) * scale == pytest.approx(127.5 / 64, abs=0.05)
