"""What the graph says about which difference of a converted model is a fault."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import tensorflow as tf

from tf_bnfold.formats.meta_graph import one_line
from tf_bnfold.formats.model import Model
from tf_bnfold.verify.decisions import Output, explaining
from tf_bnfold.verify.measure import limit_for
from tf_bnfold.verify.nature import changeable_nodes, coarsest_dtype, deciding_nodes, reach
from tf_bnfold.verify.rounding import allowing, rounding
from tf_bnfold.verify.samples import Samples
from tf_bnfold.verify.session import Inputs, feeds_of, fetches_of, opened
from tf_bnfold.verify.tally import Tally
from tf_bnfold.verify.values import Array, LeftOut

_ROUNDINGS = 16  # other kernels than TensorFlow's have approximations of their own, as of exp


class Judge:
    """What the graph says about which difference is a fault.

    Attributes:
      behind_decisions: What a discontinuous op comes before.
    """

    def __init__(self, folded: Model, rtol: float) -> None:
        graph_def = folded.graph_def
        self._unrepeatable = reach(graph_def, changeable_nodes(graph_def))
        self.behind_decisions = reach(graph_def, deciding_nodes(graph_def))
        self._coarsest = coarsest_dtype(graph_def)
        self._rtol = rtol

    def limit(self, tensor: str) -> float:
        """Return the error to accept of a tensor."""
        return limit_for(self._coarsest(tensor).as_numpy_dtype, self._rtol)

    def repeatable(self, fetches: Mapping[str, str]) -> dict[str, str]:
        """Return the outputs, tensors by name, that are neither random nor stateful."""
        return {name: tensor for name, tensor in fetches.items() if tensor not in self._unrepeatable}


def compare_signature(
    key: str, folded: Model, run: Callable[[Inputs], Mapping[str, Array]], judge: Judge, samples: Samples, tally: Tally
) -> None:
    """Run a signature of the graph and what it was converted to, and add each output's difference to the tally.

    Args:
      key: The signature.
      folded: The model that was converted.
      run: Runs what it was converted to: outputs by name, of inputs by name.
      judge: Of the model.
      samples: Inputs, from `make_samples`.
      tally: Gets what is found.
    """
    signature = folded.signatures[key]
    fetches = judge.repeatable(fetches_of(signature))
    random = fetches_of(signature).keys() - fetches
    tally.leave_out(LeftOut.UNREPEATABLE, (f"{key}: {name}" for name in sorted(random)))
    with opened(folded) as graph, explaining(folded, judge.limit) as explain, rounding(folded, _ROUNDINGS) as rounded:
        for inputs in samples[key]:
            feeds = feeds_of(signature, inputs)
            try:
                values = graph.run(list(fetches.values()), feeds)
            except tf.errors.OpError as error:  # verify_saved_model tells a fault from an input out of range
                tally.refusal = f"the graph can not take the inputs: {one_line(error)}"
                continue
            found = run(inputs)
            tally.samples += 1
            outputs = {
                f"{key}: {name}": Output(tensor, expected, found.get(name), judge.limit(tensor))
                for (name, tensor), expected in zip(fetches.items(), values, strict=True)
            }
            differences = {name: each.difference.told(decided_otherwise=False) for name, each in outputs.items()}
            differences |= explain(feeds, outputs, judge.behind_decisions)
            pairs = {name: each.pair for name, each in outputs.items()}
            # With state every run is a step, and rounding would have to take its own.
            tally.add(differences if folded.state else allowing(differences, pairs, rounded, feeds))
