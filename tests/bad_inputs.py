"""What is given in each row of docs/errors.md, and how it is made."""

from __future__ import annotations

import contextlib
import ctypes
import resource
import shutil
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import bad_models
import numpy as np
from bad_models import edit_saved_model
from tensorflow.core.framework import variable_pb2

Args = list[str]


class Place:
    """The working folder, with a valid SavedModel `model`, the same as `graph.pb`, and data that fits them."""

    def __init__(self, model: Path) -> None:
        self.folder = folder = Path()
        self.model = folder / "model"
        shutil.copytree(model, self.model)
        self.graph = folder / "graph.pb"
        self.graph.write_bytes(bad_models.frozen_model().SerializeToString())
        self.data = folder / "data.npz"
        np.savez(self.data, image=np.ones((4, 4, 4, 3), np.float32))

    def args(self, *more: str, **flags: object) -> Args:
        """Return a command line with input and output, unless they are among the flags."""
        if "frozen_graph" not in flags:
            flags.setdefault("saved_model", self.model)
        if "--dry_run" not in more and not flags.keys() & {"output_saved_model", "output_graph", "report"}:
            flags.setdefault("tflite", self.folder / "out.tflite")
        return [*(f"--{name}={value}" for name, value in flags.items()), *more]

    def file(self, name: str, content: bytes | str) -> Path:
        """Write a file."""
        path = self.folder / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    def empty(self, name: str) -> Path:
        """Make a folder."""
        (self.folder / name).mkdir()
        return self.folder / name

    def npz(self, **arrays: object) -> Path:
        """Write other data."""
        np.savez(self.folder / "other.npz", **{name: np.asarray(value) for name, value in arrays.items()})
        return self.folder / "other.npz"

    def edited(self, edit: Callable[[object], object], *more: str) -> Args:
        """Change the MetaGraph, and return a command line."""
        edit_saved_model(self.model, edit)
        return self.args(*more)

    def cut(self, path: Path, size: int) -> Args:
        """Keep the first bytes of a file, and return a command line."""
        path.write_bytes(path.read_bytes()[:size])
        return self.args()


ZIP = b"PK\x03\x04" + bytes(18)
PNG = b"\x89PNG\r\n\x1a\n" + bytes(50)
TFLITE = b"\x1c\x00\x00\x00TFL3" + bytes(40)
ONNX = b"\x08\x07\x12\x07pytorch:\x14\x0a\x05image\x12\x06logits"

FLAGS: Mapping[str, Callable[[Place], Args]] = {
    "nothing": lambda p: [],
    "no output": lambda p: [f"--saved_model={p.model}"],
    "two inputs": lambda p: p.args(saved_model=p.model, frozen_graph=p.graph),
    "an unknown flag": lambda p: p.args("--tflite_file=x"),
    "an argument that is no flag": lambda p: p.args("model"),
    "a way to quantise that is none": lambda p: p.args(quantize="int4"),
    "int8 without data": lambda p: p.args(quantize="int8"),
    "a type that dynamic does not admit": lambda p: p.args(quantize="dynamic", inference_input_type="int8"),
    "a number that is none": lambda p: p.args(rtol="small"),
    "a pattern that is none": lambda p: p.args(keep="["),
    "a shape that is none": lambda p: p.args(input_shapes="image:a,b"),
    "a flag file that is missing": lambda p: p.args(flagfile=p.folder / "no.cfg"),
    "a flag file that is a folder": lambda p: p.args(flagfile=p.model),
    "a flag file that is no text": lambda p: p.args(flagfile=p.file("f.cfg", b"\xff\xfe\x00--verify")),
    "a flag file with an unknown flag": lambda p: p.args(flagfile=p.file("f.cfg", "--verify\n--tfilte=x\n")),
    "a flag file with a wrong value": lambda p: p.args(flagfile=p.file("f.cfg", "--rtol=small\n")),
}

PATHS: Mapping[str, Callable[[Place], Args]] = {
    "a folder that is missing": lambda p: p.args(saved_model=p.folder / "no"),
    "a file for --saved_model": lambda p: p.args(saved_model=p.graph),
    "an empty folder": lambda p: p.args(saved_model=p.empty("empty")),
    "the folder above": lambda p: p.args(saved_model=p.folder),
    "a .keras file for --saved_model": lambda p: p.args(saved_model=p.file("net.keras", ZIP)),
    "a file that is missing": lambda p: p.args(frozen_graph=p.folder / "no.pb"),
    "a SavedModel for --frozen_graph": lambda p: p.args(frozen_graph=p.model),
    "a device for --frozen_graph": lambda p: p.args(frozen_graph="/dev/zero"),
    "a path with control characters": lambda p: p.args(saved_model=p.folder / "\x1b[31mno\n"),
    "a .tflite": lambda p: p.args(frozen_graph=p.file("a.tflite", TFLITE)),
    "a .onnx": lambda p: p.args(frozen_graph=p.file("a.onnx", ONNX)),
    "a .zip": lambda p: p.args(frozen_graph=p.file("a.zip", ZIP)),
    "a picture": lambda p: p.args(frozen_graph=p.file("a.png", PNG)),
    "the saved_model.pb for --frozen_graph": lambda p: p.args(frozen_graph=p.model / "saved_model.pb"),
    "an empty file": lambda p: p.args(frozen_graph=p.file("empty.pb", b"")),
    "a graph without nodes": lambda p: p.args(frozen_graph=p.file("a.pb", bad_models.empty_graph())),
    "a name that is no UTF-8": lambda p: p.args(
        frozen_graph=p.file("a.pb", bad_models.unreadable_text(bad_models.frozen_model()))
    ),
}


def _variables(place: Place, name: str) -> Path:
    return next(place.model.glob(f"variables/variables.{name}*"))


def _without(place: Place, name: str) -> Args:
    _variables(place, name).unlink()
    return place.args()


def _foreign(place: Place) -> Args:
    """Take the checkpoint of a model whose weights have another shape."""
    other = place.folder / "other"
    bad_models.save_model(other, weights=bad_models.WEIGHTS[..., :2], channels=2)
    shutil.rmtree(place.model / "variables")
    shutil.move(other / "variables", place.model)
    shutil.rmtree(other)
    return place.args()


def _asset(place: Place, name: str) -> Args:
    place.file("secret", "s")

    def edit(meta_graph):
        bad_models.const(meta_graph.graph_def, "vocabulary", b"", object)
        meta_graph.asset_file_def.add(filename=name).tensor_info.name = "vocabulary:0"

    return place.edited(edit)


def _signature(meta_graph):
    return meta_graph.signature_def["serving_default"]


def _without_initial_value(meta_graph):
    """Name another initial value in what only TensorFlow's own loader reads."""
    (stored,) = meta_graph.collection_def["variables"].bytes_list.value
    variable = variable_pb2.VariableDef.FromString(stored)
    variable.initial_value_name = "gone:0"
    meta_graph.collection_def["variables"].bytes_list.value[:] = [variable.SerializeToString()]


SAVED_MODEL: Mapping[str, Callable[[Place], Args]] = {
    "saved_model.pb is empty": lambda p: p.cut(p.model / "saved_model.pb", 0),
    "saved_model.pb is cut off": lambda p: p.cut(p.model / "saved_model.pb", 700),
    "saved_model.pb is a picture": lambda p: [(p.model / "saved_model.pb").write_bytes(PNG), *p.args()][1:],
    "no signature": lambda p: p.edited(lambda m: m.signature_def.clear()),
    "a signature with an input that is not there": lambda p: p.edited(
        lambda m: setattr(_signature(m).inputs["image"], "name", "gone:0")
    ),
    "a signature with an output that is not there": lambda p: p.edited(
        lambda m: setattr(_signature(m).outputs["logits"], "name", "logits:7")
    ),
    "a signature whose name has control characters": lambda p: p.edited(
        lambda m: m.signature_def["\x1b[31m"].CopyFrom(_signature(m))
    ),
    "an initial value of a variable that is not there": lambda p: p.edited(_without_initial_value),
    "a colocation with a node that is not there": lambda p: p.edited(
        lambda m: bad_models.node(m.graph_def, "norm").attr["_class"].list.s.append(b"loc:@gone")
    ),
    "variables without their index": lambda p: _without(p, "index"),
    "variables without their data": lambda p: _without(p, "data"),
    "variables that are cut off": lambda p: p.cut(_variables(p, "data"), 100),
    "an index that is cut off": lambda p: p.cut(_variables(p, "index"), 20),
    "variables of another model": _foreign,
    "an asset that is missing": lambda p: _asset(p, "vocabulary.txt"),
    "an asset outside the folder": lambda p: _asset(p, "../../secret"),
    "an unknown tag": lambda p: p.args(tags="train"),
    "an unknown signature": lambda p: p.args(signature_keys="nope"),
    "an unknown input": lambda p: p.args(input_nodes="imag"),
    "an unknown output": lambda p: p.args(output_nodes="logit"),
    "a shape for an unknown input": lambda p: p.args(input_shapes="picture:1,4,4,3"),
    "a shape that does not fit": lambda p: p.args(input_shapes="image:1,5,5,3"),
    "a shape of 2**40 elements": lambda p: p.args(input_shapes=f"image:{1 << 34},4,4,3"),
    "a value for an unknown input": lambda p: p.args(set_input="phase=false"),
}

DATA: Mapping[str, Callable[[Place], Args]] = {
    "data that is missing": lambda p: p.args(representative_data=p.folder / "no.npz"),
    "data that is no .npz": lambda p: p.args(representative_data=p.file("a.npz", PNG)),
    "data that is cut off": lambda p: [p.cut(p.data, 300), *p.args(representative_data=p.data)][1:],
    "data of Python objects": lambda p: p.args(representative_data=p.npz(image=np.array([{}], object))),
    "data under another name": lambda p: p.args(representative_data=p.npz(picture=np.ones((1, 4, 4, 3)))),
    "data of another shape": lambda p: p.args(representative_data=p.npz(image=np.ones((1, 3, 4, 4)))),
    "data of another dtype": lambda p: p.args(representative_data=p.npz(image=np.full((1, 4, 4, 3), "a"))),
    "data without rows": lambda p: p.args(representative_data=p.npz(image=np.ones((0, 4, 4, 3)))),
    "data with NaN": lambda p: p.args(representative_data=p.npz(image=np.full((1, 4, 4, 3), np.nan))),
    "data that declares 2**40 elements": lambda p: p.args(representative_data=_declaring(p)),
    "data that is an empty folder": lambda p: p.args(representative_data=p.empty("empty")),
    "data of arrays and pictures": lambda p: [
        np.save(p.empty("mixed") / "image.npy", np.ones((1, 4, 4, 3))),
        p.file("mixed/a.png", PNG),
        *p.args(representative_data=p.folder / "mixed"),
    ][2:],
    "a picture that is none": lambda p: [
        p.file("pictures/a.png", PNG) if p.empty("pictures") else "",
        *p.args(representative_data=p.folder / "pictures"),
    ][1:],
    "data that is no TFRecord": lambda p: p.args(representative_data=p.file("a.tfrecord", b"dear me" * 9)),
    "one picture for a folder of them": lambda p: p.args(representative_data=p.file("a.png", PNG)),
}


def _declaring(place: Place) -> Path:
    path = place.folder / "huge.npz"
    header = "{'descr': '<f4', 'fortran_order': False, 'shape': (17179869184, 4, 4, 4)}"
    head = header.ljust(117) + "\n"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(
            "image.npy", b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head.encode() + bytes(64)
        )
    return path


def _existing(place: Place) -> Path:
    shutil.copytree(place.model, place.folder / "old")
    return place.folder / "old"


OUTPUTS: Mapping[str, Callable[[Place], Args]] = {
    "a folder for the output that is missing": lambda p: p.args(tflite=p.folder / "no" / "out.tflite"),
    "a folder where a file is meant": lambda p: p.args(tflite=p.empty("out")),
    "a file where a folder is meant": lambda p: p.args(output_saved_model=p.file("out", "x")),
    "a device for the output": lambda p: p.args(tflite="/dev/null"),
    "an output that is the input": lambda p: p.args("--overwrite", output_saved_model=p.model),
    "an output inside the input": lambda p: p.args(tflite=p.model / "out.tflite"),
    "two outputs at one place": lambda p: p.args(output_graph=p.folder / "a.json", report=p.folder / "a.json"),
    "a folder that is not empty": lambda p: p.args(output_saved_model=_existing(p)),
    "a folder to replace that is no SavedModel": lambda p: [
        p.file("work/letter.txt", "x") if p.empty("work") else "",
        *p.args("--overwrite", output_saved_model=p.folder / "work"),
    ][1:],
    "a name that is too long": lambda p: p.args(tflite=p.folder / ("a" * 300)),
    "a report of an unknown form": lambda p: p.args(report=p.folder / "report.xls"),
    "a page that is the input": lambda p: p.args(report=p.model / "page.html"),
    "a node to explain that is not there": lambda p: p.args(explain="logit"),
    "a report to compare with that is missing": lambda p: p.args(compare="old.json"),
    "a report to compare with that is no JSON": lambda p: p.args(compare=p.file("old.json", "{")),
    "a report to compare with that is none": lambda p: p.args(compare=p.file("old.json", "{}")),
    "a report to compare with of another version": lambda p: p.args(
        compare=p.file("old.json", '{"schema_version": 9}')
    ),
    "a report that is also compared with": lambda p: p.args(
        report=p.folder / "old.json", compare=p.file("old.json", "{}")
    ),
}


@contextlib.contextmanager
def bound_by_modes() -> Iterator[None]:
    """Take from root, in this thread, the right to pass over the modes of files; nobody else has it."""
    libc = ctypes.CDLL(None, use_errno=True)
    version_3, override_and_search = 0x20080522, 0b110  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
    header = (ctypes.c_uint32 * 2)(version_3, 0)
    rights = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable; twice
    assert libc.capget(header, rights) == 0
    before = rights[0]
    rights[0] = before & ~override_and_search
    assert libc.capset(header, rights) == 0
    try:
        yield
    finally:
        rights[0] = before
        assert libc.capset(header, rights) == 0


@contextlib.contextmanager
def full_disk() -> Iterator[None]:
    """Let no file grow beyond 1000 bytes, as on a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def _locked(path: Path, mode: int) -> Path:
    path.chmod(mode)
    return path


# Rows that need more than files: what is given, and the world it is given in.
WORLDS: Mapping[str, tuple[Callable[[Place], Args], Callable[[], contextlib.AbstractContextManager[None]]]] = {
    "a saved_model.pb that may not be read": (
        lambda p: [_locked(p.model / "saved_model.pb", 0), *p.args()][1:],
        bound_by_modes,
    ),
    "a folder that may not be entered": (lambda p: [_locked(p.model, 0), *p.args()][1:], bound_by_modes),
    "a frozen graph that may not be read": (lambda p: p.args(frozen_graph=_locked(p.graph, 0)), bound_by_modes),
    "a folder for the output that may not be written": (
        lambda p: p.args(tflite=_locked(p.empty("locked"), 0o555) / "out.tflite"),
        bound_by_modes,
    ),
    "a disk that is full": (lambda p: p.args(output_saved_model=p.folder / "out"), full_disk),
    "a disk that is full, for a .tflite": (lambda p: p.args("--noverify"), full_disk),
}
