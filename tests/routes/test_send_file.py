"""``send_file``: any file, any part of it, by either route; the peer gets exactly what is reported, or RST."""

from __future__ import annotations

import gzip
import io
import os
import socket
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import anyio
import pytest
import trio
from support.loops import Run
from support.patterns import DATA, MIB
from support.sent_files import Spy, _file_of
from support.sockets import Pair, read_exactly, read_to_end
from support.streams import stream_over
from support.threads import thread
from support.waiting import BOUND

from roket_trio import (
    FileReadStream,
)
from roket_trio._kernel import page_cache, sendfile

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="sendfile, /proc and RST on demand as Linux has them")


# --- the routes -------------------------------------------------------------------------------------------------------


# --- every kind of source ---------------------------------------------------------------------------------------------


Source = tuple[Any, bytes, Callable[[], bool]]


def _fileio(stack: ExitStack, tmp_path: Path) -> Source:
    file = stack.enter_context(open(_file_of(tmp_path), "rb", buffering=0))
    file.seek(77)
    return file, DATA, lambda: file.tell() == 77 and file.read(9) == DATA[77:86]


def _buffered_reader_in_the_middle(stack: ExitStack, tmp_path: Path) -> Source:
    file = stack.enter_context(open(_file_of(tmp_path), "rb"))
    assert file.read(10) == DATA[:10]
    return file, DATA, lambda: file.tell() == 10 and file.read(20_000) == DATA[10:20_010]


def _buffered_file_with_unwritten_bytes(stack: ExitStack, tmp_path: Path) -> Source:
    file = stack.enter_context(open(tmp_path / "source", "w+b", buffering=MIB))
    file.write(DATA)
    assert os.fstat(file.fileno()).st_size == 0, "the buffer is too small for this test"
    return file, DATA, lambda: file.tell() == len(DATA)


def _descriptor(stack: ExitStack, tmp_path: Path) -> Source:
    fd = os.open(_file_of(tmp_path), os.O_RDONLY)
    stack.callback(os.close, fd)
    os.lseek(fd, 5, os.SEEK_SET)
    return fd, DATA, lambda: os.lseek(fd, 0, os.SEEK_CUR) == 5


def _anyio_file(stack: ExitStack, tmp_path: Path) -> Source:
    file = stack.enter_context(open(_file_of(tmp_path), "rb"))
    file.seek(3)
    return anyio.AsyncFile(file), DATA, lambda: file.tell() == 3


def _trio_file(stack: ExitStack, tmp_path: Path) -> Source:
    file = stack.enter_context(open(_file_of(tmp_path), "rb"))
    file.seek(3)
    return trio.wrap_file(file), DATA, lambda: file.tell() == 3


def _memory(stack: ExitStack, tmp_path: Path) -> Source:
    file = io.BytesIO(DATA)
    file.seek(4)
    return file, DATA, lambda: file.tell() == 4


def _gzip(stack: ExitStack, tmp_path: Path) -> Source:
    path = tmp_path / "source.gz"
    path.write_bytes(gzip.compress(DATA, 1))
    file = stack.enter_context(gzip.open(path))
    file.seek(1000)
    return file, DATA, lambda: file.tell() == 1000 and file.read(9) == DATA[1000:1009]


def _named_temporary(stack: ExitStack, tmp_path: Path) -> Source:
    file = stack.enter_context(tempfile.NamedTemporaryFile(dir=tmp_path))
    file.write(DATA)
    return file, DATA, lambda: file.tell() == len(DATA)


def _spooled_in_memory(stack: ExitStack, tmp_path: Path) -> Source:
    file = stack.enter_context(tempfile.SpooledTemporaryFile(2 * MIB, dir=os.fspath(tmp_path)))
    file.write(DATA)
    return file, DATA, lambda: file.tell() == len(DATA)


def _spooled_on_disk(stack: ExitStack, tmp_path: Path) -> Source:
    file = stack.enter_context(tempfile.SpooledTemporaryFile(10, dir=os.fspath(tmp_path)))
    file.write(DATA)
    return file, DATA, lambda: file.tell() == len(DATA)


def _tmpfs(stack: ExitStack, tmp_path: Path) -> Source:
    file = stack.enter_context(tempfile.NamedTemporaryFile(dir="/dev/shm"))
    file.write(DATA)
    assert not page_cache.can_tell(file.fileno()), "tmpfs has learnt to tell what is cached: think again"
    return file, DATA, lambda: file.tell() == len(DATA)


def _generated(stack: ExitStack, tmp_path: Path) -> Source:
    """A "regular" file of size 0 that has bytes."""
    file = stack.enter_context(open("/proc/filesystems", "rb", buffering=0))
    expected = file.read()
    assert expected
    assert os.fstat(file.fileno()).st_size == 0
    file.seek(2)
    return file, expected, lambda: file.tell() == 2


def _empty(stack: ExitStack, tmp_path: Path) -> Source:
    return stack.enter_context(open(_file_of(tmp_path, b""), "rb")), b"", lambda: True


# Which route each kind takes; None: there is nothing to move.
SOURCES: list[tuple[Callable[[ExitStack, Path], Source], str | None]] = [
    (_fileio, "sendfile"),
    (_buffered_reader_in_the_middle, "sendfile"),
    (_buffered_file_with_unwritten_bytes, "sendfile"),
    (_descriptor, "sendfile"),
    (_anyio_file, "sendfile"),
    (_trio_file, "sendfile"),
    (_named_temporary, "sendfile"),
    (_tmpfs, "sendfile"),
    (_memory, "read-send"),
    (_gzip, "read-send"),
    (_spooled_in_memory, "read-send"),
    (_spooled_on_disk, "read-send"),
    (_generated, "read-send"),
    (_empty, None),
]

CASES = [(make, is_on) for make, takes in SOURCES for is_on in ((True, False) if takes == "sendfile" else (True,))]
TAKES = dict(SOURCES)


@pytest.mark.parametrize(
    ("make", "is_on"), CASES, ids=[f"{make.__name__[1:]}-{'on' if is_on else 'off'}" for make, is_on in CASES]
)
async def test_every_kind_of_file_arrives_whole_and_in_part_and_keeps_its_position(
    pair: Pair,
    tmp_path: Path,
    spy: Spy,
    monkeypatch: pytest.MonkeyPatch,
    make: Callable[[ExitStack, Path], Source],
    is_on: bool,
) -> None:
    """With sendfile turned on, and off."""
    monkeypatch.setattr(sendfile, "AVAILABLE", is_on)
    takes = TAKES[make] if is_on else "read-send"

    with ExitStack() as stack:
        file, expected, is_where_it_was = make(stack, tmp_path)
        size = len(expected)
        middle = size // 3
        async with stream_over(pair[0]) as stream:
            with thread(read_to_end, pair[1]) as received:
                assert await stream.send_file(file) == size
                assert await stream.send_file(file, offset=middle, count=middle) == middle
                assert await stream.send_file(file, offset=2 * middle) == size - 2 * middle
                statistics = stream.statistics()
                await stream.aclose()
            assert received.result(0) == (expected + expected[middle:], "FIN")
            assert is_where_it_was()
            assert statistics.sent_bytes == 2 * size - middle
            assert dict(statistics.routes) == ({takes: 3} if takes else {})
            assert not statistics.fallbacks
            assert sum(spy.moved) == (statistics.sent_bytes if takes == "sendfile" else 0)


async def test_a_stream_opened_by_path_goes_on_reading_where_it_stood(
    pair: Pair, tmp_path: Path, send_route: str, spy: Spy
) -> None:
    async with await FileReadStream.from_path(_file_of(tmp_path)) as file:
        assert await file.receive(100) == DATA[:100]
        async with stream_over(pair[0]) as stream:
            with thread(read_to_end, pair[1]) as received:
                assert await stream.send_file(file) == len(DATA)
                assert await file.receive(50) == DATA[100:150]
                assert await stream.send_file(file, offset=7, count=8) == 8
                assert dict(stream.statistics().routes) == {send_route: 2}
                await stream.aclose()
            assert received.result(0) == (DATA + DATA[7:15], "FIN")
        assert await file.tell() == 150
        assert bool(spy.moved) == (send_route == "sendfile")


async def test_it_goes_over_a_unix_socket_too(tmp_path: Path, send_route: str, spy: Spy) -> None:
    ours, peer = socket.socketpair()
    peer.settimeout(BOUND)
    with ours, peer, open(_file_of(tmp_path), "rb") as file:
        async with stream_over(ours) as stream:
            with thread(read_to_end, peer) as received:
                assert await stream.send_file(file, offset=1) == len(DATA) - 1
                assert dict(stream.statistics().routes) == {send_route: 1}
                await stream.aclose()
            assert received.result(0) == (DATA[1:], "FIN")
            assert bool(spy.moved) == (send_route == "sendfile")


@pytest.mark.parametrize("buffering", [0, -1], ids=["raw", "buffered"])
async def test_a_pipe_is_sent_to_its_end(pair: Pair, buffering: int) -> None:
    reader, writer = os.pipe()
    with open(reader, "rb", buffering=buffering) as file, open(writer, "wb", buffering=0) as feed:
        feed.write(DATA[:1000])
        if buffering:
            assert file.read(3) == DATA[:3]  # more is now in the reader's own buffer

        def write_the_rest() -> None:
            view = memoryview(DATA)[1000:]
            while view:
                view = view[feed.write(view) :]
            feed.close()

        start = 3 if buffering else 0
        async with stream_over(pair[0]) as stream:
            with thread(read_to_end, pair[1]) as received, thread(write_the_rest):
                assert await stream.send_file(file) == len(DATA) - start
                assert os.get_blocking(reader), "the caller's pipe was changed"
                await stream.aclose()
            assert received.result(0) == (DATA[start:], "FIN")


async def test_the_descriptor_of_a_socket_is_sent_and_blocks_again_afterwards(pair: Pair) -> None:
    near, far = socket.socketpair()
    with near, far:
        far.sendall(b"hello")
        far.shutdown(socket.SHUT_WR)
        async with stream_over(pair[0]) as stream:
            assert await stream.send_file(near.fileno()) == 5
            assert pair[1].recv(10) == b"hello"
        assert os.get_blocking(near.fileno())


@pytest.mark.parametrize("buffering", [0, -1], ids=["raw", "buffered"])
async def test_what_is_not_asked_for_stays_in_the_pipe(pair: Pair, buffering: int) -> None:
    reader, writer = os.pipe()
    with open(reader, "rb", buffering=buffering) as file, open(writer, "wb", buffering=0) as feed:
        feed.write(b"abcdefghij")
        if buffering:
            assert file.read(1) == b"a"
        else:
            assert os.read(reader, 1) == b"a"
        async with stream_over(pair[0]) as stream:
            with anyio.fail_after(BOUND):
                assert await stream.send_file(file, count=0) == 0
                assert await stream.send_file(file, count=4) == 4
                assert await stream.send_file(file, count=2) == 2
            assert read_exactly(pair[1], 6) == b"bcdefg"
        feed.close()
        assert file.read() == b"hij"


async def test_a_device_without_an_end_is_sent_up_to_the_count(pair: Pair) -> None:
    size = 3 * MIB + 5  # many hops to a thread
    with open("/dev/zero", "rb", buffering=0) as file:
        async with stream_over(pair[0]) as stream:
            with thread(read_to_end, pair[1]) as received:
                assert await stream.send_file(file, count=size) == size
                await stream.aclose()
            assert received.result(0) == (bytes(size), "FIN")


@pytest.mark.parametrize("offset", [0, 1, 4096, 700_000])
def test_a_file_that_is_open_for_direct_access_is_sent(
    run: Run, pair: Pair, tmp_path: Path, send_route: str, offset: int
) -> None:
    path = _file_of(tmp_path)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
    except OSError as error:
        pytest.skip(f"no O_DIRECT in {tmp_path}: {error}")

    async def main() -> None:
        async with stream_over(pair[0]) as stream:
            with thread(read_to_end, pair[1]) as received:
                assert await stream.send_file(fd, offset=offset) == len(DATA) - offset
                await stream.aclose()
            assert received.result(0) == (DATA[offset:], "FIN")

    try:
        run(main)
    finally:
        os.close(fd)
