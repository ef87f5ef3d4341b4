"""Where an affine can go: pure searches over the working graph that end in a route or in a refusal.

`up` goes towards the producers and `down` towards the consumers. Both give edits, and nothing is changed before a
whole route is known. Neither recurses, so that a long graph needs no deep stack.
"""

from __future__ import annotations

import dataclasses
import heapq
import itertools
from collections.abc import Generator, Mapping
from typing import Any

import numpy as np

from tf_bnfold.algebra.affine import Affine
from tf_bnfold.algebra.channels import ChannelMap, Joins, Law
from tf_bnfold.fold import laws, sinks
from tf_bnfold.fold.ledger import Ledger, unfit_constant
from tf_bnfold.fold.sinks import Sink
from tf_bnfold.fold.sites import Element, Site
from tf_bnfold.graph.graph import Node, Tensor, Use
from tf_bnfold.graph.view import View
from tf_bnfold.reasons import Reason, Refusal

# A fork of forks can ask more often than it is worth; beyond this many steps the answer is no.
_MOST_STEPS = 20_000


@dataclasses.dataclass(frozen=True)
class Placed:
    """An affine on a tensor, along an axis; a uniform affine needs none."""

    affine: Affine
    axis: int | None


@dataclasses.dataclass(frozen=True)
class After:
    """A sink takes an affine behind it."""

    sink: Sink
    affine: Affine


@dataclasses.dataclass(frozen=True)
class Before:
    """A sink takes an affine before it; `bias` is what the offset adds to its output, and where it goes."""

    sink: Sink
    affine: Affine
    bias: BiasPlace | None


@dataclasses.dataclass(frozen=True)
class BiasPlace:
    """A constant operand behind a sink that takes an offset, and the nodes between the two."""

    node: Node
    port: int
    array: np.ndarray
    between: tuple[Node, ...]


@dataclasses.dataclass(frozen=True)
class SetConstant:
    """Input `port` of `node` becomes a new constant."""

    node: Node
    port: int
    array: np.ndarray


@dataclasses.dataclass(frozen=True)
class SetFill:
    """The value that a Pad writes becomes another one."""

    node: Node
    value: float


@dataclasses.dataclass(frozen=True)
class Touch:
    """The value of a node changes."""

    node: Node


@dataclasses.dataclass(frozen=True)
class Merge:
    """Another site takes an affine before it."""

    site: Site
    affine: Placed


Edit = After | Before | SetConstant | SetFill | Touch | Merge
Route = list[Edit]
_Search = Generator[Any, Any, "Route | Refusal"]


@dataclasses.dataclass(frozen=True)
class Scene:
    """What a search looks at.

    Attributes:
      view: The graph.
      ledger: What its sinks have absorbed.
      elements: Its elements by node.
      waiting: The sites that are not decided yet, by each of their nodes.
      kept: Nodes that the user wants left alone.
    """

    view: View
    ledger: Ledger
    elements: dict[Node, Element]
    waiting: dict[Node, Site]
    kept: frozenset[Node]


def up(scene: Scene, reader: Use, placed: Placed) -> Route | Refusal:
    """Find linear ops before `reader`'s input that take the affine on it, so that `reader` reads the affine's value."""
    return _run(_Up(scene).absorb(reader, placed))


def _run(search: _Search) -> Route | Refusal:
    """Run a search that yields the searches that it needs; a deep one grows a list, not the stack."""
    stack: list[_Search] = [search]
    answer: Any = None
    for _ in range(_MOST_STEPS):
        try:
            stack.append(stack[-1].send(answer))
            answer = None
        except StopIteration as done:
            stack.pop()
            answer = done.value
            if not stack:
                return answer  # type: ignore[no-any-return]
    return Refusal(Reason.TOO_FAR, "", f"more than {_MOST_STEPS} steps")


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
            return self._into_constant(reader, tensor, placed)
        node = tensor.node
        if self.graph.is_fetched(node):
            return Refusal(Reason.FETCHED, node.name)
        if self.graph.is_fed(node):
            return Refusal(Reason.GRAPH_INPUT, node.name)
        others = [use.node.name for use in self.graph.uses(tensor) if use != reader]
        if others:
            return Refusal(Reason.SHARED, node.name, f"read by {others[0]}")
        if node in self.scene.kept:
            return Refusal(Reason.KEPT_BY_USER, node.name)
        if sinks.is_sink_op(node):
            sunk = self._into_sink(node, placed)
            return sunk
        element = self.scene.elements.get(node)
        if element is not None and (element.refusal is not None or not element.affine.has_unit_scale):
            return (yield self._past_element(element, placed))
        law = laws.law_of(self.view, node)
        if isinstance(law, Refusal):
            return law
        if (broken := law.needs.broken_by(placed.affine)) is not None:
            return Refusal(broken, node.name)
        filled = _pull_fill(law, node, placed)
        if isinstance(filled, Refusal):
            return filled
        return (yield self._past_law(node, tensor.index, law, placed, filled))

    def _into_sink(self, node: Node, placed: Placed) -> Route | Refusal:
        affine = placed.affine
        channels = affine.channels if affine.channels > 1 else None
        sink = sinks.sink_of(self.view, node, channels_out=channels, axis_out=placed.axis)
        if isinstance(sink, Refusal):
            return sink
        if channels is not None and (placed.axis != sink.axis_out or channels != sink.linear.channels_out):
            return Refusal(Reason.CHANNEL_AXIS, node.name)
        refusal = self.scene.ledger.refuse_after(sink, affine) or unfit_constant(affine.offset, node, node.name)
        return refusal or [After(sink, affine), Touch(node)]

    def _into_constant(self, reader: Use, tensor: Tensor, placed: Placed) -> Route | Refusal:
        """A constant operand of an op on the way takes the affine itself, unless that makes it much larger."""
        value = self.view.constants.value(tensor)
        name = tensor.node.name
        if value is None or value.dtype.kind != "f":
            return Refusal(Reason.NOT_FINITE, name)
        affine = placed.affine
        if affine.channels > 1 and (placed.axis is None or placed.axis >= value.ndim):
            return Refusal(Reason.CHANNEL_AXIS, name)
        ends = () if affine.channels == 1 or placed.axis is None else (1,) * (value.ndim - 1 - placed.axis)
        shape = () if affine.channels == 1 else (affine.channels, *ends)
        new = value * affine.scale.reshape(shape) + affine.offset.reshape(shape)
        if new.size > max(value.size, affine.channels):
            return Refusal(Reason.WEIGHTS_COMPRESSED, name)
        return unfit_constant(new, reader.node, name) or [SetConstant(reader.node, reader.port, new)]

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
        route = yield self.absorb(Use(element.node, element.port), Placed(before, placed.axis if placed.axis is not None else element.axis))
        return route if isinstance(route, Refusal) else [*route, Touch(element.node)]

    def _past_law(self, node: Node, output: int, law: Law, placed: Placed, own: Route) -> _Search:
        pulled: dict[int, Placed] = {}
        for port in law.ports:
            if law.joins is Joins.SUM and node.op != "BiasAdd" and self.view.constants.is_constant(node.inputs[port]):
                before: Placed | Refusal | None = self._beside_constant(node, port, placed)
            else:
                before = _pull(self.view, node, law, port, output, placed)
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
        for taker in takers:
            whole: Route = []
            for port, before in pulled.items():
                sign = law.signs.get(port, 1)
                affine = before.affine.scale_part()
                if port == taker:
                    affine = Affine.of(affine.scale, sign * before.affine.offset)
                route = scales[port] if port != taker and port in scales else (yield self.absorb(Use(node, port), Placed(affine, before.axis)))
                if isinstance(route, Refusal):
                    refusal = route
                    break
                whole.extend(route)
            else:
                return whole
        return refusal or Refusal(Reason.MIXED_BRANCHES, node.name)


def _pull(view: View, node: Node, law: Law, port: int, output: int, placed: Placed) -> Placed | Refusal | None:
    """The affine on one input; None where the input does not feed the output."""
    affine, axis = placed.affine, placed.axis
    if law.maps(port, output, None, axis if axis is not None else 0) is None:
        return None
    uniform = affine.channels == 1
    others = [o for o in law.outputs if o != output and (view.graph.uses(Tensor(node, o)) or node.readers.get(o))]
    alone = not others or len(law.ports) > 1
    if uniform and alone:
        return Placed(affine, None)
    if uniform:
        axis_in, axis_out = law.own_axis or (None, None)
        found = law.maps(port, output, axis_in, None) or ()
        candidates = [(m, m.pull_own(affine)) for m in found]
    else:
        found = law.maps(port, output, None, axis) or ()
        candidates = [(m, m.pull_own(affine)) for m in found]
    reason = Reason.UNKNOWN_SHAPE if not candidates else Reason.CHANNELS_DIFFER
    for channel_map, before in candidates:
        if before is None:
            continue
        result = Placed(before, channel_map.axis_in)
        if alone or all(_leaves(law, port, o, result) for o in others):
            return result
    return Refusal(reason, node.name)


def _leaves(law: Law, port: int, output: int, before: Placed) -> bool:
    """Whether an affine on an input leaves another output as it is."""
    found = law.maps(port, output, before.axis, None)
    if found is None:
        return True
    for channel_map in found:
        pushed = channel_map.push(before.affine)
        if pushed is not None:
            return pushed.is_identity
    return False


def _pull_fill(law: Law, node: Node, placed: Placed) -> Route | Refusal:
    """What becomes of the constant that an op writes by itself, when its output carries the affine."""
    fill = law.fill
    if fill is None:
        return []
    if fill.value is None:
        return Refusal(Reason.PARAMETERS_NOT_CONSTANT, node.name)
    affine = placed.affine
    wanted = affine.scale * fill.value + affine.offset
    if (placed.axis is not None and set(fill.axes) == {placed.axis}) or not (wanted == wanted[0]).all():
        # Only some channels meet the constant, or they want different ones: it must do as it is.
        return [] if (wanted == fill.value).all() else Refusal(Reason.ZERO_PADDING, node.name)
    return _set_fill(fill, node, float(wanted[0]))


def _push_fill(law: Law, node: Node, placed: Placed) -> Route | Refusal:
    """What becomes of the constant that an op writes by itself, when its input carries the affine."""
    fill = law.fill
    if fill is None:
        return []
    if fill.value is None:
        return Refusal(Reason.PARAMETERS_NOT_CONSTANT, node.name)
    if placed.axis is not None and set(fill.axes) == {placed.axis}:
        return []  # the channels that hold the constant are others than those that carry the affine
    affine = placed.affine
    if (affine.scale * fill.value + affine.offset == fill.value).all():
        return []
    with np.errstate(all="ignore"):
        wanted = (fill.value - affine.offset) / affine.scale
    if not np.isfinite(wanted).all() or not (wanted == wanted[0]).all():
        return Refusal(Reason.ZERO_PADDING, node.name)
    if placed.axis is not None and placed.axis in fill.axes:
        return Refusal(Reason.ZERO_PADDING, node.name)
    return _set_fill(fill, node, float(wanted[0]))


def _set_fill(fill: laws.Fill, node: Node, value: float) -> Route | Refusal:
    if value == fill.value:
        return []
    if node.op not in ("Pad", "PadV2"):
        return Refusal(Reason.ZERO_PADDING, node.name)
    return unfit_constant(np.array(value), node, node.name) or [SetFill(node, value)]


def down(scene: Scene, tensor: Tensor, placed: Placed, *, merge: bool) -> Route | Refusal:
    """Find linear ops behind `tensor` that take the affine on it, in all readers, so that it need not be computed.

    Args:
      scene: The graph and what its sinks hold.
      tensor: The tensor that the affine computes now.
      placed: The affine.
      merge: Whether other sites on the way take it; else it passes them.
    """
    return _Down(scene, merge=merge).run(tensor, placed)


class _Down:
    """One search towards the consumers, in topological order, so that a join knows all its inputs."""

    def __init__(self, scene: Scene, *, merge: bool) -> None:
        self.scene = scene
        self.view = scene.view
        self.graph = scene.view.graph
        self.merge = merge
        self.arrived: dict[Node, dict[int, Placed]] = {}
        self.heap: list[tuple[float, int, Node]] = []
        self.count = itertools.count()
        self.route: Route = []

    def run(self, tensor: Tensor, placed: Placed) -> Route | Refusal:
        if self.graph.is_fetched(tensor.node):
            return Refusal(Reason.GRAPH_OUTPUT, tensor.node.name)
        if not self.graph.uses(tensor):
            return Refusal(Reason.NO_READER, tensor.node.name)
        self._deliver(tensor, placed)
        while self.heap:
            _, _, node = heapq.heappop(self.heap)
            if len(self.arrived) > _MOST_STEPS:
                return Refusal(Reason.TOO_FAR, node.name, f"more than {_MOST_STEPS} ops")
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
        if sinks.is_sink_op(node):
            return self._into_sink(node, arrived)
        site = self.scene.waiting.get(node)
        if self.merge and site is not None and site.first.node is node:
            return self._into_site(site, arrived)
        if self.graph.is_fetched(node):
            return Refusal(Reason.GRAPH_OUTPUT, node.name)
        element = self.scene.elements.get(node)
        if element is not None:
            return self._past_element(element, arrived)
        law = laws.law_of(self.view, node)
        if isinstance(law, Refusal):
            return law
        if stray := set(arrived) - set(law.ports):
            return Refusal(Reason.NO_LAW, node.name, f"it reads the value as input {min(stray)}")
        for placed in arrived.values():
            if (broken := law.needs.broken_by(placed.affine)) is not None:
                return Refusal(broken, node.name)
            filled = _push_fill(law, node, placed)
            if isinstance(filled, Refusal):
                return filled
            self.route.extend(filled)
        self.route.append(Touch(node))
        for output in law.outputs:
            if not node.readers.get(output):
                continue
            pushed = _push(self.view, node, law, output, arrived)
            if isinstance(pushed, Refusal):
                return pushed
            self._deliver(Tensor(node, output), pushed)
        return None

    def _into_sink(self, node: Node, arrived: dict[int, Placed]) -> Refusal | None:
        placed = next(iter(arrived.values()))
        affine = placed.affine
        channels = affine.channels if affine.channels > 1 else None
        sink = sinks.sink_of(self.view, node, channels_in=channels, axis_in=placed.axis)
        if isinstance(sink, Refusal):
            return sink
        if set(arrived) != {sink.data_port}:
            return Refusal(Reason.WEIGHTS_NOT_CONSTANT, node.name)
        if channels is not None and (placed.axis != sink.axis_in or channels != sink.linear.channels_in):
            return Refusal(Reason.CHANNEL_AXIS, node.name)
        if not affine.has_zero_offset and not sink.linear.uniform_taps:
            return Refusal(Reason.ZERO_PADDING, node.name)
        if (refusal := self.scene.ledger.refuse_before(sink, affine)) is not None:
            return refusal
        bias = None
        if not affine.has_zero_offset:
            added = self.scene.ledger.bias_of(sink, affine)
            if (refusal := unfit_constant(added, node, node.name)) is not None:
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


def _push(view: View, node: Node, law: Law, output: int, arrived: Mapping[int, Placed]) -> Placed | Refusal:
    """The affine on an output, of those on the inputs; an input without one carries the identity."""
    fed = [port for port in law.ports if law.maps(port, output, None, 0) is not None]
    inputs = {port: arrived.get(port, Placed(Affine.identity(), None)) for port in fed}
    affines = [placed.affine for placed in inputs.values()]
    axis_out, maps = _common_axis(law, output, inputs)
    if axis_out is None and maps is None:
        if law.joins is not Joins.EACH or _all_equal(affines):
            return _joined(node, law, {port: p.affine for port, p in inputs.items()}, None, None)
        return Refusal(Reason.MIXED_BRANCHES, node.name)
    if axis_out is None or maps is None:
        return Refusal(Reason.UNKNOWN_SHAPE if maps is None else Reason.CHANNELS_DIFFER, node.name)
    pushed: dict[int, Affine] = {}
    for port, placed in inputs.items():
        behind = maps[port].push(placed.affine)
        if behind is None:
            return Refusal(Reason.CHANNELS_DIFFER, node.name)
        pushed[port] = behind
    return _joined(node, law, pushed, axis_out, maps)


def _all_equal(affines: list[Affine]) -> bool:
    first = affines[0]
    return all((a.scale == first.scale).all() and (a.offset == first.offset).all() for a in affines)


def _common_axis(law: Law, output: int, inputs: Mapping[int, Placed]) -> tuple[int | None, dict[int, ChannelMap] | None]:
    """The output's channel axis and a map for each port. (None, None): all is uniform, and no axis is needed."""
    placed_ports = [(port, placed) for port, placed in inputs.items() if placed.affine.channels > 1]
    if placed_ports:
        port, placed = placed_ports[0]
        candidates = [m for m in law.maps(port, output, placed.axis, None) or () if m.push(placed.affine) is not None]
    elif law.own_axis is not None and not _all_equal([p.affine for p in inputs.values()]):
        port = next(iter(inputs))
        candidates = list(law.maps(port, output, None, law.own_axis[1]) or ()) if law.own_axis[1] is not None else []
    elif law.own_axis is not None and law.own_axis[1] is None and len(inputs) == 1:
        return None, None
    else:
        return None, None
    for candidate in candidates:
        maps: dict[int, ChannelMap] = {}
        for other, placed in inputs.items():
            found = [m for m in law.maps(other, output, None, candidate.axis_out) or () if placed.axis is None or placed.affine.channels == 1 or m.axis_in == placed.axis]
            if not found:
                break
            maps[other] = candidate if other == port else found[0]
        else:
            return candidate.axis_out, maps
    return (candidates[0].axis_out, None) if candidates else (None, {})


def _joined(
    node: Node, law: Law, pushed: Mapping[int, Affine], axis: int | None, maps: Mapping[int, ChannelMap] | None
) -> Placed | Refusal:
    channels = max(affine.channels for affine in pushed.values())
    if law.joins is Joins.SUM:
        first = next(iter(pushed.values()))
        if any((affine.scale != first.scale).any() for affine in pushed.values()):
            return Refusal(Reason.NEEDS_UNIT_SCALE, node.name)
        offsets = [law.signs.get(port, 1) * affine.offset for port, affine in pushed.items()]
        return Placed(Affine.of(first.scale, sum(offsets)), axis if channels > 1 else None)
    if law.joins is Joins.PRODUCT:
        scale = np.ones(1)
        for affine in pushed.values():
            scale = scale * affine.scale
        return Placed(Affine.of(scale, 0.0), axis if channels > 1 else None)
    scale, offset, seen = np.ones(channels), np.zeros(channels), np.zeros(channels, bool)
    for port, affine in pushed.items():
        feeds = np.ones(channels, bool) if maps is None else maps[port].feeds(channels)
        s, o = np.broadcast_to(affine.scale, channels), np.broadcast_to(affine.offset, channels)
        clash = seen & feeds & ((scale != s) | (offset != o))
        if clash.any():
            return Refusal(Reason.MIXED_BRANCHES, node.name)
        scale[feeds], offset[feeds] = s[feeds], o[feeds]
        seen |= feeds
    return Placed(Affine(scale, offset), axis if channels > 1 else None)


def bias_behind(scene: Scene, sink: Sink, added: np.ndarray) -> BiasPlace | None:
    """The constant of the sink's own bias, with `added` taken in, or None when there is no bias that only it uses."""
    view, graph = scene.view, scene.view.graph
    placed = Placed(Affine.of(1.0, added), sink.axis_out)
    node, between = sink.node, [sink.node]
    while not graph.is_fetched(node):
        uses = graph.uses(Tensor(node, 0))
        if len(uses) != 1 or uses[0].node in scene.kept:
            return None
        reader = uses[0]
        element = scene.elements.get(reader.node)
        if element is not None:
            is_bias = element.port == reader.port and reader.node.op in ("BiasAdd", "Add", "AddV2")
            if not is_bias or element.refusal is not None or reader.node in scene.waiting:
                return None
            return _added(view, reader.node, 1 - element.port, placed, tuple(between))
        law = laws.law_of(view, reader.node)
        if isinstance(law, Refusal) or law.joins is not Joins.EACH or len(law.ports) > 1 or len(law.outputs) > 1 or law.fill:
            return None
        if law.needs.broken_by(placed.affine) is not None:
            return None
        pushed = _push(view, reader.node, law, 0, {reader.port: placed})
        if isinstance(pushed, Refusal):
            return None
        node, placed = reader.node, pushed
        between.append(node)
    return None


def _added(view: View, node: Node, port: int, placed: Placed, between: tuple[Node, ...]) -> BiasPlace | None:
    value = view.constants.value(node.inputs[port])
    rank = view.shapes.rank(Tensor(node, 0))
    if value is None or rank is None:
        return None
    ends = 0 if node.op == "BiasAdd" or placed.axis is None else rank - 1 - placed.axis
    new = value + placed.affine.offset.reshape((-1,) + (1,) * ends)
    if new.size > max(value.size, placed.affine.channels) or unfit_constant(new, node, node.name) is not None:
        return None
    return BiasPlace(node, port, new, between)
