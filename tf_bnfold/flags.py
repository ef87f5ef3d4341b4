"""The way from a command line to the Request that it asks for, and what --help prints."""

from __future__ import annotations

import dataclasses
import difflib
import itertools
import math
import os
import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags

from tf_bnfold.errors import FlagError
from tf_bnfold.flag_groups import GROUPS
from tf_bnfold.flag_values import input_shapes, input_values, numbers
from tf_bnfold.gpu import check_gpu_compatibility
from tf_bnfold.options import Options, Request, wrong_folding
from tf_bnfold.quantisation import check_quantisation
from tf_bnfold.version import __version__

_DEFAULTS = Options()
_INPUTS = ("saved_model", "keras_model", "frozen_graph")
_OUTPUTS = ("tflite", "onnx", "output_saved_model", "output_graph")
_REPORTS = {".json": "report", ".html": "page"}  # by suffix: the field of Request

_EXAMPLES = """\
Examples
  tf_bnfold --saved_model my_model --tflite my_model.tflite
  tf_bnfold --saved_model my_model --dry_run
  tf_bnfold --saved_model my_model --report report.html
  tf_bnfold --saved_model my_model --tflite my_model.tflite --input_shapes image:1,224,224,3
  tf_bnfold --keras_model my_model.keras --tflite my_model.tflite
  tf_bnfold --frozen_graph my_model.pb --input_nodes image --output_nodes logits --tflite my_model.tflite
  tf_bnfold --flagfile configs/mobile_float32.cfg --saved_model my_model --tflite my_model.tflite
"""

_EXIT_CODES = """\
Exit codes
  0   done
  1   the flags are wrong
  2   the input can't be used
  3   the result differs from the original, or could not be compared with it (see --noverify)
  4   a batch norm stayed, and --fail_if_unfolded was given, or folds less than in the report of --compare
  5   the converter refused the model
  6   an output can't be written
  70  an error of tf_bnfold itself
"""


def define() -> flags.FlagValues:
    """Return the flags of the command, apart from those that imported libraries define."""
    values = flags.FlagValues()
    values.set_gnu_getopt()  # so that a stray argument does not hide the flags behind it
    for flag in (flag for group in GROUPS.values() for flag in group):
        flag.define(flag.name, flag.default, flag.text, flag_values=values, **flag.extra)
    return values


def parse(argv: Sequence[str]) -> dict[str, Any]:
    """Return the value of every flag on a command line, program name first.

    Raises:
      FlagError: for an unknown flag, a value that is none, or an argument that is no flag.
    """
    for file in _flag_files(argv):  # by themselves first, so that a message can name the file
        _check_flag_file(argv[0], file)
    return _parsed(argv)


def _check_flag_file(program: str, file: str) -> None:
    try:
        _parsed([program, f"--flagfile={file}"])
    except FlagError as error:
        raise FlagError(f"--flagfile={file}: {error}") from error


def _flag_files(argv: Sequence[str]) -> list[str]:
    """List the flag files that a command line names."""
    files = [match[1] for match in (re.fullmatch("--?flagfile=(.+)", argument) for argument in argv) if match]
    after = [second for first, second in itertools.pairwise(argv) if first in ("--flagfile", "-flagfile")]
    return files + after


def _parsed(argv: Sequence[str]) -> dict[str, Any]:
    values = define()
    try:
        _, *stray = values(argv)
    except flags.UnrecognizedFlagError as error:
        near = difflib.get_close_matches(error.flagname.replace("-", "_"), values, n=1)
        hint = f"did you mean --{near[0]}?" if near else "--help lists the flags"
        raise FlagError(f"unknown flag --{error.flagname}; {hint}") from error
    except flags.CantOpenFlagFileError as error:
        reason = re.search(r"\] (.*)", str(error))  # behind the number of the error
        raise FlagError(f"can't be read: {reason[1] if reason else error}") from error
    except UnicodeDecodeError as error:
        raise FlagError("no text file, so it holds no flags") from error
    except (flags.Error, ValueError) as error:
        raise FlagError(f"{str(error).rstrip('. ')}; --help lists the flags") from error
    if stray:
        raise FlagError(f"stray argument {stray[0]!r}: everything is given by flags, as in --saved_model={stray[0]}")
    return values.flag_values_dict()


def request(asked: Mapping[str, Any], command: Sequence[str]) -> Request:
    """Return what the values of the flags ask for.

    Raises:
      FlagError: when a value can't be right, or nothing is asked for.
    """
    paths = {name: _path(name, asked[name]) for name in (*_INPUTS, *_OUTPUTS, "representative_data", "compare")}
    reports = _reports(asked["report"])
    asked = {**asked, **paths}
    _check_input(asked)
    if not any(asked[name] for name in (*_OUTPUTS, "report", "dry_run", "explain", "compare")):
        raise FlagError("no output: give --tflite FILE, --output_saved_model DIR, or --dry_run to only see the report")
    _check_values(asked)
    names = {field.name for field in dataclasses.fields(Options)}
    options = {name: value for name, value in asked.items() if name in names}
    options |= {
        "tags": tuple(asked["tags"]),
        "signature_keys": tuple(asked["signature_keys"]),
        "input_shapes": input_shapes(asked["input_shapes"]),
        "input_nodes": tuple(asked["input_nodes"]),
        "output_nodes": tuple(asked["output_nodes"]),
        "set_input": input_values(asked["set_input"]),
        "image_mean": numbers("image_mean", asked["image_mean"]),
        "image_std": numbers("image_std", asked["image_std"]),
    }
    if only_explains(asked):
        options |= {"dry_run": True, "verify": False}
    places = {name: asked[name] for name in (*_INPUTS, *_OUTPUTS, "compare")} | reports
    explain = tuple(name.strip() for name in asked["explain"])
    asked_for = Request(**places, explain=explain, options=Options(**options), command=tuple(command))
    check_quantisation(asked_for)
    check_gpu_compatibility(asked_for)
    return asked_for


def only_explains(asked: Mapping[str, Any]) -> bool:
    """Tell whether the values of the flags ask for explanations of nodes and for nothing else."""
    return bool(asked["explain"]) and not any(asked[name] for name in (*_OUTPUTS, "report", "dry_run", "compare"))


def _reports(values: Sequence[str]) -> dict[str, str]:
    """Map the fields of Request to the report files; of two with one suffix the later counts."""
    paths = [_path("report", value) for value in values]
    return {_REPORTS.get(os.path.splitext(path)[1], "report"): path for path in paths if path}


def _path(name: str, value: str) -> str:
    """Return the path with its ~ expanded, which shells do not do behind a "="."""
    if value.startswith("--"):
        raise FlagError(f"--{name} has no value: {value!r} is read as one; give --{name}=... before it")
    return os.path.expanduser(value)


def _check_input(asked: Mapping[str, Any]) -> None:
    given = [name for name in _INPUTS if asked[name]]
    if not given:
        raise FlagError(
            "no input: give --saved_model DIR, --keras_model FILE or --frozen_graph FILE.pb; --help shows examples"
        )
    if len(given) > 1:
        raise FlagError(f"two inputs: give one of {' and '.join(f'--{name}' for name in given)}")
    if asked["frozen_graph"] and asked["signature_keys"]:
        raise FlagError("--signature_keys: a frozen graph has no signatures; --output_nodes names what to compute")


def _check_values(asked: Mapping[str, Any]) -> None:
    if (wrong := wrong_folding(asked["keep"], asked["shared_weights"])) is not None:
        raise FlagError(wrong)
    if not (math.isfinite(asked["rtol"]) and asked["rtol"] > 0):
        raise FlagError(f"--rtol={asked['rtol']}: give a number above zero, such as {_DEFAULTS.rtol:g}")


def help_text() -> str:
    """Return what --help prints."""
    column = 6 + max(len(flag.usage) for group in GROUPS.values() for flag in group)
    lines = [
        f"tf_bnfold {__version__}: fold every batch norm of a TensorFlow model into the linear op beside it,",
        "check the result, and convert it to TFLite.",
        "",
        "Usage: tf_bnfold --saved_model DIR --tflite FILE [flags]",
    ]
    for title, group in GROUPS.items():
        lines += ["", title]
        for flag in group:
            first, *more = textwrap.wrap(flag.text, 110 - column)
            lines += [f"  {flag.usage}".ljust(column) + first, *(" " * column + line for line in more)]
    return "\n".join([*lines, "", _EXAMPLES, _EXIT_CODES]).rstrip()
