"""docs/errors.md, row by row: what is given, what the command says, its exit code, and that nothing is left or changed.

The document holds messages and exit codes, tests/bad_inputs.py and tests/bad_models.py how each fault is made. All runs
are in this process; tests/test_cli.py shows that the child makes no difference.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
import resource
import time
from pathlib import Path

import bad_inputs
import bad_keras
import bad_models
import in_process
import pytest
from bad_inputs import Place

from tf_bnfold import cli, errors

DOCUMENT = Path(__file__).parents[1] / "docs" / "errors.md"
DONE = "(done)"


@dataclasses.dataclass(frozen=True)
class Row:
    given: str
    says: str
    exit_code: int


def rows() -> list[Row]:
    found = re.findall(r"^\| (.+?) \| (.+?) \| (\d+) \|$", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE)
    return [Row(given, says.strip("`").replace("\\|", "|"), int(code)) for given, says, code in found]


TABLES = (
    bad_inputs.FLAGS,
    bad_inputs.PATHS,
    bad_inputs.SAVED_MODEL,
    bad_inputs.DATA,
    bad_inputs.OUTPUTS,
    bad_keras.KERAS,
)
SIMPLE = {given: make for table in TABLES for given, make in table.items()}


def limits() -> tuple[float, int]:
    """Return the seconds and MB that the document promises."""
    seconds, megabytes = re.search(r"within (\d+) seconds and (\d+) MB", DOCUMENT.read_text(encoding="utf-8")).groups()
    return float(seconds), int(megabytes)


def test_every_row_is_a_test_and_every_test_a_row():
    there = [row.given for row in rows()]
    assert len(there) == len(set(there))
    assert set(there) == {*SIMPLE, *bad_inputs.WORLDS, *bad_models.IN_GRAPH}


def test_every_exit_code_is_that_of_an_error():
    classes = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, Exception)]
    assert {row.exit_code for row in rows()} <= {0, *(each.exit_code for each in classes)} - {70}


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "model"
    bad_models.save_model(folder)
    return folder


@pytest.fixture
def place(model, tmp_path_factory, monkeypatch) -> Place:
    monkeypatch.chdir(tmp_path_factory.mktemp("place"))
    return Place(model)


@pytest.fixture
def command(monkeypatch, capsys):
    """Run a command line; return its exit code and what it says behind "tf_bnfold: error: "."""
    monkeypatch.setattr(cli.runner, "run", in_process.run)

    def run(args, world=contextlib.nullcontext):
        with world():
            code = cli.main(["tf_bnfold", *map(str, args)])
        err = capsys.readouterr().err
        assert code == 0 or re.fullmatch(r"tf_bnfold: error: .+\n", err), err
        assert "Traceback" not in err
        assert err.rstrip("\n").isprintable()
        return code, err.removeprefix("tf_bnfold: error: ").rstrip("\n")

    return run


def contents(folder: Path) -> dict[str, bytes | None]:
    return {str(path): path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}


def memory() -> float:
    """The most memory that this process has had, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def check(row: Row, args, command, world=contextlib.nullcontext) -> None:
    before = contents(Path())
    started, used = time.monotonic(), memory()
    code, said = command(args, world)
    seconds, megabytes = limits()
    assert time.monotonic() - started < seconds
    assert memory() - used < megabytes
    assert code == row.exit_code, said
    if row.says != DONE:
        assert re.fullmatch(".*".join(map(re.escape, row.says.split("..."))), said), said
        assert contents(Path()) == before


def only(table) -> list:
    return [pytest.param(row, id=row.given) for row in rows() if row.given in table]


@pytest.fixture(scope="module", autouse=True)
def warm(model, tmp_path_factory):
    """Load TensorFlow and its converter, which no row is to pay for."""
    from tf_bnfold import pipeline
    from tf_bnfold.options import Request

    pipeline.run(Request(str(model), tflite=str(tmp_path_factory.mktemp("warm") / "out.tflite")))


@pytest.mark.parametrize("row", only(SIMPLE))
def test_row(row, place, command):
    check(row, SIMPLE[row.given](place), command)


@pytest.mark.parametrize("row", only(bad_inputs.WORLDS))
def test_row_in_another_world(row, place, command):
    make, world = bad_inputs.WORLDS[row.given]
    check(row, make(place), command, world)


def _is_long(param) -> bool:
    return "100,000" in param.id


@pytest.mark.parametrize("row", [param for param in only(bad_models.IN_GRAPH) if not _is_long(param)])
@pytest.mark.parametrize("source", ["SavedModel", "frozen graph"])
def test_row_of_a_graph(row, source, place, command):
    check_graph(row, source, place, command)


@pytest.mark.slow
@pytest.mark.parametrize("row", [param for param in only(bad_models.IN_GRAPH) if _is_long(param)])
@pytest.mark.parametrize("source", ["SavedModel", "frozen graph"])
def test_row_of_a_long_graph(row, source, place, command):
    check_graph(row, source, place, command)


def check_graph(row, source, place, command):
    edit, flags = bad_models.IN_GRAPH[row.given], bad_models.FLAGS.get(row.given, ())
    if source == "SavedModel":
        args = place.edited(lambda meta_graph: edit(meta_graph.graph_def), *flags)
    else:
        graph_def = bad_models.frozen_model()
        edit(graph_def)
        place.graph.write_bytes(graph_def.SerializeToString())
        args = place.args(*flags, frozen_graph=place.graph)
    check(row, args, command)
    assert not Path("written").exists()


@pytest.mark.parametrize("source", ["saved_model.pb", "variables.index", "variables.data-00000-of-00001", "graph.pb"])
def test_a_file_that_is_cut_off_anywhere_is_an_error(source, place, command):
    file = next(Path().rglob(source))
    whole = file.read_bytes()
    args = place.args("--dry_run", **({"frozen_graph": file} if source == "graph.pb" else {}))
    for cut in range(0, len(whole), max(len(whole) // 40, 1)):
        file.write_bytes(whole[:cut])
        # A GraphDef that is cut off between two nodes is a smaller GraphDef.
        assert command(args)[0] in ((0, 1, 2) if source == "graph.pb" else (1, 2)), cut
    file.write_bytes(whole)
    assert command(args)[0] == 0
