"""What callers call a file: found behind its wrappers, or refused."""

from __future__ import annotations

import bz2
import gzip
import io
import os
import pty
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
import trio

from roket_trio._files.descriptor import OpaqueFileError, open_file
from roket_trio._kernel.fd import FileKind


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "f").write_bytes(b"0123456789")
    return tmp_path / "f"


@pytest.mark.parametrize("buffering", [0, -1])
@pytest.mark.parametrize("mode", ["rb", "r+b"])
def test_a_binary_file(path: Path, mode: str, buffering: int) -> None:
    with open(path, mode, buffering=buffering) as file:
        file.read(3)
        opened = open_file(file, writable=False)
        assert opened.fd == file.fileno()
        assert opened.name == str(path)
        assert opened.kind is FileKind.REGULAR
        assert opened.size == 10
        assert not opened.append
        assert not opened.direct
        assert not opened.nonblocking
        assert opened.position() == 3
        assert opened.settle() == 3 == file.tell()
        opened.seek(5)
        assert file.read(1) == b"5"


def test_settling_drops_what_was_read_ahead_and_writes_what_was_held(path: Path) -> None:
    with open(path, "r+b") as file:
        assert file.read(2) == b"01"
        opened = open_file(file, writable=True)
        file.write(b"ab")
        assert opened.settle() == 4
        assert path.read_bytes() == b"01ab456789"
        os.write(opened.fd, b"cd")
        assert file.tell() == 6
        assert file.read() == b"6789"


def test_a_descriptor(path: Path) -> None:
    fd = os.open(path, os.O_RDWR | os.O_APPEND)
    try:
        opened = open_file(fd, writable=True)
        assert opened.append
        assert opened.name == f"descriptor {fd}"
        opened.seek(4)
        assert opened.position() == opened.settle() == 4
    finally:
        os.close(fd)
    with pytest.raises(OSError, match="Bad file descriptor"):
        open_file(fd, writable=True)
    with pytest.raises(ValueError, match="negative"):
        open_file(-1, writable=True)


def test_behind_anyios_and_trios_wrappers(path: Path) -> None:
    async def with_trio() -> None:
        async with await trio.open_file(path, "rb") as file:
            assert open_file(file, writable=False).fd == file.fileno()

    async def with_anyio() -> None:
        async with await anyio.open_file(path, "rb") as file:
            assert open_file(file, writable=False).owner is file.wrapped

    trio.run(with_trio)
    anyio.run(with_anyio, backend="trio")


def test_a_named_temporary_file() -> None:
    with tempfile.NamedTemporaryFile() as file:
        file.write(b"held")
        assert open_file(file, writable=True).size == 4


class Own(io.FileIO):
    """A user's class, which may do anything to the bytes."""


@pytest.mark.parametrize(
    "make", [io.BytesIO, lambda: Own(os.devnull), tempfile.SpooledTemporaryFile], ids=["memory", "own", "spooled"]
)
def test_objects_whose_bytes_are_not_their_descriptors_are_refused(make: Callable[[], Any]) -> None:
    with make() as file, pytest.raises(OpaqueFileError):
        open_file(file, writable=False)


@pytest.mark.parametrize("opener", [gzip.open, bz2.open])
def test_compressed_files_are_refused(tmp_path: Path, opener: Callable[..., Any]) -> None:
    with opener(tmp_path / "z", "wb") as file:
        assert file.fileno() >= 0
        with pytest.raises(TypeError):
            open_file(file, writable=True)


@pytest.mark.parametrize("thing", [None, True, "path", b"path", 1.5, object()])
def test_what_is_no_file_is_refused(thing: object) -> None:
    with pytest.raises(TypeError):
        open_file(thing, writable=False)


@pytest.mark.parametrize("path", ["a/b", Path("a/b"), anyio.Path("a/b")])
def test_a_path_is_refused_with_what_to_do(path: object) -> None:
    with pytest.raises(TypeError, match=re.escape("not a path; open it first: open('a/b', 'rb')")):
        open_file(path, writable=False)
    with pytest.raises(TypeError, match=re.escape("not a path; open it first: open('a/b', 'wb')")):
        open_file(path, writable=True)


def test_the_wrong_way_of_opening_is_refused(path: Path, tmp_path: Path) -> None:
    with open(path, "rb") as file, pytest.raises(ValueError, match="open for reading only"):
        open_file(file, writable=True)
    with open(path, "ab") as sink, pytest.raises(ValueError, match="open for writing only"):
        open_file(sink, writable=False)
    with pytest.raises(ValueError, match="closed"):
        open_file(file, writable=True)
    with open(path) as text, pytest.raises(TypeError, match="text mode"):
        open_file(text, writable=False)
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        with pytest.raises(IsADirectoryError):
            open_file(fd, writable=False)
    finally:
        os.close(fd)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("/dev/zero", FileKind.OTHER),
        ("/dev/null", FileKind.OTHER),
        ("/dev/random", FileKind.STREAM),
        ("/proc/self/status", FileKind.REGULAR),
    ],
)
def test_kinds_of_files(name: str, kind: FileKind) -> None:
    if not os.path.exists(name):
        pytest.skip(f"there is no {name}")
    with open(name, "rb", buffering=0) as file:
        assert open_file(file, writable=False).kind is kind


def test_pipes_and_terminals_are_streams() -> None:
    for reader, writer in (os.pipe(), pty.openpty()):
        try:
            assert open_file(reader, writable=False).kind is FileKind.STREAM
            assert open_file(writer, writable=True).kind is FileKind.STREAM
            os.set_blocking(reader, False)
            assert open_file(reader, writable=False).nonblocking
        finally:
            os.close(reader)
            os.close(writer)
