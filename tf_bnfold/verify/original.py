"""Run the signatures of a SavedModel as they are on disk, without any of this package's ways to read it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import tensorflow as tf
from tensorflow.python.eager import context

from tf_bnfold.formats.quiet import quiet
from tf_bnfold.formats.session import plain_config
from tf_bnfold.verify.session import Inputs, feeds_of, fetches_of
from tf_bnfold.verify.values import Array

Run = Callable[[str, Inputs], dict[str, Array]]  # signature key and inputs to output values by name


@contextlib.contextmanager
def opened_original(path: str, tags: Sequence[str]) -> Iterator[Run]:
    """Load a SavedModel with TensorFlow's session loader, which takes models of all ages.

    It leaves variables of some Keras 3 models without a value (those saved with `tf.saved_model.save`); their
    signatures are called by way of TensorFlow 2's loader.
    """
    with tf.Graph().as_default(), quiet(), tf.compat.v1.Session(config=plain_config()) as session:
        meta_graph = tf.compat.v1.saved_model.loader.load(session, list(tags), path)

        def run(key: str, inputs: Inputs) -> dict[str, Array]:
            signature = meta_graph.signature_def[key]
            fetches = fetches_of(signature)
            try:
                values = session.run(list(fetches.values()), feeds_of(signature, inputs))
            except tf.errors.FailedPreconditionError:
                return _called(path, tags, key, inputs)
            return {name: np.asarray(value) for name, value in zip(fetches, values, strict=True)}

        yield run


def _called(path: str, tags: Sequence[str], key: str, inputs: Inputs) -> dict[str, Array]:
    """Load the model anew and call the signature."""
    with context.eager_mode():
        function = tf.saved_model.load(path, list(tags)).signatures[key]
        outputs = function(**{name: tf.constant(value) for name, value in inputs.items()})
        return {name: np.asarray(value) for name, value in outputs.items()}
