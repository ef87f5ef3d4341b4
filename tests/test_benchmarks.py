"""The benchmarks: how figures become tables, what is counted, and that the committed pages are those of the figures.

What is measured here is tiny; times are not judged.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import sys

import numpy as np
import pytest
import tensorflow as tf

import tf_bnfold
from benchmarks import __main__ as runner
from benchmarks import accuracy, command, fold, latency, page, small_networks
from benchmarks.fold_graphs import NORMS, chain, resnet152, wide_concat
from benchmarks.measuring import Figure, circumstances, interleaved, peak_growth, ratio, run
from tf_bnfold.graph.constants import Constants


def by_place(figures: list[Figure]) -> dict[tuple[str, str, str], Figure]:
    found = {(each.case, each.subject, each.quantity): each for each in figures}
    assert len(found) == len(figures)
    return found


# How it is measured.


def test_turns_change_and_what_is_slow_runs_once():
    order = []

    def action(name: str, value: float) -> float:
        order.append(name)
        return value

    actions = {name: functools.partial(action, name, value) for name, value in (("a", 1.0), ("b", 9.0), ("c", 2.0))}
    assert interleaved(actions, rounds=3, once_above=5) == {"a": (1.0,) * 3, "b": (9.0,), "c": (2.0,) * 3}
    assert "".join(order) == "abc" + "ca" + "ca"


def test_a_ratio_is_that_of_neighbours():
    assert ratio(Figure("", "", "", (1, 20, 3)), Figure("", "", "", (2, 10, 6))) == 0.5
    assert ratio(Figure("", "", "", (30,)), Figure("", "", "", (2, 10, 6))) == 5


def test_the_growth_of_memory_is_that_of_the_action():
    array = np.ones(2**23, np.float32)
    assert peak_growth(lambda: array + 1, lambda _: None) < 5
    assert 60 < peak_growth(lambda: None, lambda _: [array + 1, array + 2]) < 80
    assert 30 < peak_growth(lambda: None, lambda _: [(array + 1).sum(), (array + 2).sum()]) < 50


def test_a_command_is_measured_with_its_children():
    allocate = "x = b'1' * 2**27; import time; time.sleep(0.5)"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {allocate!r}])"
    ended = run([sys.executable, "-c", code])
    assert ended.seconds > 0.5
    assert 0 < ended.cpu_seconds < ended.seconds + 0.5
    assert 128 < ended.peak_mb < 256


def test_circumstances_name_versions_and_no_host():
    found = circumstances()
    assert list(found) == ["date", "versions", "machine"]
    assert f"tf_bnfold {tf_bnfold.__version__}, Python 3." in found["versions"]
    assert " cores, " in found["machine"]


# The fold.

TINY = fold.Settings(blocks=(2, 4), branches=(3,), divisor=16, rounds=2)


@pytest.mark.parametrize("norm", NORMS)
def test_a_chain_is_what_tensorflow_would_build(norm):
    built = chain(10, NORMS[norm])
    with tf.Graph().as_default() as graph:
        tf.graph_util.import_graph_def(built.graph_def, name="")  # checks names, inputs and dtypes
        assert graph.get_tensor_by_name(f"{built.output}:0").shape == (1, 4, 4, 4)
    assert sum(node.op == "Conv2D" for node in built.graph_def.node) == 10


def test_each_tool_is_measured_on_a_graph():
    (case,) = (case for case in fold.cases(TINY) if case.name == "4 blocks, fused")
    found = by_place(fold.measure(case, TINY))
    assert {subject for _, subject, _ in found} == set(fold.TOOLS)
    assert all(len(found[case.name, tool, fold.SECONDS].samples) == 2 for tool in fold.TOOLS)
    left = {tool: found[case.name, tool, fold.LEFT].median for tool in fold.TOOLS if tool != fold.COPY}
    assert left == {fold.OURS: 0, fold.NO_REPORT: 0, fold.OPTIMIZE: 0, fold.GRAPPLER: 4}


def test_the_memory_of_each_tool_is_measured_on_a_graph_that_is_not_too_large(monkeypatch):
    case = fold.cases(TINY)[0]
    monkeypatch.setattr(fold, "peak_growth", lambda prepare, action: len(action(prepare()).node))
    found = fold.measure_memory(case, TINY, [fold.COPY])
    assert found == [Figure("2 blocks, fused", fold.COPY, fold.MEMORY, (len(case.build().graph_def.node),))]
    assert fold.measure_memory(case, dataclasses.replace(TINY, memory_up_to=3), [fold.COPY]) == []


def test_all_graphs_are_folded_whole():
    assert len(fold.cases(fold.Settings())) == 14
    for case in fold.cases(TINY):
        built = case.build()
        folded = fold.TOOLS[fold.OURS].fold(built)
        assert fold.norm_ops(built.graph_def) > 0
        assert fold.norm_ops(folded) == 0, case.name


@pytest.fixture
def decoded(monkeypatch) -> list[str]:
    """The names of the constants whose values are read from the GraphDef, in order."""
    names: list[str] = []
    decode = Constants._decode

    def counting(self, node, *largest):
        names.append(node.name)
        return decode(self, node, *largest)

    monkeypatch.setattr(Constants, "_decode", counting)
    return names


@pytest.mark.parametrize("norm", NORMS)
def test_the_constants_that_are_decoded_grow_with_the_length_of_the_chain(norm, decoded):
    counts = []
    for blocks in (20, 40):
        decoded.clear()
        fold.TOOLS[fold.NO_REPORT].fold(chain(blocks, NORMS[norm]))
        counts.append(len(decoded))
    assert counts[1] == 2 * counts[0]
    assert counts[1] <= 40 * 7  # gamma, beta, mean, variance and epsilon once, weights twice


def test_constants_that_no_fold_touches_are_never_decoded(decoded):
    weights = np.ones((4, 4), np.float32)
    with tf.Graph().as_default() as graph:
        x = tf.compat.v1.placeholder(tf.float32, [1, 4], name="x")
        y = tf.matmul(x, tf.constant(weights, name="touched"))
        y = tf.nn.relu(y * tf.constant([1.0, 2.0, 3.0, 4.0]) + tf.constant([4.0, 3.0, 2.0, 1.0]))
        for place in range(10):
            y = tf.sigmoid(tf.matmul(y, tf.constant(weights, name=f"untouched{place}")))
        built = fold.Built(graph.as_graph_def(), y.op.name)
    assert fold.norm_ops(fold.TOOLS[fold.OURS].fold(built)) == 0
    assert "touched" in decoded
    assert [name for name in decoded if name.startswith("untouched")] == []


def test_statistics_are_decoded_once_and_weights_at_most_twice(decoded):
    """Weights are not kept: once it is asked whether the result stays finite, and once they are written."""
    fold.TOOLS[fold.NO_REPORT].fold(resnet152(16, NORMS["fused"]))
    counts = collections.Counter(decoded)
    assert {count for name, count in counts.items() if not name.endswith("filter")} == {1}
    assert {count for name, count in counts.items() if name.endswith("filter")} <= {1, 2}


def test_a_concat_is_folded_into_each_branch():
    folded = fold.TOOLS[fold.OURS].fold(wide_concat(5, NORMS["decomposed"]))
    ops = [node.op for node in folded.node]
    assert ops.count("Conv2D") == ops.count("BiasAdd") == 5


# The command.


def test_the_command_is_measured_by_step(keras_saved_model):
    found = by_place(command.measure("net", keras_saved_model, command.Settings("", rounds=1)))
    for subject in (command.STOCK, command.UNVERIFIED, command.VERIFIED):
        seconds, cpu, peak = (
            found["net", subject, quantity].median for quantity in (command.SECONDS, command.CPU_SECONDS, command.PEAK)
        )
        assert seconds > 0
        assert cpu > 0
        assert 100 < peak < 5000
    steps = {step for step, subject in ((s, q) for _, s, q in found) if subject == f"{command.STEP}{command.VERIFIED}"}
    assert steps >= {"start", "load", "fold", "verify", "convert", "verify_tflite"}


def test_a_model_that_is_not_there_is_left_out_with_a_message(tmp_path, capsys):
    assert list(command.figures(command.Settings(str(tmp_path), applications=()))) == []
    assert list(accuracy.figures(accuracy.Settings(str(tmp_path), cases=("kws_ds_cnn",), networks=()))) == []
    assert capsys.readouterr().out.splitlines() == ["left out kws_ds_cnn: it is not in MODELS"] * 2


# Latency.


def test_a_network_is_measured_in_all_forms():
    settings = latency.Settings(rounds=2)
    found = by_place(latency.measure("Dense-ReLU-BN-Dense", None, settings))
    subjects = {quantity: {subject for _, subject, each in found if each == quantity} for _, _, quantity in found}
    both, three = {latency.STOCK, latency.OURS}, {latency.STOCK, latency.OURS, latency.IDEAL}
    assert subjects == {
        **{latency.quantity(form, threads): three for form in ("float32", "int8") for threads in (1, 2)},
        **{latency.quantity("ONNX", threads): both for threads in (1, 2)},
        **{f"{form}, {latency.OPS}": three for form in ("float32", "int8")},
    }
    ops = {subject: found["Dense-ReLU-BN-Dense", subject, "float32, ops"].median for subject in three}
    assert ops[latency.OURS] == ops[latency.IDEAL] < ops[latency.STOCK]


@pytest.mark.parametrize("name", [name for name, network in small_networks.NETWORKS.items() if network.left])
def test_our_network_has_the_ops_of_the_ideal_one(name, tmp_path):
    network = small_networks.NETWORKS[name]
    small_networks.export(small_networks.made(network, 1), str(tmp_path / "saved"))
    small_networks.export(small_networks.ideal(network, 1), str(tmp_path / "ideal"))
    ours = tf_bnfold.convert(tmp_path / "saved", tmp_path / "x.tflite", tf_bnfold.Options(verify=False, dry_run=True))
    ideal = tf_bnfold.convert(tmp_path / "ideal", tmp_path / "x.tflite", tf_bnfold.Options(verify=False, dry_run=True))
    assert sum(ours.result.tflite.ops.values()) <= sum(ideal.result.tflite.ops.values()) + EXTRA.get(name, 0)


# What the fold has to leave where the ideal has nothing: an offset before a ReLU whose shortcut reads the same value.
EXTRA = {"pre-activation ResNet": 2}


# Accuracy.


def test_the_error_of_rounding_and_that_of_quantisation_are_measured():
    settings = accuracy.Settings("", cases=(), networks=("Dense-ReLU-BN-Dense",), modes=("int8",))
    found = by_place(accuracy.of_network("Dense-ReLU-BN-Dense", settings))
    for subject in (accuracy.BEFORE, accuracy.AFTER):
        largest, median = (
            found["Dense-ReLU-BN-Dense", subject, quantity].median for quantity in (accuracy.LARGEST, accuracy.MEDIAN)
        )
        assert 0 < median < largest < 1e-4
    for subject in (accuracy.WITHOUT, accuracy.WITH):
        assert found["Dense-ReLU-BN-Dense", subject, accuracy.sqnr("int8")].median > 15


# The pages.

FIGURES = [
    Figure("net", command.STOCK, command.SECONDS, (2.0, 4.0, 3.0)),
    Figure("net", command.VERIFIED, command.SECONDS, (3.0, 6.0, 4.5)),
    Figure("big", command.STOCK, command.SECONDS, (), "over an hour"),
]


def result(figures: list[Figure]) -> dict[str, object]:
    when = {"date": "2026-01-02", "versions": "tf_bnfold 1", "machine": "a machine"}
    return when | {"figures": [runner.rounded(figure) for figure in figures]}


def test_a_table():
    table = page.Table("Time", command.SECONDS, command.STOCK, "Seconds.").render(FIGURES)
    assert table == (
        "### Time\n\nSeconds.\n\n|  | stock converter | tf_bnfold |\n| --- | --- | --- |\n"
        "| net | 3 [2, 4] | 4.50 [3, 6]; **1.50x** |\n| big | over an hour | - |\n"
    )
    assert page.Table("", "other", "").render(FIGURES) == ""


def test_slopes_are_those_between_shortest_and_longest():
    figures = [
        Figure(f"{blocks:,} blocks, fused", fold.OURS, fold.SECONDS, (seconds,))
        for blocks, seconds in ((100, 0.1), (1000, 5.0), (10000, 1000.0))
    ]
    assert "| fused | tf_bnfold | 100 to 10,000 | 2.00 |" in page.slopes(figures)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (12345, "12,345"), (0.01234, "0.0123"), (1.5e-7, "1.5e-07"), (123.4, "123"), (1.0049, "1.00")],
)
def test_numbers(value, text):
    assert page.number(value) == text


def test_factors_are_exact_near_one():
    assert [page.factor(value) for value in (0.982, 2.5, 12.34, 1234)] == ["0.98x", "2.50x", "12.3x", "1,234x"]


def test_groups_that_were_not_measured_are_kept(tmp_path, monkeypatch):
    readme = tmp_path / "README.md"
    readme.write_text(f"# Head\n\n{page.BEGIN}\nearlier\n{page.END}\n\nTail\n", encoding="utf-8")
    for name, file in (("RESULTS", "benchmarks.json"), ("PAGE", "benchmarks.md"), ("README", "README.md")):
        monkeypatch.setattr(page, name, tmp_path / file)
    monkeypatch.setattr(page.load, "__defaults__", (tmp_path / "benchmarks.json",))
    monkeypatch.setitem(runner.GROUPS, "fold", lambda _: [Figure("1,000 blocks, fused", "copy", fold.SECONDS, (1.0,))])
    monkeypatch.setitem(runner.GROUPS, "command", lambda _: FIGURES)
    runner.main("models", "fold")
    runner.main("models", "command")
    results = page.load()
    assert list(results) == ["fold", "command"]
    assert page.of_group(results, "command") == FIGURES
    written = (tmp_path / "benchmarks.md").read_text(encoding="utf-8")
    assert written == page.page(results)
    assert "## The fold of a GraphDef" in written
    assert "| net | 3 [2, 4] |" in written
    text = readme.read_text(encoding="utf-8")
    assert text.startswith("# Head\n")
    assert text.endswith("\n\nTail\n")
    assert "earlier" not in text
    assert "1,000 blocks, fused" in text


def test_what_was_measured_before_something_fails_is_kept(monkeypatch):
    written = []
    monkeypatch.setattr(page, "load", dict)
    monkeypatch.setattr(page, "write", written.append)

    def figures(_):
        yield FIGURES[0]
        raise RuntimeError("it fails")

    monkeypatch.setitem(runner.GROUPS, "command", figures)
    with pytest.raises(RuntimeError, match="it fails"):
        runner.main("models", "command")
    assert [len(results["command"]["figures"]) for results in written] == [1]


def test_an_unknown_group_is_an_error():
    with pytest.raises(SystemExit, match="no group speed: there are fold, command, latency, accuracy"):
        runner.main("models", "speed")


def test_a_readme_without_marks_is_an_error():
    with pytest.raises(ValueError, match="no marks"):
        page.with_summary("# Head\n", {})


def test_the_committed_pages_are_those_of_the_committed_figures():
    results = page.load()
    assert set(results) <= set(runner.GROUPS)
    assert results
    assert page.PAGE.read_text(encoding="utf-8") == page.page(results), "run `make bench`, or write the pages anew"
    readme = page.README.read_text(encoding="utf-8")
    assert readme == page.with_summary(readme, results)
