"""Write docs/flags.md, docs/laws.md and docs/reasons.md from the code.

Usage: python docs/generate.py

What a law asks of an affine is read from the law itself, by way of one example node for each op.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import itertools
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf

from tf_bnfold import flag_groups
from tf_bnfold.algebra.channels import Joins, Law, Needs
from tf_bnfold.fold import laws, sinks
from tf_bnfold.graph.view import View
from tf_bnfold.reasons import Reason, Refusal

HEAD = "<!-- Written by docs/generate.py (`make docs`); change the code instead. -->"

raw = tf.raw_ops

_POOL = {"ksize": [1, 2, 2, 1], "strides": [1, 2, 2, 1], "padding": "VALID"}
_POOL3D = {"ksize": [1, 1, 2, 2, 1], "strides": [1, 1, 2, 2, 1], "padding": "VALID"}
_PADS = [[0, 0], [1, 1], [1, 1], [0, 0]]

# An example of each op of the table of laws, on a value [2, 4, 4, 8]: what it is, and what shows its condition.
EXAMPLES: Mapping[str, Callable[[Any], Any]] = {
    "Identity": lambda x: raw.Identity(input=x),
    "IdentityN": lambda x: raw.IdentityN(input=[x, x]),
    "StopGradient": lambda x: raw.StopGradient(input=x),
    "PreventGradient": lambda x: raw.PreventGradient(input=x),
    "Snapshot": lambda x: raw.Snapshot(input=x),
    "CheckNumerics": lambda x: raw.CheckNumerics(tensor=x, message=""),
    "EnsureShape": lambda x: raw.EnsureShape(input=x, shape=[2, 4, 4, 8]),
    "Relu": lambda x: raw.Relu(features=x),
    "LeakyRelu": lambda x: raw.LeakyRelu(features=x),
    "Abs": lambda x: raw.Abs(x=x),
    "Cast": lambda x: raw.Cast(x=x, DstT=tf.float64),
    "Neg": lambda x: raw.Neg(x=x),
    "Add": lambda x: raw.Add(x=x, y=x),
    "AddV2": lambda x: raw.AddV2(x=x, y=x),
    "AddN": lambda x: raw.AddN(inputs=[x, x]),
    "Sub": lambda x: raw.Sub(x=x, y=x),
    "BiasAdd": lambda x: raw.BiasAdd(value=x, bias=[1.0] * 8),
    "Mul": lambda x: raw.Mul(x=x, y=x),
    "RealDiv": lambda x: raw.RealDiv(x=x, y=x),
    "MatMul": lambda x: raw.MatMul(a=x[0, 0], b=x[0, 1], transpose_b=True),
    "BatchMatMul": lambda x: raw.BatchMatMul(x=x, y=x, adj_y=True),
    "BatchMatMulV2": lambda x: raw.BatchMatMulV2(x=x, y=x, adj_y=True),
    "BatchMatMulV3": lambda x: raw.BatchMatMulV3(x=x, y=x, Tout=tf.float32, adj_y=True),
    "Einsum": lambda x: raw.Einsum(inputs=[x, x], equation="abcd,abed->abce"),
    "Maximum": lambda x: raw.Maximum(x=x, y=x),
    "Minimum": lambda x: raw.Minimum(x=x, y=x),
    "ClipByValue": lambda x: raw.ClipByValue(t=x, clip_value_min=0.0, clip_value_max=1.0),
    "Select": lambda x: raw.Select(condition=x > 0, x=x, y=x),
    "SelectV2": lambda x: raw.SelectV2(condition=True, t=x, e=x),
    "MaxPool": lambda x: raw.MaxPool(input=x, **_POOL),
    "MaxPool3D": lambda x: raw.MaxPool3D(input=x[:, None], **_POOL3D),
    "AvgPool": lambda x: raw.AvgPool(value=x, **_POOL),
    "AvgPool3D": lambda x: raw.AvgPool3D(input=x[:, None], **_POOL3D),
    "Mean": lambda x: raw.Mean(input=x, axis=[1, 2]),
    "Sum": lambda x: raw.Sum(input=x, axis=[1, 2]),
    "Max": lambda x: raw.Max(input=x, axis=[1, 2]),
    "Min": lambda x: raw.Min(input=x, axis=[1, 2]),
    "Cumsum": lambda x: raw.Cumsum(x=x, axis=1),
    "ResizeNearestNeighbor": lambda x: raw.ResizeNearestNeighbor(images=x, size=[8, 8]),
    "ResizeBilinear": lambda x: raw.ResizeBilinear(images=x, size=[8, 8]),
    "ResizeBicubic": lambda x: raw.ResizeBicubic(images=x, size=[8, 8]),
    "Reshape": lambda x: raw.Reshape(tensor=x, shape=[2, 16, 8]),
    "Squeeze": lambda x: raw.Squeeze(input=x),
    "ExpandDims": lambda x: raw.ExpandDims(input=x, axis=1),
    "Transpose": lambda x: raw.Transpose(x=x, perm=[0, 3, 1, 2]),
    "Concat": lambda x: raw.Concat(concat_dim=3, values=[x, x]),
    "ConcatV2": lambda x: raw.ConcatV2(values=[x, x], axis=3),
    "Split": lambda x: raw.Split(axis=3, value=x, num_split=2),
    "SplitV": lambda x: raw.SplitV(value=x, size_splits=[3, 5], axis=3, num_split=2),
    "Pack": lambda x: raw.Pack(values=[x, x], axis=1),
    "Unpack": lambda x: raw.Unpack(value=x, num=4, axis=1),
    "Slice": lambda x: raw.Slice(input=x, begin=[0, 1, 1, 0], size=[-1, 2, 2, -1]),
    "StridedSlice": lambda x: raw.StridedSlice(input=x, begin=[0, 1], end=[2, 4], strides=[1, 1]),
    "Gather": lambda x: raw.Gather(params=x, indices=[1, 0]),
    "GatherV2": lambda x: raw.GatherV2(params=x, indices=[1, 0], axis=3),
    "Tile": lambda x: raw.Tile(input=x, multiples=[1, 2, 2, 1]),
    "BroadcastTo": lambda x: raw.BroadcastTo(input=x, shape=[3, 2, 4, 4, 8]),
    "ReverseV2": lambda x: raw.ReverseV2(tensor=x, axis=[1]),
    "Roll": lambda x: raw.Roll(input=x, shift=[1], axis=[3]),
    "DepthToSpace": lambda x: raw.DepthToSpace(input=x, block_size=2),
    "SpaceToDepth": lambda x: raw.SpaceToDepth(input=x, block_size=2),
    "BatchToSpaceND": lambda x: raw.BatchToSpaceND(input=x, block_shape=[2], crops=[[0, 0]]),
    "SpaceToBatchND": lambda x: raw.SpaceToBatchND(input=x, block_shape=[2], paddings=[[1, 1]]),
    "MirrorPad": lambda x: raw.MirrorPad(input=x, paddings=_PADS, mode="REFLECT"),
    "Pad": lambda x: raw.Pad(input=x, paddings=_PADS),
    "PadV2": lambda x: raw.PadV2(input=x, paddings=_PADS, constant_values=1.0),
}

_CONDITIONS = {Needs.ORDER: "scale ≥ 0", Needs.ZERO_OFFSET: "offset 0", Needs.UNIT_SCALE: "scale 1"}


def law_of(op: str) -> Law:
    """Return the law of an op's example.

    Raises:
      KeyError: The op has no example.
      ValueError: No affine may pass the example.
    """
    with tf.Graph().as_default() as graph:
        EXAMPLES[op](tf.compat.v1.placeholder(tf.float32, [2, 4, 4, 8]))
        view = View.of(graph.as_graph_def(), None)
    node = next(node for node in view.graph.nodes.values() if node.op == op)
    law = laws.law_of(view, node)
    if isinstance(law, Refusal):
        raise ValueError(f"the example of {op} has no law: {law}")
    return law


def condition(law: Law) -> str:
    """Return in words what a law asks of an affine."""
    asked = [words for needs, words in _CONDITIONS.items() if needs in law.needs]
    if law.fill is not None:
        asked.append("fits the padding")
    return ", ".join(asked) or "any"


def description(rule: Callable[..., Any]) -> list[str]:
    """Return the paragraphs of a rule's docstring; one that a function makes has the docstring of that function."""
    module, _, name = f"{rule.__module__}:{rule.__qualname__.partition('.')[0]}".partition(":")
    text = inspect.getdoc(getattr(importlib.import_module(module), name))
    if text is None:
        raise ValueError(f"{name} of {module} has no docstring")
    return [" ".join(paragraph.split()) for paragraph in text.split("\n\n")]


@dataclasses.dataclass(frozen=True)
class Entry:
    """A row of a table: an op, and the cells beside it."""

    op: str
    cells: tuple[str, ...]


def lines(entries: list[Entry]) -> str:
    """Return a line for each run of entries that say the same."""
    groups = itertools.groupby(entries, key=lambda entry: entry.cells)
    return "\n".join(line(", ".join(entry.op for entry in group), *cells) for cells, group in groups)


def line(*cells: str) -> str:
    """Return a row of a Markdown table."""
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def laws_page() -> str:
    """Return docs/laws.md."""
    passed, taken = [], []
    for op, rule in laws._TABLE.items():
        law = law_of(op)
        meet = len(law.ports) > 1 and len(law.outputs) == 1
        inputs = law.joins.name.lower() if meet or law.joins is Joins.PRODUCT else ""
        passed.append(Entry(op, (condition(law), inputs, " ".join(description(rule)))))
    for op, sink in sinks._TABLE.items():
        weights, offset = description(sink)
        taken.append(Entry(op, (weights, offset.removeprefix("Offset before: "))))
    joins = "\n".join(f"- {joins.name.lower()}: {joins.value}." for joins in Joins)
    return f"""{HEAD}

# Laws and sinks

[How it works](how_it_works.md) says what these are; [adding an op](adding_an_op.md) how to add one.

## Laws: the ops that an affine may pass

`scale * x + offset` may pass an op when it meets the condition. Any other op, and any op with an attribute that
TensorFlow does not know, ends the way.

| op | condition | inputs | channels |
|---|---|---|---|
{lines(passed)}

How inputs that carry values come together:

{joins}

Fits the padding: the op writes a constant beside its input, and the affine makes one number of it, the same for all
channels. Pad and PadV2 write that number then; SpaceToBatchND writes 0 only, so the offset has to be 0. Where only some
channels are padded, the constant must stay as it is.

## Sinks: the linear ops that take an affine

Every op of the table takes any affine behind it: the scale into its weights, the offset into a bias. The weights have
to be constants, and not stored in a smaller type than the op computes in. Before it, a scale goes into the weights
always, and an offset where the last column says so: there each output position sees every tap, so that the offset adds
a constant to each output channel.

| op | weights | an offset before it |
|---|---|---|
{lines(taken)}
"""


def reasons_page() -> str:
    """Return docs/reasons.md."""
    rows = "\n".join(line(f"`{reason.name}`", reason.value, reason.graph, reason.remedy) for reason in Reason)
    return f"""{HEAD}

# Why a batch norm stays

The report names one of these reasons, and the node to look at, for each batch norm that stays. Where it could go
neither way, that is what ended the way up, and the detail says behind "behind it:" what ended the way down. In these
graphs linear ops have constant weights and pad nothing unless it says so; `tests/test_reasons.py` folds each of them.

| reason | what it means | a graph that gives it | what helps |
|---|---|---|---|
{rows}
"""


def flags_page() -> str:
    """Return docs/flags.md."""
    groups = "\n\n".join(
        f"## {title}\n\n| flag | what it does |\n|---|---|\n"
        + "\n".join(line(f"`{flag.usage}`", _sentence(flag.text)) for flag in group)
        for title, group in flag_groups.GROUPS.items()
    )
    return f"""{HEAD}

# Flags

A flag is written as `--name value` or `--name=value`; one that is on is turned off by `--noname`. Lists are
separated by commas. `--flagfile` reads flags from a file, one a line; of a flag that is given twice, the later counts.

{groups}
"""


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


PAGES = {"flags.md": flags_page, "laws.md": laws_page, "reasons.md": reasons_page}


def main() -> None:
    """Write the pages."""
    for name, page in PAGES.items():
        (pathlib.Path(__file__).parent / name).write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
