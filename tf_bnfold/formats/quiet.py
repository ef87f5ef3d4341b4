"""Keep TensorFlow's Python chatter out of the caller's log for a while."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator

import tensorflow as tf
from absl import logging as absl_logging


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Let only errors through to the logs of TensorFlow and absl, and no Python warnings, inside the block."""
    logger = tf.get_logger()
    level, verbosity = logger.level, absl_logging.get_verbosity()
    logger.setLevel(logging.ERROR)
    absl_logging.set_verbosity(absl_logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
        absl_logging.set_verbosity(verbosity)
