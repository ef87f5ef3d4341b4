"""SavedModels of all ages for tests of the formats and of verification, small and made in a second."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import tensorflow as tf

Arrays = Mapping[str, np.ndarray]


def randomise(model) -> None:
    """Give a Keras model weights that make every channel different, as a trained model has."""
    random = np.random.default_rng(0)
    for weight in model.weights:
        name = getattr(weight, "path", weight.name)
        values = random.normal(0.1, 0.5, weight.shape)
        weight.assign(np.abs(values) + 0.2 if "variance" in name else values)


def conv_net(layers, *, batch: int | None = None):
    """Conv2D, batch norm, ReLU, Flatten, Dense on `image` [N, 6, 6, 3]; Flatten asks for the batch size."""
    inputs = layers.Input((6, 6, 3), batch_size=batch, name="image")
    x = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(4, 3, padding="same")(inputs)))
    return inputs, layers.Dense(2)(layers.Flatten()(x))


def conv_lstm(layers):
    """Conv2D, batch norm, Reshape, LSTM on `image` [1, 6, 8, 3]."""
    inputs = layers.Input((6, 8, 3), batch_size=1, name="image")
    x = layers.BatchNormalization()(layers.Conv2D(4, 3, padding="same")(inputs))
    return inputs, layers.LSTM(5, return_sequences=True)(layers.Reshape((6, 32))(x))


def keras3(folder: str, net=conv_net, *, batch: int | None = None) -> str:
    import keras

    model = keras.Model(*net(keras.layers))
    randomise(model)
    signature = [tf.TensorSpec((batch, *model.input.shape[1:]), tf.float32, name="image")]
    model.export(folder, verbose=False, input_signature=signature)
    return folder


def keras2(folder: str, net=conv_net) -> str:
    import tf_keras

    model = tf_keras.Model(*net(tf_keras.layers))
    randomise(model)
    model.save(folder, save_format="tf", include_optimizer=False)
    return folder


class TwoSignatures(tf.Module):
    """Signature `run` has two inputs and two outputs, and shares a variable with `also`."""

    def __init__(self):
        self.weights = tf.Variable(np.arange(12.0).reshape(3, 4), dtype=tf.float32)
        self.never_used = tf.Variable(3.0)

    @tf.function(input_signature=[tf.TensorSpec([None, 3], name="zebra"), tf.TensorSpec([None, 4], name="apple")])
    def run(self, zebra, apple):
        product = zebra @ self.weights
        return {"sum": product + apple, "difference": product - apple}

    @tf.function(input_signature=[tf.TensorSpec([None, 3], name="zebra")])
    def also(self, zebra):
        return {"product": zebra @ self.weights}


def two_signatures(folder: str) -> str:
    module = TwoSignatures()
    tf.saved_model.save(module, folder, signatures={"run": module.run, "also": module.also})
    return folder


def tf1(folder: str, *, tags=("serve",)) -> str:
    """A graph of TF1 in the midst of training: reference and resource variables, optimizer slots, a step counter."""
    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        image = v1.placeholder(tf.float32, [None, 3], name="image")
        weights = v1.get_variable("weights", [3, 4], initializer=v1.constant_initializer(0.5), use_resource=False)
        scale = v1.get_variable("scale", [4], initializer=v1.constant_initializer(2.0), use_resource=True)
        logits = tf.multiply(image @ weights, scale, name="logits")
        v1.train.AdamOptimizer().minimize(tf.reduce_sum(logits), v1.train.get_or_create_global_step())
        session.run(v1.global_variables_initializer())
        builder = v1.saved_model.Builder(folder)
        signature = v1.saved_model.predict_signature_def(
            {"image": image}, {"logits": logits, "class": tf.argmax(logits, 1)}
        )
        builder.add_meta_graph_and_variables(session, list(tags), signature_def_map={"serving_default": signature})
        builder.save()
    return folder


class Lookup(tf.Module):
    """Words to vectors: a table that is read from an asset, and a gather of a variable."""

    def __init__(self, vocabulary: str):
        index = tf.lookup.TextFileIndex
        initializer = tf.lookup.TextFileInitializer(
            vocabulary, tf.string, index.WHOLE_LINE, tf.int64, index.LINE_NUMBER
        )
        self.table = tf.lookup.StaticHashTable(initializer, 0)
        self.vectors = tf.Variable(np.arange(8.0).reshape(4, 2), dtype=tf.float32)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="words")])
    def call(self, words):
        return {"vectors": tf.gather(self.vectors, self.table.lookup(words))}


def lookup(folder: str, vocabulary: str) -> str:
    with open(vocabulary, "w", encoding="utf-8") as file:
        file.write("zero\none\ntwo\n")
    module = Lookup(vocabulary)
    tf.saved_model.save(module, folder, signatures=module.call)
    return folder


def saved(folder: str, function, *specs, variables=()) -> str:
    """Save a function of tensors as the signature serving_default."""
    module = tf.Module()
    module.variables_of_function = list(variables)
    module.call = tf.function(function, input_signature=specs)
    tf.saved_model.save(module, folder, signatures={"serving_default": module.call})
    return folder


def run_original(folder: str, key: str, inputs: Arrays, *, tags=("serve",)) -> dict[str, np.ndarray]:
    """Run a signature as TensorFlow's session loader reads it."""
    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        signature = v1.saved_model.loader.load(session, list(tags), folder).signature_def[key]
        feeds = {signature.inputs[name].name: value for name, value in inputs.items()}
        return session.run({name: info.name for name, info in signature.outputs.items()}, feeds)


def run_model(model, key: str, inputs: Arrays) -> dict[str, np.ndarray]:
    """Run a signature of a Model."""
    signature = model.signatures[key]
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        tf.graph_util.import_graph_def(model.graph_def, name="")
        if model.init_op:
            session.run(model.init_op, {asset.tensor_name: asset.path for asset in model.assets})
        feeds = {signature.inputs[name].name: value for name, value in inputs.items()}
        return session.run({name: info.name for name, info in signature.outputs.items()}, feeds)


def ops(graph_def) -> list[str]:
    return [node.op for node in graph_def.node]
