"""The .tflite runs, and the report says that every batch norm is folded: check_model.py TFLITE REPORT."""

from __future__ import annotations

import json
import sys

import numpy as np
from ai_edge_litert.interpreter import Interpreter

tflite, report = sys.argv[1:]
run = Interpreter(tflite).get_signature_runner("serving_default")
logits = run(image=np.zeros((1, 32, 32, 1), np.float32))["output_0"]
assert logits.shape == (1, 4)
assert np.isfinite(logits).all()

with open(report, encoding="utf-8") as file:
    result = json.load(file)["result"]
assert result["batch_norms"]["found"] == result["batch_norms"]["folded_up"] == 6
assert "MUL" not in result["tflite"]["ops"]
