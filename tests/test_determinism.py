"""The same command gives the same bytes, whatever the hash seed of Python is and whatever the process did before."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import bad_models
import pytest
import saved_models

FILES = {"tflite": "out.tflite", "output_saved_model": "out", "output_graph": "out.pb", "report": "report.json"}

# Each command line in a process where TensorFlow is loaded once.
RUN = """
import json, sys
import in_process
from tf_bnfold import cli

cli.runner.run = in_process.run
sys.exit(max(cli.main(["tf_bnfold", *line]) for line in json.loads(sys.argv[1])))
"""


def outputs(folder: Path, hash_seed: str, sources: list[str]) -> dict[str, bytes]:
    lines = []
    for source in sources:
        place = folder / Path(source).name
        place.mkdir(parents=True)
        lines.append([source, *(f"--{flag}={place / name}" for flag, name in FILES.items())])
    tests = Path(__file__).parent
    paths = os.pathsep.join([str(tests), str(tests.parent)])
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": paths}
    command = [sys.executable, "-c", RUN, json.dumps(lines)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    for name, content in found.items():
        if name.endswith(".json"):  # the rest of a report is about the run: times, paths
            found[name] = json.dumps(json.loads(content)["result"]).encode()
    return found


@pytest.fixture(scope="module")
def both(keras_saved_model, tmp_path_factory) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """What is made of several models with two hash seeds, once in this order and once in the other."""
    folder = tmp_path_factory.mktemp("determinism")
    (folder / "frozen.pb").write_bytes(bad_models.frozen_model().SerializeToString())
    saved_models.two_signatures(str(folder / "functions"))
    sources = [
        f"--saved_model={keras_saved_model}",
        f"--saved_model={folder / 'functions'}",
        f"--frozen_graph={folder / 'frozen.pb'}",
    ]
    return outputs(folder / "one", "1", sources), outputs(folder / "other", "4321", sources[::-1])


@pytest.mark.parametrize("model", ["saved_model", "functions", "frozen.pb"])
def test_two_runs_give_the_same_bytes(both, model):
    one, other = ({name: made[name] for name in made if name.startswith(f"{model}/")} for made in both)
    assert one.keys() == other.keys() >= {f"{model}/{name}" for name in ("out.tflite", "out.pb", "report.json")}
    assert f"{model}/out/saved_model.pb" in one
    assert [name for name in one if one[name] != other[name]] == []
