"""What comes out: latency of .tflite and .onnx beside those of the stock converters, and beside the ideal by hand."""

from __future__ import annotations

import dataclasses
import pathlib
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter

import tf_bnfold
from benchmarks import small_networks, stock
from benchmarks.measuring import Figure, alone, interleaved
from benchmarks.small_networks import NETWORKS
from tf_bnfold.flatbuffer import op_counts
from tf_bnfold.formats.load import load_model
from tf_bnfold.options import Request

STOCK, OURS, IDEAL = "stock", "tf_bnfold", "ideal by hand"
OPS = "ops"
_CALIBRATED = 8  # random inputs that int8 is calibrated on; latency does not depend on them
_BLOCK = 0.03  # seconds that are timed together

Invoke = Callable[[], Any]


@dataclasses.dataclass(frozen=True)
class Settings:
    """How much is measured.

    Attributes:
      networks: Names in NETWORKS.
      fixed: Those that are exported with a fixed batch size too; by itself Keras exports a free one.
      int8: Those that are measured in int8 too.
      onnx: Whether .onnx files are measured.
      rounds: Runs of each; a run is as many calls as fill a few hundredths of a second.
    """

    networks: tuple[str, ...] = tuple(NETWORKS)
    fixed: tuple[str, ...] = ("causal TCN", "dilated CNN", "pre-activation ResNet")
    int8: tuple[str, ...] = tuple(NETWORKS)
    onnx: bool = True
    rounds: int = 15


def quantity(form: str, threads: int) -> str:
    """Name what is measured: CPU time of one thread, wall time of two."""
    return f"{form}, 1 thread, CPU ms" if threads == 1 else f"{form}, {threads} threads, ms"


def figures(settings: Settings) -> Iterator[Figure]:
    """Measure all networks, each in a process of its own."""
    for name in settings.networks:
        print(f"latency: {name}", flush=True)
        yield from alone(measure, name, None, settings)
        if name in settings.fixed:
            yield from alone(measure, name, 1, settings)


def measure(name: str, batch: int | None, settings: Settings) -> list[Figure]:
    """Convert one network in all ways, and time what comes out."""
    case = f"{name}, fixed batch" if batch else name
    network = NETWORKS[name]
    model = small_networks.made(network, batch)
    by_hand = small_networks.ideal(network, batch)
    shape = (1, *model.input_shape[1:])
    found: list[Figure] = []
    with tempfile.TemporaryDirectory() as folder:
        saved, hand = f"{folder}/saved_model", f"{folder}/by_hand"
        small_networks.export(model, saved)
        if by_hand is not None:
            small_networks.export(by_hand, hand)
        data = _data(saved, shape, f"{folder}/data.npz")
        for form in ("float32", "int8") if name in settings.int8 else ("float32",):
            calibration = data if form == "int8" else None
            contents = {STOCK: stock.convert(saved, calibration), OURS: _ours(saved, folder, form)}
            if by_hand is not None:
                contents[IDEAL] = stock.convert(hand, calibration)
            found += [
                Figure(case, subject, f"{form}, {OPS}", (op_counts(content).total(),))
                for subject, content in contents.items()
            ]
            for threads in (1, 2):
                runs = {subject: litert(content, shape, threads) for subject, content in contents.items()}
                found += _timed(case, quantity(form, threads), runs, threads, settings.rounds)
        if settings.onnx:
            found += _measure_onnx(case, saved, folder, shape, settings.rounds)
    return found


def _data(saved_model: str, shape: tuple[int, ...], file: str) -> Callable[[], Iterator[list[Any]]]:
    """Write random inputs for us to calibrate on, and return them as the stock converter takes them."""
    values = np.random.default_rng(0).standard_normal((_CALIBRATED, *shape[1:]), np.float32)
    (name,) = load_model(Request(saved_model)).signatures["serving_default"].inputs
    np.savez(file, allow_pickle=False, **{name: values})
    return lambda: ([value[None]] for value in values)


def _ours(saved_model: str, folder: str, form: str) -> bytes:
    options = tf_bnfold.Options(verify=False)
    if form == "int8":
        options = dataclasses.replace(options, quantize="int8", representative_data=f"{folder}/data.npz")
    tf_bnfold.convert(saved_model, f"{folder}/ours.tflite", options)
    return pathlib.Path(folder, "ours.tflite").read_bytes()


def litert(content: bytes, shape: tuple[int, ...], threads: int) -> Invoke:
    """Return what runs a .tflite of one input once, with static shapes."""
    interpreter = Interpreter(model_content=content, num_threads=threads)
    (detail,) = interpreter.get_input_details()
    if tuple(detail["shape_signature"]) != shape:
        interpreter.resize_tensor_input(detail["index"], shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(detail["index"], _image(shape))
    invoke: Invoke = interpreter.invoke
    return invoke


def _image(shape: tuple[int, ...]) -> Any:
    return np.random.default_rng(1).standard_normal(shape, np.float32)


def _measure_onnx(case: str, saved_model: str, folder: str, shape: tuple[int, ...], rounds: int) -> list[Figure]:
    try:
        import onnxruntime

        from benchmarks.applications import tf2onnx_alone
    except ImportError as error:
        print(f"left out the .onnx of {case}: {error}; pip install '.[onnx]' brings it")
        return []
    files = {STOCK: pathlib.Path(folder, "stock.onnx"), OURS: pathlib.Path(folder, "ours.onnx")}
    tf2onnx_alone(pathlib.Path(saved_model), files[STOCK])
    tf_bnfold.convert(saved_model, files[OURS], tf_bnfold.Options(verify=False))

    def runner(file: pathlib.Path, threads: int) -> Invoke:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        feeds = {session.get_inputs()[0].name: _image(shape)}
        return lambda: session.run(None, feeds)

    found = []
    for threads in (1, 2):
        runs = {subject: runner(file, threads) for subject, file in files.items()}
        found += _timed(case, quantity("ONNX", threads), runs, threads, rounds)
    return found


def _timed(case: str, name: str, runs: Mapping[str, Invoke], threads: int, rounds: int) -> list[Figure]:
    """Time calls in turns; by CPU time where one thread does it all, since that is less disturbed."""
    clock = time.process_time if threads == 1 else time.perf_counter

    def block(invoke: Invoke) -> Callable[[], float]:
        invoke()
        started = time.perf_counter()
        invoke()
        calls = max(round(_BLOCK / (time.perf_counter() - started)), 1)

        def run() -> float:
            begun = clock()
            for _ in range(calls):
                invoke()
            return 1000 * (clock() - begun) / calls

        return run

    samples = interleaved({subject: block(invoke) for subject, invoke in runs.items()}, rounds)
    return [Figure(case, subject, name, each) for subject, each in samples.items()]
