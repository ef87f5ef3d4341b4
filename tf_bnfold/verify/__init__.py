"""Compare the result with the original by running both."""

from __future__ import annotations

from tf_bnfold.verify.quantised import QuantisedComparison, verify_quantised
from tf_bnfold.verify.runnable import runnable
from tf_bnfold.verify.samples import Samples, make_samples
from tf_bnfold.verify.saved_model import verify_frozen_graph, verify_saved_model
from tf_bnfold.verify.tflite import TFLITE, UP_TO_CUSTOM_OPS, verify_tflite
from tf_bnfold.verify.values import Comparison, Difference, NotVerified, require_verified

__all__ = [
    "TFLITE",
    "UP_TO_CUSTOM_OPS",
    "Comparison",
    "Difference",
    "NotVerified",
    "QuantisedComparison",
    "Samples",
    "make_samples",
    "require_verified",
    "runnable",
    "verify_frozen_graph",
    "verify_quantised",
    "verify_saved_model",
    "verify_tflite",
]
