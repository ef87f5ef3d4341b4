"""The version, in one place: setup.py, --version and the report read it here."""

from __future__ import annotations

__version__ = "0.1.0"
