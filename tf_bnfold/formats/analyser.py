"""Ask TensorFlow's analyser which ops of a .tflite the GPU delegate would take."""

from __future__ import annotations

import contextlib
import io

import tensorflow as tf

from tf_bnfold.formats.quiet import quiet

_COMPATIBLE = "looks compatible with GPU delegate"


def gpu_analysis(content: bytes) -> str:
    """Return what the analyser prints of a .tflite.

    Source: https://ai.google.dev/edge/api/tflite/python/tf/lite/experimental/Analyzer
    """
    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        tf.lite.experimental.Analyzer.analyze(model_content=content, gpu_compatibility=True)
    return text.getvalue()


def why_no_gpu_analysis() -> str:
    """Return why the analyser's verdict is worth nothing; "" where it is worth something.

    In TensorFlow 2.18 its checks were taken out, and it calls every model compatible since. So it is asked of a model
    that no GPU delegate can run: one with UNIQUE, the shape of whose output depends on the values.

    Source: https://github.com/tensorflow/tensorflow/issues/77042
    """
    if _COMPATIBLE not in gpu_analysis(_incompatible()):
        return ""
    return (
        f"the analyser of TensorFlow {tf.__version__} calls every model compatible, as its checks were taken out in "
        "2.18; run this command in an environment with 'tensorflow<2.18'"
    )


def _incompatible() -> bytes:
    module = tf.Module()
    module.unique = tf.function(lambda x: tf.unique(x).y, input_signature=[tf.TensorSpec([4])])
    with quiet():
        converter = tf.lite.TFLiteConverter.from_concrete_functions([module.unique.get_concrete_function()], module)
        return bytes(converter.convert())
