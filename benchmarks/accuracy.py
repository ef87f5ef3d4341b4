"""Accuracy: rounding before and after the fold beside a run in float64, and the noise of quantisation with and without.

The float64 run is that of the tests (`tests/oracle.py`, which has to be importable).
"""

from __future__ import annotations

import dataclasses
import pathlib
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from benchmarks import quantisation, small_networks
from benchmarks.measuring import Figure, alone
from benchmarks.quantisation import CASES, Case
from tf_bnfold.fold import fold_graph
from tf_bnfold.formats.load import load_model
from tf_bnfold.formats.model import Model
from tf_bnfold.options import Request
from tf_bnfold.verify.session import feeds_of, fetches_of, opened

BEFORE, AFTER = "before", "after"
WITHOUT, WITH = "without the fold", "with the fold"
LARGEST, MEDIAN = "largest error", "median error"
_INPUTS = 32  # of those that the quantisation is compared on


@dataclasses.dataclass(frozen=True)
class Settings:
    """How much is measured.

    Attributes:
      models: Folder that holds the trained models.
      cases: Names of those.
      networks: Names in small_networks.NETWORKS.
      modes: Of quantisation.
    """

    models: str
    cases: tuple[str, ...] = tuple(case.name for case in CASES)
    networks: tuple[str, ...] = tuple(name for name, network in small_networks.NETWORKS.items() if network.left)
    modes: tuple[str, ...] = ("float16", "int8")


def figures(settings: Settings) -> Iterator[Figure]:
    """Measure all models; one that is not there is left out with a message."""
    for case in CASES:
        if case.name not in settings.cases:
            continue
        if case.trained and not pathlib.Path(settings.models, case.name).exists():
            print(f"left out {case.name}: it is not in MODELS")
            continue
        print(f"accuracy: {case.name}", flush=True)
        yield from alone(of_case, case, settings)
    for name in settings.networks:
        print(f"accuracy: {name}", flush=True)
        yield from alone(of_network, name, settings)


def of_case(case: Case, settings: Settings) -> list[Figure]:
    """Measure a model of the table of quantisation, on the inputs that are made up there."""
    with tempfile.TemporaryDirectory() as folder:
        frozen = _one_signature(load_model(case.load(pathlib.Path(settings.models, case.name), f"{folder}/saved")))
        return _measured(case.name, frozen, case.inputs(np.random.default_rng(0)), settings, folder)


def of_network(name: str, settings: Settings) -> list[Figure]:
    """Measure a network on random inputs."""
    with tempfile.TemporaryDirectory() as folder:
        model = small_networks.made(small_networks.NETWORKS[name], None)
        small_networks.export(model, f"{folder}/saved")
        values = np.random.default_rng(2).standard_normal((2 * _INPUTS, *model.input_shape[1:]), np.float32)
        return _measured(name, _one_signature(load_model(Request(f"{folder}/saved"))), values, settings, folder)


def _one_signature(model: Model) -> Model:
    key = "serving_default" if "serving_default" in model.signatures else next(iter(model.signatures))
    return dataclasses.replace(model, signatures={key: model.signatures[key]})


def _measured(case: str, frozen: Model, values: Any, settings: Settings, folder: str) -> list[Figure]:
    folding = fold_graph(frozen.graph_def, frozen.outputs(), frozen.inputs())
    folded = frozen.with_graph(folding.graph_def)
    ((key, signature),) = frozen.signatures.items()
    ((name, info),) = signature.inputs.items()
    rows = values.reshape(-1, *[dim.size for dim in info.tensor_shape.dim][1:])
    files = [f"{folder}/calibrated.npz", f"{folder}/compared.npz"]
    for file, part in zip(files, (rows[::2], rows[1::2]), strict=True):
        np.savez(file, allow_pickle=False, **{name: part})
    found = []
    for subject, (largest, median) in errors(frozen, folded, key, {name: rows[1::2][:_INPUTS]}).items():
        found += [Figure(case, subject, LARGEST, (largest,)), Figure(case, subject, MEDIAN, (median,))]
    for mode in settings.modes:
        for subject, model in ((WITHOUT, frozen), (WITH, folded)):
            row = quantisation.measure(model, frozen, mode, files)
            samples = () if row.sqnr is None else (row.sqnr,)
            found.append(Figure(case, subject, sqnr(mode), samples, "" if samples else "nothing differs"))
    return found


def sqnr(mode: str) -> str:
    """Name the signal to quantisation noise of a mode."""
    return f"SQNR of {mode}, dB"


def errors(frozen: Model, folded: Model, key: str, inputs: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    """Return the largest and the median error of the outputs, over the largest value of each, beside float64.

    Raises:
      ImportError: If the oracle of the tests is not importable.
    """
    from oracle import to_float64

    wide = frozen.with_graph(to_float64(frozen.graph_def))
    exact = _outputs(wide, key, {name: value.astype(np.float64) for name, value in inputs.items()})
    found = {}
    for subject, model in ((BEFORE, frozen), (AFTER, folded)):
        parts = [
            (np.abs(got - wanted) / np.abs(wanted).max()).ravel()
            for got, wanted in zip(_outputs(model, key, inputs), exact, strict=True)
        ]
        every = np.concatenate(parts)
        found[subject] = (float(every.max()), float(np.median(every)))
    return found


def _outputs(model: Model, key: str, inputs: Mapping[str, Any]) -> list[Any]:
    """Run each input row by itself, as some models take no more."""
    signature = model.signatures[key]
    fetches = list(fetches_of(signature).values())
    count = len(next(iter(inputs.values())))
    with opened(model) as runner:
        runs = [
            runner.run(fetches, feeds_of(signature, {name: value[i : i + 1] for name, value in inputs.items()}))
            for i in range(count)
        ]
    return [np.stack(each) for each in zip(*runs, strict=True)]
