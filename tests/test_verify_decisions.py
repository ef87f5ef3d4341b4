"""A difference behind a decision is a fault, unless the decision was close."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import saved_models
import tensorflow as tf
from faults import altered, compare, constant_of, saved_step
from tensorflow.python.framework import tensor_util

from tf_bnfold import verify
from tf_bnfold.errors import VerificationError
from tf_bnfold.formats.model import Model
from tf_bnfold.formats.saved_model import load_saved_model
from tf_bnfold.formats.tflite import convert_to_tflite
from tf_bnfold.verify.decisions import with_noise
from tf_bnfold.verify.samples import make_samples
from tf_bnfold.verify.session import opened
from tf_bnfold.verify.values import LeftOut, NotVerified

SQUARE = (np.random.default_rng(0).normal(size=(4, 4)) * 0.3).astype(np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("decisions")


def converted(model, folder) -> bytes:
    return convert_to_tflite(model, work_dir=str(folder))


def leaky(x):
    return tf.where(x > 0, x, 0.1 * x)


def looped(x):
    step = lambda i, value: (i + 1, leaky(value @ tf.constant(SQUARE)))  # noqa: E731
    return {"y": tf.while_loop(lambda i, _: i < 3, step, (0, x), maximum_iterations=3)[1]}


def chosen(x):
    return {"y": tf.cond(tf.reduce_sum(x) > 0, lambda: leaky(x @ SQUARE), lambda: x @ SQUARE)}


def with_other_bodies(model, change):
    """Return the model with other matrices in the bodies of its functions, as a wrong fold would leave them."""
    graph_def = type(model.graph_def)()
    graph_def.CopyFrom(model.graph_def)
    for node in (node for function in graph_def.library.function for node in function.node_def):
        if node.op == "Const" and len(node.attr["value"].tensor.tensor_shape.dim) == 2:
            value = change(tensor_util.MakeNdarray(node.attr["value"].tensor))
            node.attr["value"].tensor.CopyFrom(tensor_util.make_tensor_proto(value))
    return model.with_graph(graph_def)


@pytest.mark.parametrize("call", [looped, chosen])
def test_a_wrong_fold_in_a_body_that_decides_is_found(folder, call):
    path = saved_models.saved(str(folder / call.__name__), call, tf.TensorSpec([2, 4], name="x"))
    verify.require_verified(compare(path, lambda frozen: frozen))
    outputs, _ = compare(path, lambda frozen: with_other_bodies(frozen, lambda value: value * np.float32(1.1)))
    assert outputs.failed == ("serving_default: y",)


@pytest.mark.parametrize("factor", [-1, 1.05, np.nan])
def test_a_wrong_tflite_behind_a_decision_is_found(folder, factor):
    weights = tf.Variable(SQUARE)
    path = saved_models.saved(
        str(folder / f"behind{factor}"), lambda x: {"y": leaky(x) @ weights}, tf.TensorSpec([2, 4], name="x"),
        variables=[weights],
    )  # fmt: skip
    model = load_saved_model(path)
    samples = make_samples(model)
    verify.require_verified([verify.verify_tflite(model, converted(model, folder), samples)])
    wrong = altered(model, constant_of(model, "MatMul"), lambda value: value * np.float32(factor))
    assert verify.verify_tflite(model, converted(wrong, folder), samples).failed == ("serving_default: y",)


def test_a_tflite_that_decides_otherwise_where_it_is_not_close_is_wrong(folder):
    model = load_saved_model(saved_step(folder / "argmax", "argmax"))
    wrong = altered(model, constant_of(model, "MatMul"), lambda value: -value)
    finding = verify.verify_tflite(model, converted(wrong, folder), make_samples(model))
    assert finding.failed == ("serving_default: y",)


def test_a_tflite_that_decides_otherwise_where_it_is_close_is_told(folder):
    model = load_saved_model(saved_step(folder / "close", "argmax"))
    tipped = altered(model, constant_of(model, "MatMul"), lambda value: value * np.array([1, 1 + 1e-6, 1]))
    samples = {"serving_default": ({"x": np.array([[1, 1, 0]], np.float32)},)}
    finding = verify.verify_tflite(model, converted(tipped, folder), samples)
    assert finding.differing == {"serving_default: y": 1.0}
    verify.require_verified([finding])


def quantised_net(folder) -> str:
    """Convolutions with a FakeQuant behind each: rounding tips some of its many values in every run."""
    random = np.random.default_rng(0)
    weights = [tf.Variable((random.normal(size=(3, 3, n, 16)) / n**0.5 / 2).astype(np.float32)) for n in (3, 16, 16)]

    def call(x):
        for each in weights:
            x = tf.quantization.fake_quant_with_min_max_args(tf.nn.relu(tf.nn.conv2d(x, each, 1, "SAME")), -6, 6)
        return {"y": x}

    return saved_models.saved(str(folder), call, tf.TensorSpec([2, 32, 32, 3], name="x"), variables=weights)


def rounded(model, times: float = 1.0):
    """Return the model with all weights off by some roundings, and those of the last convolution by a factor."""
    random, last = np.random.default_rng(1), constant_of(model, "Conv2D")
    for name in [node.name for node in model.graph_def.node if node.op == "Const"]:
        model = altered(
            model,
            name,
            lambda value, factor=times if name == last else 1.0: (
                value * (factor + 2e-6 * random.normal(size=value.shape)) if value.ndim == 4 else value
            ),
        )
    return model


def test_behind_decisions_that_tip_in_every_run_a_fault_is_found(folder):
    path = quantised_net(folder / "fake_quant")
    right, _ = findings = compare(path, rounded)
    verify.require_verified(findings)
    assert 0 < right.differing["serving_default: y"] < 0.05
    wrong, _ = compare(path, lambda frozen: rounded(frozen, 1.05))
    assert wrong.failed == ("serving_default: y",)


def test_an_output_without_elements_does_not_count_as_verified(folder):
    weights = tf.Variable(SQUARE)

    def call(x):
        y = x @ weights
        return {"none": tf.boolean_mask(y, tf.reduce_sum(y, 1) > 1e9), "y": y}

    path = saved_models.saved(
        str(folder / "empty"), call, tf.TensorSpec([2, 4], name="x"), variables=[weights]
    )  # fmt: skip
    outputs, _ = compare(path, lambda frozen: frozen)
    assert outputs.left_out == {"serving_default: none": LeftOut.EMPTY}
    assert list(outputs.tensors) == ["serving_default: y"]
    alone = saved_models.saved(
        str(folder / "only_empty"), lambda x: {"none": call(x)["none"]}, tf.TensorSpec([2, 4], name="x"),
        variables=[weights],
    )  # fmt: skip
    findings = compare(alone, lambda frozen: frozen)
    assert all(isinstance(finding, NotVerified) for finding in findings)
    with pytest.raises(VerificationError, match=r"no elements .*--noverify"):
        verify.require_verified(findings)
    model = load_saved_model(alone)
    content, samples = converted(model, folder), make_samples(model)
    assert isinstance(verify.verify_tflite(model, content, samples), NotVerified)
    assert isinstance(verify.verify_quantised(model, content, samples, floor=10, compared="float"), NotVerified)
    wrong = compare(alone, lambda frozen: altered(frozen, constant_of(frozen, "MatMul"), lambda value: -value))
    with pytest.raises(VerificationError, match=r"verification failed, .*inner tensors"):
        verify.require_verified(wrong)


def test_inputs_are_found_on_which_no_output_is_empty(folder):
    """Where a slice takes the edges off, as padding of a long input, a short one leaves nothing."""
    path = saved_models.saved(str(folder / "edges"), lambda x: {"y": x[:, 40:-40]}, tf.TensorSpec([2, None], name="x"))
    assert {each["x"].shape for each in make_samples(load_saved_model(path))["serving_default"]} == {(2, 224)}


@pytest.mark.parametrize("dtype", [tf.float16, tf.bfloat16, tf.float32, tf.float64])
def test_noise_is_as_large_as_it_may_be(dtype):
    with tf.Graph().as_default() as graph:
        x = tf.compat.v1.placeholder(dtype, [1000], name="x")
        tf.round(tf.identity(x, name="inner"), name="rounded")
        tf.round(tf.ones([3]) * 0.5, name="fixed")  # no input changes it
        graph_def = graph.as_graph_def()
    noisy, unmoved = with_noise(graph_def, ["x:0"], lambda tensor: 0.125)
    assert not unmoved.names
    (name,) = (node.input[0] for node in noisy.node if node.name == "rounded")
    value = np.array([4, np.inf, np.nan] + 997 * [2], dtype.as_numpy_dtype)
    model = Model(noisy, {})
    with opened(model) as runner:
        feeds = {"x:0": value, "tf_bnfold_noise/seed:0": np.int32(1)}
        plus, minus = (
            runner.run([f"{name}:0"], {**feeds, "tf_bnfold_noise/sign:0": np.float32(sign)})[0].astype(np.float64)
            for sign in (1, -1)
        )
    assert np.isposinf(plus[1])
    assert np.isnan(plus[2])
    assert np.abs(plus[3:] - 2).max() == pytest.approx(0.125 * 4, rel=0.05)
    np.testing.assert_allclose(plus[3:] + minus[3:], 4, rtol=0.05)


class Counting(tf.Module):
    """A state that a weight goes into, and a decision behind it."""

    def __init__(self):
        self.state, self.weights = tf.Variable(tf.zeros([1, 4])), tf.Variable(SQUARE)

    @tf.function(input_signature=[tf.TensorSpec([1, 4], name="x")])
    def call(self, x):
        self.state.assign(tf.tanh(self.state @ self.weights + x))
        return {"y": leaky(self.state @ self.weights)}


def test_a_wrong_tflite_behind_state_and_a_decision_is_found(folder):
    module, path = Counting(), str(folder / "state")
    tf.saved_model.save(module, path, signatures=module.call)
    verify.require_verified(compare(path, lambda frozen: frozen))
    model = load_saved_model(path)
    assert model.state
    samples = make_samples(model)
    verify.require_verified([verify.verify_tflite(model, converted(model, folder), samples)])
    wrong = altered(model, constant_of(model, "MatMul"), lambda value: value * np.float32(1.2))
    assert verify.verify_tflite(model, converted(wrong, folder), samples).failed == ("serving_default: y",)


def test_a_tflite_that_lacks_a_signature_is_wrong(folder):
    model = load_saved_model(saved_models.two_signatures(str(folder / "two")))
    one = dataclasses.replace(model, signatures={"run": model.signatures["run"]})
    content, samples = converted(one, folder), make_samples(model)
    assert verify.verify_tflite(model, content, samples).failed == ("also: product",)
    quantised = verify.verify_quantised(model, content, samples, floor=10, compared="float")
    assert quantised.failed == ("also: product",)
