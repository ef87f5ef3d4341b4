"""The table of quantised models: how it is made, and what the committed page says."""

from __future__ import annotations

import re

import numpy as np

from benchmarks import quantisation
from benchmarks.quantisation import CASES, Case, Measured, Row
from tf_bnfold.quantisation import TYPES


def test_the_inputs_are_many_and_differ():
    for case in CASES:
        values = case.inputs(np.random.default_rng(0))
        assert len(values) == quantisation.COUNT
        assert np.isfinite(values).all()
        assert values.std(axis=0).min() >= 0
        assert np.abs(values[0] - values[1]).max() > 0.1


def found(trained: bool) -> Measured:
    rows = {
        "none": (Row(400, 9, 1e-7, None, 1.0),) * 2,
        "int8": (Row(100, 9, 0.1, 30.0, 0.9), Row(90, 7, 0.2, 28.5, 1.0)),
    }
    return Measured(Case("net", quantisation.from_keras, quantisation.pictures, trained=trained), rows, (1.5, 20.0), 3)


def test_a_page():
    page = quantisation.page([found(trained=True), found(trained=False)])
    assert "| none | 400 | 9 | 1.0e-07 | - | 100.0% | 400 | 9 | 1.0e-07 | - | 100.0% |" in page
    assert "| int8 | 100 | 9 | 1.0e-01 | 30.0 dB | 90.0% | 90 | 7 | 2.0e-01 | 28.5 dB | 100.0% |" in page
    assert "at most: 1.5 before the fold and 20 after\nit, of 3 ops" in page
    assert (
        "- Trained models: over 1 quantised pairs the fold changes the signal to quantisation noise by -1.5 to" in page
    )
    assert "10.0% to 10.0% smaller" in page


def test_the_committed_page_has_every_model_and_mode(pytestconfig):
    page = (pytestconfig.rootpath / "docs" / "quantisation_table.md").read_text(encoding="utf-8")
    sections = re.split(r"^## ", page, flags=re.MULTILINE)[1:]
    assert [each.splitlines()[0] for each in sections] == [case.name for case in CASES]
    for each in sections:
        lines = [line.strip("| ").split(" | ") for line in each.splitlines() if line.startswith("| ")][1:]
        assert [line[0] for line in lines] == list(TYPES)
        for line in lines[1:]:
            without, folded = (float(line[place].removesuffix(" dB")) for place in (4, 9))
            assert folded > 20  # none is broken
            assert folded > without - 1  # and none is worse by more than chance
            assert int(line[6].replace(",", "")) < int(line[1].replace(",", ""))
