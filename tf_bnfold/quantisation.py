"""The ways to quantise a .tflite, and which options go with them. Nothing here needs TensorFlow."""

from __future__ import annotations

import math
from collections.abc import Mapping

from tf_bnfold.errors import FlagError
from tf_bnfold.options import Options, Request

# By mode: what the float inputs and outputs of the .tflite may be.
TYPES: Mapping[str, tuple[str, ...]] = {
    "none": ("float32",),
    "dynamic": ("float32",),
    "float16": ("float32",),
    "int8": ("float32", "int8", "uint8"),
    "int16x8": ("float32", "int16"),
}
CALIBRATED = ("int8", "int16x8")


def check_quantisation(request: Request) -> None:
    """Check that the options fit each other.

    Raises:
      FlagError: It names what does not fit, and the way out.
    """
    options = request.options
    mode = options.quantize
    if mode not in TYPES:
        raise FlagError(f"--quantize={mode}: give one of {', '.join(TYPES)}")
    _check_types(options)
    _check_numbers(options)
    if mode != "none" and not request.tflite:
        raise FlagError(f"--quantize={mode} is for a .tflite: give --tflite FILE, or drop it")
    if mode in CALIBRATED and not options.representative_data:
        raise FlagError(
            f"--quantize={mode} needs inputs to calibrate on, a few hundred typical ones: give --representative_data, "
            "an .npz file, a folder of .npy files or of pictures, or a TFRecord file"
        )
    if options.representative_data and not options.verify and mode not in CALIBRATED:
        raise FlagError(
            "--representative_data is read by verification, and by --quantize=int8 or int16x8: drop it or --noverify"
        )


def _check_types(options: Options) -> None:
    admitted = TYPES[options.quantize]
    for flag in ("inference_input_type", "inference_output_type"):
        asked = getattr(options, flag)
        if asked in admitted:
            continue
        modes = [mode for mode, types in TYPES.items() if asked in types]
        way_out = f"; --quantize={modes[0]} admits it" if modes else ""
        raise FlagError(f"--{flag}={asked}: with --quantize={options.quantize} give {' or '.join(admitted)}{way_out}")


def _check_numbers(options: Options) -> None:
    if options.calibration_samples < 1:
        raise FlagError(f"--calibration_samples={options.calibration_samples}: give a number above zero")
    if not math.isfinite(options.min_sqnr):
        raise FlagError(f"--min_sqnr={options.min_sqnr}: give a number of decibels, such as {Options().min_sqnr:g}")
    for flag in ("image_mean", "image_std"):
        numbers = getattr(options, flag)
        if not numbers or not all(map(math.isfinite, numbers)) or (flag == "image_std" and 0 in numbers):
            example = "127.5" if flag == "image_std" else "123.7,116.8,103.9"
            raise FlagError(f"--{flag}: give one number, or one per channel, as in {example}")
        if numbers != getattr(Options(), flag) and not options.representative_data:
            raise FlagError(f"--{flag} is for pictures: give their folder with --representative_data")
