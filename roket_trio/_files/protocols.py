"""What callers may give for a file, as types: objects with a binary ``read`` or ``write``, and their async wrappers."""

from __future__ import annotations

from typing import Protocol


class BinaryReader(Protocol):
    """A file that is open for reading in binary mode: ``open(path, "rb")``, ``gzip.open(path)``..."""

    def read(self, size: int, /) -> bytes | None: ...


class BinaryWriter(Protocol):
    """A file that is open for writing in binary mode: ``open(path, "wb")``, ``gzip.open(path, "wb")``..."""

    def write(self, data: bytes, /) -> object: ...


class WrappedReader(Protocol):
    """An ``anyio.AsyncFile`` or ``trio.open_file`` wrapper of a file for reading."""

    @property
    def wrapped(self) -> BinaryReader: ...


class WrappedWriter(Protocol):
    """An ``anyio.AsyncFile`` or ``trio.open_file`` wrapper of a file for writing."""

    @property
    def wrapped(self) -> BinaryWriter: ...
