"""One decision a site: the whole affine up, else down, else in halves, else it stays with a reason."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

from tf_bnfold.algebra.affine import Affine
from tf_bnfold.fold import edits
from tf_bnfold.fold.copies import refuse_copies
from tf_bnfold.fold.down import down
from tf_bnfold.fold.elements import Role
from tf_bnfold.fold.input_ranges import spreads_input
from tf_bnfold.fold.ledger import fits_dtype, rounds_well
from tf_bnfold.fold.narrow import refuse_narrower
from tf_bnfold.fold.route import AdaptConstant, After, Before, Merge, Placed, Route, Scene, Touch
from tf_bnfold.fold.sites import ALIASES, Site
from tf_bnfold.fold.up import up
from tf_bnfold.graph import attributes
from tf_bnfold.graph.graph import Node, Tensor, Use
from tf_bnfold.outcome import Outcome, Status
from tf_bnfold.reasons import Reason, Refusal

# What may stand between a lone scalar and the linear op right before it.
_RIGHT_BEFORE = ALIASES | {"BiasAdd", "Add", "AddV2", "Squeeze", "Reshape", "ExpandDims"}


class Decision(NamedTuple):
    """What becomes of a site.

    Attributes:
      status: How it was folded.
      routes: The edits of each half, or of the whole.
      stays: What stays of the site, or None.
      changes_value: Whether the value that the site's readers see becomes another one.
      refusal: Why something stays.
    """

    status: Status
    routes: tuple[Route, ...] = ()
    stays: Affine | None = None
    changes_value: bool = False
    refusal: Refusal | None = None


class Settled(NamedTuple):
    """What became of a site, and the node of it that stays, or None."""

    outcome: Outcome
    stays: Node | None


def settle(scene: Scene, site: Site) -> Settled:
    """Decide what becomes of a site, change the graph accordingly and say so."""
    decision = _decide(scene, site)
    outcome = _outcome(site, decision)
    for route in decision.routes:
        edits.apply(scene, route)
    for node in site.nodes:
        scene.waiting.pop(node, None)
    if decision.status is Status.KEPT:
        return Settled(outcome, edits.rewrite(scene, site) if site.is_merged else site.output)
    if decision.stays is not None:
        return Settled(outcome, edits.replace(scene, site, decision.stays, changes_value=decision.changes_value))
    edits.bypass(scene, site, carries_value=not decision.changes_value)
    return Settled(outcome, None)


def _decide(scene: Scene, site: Site) -> Decision:
    if not scene.kept.isdisjoint(site.nodes):
        return Decision(Status.KEPT, refusal=Refusal(Reason.KEPT_BY_USER, site.output.name))
    if site.refusal is not None:
        return Decision(Status.KEPT, refusal=site.refusal)
    raised = _up(scene, site, site.affine)
    if not isinstance(raised, Refusal):
        if site.is_lone_scalar and not _is_right_before(raised):
            return Decision(Status.KEPT, refusal=Refusal(Reason.LONE_SCALAR, site.output.name))
        return Decision(Status.UP, (raised,))
    if site.is_lone_scalar:
        return Decision(Status.KEPT, refusal=Refusal(Reason.LONE_SCALAR, site.output.name, str(raised)))
    if scene.keeps_input_ranges and raised.reason is Reason.GRAPH_INPUT and spreads_input(site.affine):
        return Decision(Status.KEPT, refusal=Refusal(Reason.INPUT_RANGES, site.output.name))
    lowered = _down(scene, site, site.affine)
    if not isinstance(lowered, Refusal):
        return Decision(Status.DOWN, (lowered,), changes_value=True)
    refusal = Refusal(raised.reason, raised.node, _both(raised, lowered), (raised, lowered))
    return _in_halves(scene, site, refusal) or Decision(Status.KEPT, refusal=refusal)


def _both(raised: Refusal, lowered: Refusal) -> str:
    before = f"{raised.detail}; " if raised.detail else ""
    return f"{before}behind it: {lowered}"


def _up(scene: Scene, site: Site, affine: Affine) -> Route | Refusal:
    found = up(scene, Use(site.first.node, site.first.port), Placed(affine.condensed(), site.axis))
    route = _at_its_price(scene, found)
    return route if isinstance(route, Refusal) else refuse_narrower(scene.view.graph, site, affine, route) or route


def _down(scene: Scene, site: Site, affine: Affine) -> Route | Refusal:
    """Down into linear ops, past other sites; else into other sites; else an offset into what a sum adds to it."""
    tensor, placed = Tensor(site.output, 0), Placed(affine.condensed(), site.axis)
    if not _meets_sites(scene, tensor):
        passing = _at_its_price(scene, down(scene, tensor, placed, merge=False))
        if not isinstance(passing, Refusal):
            return passing
    merging = _at_its_price(scene, down(scene, tensor, placed, merge=True))
    if not isinstance(merging, Refusal) and _more_ops(merging) > len(site.elements):
        merging = Refusal(Reason.MIXED_BRANCHES, site.output.name, "its readers would take more ops than it has")
    if not isinstance(merging, Refusal):
        return merging
    if affine.has_unit_scale:
        aside = _at_its_price(scene, down(scene, tensor, placed, merge=False, others_take=True))
        if not isinstance(aside, Refusal):
            return aside
    return merging if _meets_sites(scene, tensor) else passing


def _at_its_price(scene: Scene, route: Route | Refusal) -> Route | Refusal:
    """A route, unless it would store weights more often than a site is worth."""
    if isinstance(route, Refusal) or scene.copies_always:
        return route
    return refuse_copies(scene.view, route) or route


def _meets_sites(scene: Scene, tensor: Tensor) -> bool:
    """Whether all readers are sites that are still to be decided: one decision for the whole chain is enough then."""
    uses = scene.view.graph.uses(tensor)
    sites = [scene.waiting.get(use.node) for use in uses]
    return bool(uses) and all(s is not None and not s.is_lone_scalar and s.refusal is None for s in sites)


def _is_right_before(route: Route) -> bool:
    return all(edit.node.op in _RIGHT_BEFORE or _is_sink(route, edit.node) for edit in route if isinstance(edit, Touch))


def _is_sink(route: Route, node: Node) -> bool:
    return any(isinstance(edit, After) and edit.sink.node is node for edit in route)


def _in_halves(scene: Scene, site: Site, refusal: Refusal) -> Decision | None:
    """Scale one way and offset the other; else one of them goes and the other one stays.

    `s * x + o` is the scale s and then the offset o, or the offset o / s and then the scale s.
    """
    whole = site.affine
    if whole.has_unit_scale or whole.has_zero_offset:
        return None
    scale, offset, leading = whole.scale_part(), whole.offset_part(), whole.leading_offset()

    dtype = attributes.dtype(site.output)

    def fits(affine: Affine) -> bool:
        is_exact = affine is not leading or rounds_well(leading.offset, whole.scale, dtype)
        return is_exact and fits_dtype(affine, dtype)

    one_op = len(site.elements) == 1 and not site.is_merged
    gains = not (one_op and site.first.role is Role.MIRROR)  # of `constant - x` a Mul by -1 would stay
    nothing = Refusal(Reason.NOT_FINITE, site.output.name)

    def search(half: Affine, way: Callable[[Scene, Site, Affine], Route | Refusal]) -> Callable[[], Route | Refusal]:
        return functools.cache(lambda: way(scene, site, half))

    scale_up, offset_down = search(scale, _up), search(offset, _down)
    offset_up = search(leading, _up) if fits(leading) else lambda: nothing
    scale_down = search(scale, _down) if fits(leading) else lambda: nothing
    for upper, lower in ((scale_up, offset_down), (offset_up, scale_down)):
        raised = upper()
        lowered = raised if isinstance(raised, Refusal) else lower()
        if not isinstance(raised, Refusal) and not isinstance(lowered, Refusal):
            return Decision(Status.HALVES, (raised, lowered), changes_value=True)
    # One half stays as one op. The other one must vanish, and would not, were it merged into another site.
    for half, stays, changes in (
        (scale_up, offset, False),
        (scale_down, leading, True),
        (offset_up, scale, False),
        (offset_down, scale, True),
    ):
        route = half()
        if isinstance(route, Refusal) or _merges(route) or not fits(stays):
            continue
        if gains and not (one_op and _inserts_bias(route)):
            return Decision(Status.PARTLY, (route,), stays=stays, changes_value=changes, refusal=refusal)
    return None


def _merges(route: Route) -> bool:
    return any(isinstance(edit, Merge) for edit in route)


def _more_ops(route: Route) -> int:
    """How many ops the sites that a route merges into have more, as long as they find no way themselves."""
    return sum(
        max(0, edit.affine.affine.then(edit.site.affine).op_count - len(edit.site.elements))
        for edit in route
        if isinstance(edit, Merge) and edit.site.first.role is not Role.NORM
    )


def _inserts_bias(route: Route) -> bool:
    """Whether a route puts an op in where there was none."""
    return any(
        (isinstance(edit, After) and not edit.affine.has_zero_offset)
        or (isinstance(edit, Before) and edit.bias is None and not edit.affine.has_zero_offset)
        for edit in route
    )


def _outcome(site: Site, decision: Decision) -> Outcome:
    sunk: list[Node] = []
    merged: list[Node] = []
    touched: list[Node] = []
    adapted: list[Node] = []
    for route in decision.routes:
        for edit in route:
            if isinstance(edit, Touch):
                touched.append(edit.node)
            elif isinstance(edit, (After, Before)):
                sunk.append(edit.sink.node)
            elif isinstance(edit, Merge):
                merged.append(edit.site.output)
            elif isinstance(edit, AdaptConstant):
                adapted.append(edit.node)
    sunk = sunk + merged or adapted  # an offset that went beside a sum is in a bias, and in no linear op
    took = set(sunk)
    return Outcome(
        name=site.output.name,
        nodes=tuple([node.name for node in site.nodes]),
        form=site.form,
        kind=site.kind,
        channels=site.affine.channels,
        status=decision.status,
        sinks=_names(sunk),
        route=_names(node for node in touched if node not in took),
        refusal=decision.refusal,
        input_spread=_lost_by_input(decision) if site.reads_input else 1.0,
    )


def _lost_by_input(decision: Decision) -> float:
    """The largest over the smallest scale that went into the ops behind; zeros don't count."""
    taken = [edit.affine.scale for route in decision.routes for edit in route if isinstance(edit, Before)]
    scales = np.abs(np.concatenate([np.ones(0), *taken]))
    scales = scales[scales > 0]
    return float(scales.max() / scales.min()) if scales.size else 1.0


def _names(nodes: Iterable[Node]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(node.name for node in nodes))
