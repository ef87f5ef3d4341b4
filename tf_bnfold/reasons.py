"""Why a batch norm stayed: refusals are values, never log lines or exceptions."""

from __future__ import annotations

import dataclasses
import enum


class Reason(enum.Enum):
    """Every reason for which an affine is refused; the value is its help text.

    docs/reasons.md is generated from this.

    Attributes:
      graph: A graph that gives it, in one line.
      remedy: What would have to change in the model.
    """

    graph: str
    remedy: str

    def __new__(cls, text: str, graph: str, remedy: str) -> Reason:
        """Make a member whose value is the text alone."""
        member = object.__new__(cls)
        member._value_ = text
        member.graph = graph
        member.remedy = remedy
        return member

    TRAINING_MODE = (
        "the batch norm computes its statistics from the batch (is_training)",
        "Conv2D -> FusedBatchNormV3(is_training=True)",
        "export the model for inference, with training=False",
    )
    STATISTICS_USED = (
        "outputs 1 to 5 of the fused batch norm are read",
        "Conv2D -> FusedBatchNormV3; its output 1 -> Mul",
        "take out what reads the batch norm's mean or variance, a leftover of training",
    )
    PARAMETERS_NOT_CONSTANT = (
        "gamma, beta, mean, variance, scale or offset is not a constant",
        "Conv2D -> FusedBatchNormV3(gamma is an input)",
        "compute the parameters from constants, and let nothing assign the variables",
    )
    WEIGHTS_NOT_CONSTANT = (
        "the weights of the linear op are not a constant",
        "Conv2D(weights are an input) -> batch norm",
        "compute the weights from constants, and let nothing assign the variables",
    )
    WEIGHTS_COMPRESSED = (
        "the weights are stored in a smaller type, and folding would store them larger",
        "Conv2D(weights are Cast from float16) -> batch norm",
        "fold first, then compress the weights",
    )
    CONSTANT_GROWS = (
        "a constant that the op reads would have to become larger",
        "Conv2D -> Minimum(6) -> batch norm",
        "put the batch norm between the linear op and this op",
    )
    BAD_VARIANCE = (
        "variance + epsilon is zero, negative or not finite",
        "Conv2D -> FusedBatchNormV3(variance = -1)",
        "look at the moving variance: training diverged, or the checkpoint is broken",
    )
    NOT_FINITE = (
        "a scale, an offset or a folded constant would not be finite in the graph's dtype",
        "Conv2D(weights of 1e20) -> Mul(1e20)",
        "look at the weights and gamma: one of them is far too large, or is not finite itself",
    )
    CANCELLATION = (
        "an offset above 1000 that goes into a linear op, or another offset, would cost digits",
        "input -> (x - 101325) / 20 -> MatMul",
        "leave it, as x - mean is exact there; or take the mean off the data before the model",
    )
    SUBNORMAL = (
        "a folded constant would lose its precision to subnormal numbers",
        "Conv2D -> Mul(1e-39)",
        "set the gamma of channels that are next to nothing to 0, or take these channels out",
    )
    CHANNEL_AXIS = (
        "the constant is not on the channel axis",
        "Conv2D -> Mul(a constant of shape [H, 1, 1])",
        "give the constant one element per channel, on the channel axis",
    )
    ENLARGES = (
        "the constant broadcasts the value to a larger shape",
        "Conv2D with 1 channel -> Mul(a constant of 4 elements)",
        "give the constant no more elements than the value has channels",
    )
    UNKNOWN_SHAPE = (
        "the shape or rank that decides it is not known",
        "input of unknown rank -> AddV2(a constant of 4 elements)",
        "fix the shapes of the inputs, in the model or with --input_shapes",
    )
    SHARED = (
        "the value that would change has another reader",
        "Conv2D -> batch norm; Conv2D -> Sigmoid",
        "let the other reader read the batch norm's output, or give it a linear op of its own",
    )
    SHARED_WEIGHTS = (
        "the weights are read by another op too, and --shared_weights=keep stores them once",
        "Conv2D -> batch norm; another Conv2D reads the same weights; with --shared_weights=keep",
        "leave --shared_weights=keep out, so that each op gets weights of its own",
    )
    MANY_COPIES = (
        "one batch norm would cost several copies of weights that many ops read",
        "three Conv2D with the same 36,864 weights -> Concat of their channels -> batch norm",
        "give the convolutions weights of their own, or take --shared_weights=always, which copies them",
    )
    FETCHED = (
        "the value that would change is an output of the graph",
        "Conv2D -> batch norm; Conv2D is an output",
        "leave that output out, in the model or with --signature_keys or --output_nodes",
    )
    GRAPH_INPUT = (
        "the way up ends at an input of the graph, not at a linear op",
        "input -> batch norm -> Sigmoid",
        "put the batch norm behind a linear op, or right before one that pads nothing",
    )
    GRAPH_OUTPUT = (
        "the way down ends at an output of the graph, not at a linear op",
        "input -> batch norm -> output",
        "put the batch norm behind a linear op",
    )
    NO_LAW = (
        "no batch norm may pass this op",
        "Conv2D -> Sigmoid -> batch norm",
        "put the batch norm between the linear op and this op",
    )
    UNKNOWN_ATTRIBUTE = (
        "the op has an attribute that no rule names",
        "Conv2D(an attribute that TensorFlow does not know) -> batch norm",
        "leave the attribute at its default, or export the model anew",
    )
    CONTROL_FLOW = (
        "v1 control flow (Switch, Merge, loops) is not crossed",
        "Conv2D -> Switch -> batch norm",
        "export the model for inference, or decide the branch with --set_input",
    )
    FAKE_QUANT = (
        "a FakeQuant op stands in between or on the weights",
        "Conv2D -> FakeQuantWithMinMaxArgs -> batch norm",
        "fold first, then train with quantisation, or take the FakeQuant ops out",
    )
    NEEDS_POSITIVE_SCALE = (
        "this op lets only a scale above zero pass",
        "Conv2D -> MaxPool -> batch norm with a gamma below zero",
        "put the batch norm between the linear op and this op, or train with gamma_constraint=NonNeg()",
    )
    NEEDS_ZERO_OFFSET = (
        "this op lets only a scale pass, no offset",
        "Conv2D -> Relu -> AddV2(a constant) -> Relu",
        "put the batch norm between the linear op and this op",
    )
    NEEDS_UNIT_SCALE = (
        "only an offset may pass this op: not all inputs of the sum carry the scale",
        "input -> batch norm -> AddV2(another input) -> Conv2D",
        "put the batch norm behind the sum",
    )
    ZERO_PADDING = (
        "an offset does not pass zero padding: the border would change",
        "input -> batch norm -> Conv2D(SAME)",
        "put the batch norm behind the convolution, or pad nothing (VALID)",
    )
    UNEVEN_OFFSET = (
        "an offset before the op would add something else at each place of its output",
        "input -> batch norm -> BatchMatMul(several matrices)",
        "put the batch norm behind the op",
    )
    CHANNELS_DIFFER = (
        "the op mixes channels that have different scales or offsets",
        "Conv2D -> SpaceToDepth -> batch norm",
        "put the batch norm between the linear op and this op",
    )
    MIXED_BRANCHES = (
        "the other branches of a join can not take their share",
        "input -> batch norm -> Maximum(another input) -> Conv2D",
        "put the batch norm behind the join",
    )
    LONE_SCALAR = (
        "a lone scalar is folded only into the linear op right before it",
        "Conv2D -> Relu -> Mul(0.5)",
        "put it right behind the linear op; elsewhere it may be part of what TFLite fuses",
    )
    DTYPE = (
        "the dtypes on the way differ or lose precision",
        "Conv2D -> Cast(float32 to float16) -> batch norm",
        "compute the batch norm in the dtype of the linear op",
    )
    TOO_FAR = (
        "the way is longer than is looked into",
        "Conv2D -> thousands of ops -> batch norm",
        "put the batch norm nearer to a linear op",
    )
    NO_READER = (
        "nothing reads the value",
        "input -> batch norm, which is no output",
        "take the batch norm out, or name what it leads to as an output",
    )
    INPUT_RANGES = (
        "quantised, the op behind it would read the raw input, one scale for channels of unlike ranges",
        "input -> Mul(1, 0.1, 0.01) -> MatMul; with --quantize=dynamic",
        "normalise the input before the model, or take --quantize=float16, which computes with floats",
    )
    KEPT_BY_USER = (
        "kept, because --keep names it",
        "Conv2D -> batch norm, with --keep=bn",
        "leave --keep out, or let it find fewer names",
    )


@dataclasses.dataclass(frozen=True)
class Refusal:
    """A no, with its reason and the node to look at.

    Attributes:
      reason: Why.
      node: Name of the node of the original graph at which the way ended.
      detail: One clause that completes the reason with this graph's facts, or "".
      ways: Where two ways were looked into, up and down: the refusal of each.
    """

    reason: Reason
    node: str
    detail: str = ""
    ways: tuple[Refusal, ...] = ()

    def __str__(self) -> str:
        detail = f" ({self.detail})" if self.detail else ""
        return f"{self.reason.name} at {self.node}: {self.reason.value}{detail}"
