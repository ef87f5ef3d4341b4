"""Let a child process end with its parent, however that ends."""

from __future__ import annotations

import ctypes
import os
import signal
import sys


def end_with_parent(parent: int) -> None:
    """Ask Linux to kill this process when its parent dies, and end it if that has happened already.

    Args:
      parent: Process id of the parent.
    """
    if sys.platform == "linux":
        set_parent_death_signal = 1
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
