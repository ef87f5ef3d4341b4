"""What is checked about paths before any work is done; nothing here needs TensorFlow."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from tf_bnfold.errors import FlagError, InputError, OutputError
from tf_bnfold.extras import missing
from tf_bnfold.options import Request

REPORT_SUFFIXES = (".json", ".html")
KERAS_SUFFIXES = (".keras", ".h5", ".hdf5")


def targets(request: Request) -> Mapping[str, str]:
    """Return the outputs that will be written, by flag, the page by "page"; a dry run writes reports and no model."""
    models = {
        "tflite": request.tflite,
        "onnx": request.onnx,
        "output_saved_model": request.output_saved_model,
        "output_graph": request.output_graph,
    }
    reports = {"report": request.report, "page": request.page}
    asked = reports if request.options.dry_run else {**models, **reports}
    return {flag: path for flag, path in asked.items() if path}


def _flag(output: str) -> str:
    """Return the flag that asks for an output."""
    return "report" if output == "page" else output


def work_folder(request: Request) -> str:
    """Return the folder in which files lie that are no output: that of an output, or the temporary one."""
    path = next(iter(targets(request).values()), "")
    return os.path.dirname(os.path.realpath(path)) if path else tempfile.gettempdir()


def check_paths(request: Request, *, exported: bool = False) -> None:
    """Check that the input is there and that every output can be written.

    Args:
      request: The request.
      exported: The input is no file, but an object.

    Raises:
      InputError: when the input is no SavedModel folder or no file, or the representative data is no file.
      FlagError: when outputs would overwrite the input or each other, the report has an unknown suffix, or a library is
        missing that an output needs.
      OutputError: when an output can't be written where it is asked for.
    """
    if not exported:
        _check_input(request)
    _check_libraries(request)
    data = request.options.representative_data
    if data:
        _check_data(Path(data))
    if request.compare:
        _check_file("compare", Path(request.compare))
    if request.report and not request.report.endswith(".json"):
        raise FlagError(f"--report={request.report}: the suffix decides the form; give {' or '.join(REPORT_SUFFIXES)}")
    outputs = targets(request)
    inputs = {
        "saved_model": request.saved_model,
        "keras_model": request.keras_model,
        "frozen_graph": request.frozen_graph,
        "representative_data": data,
        "compare": request.compare,
    }
    _check_apart({flag: path for flag, path in inputs.items() if path}, outputs)
    for flag, path in outputs.items():
        try:
            problem = _parent_problem(path) or _PROBLEMS.get(flag, _file_problem)(path, request)
        except OSError as error:
            problem = f"can't be written: {error.strerror or error}"
        if problem:
            raise OutputError(f"--{_flag(flag)}={path}: {problem}")


def _check_libraries(request: Request) -> None:
    for flag, path, extra in (("onnx", request.onnx, "onnx"), ("report", request.page, "report")):
        lacks = missing(extra) if path else ""
        if lacks:
            raise FlagError(f"--{flag}={path}: {lacks}")


def _check_input(request: Request) -> None:
    if request.frozen_graph:
        _check_file("frozen_graph", Path(request.frozen_graph))
    elif request.keras_model:
        _check_keras_file(Path(request.keras_model))
    else:
        with _reading("saved_model", request.saved_model):
            _check_folder(Path(request.saved_model))


@contextlib.contextmanager
def _reading(flag: str, path: str | Path) -> Iterator[None]:
    """Turn an OSError of the body, for instance a missing permission, into an InputError."""
    try:
        yield
    except OSError as error:
        raise InputError(f"--{flag}={path}: can't be read: {error.strerror or error}") from error


def _check_file(flag: str, file: Path) -> None:
    with _reading(flag, file):
        if file.is_dir():
            hint = f"; give --saved_model={file}" if (file / "saved_model.pb").is_file() else ""
            raise InputError(f"--{flag}={file}: a folder, not a file{hint}")
        if not file.exists():
            raise InputError(f"--{flag}={file}: no such file")
        if not file.is_file():  # a pipe or a device, which may have no end
            raise InputError(f"--{flag}={file}: not a regular file")
        file.open("rb").close()


def _check_data(path: Path) -> None:
    with _reading("representative_data", path):
        if path.is_dir():
            os.listdir(path)
            return
    _check_file("representative_data", path)


def _check_keras_file(file: Path) -> None:
    _check_file("keras_model", file)
    if file.suffix not in KERAS_SUFFIXES:
        raise InputError(
            f"--keras_model={file}: Keras tells the form by the suffix; give {' or '.join(KERAS_SUFFIXES)}"
        )


def _check_folder(folder: Path) -> None:
    if (folder / "saved_model.pb").is_file():
        (folder / "saved_model.pb").open("rb").close()
        return
    if not folder.exists():
        raise InputError(f"--saved_model={folder}: no such folder")
    if not folder.is_dir():
        hint = f"give --keras_model={folder}" if folder.suffix in KERAS_SUFFIXES else "give its folder"
        raise InputError(f"--saved_model={folder}: a file, not a SavedModel folder; {hint}")
    inner = sorted(path.parent for path in folder.glob("*/saved_model.pb"))
    hint = f"; did you mean {inner[0]}?" if inner else "; give the folder that holds it"
    raise InputError(f"--saved_model={folder}: no saved_model.pb in it{hint}")


def _check_apart(inputs: Mapping[str, str], outputs: Mapping[str, str]) -> None:
    """Refuse outputs that are, hold or lie inside an input or each other."""
    taken = {flag: Path(os.path.realpath(path)) for flag, path in inputs.items()}
    for flag, text in outputs.items():
        path = Path(os.path.realpath(text))
        for other, there in taken.items():
            if path == there or there in path.parents or path in there.parents:
                given = f"--{_flag(flag)}={text}: overlaps --{_flag(other)}={there}"
                raise FlagError(f"{given}; give each a place of its own")
        taken[flag] = path


def _parent_problem(path: str) -> str:
    parent = Path(os.path.realpath(path)).parent
    if not parent.is_dir():
        return f"the folder {parent} does not exist; make it first"
    if not os.access(parent, os.W_OK | os.X_OK):
        return f"the folder {parent} is not writable"
    return ""


def _file_problem(path: str, _: Request) -> str:
    if os.path.isdir(path):
        return "a folder; give the name of a file"
    if os.path.exists(path) and not os.path.isfile(path):
        return "not a regular file"
    return ""


def _folder_problem(path: str, request: Request) -> str:
    if os.path.exists(path) and not os.path.isdir(path):
        return "a file; give the name of a folder"
    if not os.path.isdir(path) or not os.listdir(path):
        return ""
    if not request.options.overwrite:
        return "the folder is not empty; give another, or --overwrite to replace it"
    if not os.path.isfile(os.path.join(path, "saved_model.pb")):
        return "the folder holds no SavedModel, and --overwrite replaces nothing else"
    return ""


_PROBLEMS: Mapping[str, Callable[[str, Request], str]] = {"output_saved_model": _folder_problem}
