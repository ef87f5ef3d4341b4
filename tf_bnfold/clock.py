"""Which step a run is in, how far it is, and how long each took."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator


def _ignore(*_: object) -> None:
    pass


class Clock:
    """Times the steps of a run, and tells listeners when one begins and how far it is.

    Attributes:
      seconds: Time by step, in order of their first start.
    """

    def __init__(
        self, on_step: Callable[[str], None] = _ignore, on_progress: Callable[[int, int | None], None] = _ignore
    ) -> None:
        self._on_step = on_step
        self._on_progress = on_progress
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time the body as the step `name`."""
        self._on_step(name)
        started = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - started

    def progress(self, done: int, of: int | None) -> None:
        """Tell how far the step is, and where it ends if that is known."""
        self._on_progress(done, of)
