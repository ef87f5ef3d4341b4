"""What rounding costs a graph's input when it takes the place of the affine that brought its channels together."""

from __future__ import annotations

import numpy as np

from tf_bnfold.algebra.affine import Affine

_REACH = 3.0  # the values behind an affine that normalises, in both directions: three standard deviations
_MOST_LOSS = 4.0  # two bits


def spreads_input(affine: Affine) -> bool:
    """Tell whether the values before the affine, rounded with one scale for all channels, would lose over two bits.

    The loss is the ratio of the steps before and behind the affine, both seen behind it. The range of values is
    taken to be -3 to 3 behind the affine, as it is of an input that is normalised by its mean and standard deviation.

    Args:
      affine: What reads the input.
    """
    used = affine.scale != 0
    if not used.any():
        return False
    scale, offset = affine.scale[used], affine.offset[used]
    ends = np.concatenate([(-_REACH - offset) / scale, (_REACH - offset) / scale, [0.0]])  # zero is always in the range
    return bool((ends.max() - ends.min()) * np.abs(scale).max() > _MOST_LOSS * 2 * _REACH)
