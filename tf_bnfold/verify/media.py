"""Files as strings, for models that begin with decoding one: random sound and a random picture."""

from __future__ import annotations

import io
import struct
import wave
import zlib

import numpy as np

_RATE = 16_000  # samples a second, of which there is one
_SIDE = 64  # pixels


def random_wav(scale: float, random: np.random.Generator) -> bytes:
    """Return a second of mono noise as a WAV file; at scale 1 it is a tenth as loud as can be."""
    samples = np.clip(scale * random.normal(0, 3277, _RATE), -32768, 32767).astype("<i2")
    with io.BytesIO() as file:
        with wave.open(file, "wb") as sound:
            sound.setnchannels(1)
            sound.setsampwidth(2)
            sound.setframerate(_RATE)
            sound.writeframes(samples.tobytes())
        return file.getvalue()


def random_png(random: np.random.Generator) -> bytes:
    """Return a picture in RGB as a PNG file, which TensorFlow's ops for JPEG decode too.

    Source: https://www.w3.org/TR/png
    """
    pixels = random.integers(0, 256, (_SIDE, _SIDE * 3), dtype=np.uint8)
    rows = np.concatenate([np.zeros((_SIDE, 1), np.uint8), pixels], axis=1)  # each begins with its filter: none
    header = struct.pack(">IIBBBBB", _SIDE, _SIDE, 8, 2, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes())), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(map(_chunk, *zip(*parts, strict=True)))


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
