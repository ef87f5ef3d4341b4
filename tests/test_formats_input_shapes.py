"""Unknown dimensions are fixed, and the arithmetic on shapes goes with them."""

from __future__ import annotations

import tempfile

import pytest
import saved_models
import tensorflow as tf

from tf_bnfold.errors import FlagError
from tf_bnfold.flatbuffer import op_counts
from tf_bnfold.formats.input_shapes import fix_input_shapes
from tf_bnfold.formats.saved_model import load_saved_model
from tf_bnfold.formats.tflite import convert_to_tflite


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("input_shapes")


@pytest.fixture(scope="module")
def free(folder):
    return load_saved_model(saved_models.keras3(str(folder / "free")))


def shape(model, key="serving_default", name="image"):
    return [dim.size for dim in model.signatures[key].inputs[name].tensor_shape.dim]


def reshaping(layers, *, batch=None):
    """Conv1D, Conv1DTranspose, Reshape and Flatten, which all compute shapes from the batch size."""
    inputs = layers.Input((32, 8), batch_size=batch, name="image")
    x = layers.BatchNormalization()(layers.Conv1D(4, 3, padding="same")(inputs))
    x = layers.Reshape((-1, 2, 2))(layers.Conv1DTranspose(4, 3, strides=2)(x))
    return inputs, layers.Dense(2)(layers.Flatten()(layers.UpSampling2D(2)(x)))


@pytest.mark.parametrize("make", [saved_models.keras3, saved_models.keras2])
def test_shape_arithmetic_is_gone_from_the_tflite(make, folder):
    def convert(model):
        return op_counts(convert_to_tflite(model, work_dir=tempfile.mkdtemp(dir=folder)))

    free = load_saved_model(make(str(folder / f"{make.__name__}_free"), reshaping))
    if make is saved_models.keras3:  # whose fixed batch size is one of the signature
        fixed = make(str(folder / "keras3_fixed"), reshaping, batch=1)
    else:
        fixed = make(str(folder / "keras2_fixed"), lambda layers: reshaping(layers, batch=1))
    after = convert(fix_input_shapes(free, {"image": (1, -1, -1)}))
    assert convert(free)["SHAPE"] > 0
    assert not {"SHAPE", "STRIDED_SLICE", "PACK"}.intersection(after)
    assert after == convert(load_saved_model(fixed))


def test_shapes_are_fixed_in_signature_and_graph(free):
    fixed = fix_input_shapes(free, {"image": (1, 6, 6, 3)})
    assert shape(fixed, "serve") == shape(fixed) == [1, 6, 6, 3]
    assert shape(free) == [-1, 6, 6, 3]  # the argument is not changed
    with tf.Graph().as_default() as graph:
        tf.graph_util.import_graph_def(fixed.graph_def, name="")
        assert graph.get_tensor_by_name(fixed.signatures["serve"].outputs["output_0"].name).shape == [1, 2]


def test_minus_one_leaves_a_dimension_open(free):
    assert shape(fix_input_shapes(free, {"image": (-1, 6, 6, 3)})) == [-1, 6, 6, 3]
    assert fix_input_shapes(free, {}) is free


def test_a_name_means_every_signature_that_has_it(folder):
    model = load_saved_model(saved_models.two_signatures(str(folder / "two")))
    fixed = fix_input_shapes(model, {"zebra": (5, 3)})
    assert shape(fixed, "run", "zebra") == shape(fixed, "also", "zebra") == [5, 3]
    assert shape(fixed, "run", "apple") == [-1, 4]


@pytest.mark.parametrize(
    ("shapes", "expected"),
    [
        ({"picture": (1, 6, 6, 3)}, r"names picture, but the inputs of the signatures are: image"),
        ({"image": (1, 7, 6, 3)}, r"image:1,7,6,3 contradicts input image of shape -1,6,6,3"),
        ({"image": (1, 6, 6)}, r"image:1,6,6 contradicts input image of shape -1,6,6,3"),
    ],
)
def test_contradictions_are_named(free, shapes, expected):
    with pytest.raises(FlagError, match=expected):
        fix_input_shapes(free, shapes)


def test_a_shape_that_the_graph_can_not_take_is_named(folder):
    path = saved_models.saved(
        str(folder / "halves"), lambda x: {"y": x[:, :2] + tf.ones([3, 2])}, tf.TensorSpec([None, None], name="x")
    )
    with pytest.raises(FlagError, match=r"--input_shapes x:2,4: the graph can not take this: Dimensions must be equal"):
        fix_input_shapes(load_saved_model(path), {"x": (2, 4)})
