"""Outputs appear whole or not at all: they are built in a hidden work folder beside the target and renamed into place.

A work folder is `.tf_bnfold-<random>` in the folder of the target, so on the same filesystem, and only its owner may
enter it. Its run holds a lock on a file in it. A killed run leaves the folder behind, unlocked, and the next run that
writes beside it removes it.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from tf_bnfold.errors import OutputError

PREFIX = ".tf_bnfold-"
_LOCK = "lock"
_REPLACED = "replaced"


class Staging:
    """The outputs of one run, built beside their targets; leaving the context removes what was not placed.

    Files are replaced always, a folder that is not empty only with `overwrite`.
    """

    def __init__(self, *, overwrite: bool = False) -> None:
        self._overwrite = overwrite
        self._work: dict[Path, _WorkFolder] = {}
        self._staged: dict[Path, Path] = {}  # target -> where it is built

    def __enter__(self) -> Staging:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for work in self._work.values():
            work.remove()

    def stage(self, target: str) -> Path:
        """Return the path at which to build the file or folder that `place` will move to `target`."""
        final = Path(os.path.realpath(target))  # a link stays one: what it points to is replaced
        self._staged[final] = self._work_folder(final.parent).path / "new" / final.name
        return self._staged[final]

    def scratch(self, folder: str | Path) -> Path:
        """Return an empty folder inside the work folder in `folder`, for files that are no output."""
        return Path(tempfile.mkdtemp(prefix="scratch-", dir=self._work_folder(Path(os.path.realpath(folder))).path))

    def place(self) -> None:
        """Move everything that was staged to its target.

        Raises:
          OutputError: when one can't be moved; it names those that are in place already.
        """
        for target, built in self._staged.items():
            with writing(str(target)):
                _flush(built)
        placed: list[str] = []
        for target, built in self._staged.items():
            with writing(str(target), note=f"; in place already: {', '.join(placed)}" if placed else ""):
                replaced = self._work_folder(target.parent).path / _REPLACED
                _move(built, target, replaced=replaced if self._overwrite else None)
                _flush_entry(target.parent)
            placed.append(str(target))

    def _work_folder(self, folder: Path) -> _WorkFolder:
        if folder not in self._work:
            sweep(folder)
            with writing(str(folder)):
                self._work[folder] = _WorkFolder(folder)
                (self._work[folder].path / "new").mkdir()
        return self._work[folder]


@contextlib.contextmanager
def writing(path: str, *, note: str = "") -> Iterator[None]:
    """Turn an OSError of the body into an OutputError that names the path."""
    try:
        yield
    except OSError as error:
        raise OutputError(f"{path}: can't be written: {error.strerror or error}{note}") from error


def sweep(folder: str | Path) -> None:
    """Remove the work folders in `folder` whose runs are dead, and put back what such a run had moved away."""
    for path in Path(folder).glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):  # another user's, or another sweep was faster
            lock = _lock(path)
            try:
                _put_back(path / _REPLACED, Path(folder))
                shutil.rmtree(path)
            finally:
                os.close(lock)


class _WorkFolder:
    """A private folder, locked as long as this process lives."""

    _held: int | None

    def __init__(self, parent: Path) -> None:
        while True:
            self.path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))  # mode 0700
            try:
                self._held = _lock(self.path)
            except (FileNotFoundError, BlockingIOError):
                continue  # another run's sweep took it before it was locked
            except OSError:
                self._held = None  # this filesystem has no locks, so no sweep can take it either
            return

    def remove(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
        if self._held is not None:
            os.close(self._held)


def _lock(folder: Path) -> int:
    """Return a descriptor that holds the folder's lock until it is closed or the process ends.

    Raises:
      OSError: when the folder is gone, or another process holds the lock.
    """
    lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.stat(folder / _LOCK)  # whoever held the lock before may have removed the folder
    except OSError:
        os.close(lock)
        raise
    return lock


def _move(built: Path, target: Path, *, replaced: Path | None) -> None:
    """Rename `built` to `target`; a folder with contents that is there moves into the folder `replaced`, if given."""
    if replaced is None or not target.is_dir() or not os.listdir(target):
        os.rename(built, target)  # fails where a folder with contents has appeared
        return
    if _exchange(built, target):
        return
    replaced.mkdir()
    os.rename(target, replaced / target.name)
    try:
        os.rename(built, target)
    except OSError:
        _put_back(replaced, target.parent)
        raise


def _put_back(replaced: Path, folder: Path) -> None:
    for old in replaced.glob("*"):
        if not (folder / old.name).exists():
            os.rename(old, folder / old.name)


def _exchange(one: Path, other: Path) -> bool:
    """Swap two paths in one step; return whether the system could (Linux can, on most filesystems)."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    at_fdcwd, exchange = -100, 2
    if rename(at_fdcwd, os.fsencode(one), at_fdcwd, os.fsencode(other), exchange) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.EINVAL, errno.ENOSYS):
        return False
    raise OSError(code, os.strerror(code), str(other))


def _flush(path: Path) -> None:
    """Put a file, or a folder with all that is in it, onto the disk."""
    for folder, _, names in os.walk(path):
        for name in names:
            _flush_entry(Path(folder) / name)
        _flush_entry(Path(folder))
    if path.is_file():
        _flush_entry(path)


def _flush_entry(path: Path) -> None:
    entry = os.open(path, os.O_RDONLY)
    try:
        os.fsync(entry)
    finally:
        os.close(entry)
