"""Data in which no byte looks like its neighbours, so that a shift by any distance shows."""

from __future__ import annotations

import struct

MIB = 1 << 20

PATTERN = b"".join(struct.pack(">I", n * 2654435761 % (1 << 32)) for n in range(1 << 18))


def pattern(size: int) -> bytes:
    return (PATTERN * (size // len(PATTERN) + 1))[:size]


DATA = pattern(700_001)
