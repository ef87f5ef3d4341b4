"""SSDLite with MobileNetV2, and the three ways to suppress boxes in a .tflite."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from benchmarks.mobile_blocks import conv, inverted_residual, norm

_CLASSES = 5
_BOXES = 3  # for each place of a map
_DETECTIONS = 10
_SCALES = np.array([10, 10, 5, 5], np.float32)  # of y, x, height and width


def ssd(detect: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """SSDLite: MobileNetV2, its map and two smaller ones, heads of separable convolutions, post-processing.

    Source: https://arxiv.org/abs/1801.04381, section 6.2
    """

    def build(keras: Any, image: Any) -> Any:
        layers = keras.layers
        x = conv(layers, image, 8, 3, 2, activation="relu6")
        for width, stride in ((8, 1), (12, 2), (12, 1), (16, 2)):
            x = inverted_residual(layers, x, width, 3, stride)
        maps = [x]
        for width in (16, 12):
            x = inverted_residual(layers, x, width, 2, 2)
            maps.append(x)

        def head(x: Any, size: int) -> Any:
            y = layers.DepthwiseConv2D(3, padding="same", use_bias=False)(x)
            y = layers.Conv2D(_BOXES * size, 1)(layers.ReLU(6.0)(norm(layers, y)))
            return layers.Reshape((-1, size))(y)

        places = layers.Concatenate(axis=1)([head(x, 4) for x in maps])
        scores = layers.Concatenate(axis=1)([head(x, _CLASSES) for x in maps])

        class Detections(layers.Layer):  # type: ignore[misc,name-defined]
            """Post-processing; a layer, so that Keras 3 takes TensorFlow's ops."""

            def call(self, inputs: Any) -> Any:
                return detect(*inputs)

        return Detections(name="detections")([places, layers.Activation("sigmoid")(scores)])

    return build


def _anchors(count: int) -> npt.NDArray[np.float32]:
    """Made-up default boxes, float32 [count, 4]: their centre, height and width."""
    random = np.random.default_rng(2)
    return np.concatenate([random.uniform(0, 1, (count, 2)), random.uniform(0.1, 0.4, (count, 2))], 1).astype("f4")


def _corners(places: Any) -> Any:
    """Decode the boxes that SSD predicts beside its anchors: [..., 4] with top, left, bottom, right."""
    anchors = _anchors(places.shape[-2])
    centre = places[..., :2] / _SCALES[:2] * anchors[:, 2:] + anchors[:, :2]
    half = tf.exp(tf.minimum(places[..., 2:] / _SCALES[2:], 4.0)) * anchors[:, 2:] / 2
    return tf.concat([centre - half, centre + half], -1)


def suppressed(places: Any, scores: Any) -> Any:
    """The best boxes of the first image, by the op that TFLite has."""
    boxes, best = _corners(places)[0], tf.reduce_max(scores[0], -1)
    chosen, number = tf.raw_ops.NonMaxSuppressionV4(
        boxes=boxes, scores=best, max_output_size=_DETECTIONS, iou_threshold=0.5, score_threshold=0.3,
        pad_to_max_output_size=True,
    )  # fmt: skip
    return {"boxes": tf.gather(boxes, chosen), "scores": tf.gather(best, chosen), "number": number}


def combined(places: Any, scores: Any) -> Any:
    """The best boxes of each image and class, by an op that TFLite takes from TensorFlow."""
    found = tf.image.combined_non_max_suppression(
        _corners(places)[:, :, None], scores, max_output_size_per_class=_DETECTIONS, max_total_size=_DETECTIONS
    )
    return {"boxes": found.nmsed_boxes, "scores": found.nmsed_scores, "classes": found.nmsed_classes}


def post_processed(places: Any, scores: Any) -> Any:
    """The best boxes by TFLite's own op, as the TensorFlow Object Detection API writes it.

    Source: https://github.com/tensorflow/models, research/object_detection/export_tflite_graph_lib_tf2.py
    """
    attributes = {
        "max_detections": f"i: {_DETECTIONS}", "max_classes_per_detection": "i: 1", "use_regular_nms": "b: false",
        "nms_score_threshold": "f: 0.3", "nms_iou_threshold": "f: 0.5", "num_classes": f"i: {_CLASSES - 1}",
        **{f"{axis}_scale": f"f: {scale}" for axis, scale in zip("yxhw", _SCALES, strict=True)},
    }  # fmt: skip
    written = " ".join(f'attr {{ key: "{key}" value {{ {value} }} }}' for key, value in attributes.items())

    @tf.function(experimental_implements=f'name: "TFLite_Detection_PostProcess" {written}')  # type: ignore[untyped-decorator]
    def post_process(*_: Any) -> Any:
        """Stand in for the op: only its outputs' dtypes count."""
        return (tf.constant(0.0), tf.constant(0.0), tf.constant(0.0), tf.constant(0.0))

    boxes, classes, chosen, number = post_process(places, scores, tf.constant(_anchors(places.shape[-2])))
    return {"boxes": boxes, "classes": classes, "scores": chosen, "number": number}
