"""What the shapes do not tell is not guessed: a fold needs it from elsewhere, or stays away."""

from __future__ import annotations

import graphs as g
import numpy as np
import tensorflow as tf
from checker import build, check_fold, feeds_of, run

from tf_bnfold.fold import fold_graph
from tf_bnfold.outcome import Status
from tf_bnfold.reasons import Reason

raw = tf.raw_ops


def blurred(x, rank=None):
    """`x` with a shape that only a run tells; its rank is known where it is given."""
    default = np.array(x.shape.as_list(), np.int32)
    return raw.Reshape(tensor=x, shape=tf.compat.v1.placeholder_with_default(default, [rank]))


def known_norm(x, layout):
    statistics = {"gamma": g.signed(3), "beta": g.const(3), "mean": g.const(3), "variance": g.positive(3)}
    return g.norm(x, layout=layout, **statistics)


def twice(x):
    return raw.AddV2(x=raw.Mul(x=x, y=g.numbers(2.0)), y=g.numbers(1.0))


def test_a_vector_and_then_a_uniform_affine_into_a_grouped_convolution():
    """Only the vector tells how many groups there are, and the later affine must not unsay it."""

    def graph():
        x = blurred(g.placeholder(2, 4, 4, 8), 4)
        zeros = tf.zeros(8)
        y = tf.nn.relu(g.norm(x, gamma=g.positive(8), beta=zeros, mean=zeros, variance=g.positive(8)))
        weights = g.const(1, 1, 4, 6)
        return raw.Conv2D(input=twice(y), filter=weights, strides=[1] * 4, padding="VALID")

    built = build(graph)
    folding = fold_graph(built.graph_def, built.outputs)
    assert [outcome.status for outcome in folding.outcomes] == [Status.DOWN, Status.DOWN]
    feeds = feeds_of(built.graph_def, 0, 1.0)  # no float64: TensorFlow can't split what it doesn't know the size of
    (expected,), (found,) = (
        run(graph_def, [f"{built.outputs[0]}:0"], feeds) for graph_def in (built.graph_def, folding.graph_def)
    )
    assert np.abs(expected - found).max() <= 1e-5 * np.abs(expected).max()


def grouped_transposed(sizes, behind):
    weights, x = g.const(1, 1, 2, 6), g.placeholder(2, 3, 3, 6)
    y = raw.Conv2DBackpropInput(input_sizes=sizes, filter=weights, out_backprop=x, strides=[1] * 4, padding="VALID")
    return behind(y)


def test_a_uniform_affine_behind_a_transposed_convolution_of_unknown_channels():
    """The weights do not tell the groups, so not how many elements a bias has either."""

    def graph():
        sizes = tf.compat.v1.placeholder_with_default(np.array([2, 3, 3, 4], np.int32), [4])
        return grouped_transposed(sizes, twice)

    check_fold(graph, expect=["AddV2", "Conv2DBackpropInput", "Mul"], refused={"AddV2": Reason.UNKNOWN_SHAPE})
    check_fold(lambda: grouped_transposed([2, 3, 3, 4], twice), expect=["BiasAdd", "Conv2DBackpropInput"])


def test_a_fused_batch_norm_tells_its_rank():
    """Of NCHW an Add stays that is on axis 1 of four, whatever is known of what the batch norm reads."""

    def graph(rank):
        x = known_norm(blurred(g.placeholder(2, 3, 5, 3), rank), "NCHW")
        weights = g.const(3, 3, 3, 4)
        return raw.Conv2D(input=x, filter=weights, strides=[1] * 4, padding="SAME", data_format="NCHW")

    for rank in (4, None):
        folding = check_fold(
            lambda rank=rank: graph(rank), statuses=[Status.PARTLY], expect=["AddV2", "Conv2D", "Reshape"]
        )
        offset = next(node for node in folding.graph_def.node if node.name.endswith("offset"))
        assert [dim.size for dim in offset.attr["value"].tensor.tensor_shape.dim] == [3, 1, 1]


def test_a_fused_batch_norm_of_volumes_tells_its_rank():
    def graph():
        x = known_norm(blurred(g.placeholder(2, 3, 4, 4, 3)), "NCDHW")
        weights = g.const(3, 3, 3, 3, 4)
        return raw.Conv3D(input=x, filter=weights, strides=[1] * 5, padding="SAME", data_format="NCDHW")

    folding = check_fold(graph, statuses=[Status.PARTLY], expect=["AddV2", "Conv3D", "Reshape"])
    offset = next(node for node in folding.graph_def.node if node.name.endswith("offset"))
    assert [dim.size for dim in offset.attr["value"].tensor.tensor_shape.dim] == [3, 1, 1, 1]


def test_a_constant_of_one_element_may_add_an_axis():
    """[1] beside a scalar gives [1]: it is no number that stands for all channels, as long as the rank is not known."""

    def graph():
        x = raw.MatMul(a=g.rows(1), b=g.const(1, 1))
        scalar = raw.Reshape(tensor=raw.Slice(input=x, begin=[0, 0], size=[1, 1]), shape=shape())
        return raw.AddV2(x=raw.Mul(x=scalar, y=g.numbers([2.0])), y=g.numbers([3.0]), name="bn")

    def shape():
        return tf.compat.v1.placeholder_with_default(np.zeros([0], np.int32), [None])

    folding = check_fold(graph, expect=["AddV2", "MatMul", "Mul", "Reshape", "Slice"])
    assert {outcome.refusal.reason for outcome in folding.outcomes} == {Reason.UNKNOWN_SHAPE}


def test_an_einsum_of_unknown_rank_is_left_alone():
    def graph():
        x = blurred(g.placeholder(2, 3, 4))
        return raw.AddV2(x=raw.Einsum(inputs=[x, g.const(4, 5)], equation="abc,cd->dab"), y=g.const(5, 1, 1), name="bn")

    check_fold(graph, refused={})
    built = build(lambda: g.affine(raw.Einsum(inputs=[g.placeholder(2, 3, 4)], equation="abc->acb")))
    assert [o.refusal.reason for o in fold_graph(built.graph_def, built.outputs).outcomes] == [Reason.NO_LAW]


def test_shape_arithmetic_that_divides_by_zero_tells_nothing():
    def graph():
        zero = raw.FloorDiv(x=tf.constant(4), y=tf.constant(0))
        x = raw.Reshape(tensor=g.dense(g.rows(), 4), shape=tf.stack([zero, -1, 4]))
        return raw.AddV2(x=x, y=g.const(4), name="bn")

    built = build(graph)
    outcome = fold_graph(built.graph_def, built.outputs).outcomes[0]
    assert outcome.status is Status.KEPT
    assert outcome.refusal.reason is Reason.UNKNOWN_SHAPE
