"""Networks for phones from Keras 3 and Keras 2: no batch norm stays, and the committed page says so."""

from __future__ import annotations

import re

import pytest

from benchmarks import networks
from benchmarks.mobile_networks import LSTM, NETWORKS, Network, Variant, variants
from benchmarks.networks import Converted, Row, measure

# Batch norms; how many of them are folded; and Mul / Add that stay: the biases of Conv3D, the offsets that a ReLU
# stops, the bias of an LSTM, the computation of boxes.
GOALS = {
    "DeepLab": (36, 36, "0 / 0"),
    "causal TCN": (8, 8, "0 / 0"),
    "dilated Conv1D residual": (8, 8, "0 / 0"),
    "splice predictor": (8, 4, "0 / 4"),
    "3-D ResNet": (9, 9, "0 / 9"),
    "PointNet": (17, 17, "0 / 0"),
    "Conv-BN-LSTM": (2, 2, "0 / 1"),
    "SSD, built-in NMS": (25, 25, "4 / 1"),
    "SSD, NMS of TensorFlow": (25, 25, "4 / 1"),
    "SSD, TFLite_Detection_PostProcess": (25, 25, "0 / 0"),
}
WITH_PHASES = ("DeepLab", "causal TCN", "dilated Conv1D residual", "splice predictor")
ALL = [variant for network in NETWORKS for variant in variants(network)]
# One of each, the freest, from the two Keras by turns.
FEW = [variants(network)[0 if place % 2 else len(variants(network)) // 2] for place, network in enumerate(NETWORKS)]


def goal(network: str, keras: str, free: str) -> tuple[int, int, str]:
    """What a variant is held to; the bias of an LSTM stays in the loop of Keras 2 alone, not in TFLite's own op."""
    found, folded, left = GOALS[network]
    keeps_none = network == LSTM and not (keras == "tf_keras" and free)
    return found, folded, "0 / 0" if keeps_none else left


def label(variant: Variant) -> str:
    return f"{variant.network.name}-{variant.keras}-{variant.free}"


def check(variant: Variant) -> None:
    """Convert, and hold what stays to the goals and the outputs to those of Keras."""
    network = variant.network
    row = measure(variant, verify=not variant.select_tf_ops)  # LiteRT has no ops of TensorFlow here
    found, folded, left = goal(network.name, variant.keras, variant.free)
    assert (row.found, row.folded) == (found, folded)
    assert f"{row.ours.scales} / {row.ours.offsets}" == left
    assert row.ours.phases == 0
    assert row.ours.ops <= row.stock.ops
    assert row.error < 1e-4
    if variant.free and network.name in WITH_PHASES:  # the converter puts them together where nothing is free
        assert row.stock.phases > 0
        assert row.ours.ops < row.stock.ops * 0.75


@pytest.mark.parametrize("variant", FEW, ids=label)
def test_one_of_each(variant):
    check(variant)


@pytest.mark.slow
@pytest.mark.parametrize("variant", [variant for variant in ALL if variant not in FEW], ids=label)
def test_all_others(variant):
    check(variant)


def test_the_freest_variant_is_what_each_axis_leaves_open():
    network = Network("net", lambda keras, x: x, (9, 4), has_length=True)
    assert [(variant.keras, variant.shape) for variant in variants(network)] == [
        (keras, shape) for keras in ("keras", "tf_keras") for shape in ((None, None, 4), (None, 9, 4), (1, 9, 4))
    ]


def test_a_row():
    variant = Variant(Network("Net", lambda keras, x: x, (4,)), "tf_keras", "batch")
    page = networks.table([Row(variant, 7, 6, Converted(3, 4, 6, 50), Converted(0, 1, 0, 39), 1.2e-6)])
    row = "| Net | 2 | batch | 6 of 7 | 3 / 4 | 6 | 50 | 0 / 1 | 0 | 39 | 1e-06 |"
    assert row in page
    heads = [line for line in page.splitlines() if line.startswith(("| network", "|---"))]
    assert [head.count("|") for head in heads] == [row.count("|")] * 2


def test_the_committed_page_reaches_its_goals(pytestconfig):
    page = (pytestconfig.rootpath / "docs" / "networks.md").read_text(encoding="utf-8")
    row = r"^\| (.+) \| (\d) \| (.+) \| (\d+) of (\d+) \| .+ \| (\d+) \| (\d+ / \d+) \| (\d+) \| (\d+) \| (\S+) \|$"
    rows = re.findall(row, page, re.MULTILINE)
    listed = [(network, kind, free) for network, kind, free, *_ in rows]
    wanted = [(v.network.name, "3" if v.keras == "keras" else "2", v.free or "nothing") for v in ALL]
    assert listed == wanted
    for variant, (*_, folded, found, stock, left, phases, ops, error) in zip(ALL, rows, strict=True):
        assert (int(found), int(folded), left) == goal(variant.network.name, variant.keras, variant.free)
        assert (int(phases), int(ops) <= int(stock)) == (0, True)
        assert float(error) < 1e-4
