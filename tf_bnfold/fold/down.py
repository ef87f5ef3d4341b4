"""Down: find linear ops behind an affine that take it, in all its readers.

A search is pure: nothing is changed before a whole route is known.
"""

from __future__ import annotations

import heapq
import itertools

from tf_bnfold.algebra.affine import Affine
from tf_bnfold.algebra.channels import Joins
from tf_bnfold.fold import laws, sinks, transfer
from tf_bnfold.fold.beside import beside
from tf_bnfold.fold.bias import bias_behind
from tf_bnfold.fold.elements import Element
from tf_bnfold.fold.ledger import cancels, fits_dtype, unfit_constant
from tf_bnfold.fold.route import MOST_STEPS, Before, Merge, Placed, Route, Scene, Touch
from tf_bnfold.fold.sites import Site
from tf_bnfold.graph import attributes
from tf_bnfold.graph.graph import Node, Tensor
from tf_bnfold.reasons import Reason, Refusal

_PADDING = frozenset({"Conv2D", "Conv3D", "DepthwiseConv2dNative"})  # else, no padding makes taps uneven


def down(scene: Scene, tensor: Tensor, placed: Placed, *, merge: bool, others_take: bool = False) -> Route | Refusal:
    """Find linear ops behind `tensor` that take the affine on it, in all readers, so that it need not be computed.

    Args:
      scene: The graph and what its sinks hold.
      tensor: The tensor that the affine computes now.
      placed: The affine.
      merge: Whether other sites on the way take it; else it passes them.
      others_take: Whether an offset that comes to a sum may go up into the sum's other inputs.
    """
    return _Down(scene, merge=merge, others_take=others_take).run(tensor, placed)


class _Down:
    """One search towards the consumers, in topological order, so that a join knows all its inputs."""

    def __init__(self, scene: Scene, *, merge: bool, others_take: bool) -> None:
        self.scene = scene
        self.view = scene.view
        self.graph = scene.view.graph
        self.merge = merge
        self.others_take = others_take
        self.arrived: dict[Node, dict[int, Placed]] = {}
        self.heap: list[tuple[float, int, Node]] = []
        self.count = itertools.count()
        self.route: Route = []
        self.joined = False  # whether the way leads through an op that other values come to, too

    def run(self, tensor: Tensor, placed: Placed) -> Route | Refusal:
        if self.graph.is_fetched(tensor.node):
            return Refusal(Reason.GRAPH_OUTPUT, tensor.node.name)
        if not self.graph.uses(tensor):
            return Refusal(Reason.NO_READER, tensor.node.name)
        self._deliver(tensor, placed)
        while self.heap:
            _, _, node = heapq.heappop(self.heap)
            if len(self.arrived) > MOST_STEPS:
                return Refusal(Reason.TOO_FAR, node.name, f"more than {MOST_STEPS} ops")
            refusal = self._pass(node, self.arrived[node])
            if refusal is not None:
                return refusal
        return self.route

    def _deliver(self, tensor: Tensor, placed: Placed) -> None:
        if placed.affine.is_identity:
            return
        for use in self.graph.uses(tensor):
            if use.node not in self.arrived:
                self.arrived[use.node] = {}
                heapq.heappush(self.heap, (use.node.order, next(self.count), use.node))
            self.arrived[use.node][use.port] = placed

    def _pass(self, node: Node, arrived: dict[int, Placed]) -> Refusal | None:
        if node in self.scene.kept:
            return Refusal(Reason.KEPT_BY_USER, node.name)
        taken = self._into_sink(node, arrived) if sinks.is_sink_op(node) else None
        if sinks.is_sink_op(node) and not sinks.may_pass(taken):
            return taken
        site = self.scene.waiting.get(node)
        if self.merge and site is not None and site.first.node is node:
            return self._into_site(site, arrived)
        element = self.scene.elements.get(node)
        if element is None and self._goes_beside(node, arrived):
            return None
        if self.graph.is_fetched(node):
            return Refusal(Reason.GRAPH_OUTPUT, node.name)
        if element is not None:
            return self._past_element(element, arrived)
        refusal = self._past_law(node, arrived)
        return refusal and (taken or refusal)

    def _goes_beside(self, node: Node, arrived: dict[int, Placed]) -> bool:
        """Whether other inputs of a sum take what arrives at it, so that its own value stays."""
        law = laws.law_of(self.view, node) if self.others_take else None
        if law is None or isinstance(law, Refusal) or law.joins is not Joins.SUM:
            return False
        taken = beside(self.scene, node, law, arrived, self.route)
        if isinstance(taken, Refusal):
            return False
        self.route.extend(taken)
        return True

    def _past_law(self, node: Node, arrived: dict[int, Placed]) -> Refusal | None:
        law = laws.law_of(self.view, node)
        if isinstance(law, Refusal):
            return law
        self.joined = self.joined or len(law.ports) > 1
        if stray := set(arrived) - set(law.ports):
            return Refusal(Reason.NO_LAW, node.name, f"it reads the value as input {min(stray)}")
        for placed in arrived.values():
            broken = law.needs.broken_by(placed.affine)
            filled = Refusal(broken, node.name) if broken is not None else transfer.push_fill(law, node, placed)
            if isinstance(filled, Refusal):
                return filled
            self.route.extend(filled)
        self.route.append(Touch(node))
        for output in law.outputs:
            if not node.readers.get(output):
                continue
            pushed = transfer.push(node, law, output, arrived)
            if isinstance(pushed, Refusal):
                return pushed
            self._deliver(Tensor(node, output), pushed)
        return None

    def _into_sink(self, node: Node, arrived: dict[int, Placed]) -> Refusal | None:
        placed = next(iter(arrived.values()))
        affine = placed.affine
        channels = affine.channels if affine.channels > 1 else None
        sink = sinks.sink_of(self.view, node, behind=False, channels=channels, axis=placed.axis)
        if isinstance(sink, Refusal):
            return sink
        if set(arrived) != {sink.data_port}:
            return Refusal(Reason.WEIGHTS_NOT_CONSTANT, node.name)
        if channels is not None and (placed.axis != sink.axis_in or channels != sink.linear.channels_in):
            return Refusal(Reason.CHANNEL_AXIS, node.name)
        if not affine.has_zero_offset and not sink.linear.uniform_taps:
            return Refusal(Reason.ZERO_PADDING if node.op in _PADDING else Reason.UNEVEN_OFFSET, node.name)
        if (refusal := self.scene.ledger.refuse_before(sink, affine)) is not None:
            return refusal
        bias = None
        if not affine.has_zero_offset:
            added = self.scene.ledger.bias_of(sink, affine)
            dtype = attributes.dtype(node)
            refusal = unfit_constant(added, dtype, node.name) or cancels(affine, dtype, node.name)
            if refusal is not None:
                return refusal
            bias = bias_behind(self.scene, sink, added)
        self.route.append(Before(sink, affine, bias))
        return None

    def _into_site(self, site: Site, arrived: dict[int, Placed]) -> Refusal | None:
        if site.refusal is not None:
            return Refusal(Reason.NO_LAW, site.first.node.name, site.refusal.reason.value)
        if site.is_lone_scalar:
            return Refusal(Reason.LONE_SCALAR, site.first.node.name)
        placed = arrived.get(site.first.port)
        if placed is None or len(arrived) > 1:
            return Refusal(Reason.NO_LAW, site.first.node.name)
        if placed.axis is not None and site.axis is not None and placed.axis != site.axis:
            return Refusal(Reason.CHANNEL_AXIS, site.first.node.name)
        merged = placed.affine.then(site.affine)
        if not fits_dtype(merged, attributes.dtype(site.output)):
            return Refusal(Reason.NOT_FINITE, site.output.name)
        for each in (placed.affine, merged):
            if (refusal := cancels(each, attributes.dtype(site.output), site.output.name)) is not None:
                return refusal
        if self.joined and merged.op_count > len(site.elements):
            return Refusal(Reason.MIXED_BRANCHES, site.output.name, "they would get one op more")
        self.route.append(Merge(site, placed))
        return None

    def _past_element(self, element: Element, arrived: dict[int, Placed]) -> Refusal | None:
        """Past an affine that stays: `behind(element(x)) == element(affine(x))`."""
        placed = arrived.get(element.port)
        if element.refusal is not None or placed is None or len(arrived) > 1:
            return Refusal(Reason.NO_LAW, element.node.name)
        if element.axis is not None and placed.axis is not None and element.axis != placed.axis:
            return Refusal(Reason.CHANNEL_AXIS, element.node.name)
        own, affine = element.affine, placed.affine
        behind = Affine.of(affine.scale, own.scale * affine.offset + own.offset - affine.scale * own.offset)
        if not behind.is_finite:
            return Refusal(Reason.NOT_FINITE, element.node.name)
        self.route.append(Touch(element.node))
        self._deliver(Tensor(element.node, 0), Placed(behind, placed.axis if placed.axis is not None else element.axis))
        return None
