"""Compare a .tflite with the folded graph."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

from tf_bnfold.formats.meta_graph import one_line
from tf_bnfold.formats.model import Model
from tf_bnfold.verify.nature import changeable_nodes, coarsest_dtype, deciding_nodes, reach
from tf_bnfold.verify.samples import Samples
from tf_bnfold.verify.session import Inputs, feeds_of, fetches_of, opened
from tf_bnfold.verify.tally import Tally
from tf_bnfold.verify.values import Array, Comparison, Difference, NotVerified, difference, limit_for

TFLITE = ".tflite with the folded graph"
UP_TO_CUSTOM_OPS = ".tflite up to its custom ops, converted apart, with the folded graph"


def verify_tflite(
    folded: Model, content: bytes, samples: Samples | NotVerified, *, rtol: float = 1e-3, compared: str = TFLITE
) -> Comparison | NotVerified:
    """Compare the outputs of a .tflite, run by LiteRT, with those of the graph it was converted from.

    Args:
      folded: The model that was converted.
      content: The flatbuffer.
      samples: Inputs, from `make_samples`.
      rtol: The error to accept in float32; for float16 and bfloat16 it is at least 16 roundings of the dtype.
      compared: What the comparison is called.

    Returns:
      What was found. An output behind a discontinuous op that differs is told as a share and does not fail.
    """
    if isinstance(samples, NotVerified):
        return NotVerified(compared, f"{samples.compared}: {samples.reason}")
    tally = Tally(compared)
    judge = _Judge(folded, rtol)
    try:
        runner = _Interpreter(content)
        for key in runner.keys:
            _compare_signature(key, folded, runner, judge, samples, tally)
    except (RuntimeError, ValueError) as error:
        return NotVerified(compared, f"LiteRT can not run it here: {_reason(error)}")
    return tally.finding("every output is random or stateful")


def _compare_signature(
    key: str, folded: Model, runner: _Interpreter, judge: _Judge, samples: Samples, tally: Tally
) -> None:
    signature = folded.signatures[key]
    fetches = fetches_of(signature)
    with opened(folded) as graph:
        for inputs in samples[key]:
            try:
                values = graph.run(list(fetches.values()), feeds_of(signature, inputs))
            except tf.errors.OpError as error:  # verify_saved_model tells a fault from an input out of range
                tally.refusal = f"the graph can not take the inputs: {one_line(error)}"
                continue
            found = runner.run(key, inputs)
            tally.samples += 1
            for (name, tensor), expected in zip(fetches.items(), values, strict=True):
                tally.add(dict(judge.differences(f"{key}: {name}", tensor, expected, found.get(name))))


class _Judge:
    """What the graph says about which difference is a fault."""

    def __init__(self, folded: Model, rtol: float) -> None:
        graph_def = folded.graph_def
        self._unrepeatable = reach(graph_def, changeable_nodes(graph_def))
        self._behind_decisions = reach(graph_def, deciding_nodes(graph_def))
        self._coarsest = coarsest_dtype(graph_def)
        self._rtol = rtol

    def differences(
        self, name: str, tensor: str, expected: Array, found: Array | None
    ) -> Iterator[tuple[str, Difference]]:
        if tensor in self._unrepeatable:
            return
        limit = limit_for(self._coarsest(tensor).as_numpy_dtype, self._rtol)
        if found is None:
            yield name, Difference(math.inf, 1.0, limit)
            return
        each = difference(found, expected, limit)
        yield name, each.told(decided_otherwise=bool(each.share) and tensor in self._behind_decisions)


class _Interpreter:
    """A .tflite in LiteRT's interpreter. Its methods raise RuntimeError or ValueError for what it can't run."""

    def __init__(self, content: bytes) -> None:
        self._interpreter = Interpreter(model_content=content)
        self.keys = tuple(self._interpreter.get_signature_list())
        self._runners = {key: self._interpreter.get_signature_runner(key) for key in self.keys}

    def run(self, key: str, inputs: Inputs) -> dict[str, Array]:
        """Return the outputs by name. The state of recurrent ops is reset, so that the next run starts anew too."""
        outputs = {name: np.array(value) for name, value in self._runners[key](**inputs).items()}
        self._interpreter.reset_all_variables()
        return outputs


def _reason(error: Exception) -> str:
    message = str(error)
    if "Select TensorFlow op" in message or "Flex" in message:
        return "it has TensorFlow ops, which need the Flex delegate"
    return one_line(error)
