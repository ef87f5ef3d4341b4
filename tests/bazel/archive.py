"""Put files into the folder assets of a .zip, as an .apk has them: archive.py ZIP FILE..."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

target, *files = sys.argv[1:]
with zipfile.ZipFile(target, "w") as archive:
    for file in files:
        archive.write(file, f"assets/{Path(file).name}")
