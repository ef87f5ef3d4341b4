"""What is needed is kept, and names nothing that is not."""

from __future__ import annotations

import bad_models
import pytest

from tf_bnfold import pipeline
from tf_bnfold.formats.prune import pruned
from tf_bnfold.options import Options, Request


def colocated(*groups: bytes):
    """The model, whose batch norm is said to be where other nodes are; `spare` is not needed for its logits."""
    graph_def = bad_models.frozen_model()
    bad_models.add(graph_def, "spare", "Relu", "norm")
    bad_models.node(graph_def, "norm").attr["_class"].list.s.extend(groups)
    return graph_def


@pytest.mark.parametrize(
    ("groups", "kept"),
    [
        ([b"loc:@conv", b"loc:@spare", b"loc:@gone", b"conv", b"\xff"], [b"loc:@conv"]),
        ([b"loc:@spare"], None),
    ],
)
def test_colocations_with_what_goes_go(groups, kept):
    graph_def = colocated(*groups)
    norm = bad_models.node(pruned(graph_def, ["logits"]), "norm")
    assert (list(norm.attr["_class"].list.s) if "_class" in norm.attr else None) == kept
    assert list(bad_models.node(graph_def, "norm").attr["_class"].list.s) == groups  # the original is as it was


def test_a_graph_with_them_is_folded(tmp_path):
    file = tmp_path / "graph.pb"
    file.write_bytes(colocated(b"loc:@spare").SerializeToString())
    report = pipeline.run(Request("", frozen_graph=str(file), options=Options(dry_run=True, output_nodes=("logits",))))
    assert not report.result.unfolded()
