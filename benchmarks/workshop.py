"""What the jobs share: a file to read, a place to write, someone to send to."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from . import sinks

FULL = 128 << 20
"""The size of the story's own benchmarks."""


@dataclass(frozen=True)
class Workshop:
    """One for a whole run."""

    size: int
    source: str
    """A file of ``size`` bytes."""
    target: str
    """The name of a file that is not there."""
    sink: tuple[str, int]

    def warm(self) -> None:
        """Put the source into the page cache: an idle one may have been paged out (DAMON)."""
        buffer = bytearray(1 << 20)
        with open(self.source, "rb", buffering=0) as file:
            while file.readinto(buffer):
                pass


@contextmanager
def workshop(size: int, *, sink: str = "discard", directory: str | None = None) -> Iterator[Workshop]:
    """Open one; nothing is left of it afterwards.

    :param sink: how the receiver takes what comes, see :mod:`benchmarks.sinks`
    :param directory: where the files are; otherwise where temporary files are kept
    """
    with (
        tempfile.TemporaryDirectory(prefix="roket-benchmarks-", dir=directory) as place,
        sinks.running(sink) as address,
    ):
        source = Path(place, "source")
        with source.open("wb") as file:
            for start in range(0, size, 1 << 20):
                file.write(os.urandom(min(1 << 20, size - start)))
        yield Workshop(size, os.fspath(source), os.path.join(place, "target"), address)
