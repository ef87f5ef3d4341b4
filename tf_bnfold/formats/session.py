"""How graphs are run here."""

from __future__ import annotations

from typing import Any

from tensorflow.core.protobuf import config_pb2

SECONDS_TO_RUN = 600


def plain_config() -> Any:
    """Return a session configuration without graph optimizers: they cost time, and would run two graphs differently.

    A run that takes too long ends with DeadlineExceededError: a model may have a loop without end.
    """
    config = config_pb2.ConfigProto(operation_timeout_in_ms=SECONDS_TO_RUN * 1000)
    config.graph_options.rewrite_options.disable_meta_optimizer = True
    config.graph_options.optimizer_options.opt_level = config_pb2.OptimizerOptions.L0
    return config
