"""Reports, and the graphs that they are on, for tests of the page, of explanations and of comparisons."""

from __future__ import annotations

from collections.abc import Callable

import graphs as g
import tensorflow as tf
from checker import build

from tf_bnfold import page, pipeline
from tf_bnfold.explain import Network
from tf_bnfold.fold import fold_graph
from tf_bnfold.graph.ops import Op, ops_of
from tf_bnfold.outcome import Kind, Outcome, Status
from tf_bnfold.report import Measurement, Report, Result, Run, Size


def network_of(function: Callable[[], object], keep: str = "") -> Network:
    """Fold what a function builds."""
    built = build(function)
    folding = fold_graph(built.graph_def, built.outputs, keep=keep)
    return Network(pipeline.result_of(built.graph_def, folding), ops_of(built.graph_def, folding.graph_def))


def every_way() -> list[tf.Tensor]:
    """Batch norms that go up, down, in part, and that stay, in scopes."""
    x = g.image(4, 12)
    with tf.name_scope("down"):
        lowered = g.conv(g.norm(x, name="bn"), kernel=1, name="conv")
    with tf.name_scope("up"):
        raised = g.norm(tf.nn.avg_pool2d(g.conv(lowered, name="conv"), 2, 1, "SAME", name="pool"), name="bn")
    with tf.name_scope("stays"):
        shared = g.conv(tf.nn.relu(raised), name="conv")
        kept = g.norm(shared, name="bn")
        other = tf.nn.sigmoid(shared, name="sigmoid")
    with tf.name_scope("part"):
        positive = g.affine(tf.nn.sigmoid(kept), above_zero=True, name="bn")
        halved = g.conv(tf.nn.relu(positive), name="conv")
    return [halved, other]


def report_of(network: Network) -> Report:
    """A report with a comparison."""
    errors = {f"{op.name}:0": 1e-7 * (number + 1) for number, op in enumerate(network.ops)}
    measured = Measurement(
        "inner tensors", True, len(errors), 3, 0, max(errors.values(), default=None), 1e-3, "x:0", errors=errors
    )
    run = Run(("tf_bnfold", "--saved_model", "my model"), {"tf_bnfold": "1"}, {"load": 1.0}, (measured,), {})
    return Report(network.result, run)


def page_of(network: Network) -> str:
    """The page of it."""
    return page.render(report_of(network), network)


def long_network(blocks: int, name: str = "block{}/unit") -> Network:
    """A chain of blocks of ten ops, two of them batch norms that fold up."""
    ops: list[Op] = []
    outcomes = []
    for block in range(blocks):
        scope = name.format(block)
        for number in range(10):
            before = (ops[-1].name,) if ops else ()
            ops.append(Op(f"{scope}/op{number}", ("Conv2D", "FusedBatchNormV3")[number % 2], "", before, False, True))
        outcomes += [
            Outcome(
                f"{scope}/op{number}", (f"{scope}/op{number}",), "FusedBatchNormV3", Kind.BATCH_NORM, 8, Status.UP,
                (f"{scope}/op{number - 1}",),
            )
            for number in (1, 5)
        ]  # fmt: skip
    size = Size({"Conv2D": blocks * 5, "FusedBatchNormV3": blocks * 5}, 10**6)
    return Network(Result(tuple(outcomes), size, size), tuple(ops))
