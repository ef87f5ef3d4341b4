"""Representative data of every kind: what is read, in rows, and what is said where it does not fit."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import meta_graph_pb2

from tf_bnfold.errors import FlagError, InputError
from tf_bnfold.formats.representative import Batches, open_source
from tf_bnfold.formats.representative.records import Records


def signature(**inputs):
    """A signature of inputs (dtype, shape)."""
    found = meta_graph_pb2.SignatureDef()
    for name, (dtype, shape) in inputs.items():
        info = found.inputs[name]
        info.name, info.dtype = f"{name}:0", tf.as_dtype(dtype).as_datatype_enum
        info.tensor_shape.CopyFrom(tf.TensorShape(shape).as_proto())
    return found


IMAGE = signature(image=("float32", [None, 4, 6, 3]))
TWO = signature(x=("float32", [None, 2]), ids=("int32", [None, 3]))


def rows(path, of, **options):
    return list(open_source(str(path), **options).rows(of, "signature s"))


def message(path, of, **options) -> str:
    with pytest.raises(InputError) as caught:
        rows(path, of, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def npz(tmp_path, **arrays):
    np.savez(tmp_path / "data.npz", **arrays)
    return tmp_path / "data.npz"


def npy(tmp_path, **arrays):
    folder = tmp_path / "arrays"
    folder.mkdir()
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    return folder


def records(tmp_path, *examples, compression=""):
    """Write examples (name to values: floats, integers or bytes)."""
    path = str(tmp_path / "data.tfrecord")
    with tf.io.TFRecordWriter(path, compression) as writer:
        for example in examples:
            features = {name: feature(values) for name, values in example.items()}
            writer.write(tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString())
    return path


def feature(values):
    if isinstance(values[0], bytes):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=values))
    if isinstance(values[0], int):
        return tf.train.Feature(int64_list=tf.train.Int64List(value=values))
    return tf.train.Feature(float_list=tf.train.FloatList(value=values))


def png(path, pixels):
    path.write_bytes(tf.io.encode_png(np.asarray(pixels, np.uint8)).numpy())


@pytest.mark.parametrize("write", [npz, npy])
def test_arrays_by_name_are_read_in_rows_of_the_inputs_dtypes(write, tmp_path):
    x, ids = np.arange(10.0).reshape(5, 2), np.arange(15).reshape(5, 3).astype(np.int8)
    source = open_source(str(write(tmp_path, x=x, ids=ids, other=np.ones(3))))
    found = list(source.rows(TWO, "signature s"))
    assert source.count(TWO) == len(found) == 5
    assert found[3]["x"].tolist() == [[6, 7]]
    assert found[3]["ids"].tolist() == [[9, 10, 11]]
    assert (found[3]["x"].dtype, found[3]["ids"].dtype) == (np.float32, np.int32)


@pytest.mark.parametrize("write", [npz, npy])
def test_arrays_in_fortran_order_and_scalars_are_read_too(write, tmp_path):
    x = np.asfortranarray(np.arange(24.0).reshape(4, 2, 3))
    of = signature(x=("float32", [None, 2, 3]), scale=("float32", []), words=("string", [None]))
    words = np.array([b"a", b"bc", b"", b"d"])
    found = rows(write(tmp_path, x=x, scale=np.float64(2), words=words), of)
    np.testing.assert_array_equal(np.concatenate([row["x"] for row in found]), x)
    assert [row["scale"].item() for row in found] == [2] * 4
    assert found[1]["words"].tolist() == [b"bc"]
    assert found[1]["words"].dtype == object


def test_folders_may_nest_as_names_do(tmp_path):
    (tmp_path / "a").mkdir()
    np.save(tmp_path / "a" / "b.npy", np.ones((2, 2)))
    assert len(rows(tmp_path, signature(**{"a/b": ("float32", [None, 2])}))) == 2


def test_rows_are_read_one_at_a_time(tmp_path):
    path = npz(tmp_path, x=np.concatenate([np.zeros((3, 2)), np.full((1, 2), np.nan)]))
    found = open_source(str(path)).rows(signature(x=("float32", [None, 2])), "signature s")
    assert len(list(itertools.islice(found, 3))) == 3
    with pytest.raises(InputError, match=r"array x of .*data.npz has values that are not finite"):
        next(found)


@pytest.mark.parametrize("compression", ["", "GZIP"])
def test_records_are_rows(compression, tmp_path):
    examples = [{"x": [float(n), 0.5], "ids": [n, 2, 3]} for n in range(3)]
    path = records(tmp_path, *examples, compression=compression)
    source = open_source(path)
    assert isinstance(source, Records)
    assert source.count(TWO) is None
    found = list(source.rows(TWO, "signature s"))
    assert [row["x"].tolist() for row in found] == [[[0, 0.5]], [[1, 0.5]], [[2, 0.5]]]
    assert found[2]["ids"].tolist() == [[2, 2, 3]]
    assert found[2]["ids"].dtype == np.int32


def test_records_take_the_shape_of_the_input(tmp_path):
    path = records(tmp_path, {"x": [float(n) for n in range(12)], "k": [7], "s": [b"a", b"b"]})
    of = signature(x=("float16", [None, 2, None, 3]), k=("int32", []), s=("string", [None, 2]))
    (row,) = rows(path, of)
    assert row["x"].shape == (1, 2, 2, 3)
    assert row["x"].dtype == np.float16
    assert row["k"].shape == ()
    assert row["s"].tolist() == [[b"a", b"b"]]


def test_pictures_are_scaled_as_the_flags_say(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (4, 6, 3))
    png(tmp_path / "b.PNG", pixels)
    png(tmp_path / "a.png", 255 - pixels)
    (tmp_path / "labels.txt").write_text("cat")
    source = open_source(str(tmp_path), image_mean=(1.0, 2.0, 3.0), image_std=(4.0,))
    first, second = source.rows(IMAGE, "signature s")
    assert source.count(IMAGE) == 2
    np.testing.assert_allclose(second["image"][0], (pixels - [1, 2, 3]) / 4, rtol=1e-6)
    np.testing.assert_allclose(first["image"][0], (255 - pixels - [1, 2, 3]) / 4, rtol=1e-6)
    assert second["image"].dtype == np.float32
    (raw, _) = rows(tmp_path, signature(image=("uint8", [1, 4, 6, 3])))
    np.testing.assert_array_equal(raw["image"][0], 255 - pixels)


def test_pictures_are_resized_whole_and_smoothly(tmp_path):
    (tmp_path / "cats").mkdir()
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[:, 30:] = 200
    (tmp_path / "cats" / "a.jpg").write_bytes(tf.io.encode_jpeg(pixels, quality=100).numpy())
    (row,) = rows(tmp_path, IMAGE)
    image = row["image"][0]
    np.testing.assert_allclose(image[:, 0], 0, atol=6)
    np.testing.assert_allclose(image[:, -1], 200, atol=6)
    (grey,) = rows(tmp_path, signature(image=("float32", [1, 4, 6, 1])))
    assert grey["image"].shape == (1, 4, 6, 1)


def test_pictures_can_be_read_while_a_graph_is_built(tmp_path):
    png(tmp_path / "a.png", np.zeros((4, 6, 3)))
    with tf.Graph().as_default():
        assert len(rows(tmp_path, IMAGE)) == 1


def test_batches_have_the_size_of_the_signature_or_the_asked_one(tmp_path):
    source = open_source(str(npz(tmp_path, x=np.arange(14.0).reshape(7, 2), k=np.float32(3))))
    fixed = signature(x=("float32", [3, 2]), k=("float32", []))
    batches = Batches(source, "s", fixed, size=1, most=100)
    assert [batch["x"].shape for batch in batches] == [(3, 2)] * 2
    assert batches.count() == 2
    assert next(iter(batches))["k"] == 3
    free = signature(x=("float32", [None, 2]))
    assert [len(batch["x"]) for batch in Batches(source, "s", free, size=2, most=5)] == [2, 2]
    assert [len(batch["x"]) for batch in Batches(source, "s", free, size=32, most=256)] == [7]
    assert Batches(source, "s", free, size=1, most=5).count() == 5
    assert len(list(Batches(source, "s", fixed, size=1, most=1))) == 1  # one at least
    assert [batch["x"].tolist() for batch in batches] == [batch["x"].tolist() for batch in batches]  # read anew
    with pytest.raises(InputError, match="has 7 rows, but signature s takes 8 at once"):
        Batches(source, "s", signature(x=("float32", [8, 2])), size=1, most=100)


def test_a_batch_of_records_has_an_unknown_count(tmp_path):
    source = open_source(records(tmp_path, {"x": [1.0, 2.0]}, {"x": [3.0, 4.0]}))
    batches = Batches(source, "s", signature(x=("float32", [None, 2])), size=1, most=9)
    assert batches.count() is None
    assert len(list(batches)) == 2


X = signature(x=("float32", [None, 2]))
EXAMPLE = {"x": [1.0, 2.0]}

# What is given, as (a function of the folder, a signature), and what it says.
FAULTS = {
    "no file": (lambda f: f / "no.npz", X, "no.npz is not a file, and no folder"),
    "a file of a folder": (
        lambda f: npy(f, x=np.ones((1, 2))) / "x.npy",
        X,
        "x.npy is one file of several: give the fo",
    ),
    "an empty folder": (lambda f: f, X, "holds no .npy, .png, .jpg, .jpeg file"),
    "a folder of two kinds": (
        lambda f: [npy(f, x=np.ones((1, 2))), png(f / "arrays" / "a.png", np.zeros((2, 2, 3)))][0],
        X,
        r"holds arrays \(.*x.npy\) and pictures \(.*a.png\); give one kind",
    ),
    "another name": (lambda f: npy(f, y=np.ones((1, 2))), X, "arrays has no array x for signature s; it has: y$"),
    "another shape": (
        lambda f: npy(f, x=np.ones((1, 3))),
        X,
        r"array x of .*arrays has shape \[1, 3\], but the input is \[None, 2\]$",
    ),
    "another rank": (lambda f: npy(f, x=np.ones(2)), X, r"has shape \[2\], but"),
    "another dtype": (lambda f: npy(f, x=np.array([["a", "b"]])), X, "has dtype <U1, which is no float32"),
    "rows that differ": (
        lambda f: npy(f, x=np.ones((1, 2)), ids=np.ones((2, 3), int)),
        TWO,
        "differ in their number of rows: {'ids': 2, 'x': 1}",
    ),
    "infinities": (
        lambda f: npy(f, x=np.full((1, 2), np.inf)),
        X,
        "array x of .*arrays has values that are not finite",
    ),
    "Python objects": (
        lambda f: npy(f, x=np.array([{}, {}], object)),
        X,
        "can not be read as a folder of .npy files: .*holds Python objects",
    ),
    "an array that is cut off": (
        lambda f: cut(npy(f, x=np.ones((3, 2))) / "x.npy", 40),
        X,
        r"array x of .* ends before its shape \[3, 2\] is filled",
    ),
    "an array that is none": (
        lambda f: cut(npy(f, x=np.ones((3, 2))) / "x.npy", 10**9, b"text"),
        X,
        "can not be read as",
    ),
    "no TFRecord": (
        lambda f: text(f / "a.dat", "dear me, this is long enough"),
        X,
        "a.dat can not be read as TFRecord",
    ),
    "a TFRecord that is cut off": (
        lambda f: cut(records(f, EXAMPLE, EXAMPLE), 9),
        X,
        "can not be read as TFRecord: .*; other data is an .npz",
    ),
    "a record that is no example": (lambda f: no_examples(f), X, "record 0 of .*data.tfrecord is no tf.Example"),
    "a feature that is missing": (
        lambda f: records(f, EXAMPLE, {"y": [1.0]}),
        X,
        "record 1 of .*data.tfrecord has no feature x for signature s; it has: y$",
    ),
    "a feature of another size": (
        lambda f: records(f, {"x": [1.0]}),
        X,
        r"feature x of record 0 of .* has 1 values, but the input is \(None, 2\)",
    ),
    "a feature of another size, one dimension open": (
        lambda f: records(f, {"x": [1.0, 2.0, 3.0]}),
        signature(x=("float32", [None, 2, None])),
        "has 3 values, but the input is",
    ),
    "a feature of unknown shape": (
        lambda f: records(f, EXAMPLE),
        signature(x=("float32", [None, None, None])),
        "the shape of feature x of .* is not known: give it with --input_shapes",
    ),
    "a feature of bytes": (lambda f: records(f, {"x": [b"a"]}), X, "is a bytes_list, but the input is float32"),
    "a feature of floats for integers": (
        lambda f: records(f, {"x": [1.5, 2.5]}),
        signature(x=("int32", [None, 2])),
        "has dtype float32, which is no int32",
    ),
    "integers that are too large": (
        lambda f: records(f, {"x": [1, 300]}),
        signature(x=("uint8", [None, 2])),
        "has values that uint8 can not hold",
    ),
    "a feature with NaN": (
        lambda f: records(f, {"x": [1.0, float("nan")]}),
        X,
        "record 0 .* values that are not finite",
    ),
    "a picture that is none": (
        lambda f: [text(f / "a.png", "text"), f][1],
        IMAGE,
        "a.png can not be decoded: .*; repair it or take it out",
    ),
    "pictures for two inputs": (
        lambda f: [png(f / "a.png", np.zeros((2, 2, 3))), f][1],
        TWO,
        "holds pictures, which feed one input, but signature s has: ids, x; give an .npz",
    ),
    "pictures for no image": (
        lambda f: [png(f / "a.png", np.zeros((2, 2, 3))), f][1],
        X,
        r"input x of shape \(None, 2\) is no image: that would be \[batch, height",
    ),
    "pictures for an image of any size": (
        lambda f: [png(f / "a.png", np.zeros((2, 2, 3))), f][1],
        signature(image=("float32", [None, None, None, 3])),
        "has no fixed size: give it, as in --input_shapes=image:1,224,224,3",
    ),
    "pictures that do not fit the dtype": (
        lambda f: [png(f / "a.png", np.full((2, 2, 3), 255)), f][1],
        signature(image=("int8", [None, 2, 2, 3])),
        "a.png has values from 255 to 255, which the input's int8 can not hold; set --image_mean",
    ),
}


def text(path, content):
    path.write_text(content)
    return path


def cut(path, size, instead=b""):
    """Take so many bytes from the end of a file; return the folder of an array, and else the file."""
    with open(path, "r+b") as file:
        content = file.read()
        file.seek(0)
        file.truncate()
        file.write(content[:-size] + instead)
    return path.parent if str(path).endswith(".npy") else path


def no_examples(folder):
    with tf.io.TFRecordWriter(str(folder / "data.tfrecord")) as writer:
        writer.write(b"\xff\xff\xff")
    return folder / "data.tfrecord"


@pytest.mark.parametrize("fault", FAULTS)
def test_what_does_not_fit_is_named(fault, tmp_path):
    make, of, words = FAULTS[fault]
    said = message(make(tmp_path), of)
    assert re.search(words, said), said


def test_a_file_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    path = npz(tmp_path, x=np.ones((1, 2)))

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tf_bnfold.formats.representative.arrays.zipfile.ZipFile", refuse)
    assert "can not be read as an .npz archive" in message(path, X)


@pytest.mark.parametrize("options", [{"image_mean": (127.5,)}, {"image_std": (2.0,)}])
def test_mean_and_deviation_are_for_pictures(options, tmp_path):
    with pytest.raises(FlagError, match=r"are for a folder of pictures, which .*data.npz is not"):
        open_source(str(npz(tmp_path, x=np.ones((1, 2)))), **options)


def test_as_many_means_as_channels(tmp_path):
    png(tmp_path / "a.png", np.zeros((4, 6, 3)))
    with pytest.raises(FlagError, match="--image_std has 2 numbers, but input image has 3 channels"):
        rows(tmp_path, IMAGE, image_std=(1.0, 2.0))
