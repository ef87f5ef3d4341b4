"""What is done to a graph as it is read: fix inputs, decide conditions, inline calls, cut, share."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from tf_bnfold.errors import FlagError
from tf_bnfold.formats.custom_ops import register_custom_ops
from tf_bnfold.formats.cut import cut
from tf_bnfold.formats.decide_switches import decide_switches
from tf_bnfold.formats.effects import without_idle_waits
from tf_bnfold.formats.fixed_inputs import fix_inputs
from tf_bnfold.formats.inline import inline_calls
from tf_bnfold.formats.meta_graph import refuse_unknown_ops
from tf_bnfold.formats.model import Model, node_name
from tf_bnfold.formats.prune import pruned
from tf_bnfold.formats.share import share_equal_signatures
from tf_bnfold.formats.sound import refuse_invalid, refuse_outside
from tf_bnfold.formats.surgery import Surgery


def prepared(
    model: Model, surgery: Surgery, path: str, *, keep: Sequence[str] = (), found: Sequence[str] = ()
) -> Model:
    """Do to a model what the user wants done before anything else, and make one flat graph of it.

    Args:
      model: The model, with variables where it has any; a frozen graph has no signatures yet.
      surgery: What the user wants.
      path: Where the model is from.
      keep: Names of nodes that are needed beside the model's outputs.
      found: Outputs of a model without signatures, where the user names none.

    Returns:
      The model: without calls, without conditions that are constant, without what its outputs do not need, and with
      the same nodes for signatures that compute the same.

    Raises:
      FlagError: If what the user wants can't be had.
      InputError: If the graph has an op that TensorFlow does not know, and that is not allowed; or an op that reaches
        out of the model; or if TensorFlow can not import it.
    """
    custom_ops = register_custom_ops(model.graph_def) if surgery.allow_custom_ops else frozenset()
    model, dead = _flat(fix_inputs(model, surgery))
    live = [name for name in found if node_name(name) not in dead]
    lost = [name for name in (*model.outputs(), *surgery.output_nodes) if node_name(name) in dead]
    if lost or (found and not live):
        name = lost[0] if lost else found[0]
        raise FlagError(f"output {name} is in a branch that is never taken; --set_input can decide otherwise")
    if surgery.cuts or not model.signatures:
        outputs = surgery.output_nodes or live
        model = cut(model, surgery.input_nodes, outputs)
    model = model.with_graph(pruned(model.graph_def, [*model.outputs(), *keep]))
    if not surgery.allow_custom_ops:
        refuse_unknown_ops(model.graph_def, path)
    refuse_outside(model.graph_def, path)
    model = share_equal_signatures(model, keep)
    refuse_invalid(model.graph_def, path)
    left = custom_ops & {node.op for node in model.graph_def.node}
    notes = [f"custom ops {', '.join(sorted(left))} are not run here; what feeds them is compared"] if left else []
    return dataclasses.replace(model, custom_ops=left).noting(*notes)


def _flat(model: Model) -> tuple[Model, set[str]]:
    """Inline calls and decide conditions, until there is neither: a branch is a call, and may hold conditions.

    Returns:
      The model, and the names of the nodes that never run and are cut out.
    """
    conditions, dead = 0, set[str]()
    while True:
        decided = decide_switches(model.graph_def)
        model = model.with_graph(inline_calls(decided.graph_def))
        if not decided.conditions:
            break
        conditions += decided.conditions
        dead |= decided.dead
    if not conditions:
        return model, dead
    cut_out = f"; {len(dead)} ops in branches that are never taken are cut out" if dead else ""
    note = f"{conditions} conditions (Switch, If) are constant and decided{cut_out}"
    return model.with_graph(without_idle_waits(model.graph_def)).noting(note), dead
