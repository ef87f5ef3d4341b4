"""Verification finds what is wrong, and does not cry wolf."""

from __future__ import annotations

import contextlib
import math

import numpy as np
import pytest
import saved_models
import tensorflow as tf
from faults import STEPS, altered, compare, constant_of, saved_step

from tf_bnfold import verify
from tf_bnfold.errors import InputError, VerificationError
from tf_bnfold.formats.representative import open_source
from tf_bnfold.formats.saved_model import load_saved_model
from tf_bnfold.formats.tflite import convert_to_tflite
from tf_bnfold.verify import original, saved_model
from tf_bnfold.verify.inner import _batches, _thinned
from tf_bnfold.verify.nature import changeable_nodes, coarsest_dtype, conditional_tensors, deciding_nodes
from tf_bnfold.verify.samples import make_samples
from tf_bnfold.verify.values import LeftOut, NotVerified


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("verify")


@pytest.fixture(scope="module")
def keras3(folder):
    return saved_models.keras3(str(folder / "keras3"))


def test_the_same_graph_is_verified(keras3):
    outputs, inner = compare(keras3, lambda frozen: frozen)
    assert list(outputs.tensors) == ["serve: output_0", "serving_default: output_0"]
    assert outputs.samples == inner.samples == 3
    assert not outputs.failed
    assert not inner.failed
    assert outputs.error < 1e-6
    assert len(inner.tensors) > 20
    verify.require_verified((outputs, inner))


@pytest.mark.parametrize("op", ["Conv2D", "MatMul", "BiasAdd"])
def test_five_percent_on_one_constant_are_found(keras3, op):
    findings = compare(keras3, lambda frozen: altered(frozen, constant_of(frozen, op), lambda value: value * 1.05))
    outputs, inner = findings
    assert outputs.failed == ("serve: output_0", "serving_default: output_0")
    assert inner.failed
    with pytest.raises(
        VerificationError, match=r"SavedModel: 2 of 2 tensors differ, .*inner tensors .* first "
    ) as caught:
        verify.require_verified(findings)
    assert "\n" not in str(caught.value)


def test_an_error_that_only_an_inner_tensor_shows_is_found(folder):
    """The output does not change, but a name that survives has another value."""
    offset = tf.Variable([1.0, 2.0])

    def call(x):
        inner = tf.multiply(x, offset, name="inner")
        return {"y": x + inner * 0.0}

    path = saved_models.saved(str(folder / "inner"), call, tf.TensorSpec([3, 2], name="x"), variables=[offset])
    outputs, inner = compare(
        path, lambda frozen: altered(frozen, offset.name.removesuffix(":0"), lambda value: value + 1)
    )
    assert not outputs.failed
    assert any(name.endswith("/inner:0") for name in inner.failed)


def test_a_constant_that_keeps_its_name_keeps_its_value(keras3):
    def overwrite(frozen):
        graph_def = altered(frozen, constant_of(frozen, "Conv2D"), lambda value: value * (1 + 1e-6)).graph_def
        for node in graph_def.node:
            node.name = node.name.removesuffix("/folded")
            node.input[:] = [value.removesuffix("/folded") for value in node.input]
        return frozen.with_graph(graph_def)

    outputs, inner = compare(keras3, overwrite)
    assert not outputs.failed
    assert inner.failed == (f"{constant_of(load_saved_model(keras3), 'Conv2D')}:0",)


def test_a_small_channel_beside_a_large_one_is_found(folder):
    weights = tf.Variable(np.float32(np.random.default_rng(0).normal(size=(8, 4)) * [1, 0.01, 1, 1]))
    path = saved_models.saved(
        str(folder / "small"), lambda x: {"y": x @ weights}, tf.TensorSpec([4, 8], name="x"), variables=[weights]
    )
    verify.require_verified(compare(path, lambda frozen: frozen))
    wrong = [1, 1.05, 1, 1]
    outputs, inner = compare(
        path, lambda frozen: altered(frozen, constant_of(frozen, "MatMul"), lambda value: value * wrong)
    )
    assert outputs.error < 1e-3
    assert inner.failed == ("StatefulPartitionedCall/StatefulPartitionedCall/matmul:0",)


def test_a_graph_that_can_not_run_fails(keras3):
    outputs, _ = compare(
        keras3, lambda frozen: altered(frozen, constant_of(frozen, "MatMul"), lambda value: value[:-1])
    )
    assert outputs.error == math.inf


@pytest.mark.parametrize("step", STEPS)
def test_what_rounding_tips_is_told_and_does_not_fail(folder, step):
    path = saved_step(folder / step, step)
    frozen = load_saved_model(path)
    folded = altered(frozen, constant_of(frozen, "MatMul"), lambda value: value * np.array([1, 1 + 1e-6, 1]))
    samples = {"serving_default": ({"x": np.array([STEPS[step][1]], np.float32)},)}
    outputs, inner = verify.verify_saved_model(path, frozen.tags, frozen, folded, samples)
    assert outputs.differing["serving_default: y"] > 0
    assert outputs.tensors["serving_default: y"].error is None
    assert inner.differing
    verify.require_verified((outputs, inner))


@pytest.mark.parametrize("step", ["round", "argmax", "comparison"])
def test_a_wrong_fold_before_a_decision_is_found(folder, step):
    path = saved_step(folder / f"wrong_{step}", step)
    findings = compare(path, lambda frozen: altered(frozen, constant_of(frozen, "MatMul"), lambda value: value * 1.05))
    assert findings[1].failed
    with pytest.raises(VerificationError):
        verify.require_verified(findings)


def test_a_wrong_fold_behind_a_decision_that_stays_is_found(folder):
    """ReLU by comparison decides the same in both graphs, so all behind it is judged by its error."""
    weights = tf.Variable(np.ones((4, 4), np.float32))
    path = saved_models.saved(
        str(folder / "behind"),
        lambda x: {"y": tf.matmul(tf.where(x > 0, x, 0.1 * x), weights)},
        tf.TensorSpec([2, 4], name="x"),
        variables=[weights],
    )
    outputs, _ = compare(
        path, lambda frozen: altered(frozen, constant_of(frozen, "MatMul"), lambda value: value * 1.05)
    )
    assert outputs.failed


def test_random_and_stateful_ops_are_not_compared(folder):
    path = saved_models.saved(
        str(folder / "random"),
        lambda x: {"noisy": x + tf.random.normal([2]), "y": 2.0 * x},
        tf.TensorSpec([2], name="x"),
    )
    outputs, inner = compare(path, lambda frozen: frozen)
    assert list(outputs.tensors) == ["serving_default: y"]
    assert outputs.skipped == 1
    assert inner.skipped >= 2
    verify.require_verified((outputs, inner))


def test_nothing_to_compare_is_not_verified(folder):
    path = saved_models.saved(
        str(folder / "all_random"), lambda x: {"y": x + tf.random.normal([2])}, tf.TensorSpec([2], name="x")
    )
    findings = compare(path, lambda frozen: frozen)
    assert isinstance(findings[0], NotVerified)
    with pytest.raises(VerificationError, match="random or stateful; --noverify writes"):
        verify.require_verified(findings)


def test_infinities_of_the_original_do_not_fail(folder):
    path = saved_models.saved(str(folder / "log"), lambda x: {"y": tf.math.log(x - 0.5)}, tf.TensorSpec([50], name="x"))
    outputs, inner = compare(path, lambda frozen: frozen)
    verify.require_verified((outputs, inner))


def test_what_is_nan_on_most_inputs_is_compared_on_positive_ones(folder):
    weights = tf.Variable(np.random.default_rng(0).random((27, 4)).astype(np.float32))
    path = saved_models.saved(
        str(folder / "nan_below_zero"),
        lambda x: {"y": tf.matmul(tf.math.log(x), weights)},
        tf.TensorSpec([8, 27], name="x"),
        variables=[weights],
    )
    outputs, _ = compare(path, lambda frozen: altered(frozen, constant_of(frozen, "MatMul"), lambda value: -3 * value))
    assert outputs.failed == ("serving_default: y",)
    verify.require_verified(compare(path, lambda frozen: frozen))


def test_an_output_without_numbers_does_not_count_as_verified(folder, tmp_path):
    def call(x):
        return {"y": tf.math.log(-1.0 - x * x), "z": 2.0 * x}

    path = saved_models.saved(str(folder / "nan"), call, tf.TensorSpec([8], name="x"))
    outputs, inner = compare(path, lambda frozen: frozen)
    assert outputs.left_out == {"serving_default: y": LeftOut.NOT_FINITE}
    assert list(outputs.tensors) == ["serving_default: z"]
    assert LeftOut.NOT_FINITE in inner.left_out.values()
    alone = saved_models.saved(str(folder / "only_nan"), lambda x: {"y": call(x)["y"]}, tf.TensorSpec([8], name="x"))
    findings = compare(alone, lambda frozen: frozen)
    with pytest.raises(VerificationError, match="no value, or less than half, is a number"):
        verify.require_verified(findings)
    frozen = load_saved_model(alone)
    content = convert_to_tflite(frozen, work_dir=str(tmp_path))
    samples = make_samples(frozen)
    assert isinstance(verify.verify_tflite(frozen, content, samples), NotVerified)
    assert isinstance(verify.verify_quantised(frozen, content, samples, floor=10, compared="float"), NotVerified)


def test_tables_loops_and_two_signatures(folder):
    paths = [
        saved_models.lookup(str(folder / "lookup"), str(folder / "vocabulary.txt")),
        saved_models.two_signatures(str(folder / "two")),
        saved_models.tf1(str(folder / "tf1")),
        saved_models.keras3(str(folder / "lstm"), saved_models.conv_lstm),
    ]
    for path in paths:
        findings = compare(path, lambda frozen: frozen)
        verify.require_verified(findings)
        assert findings[0].samples >= 3


def test_keras3_saved_by_tensorflow_is_compared_with_its_signature(folder):
    import keras

    model = keras.Model(*saved_models.conv_net(keras.layers))
    saved_models.randomise(model)
    path = str(folder / "keras3_by_tensorflow")
    tf.saved_model.save(model, path)
    verify.require_verified(compare(path, lambda frozen: frozen))
    outputs, _ = compare(
        path, lambda frozen: altered(frozen, constant_of(frozen, "MatMul"), lambda value: value * 1.05)
    )
    assert outputs.failed


def test_control_flow_of_tf1(folder):
    """Nodes of the branch that is not taken have no value."""
    v1 = tf.compat.v1
    path = str(folder / "cond")
    v1.disable_control_flow_v2()
    try:
        with tf.Graph().as_default(), v1.Session() as session:
            x = v1.placeholder(tf.float32, [3], name="x")
            y = v1.cond(tf.reduce_sum(x) > 0, lambda: x * 2.0, lambda: x - 1.0)
            z = v1.while_loop(lambda step, _: step < 3, lambda step, value: (step + 1, value * 2.0), [0, x])[1]
            v1.saved_model.simple_save(session, path, {"x": x}, {"y": y, "z": z})
    finally:
        v1.enable_control_flow_v2()
    outputs, _ = compare(path, lambda frozen: frozen)
    assert outputs.samples == 3
    assert not outputs.failed


@contextlib.contextmanager
def tf1_graph():
    """A session in which loops are those of TF1."""
    v1 = tf.compat.v1
    v1.disable_control_flow_v2()
    try:
        with tf.Graph().as_default(), v1.Session() as session:
            yield v1, session
    finally:
        v1.enable_control_flow_v2()


def saved_detector(path: str) -> str:
    """A loop over the images before a MatMul, and behind it a step that decides."""
    with tf1_graph() as (v1, session):
        x = v1.placeholder(tf.float32, [2, 5, 4], name="x")
        scaled = tf.reshape(tf.map_fn(lambda image: image / 2.0, x), [10, 4])
        boxes = tf.matmul(scaled, np.random.default_rng(0).normal(size=(4, 5)).astype(np.float32))
        best = tf.image.non_max_suppression(boxes[:, :4], boxes[:, 4], 3)
        v1.saved_model.simple_save(session, path, {"x": x}, {"boxes": tf.gather(boxes, best)})
    return path


def test_a_wrong_fold_behind_a_loop_of_tf1_and_before_a_decision_is_found(folder):
    path = saved_detector(str(folder / "detector"))
    verify.require_verified(compare(path, lambda frozen: frozen))
    outputs, inner = compare(path, lambda frozen: altered(frozen, constant_of(frozen, "MatMul"), lambda value: -value))
    assert inner.failed[0] == "MatMul:0"
    assert any(reason is LeftOut.CONTROL_FLOW for reason in inner.left_out.values())
    with pytest.raises(VerificationError, match="first MatMul:0"):
        verify.require_verified((outputs, inner))


def saved_branch_in_loop(path: str) -> str:
    with tf1_graph() as (v1, session):
        x = v1.placeholder(tf.float32, [3], name="x")
        weights = tf.constant([1.0, 2.0, 3.0], name="weights")

        def body(step, value):
            return step + 1, tf.where(value * weights > 0.1, value + 1.0, value)

        y = v1.while_loop(lambda step, _: step < 3, body, [0, x])[1]
        v1.saved_model.simple_save(session, path, {"x": x}, {"y": y})
    return path


def test_what_differs_behind_a_decision_that_can_not_be_watched_does_not_count_as_verified(folder):
    path = saved_branch_in_loop(str(folder / "branch_in_loop"))
    verify.require_verified(compare(path, lambda frozen: frozen))
    findings = compare(path, lambda frozen: altered(frozen, "weights", lambda value: -value))
    with pytest.raises(VerificationError, match=r"not verified, .*behind a discontinuous op whose inputs could not"):
        verify.require_verified(findings)


def test_a_tip_in_a_loop_that_the_fold_left_alone_is_told(folder):
    """What enters the loop is right to rounding, and the loop is the same in both graphs."""
    path = str(folder / "tip_in_loop")
    with tf1_graph() as (v1, session):
        x = v1.placeholder(tf.float32, [3], name="x")
        scaled = tf.multiply(x, tf.constant([1.0, 1.0, 1.0], name="weights"), name="scaled")
        body = lambda step, value: (step + 1, tf.where(value > 0.5, value + 1.0, value))  # noqa: E731
        y = v1.while_loop(lambda step, _: step < 1, body, [0, scaled])[1]
        v1.saved_model.simple_save(session, path, {"x": x}, {"y": y})
    frozen = load_saved_model(path)
    folded = altered(frozen, "weights", lambda value: value * np.float32(1 + 1e-6))
    samples = {"serving_default": ({"x": np.array([0.5, 0.2, 2.0], np.float32)},)}
    outputs, inner = verify.verify_saved_model(path, frozen.tags, frozen, folded, samples)
    verify.require_verified((outputs, inner))
    assert outputs.differing == {"serving_default: y": pytest.approx(1 / 3)}


def test_an_input_behind_other_ops_is_fed_and_what_is_before_it_not_run(folder):
    v1 = tf.compat.v1
    path = str(folder / "inner_input")
    with tf.Graph().as_default(), v1.Session() as session:
        image = tf.identity(tf.nn.relu(v1.placeholder(tf.float32, [2, 3], name="x")), name="image")
        y = tf.matmul(image, np.eye(3, dtype=np.float32))
        v1.saved_model.simple_save(session, path, {"image": image}, {"y": y + 1.0})
    outputs, inner = compare(path, lambda frozen: frozen)
    verify.require_verified((outputs, inner))
    assert "MatMul:0" in inner.tensors
    assert not inner.left_out
    wrong = compare(path, lambda frozen: altered(frozen, constant_of(frozen, "MatMul"), lambda value: value * 1.05))
    assert wrong[1].failed[0] == "MatMul:0"


# The .tflite


@pytest.mark.parametrize("make", [saved_models.keras2, saved_models.keras3])
def test_tflite_is_compared_with_the_graph(make, tmp_path):
    model = load_saved_model(make(str(tmp_path / "model")))
    content = convert_to_tflite(model, work_dir=str(tmp_path))
    samples = make_samples(model)
    finding = verify.verify_tflite(model, content, samples)
    assert finding.samples == 3
    assert finding.error < 1e-4
    verify.require_verified([finding])
    wrong = altered(model, constant_of(model, "Conv2D"), lambda value: value * 1.05)
    with pytest.raises(VerificationError, match=r"\.tflite with the folded graph"):
        verify.require_verified([verify.verify_tflite(wrong, content, samples)])


def test_tflite_of_a_recurrent_net_starts_each_run_anew(tmp_path):
    model = load_saved_model(saved_models.keras2(str(tmp_path / "lstm"), saved_models.conv_lstm))
    finding = verify.verify_tflite(model, convert_to_tflite(model, work_dir=str(tmp_path)), make_samples(model))
    assert finding.samples == 3
    assert not finding.failed


def test_tflite_with_select_ops_can_not_run_here(tmp_path):
    path = saved_models.saved(
        str(tmp_path / "inverse"), lambda x: {"y": tf.linalg.inv(x)}, tf.TensorSpec([3, 3], name="x")
    )
    model = load_saved_model(path)
    content = convert_to_tflite(model, work_dir=str(tmp_path), allow_select_tf_ops=True)
    finding = verify.verify_tflite(model, content, make_samples(model))
    assert isinstance(finding, NotVerified)
    assert "Flex" in finding.reason


# Samples


def test_sizes_are_found_that_the_model_can_take(folder):
    """VALID convolutions on a small image, or a Dense behind Flatten, take not every size."""
    weights = tf.Variable(np.ones((40, 40, 1, 1), np.float32))
    path = saved_models.saved(
        str(folder / "large"),
        lambda image, ids: {"y": tf.nn.conv2d(image, weights, 1, "VALID"), "z": tf.gather([1.0, 2.0, 3.0], ids)},
        tf.TensorSpec([None, None, None, 1], name="image"),
        tf.TensorSpec([None], tf.int64, name="ids"),
        variables=[weights],
    )
    samples = make_samples(load_saved_model(path))["serving_default"]
    assert [each["image"].shape for each in samples] == [(2, 64, 64, 1)] * 3
    assert all(each["ids"].max() < 3 for each in samples)
    assert [float(each["image"].std()) for each in samples] == pytest.approx([0.1, 1.0, 50.0], rel=0.2)
    again = make_samples(load_saved_model(path))["serving_default"]
    np.testing.assert_array_equal(samples[2]["image"], again[2]["image"])


@pytest.mark.parametrize(
    "shape", [(None, 32, 48, 3), (None, 20, 17, 1), (None, 15, 32, 3), (None, 32, 32, 8), (None, 9)]
)
def test_pictures_are_like_pictures(folder, shape):
    """Their large parts differ, not pixels alone; one is as a file is read, from 0 to 255."""
    path = saved_models.saved(str(folder / f"p{shape}"), lambda x: {"y": x + 1}, tf.TensorSpec(shape, name="x"))
    small, ordinary, large = (each["x"] for each in make_samples(load_saved_model(path))["serving_default"])
    are_pictures = shape in ((None, 32, 48, 3), (None, 20, 17, 1))
    assert small.std() == pytest.approx(0.1, rel=0.5)
    assert ordinary.std() == pytest.approx(1.0, rel=0.5)
    assert bool(large.min() >= 0) is are_pictures
    if len(shape) == 4:
        neighbours = np.corrcoef(ordinary[:, :, 1:].ravel(), ordinary[:, :, :-1].ravel())[0, 1]
        assert bool(neighbours > 0.3) is are_pictures


def test_long_inputs_are_tried_where_a_model_crops_its_context(folder):
    kernel = tf.Variable(np.ones((5001, 4, 1), np.float32))
    path = saved_models.saved(
        str(folder / "long"),
        lambda x: {"y": tf.nn.conv1d(x, kernel, 1, "VALID")},
        tf.TensorSpec([None, None, 4], name="x"),
        variables=[kernel],
    )
    samples = make_samples(load_saved_model(path))["serving_default"]
    assert [each["x"].shape for each in samples] == [(1, 16384, 4)] * 3


def test_ids_that_come_as_floats_are_found(folder):
    """Keras's Input is float32 where nothing else is said, and an Embedding casts what it gets."""
    table = tf.Variable(np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32))

    def call(ids, x):
        return tf.reduce_sum(tf.gather(table, tf.cast(ids, tf.int32)), 1) + x

    specs = [tf.TensorSpec([None, 64], name="ids"), tf.TensorSpec([None, 3], name="x")]
    model = load_saved_model(saved_models.saved(str(folder / "ids"), call, *specs, variables=[table]))
    samples = make_samples(model)
    assert not isinstance(samples, NotVerified), samples.reason
    drawn = [inputs["ids"] for inputs in samples["serving_default"]]
    assert all(((ids >= 0) & (ids < 5)).all() for ids in drawn)
    assert max(ids.max() for ids in drawn) > 1


def test_a_model_that_takes_no_guess_is_not_verified(folder):
    path = saved_models.saved(
        str(folder / "seven"), lambda x: {"y": tf.reshape(x, [7, 7])}, tf.TensorSpec([None], name="x")
    )
    samples = make_samples(load_saved_model(path))
    assert isinstance(samples, NotVerified)
    findings = compare(path, lambda frozen: frozen)
    with pytest.raises(VerificationError, match=r"can not run on guessed inputs: .*--representative_data") as caught:
        verify.require_verified(findings)
    assert "\n" not in str(caught.value)


def test_all_dtypes(folder):
    dtypes = [tf.float16, tf.float64, tf.int8, tf.uint8, tf.int32, tf.bool, tf.string, tf.complex64]
    specs = [tf.TensorSpec([2], dtype, name=f"x{index}") for index, dtype in enumerate(dtypes)]
    path = saved_models.saved(
        str(folder / "dtypes"), lambda *values: {f"y{i}": tf.identity(value) for i, value in enumerate(values)}, *specs
    )
    findings = compare(path, lambda frozen: frozen)
    verify.require_verified(findings)
    assert len(findings[0].tensors) == len(dtypes)


def npz(folder, name, **arrays) -> str:
    path = str(folder / f"{name}.npz")
    np.savez(path, **arrays)
    return path


def test_representative_data_is_cut_into_batches(folder, keras3):
    model = load_saved_model(keras3)
    image = np.random.default_rng(0).normal(size=(70, 6, 6, 3))
    first, second = make_samples(model, open_source(npz(folder, "seventy", image=image)))["serving_default"]
    assert first["image"].shape == second["image"].shape == (32, 6, 6, 3)
    assert first["image"].dtype == np.float32
    fixed = saved_models.saved(
        str(folder / "fixed"), lambda x, k: {"y": k * x}, tf.TensorSpec([2, 3], name="x"), tf.TensorSpec([], name="k")
    )
    file = npz(folder, "five", x=np.arange(15.0).reshape(5, 3), k=np.float32(2))
    samples = make_samples(load_saved_model(fixed), open_source(file))["serving_default"]
    assert [each["x"][0, 0] for each in samples] == [0, 6]
    assert all(each["k"] == 2 for each in samples)


def test_representative_data_that_does_not_fit_is_named(folder, keras3):
    model = load_saved_model(keras3)

    def message(path) -> str:
        with pytest.raises(InputError) as caught:
            make_samples(model, open_source(str(path)))
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "is not a file" in message(folder / "nowhere.npz")
    (folder / "text.npz").write_text("text")
    assert "is no .npz archive" in message(folder / "text.npz")
    np.save(folder / "array.npy", np.ones(3))
    assert "give the folder that holds it" in message(folder / "array.npy")
    assert "no array image for signature serve; it has: picture" in message(npz(folder, "name", picture=np.ones(3)))
    wrong = np.ones((2, 5, 6, 3))
    assert "shape [2, 5, 6, 3], but the input is [None, 6, 6, 3]" in message(npz(folder, "shape", image=wrong))
    assert "dtype complex128" in message(npz(folder, "dtype", image=np.ones((2, 6, 6, 3), complex)))


# Numbers


def test_half_precision_inside_widens_the_limit(folder):
    weights = tf.Variable(np.ones((3, 3), np.float16))
    path = saved_models.saved(
        str(folder / "half"),
        lambda x: {"y": tf.cast(tf.matmul(tf.cast(x, tf.float16), weights), tf.float32), "x": 2.0 * x},
        tf.TensorSpec([2, 3], name="x"),
        variables=[weights],
    )
    outputs, _ = compare(path, lambda frozen: frozen)
    assert outputs.tensors["serving_default: y"].limit == 16 * 2.0**-10
    assert outputs.tensors["serving_default: x"].limit == 1e-3


def test_signatures_that_share_their_tensors_are_run_in_turns(keras3, monkeypatch):
    """As Keras 3 exports every model twice; the original is asked for both, and not for both each time."""
    asked = []

    @contextlib.contextmanager
    def counted(*arguments):
        with opened(*arguments) as run:
            yield lambda key, inputs: (asked.append(key), run(key, inputs))[1]

    opened = original._opened_saved_model
    monkeypatch.setattr(original, "_opened_saved_model", counted)
    frozen = load_saved_model(keras3)
    outputs, _ = verify.verify_saved_model(keras3, frozen.tags, frozen, frozen, make_samples(frozen))
    assert asked == ["serve", "serving_default", "serving_default", "serve"]
    assert {name.partition(":")[0] for name in outputs.tensors} == {"serve", "serving_default"}
    assert outputs.samples == 3


# The nature of nodes


def nature_of(build):
    with tf.Graph().as_default() as graph:
        build(tf.compat.v1.placeholder(tf.float32, [4], name="x"))
        return graph.as_graph_def()


@pytest.mark.parametrize(
    ("build", "decides"),
    [
        (lambda x: tf.floor(x, name="n"), True),
        (lambda x: tf.greater(x, 1.0, name="n"), True),
        (lambda x: tf.argmax(x, name="n"), True),
        (lambda x: tf.cast(x, tf.int32, name="n"), True),
        (lambda x: tf.where(x, name="n"), True),
        (lambda x: tf.strings.as_string(x, name="n"), True),
        (lambda x: tf.image.non_max_suppression(tf.zeros([4, 4]), x, 2, name="n"), True),
        (lambda x: tf.nn.relu(x, name="n"), False),
        (lambda x: tf.cast(x, tf.float16, name="n"), False),
        (lambda x: tf.shape(x, name="n"), False),
        (lambda x: tf.signal.fft(tf.cast(x, tf.complex64), name="n"), False),
        (lambda x: tf.less(tf.size(x), 3, name="n"), False),
        (lambda x: tf.while_loop(lambda i, _: i < 3, lambda i, x: (i + 1, 2.0 * x), [0, x], name="n")[1], False),
        (lambda x: tf.while_loop(lambda x: tf.reduce_sum(x) < 3, lambda x: 2.0 * x, [x], name="n")[0], True),
    ],
)
def test_deciding_nodes(build, decides):
    found = deciding_nodes(nature_of(build))
    assert any(name.split("/")[0] == "n" for name in found) is decides


def test_changeable_and_conditional_nodes():
    def build(x):
        tf.add(x, tf.random.uniform([4], name="random"), name="noisy")
        tf.debugging.check_numerics(x, "bad", name="checked")

    assert {name.split("/")[0] for name in changeable_nodes(nature_of(build))} == {"random"}
    assert not conditional_tensors(nature_of(build)).names


def test_coarsest_dtype_counts_the_insides_of_functions():
    def build(x):
        @tf.function
        def coarse(x):
            return tf.cast(tf.cast(x, tf.bfloat16), tf.float32)

        tf.identity(coarse(x), name="behind")
        tf.cast(tf.cast(x, tf.float16), tf.float32, name="half")
        tf.identity(x, name="fine")

    coarsest = coarsest_dtype(nature_of(build))
    assert coarsest("behind:0") == tf.bfloat16
    assert coarsest("half:0") == tf.float16
    assert coarsest("fine:0") == tf.float32


def test_looking_at_a_graph_leaves_it_as_it_is():
    """A read of an attribute that a NodeDef leaves out writes an empty one, with which a function's body can't run.

    SavedModels leave defaults out: none of a Keras 2 model with a branch or a loop was verified.
    """

    def build(x):
        @tf.function
        def size(x):
            return tf.raw_ops.Shape(input=x, name="size")

        tf.identity(size(x), name="out")

    graph_def = nature_of(build)
    (size,) = (node for function in graph_def.library.function for node in function.node_def if node.op == "Shape")
    del size.attr["out_type"]
    before = graph_def.SerializeToString(deterministic=True)
    for look in (coarsest_dtype, deciding_nodes, changeable_nodes, conditional_tensors):
        look(graph_def)
    assert graph_def.SerializeToString(deterministic=True) == before


def test_a_name_whose_op_changed_is_compared(folder):
    """The node that carries a batch norm's value after folding has its name, whatever op it is."""
    path = saved_models.keras2(str(folder / "renamed"))
    frozen = load_saved_model(path)
    graph_def = type(frozen.graph_def)()
    graph_def.CopyFrom(frozen.graph_def)
    norm = next(node for node in graph_def.node if node.op == "FusedBatchNormV3")
    data = norm.input[0]
    norm.Clear()
    norm.name = next(node.name for node in frozen.graph_def.node if node.op == "FusedBatchNormV3")
    norm.op = "Identity"
    norm.input.append(data)
    norm.attr["T"].type = 1
    findings = verify.verify_saved_model(path, frozen.tags, frozen, frozen.with_graph(graph_def), make_samples(frozen))
    assert findings[1].failed[0] == f"{norm.name}:0"


def test_huge_graphs_are_thinned_but_decisions_are_watched():
    names = [f"node{index}:0" for index in range(100)]
    kept = _thinned(names, frozenset({"node55"}), most=10)
    assert kept == [f"node{index}:0" for index in (0, 10, 20, 30, 40, 50, 55, 60, 70, 80, 90)]
    assert _thinned(names, frozenset(), most=100) == names


def test_values_are_held_in_batches_below_the_bound():
    sizes = {"a:0": 2**28, "b:0": 2**28, "c:0": 1, "d:0": 2**29}
    assert list(_batches(sizes)) == [("a:0", "b:0"), ("c:0",), ("d:0",)]


def test_inputs_that_the_original_refuses_are_left_out(folder):
    table = tf.Variable(np.arange(20.0), dtype=tf.float32)
    path = saved_models.saved(
        str(folder / "refuses"),
        lambda x: {"y": tf.gather(table, tf.cast(tf.abs(x), tf.int32))},
        tf.TensorSpec([8], name="x"),
        variables=[table],
    )
    findings = compare(path, lambda frozen: frozen)
    verify.require_verified(findings)
    assert findings[0].samples == 2  # without the inputs around 30


def test_ops_without_a_kernel_here_are_not_verified(folder):
    def call(x):
        size = tf.raw_ops.CudnnRNNParamsSize(num_layers=1, num_units=1, input_size=1, T=tf.float32, S=tf.int32)
        return {"y": x + tf.cast(size, tf.float32)}

    path = saved_models.saved(str(folder / "kernel"), call, tf.TensorSpec([1], name="x"))
    frozen = load_saved_model(path)
    assert "No OpKernel was registered" in make_samples(frozen).reason
    samples = make_samples(frozen, open_source(npz(folder, "kernel", x=np.ones(1, np.float32))))
    findings = verify.verify_saved_model(path, frozen.tags, frozen, frozen, samples)
    with pytest.raises(VerificationError, match=r"the SavedModel can not take the inputs: .*No OpKernel") as caught:
        verify.require_verified(findings)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("error", [tf.errors.ResourceExhaustedError, tf.errors.DeadlineExceededError])
def test_a_folded_graph_that_takes_too_much_here_is_not_verified_and_not_called_wrong(keras3, monkeypatch, error):
    def run(tensors, feeds):
        raise error(None, None, "OOM when allocating")

    frozen = load_saved_model(keras3)
    samples = make_samples(frozen)
    opened = saved_model.opened

    @contextlib.contextmanager
    def scarce(model, feeds=None):
        with opened(model, feeds) as runner:
            if model is not frozen:
                monkeypatch.setattr(runner, "run", run)
            yield runner

    monkeypatch.setattr(saved_model, "opened", scarce)
    other = frozen.with_graph(frozen.graph_def)
    findings = verify.verify_saved_model(keras3, frozen.tags, frozen, other, samples)
    with pytest.raises(VerificationError, match=r"^not verified, .*memory or time do not suffice here: OOM when"):
        verify.require_verified(findings)


def test_a_file_that_is_no_tflite_is_not_verified(keras3):
    model = load_saved_model(keras3)
    assert isinstance(verify.verify_tflite(model, b"no flatbuffer", make_samples(model)), NotVerified)


def test_a_float_output_beside_an_integer_one_is_judged(folder):
    """TensorFlow hands all outputs of a signature through one IdentityN."""

    def save(name, factor):
        weights = tf.Variable(factor * np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32))

        def call(x):
            return {"best": tf.argmax(x @ weights, 1), "scores": x @ weights}

        return load_saved_model(
            saved_models.saved(str(folder / name), call, tf.TensorSpec([None, 6], name="x"), variables=[weights])
        )

    model = save("beside", 1)
    content = convert_to_tflite(model, work_dir=str(folder / "beside"))
    wrong = save("beside_wrong", 1.01)
    finding = verify.verify_tflite(wrong, content, make_samples(wrong))
    assert finding.failed == ("serving_default: scores",)
