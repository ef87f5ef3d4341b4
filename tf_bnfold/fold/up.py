"""Up: find linear ops before an affine that take it.

A search is pure: nothing is changed before a whole route is known. It does not recurse, so that a long graph needs no
deep stack.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import Any

import numpy as np

from tf_bnfold.algebra.affine import Affine
from tf_bnfold.algebra.channels import Joins, Law
from tf_bnfold.fold import laws, sinks, transfer
from tf_bnfold.fold.elements import Element
from tf_bnfold.fold.ledger import unfit, unfit_constant
from tf_bnfold.fold.route import MOST_STEPS, AdaptConstant, After, Demand, Placed, Route, Scene, Touch
from tf_bnfold.graph import attributes
from tf_bnfold.graph.graph import Node, Tensor, Use
from tf_bnfold.reasons import Reason, Refusal

# A constant operand of a sum may become a vector; one of a maximum stays what the converter may fuse.
_SUMS = frozenset({"Add", "AddV2", "AddN", "Sub", "BiasAdd"})
_BROADCASTING = frozenset({"Add", "AddV2", "AddN", "Sub", "Maximum", "Minimum", "ClipByValue", "SelectV2"})

_CUTS = frozenset({"Slice", "StridedSlice", "Gather", "GatherV2"})

_Search = Generator[Any, Any, Any]


def up(scene: Scene, reader: Use, placed: Placed) -> Route | Refusal:
    """Find linear ops before `reader`'s input that take the affine on it, so that `reader` reads the affine's value."""
    search = _Up(scene)
    route = _run(search.absorb(reader, placed))
    while not isinstance(route, Refusal) and any(isinstance(edit, Demand) for edit in route):
        route = _meet(search, route)
    return route


def _meet(search: _Up, route: Route) -> Route | Refusal:
    """Go on from the shared tensor that is nearest to the readers, all of which must ask for the same."""
    demands = [edit for edit in route if isinstance(edit, Demand)]
    tensor = max((demand.use.node.inputs[demand.use.port] for demand in demands), key=lambda t: t.node.order)
    mine = [demand for demand in demands if demand.use.node.inputs[demand.use.port] == tensor]
    placed = mine[0].placed
    asking = {demand.use for demand in mine}
    others = [use.node.name for use in search.minding(tensor, placed) if use not in asking]
    if others or not all(demand.placed.equals(placed) for demand in mine):
        return Refusal(Reason.SHARED, tensor.node.name, f"read by {others[0] if others else mine[1].use.node.name}")
    beyond = _run(search.change(tensor, placed))
    return beyond if isinstance(beyond, Refusal) else [edit for edit in route if edit not in mine] + beyond


def _run(search: _Search) -> Route | Refusal:
    """Run a search that yields the searches that it needs; a deep one grows a list, not the stack."""
    stack: list[_Search] = [search]
    answer: Any = None
    for _ in range(MOST_STEPS):
        finished, answer = _step(stack[-1], answer)
        if not finished:
            stack.append(answer)
            answer = None
            continue
        stack.pop()
        if not stack:
            return answer  # type: ignore[no-any-return]
    return Refusal(Reason.TOO_FAR, "", f"more than {MOST_STEPS} steps")


def _step(search: _Search, answer: Any) -> tuple[bool, Any]:
    """Go on with a search: (False, the search that it needs) or (True, its result)."""
    try:
        return False, search.send(answer)
    except StopIteration as done:
        return True, done.value


class _Up:
    """One search towards the producers."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.view = scene.view
        self.graph = scene.view.graph

    def absorb(self, reader: Use, placed: Placed) -> _Search:
        """What it takes that `reader` reads the affine of what it reads now."""
        if placed.affine.is_identity:
            return []
        tensor = reader.node.inputs[reader.port]
        if self.view.constants.is_constant(tensor):
            return self._into_constant(reader, tensor, placed, may_grow=reader.node.op in _SUMS)
        if any(use != reader for use in self.minding(tensor, placed)):
            barrier = self._barrier(tensor.node)
            return barrier or [Demand(reader, placed)]
        return (yield self.change(tensor, placed))

    def minding(self, tensor: Tensor, placed: Placed) -> list[Use]:
        """The readers that see a difference when a tensor carries an affine; a slice of other channels doesn't."""
        uses = self.graph.uses(tensor)
        return uses if len(uses) == 1 else [use for use in uses if not self._is_blind(use, placed)]

    def _is_blind(self, use: Use, placed: Placed) -> bool:
        if use.node.op not in _CUTS or use.port != 0:
            return False
        law = laws.law_of(self.view, use.node)
        pushed = law if isinstance(law, Refusal) else transfer.push(use.node, law, 0, {0: placed})
        return not isinstance(pushed, Refusal) and pushed.affine.is_identity

    def change(self, tensor: Tensor, placed: Placed) -> _Search:
        """What it takes that a tensor carries the affine of what it carries now."""
        node = tensor.node
        if (barrier := self._barrier(node)) is not None:
            return barrier
        taken = self._into_sink(node, placed) if sinks.is_sink_op(node) else None
        if taken is not None and not sinks.may_pass(taken):
            return taken
        element = self.scene.elements.get(node)
        if element is not None and (element.refusal is not None or not element.affine.has_unit_scale):
            return (yield self._past_element(element, placed))
        law = laws.law_of(self.view, node)
        if isinstance(law, Refusal):
            return taken or law
        if (broken := law.needs.broken_by(placed.affine)) is not None:
            return taken or Refusal(broken, node.name)
        filled = transfer.pull_fill(law, node, placed)
        if isinstance(filled, Refusal):
            return filled
        route = yield self._past_law(node, tensor.index, law, placed, filled)
        return taken if taken is not None and isinstance(route, Refusal) else route

    def _barrier(self, node: Node) -> Refusal | None:
        """Why the value of a node may not change, or None when it may."""
        if self.graph.is_fed(node):
            return Refusal(Reason.GRAPH_INPUT, node.name)
        if self.graph.is_fetched(node):
            return Refusal(Reason.FETCHED, node.name)
        return Refusal(Reason.KEPT_BY_USER, node.name) if node in self.scene.kept else None

    def _into_sink(self, node: Node, placed: Placed) -> Route | Refusal:
        affine = placed.affine
        channels = affine.channels if affine.channels > 1 else None
        sink = sinks.sink_of(self.view, node, behind=True, channels=channels, axis=placed.axis)
        if isinstance(sink, Refusal):
            return sink
        if channels is not None and (placed.axis != sink.axis_out or channels != sink.linear.channels_out):
            return Refusal(Reason.CHANNEL_AXIS, node.name)
        dtype = attributes.dtype(node)
        refusal = self.scene.ledger.refuse_after(sink, affine) or unfit(affine.peak_offset, dtype, node.name)
        return refusal or [After(sink, affine), Touch(node)]

    def _into_constant(self, reader: Use, tensor: Tensor, placed: Placed, *, may_grow: bool) -> Route | Refusal:
        """A constant operand of an op on the way takes the affine itself, unless that makes it much larger."""
        value = self.view.constants.value(tensor)
        name = tensor.node.name
        if value is None or value.dtype.kind != "f":
            return Refusal(Reason.NOT_FINITE, name)
        affine = placed.affine
        if affine.channels > 1 and (placed.axis is None or placed.axis >= value.ndim):
            return Refusal(Reason.CHANNEL_AXIS, name)
        ends = 0 if placed.axis is None else value.ndim - 1 - placed.axis
        scale, offset = (
            v.reshape(() if affine.channels == 1 else (-1, *(1,) * ends)) for v in (affine.scale, affine.offset)
        )
        new = value * scale + offset
        if (new == value).all():
            return []
        dtype = attributes.dtype(tensor.node, tensor.index)
        if new.size > affine.channels or not may_grow:
            if new.size > value.size:
                return Refusal(Reason.CONSTANT_GROWS, reader.node.name)
            if self.view.constants.smallest_item(tensor) < attributes.numpy_dtype(dtype).itemsize:
                return Refusal(Reason.WEIGHTS_COMPRESSED, name)
        return unfit_constant(new, dtype, name) or [AdaptConstant(reader.node, reader.port, scale, offset)]

    def _past_element(self, element: Element, placed: Placed) -> _Search:
        """Past a scale that stays: `element(before(x)) == affine(element(x))`."""
        if element.refusal is not None:
            return Refusal(Reason.NO_LAW, element.node.name, element.refusal.reason.value)
        if element.axis is not None and placed.axis is not None and element.axis != placed.axis:
            return Refusal(Reason.CHANNEL_AXIS, element.node.name)
        own, affine = element.affine, placed.affine
        with np.errstate(all="ignore"):
            offset = (affine.scale * own.offset + affine.offset - own.offset) / own.scale
        before = Affine.of(affine.scale, offset)
        if not before.is_finite:
            return Refusal(Reason.NOT_FINITE, element.node.name)
        route = yield self.absorb(
            Use(element.node, element.port), Placed(before, placed.axis if placed.axis is not None else element.axis)
        )
        return route if isinstance(route, Refusal) else [*route, Touch(element.node)]

    def _past_law(self, node: Node, output: int, law: Law, placed: Placed, own: Route) -> _Search:
        pulled: dict[int, Placed] = {}
        for port in law.ports:
            if node.op in _BROADCASTING and self.view.constants.is_constant(node.inputs[port]):
                before: Placed | Refusal | None = self._beside_constant(node, port, placed)
            else:
                before = transfer.pull(self.view, node, law, port, output, placed)
            if isinstance(before, Refusal):
                if law.joins is Joins.PRODUCT:
                    continue
                return before
            if before is not None:
                pulled[port] = before
        if law.joins is Joins.SUM:
            route = yield self._into_sum(node, law, pulled, placed)
        elif law.joins is Joins.PRODUCT:
            route = yield self._into_any(node, pulled)
        else:
            route = yield self._into_all(node, pulled)
        return route if isinstance(route, Refusal) else [*route, *own, Touch(node)]

    def _beside_constant(self, node: Node, port: int, placed: Placed) -> Placed | Refusal:
        """The affine on a constant operand, which may grow to one element per channel."""
        rank, rank_in = self.view.shapes.rank(Tensor(node, 0)), self.view.shapes.rank(node.inputs[port])
        if rank is None or rank_in is None:
            return Refusal(Reason.UNKNOWN_SHAPE, node.name)
        return Placed(placed.affine, None if placed.axis is None else placed.axis - (rank - rank_in))

    def _into_all(self, node: Node, pulled: Mapping[int, Placed]) -> _Search:
        whole: Route = []
        for port, before in pulled.items():
            route = yield self.absorb(Use(node, port), before)
            if isinstance(route, Refusal):
                return route
            whole.extend(route)
        return whole

    def _into_any(self, node: Node, pulled: Mapping[int, Placed]) -> _Search:
        refusal = Refusal(Reason.CHANNELS_DIFFER, node.name)
        for port, before in pulled.items():
            if self.view.constants.is_constant(node.inputs[port]):
                continue
            route = yield self.absorb(Use(node, port), before)
            if not isinstance(route, Refusal):
                return route
            refusal = route
        return refusal

    def _into_sum(self, node: Node, law: Law, pulled: Mapping[int, Placed], placed: Placed) -> _Search:
        """The scale to every input, the offset to the first one that takes it; constants first."""
        scales: dict[int, Route] = {}
        for port, before in pulled.items():
            if self.view.constants.is_constant(node.inputs[port]):
                continue
            route = yield self.absorb(Use(node, port), Placed(before.affine.scale_part(), before.axis))
            if isinstance(route, Refusal):
                return route
            scales[port] = route
        refusal: Refusal | None = None
        constants = [port for port in pulled if port not in scales]
        takers: list[int | None] = [*constants, *scales] if not placed.affine.has_zero_offset else [None]
        shared: Route | None = None
        for taker in takers:
            whole: Route = []
            for port, before in pulled.items():
                sign = law.signs.get(port, 1)
                affine = before.affine.scale_part()
                if port == taker:
                    affine = Affine.of(affine.scale, sign * before.affine.offset)
                route = (
                    scales[port]
                    if port != taker and port in scales
                    else (yield self.absorb(Use(node, port), Placed(affine, before.axis)))
                )
                if isinstance(route, Refusal):
                    refusal = route
                    break
                whole.extend(route)
            else:
                if not any(isinstance(edit, Demand) for edit in whole):
                    return whole
                shared = shared or whole
        return shared or refusal or Refusal(Reason.MIXED_BRANCHES, node.name)
