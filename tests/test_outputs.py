"""Outputs appear whole or not at all."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tf_bnfold import outputs
from tf_bnfold.errors import OutputError
from tf_bnfold.outputs import PREFIX, Staging, sweep, writing


def work_folders(folder: Path) -> list[Path]:
    return list(folder.glob(f"{PREFIX}*"))


def make_folder(path: Path, text: str) -> None:
    (path / "variables").mkdir(parents=True)
    (path / "saved_model.pb").write_text(text)
    (path / "variables" / "index").write_text(text)


def place_file(target: Path, data: bytes) -> None:
    with Staging() as staging:
        staging.stage(str(target)).write_bytes(data)
        staging.place()


def place_folder(target: Path, text: str, *, overwrite: bool) -> None:
    with Staging(overwrite=overwrite) as staging:
        make_folder(staging.stage(str(target)), text)
        staging.place()


def test_nothing_is_at_the_target_before_place_and_all_of_it_after(tmp_path):
    file, folder = tmp_path / "a.tflite", tmp_path / "sub" / "model"
    folder.parent.mkdir()
    with Staging() as staging:
        staging.stage(str(file)).write_bytes(b"new")
        make_folder(staging.stage(str(folder)), "new")
        assert not file.exists()
        assert not folder.exists()
        (work,) = work_folders(tmp_path)
        assert stat.S_IMODE(work.stat().st_mode) == 0o700
        staging.place()
    assert file.read_bytes() == b"new"
    assert (folder / "variables" / "index").read_text() == "new"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tflite", "sub"]
    assert work_folders(folder.parent) == []


def test_an_error_leaves_the_old_bytes_and_no_work_folder(tmp_path):
    target = tmp_path / "a.tflite"
    target.write_bytes(b"old")
    with pytest.raises(ZeroDivisionError), Staging() as staging:  # noqa: PT012 the error comes after work was done
        staging.stage(str(target)).write_bytes(b"half")
        raise ZeroDivisionError
    assert target.read_bytes() == b"old"
    assert work_folders(tmp_path) == []


def test_outputs_have_the_permissions_that_any_new_file_has(tmp_path):
    target, plain = tmp_path / "a.tflite", tmp_path / "plain"
    plain.write_bytes(b"")
    place_file(target, b"new")
    assert target.stat().st_mode == plain.stat().st_mode


def test_a_link_stays_and_what_it_points_to_is_replaced(tmp_path):
    (tmp_path / "real").mkdir()
    target, link = tmp_path / "real" / "a.tflite", tmp_path / "a.tflite"
    target.write_bytes(b"old")
    link.symlink_to(target)
    place_file(link, b"new")
    assert link.is_symlink()
    assert target.read_bytes() == b"new"


def no_exchange(monkeypatch) -> None:
    """Let the C library have no renameat2, as that of macOS has none."""
    monkeypatch.setattr(outputs.ctypes, "CDLL", lambda *_, **__: object())


@pytest.mark.parametrize("exchange", [True, False], ids=["exchange", "two renames"])
def test_overwrite_replaces_the_whole_folder(tmp_path, monkeypatch, exchange):
    if not exchange:
        no_exchange(monkeypatch)
    target = tmp_path / "model"
    make_folder(target, "old")
    (target / "only in the old one").write_text("")
    place_folder(target, "new", overwrite=True)
    assert (target / "saved_model.pb").read_text() == "new"
    assert not (target / "only in the old one").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_two_renames_put_the_old_folder_back_when_the_second_fails(tmp_path, monkeypatch):
    target = tmp_path / "model"
    make_folder(target, "old")
    rename = os.rename

    def failing(source, to):
        if Path(to) == target and "new" in Path(source).parts:
            raise OSError(errno.ENOSPC, "No space left on device")
        rename(source, to)

    no_exchange(monkeypatch)
    monkeypatch.setattr(os, "rename", failing)
    with pytest.raises(OutputError, match="No space left"):
        place_folder(target, "new", overwrite=True)
    assert (target / "saved_model.pb").read_text() == "old"


@pytest.mark.parametrize("code", [errno.EINVAL, errno.EACCES])
def test_an_exchange_that_fails_is_two_renames_where_it_is_unknown(tmp_path, monkeypatch, code):
    class Library:
        def renameat2(self, *_):
            outputs.ctypes.set_errno(code)
            return -1

    monkeypatch.setattr(outputs.ctypes, "CDLL", lambda *_, **__: Library())
    target = tmp_path / "model"
    make_folder(target, "old")
    if code == errno.EINVAL:
        place_folder(target, "new", overwrite=True)
    else:
        with pytest.raises(OutputError, match="model: can't be written: Permission denied"):
            place_folder(target, "new", overwrite=True)
    assert (target / "saved_model.pb").read_text() == ("new" if code == errno.EINVAL else "old")


def test_a_folder_that_appears_during_the_run_is_not_replaced_without_overwrite(tmp_path):
    target = tmp_path / "model"
    with Staging() as staging:
        make_folder(staging.stage(str(target)), "new")
        make_folder(target, "of another run")
        with pytest.raises(OutputError, match="model: can't be written: Directory not empty"):
            staging.place()
    assert (target / "saved_model.pb").read_text() == "of another run"


def test_the_error_names_what_is_in_place_already(tmp_path):
    first, second = tmp_path / "a.tflite", tmp_path / "b.tflite"
    with Staging() as staging:
        staging.stage(str(first)).write_bytes(b"new")
        staging.stage(str(second)).write_bytes(b"new")
        second.mkdir()  # a file can't be renamed to a folder
        with pytest.raises(OutputError, match=r"b\.tflite: can't be written: .*; in place already: .*a\.tflite"):
            staging.place()


def test_writing_names_the_path():
    with pytest.raises(OutputError, match="out: can't be written: No space left on device"), writing("out"):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_sweep_leaves_the_work_folder_of_a_live_run(tmp_path):
    with Staging() as staging:
        built = staging.stage(str(tmp_path / "a.tflite"))
        built.write_bytes(b"new")
        sweep(tmp_path)
        assert built.read_bytes() == b"new"


def test_scratch_is_empty_and_goes_away(tmp_path):
    with Staging() as staging:
        one, other = staging.scratch(tmp_path), staging.scratch(tmp_path)
        assert one != other
        assert list(one.iterdir()) == []
    assert list(tmp_path.iterdir()) == []


def test_without_file_locks_it_works_and_nothing_is_swept(tmp_path, monkeypatch):
    def flock(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(outputs.fcntl, "flock", flock)
    abandoned = tmp_path / f"{PREFIX}x"
    abandoned.mkdir()
    place_file(tmp_path / "a.tflite", b"new")
    assert (tmp_path / "a.tflite").read_bytes() == b"new"
    assert work_folders(tmp_path) == [abandoned]


def test_a_run_whose_work_folder_was_swept_before_its_lock_takes_another(tmp_path, monkeypatch):
    lock, swept = outputs._lock, []

    def late(folder):
        if not swept:
            swept.append(folder)
            folder.rmdir()
        return lock(folder)

    monkeypatch.setattr(outputs, "_lock", late)
    place_file(tmp_path / "a.tflite", b"new")
    assert swept
    assert [path.name for path in tmp_path.iterdir()] == ["a.tflite"]


HALF_WAY = """
import sys, time
from tf_bnfold.outputs import Staging
with Staging() as staging:
    staging.stage(sys.argv[1]).write_bytes(b"half")
    print("built", flush=True)
    time.sleep(60)
"""


def test_a_killed_run_leaves_the_old_bytes_and_one_folder_that_the_next_run_removes(tmp_path):
    target = tmp_path / "a.tflite"
    target.write_bytes(b"old")
    with subprocess.Popen([sys.executable, "-c", HALF_WAY, target], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "built\n"
        sweep(tmp_path)
        assert len(work_folders(tmp_path)) == 1  # it lives
        process.send_signal(signal.SIGKILL)
    assert target.read_bytes() == b"old"
    assert len(work_folders(tmp_path)) == 1
    place_file(target, b"new")
    assert target.read_bytes() == b"new"
    assert work_folders(tmp_path) == []


def test_sweep_puts_back_what_a_run_killed_between_two_renames_had_moved_away(tmp_path):
    make_folder(tmp_path / f"{PREFIX}dead" / "replaced" / "model", "old")
    sweep(tmp_path)
    assert (tmp_path / "model" / "saved_model.pb").read_text() == "old"
    assert work_folders(tmp_path) == []


def test_runs_at_once_leave_a_complete_file_at_every_moment(tmp_path):
    target = tmp_path / "a.tflite"
    versions = [bytes([65 + i]) * 100_000 for i in range(4)]
    place_file(target, versions[0])
    seen = set()

    def writer(data):
        for _ in range(20):
            place_file(target, data)

    threads = [threading.Thread(target=writer, args=(data,)) for data in versions]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        seen.add(target.read_bytes())
    for thread in threads:
        thread.join()
    assert seen <= set(versions)
    assert target.read_bytes() in versions
    assert work_folders(tmp_path) == []
