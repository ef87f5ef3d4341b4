"""Inputs to compare on: the user's own, or seeded random ones that the model can take."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tf_bnfold.formats.meta_graph import one_line
from tf_bnfold.formats.model import Model, SignatureDef, TensorInfo
from tf_bnfold.formats.representative import Batches, Source
from tf_bnfold.verify.measure import is_telling
from tf_bnfold.verify.media import random_png, random_wav
from tf_bnfold.verify.session import TOO_MUCH, Inputs, Runner, feeds_of, fetches_of, opened, same_tensors
from tf_bnfold.verify.values import Array, NotVerified

Samples = Mapping[str, Iterable[Inputs]]  # by signature key; representative data is read anew each time

# A law that holds on inputs around 1 may fail far from it (ReLU6), so inputs are small, ordinary and large.
_SCALES = (0.1, 1.0, 30.0)
# A network that was trained on pictures answers to mere noise with what it never gave then, and rounding may decide it.
_PICTURES = {
    1.0: (0.0, 1.0),
    30.0: (127.5, 50.0),
}  # by scale, mean and deviation: normalised ones, and as they are read
_BRIGHTEST = 255.0
_LEAST_SIDE = 16
_STEPS = 4  # with state, each is taken so often: what a step writes is read in later ones
_WORDS = np.array([b"", b"a", b"cat", b"to be or not"], dtype=object)
_MOST_ROWS = 256  # of representative data: enough to compare on
_ROWS_PER_RUN = 32
_MOST_VALUES = 1 << 27  # of one random input: a volume of 512 x 512 x 512


@dataclasses.dataclass(frozen=True)
class _Guess:
    """What is assumed of a model's inputs where its signature leaves them open."""

    batch: int
    size: int  # of other unknown dimensions
    integers: int  # upper end (exclusive) of integers, for instance token ids
    shapes: tuple[tuple[int, ...], tuple[int, ...]]  # of numbers and strings that do not say their rank; -1 is open
    strings: str  # what they hold: words, or a file
    counts: bool = False  # whether floats are numbers from 0 to below `integers`, as ids that a model casts are


# Batch, and other dimensions; the last ones are for what crops its context of thousands of steps, as in genomics.
_SIZES = ((2, 32), (1, 32), (2, 64), (2, 224), (2, 8), (2, 4), (2, 2), (2, 1), (1, 1), (1, 2048), (1, 16384))
_MOST_VALUES_OF_LONG = 1 << 20  # of an input of more than so many
_LONG = 224
_SHAPES = (((-1, -1), ()), ((-1, -1, -1, 3), (-1,)), ((-1,), (-1, -1)), ((-1, -1, 1), ()), ((), ()))


def _guesses(signature: SignatureDef) -> Iterator[_Guess]:
    infos = signature.inputs.values()
    shapes = _SHAPES if any(info.tensor_shape.unknown_rank for info in infos) else _SHAPES[:1]
    strings = ("words", "wav", "png") if any(info.dtype == tf.string.as_datatype_enum for info in infos) else ("words",)
    has_floats = any(tf.as_dtype(info.dtype).is_floating for info in infos)
    for counts, string, shape, integers, (batch, size) in itertools.product(
        (False, True) if has_floats else (False,), strings, shapes, (100, 10, 2), _SIZES
    ):
        yield _Guess(batch, size, integers, shape, string, counts)


def make_samples(model: Model, source: Source | None = None, *, seed: int = 0) -> Samples | NotVerified:
    """Make inputs for every signature.

    Args:
      model: The frozen model; guesses of unknown sizes are tried on it.
      source: Representative data, of which the first rows are taken; None for random inputs.
      seed: Of the random inputs.

    Returns:
      Inputs by signature key, or the reason why there are none.

    Raises:
      InputError: If the data can't be used.
    """
    if source is not None:
        return {
            key: Batches(source, key, signature, size=_ROWS_PER_RUN, most=_MOST_ROWS)
            for key, signature in model.signatures.items()
        }
    samples: dict[str, tuple[Inputs, ...]] = {}
    with opened(model) as runner:
        for keys in same_tensors(model.signatures):
            found = _random(runner, model.signatures[keys[0]], seed, _SCALES * (_STEPS if model.state else 1))
            if isinstance(found, str):
                return NotVerified(f"signature {keys[0]}", f"{found}; give inputs with --representative_data")
            samples |= dict.fromkeys(keys, found)
    return samples


def _random(runner: Runner, signature: SignatureDef, seed: int, scales: Sequence[float]) -> tuple[Inputs, ...] | str:
    """Return random inputs that the model can take, or why none were found."""
    unusual = [name for name, info in signature.inputs.items() if info.WhichOneof("encoding") != "name"]
    if unusual:
        return f"input {unusual[0]} is a sparse or composite tensor, for which there are no random inputs"
    error = "it has no input that can be guessed"
    empty: tuple[Inputs, ...] = ()  # inputs on which an output has no elements, for want of better ones
    tried: set[Any] = set()
    for guess in _guesses(signature):
        large = _too_large(signature, guess)
        if large:
            error = error if tried else f"input {large} is too large for random values"
            continue
        inputs = _draw(signature, guess, 1.0, np.random.default_rng(seed))
        drawn = [(name, value.shape, _top(value)) for name, value in sorted(inputs.items())]
        form = str((drawn, guess.strings, guess.counts and guess.integers))
        if form in tried:
            continue
        tried.add(form)
        try:
            values = runner.run(list(fetches_of(signature).values()), feeds_of(signature, inputs))
        except TOO_MUCH as caught:
            return f"it can not run on guessed inputs: {one_line(caught)}"
        except (tf.errors.OpError, ValueError, TypeError) as caught:
            error = error if tried != {form} else f"it can not run on guessed inputs: {one_line(caught)}"
            continue
        random = np.random.default_rng(seed)
        normal = tuple(_draw(signature, guess, scale, random) for scale in scales)
        is_empty = not all(value.size for value in values)
        if not is_empty and all(map(is_telling, values)):
            return normal
        # What is NaN or left out below zero or above one, as by a logarithm, shows its numbers on inputs from 0 to 1.
        both = normal + tuple(_draw(signature, guess, scale, random, positive=True) for scale in scales)
        if not is_empty:
            return both
        empty = empty or both
    return empty or error


def _too_large(signature: SignatureDef, guess: _Guess) -> str:
    """Name an input that would have too many values, "" if there is none."""
    most = _MOST_VALUES_OF_LONG if guess.size > _LONG else _MOST_VALUES
    sizes = {name: math.prod(_shape(signature.inputs[name], guess)) for name in sorted(signature.inputs)}
    return next((name for name, size in sizes.items() if size > most), "")


def _top(value: Array) -> int:
    return int(value.max()) if value.dtype.kind in "iu" and value.size else 0


def _draw(
    signature: SignatureDef, guess: _Guess, scale: float, random: np.random.Generator, *, positive: bool = False
) -> Inputs:
    return {
        name: _array(signature.inputs[name], guess, scale, random, positive=positive)
        for name in sorted(signature.inputs)
    }


def _array(info: TensorInfo, guess: _Guess, scale: float, random: np.random.Generator, *, positive: bool) -> Array:
    dtype = tf.as_dtype(info.dtype)
    shape = _shape(info, guess)
    if dtype.is_floating and guess.counts:
        return np.asarray(guess.integers * random.random(shape)).astype(dtype.as_numpy_dtype)
    if dtype.is_floating or dtype.is_complex:
        if scale in _PICTURES and not positive and _is_picture(shape):
            return np.asarray(_picture(shape, *_PICTURES[scale], random)).astype(dtype.as_numpy_dtype)
        draw = random.random if positive else random.standard_normal
        return np.asarray(scale * draw(shape)).astype(dtype.as_numpy_dtype)
    if dtype == tf.bool:
        return np.asarray(random.random(shape) < 0.5)
    if dtype == tf.string:
        return _strings(guess.strings, shape, scale, random)
    if dtype in (tf.uint8, tf.int8):  # images and quantised values: the whole range
        return random.integers(dtype.min, dtype.max, shape, endpoint=True).astype(dtype.as_numpy_dtype)
    return random.integers(0, guess.integers, shape).astype(dtype.as_numpy_dtype)


def _is_picture(shape: Sequence[int]) -> bool:
    """Tell whether an input has the shape of pictures, [batch, height, width, grey or RGB]."""
    return len(shape) == 4 and shape[-1] in (1, 3) and min(shape[1:3]) >= _LEAST_SIDE


def _picture(shape: Sequence[int], mean: float, deviation: float, random: np.random.Generator) -> Any:
    """Draw pictures that differ in large things as in small ones, as photographs do: noise of every size alike."""
    batch, height, width, channels = shape
    octaves = range(int(math.log2(max(height, width))) + 1)
    value = np.zeros(shape)
    for octave in octaves:
        cells = random.standard_normal((batch, 1 << octave, 1 << octave, channels))
        rows, columns = ((np.arange(size) << octave) // size for size in (height, width))
        value += cells[:, rows][:, :, columns]
    value = mean + deviation * value / math.sqrt(len(octaves))
    return np.clip(value, 0, _BRIGHTEST) if mean else value


def _shape(info: TensorInfo, guess: _Guess) -> list[int]:
    open_shape = guess.shapes[info.dtype == tf.string.as_datatype_enum]
    sizes = open_shape if info.tensor_shape.unknown_rank else [dim.size for dim in info.tensor_shape.dim]
    return [size if size >= 0 else guess.batch if axis == 0 else guess.size for axis, size in enumerate(sizes)]


def _strings(kind: str, shape: list[int], scale: float, random: np.random.Generator) -> Array:
    if kind == "words":
        return np.asarray(random.choice(_WORDS, shape), dtype=object)
    file = random_wav(scale, random) if kind == "wav" else random_png(random)
    return np.full(shape, file, dtype=object)
