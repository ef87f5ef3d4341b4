"""A batch norm that goes is not worth many copies of one constant.

An op gets weights of its own where several read the same ones and take different things. Where a single affine would
need that of many ops, as one behind the octaves of a filter bank that share their filters, the file would grow by all
of them for the one op that goes.
"""

from __future__ import annotations

from tf_bnfold.fold import shared
from tf_bnfold.fold.route import After, Before, Route
from tf_bnfold.graph.graph import Node
from tf_bnfold.graph.view import View
from tf_bnfold.reasons import Reason, Refusal

# The two sides of a siamese network may differ.
_MOST_TIMES = 2
# Fewer bytes are not worth an op.
_FEW_BYTES = 1 << 14


def refuse_copies(view: View, route: Route) -> Refusal | None:
    """Why a route would store some weights too often, or None when it does not."""
    stored: dict[Node, dict[tuple[str, bytes], After | Before]] = {}
    for edit in route:
        if isinstance(edit, (After, Before)) and not edit.affine.has_unit_scale:
            took = (type(edit).__name__, edit.affine.scale.tobytes())
            stored.setdefault(shared.source(view.shapes, edit.sink.weights), {})[took] = edit
    for constant, edits in stored.items():
        last = list(edits.values())[-1].sink
        size = shared.byte_count(view.shapes, last.weights)
        if len(edits) > _MOST_TIMES and (len(edits) - 1) * size > _FEW_BYTES:
            detail = f"{constant.name}, {size:,} bytes, would be stored {len(edits)} times"
            return Refusal(Reason.MANY_COPIES, last.node.name, detail)
    return None
