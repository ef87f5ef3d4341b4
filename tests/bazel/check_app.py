"""The app has the .tflite as an asset: check_app.py ZIP TFLITE."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

app, tflite = sys.argv[1:]
with zipfile.ZipFile(app) as archive:
    content = archive.read("assets/shapes.tflite")
assert content[4:8] == b"TFL3"
assert content == Path(tflite).read_bytes()
