"""Why a batch norm stayed: refusals are values, never log lines or exceptions."""

from __future__ import annotations

import dataclasses
import enum


class Reason(enum.Enum):
    """Every reason for which an affine is refused; the value is its help text."""

    TRAINING_MODE = "the batch norm computes its statistics from the batch (is_training)"
    STATISTICS_USED = "outputs 1 to 5 of the fused batch norm are read"
    PARAMETERS_NOT_CONSTANT = "gamma, beta, mean, variance, scale or offset is not a constant"
    WEIGHTS_NOT_CONSTANT = "the weights of the linear op are not a constant"
    WEIGHTS_COMPRESSED = "the weights are stored in a smaller type, and folding would store them larger"
    BAD_VARIANCE = "variance + epsilon is zero, negative or not finite"
    NOT_FINITE = "a scale, an offset or a folded constant would not be finite in the graph's dtype"
    SUBNORMAL = "a folded constant would lose its precision to subnormal numbers"
    CHANNEL_AXIS = "the constant is not on the channel axis"
    ENLARGES = "the constant broadcasts the value to a larger shape"
    UNKNOWN_SHAPE = "the shape or rank that decides it is not known"
    SHARED = "the value that would change has another reader"
    FETCHED = "the value that would change is an output of the graph"
    GRAPH_INPUT = "the way up ends at an input of the graph, not at a linear op"
    GRAPH_OUTPUT = "the way down ends at an output of the graph, not at a linear op"
    NO_LAW = "no batch norm may pass this op"
    UNKNOWN_ATTRIBUTE = "the op has an attribute that no rule names"
    CONTROL_FLOW = "v1 control flow (Switch, Merge, loops) is not crossed"
    FAKE_QUANT = "a FakeQuant op stands in between or on the weights"
    NEEDS_POSITIVE_SCALE = "this op lets only a scale above zero pass"
    NEEDS_ZERO_OFFSET = "this op lets only a scale pass, no offset"
    NEEDS_UNIT_SCALE = "this op lets only an offset pass, no scale"
    ZERO_PADDING = "an offset does not pass zero padding: the border would change"
    CHANNELS_DIFFER = "the op mixes channels that have different scales or offsets"
    MIXED_BRANCHES = "the other branches of a join can not take their share"
    LONE_SCALAR = "a lone scalar is folded only into the linear op right before it"
    DTYPE = "the dtypes on the way differ or lose precision"
    MORE_WORK = "folding would leave more ops than it found"
    LOSES_FUSION = "folding would cost the TFLite converter a fusion"
    TOO_FAR = "the way is longer than is looked into"
    NO_READER = "nothing reads the value"
    KEPT_BY_USER = "kept, because --keep names it"


@dataclasses.dataclass(frozen=True)
class Refusal:
    """A no, with its reason and the node to look at.

    Attributes:
      reason: Why.
      node: Name of the node of the original graph at which the way ended.
      detail: One clause that completes the reason with this graph's facts, or "".
    """

    reason: Reason
    node: str
    detail: str = ""

    def __str__(self) -> str:
        detail = f" ({self.detail})" if self.detail else ""
        return f"{self.reason.name} at {self.node}: {self.reason.value}{detail}"
