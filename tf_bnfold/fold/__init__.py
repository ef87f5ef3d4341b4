"""The fold: find the sites, decide each one, write the new constants."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import re
from collections.abc import Iterator, Sequence

from tf_bnfold.errors import FlagError
from tf_bnfold.fold import decide
from tf_bnfold.fold.dilated import collapse
from tf_bnfold.fold.elements import find_elements
from tf_bnfold.fold.ledger import Ledger
from tf_bnfold.fold.own_bias import advance
from tf_bnfold.fold.ranges import Ranges
from tf_bnfold.fold.route import Scene
from tf_bnfold.fold.sites import find_sites
from tf_bnfold.graph import functions
from tf_bnfold.graph.arguments import drop_unread_arguments
from tf_bnfold.graph.export import to_graph_def
from tf_bnfold.graph.graph import Node
from tf_bnfold.graph.reads import read_arguments
from tf_bnfold.graph.view import GraphDef, View
from tf_bnfold.options import IN_INTEGERS, wrong_folding
from tf_bnfold.outcome import Copied, Outcome, Status

# Each pass folds something, or is the last one; real graphs need two.
_MOST_PASSES = 8


@dataclasses.dataclass(frozen=True)
class Folding:
    """What a fold gives.

    Attributes:
      graph_def: The folded graph.
      outcomes: What became of each batch norm and affine, in topological order.
      dilated: The convolutions that stood between a SpaceToBatchND and a BatchToSpaceND and are dilated ones now.
      biases: The biases that stand right behind their linear op now, and did not.
      copied: The weights that are stored several times now.
      ranges: The ranges of the weights of each op that took something.
    """

    graph_def: GraphDef
    outcomes: tuple[Outcome, ...]
    dilated: tuple[str, ...] = ()
    biases: tuple[str, ...] = ()
    copied: tuple[Copied, ...] = ()
    ranges: tuple[Ranges, ...] = ()

    @property
    def has_changed(self) -> bool:
        """Whether the graph is another one than that which was given."""
        folded = any(outcome.status is not Status.KEPT for outcome in self.outcomes)
        return bool(folded or self.dilated or self.biases)


@dataclasses.dataclass(frozen=True)
class _Wishes:
    """What the user wants of a fold."""

    keep: str
    shared_weights: str
    keep_input_ranges: bool


def fold_graph(
    graph_def: GraphDef,
    outputs: Sequence[str] | None,
    inputs: Sequence[str] = (),
    keep: str = "",
    shared_weights: str = "copy",
    quantize: str = "none",
) -> Folding:
    """Fold every batch norm and affine of a frozen graph, and of its functions, that can be folded exactly.

    Args:
      graph_def: The graph; it is not changed.
      outputs: Names of nodes or tensors that keep their name and value; None for all nodes that nothing reads.
      inputs: Names of nodes or tensors that are fed beside the placeholders.
      keep: Regular expression; a batch norm is left alone when it is found in the name of one of its nodes.
      shared_weights: Of weights that several ops read, "copy" gives each op its own where they take different things,
        but not for one batch norm alone more than two; "always" does even that; "keep" stores them once, and leaves
        what would scale them.
      quantize: How the .tflite will be quantised; where it will compute with integers, an affine stays that brings
        channels of a graph input, which have unlike ranges, together.

    Returns:
      The folded graph, which has the same values at every name that survives, and what became of each site.

    Raises:
      FlagError: keep is no regular expression, or shared_weights is none of these.
      InputError: The graph is broken, or a name is not in it.
    """
    if (wrong := wrong_folding(keep, shared_weights)) is not None:
        raise FlagError(wrong)
    wishes = _Wishes(keep, shared_weights, keep_input_ranges=quantize in IN_INTEGERS)
    with _no_garbage_collection():
        main = _fold(graph_def, outputs, inputs, wishes)
        return _with_functions(main, outputs, inputs, wishes)


@contextlib.contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Hold off the collector: a graph is many small objects that stay, and each look through them costs."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _with_functions(main: Folding, outputs: Sequence[str] | None, inputs: Sequence[str], wishes: _Wishes) -> Folding:
    """Fold the bodies of the library's functions, each as a graph of its own.

    Of its arguments those are known that are the same constant in every call.
    """
    outcomes, dilated = list(main.outcomes), list(main.dilated)
    biases, copied, ranges = list(main.biases), list(main.copied), list(main.ranges)
    changed = {}
    for function, body in functions.bodies(main.graph_def, inputs):
        name = function.signature.name
        folding = _fold(body.graph_def, body.outputs(), (), wishes)
        outcomes += [dataclasses.replace(outcome, function=name) for outcome in folding.outcomes]
        dilated += [f"{name}/{conv}" for conv in folding.dilated]
        biases += [f"{name}/{bias}" for bias in folding.biases]
        copied += [dataclasses.replace(each, function=name) for each in folding.copied]
        ranges += [dataclasses.replace(each, function=name) for each in folding.ranges]
        if folding.has_changed:
            changed[name] = functions.with_body(function, body, folding.graph_def)
    if changed:
        read = read_arguments(main.graph_def)
        for function in main.graph_def.library.function:
            if function.signature.name in changed:
                function.CopyFrom(changed[function.signature.name])
        drop_unread_arguments(main.graph_def, read, outputs, inputs)
    return Folding(main.graph_def, tuple(outcomes), tuple(dilated), tuple(biases), tuple(copied), tuple(ranges))


def _fold(graph_def: GraphDef, outputs: Sequence[str] | None, inputs: Sequence[str], wishes: _Wishes) -> Folding:
    view = View.of(graph_def, outputs, inputs)
    dilated: tuple[str, ...] = ()
    while found := collapse(view):  # one may stand in another
        dilated = tuple(dict.fromkeys(dilated + found))
        view = view.anew()
    keep = wishes.keep
    kept = frozenset(node for node in view.graph.nodes.values() if keep and re.search(keep, node.name))
    scene = Scene(
        view,
        Ledger(view, keep_shared=wishes.shared_weights == "keep"),
        find_elements(view),
        {},
        kept,
        wishes.keep_input_ranges,
        copies_always=wishes.shared_weights == "always",
    )
    biases = advance(scene)
    outcomes = _settle_all(scene)
    copied = scene.ledger.settle()
    folding = Folding(to_graph_def(view.graph), outcomes, dilated, biases, copied, scene.ledger.ranges())
    view.graph.dissolve()
    return folding


def _settle_all(scene: Scene) -> tuple[Outcome, ...]:
    """Settle every site; again while that changes something, since a fold may open the way of a site that stayed."""
    outcomes: list[Outcome] = []
    stays: dict[Node, list[int]] = {}  # by the node of a site that stays: the outcomes that it belongs to
    for _ in range(_MOST_PASSES):
        changed = False
        sites = find_sites(scene.view, scene.elements)
        scene.waiting.update({node: site for site in sites for node in site.nodes})
        for site in sites:
            earlier = [place for node in site.nodes for place in stays.pop(node, ())]
            settled = decide.settle(scene, site)
            changed = changed or settled.outcome.status is not Status.KEPT
            if not earlier:
                earlier = [len(outcomes)]
                outcomes.append(settled.outcome)
            elif settled.outcome.status is not Status.KEPT:
                for place in earlier:
                    outcomes[place] = _followed(outcomes[place], settled.outcome)
            if settled.stays is not None:
                stays[settled.stays] = earlier
        if not changed or not stays:
            break
    return tuple(outcomes)


def _followed(first: Outcome, then: Outcome) -> Outcome:
    """What became of a site that stayed, wholly or in part, and of which a later look folded more."""
    halves = first.status is Status.PARTLY and then.status in (Status.UP, Status.DOWN)
    return dataclasses.replace(
        first,
        status=Status.HALVES if halves else then.status,
        sinks=tuple(dict.fromkeys(first.sinks + then.sinks)),
        route=tuple(dict.fromkeys(first.route + then.route)),
        refusal=then.refusal,
    )
