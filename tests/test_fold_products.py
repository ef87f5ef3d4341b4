"""A product of two matrices that are both computed: a scale passes to the factor whose columns or rows it is on."""

# One line each: a table is read by its columns.
# ruff: noqa: E501

from __future__ import annotations

import graphs as g
import pytest
import tensorflow as tf
from rows import Row, check, parametrized

from tf_bnfold.reasons import Reason

raw = tf.raw_ops
NOT_CONSTANT = Reason.WEIGHTS_NOT_CONSTANT


def square(name="a", size=6):
    """An input that mixes positions, such as the adjacency of a graph network."""
    return g.placeholder(size, size, name=name)


def nodes(out=5, name="x"):
    return g.dense(g.placeholder(6, 4, name=name), out, name=f"{name}_dense")


def batched(op, x, out=5, **settings):
    """Two products, one with constant weights and one with an input of each batch."""
    inner = op(x=x, y=g.const(3, x.shape[-1], out), **settings)
    return op(x=g.placeholder(3, 6, 6, name="a"), y=inner, **settings)


def graph_convolution():
    """A layer of a graph network: relu(norm(a @ (x @ w + b)))."""
    return tf.nn.relu(g.affine(tf.matmul(square(), g.bias(nodes()))))


def attention(equation="bqk,bkd->bqd"):
    x = g.placeholder(2, 6, 4)
    query, key, value = (raw.Einsum(inputs=[x, g.const(4, 5)], equation="bsc,cd->bsd") for _ in range(3))
    scores = tf.nn.softmax(raw.Einsum(inputs=[query, key], equation="bqd,bkd->bqk"))
    return raw.Einsum(inputs=[scores, value], equation=equation)


def itself(transposed):
    x = nodes(5 if transposed else 6)
    return raw.MatMul(a=x, b=x, transpose_b=transposed)


def on_rows(x):
    return g.scale(x, axis=0)


# fmt: off
UP = [
    Row("columns", lambda: g.scale(tf.matmul(square(), nodes())), "MatMul MatMul"),
    Row("columns-of-a-transposed", lambda: g.scale(raw.MatMul(a=square(), b=raw.MatMul(a=g.const(5, 3), b=g.placeholder(3, 6)), transpose_b=True)), "MatMul MatMul"),
    Row("rows", lambda: on_rows(tf.matmul(raw.MatMul(a=g.const(5, 6), b=g.placeholder(6, 4)), g.placeholder(4, 3, name="b"))), "MatMul MatMul"),
    Row("rows-of-a-transposed", lambda: on_rows(raw.MatMul(a=nodes(), b=g.placeholder(6, 3, name="b"), transpose_a=True)), "MatMul MatMul"),
    Row("uniform", lambda: tf.matmul(square(), nodes()) * g.numbers([2.0] * 5, name="two"), "MatMul MatMul"),
    Row("one-of-two", lambda: g.scale(tf.matmul(nodes(6, name="y"), nodes())), "MatMul MatMul MatMul"),
    *[Row(name, lambda n=name: g.scale(batched(getattr(raw, n), g.placeholder(3, 6, 4))), f"{name} {name}") for name in ("BatchMatMul", "BatchMatMulV2")],
    Row("BatchMatMulV3", lambda: g.scale(batched(raw.BatchMatMulV3, g.placeholder(3, 6, 4), Tout=tf.float32)), "BatchMatMulV3 BatchMatMulV3"),
    Row("attention", lambda: g.scale(attention()), "Einsum Einsum Einsum Einsum Einsum Softmax"),
    Row("attention-transposed", lambda: g.scale(attention("bqk,bkd->bdq"), axis=1), "Einsum Einsum Einsum Einsum Einsum Softmax"),
    # The offset would have to be on each sum of a row of the other factor.
    Row("graph-convolution", graph_convolution, "AddV2 BiasAdd MatMul MatMul Relu", {"bn/add": NOT_CONSTANT}),
]
DOWN = [
    Row("columns", lambda: g.dense(tf.matmul(square(), g.scale(tf.nn.relu(g.placeholder(6, 4))))), "MatMul MatMul Relu"),
    Row("both", lambda: g.dense(tf.matmul(g.scale(tf.nn.relu(g.placeholder(6, 4)), name="one"), g.scale(tf.nn.relu(g.placeholder(4, 5, name="y")), name="two"))), "MatMul MatMul Mul Relu Relu", {"one": Reason.NEEDS_POSITIVE_SCALE}),
]
STAYS = [
    Row("affine", lambda: g.affine(tf.abs(tf.matmul(square(), nodes()))), "Abs AddV2 MatMul MatMul Mul", {"bn/add": Reason.NEEDS_POSITIVE_SCALE}),
    Row("inner", lambda: g.dense(tf.matmul(g.scale(square(size=4)), g.placeholder(4, 4))), "MatMul MatMul Mul", {"scale": Reason.GRAPH_INPUT}),
    *[Row(f"itself-{t}", lambda t=t: g.scale(itself(t)), "MatMul MatMul Mul", {"scale": Reason.SHARED}) for t in (False, True)],
    Row("inputs", lambda: g.scale(tf.matmul(square(), g.placeholder(6, 5))), "MatMul Mul", {"scale": NOT_CONSTANT}),
    Row("rows-of-other", lambda: on_rows(tf.matmul(square(), nodes())), "MatMul MatMul Mul", {"scale": NOT_CONSTANT}),
    # One matrix for all batches can not be scaled for each.
    Row("broadcast", lambda: g.scale(tf.matmul(g.placeholder(3, 6, 6, name="a"), raw.BatchMatMulV2(x=g.placeholder(1, 6, 4), y=g.const(4, 5))), axis=0), "BatchMatMulV2 BatchMatMulV2 Mul", {"scale": NOT_CONSTANT}),
    Row("convolution", lambda: g.scale(g.conv(g.image(), weights=tf.reshape(g.dense(g.placeholder(1, 3, name="y"), 48), [2, 2, 3, 4]))), "Conv2D MatMul Mul Reshape", {"scale": NOT_CONSTANT}),
]
# fmt: on


@parametrized([*UP, *DOWN, *STAYS])
def test_a_product_of_two_computed_matrices(row):
    check(row)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_batch_axis_that_both_have_is_that_of_either(axis):
    """A scale for each batch has a way where a factor's own sink has that axis."""
    row = Row(
        "batch",
        lambda: g.scale(attention(), axis),
        "Einsum Einsum Einsum Einsum Einsum" + (" Softmax" if axis == 2 else " Mul Softmax"),
        {} if axis == 2 else {"scale": NOT_CONSTANT},
    )
    check(row)
