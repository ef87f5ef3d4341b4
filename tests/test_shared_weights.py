"""Weights that several ops read: copied where the ops take different things, or kept with a reason."""

from __future__ import annotations

import functools

import graphs as g
import pytest
import tensorflow as tf
from checker import build, check_fold

import tf_bnfold
from tf_bnfold.errors import FlagError
from tf_bnfold.fold import fold_graph
from tf_bnfold.outcome import Copied, Status
from tf_bnfold.reasons import Reason
from tf_bnfold.table import table

WEIGHTS = (2, 3, 3, 4)
BYTES = 2 * 3 * 3 * 4 * 4


def two(first, second, weights=None):
    """Two convolutions of two inputs with the same weights, and what is behind each."""
    weights = g.const(*WEIGHTS, name="weights") if weights is None else weights
    a = first(g.conv(g.image(name="x"), weights=weights, name="conv_a"))
    b = second(g.conv(g.image(name="y"), weights=weights, name="conv_b"))
    return tf.identity(a, name="a"), tf.identity(b, name="b")


def with_norms():
    return two(lambda v: g.norm(v, name="bn_a"), lambda v: g.norm(v, name="bn_b"))


def with_one_norm():
    return two(lambda v: g.norm(v, name="bn_a"), tf.nn.relu)


def with_equal_norms():
    parameters = {"gamma": g.signed(4), "beta": g.const(4), "mean": g.const(4), "variance": g.positive(4)}
    return two(lambda v: g.norm(v, name="bn_a", **parameters), lambda v: g.norm(v, name="bn_b", **parameters))


def with_offsets():
    return two(lambda v: g.offset(tf.nn.max_pool2d(v, 2, 1, "VALID"), name="shift"), tf.nn.relu)


def with_their_own():
    return tf.identity(g.norm(g.conv(g.image(), weights=g.const(*WEIGHTS))), name="a")


def by_two_identities():
    """As a frozen graph has them: a read for each op, one constant below."""
    weights = g.const(*WEIGHTS, name="weights")
    a = g.norm(g.conv(g.image(name="x"), weights=tf.identity(weights), name="conv_a"), name="bn_a")
    b = tf.nn.relu(g.conv(g.image(name="y"), weights=tf.identity(weights), name="conv_b"))
    return tf.identity(a, name="a"), tf.identity(b, name="b")


def that_are_an_output():
    weights = g.const(*WEIGHTS, name="weights")
    return tf.identity(g.norm(g.conv(g.image(), weights=weights), name="bn"), name="a"), weights


def folded(graph, shared_weights="copy"):
    built = build(graph)
    return fold_graph(built.graph_def, built.outputs, shared_weights=shared_weights)


def weight_bytes(graph_def):
    return sum(
        len(node.attr["value"].tensor.tensor_content)
        for node in graph_def.node
        if node.op == "Const" and len(node.attr["value"].tensor.tensor_shape.dim) == 4
    )


COPIED = [with_norms, with_one_norm, by_two_identities, that_are_an_output]
NOT_COPIED = [with_equal_norms, with_offsets, with_their_own]


@pytest.mark.parametrize(("graph", "copies"), [*((each, 1) for each in COPIED), *((each, 0) for each in NOT_COPIED)])
def test_copies_are_counted_to_the_byte(graph, copies):
    built = build(graph)
    folding = check_fold(graph)
    assert {outcome.status for outcome in folding.outcomes} == {Status.UP}
    expected = (Copied("weights", copies, copies * BYTES),) if copies else ()
    assert folding.copied == expected
    assert weight_bytes(folding.graph_def) - weight_bytes(built.graph_def) == copies * BYTES


@pytest.mark.parametrize("graph", [*COPIED, with_equal_norms])
def test_keep_refuses_what_would_need_a_copy(graph):
    built, folding = build(graph), folded(graph, "keep")
    assert folding.copied == ()
    assert weight_bytes(folding.graph_def) <= weight_bytes(built.graph_def)
    refusals = {outcome.name: outcome.refusal for outcome in folding.outcomes}
    assert {refusal.reason for refusal in refusals.values()} == {Reason.SHARED_WEIGHTS}
    assert all(refusal.detail.startswith("weights is read ") for refusal in refusals.values())


def test_keep_folds_what_does_not_scale_the_weights():
    folding = folded(with_offsets, "keep")
    assert {outcome.status for outcome in folding.outcomes} == {Status.UP}


def test_keep_folds_weights_that_nobody_shares():
    assert [outcome.status for outcome in folded(with_their_own, "keep").outcomes] == [Status.UP]


def test_keep_lets_a_batch_norm_go_the_other_way():
    def graph():
        a, b = two(lambda v: g.norm(v, name="bn_a"), tf.nn.relu)
        return g.conv(a, 2, 1, name="behind"), b

    folding = folded(graph, "keep")
    assert [(outcome.status, outcome.sinks) for outcome in folding.outcomes] == [(Status.DOWN, ("behind",))]


def test_one_constant_shared_by_three_takes_two_norms():
    """Equal ones share their copy; the third reader keeps the original."""

    def graph():
        weights = g.const(*WEIGHTS, name="weights")
        parameters = {"gamma": g.signed(4), "beta": g.const(4), "mean": g.const(4), "variance": g.positive(4)}
        for letter in "ab":
            x = g.conv(g.image(name=f"x_{letter}"), weights=weights, name=f"conv_{letter}")
            yield tf.identity(g.norm(x, name=f"bn_{letter}", **parameters), name=letter)
        yield tf.nn.relu(g.conv(g.image(name="x_c"), weights=weights, name="conv_c"), name="c")

    folding = check_fold(lambda: list(graph()))
    assert folding.copied == (Copied("weights", 1, BYTES),)


def bank(branches, size):
    """Convolutions with the same weights, and one batch norm over the channels of all."""
    weights = g.const(3, 3, size, size, name="weights")
    outputs = [g.conv(g.image(size, name=f"x_{i}"), weights=weights, name=f"conv_{i}") for i in range(branches)]
    return tf.identity(g.norm(tf.concat(outputs, axis=-1), name="bn"), name="y")


@pytest.mark.parametrize(("branches", "size", "copies"), [(2, 64, 1), (3, 4, 2)])
def test_one_batch_norm_may_cost_a_copy_or_a_few_bytes(branches, size, copies):
    folding = check_fold(functools.partial(bank, branches, size))
    assert folding.copied == (Copied("weights", copies, copies * 9 * size * size * 4),)


def test_one_batch_norm_is_not_worth_many_copies():
    folding = check_fold(functools.partial(bank, 3, 64))
    (outcome,) = folding.outcomes
    assert (outcome.status, outcome.refusal.reason) == (Status.KEPT, Reason.MANY_COPIES)
    assert outcome.refusal.detail.startswith("weights, 147,456 bytes, would be stored 3 times")
    assert folding.copied == ()


def test_always_copies_even_then():
    folding = folded(functools.partial(bank, 3, 64), "always")
    assert [outcome.status for outcome in folding.outcomes] == [Status.UP]
    assert folding.copied == (Copied("weights", 2, 2 * 147_456),)


def test_a_batch_norm_that_scales_all_alike_needs_one_new_constant():
    def graph():
        weights = g.const(3, 3, 64, 64, name="weights")
        outputs = [g.conv(g.image(64, name=f"x_{i}"), weights=weights, name=f"conv_{i}") for i in range(4)]
        return tf.identity(g.norm(tf.add_n(outputs), name="bn"), name="y")

    folding = check_fold(graph)
    assert [outcome.status for outcome in folding.outcomes] == [Status.UP]
    assert folding.copied == ()


def test_many_copies_before_a_batch_norm_are_not_worth_it_either():
    def graph():
        weights = g.const(1, 1, 64, 64, name="weights")
        x = g.norm(g.image(192), name="bn")
        outputs = [g.conv(part, weights=weights, name=f"conv_{i}") for i, part in enumerate(tf.split(x, 3, axis=-1))]
        return [tf.sigmoid(output, name=f"y_{i}") for i, output in enumerate(outputs)]

    (outcome,) = check_fold(graph).outcomes
    assert outcome.status is Status.KEPT
    assert "behind it: MANY_COPIES at conv_2: " in outcome.refusal.detail
    assert [each.status for each in folded(graph, "always").outcomes] == [Status.DOWN]


def test_one_body_called_from_two_sites_is_folded_once_and_alike():
    """A body has its own constants: a batch norm behind one of the calls can not reach into it."""

    def graph():
        weights = g.const(1, 1, 4, 4, name="weights")
        signature = [tf.TensorSpec([None, 4, 4, 4])]
        body = tf.function(lambda v: g.conv(v, 4, 1, name="inner"), input_signature=signature).get_concrete_function()
        x = g.placeholder(None, 4, 4, 4)
        a = g.norm(body(x), name="bn_a")
        return tf.identity(a, name="a"), tf.identity(body(g.conv(x, weights=weights)), name="b")

    built = build(graph)
    folding = fold_graph(built.graph_def, built.outputs)
    assert folding.graph_def == built.graph_def
    assert [outcome.refusal.reason for outcome in folding.outcomes] == [Reason.NO_LAW]


def test_any_other_word_is_an_error():
    built = build(with_norms)
    with pytest.raises(FlagError, match="--shared_weights=Keep: give copy, always or keep"):
        tf_bnfold.fold_graph_def(built.graph_def, options=tf_bnfold.Options(shared_weights="Keep"))
    with pytest.raises(FlagError, match=r"--keep=\(: not a regular expression: missing \)"):
        tf_bnfold.fold_graph_def(built.graph_def, options=tf_bnfold.Options(keep="("))


def test_the_report_says_what_copies_cost():
    built = build(with_norms)
    report = tf_bnfold.fold_graph_def(built.graph_def, built.outputs).report
    assert report.to_dict()["result"]["copied_weights"]["bytes_added"] == BYTES
    text = table(report, width=200, colour=False)
    assert f"of these, {BYTES} are in 1 copy of weights that several ops read (weights); --shared_weights=keep" in text
    kept = tf_bnfold.fold_graph_def(built.graph_def, built.outputs, options=tf_bnfold.Options(shared_weights="keep"))
    assert "copy" not in table(kept.report, width=200, colour=False)
    assert "2 not folded: the weights are read by another op too" in table(kept.report, width=200, colour=False)
