"""Compute in float32 what a graph computes in float16, bfloat16 or float64."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import graph_pb2, node_def_pb2, types_pb2
from tensorflow.python.framework import tensor_util

from tf_bnfold.errors import ConverterError
from tf_bnfold.formats.model import GraphDef, Model, node_name, tensor_names
from tf_bnfold.formats.tensors import output_dtypes, short_name, tensor_name, unused

_FLOAT = types_pb2.DT_FLOAT
_OTHERS = {types_pb2.DT_HALF: "float16", types_pb2.DT_BFLOAT16: "bfloat16", types_pb2.DT_DOUBLE: "float64"}
# Ops for which a dtype says how bytes are read, not what is computed.
_BYTES = frozenset({"Bitcast", "DecodeRaw", "DecodePaddedRaw"})
