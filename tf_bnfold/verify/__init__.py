"""Compare the result with the original by running both."""

from __future__ import annotations

from tf_bnfold.verify.samples import Samples, make_samples
from tf_bnfold.verify.saved_model import verify_saved_model
from tf_bnfold.verify.tflite import verify_tflite
from tf_bnfold.verify.values import Comparison, Difference, NotVerified, require_verified

__all__ = [
    "Comparison",
    "Difference",
    "NotVerified",
    "Samples",
    "make_samples",
    "require_verified",
    "verify_saved_model",
    "verify_tflite",
]
