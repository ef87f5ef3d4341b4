"""The fold of a GraphDef: CPU time and memory beside TensorFlow's own folds and a copy of the graph."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import tensorflow as tf
from tensorflow.core.protobuf import config_pb2, rewriter_config_pb2
from tensorflow.python.grappler import tf_optimizer
from tensorflow.python.tools import optimize_for_inference_lib

import tf_bnfold
from benchmarks.fold_graphs import NORMS, Built, GraphDef, chain, resnet152, wide_concat
from benchmarks.measuring import Figure, alone, cpu_seconds, interleaved, peak_growth
from tf_bnfold.fold import fold_graph

SECONDS, MEMORY, LEFT = "CPU seconds", "MB above the input", "batch norm ops left"
OURS, NO_REPORT, COPY = "tf_bnfold", "its fold alone", "copy"
OPTIMIZE, GRAPPLER = "optimize_for_inference", "Grappler"

_NORM_OPS = frozenset({"FusedBatchNormV3", "_FusedBatchNormEx", "Rsqrt", "Mul", "Sub"})


@dataclasses.dataclass(frozen=True)
class Settings:
    """How much is measured.

    Attributes:
      blocks: Lengths of the chains.
      branches: Widths of the concats.
      divisor: Of the widths of ResNet152.
      rounds: Runs of each.
      once_above: A tool that takes more seconds than this is run once.
      memory_up_to: Nodes of the largest graph whose memory is measured, as that is one more run of each quick tool.
    """

    blocks: tuple[int, ...] = (100, 1_000, 10_000, 30_000)
    branches: tuple[int, ...] = (100, 1_000)
    divisor: int = 1
    rounds: int = 5
    once_above: float = 5.0
    memory_up_to: int = 20_000


def _copy(built: Built) -> GraphDef:
    result = type(built.graph_def)()
    result.CopyFrom(built.graph_def)
    return result


def _optimized(built: Built) -> GraphDef:
    return optimize_for_inference_lib.fold_batch_norms(
        optimize_for_inference_lib.fuse_decomposed_batch_norm(built.graph_def)
    )


def _grappler(meta_graph: Any) -> GraphDef:
    config = config_pb2.ConfigProto()
    rewrites = config.graph_options.rewrite_options
    rewrites.min_graph_nodes = -1  # or it leaves small graphs alone
    rewrites.meta_optimizer_iterations = rewriter_config_pb2.RewriterConfig.ONE
    rewrites.optimizers.extend(["constfold", "remap"])
    return tf_optimizer.OptimizeGraph(config, meta_graph)


def _meta_graph(built: Built) -> Any:
    """Return what Grappler takes, whose making is not its time."""
    with tf.Graph().as_default() as graph:
        result = tf.compat.v1.train.export_meta_graph(graph=graph)
        result.graph_def.CopyFrom(built.graph_def)
        result.collection_def["train_op"].node_list.value.append(built.output)
        return result


@dataclasses.dataclass(frozen=True)
class Tool:
    """A way to fold: what it makes of a graph that does not count, and what does."""

    prepare: Callable[[Built], Any]
    fold: Callable[[Any], GraphDef]


def _as_it_is(built: Built) -> Built:
    return built


TOOLS = {
    OURS: Tool(_as_it_is, lambda built: tf_bnfold.fold_graph_def(built.graph_def, [built.output]).graph_def),
    NO_REPORT: Tool(_as_it_is, lambda built: fold_graph(built.graph_def, [built.output]).graph_def),
    COPY: Tool(_as_it_is, _copy),
    OPTIMIZE: Tool(lambda built: dataclasses.replace(built, graph_def=_copy(built)), _optimized),
    GRAPPLER: Tool(_meta_graph, _grappler),
}


@dataclasses.dataclass(frozen=True)
class Case:
    """A graph: its name, and what builds it, which a process of its own can be told."""

    name: str
    builder: Callable[..., Built]
    size: int
    norm: str

    def build(self) -> Built:
        """Build the graph."""
        return self.builder(self.size, NORMS[self.norm])


def cases(settings: Settings) -> list[Case]:
    """Return the graphs."""
    return [
        case
        for norm in NORMS
        for case in (
            *(Case(f"{blocks:,} blocks, {norm}", chain, blocks, norm) for blocks in settings.blocks),
            *(Case(f"Concat of {width:,}, {norm}", wide_concat, width, norm) for width in settings.branches),
            Case(f"ResNet152, {norm}", resnet152, settings.divisor, norm),
        )
    ]


def measure(case: Case, settings: Settings) -> list[Figure]:
    """Measure the time of all tools on one graph, and what they leave."""
    built = case.build()
    small = chain(2, NORMS[case.norm])
    results: dict[str, GraphDef] = {}
    for tool in TOOLS.values():
        tool.fold(tool.prepare(small))  # what is loaded at the first call does not count

    def timed(name: str) -> Callable[[], float]:
        def run() -> float:
            prepared = TOOLS[name].prepare(built)
            return cpu_seconds(lambda: results.update({name: TOOLS[name].fold(prepared)}))

        return run

    found = interleaved({name: timed(name) for name in TOOLS}, settings.rounds, settings.once_above)
    figures = [Figure(case.name, name, SECONDS, samples) for name, samples in found.items()]
    figures += [Figure(case.name, name, LEFT, (norm_ops(results[name]),)) for name in TOOLS if name != COPY]
    return figures


def measure_memory(case: Case, settings: Settings, names: Sequence[str]) -> list[Figure]:
    """Measure the memory of tools, in a process that has folded nothing before: what is forked has no threads then."""
    built = case.build()
    if len(built.graph_def.node) > settings.memory_up_to:
        return []
    tools = {name: TOOLS[name] for name in names}
    return [
        Figure(case.name, name, MEMORY, (peak_growth(functools.partial(tool.prepare, built), tool.fold),))
        for name, tool in tools.items()
    ]


def norm_ops(graph_def: GraphDef) -> int:
    """Count the ops that only batch norms bring into these graphs; the Add of an offset is none of them."""
    return sum(node.op in _NORM_OPS for node in graph_def.node)


def figures(settings: Settings) -> Iterator[Figure]:
    """Measure all graphs."""
    for case in cases(settings):
        print(f"fold: {case.name}", flush=True)
        found: list[Figure] = alone(measure, case, settings)
        yield from found
        quick = [each.subject for each in found if each.quantity == SECONDS and each.median <= settings.once_above]
        yield from alone(measure_memory, case, settings, quick)
