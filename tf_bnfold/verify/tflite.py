"""Compare a .tflite with the folded graph."""

from __future__ import annotations

import functools

from tf_bnfold.formats.model import Model
from tf_bnfold.formats.tflite import signatures_to_convert
from tf_bnfold.verify.judge import Judge, compare_signature
from tf_bnfold.verify.litert import LiteRT, reason
from tf_bnfold.verify.samples import Samples
from tf_bnfold.verify.tally import Tally
from tf_bnfold.verify.values import Comparison, NotVerified

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
      What was found. What differs behind an op that a small error tips is told as a share and does not fail.
    """
    if isinstance(samples, NotVerified):
        return NotVerified(compared, f"{samples.compared}: {samples.reason}")
    tally = Tally(compared)
    judge = Judge(folded, rtol)
    try:
        runner = LiteRT(content)
        for key in signatures_to_convert(folded):
            runner = LiteRT(content) if folded.state else runner  # state starts from its initial value
            compare_signature(key, folded, functools.partial(runner.run, key), judge, samples, tally)
    except (RuntimeError, ValueError) as error:
        return NotVerified(compared, f"LiteRT can not run it here: {reason(error)}")
    return tally.finding()
