"""Inputs that become constants, and the branches that this decides."""

from __future__ import annotations

import frozen_graphs as f
import graphs as g
import numpy as np
import pytest
import saved_models
import tensorflow as tf
from frozen_graphs import IMAGE, frozen, run, saved, v1

from tf_bnfold import pipeline
from tf_bnfold.errors import FlagError
from tf_bnfold.formats.decide_switches import decide_switches
from tf_bnfold.formats.fixed_inputs import fix_inputs
from tf_bnfold.formats.frozen_graph import load_frozen_graph
from tf_bnfold.formats.model import Model
from tf_bnfold.formats.saved_model import load_saved_model
from tf_bnfold.formats.surgery import Surgery
from tf_bnfold.options import Options, Request
from tf_bnfold.outcome import Kind, Status
from tf_bnfold.reasons import Reason
from tf_bnfold.report import Report

SWITCHES = {"Switch", "Merge"}


def ops(graph_def) -> set[str]:
    return {node.op for node in graph_def.node}


def convert(path: str, tmp_path, **options) -> Report:
    report = pipeline.run(Request(frozen_graph=path, tflite=str(tmp_path / "out.tflite"), options=Options(**options)))
    assert [measurement.verified for measurement in report.run.measurements] == [True] * 3
    return report


@pytest.mark.parametrize(
    ("default", "options"),
    [(False, {}), (None, {"set_input": {"phase_train": False}}), (True, {"set_input": {"phase_train:0": False}})],
)
def test_a_flag_decides_its_branches_and_the_batch_norm_folds(tmp_path, default, options):
    path = saved(tmp_path / "net.pb", frozen(lambda: f.phase_train_net(default)))
    model = load_frozen_graph(path, Surgery(**options))
    assert not SWITCHES & ops(model.graph_def)
    assert "Mean" not in ops(model.graph_def)
    report = convert(path, tmp_path, **options)
    (norm,) = report.result.of_kind(Kind.BATCH_NORM)
    assert norm.status is Status.UP
    assert report.result.tflite.ops == {"CONV_2D": 1}
    said = (
        "--set_input: phase_train is false, a constant now"
        if options
        else "placeholder phase_train has its default, false"
    )
    assert any(note.startswith(said) for note in report.result.notes)
    assert any(note.startswith("4 conditions (Switch, If) are constant and decided; ") for note in report.result.notes)


def test_the_branch_that_is_taken_may_be_the_other_one(tmp_path):
    graph_def = frozen(f.phase_train_net)
    path = saved(tmp_path / "net.pb", graph_def)
    model = load_frozen_graph(path, Surgery(set_input={"phase_train": True}))
    assert not SWITCHES & ops(model.graph_def)
    (found,) = run(model.graph_def, ["logits:0"], {"image:0": IMAGE})
    (expected,) = run(graph_def, ["logits:0"], {"image:0": IMAGE, "phase_train:0": True})
    np.testing.assert_array_equal(found, expected)
    report = convert(path, tmp_path, set_input={"phase_train": True})
    (norm,) = report.result.of_kind(Kind.BATCH_NORM)
    assert norm.refusal.reason is Reason.TRAINING_MODE


def test_an_undecided_flag_stays_an_input(tmp_path):
    path = saved(tmp_path / "net.pb", frozen(lambda: f.phase_train_net(None)))
    model = load_frozen_graph(path)
    assert ops(model.graph_def) >= SWITCHES
    assert set(model.signatures["serving_default"].inputs) == {"image", "phase_train"}
    with_default = saved(tmp_path / "default.pb", frozen(f.phase_train_net))
    model = load_frozen_graph(with_default, Surgery(input_nodes=("image", "phase_train")))
    assert ops(model.graph_def) >= SWITCHES
    kept = {node.name: node.op for node in model.graph_def.node}
    assert kept["phase_train"] == "Placeholder"


def switch(data, pred, name):
    return tf.raw_ops.Switch(data=data, pred=pred, name=name)


def decided(build, fetches, feeds, *, decide=True):
    """Decide the conditions of a graph, and hold the values to those of the graph as it was."""
    before = frozen(build)
    result = decide_switches(before)
    assert bool(result.conditions) == decide
    after = result.graph_def if decide else before
    for found, expected in zip(run(after, fetches, feeds), run(before, fetches, feeds), strict=True):
        np.testing.assert_array_equal(found, expected)
    return result


@pytest.mark.parametrize("side", [False, True])
def test_a_merge_tells_which_input_it_took(side):
    def build():
        x = v1.placeholder(tf.float32, [], name="x")
        off, on = switch(x, tf.logical_not(tf.constant(not side)), "switch")
        value, index = tf.raw_ops.Merge(inputs=[off * 2.0, on * 3.0], name="merge")
        tf.identity(value + 1.0, name="value")
        tf.add(index, 10, name="index")

    result = decided(build, ["value:0", "index:0", "merge:0"], {"x:0": 5.0})
    assert not SWITCHES & ops(result.graph_def)
    assert result.dead == {"mul" if side else "mul_1"}


def test_nested_branches_are_decided_outside_in():
    def build():
        x = v1.placeholder(tf.float32, [], name="x")
        inner = lambda: v1.cond(tf.constant(True), lambda: x * 2.0, lambda: x * 3.0)  # noqa: E731
        tf.identity(v1.cond(tf.constant(False), lambda: x - 1.0, inner), name="out")

    v1.disable_control_flow_v2()
    try:
        before = frozen(build)
    finally:
        v1.enable_control_flow_v2()
    graph_def, rounds = before, 0
    while (step := decide_switches(graph_def)).conditions:
        graph_def, rounds = step.graph_def, rounds + 1
    assert rounds == 2
    assert not SWITCHES & ops(graph_def)
    assert run(graph_def, ["out:0"], {"x:0": 5.0}) == run(before, ["out:0"], {"x:0": 5.0}) == [10.0]


def test_control_edges_kill_and_are_kept():
    def build():
        x = v1.placeholder(tf.float32, [], name="x")
        off, on = switch(tf.constant(0.0), tf.constant(True), "switch")
        with tf.control_dependencies([tf.identity(off, name="off")]):
            dead = x + 1.0
        with tf.control_dependencies([tf.identity(on, name="on")]):
            live = x + 2.0
        with tf.control_dependencies([dead]):
            more = tf.constant(1.0)
        tf.identity(tf.raw_ops.Merge(inputs=[dead * more, live]).output, name="out")

    result = decided(build, ["out:0"], {"x:0": 5.0})
    assert result.dead == {"off", "add", "add/y", "Const_2", "mul"}


def test_a_loop_in_a_branch_lives_and_dies_with_it():
    def build(flag):
        def loop(x):
            return v1.while_loop(lambda i, y: i < 3, lambda i, y: (i + 1, y * 2.0), [tf.constant(0), x])[1]

        x = v1.placeholder(tf.float32, [], name="x")
        tf.identity(v1.cond(tf.constant(flag), lambda: loop(x), lambda: x - 1.0), name="out")

    v1.disable_control_flow_v2()
    try:
        for flag in (True, False):
            result = decided(lambda flag=flag: build(flag), ["out:0"], {"x:0": 5.0})
            assert ("LoopCond" in ops(result.graph_def)) == flag
    finally:
        v1.enable_control_flow_v2()


@pytest.mark.parametrize("condition", [True, False, 0, 2.5, [0], "", "yes"])
def test_an_if_becomes_a_call_of_the_branch_that_is_taken(condition):
    def build():
        x = v1.placeholder(tf.float32, [], name="x")
        double, triple = (
            tf.function(lambda y, n=n: y * n).get_concrete_function(tf.TensorSpec([])) for n in (2.0, 3.0)
        )
        tf.raw_ops.StatelessIf(
            cond=tf.constant(condition), input=[x], Tout=[tf.float32], then_branch=double, else_branch=triple, name="if"
        )

    result = decided(build, ["if:0"], {"x:0": 5.0})
    assert "PartitionedCall" in ops(result.graph_def)


def fed_condition():
    x = v1.placeholder(tf.float32, [], name="x")
    off, on = switch(x, tf.greater(x, 0.0), "switch")
    tf.identity(tf.raw_ops.Merge(inputs=[-off, on]).output, name="out")


def failing_condition():
    x = v1.placeholder(tf.float32, [], name="x")
    bad = tf.raw_ops.FloorDiv(x=tf.constant(1), y=tf.constant(0))  # of integers: an error
    off, on = switch(x, tf.greater(bad, 0), "switch")
    tf.raw_ops.Merge(inputs=[off, on], name="merge")
    tf.identity(x, name="out")


def random_condition():
    x = v1.placeholder(tf.float32, [], name="x")
    off, on = switch(x, tf.random.uniform([]) > 2.0, "switch")
    tf.identity(tf.raw_ops.Merge(inputs=[off, -on]).output, name="out")


@pytest.mark.parametrize("build", [fed_condition, failing_condition, random_condition])
def test_what_is_no_constant_is_not_decided(build):
    decided(build, ["out:0"], {"x:0": 5.0}, decide=False)


def test_a_merge_of_many_branches_is_left_alone():
    def build():
        x = v1.placeholder(tf.float32, [], name="x")
        off, _ = switch(x, tf.constant(True), "switch")
        left, right = switch(x, x > 0.0, "fed")
        tf.raw_ops.Merge(inputs=[off, left, right], name="merge")

    graph_def = frozen(build)
    result = decide_switches(graph_def)
    assert (result.conditions, result.graph_def) == (0, graph_def)


def test_an_output_in_a_dead_branch_is_refused(tmp_path):
    def build():
        x = v1.placeholder(tf.float32, [], name="x")
        off, on = switch(x, v1.placeholder_with_default(False, [], name="flag"), "switch")
        tf.negative(off, name="live")
        tf.negative(on, name="dead")

    path = saved(tmp_path / "net.pb", frozen(build))
    with pytest.raises(FlagError, match="output dead is in a branch that is never taken; --set_input can decide"):
        load_frozen_graph(path, Surgery(output_nodes=("live", "dead")))
    assert set(load_frozen_graph(path).signatures["serving_default"].outputs) == {"live"}  # of what nothing reads
    swapped = load_frozen_graph(path, Surgery(set_input={"flag": True}))
    assert set(swapped.signatures["serving_default"].outputs) == {"dead"}


def inputs() -> Model:
    def build():
        v1.placeholder(tf.float32, [None, 2], name="size")
        v1.placeholder(tf.int32, [], name="count")
        v1.placeholder(tf.bool, name="flag")
        v1.placeholder(tf.uint8, [], name="byte")
        g.conv(g.image(), name="conv")

    return Model(frozen(build), {})


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("size", [[1, 2]], np.array([[1, 2]], np.float32)),
        ("count", 7, np.int32(7)),
        ("flag:0", True, np.True_),
        ("flag", [True, False], np.array([True, False])),
    ],
)
def test_a_value_becomes_a_constant(name, value, expected):
    model = fix_inputs(inputs(), Surgery(set_input={name: value}))
    node = next(node for node in model.graph_def.node if node.name == name.removesuffix(":0"))
    assert node.op == "Const"
    (found,) = run(model.graph_def, [f"{node.name}:0"], {})
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)
    assert model.fed.keys() == {f"{node.name}:0"}


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("cont", 7, r"--set_input cont: the graph has no placeholder of that name; did you mean count\?"),
        ("conv", 7, "--set_input conv: the graph has no placeholder of that name"),
        ("count", 7.5, r"--set_input count=7.5: the input is int32; give a value of that type"),
        ("count", True, "--set_input count=true: the input is int32"),
        ("flag", 1, "--set_input flag=1: the input is bool; give a value of that type"),
        ("byte", 300, "--set_input byte=300: the input is uint8, which has no such number"),
        ("count", [1, 2], r"--set_input count=\[1, 2\]: the input has shape \(\); give a value of that shape"),
        ("size", list(range(9)), r"--set_input size=an array of shape \[9\]: the input has shape \(None, 2\)"),
    ],
)
def test_a_value_that_can_not_be_is_refused(name, value, words):
    with pytest.raises(FlagError, match=words):
        fix_inputs(inputs(), Surgery(set_input={name: value}))


def test_a_graph_without_placeholders_says_so():
    with pytest.raises(FlagError, match="--set_input x: the graph has no placeholders"):
        fix_inputs(Model(frozen(lambda: tf.constant(1.0)), {}), Surgery(set_input={"x": 1}))


def tf1_saved_model(folder: str) -> str:
    """`phase_train_net` with moving averages that training updates, as a SavedModel whose signature has both inputs."""
    v1.disable_control_flow_v2()
    try:
        with tf.Graph().as_default(), v1.Session() as session:
            image = g.image(name="image")
            phase = v1.placeholder(tf.bool, [], name="phase_train")
            x = g.conv(image, name="conv")
            mean = v1.get_variable("mean", initializer=g.const(4), use_resource=False)
            variance = v1.get_variable("variance", initializer=g.positive(4), use_resource=False)

            def train():
                moments = tf.nn.moments(x, [0, 1, 2])
                with tf.control_dependencies([mean.assign(moments[0]), variance.assign(moments[1])]):
                    return [tf.identity(moment) for moment in moments]

            statistics = v1.cond(phase, train, lambda: [tf.identity(mean), tf.identity(variance)])
            norm = tf.nn.batch_normalization(x, *statistics, g.const(4), g.signed(4), 1e-3)
            logits = tf.nn.relu(norm, name="logits")
            session.run(v1.global_variables_initializer())
            inputs = {"image": image, "phase_train": phase}
            v1.saved_model.simple_save(session, folder, inputs, {"logits": logits})
    finally:
        v1.enable_control_flow_v2()
    return folder


def test_a_saved_model_whose_training_branch_writes_variables(tmp_path):
    path = tf1_saved_model(str(tmp_path / "model"))
    options = Options(set_input={"phase_train": False})
    model = load_saved_model(path, surgery=Surgery.of(options))
    assert set(model.signatures["serving_default"].inputs) == {"image"}
    assert not SWITCHES & ops(model.graph_def)
    report = pipeline.run(Request(path, tflite=str(tmp_path / "out.tflite"), options=options))
    assert report.run.measurements[0].compared == "folded graph with the SavedModel"
    assert [outcome.status for outcome in report.result.of_kind(Kind.BATCH_NORM)] == [Status.UP]
    assert report.result.tflite.ops == {"CONV_2D": 1}


def test_an_input_of_a_signature_is_set_by_its_name(tmp_path):
    path = saved_models.two_signatures(str(tmp_path / "model"))
    options = Options(signature_keys=("run",), set_input={"apple": [[1, 2, 3, 4]]})
    model = load_saved_model(path, signature_keys=options.signature_keys, surgery=Surgery.of(options))
    assert set(model.signatures["run"].inputs) == {"zebra"}
    report = pipeline.run(Request(path, tflite=str(tmp_path / "out.tflite"), options=options))
    assert [measurement.verified for measurement in report.run.measurements] == [True] * 3
    zebra = np.eye(3, dtype=np.float32)
    found = saved_models.run_model(model, "run", {"zebra": zebra})
    expected = saved_models.run_original(path, "run", {"zebra": zebra, "apple": [[1, 2, 3, 4]]})
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value)
