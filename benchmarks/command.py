"""The command beside the stock converter on the same SavedModel: time and memory of whole processes, and by step."""

from __future__ import annotations

import dataclasses
import functools
import json
import pathlib
import sys
import tempfile
from collections.abc import Iterator

import keras

from benchmarks.measuring import Figure, alone, interleaved, run

SECONDS, CPU_SECONDS, PEAK = "seconds", "CPU seconds", "peak MB"
STOCK, UNVERIFIED, VERIFIED = "stock converter", "tf_bnfold --noverify", "tf_bnfold"
STEP = "seconds of step "
KEYWORD_SPOTTER = "kws_ds_cnn"

_ROOT = pathlib.Path(__file__).parents[1]


@dataclasses.dataclass(frozen=True)
class Settings:
    """How much is measured.

    Attributes:
      models: Folder that holds the keyword spotter.
      applications: Models of keras.applications.
      rounds: Runs of each.
      once_above: What takes more seconds than this is run once.
    """

    models: str
    applications: tuple[str, ...] = ("MobileNetV2", "ResNet152", "NASNetLarge")
    rounds: int = 5
    once_above: float = 60.0


def export(name: str, folder: str) -> None:
    """Export a model of keras.applications with random weights, so that there is nothing to download."""
    keras.utils.set_random_seed(0)
    getattr(keras.applications, name)(weights=None).export(folder, verbose=False)


def figures(settings: Settings) -> Iterator[Figure]:
    """Measure all models; one that is not there is left out with a message."""
    spotter = pathlib.Path(settings.models, KEYWORD_SPOTTER)
    if spotter.is_dir():
        yield from measure(spotter.name, str(spotter), settings)
    else:
        print(f"left out {KEYWORD_SPOTTER}: it is not in MODELS")
    for name in settings.applications:
        with tempfile.TemporaryDirectory() as folder:
            alone(export, name, folder)
            yield from measure(name, folder, settings)


def measure(case: str, saved_model: str, settings: Settings) -> list[Figure]:
    """Measure the commands on one SavedModel."""
    print(f"command: {case}", flush=True)
    ended: dict[str, list[tuple[float, float]]] = {}
    steps: dict[str, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        tflite, report = f"{folder}/model.tflite", pathlib.Path(folder, "report.json")
        ours = [sys.executable, "-m", "tf_bnfold", "--saved_model", saved_model, "--tflite", tflite]
        ours += ["--report", str(report)]
        commands = {
            STOCK: [sys.executable, str(_ROOT / "benchmarks" / "stock.py"), saved_model, tflite],
            UNVERIFIED: [*ours, "--noverify"],
            VERIFIED: ours,
        }

        def once(name: str) -> float:
            result = run(commands[name], {"PYTHONPATH": str(_ROOT)})
            ended.setdefault(name, []).append((result.cpu_seconds, result.peak_mb))
            if name != STOCK:
                for step, seconds in json.loads(report.read_text(encoding="utf-8"))["run"]["seconds"].items():
                    steps.setdefault(name, {}).setdefault(step, []).append(seconds)
            return result.seconds

        actions = {name: functools.partial(once, name) for name in commands}
        found = interleaved(actions, settings.rounds, settings.once_above)
    figures = [Figure(case, name, SECONDS, samples) for name, samples in found.items()]
    for place, quantity in enumerate((CPU_SECONDS, PEAK)):
        figures += [Figure(case, name, quantity, tuple(each[place] for each in all_)) for name, all_ in ended.items()]
    return figures + [
        Figure(case, step, f"{STEP}{name}", tuple(samples))
        for name, by_step in steps.items()
        for step, samples in by_step.items()
    ]
