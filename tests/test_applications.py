"""The table of keras.applications: what is counted, and what the committed page says."""

from __future__ import annotations

import re

import numpy as np
import onnx
import tensorflow as tf

from benchmarks import applications
from benchmarks.applications import OFFSETS, SCALES, Application, Converted, Row

CLEAN = [
    "EfficientNetB0",
    "MobileNet",
    "MobileNetV2",
    "MobileNetV3Small",
    "MobileNetV3Large",
    "ResNet50",
    "InceptionV3",
    "Xception",
]
# Mul / Add: the stock converter's, and ours.
GOALS = {
    "ResNet50V2": ("17 / 17", "0 / 13"),
    "DenseNet121": ("62 / 62", "0 / 62"),
    "NASNetMobile": ("4 / 4", "0 / 0"),
    "EfficientNetV2B0": ("1 / 1", "0 / 1"),
    **dict.fromkeys(CLEAN, ("0 / 0", "0 / 0")),
}


ZERO = Converted(0, 0, 0, 0.0)


def test_constants_of_more_than_one_element_are_counted():
    vector = np.arange(1, 5, dtype=np.float32)

    @tf.function(input_signature=[tf.TensorSpec([1, 4])])
    def graph(x):
        y = tf.sigmoid(x) * vector
        z = tf.sigmoid(y - vector) / vector
        return tf.sigmoid(z * y) * 3.0 + tf.sigmoid(tf.sigmoid(z) + vector)

    content = tf.lite.TFLiteConverter.from_concrete_functions([graph.get_concrete_function()], graph).convert()
    assert applications.count_affine(content, SCALES) == 2  # Mul and Div by the vector
    assert applications.count_affine(content, OFFSETS) == 2  # Sub and Add
    expected = graph(tf.constant([vector])).numpy()
    np.testing.assert_allclose(applications.predict(content, vector[None]), expected, rtol=1e-5)


def test_a_row():
    tflite, onnx = (Converted(3, 4, 50, 1.2e-6), Converted(0, 2, 45, 0.0)), (Converted(5, 6, 60, 0.1), ZERO)
    page = applications.table([Row(Application("Net", pre_activation=True), 7, *tflite, *onnx)])
    row = "| Net | 7 | 3 / 4 | 50 | 1e-06 | 0 / 2 | 45 | 0e+00 | 5 / 6 | 60 | 1e-01 | 0 / 0 | 0 | 0e+00 |"
    assert row in page
    heads = [line for line in page.splitlines() if line.startswith(("| model", "|---"))]
    assert [head.count("|") for head in heads] == [row.count("|")] * 2
    assert "Gamma is above zero in Net, since" in page


def test_the_committed_page_reaches_its_goals(pytestconfig):
    page = (pytestconfig.rootpath / "docs" / "applications.md").read_text(encoding="utf-8")
    count, error = r"(\d+ / \d+) \| \d+", r"(\S+)"
    rows = re.findall(rf"^\| (\w+) \| \d+ \| {count} \| {error} \| {count} \| {error} \|", page, re.MULTILINE)
    assert {name: (stock, ours) for name, stock, _, ours, _ in rows} == GOALS
    assert all(float(error) < 1e-4 for row in rows for error in (row[2], row[4]))


def test_constants_of_an_onnx_are_counted():
    def op(kind: str, *inputs: str) -> onnx.NodeProto:
        return onnx.helper.make_node(kind, list(inputs), [f"{kind}_{'_'.join(inputs)}"])

    vector = onnx.numpy_helper.from_array(np.arange(4, dtype=np.float32), "vector")
    scalar = onnx.numpy_helper.from_array(np.float32(3), "scalar")
    nodes = [op("Mul", "x", "vector"), op("Div", "vector", "x"), op("Mul", "x", "scalar"), op("Add", "x", "vector")]
    graph = onnx.helper.make_graph([*nodes, op("Add", "x", "x")], "graph", [], [], [vector, scalar])
    model = onnx.helper.make_model(graph)
    assert applications.count_affine_onnx(model, applications.ONNX_SCALES) == 2
    assert applications.count_affine_onnx(model, applications.ONNX_OFFSETS) == 1


def rows(text: str) -> dict[str, list[str]]:
    """The cells of each row of a page's tables, by the first one."""
    lines = (line for line in text.splitlines() if line.startswith("| "))
    return {cells[0]: cells for cells in ([cell.strip() for cell in line[1:-1].split("|")] for line in lines)}


def test_the_readme_has_the_figures_of_the_page(pytestconfig):
    page, whole = ((pytestconfig.rootpath / name).read_text("utf-8") for name in ("docs/applications.md", "README.md"))
    _, _, section = whole.partition("\n## Beside other tools\n")
    page, readme = rows(page), rows(section.partition("\n## ")[0])
    shown = readme.keys() & page.keys() - {"model"}
    assert len(shown) == 6
    for name in shown:
        model, norms, stock, _, _, ours, _, _, theirs, _, _, both, *_ = page[name]
        assert readme[name] == [model, norms, stock, ours, theirs, both]
