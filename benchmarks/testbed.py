"""What the jobs share: a file to read, a place to write, receivers and senders, programs in other languages."""

from __future__ import annotations

import ctypes
import mmap
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from .endpoints.processes import Address
from .endpoints.sinks import sink
from .endpoints.sources import source
from .peers import Peers, peers

FULL = 128 << 20
"""The size of the story's own benchmarks."""


@dataclass(frozen=True)
class Testbed:
    """The files, the other ends and the programs that all jobs of a run use."""

    __test__ = False  # pytest would take it for a class of tests

    size: int
    source: str
    """A file of ``size`` bytes."""
    target: str
    """The name of a file that is not there."""
    sink: Address
    """The address of a receiver that takes one connection after the other, and counts."""
    sink_of_many: Address
    """The address of a receiver that takes any number of connections at once."""
    sender: Address
    """The address of a sender that sends as many bytes as it is asked for."""
    peers: Peers = field(compare=False, repr=False)
    """The programs in other languages."""

    def as_json(self) -> dict[str, Any]:
        """All but the programs, for another process that uses the same files and addresses."""
        return {name.name: getattr(self, name.name) for name in fields(self) if name.name != "peers"}

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Testbed:
        """The same testbed in the other process, which has no programs of other languages."""
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in document.items()
        }
        return cls(peers=Peers(ExitStack()), **values)

    def warm(self) -> None:
        """Put the source into the page cache: an idle one may have been paged out (DAMON)."""
        buffer = bytearray(1 << 20)
        with open(self.source, "rb", buffering=0) as file:
            while file.readinto(buffer):
                pass


def _resident_share(fd: int) -> float:
    """How much of a file is in the page cache, 0 to 1 (mincore(2): to ask otherwise would begin to fetch it)."""
    with mmap.mmap(fd, 0) as mapped:
        pages = (ctypes.c_ubyte * -(-len(mapped) // mmap.PAGESIZE))()
        first = ctypes.c_char.from_buffer(mapped)
        if ctypes.CDLL(None, use_errno=True).mincore(ctypes.byref(first), ctypes.c_size_t(len(mapped)), pages):
            raise OSError(ctypes.get_errno(), "mincore")
        del first  # a mapping that is exported cannot be closed
        return sum(page & 1 for page in pages) / len(pages)


@contextmanager
def cold_copy(testbed: Testbed) -> Iterator[tuple[str, float]]:
    """A copy of the source whose pages are on the disk only; yields its path and the share that is cached after all."""
    path = testbed.target + "-cold"
    try:
        shutil.copyfile(testbed.source, path)
        with open(path, "rb+", buffering=0) as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            cached = _resident_share(file.fileno())
        yield path, cached
    finally:
        os.unlink(path)


@contextmanager
def open_testbed(size: int, *, receiver: str = "discard", directory: str | None = None) -> Iterator[Testbed]:
    """Make the files and start the processes; nothing is left of them after the block.

    :param receiver: how the receiver takes what comes, see :mod:`benchmarks.endpoints.sinks`
    :param directory: where to put the files; the directory of temporary files, unless it is given
    """
    with (
        tempfile.TemporaryDirectory(prefix="roket-benchmarks-", dir=directory) as place,
        sink(receiver) as one_by_one,
        sink("many") as all_at_once,
        source() as sender,
        peers() as others,
    ):
        file_to_send = Path(place, "source")
        with file_to_send.open("wb") as file:
            for start in range(0, size, 1 << 20):
                file.write(os.urandom(min(1 << 20, size - start)))
        target = os.path.join(place, "target")
        yield Testbed(size, os.fspath(file_to_send), target, one_by_one, all_at_once, sender, others)
