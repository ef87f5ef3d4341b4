"""docs/adding_an_op.md: its code works as it stands there."""

from __future__ import annotations

import re

import graphs as g
import numpy as np
import pytest
import tensorflow as tf
from checker import build, check_fold, feeds_of, ops_left, run

from tf_bnfold.fold import fold_graph, laws, sinks
from tf_bnfold.fold.laws import places
from tf_bnfold.graph import shapes
from tf_bnfold.graph.shapes import computed
from tf_bnfold.reasons import Reason

raw = tf.raw_ops


@pytest.fixture(scope="module")
def page(pytestconfig) -> str:
    return (pytestconfig.rootpath / "docs" / "adding_an_op.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def blocks(page) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)


def defined(block: str, name: str, module: object) -> object:
    """What a block defines, in the module that it belongs to; the module stays as it is."""
    names = dict(vars(module))
    exec(block, names)
    return names[name]


def rolled():
    return g.affine(raw.Roll(input=g.conv(g.image()), shift=[1, 2], axis=[1, 3]), name="bn")


def test_the_law(blocks, monkeypatch):
    table = {op: law for op, law in laws._TABLE.items() if op != "Roll"}
    monkeypatch.setattr(laws, "_TABLE", table)  # a copy, so that the order of the real one stays
    check_fold(rolled, refused={"bn/add": Reason.NO_LAW})
    monkeypatch.setitem(table, "Roll", defined(blocks[0], "roll", places))
    check_fold(rolled, expect=["BiasAdd", "Conv2D", "Roll"])
    check_fold(
        lambda: g.conv(raw.Roll(input=g.affine(g.image()), shift=-2, axis=3)), expect=["BiasAdd", "Conv2D", "Roll"]
    )
    exec(blocks[2], {"check_fold": check_fold, "g": g, "raw": raw})


def test_the_sink(blocks, monkeypatch):
    """TensorFlow has no float64 kernel for it: compared in float32."""
    monkeypatch.setitem(shapes._RULES, "SparseMatMul", computed._matmul)
    monkeypatch.setitem(sinks._TABLE, "SparseMatMul", defined(blocks[1], "_sparse_matmul", sinks))
    for transposed in (False, True):

        def graph(transposed=transposed):
            weights = g.const(*((5, 4) if transposed else (4, 5)))
            x = raw.SparseMatMul(a=g.affine(g.rows(), name="before"), b=weights, transpose_b=transposed)
            return g.affine(x, name="behind")

        built = build(graph)
        folded = fold_graph(built.graph_def, built.outputs).graph_def
        assert ops_left(folded) == ["BiasAdd", "SparseMatMul"]
        feeds = feeds_of(built.graph_def, 0, 1.0)
        (a,), (b,) = (run(each, ["behind/add:0"], feeds) for each in (built.graph_def, folded))
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_the_files_that_it_names_are_there(page, pytestconfig):
    for path in re.findall(r"`((?:tf_bnfold|tests|docs)/[^`]*)`", page):
        assert (pytestconfig.rootpath / path).exists(), path
