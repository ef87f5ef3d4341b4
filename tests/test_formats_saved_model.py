"""Load SavedModels of all ages, and save them again."""

from __future__ import annotations

import pathlib
import shutil
from collections import Counter

import numpy as np
import pytest
import saved_models
import tensorflow as tf

from tf_bnfold.errors import InputError
from tf_bnfold.formats import freeze
from tf_bnfold.formats.saved_model import load_saved_model, save_saved_model
from tf_bnfold.verify import NotVerified, make_samples

KWS = pathlib.Path(__file__).parents[2] / "shared" / "models" / "kws_ds_cnn"
IMAGE = {"image": np.random.default_rng(0).normal(size=(2, 6, 6, 3)).astype(np.float32)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("saved_models")


@pytest.fixture(scope="module")
def keras3(folder):
    return saved_models.keras3(str(folder / "keras3"))


@pytest.fixture(scope="module")
def two_signatures(folder):
    return saved_models.two_signatures(str(folder / "two"))


@pytest.fixture(scope="module")
def tf1(folder):
    return saved_models.tf1(str(folder / "tf1"))


@pytest.fixture(scope="module")
def lookup(folder):
    return saved_models.lookup(str(folder / "lookup"), str(folder / "vocabulary.txt"))


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name in expected:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-5, atol=1e-6, err_msg=name)


def assert_flat(model):
    """No variables, no calls, no functions, no waiting."""
    left = {"VarHandleOp", "VariableV2", "ReadVariableOp", "StatefulPartitionedCall", "PartitionedCall", "NoOp"}
    assert not left.intersection(saved_models.ops(model.graph_def))
    assert not model.graph_def.library.function
    assert not any(value.startswith("^") for node in model.graph_def.node for value in node.input)


def test_keras3_signatures_share_one_computation(keras3):
    model = load_saved_model(keras3)
    assert_flat(model)
    assert Counter(saved_models.ops(model.graph_def))["Conv2D"] == 1
    assert list(model.signatures) == ["serve", "serving_default"]
    serve, default = model.signatures["serve"], model.signatures["serving_default"]
    assert serve.outputs["output_0"].name == default.outputs["output_0"].name
    assert serve.inputs["image"].name == default.inputs["image"].name == "serving_default_image:0"
    assert model.init_op == ""
    assert model.notes == (
        "Signature serve computes what serving_default does, so the two share their nodes, "
        "and a .tflite has serving_default only.",
    )
    for key in model.signatures:
        assert_same(saved_models.run_model(model, key, IMAGE), saved_models.run_original(keras3, key, IMAGE))


def test_keras2(folder):
    path = saved_models.keras2(str(folder / "keras2"))
    model = load_saved_model(path)
    assert_flat(model)
    assert saved_models.ops(model.graph_def).count("FusedBatchNormV3") == 1
    expected = saved_models.run_original(path, "serving_default", IMAGE)
    assert_same(saved_models.run_model(model, "serving_default", IMAGE), expected)


def test_tf1_in_training_keeps_inference_only(tf1):
    model = load_saved_model(tf1)
    assert_flat(model)
    constants = {node.name for node in model.graph_def.node if node.op == "Const"}
    assert {"weights", "scale"} <= constants
    assert not any("Adam" in name or name == "global_step" for name in constants)
    inputs = {"image": np.eye(3, dtype=np.float32)}
    expected = saved_models.run_original(tf1, "serving_default", inputs)
    assert_same(saved_models.run_model(model, "serving_default", inputs), expected)


@pytest.mark.skipif(not KWS.is_dir(), reason="../shared/models is not here")
def test_keras2_with_optimizer():
    """Without Keras 2 at hand, TensorFlow's own loader fails on it: it wants slots of the optimizer."""
    model = load_saved_model(str(KWS))
    assert_flat(model)
    assert saved_models.ops(model.graph_def).count("FusedBatchNormV3") == 9


def test_keras3_saved_by_tensorflow_gets_the_values_of_its_objects(folder):
    """The restore op of such a model assigns other handles than the signatures read."""
    import keras

    model = keras.Model(*saved_models.conv_net(keras.layers))
    saved_models.randomise(model)
    path = str(folder / "keras3_by_tensorflow")
    tf.saved_model.save(model, path)
    with pytest.raises(tf.errors.FailedPreconditionError):
        saved_models.run_original(path, "serving_default", {"inputs": IMAGE["image"]})
    found = saved_models.run_model(load_saved_model(path), "serving_default", {"inputs": IMAGE["image"]})
    np.testing.assert_allclose(found["output_0"], model(IMAGE["image"]), rtol=1e-5, atol=1e-6)


def test_two_signatures_keep_keys_and_names_and_share_constants(two_signatures):
    model = load_saved_model(two_signatures)
    assert_flat(model)
    assert list(model.signatures) == ["also", "run"]
    assert sorted(model.signatures["run"].inputs) == ["apple", "zebra"]
    assert saved_models.ops(model.graph_def).count("MatMul") == 2
    assert sum(node.op == "Const" for node in model.graph_def.node) == 1  # without the variable that nothing reads
    inputs = {"zebra": np.eye(3, dtype=np.float32), "apple": np.ones((3, 4), np.float32)}
    expected = saved_models.run_original(two_signatures, "run", inputs)
    assert_same(saved_models.run_model(model, "run", inputs), expected)


def test_signature_keys_choose(two_signatures):
    model = load_saved_model(two_signatures, signature_keys=["also"])
    assert list(model.signatures) == ["also"]
    assert saved_models.ops(model.graph_def).count("MatMul") == 1


def test_equal_signatures_share_and_others_do_not(folder):
    doubled = tf.function(lambda x: {"y": 2.0 * x}, input_signature=[tf.TensorSpec([3], name="x")])
    again = tf.function(lambda x: {"y": 2.0 * x}, input_signature=[tf.TensorSpec([3], name="x")])
    tripled = tf.function(lambda x: {"y": 3.0 * x}, input_signature=[tf.TensorSpec([3], name="x")])
    random = tf.function(lambda x: {"y": x + tf.random.normal([3])}, input_signature=[tf.TensorSpec([3], name="x")])
    random_too = tf.function(lambda x: {"y": x + tf.random.normal([3])}, input_signature=[tf.TensorSpec([3], name="x")])
    module = tf.Module()
    module.functions = [doubled, again, tripled, random, random_too]
    keys = ["a_doubled", "b_again", "c_tripled", "d_random", "e_random"]
    path = str(folder / "equal")
    tf.saved_model.save(module, path, signatures=dict(zip(keys, module.functions, strict=True)))
    outputs = [signature.outputs["y"].name for signature in load_saved_model(path).signatures.values()]
    assert outputs[0] == outputs[1]
    assert len(set(outputs)) == 4


def test_tables_and_assets_are_kept(lookup, folder):
    model = load_saved_model(lookup)
    inputs = {"words": np.array(["two", "zero", "nine"], dtype=object)}
    expected = {"vectors": np.array([[4, 5], [0, 1], [0, 1]], np.float32)}
    assert_same(saved_models.run_original(lookup, "serving_default", inputs), expected)
    assert [asset.filename for asset in model.assets] == ["vocabulary.txt"]
    assert model.init_op
    # The variable that hands the path on must not become a constant: the path is another one wherever the model goes.
    here = lookup.encode()
    assert not any(here in node.SerializeToString() for node in model.graph_def.node)
    for path in (str(folder / "lookup_1"), str(folder / "lookup_2")):
        save_saved_model(model, path)
        assert_same(saved_models.run_original(path, "serving_default", inputs), expected)
        model = load_saved_model(path)


def test_init_op_that_assigns_variables(folder):
    """A local variable is assigned by the main op, so its constant is what the main op assigns."""
    v1 = tf.compat.v1
    path = str(folder / "local")
    with tf.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.float32, [3], name="x")
        factors = [v1.get_local_variable(name, initializer=2.0, use_resource=name == "r") for name in ("r", "v")]
        keys, values = tf.constant([1.0, 2.0]), tf.constant([10.0, 20.0])
        table = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(tf.cast(keys, tf.int64), values), 0.0)
        y = x * factors[0] * factors[1] + table.lookup(tf.constant([1, 2, 3], tf.int64))
        init = tf.group(v1.local_variables_initializer(), v1.tables_initializer())
        session.run(init)
        builder = v1.saved_model.Builder(path)
        signature = v1.saved_model.predict_signature_def({"x": x}, {"y": y})
        builder.add_meta_graph_and_variables(
            session, ["serve"], signature_def_map={"serving_default": signature}, main_op=init
        )
        builder.save()
    model = load_saved_model(path)
    assert not {"VarHandleOp", "VariableV2", "Assign", "AssignVariableOp"}.intersection(
        saved_models.ops(model.graph_def)
    )
    assert model.init_op
    found = saved_models.run_model(model, "serving_default", {"x": np.ones(3, np.float32)})
    np.testing.assert_array_equal(found["y"], [14, 24, 4])


@pytest.mark.parametrize("batch_dims", [0, 1])
def test_gathers_of_variables_in_loops_are_frozen(folder, batch_dims):
    vectors = tf.Variable(np.arange(12.0).reshape(3, 4), dtype=tf.float32)

    def call(index):
        def body(step, total):
            shape = tf.cast(tf.shape(vectors)[0], tf.float32)
            return step + 1, total + shape * tf.gather(vectors, index, batch_dims=batch_dims)

        start = tf.zeros_like(tf.gather(vectors, index, batch_dims=batch_dims))
        return {"sum": tf.while_loop(lambda step, _: step < 2, body, [0, start])[1]}

    spec = tf.TensorSpec([3, 1], tf.int32, name="index") if batch_dims else tf.TensorSpec([3], tf.int32, name="index")
    path = saved_models.saved(str(folder / f"gather{batch_dims}"), call, spec, variables=[vectors])
    model = load_saved_model(path)
    assert [function.signature.name for function in model.graph_def.library.function]
    everywhere = [*model.graph_def.node, *(n for f in model.graph_def.library.function for n in f.node_def)]
    assert not any("Resource" in node.op or "Variable" in node.op or node.op == "VarHandleOp" for node in everywhere)
    inputs = {"index": np.array([[2], [0], [1]] if batch_dims else [2, 0, 1], np.int32)}
    expected = saved_models.run_original(path, "serving_default", inputs)
    assert_same(saved_models.run_model(model, "serving_default", inputs), expected)


def test_loading_is_deterministic(folder):
    """Freezing names functions after a counter of the process; that must not show."""
    scale = tf.Variable(2.0)

    def call(x):
        return {"y": tf.while_loop(lambda step, _: step < 3, lambda step, value: (step + 1, scale * value), [0, x])[1]}

    path = saved_models.saved(str(folder / "loop"), call, tf.TensorSpec([2], name="x"), variables=[scale])
    first, second = load_saved_model(path), load_saved_model(path)
    assert first.graph_def.library.function
    assert first.graph_def == second.graph_def
    for model, name in ((first, "loop_1"), (second, "loop_2")):
        save_saved_model(model, str(folder / name))
    files = [(folder / name / "saved_model.pb").read_bytes() for name in ("loop_1", "loop_2")]
    assert files[0] == files[1]


def test_saved_again_it_loads_and_computes_the_same(keras3, two_signatures, folder):
    for source, inputs in ((keras3, IMAGE), (two_signatures, {"zebra": np.eye(3, dtype=np.float32)})):
        model = load_saved_model(source)
        path = str(folder / f"again_{pathlib.Path(source).name}")
        save_saved_model(model, path)
        key = "serve" if "serve" in model.signatures else "also"
        assert_same(saved_models.run_original(path, key, inputs), saved_models.run_original(source, key, inputs))
        called = tf.saved_model.load(path).signatures[key](**{k: tf.constant(v) for k, v in inputs.items()})
        assert_same(
            {name: value.numpy() for name, value in called.items()}, saved_models.run_original(source, key, inputs)
        )
        assert load_saved_model(path).graph_def == model.graph_def


def test_tags(folder):
    path = saved_models.tf1(str(folder / "tagged"), tags=("serve", "gpu"))
    with pytest.raises(InputError, match="tags serve; --tags can be: gpu,serve"):
        load_saved_model(path)
    model = load_saved_model(path, tags=("gpu", "serve"))
    save_saved_model(model, str(folder / "tagged_again"))
    assert load_saved_model(str(folder / "tagged_again"), tags=("serve", "gpu")).graph_def == model.graph_def


def broken(source: str, folder: pathlib.Path, name: str) -> pathlib.Path:
    copy = folder / name
    shutil.copytree(source, copy)
    return copy


def test_errors_name_what_is_wrong(keras3, two_signatures, lookup, folder):
    def message(path, **options) -> str:
        with pytest.raises(InputError) as caught:
            load_saved_model(str(path), **options)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "is not a folder" in message(folder / "nowhere")
    (folder / "empty").mkdir()
    assert "holds no saved_model.pb" in message(folder / "empty")

    copy = broken(keras3, folder, "corrupt")
    (copy / "saved_model.pb").write_bytes(b"no protocol buffer")
    assert "is damaged" in message(copy)
    (copy / "saved_model.pb").write_bytes(b"")
    assert "holds no MetaGraph" in message(copy)

    copy = broken(keras3, folder, "no_variables")
    shutil.rmtree(copy / "variables")
    assert "variables.index is missing" in message(copy)

    copy = broken(keras3, folder, "truncated")
    data = copy / "variables" / "variables.data-00000-of-00001"
    data.write_bytes(data.read_bytes()[:100])
    assert "can not be restored" in message(copy)

    copy = broken(lookup, folder, "no_asset")
    (copy / "assets" / "vocabulary.txt").unlink()
    assert "asset vocabulary.txt" in message(copy)

    assert message(two_signatures, signature_keys=["go"]).endswith("signature go; --signature_keys can be: also, run")


def edited(source: str, folder: pathlib.Path, name: str, edit) -> pathlib.Path:
    from tensorflow.core.protobuf import saved_model_pb2

    copy = broken(source, folder, name)
    saved_model = saved_model_pb2.SavedModel.FromString((copy / "saved_model.pb").read_bytes())
    edit(saved_model.meta_graphs[0])
    (copy / "saved_model.pb").write_bytes(saved_model.SerializeToString())
    return copy


def test_errors_name_what_is_wrong_in_the_graph(tf1, folder):
    def rename_op(meta_graph):
        next(node for node in meta_graph.graph_def.node if node.name == "logits").op = "NoSuchOp"

    with pytest.raises(InputError, match="does not know: NoSuchOp at logits"):
        load_saved_model(str(edited(tf1, folder, "unknown_op", rename_op)))
    with pytest.raises(InputError, match="has no signature"):
        load_saved_model(str(edited(tf1, folder, "no_signature", lambda meta_graph: meta_graph.signature_def.clear())))

    def lose_output(meta_graph):
        meta_graph.signature_def["serving_default"].outputs["logits"].name = "gone:0"

    with pytest.raises(InputError, match=r"serving_default of .* names gone:0"):
        load_saved_model(str(edited(tf1, folder, "no_output", lose_output)))


def test_a_variable_that_inference_changes_stays_one(folder):
    count = tf.Variable(2.0, name="count")
    path = saved_models.saved(
        str(folder / "counts"), lambda x: {"y": count.assign_add(x)}, tf.TensorSpec([], name="x"), variables=[count]
    )
    model = load_saved_model(path)
    assert model.state == ("count",)
    assert {"VarHandleOp", "AssignAddVariableOp", "AssignVariableOp"} <= set(saved_models.ops(model.graph_def))
    assert model.init_op
    assert any("the signatures write variables: count; they stay variables" in note for note in model.notes)
    assert saved_models.run_model(model, "serving_default", {"x": np.float32(3)})["y"] == 5.0


def test_a_variable_that_a_loop_changes_stays_one(folder):
    count = tf.Variable(1.0, name="count")

    def call(x):
        def body(step):
            count.assign_add(x)
            return step + 1

        return {"y": tf.cast(tf.while_loop(lambda step: step < 2, body, [0])[0], tf.float32) + count}

    path = saved_models.saved(str(folder / "counts2"), call, tf.TensorSpec([], name="x"), variables=[count])
    model = load_saved_model(path)
    assert model.state == ("count",)
    assert saved_models.run_model(model, "serving_default", {"x": np.float32(3)})["y"] == 9.0


def test_a_reference_variable_that_inference_changes_is_named(folder):
    v1 = tf.compat.v1
    path = str(folder / "counts1")
    with tf.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.float32, [], name="x")
        count = v1.get_variable("count", [], use_resource=False)
        session.run(v1.global_variables_initializer())
        v1.saved_model.simple_save(session, path, {"x": x}, {"y": v1.assign_add(count, x)})
    with pytest.raises(InputError, match="variable count is not only read: AssignAdd "):
        load_saved_model(path)


def test_a_variable_without_a_value_is_named(folder):
    v1 = tf.compat.v1
    path = str(folder / "half_saved")
    with tf.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.float32, [], name="x")
        saved, lost = (v1.get_variable(name, [], use_resource=True) for name in ("saved", "lost"))
        session.run(v1.global_variables_initializer())
        builder = v1.saved_model.Builder(path)
        signature = v1.saved_model.predict_signature_def({"x": x}, {"y": x * saved * lost})
        builder.add_meta_graph_and_variables(
            session, ["serve"], signature_def_map={"serving_default": signature}, saver=v1.train.Saver([saved])
        )
        builder.save()
    with pytest.raises(InputError, match="variable lost has no value in the checkpoint"):
        load_saved_model(path)


def test_more_than_a_graph_can_hold_is_refused(tf1, monkeypatch):
    monkeypatch.setattr(freeze, "_LIMIT", 63)  # weights [3, 4] and scale [4] of float32 are 64 bytes
    with pytest.raises(InputError, match="the variables hold 64 bytes, more than the 63"):
        load_saved_model(tf1)


def test_other_reads_of_variables_are_frozen(folder):
    from tensorflow.python.ops import gen_resource_variable_ops

    table = tf.Variable(np.arange(6.0).reshape(3, 2), dtype=tf.float32)

    def call(index):
        shape = gen_resource_variable_ops.variable_shape(table.handle, out_type=tf.int32)
        return {"picked": tf.gather_nd(table, index), "shape": shape}

    path = saved_models.saved(
        str(folder / "reads"), call, tf.TensorSpec([1, 2], tf.int32, name="index"), variables=[table]
    )
    model = load_saved_model(path)
    assert {"GatherNd", "Shape"} <= set(saved_models.ops(model.graph_def))
    found = saved_models.run_model(model, "serving_default", {"index": np.array([[2, 1]], np.int32)})
    np.testing.assert_array_equal(found["picked"], [5])
    np.testing.assert_array_equal(found["shape"], [3, 2])


def test_sparse_inputs_are_kept(folder):
    v1 = tf.compat.v1
    path = str(folder / "sparse")
    with tf.Graph().as_default(), v1.Session() as session:
        sparse = v1.sparse_placeholder(tf.float32, [None, 3], name="x")
        info = v1.saved_model.build_tensor_info
        signature = v1.saved_model.build_signature_def(
            {"x": info(sparse)}, {"y": info(tf.sparse.to_dense(sparse))}, "predict"
        )
        builder = v1.saved_model.Builder(path)
        builder.add_meta_graph_and_variables(session, ["serve"], signature_def_map={"serving_default": signature})
        builder.save()
    model = load_saved_model(path)
    assert {"x/values:0", "x/indices:0"} <= set(model.inputs())
    assert isinstance(make_samples(model), NotVerified)


def test_an_init_op_that_fails_is_named(lookup, folder):
    copy = broken(lookup, folder, "doubled_word")
    (copy / "assets" / "vocabulary.txt").write_text("same\nsame\n")
    with pytest.raises(InputError, match=r"the init op NoOp of .* fails: .*same"):
        load_saved_model(str(copy))
