"""``receive_file``: into any file, by either route; what the peer sent is there, still to be read, or accounted for."""

from __future__ import annotations

import errno
import io
import os
import random
import resource
import select
import socket
import struct
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import anyio
import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.loops import Run
from support.sockets import Pair, reset, send_and_finish
from support.streams import stream_over
from support.threads import thread
from support.waiting import BOUND, until

from roket_trio import (
    BrokenResourceError,
    BusyResourceError,
    ClosedResourceError,
    EndOfStream,
    FileReadStream,
    FileWriteStream,
    SocketStream,
    TruncatedError,
)
from roket_trio._connection import lingering_close as lingering_room
from roket_trio._kernel import splice, tcp
from roket_trio._loops import asyncio

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="splice, /dev/full and RST on demand as Linux has them")


MIB = 1 << 20

# Where no byte looks like its neighbours, so that a shift by any distance shows.
PATTERN = b"".join(struct.pack(">I", n * 2654435761 % (1 << 32)) for n in range(1 << 18))
DATA = PATTERN[:700_001]

# What a file has before anything is received into it.
BEFORE = b"." * 1000


# --- peers -----------------------------------------------------------------------------------------------------------


async def receive_to_end(stream: SocketStream) -> bytes:
    data = b""
    try:
        while True:
            data += await stream.receive(MIB)
    except EndOfStream:
        return data


# --- the routes ------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["splice", "read-send"])
def route(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both routes: the fast one, and the plain one with the fast one turned off."""
    name: str = request.param
    if name == "read-send":
        monkeypatch.setattr(splice, "AVAILABLE", False)
    return name


class Disk:
    """Stands between the library and one file: every system call that writes the file goes through it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
        self.inode = path.stat().st_ino
        self.real = {name: getattr(os, name) for name in ("splice", "pwrite", "write", "writev", "pwritev")}
        self.written = 0
        self.calls: list[str] = []
        self.threads: set[int] = set()
        self.before: Callable[[int, int], int] = lambda written, count: count
        """Given what was written so far and how much is to be written now: raises, or returns how much may be."""
        monkeypatch.setattr(os, "splice", self.splice)
        monkeypatch.setattr(os, "pwrite", self.pwrite)
        monkeypatch.setattr(os, "write", self.write)

    def _is_it(self, fd: int) -> bool:
        return os.fstat(fd).st_ino == self.inode

    def _ask(self, name: str, count: int) -> int:
        self.calls.append(name)
        self.threads.add(threading.get_ident())
        return self.before(self.written, count)

    def splice(self, src: int, dst: int, count: int, *args: Any, **kwargs: Any) -> int:
        if not self._is_it(dst):
            moved: int = self.real["splice"](src, dst, count, *args, **kwargs)
            return moved
        moved = self.real["splice"](src, dst, self._ask("splice", count), *args, **kwargs)
        self.written += moved
        return moved

    def pwrite(self, fd: int, data: Any, offset: int) -> int:
        if not self._is_it(fd):
            count: int = self.real["pwrite"](fd, data, offset)
            return count
        view = memoryview(data)
        count = self.real["pwrite"](fd, view[: self._ask("pwrite", view.nbytes)], offset)
        self.written += count
        return count

    def write(self, fd: int, data: Any) -> int:
        if not self._is_it(fd):
            count: int = self.real["write"](fd, data)
            return count
        view = memoryview(data)
        count = self.real["write"](fd, view[: self._ask("write", view.nbytes)])
        self.written += count
        return count


def full_after(room: int, number: int = errno.ENOSPC) -> Callable[[int, int], int]:
    """A disk that takes ``room`` bytes and then no more."""

    def before(written: int, count: int) -> int:
        if written >= room:
            raise OSError(number, os.strerror(number))
        return min(count, room - written)

    return before


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file that has 1000 bytes."""
    path = tmp_path / "sink"
    path.write_bytes(BEFORE)
    return path


# --- every kind of sink ----------------------------------------------------------------------------------------------

# The object to receive into; where its next byte goes; what it says about its position.
Sink = tuple[Any, int, Callable[[], int] | None]


def _fileio(stack: ExitStack, path: Path) -> Sink:
    file = stack.enter_context(open(path, "r+b", buffering=0))
    file.seek(77)
    return file, 77, file.tell


def _buffered_writer_with_unwritten_bytes(stack: ExitStack, path: Path) -> Sink:
    file = stack.enter_context(open(os.open(path, os.O_WRONLY), "wb"))
    file.write(BEFORE[:100])
    return file, 100, file.tell


def _buffered_file_read_in_the_middle(stack: ExitStack, path: Path) -> Sink:
    file = stack.enter_context(open(path, "r+b"))
    assert file.read(10) == BEFORE[:10]  # its descriptor is much farther
    return file, 10, file.tell


def _descriptor(stack: ExitStack, path: Path) -> Sink:
    fd = os.open(path, os.O_RDWR)
    stack.callback(os.close, fd)
    os.lseek(fd, 5, os.SEEK_SET)
    return fd, 5, lambda: os.lseek(fd, 0, os.SEEK_CUR)


def _anyio_file(stack: ExitStack, path: Path) -> Sink:
    file = stack.enter_context(open(path, "r+b"))
    file.seek(3)
    return anyio.AsyncFile(file), 3, file.tell


def _trio_file(stack: ExitStack, path: Path) -> Sink:
    file = stack.enter_context(open(path, "r+b"))
    file.seek(3)
    return trio.wrap_file(file), 3, file.tell


def _beyond_the_end(stack: ExitStack, path: Path) -> Sink:
    file = stack.enter_context(open(path, "r+b", buffering=0))
    file.seek(5000)
    return file, 5000, file.tell


def _append(stack: ExitStack, path: Path) -> Sink:
    file = stack.enter_context(open(path, "ab", buffering=0))
    return file, len(BEFORE), None


def _append_descriptor_that_stands_elsewhere(stack: ExitStack, path: Path) -> Sink:
    fd = os.open(path, os.O_RDWR | os.O_APPEND)
    stack.callback(os.close, fd)
    os.lseek(fd, 5, os.SEEK_SET)
    return fd, len(BEFORE), None


SINKS = [
    _fileio,
    _buffered_writer_with_unwritten_bytes,
    _buffered_file_read_in_the_middle,
    _descriptor,
    _anyio_file,
    _trio_file,
    _beyond_the_end,
    _append,
    _append_descriptor_that_stands_elsewhere,
]
APPENDING = (_append, _append_descriptor_that_stands_elsewhere)


def merged(start: int, data: bytes) -> bytes:
    """What the file must be after ``data`` was written at ``start``."""
    if not data:
        return BEFORE
    return BEFORE[:start].ljust(start, b"\0") + data + BEFORE[start + len(data) :]


@pytest.mark.parametrize("size", [400, len(DATA)])
@pytest.mark.parametrize("make", SINKS, ids=[make.__name__[1:] for make in SINKS])
async def test_every_kind_of_file_gets_all_up_to_the_end_and_its_position_moves_along(
    pair: Pair, path: Path, route: str, make: Callable[[ExitStack, Path], Sink], size: int
) -> None:
    data = DATA[:size]

    with ExitStack() as stack:
        file, start, tell = make(stack, path)
        async with stream_over(pair[0]) as stream:
            with thread(send_and_finish, pair[1], data):
                assert await stream.receive_file(file) == size
            statistics = stream.statistics()
            if tell is not None:
                assert tell() == start + size
            assert path.read_bytes() == merged(start, data)
            assert statistics.received_bytes == size
            takes = "read-send" if make in APPENDING else route
            assert dict(statistics.routes) == {takes: 1}
            with pytest.raises(EndOfStream):
                await stream.receive()
            assert await stream.receive_file(file) == 0
    assert path.read_bytes() == merged(start, data)  # nor does closing the file change it


@pytest.mark.parametrize(
    "make",
    [make for make in SINKS if make not in APPENDING],
    ids=[make.__name__[1:] for make in SINKS if make not in APPENDING],
)
async def test_an_offset_is_absolute_and_leaves_the_position_alone(
    pair: Pair, path: Path, route: str, make: Callable[[ExitStack, Path], Sink]
) -> None:
    offset = 500

    with ExitStack() as stack:
        file, start, tell = make(stack, path)
        async with stream_over(pair[0]) as stream:
            with thread(send_and_finish, pair[1], DATA):
                assert await stream.receive_file(file, offset=offset, count=2000) == 2000
                assert tell is not None
                assert tell() == start
                assert path.read_bytes() == merged(offset, DATA[:2000])
                assert await stream.receive_file(file, offset=offset + 2000) == len(DATA) - 2000
            assert tell() == start
            assert path.read_bytes() == merged(offset, DATA)


async def test_a_stream_opened_by_path_goes_on_where_the_transfer_ended(pair: Pair, tmp_path: Path, route: str) -> None:
    path = tmp_path / "sink"

    async with await FileWriteStream.from_path(path) as file, stream_over(pair[0]) as stream:
        with thread(send_and_finish, pair[1], DATA):
            await file.send(b"head|")
            assert await stream.receive_file(file, count=300_000) == 300_000
            await file.send(b"|middle|")
            assert await stream.receive_file(file) == len(DATA) - 300_000
            await file.send(b"|tail")
        assert dict(stream.statistics().routes) == {route: 2}
    assert path.read_bytes() == b"head|" + DATA[:300_000] + b"|middle|" + DATA[300_000:] + b"|tail"


async def test_a_stream_opened_to_append_appends(pair: Pair, path: Path) -> None:
    async with await FileWriteStream.from_path(path, append=True) as file, stream_over(pair[0]) as stream:
        with thread(send_and_finish, pair[1], DATA):
            assert await stream.receive_file(file, count=10) == 10
            await file.send(b"|")
            assert await stream.receive_file(file) == len(DATA) - 10
    assert path.read_bytes() == BEFORE + DATA[:10] + b"|" + DATA[10:]


async def test_an_atomic_stream_replaces_its_target_on_a_clean_close(pair: Pair, path: Path, route: str) -> None:
    async with stream_over(pair[0]) as stream:
        async with await FileWriteStream.from_path(path, atomic=True) as file:
            with thread(send_and_finish, pair[1], DATA):
                assert await stream.receive_file(file) == len(DATA)
            assert path.read_bytes() == BEFORE
        assert path.read_bytes() == DATA
        assert os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize("how", ["truncated", "reset", "cancelled", "disk full"])
async def test_an_atomic_stream_whose_transfer_failed_never_replaces_its_target(
    pair: Pair, path: Path, route: str, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with stream_over(pair[0]) as stream:
        file = await FileWriteStream.from_path(path, atomic=True)
        (name,) = set(os.listdir(path.parent)) - {path.name}
        pair[1].sendall(DATA[:1000])
        if how == "disk full":
            Disk(monkeypatch, path.parent / name).before = full_after(10)
        if how == "cancelled":
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(stream.receive_file, file)
                await until(lambda: (path.parent / name).stat().st_size == 1000)
                tasks.cancel_scope.cancel()
        else:
            if how == "reset":
                reset(pair[1])
            else:
                pair[1].shutdown(socket.SHUT_WR)
            with pytest.raises(BrokenResourceError) as caught:
                await stream.receive_file(file, count=2000)
            if how == "disk full":
                assert str(path) in str(caught.value)  # not the name of the file that is no more
        with pytest.raises(BrokenResourceError, match="was not replaced"):
            await file.aclose()
        assert path.read_bytes() == BEFORE
        assert os.listdir(path.parent) == [path.name]


async def test_a_pipe_gets_all_in_order(pair: Pair) -> None:
    reader, writer = os.pipe()
    with open(reader, "rb", buffering=0) as outlet, open(writer, "wb", buffering=0) as file:
        async with stream_over(pair[0]) as stream:

            def read() -> bytes:
                data = b""
                while len(data) < len(DATA):
                    data += outlet.read(len(DATA) - len(data))
                return data

            with thread(send_and_finish, pair[1], DATA), thread(read) as out:
                assert await stream.receive_file(file) == len(DATA)
            assert out.result(0) == DATA
            assert os.get_blocking(writer), "the caller's pipe was changed"


async def test_the_descriptor_of_a_socket_takes_it_and_blocks_again_afterwards(pair: Pair) -> None:
    near, far = socket.socketpair()
    with near, far:
        far.settimeout(BOUND)
        async with stream_over(pair[0]) as stream:
            with thread(send_and_finish, pair[1], b"hello"):
                assert await stream.receive_file(near.fileno()) == 5
        assert far.recv(10) == b"hello"
        assert os.get_blocking(near.fileno())


@pytest.mark.parametrize("blocking", [True, False])
async def test_a_pipe_that_is_full_is_waited_for_and_its_reader_loses_nothing(pair: Pair, blocking: bool) -> None:
    """A cancellation ends the wait at once: the pipe has what was received, or the socket still has it."""

    reader, writer = os.pipe()
    os.set_blocking(writer, blocking)
    with open(reader, "rb", buffering=0) as outlet, open(writer, "wb", buffering=0) as file:
        async with stream_over(pair[0]) as stream:
            with thread(send_and_finish, pair[1], DATA):
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(stream.receive_file, file)
                    poll = select.poll()
                    poll.register(writer, select.POLLOUT)
                    await until(lambda: not poll.poll(0))
                    began = time.monotonic()
                    tasks.cancel_scope.cancel()
                assert time.monotonic() - began < 1
                file.close()
                out = b""
                while chunk := outlet.read(MIB):
                    out += chunk
                assert out + await receive_to_end(stream) == DATA


async def test_a_named_temporary_file_and_tmpfs_do_too(pair: Pair, route: str) -> None:
    with tempfile.NamedTemporaryFile(dir="/dev/shm") as file:
        async with stream_over(pair[0]) as stream:
            with thread(send_and_finish, pair[1], DATA):
                assert await stream.receive_file(file) == len(DATA)
            assert file.tell() == len(DATA)
            file.seek(0)
            assert file.read() == DATA
            assert dict(stream.statistics().routes) == {route: 1}


async def test_it_comes_over_a_unix_socket_too(path: Path, route: str) -> None:
    ours, peer = socket.socketpair()
    peer.settimeout(BOUND)
    with ours, peer, open(path, "r+b") as file:
        async with stream_over(ours) as stream:
            with thread(send_and_finish, peer, DATA):
                assert await stream.receive_file(file) == len(DATA)
            assert path.read_bytes() == DATA
            assert dict(stream.statistics().routes) == {route: 1}


async def test_a_device_takes_all(pair: Pair) -> None:
    with open("/dev/null", "wb", buffering=0) as file:
        async with stream_over(pair[0]) as stream:
            with thread(send_and_finish, pair[1], DATA):
                assert await stream.receive_file(file) == len(DATA)


# --- count -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, 4096, 500_000, len(DATA)])
async def test_exactly_count_bytes_are_taken(pair: Pair, path: Path, route: str, count: int) -> None:
    with open(path, "wb") as file:
        async with stream_over(pair[0]) as stream:
            with thread(send_and_finish, pair[1], DATA):
                assert await stream.receive_file(file, count=count) == count
                assert file.tell() == count
                assert await receive_to_end(stream) == DATA[count:]
    assert path.read_bytes() == DATA[:count]


async def test_count_bytes_that_are_there_are_enough_without_an_end(pair: Pair, path: Path, route: str) -> None:
    with open(path, "wb") as file:
        async with stream_over(pair[0]) as stream:
            pair[1].sendall(b"0123456789")
            assert await stream.receive_file(file, count=4) == 4
            assert await stream.receive_file(file, count=0) == 0
            assert await stream.receive_file(file, count=6) == 6
    assert path.read_bytes() == b"0123456789"


@pytest.mark.parametrize(("offset", "position"), [(None, 20), (100, 100)])
@pytest.mark.parametrize("size", [0, len(DATA)])
async def test_an_early_end_is_truncated_and_keeps_what_came(
    pair: Pair, path: Path, route: str, offset: int | None, position: int, size: int
) -> None:
    with open(path, "r+b") as file:
        file.seek(20)
        async with stream_over(pair[0]) as stream:
            with thread(send_and_finish, pair[1], DATA[:size]):
                with pytest.raises(TruncatedError) as caught:
                    await stream.receive_file(file, offset=offset, count=size + 5)
            assert caught.value.bytes_moved == size
            assert caught.value.position == position + size
            assert caught.value.path == str(path)
            assert f"{size} of {size + 5} bytes" in str(caught.value)
            assert file.tell() == (20 + size if offset is None else 20)
            with pytest.raises(EndOfStream):
                await stream.receive()
            await stream.send(b"we can still say so")
            assert pair[1].recv(100) == b"we can still say so"
    assert path.read_bytes() == merged(position, DATA[:size])


def test_a_truncated_descriptor_has_no_path(run: Run, pair: Pair, path: Path) -> None:
    fd = os.open(path, os.O_RDWR)

    async def main() -> None:
        async with stream_over(pair[0]) as stream:
            send_and_finish(pair[1], b"abc")
            with pytest.raises(TruncatedError) as caught:
                await stream.receive_file(fd, count=5)
            assert caught.value.path is None
            assert caught.value.position == 3

    try:
        run(main)
    finally:
        os.close(fd)


def _closed(path: Path) -> Any:
    file = open(path, "r+b")
    file.close()
    return file


REFUSED: list[tuple[str, Callable[[Path], Any], dict[str, Any], type[Exception], str]] = [
    ("a negative offset", lambda p: open(p, "r+b"), {"offset": -1}, ValueError, "negative"),
    ("a negative count", lambda p: open(p, "r+b"), {"count": -1}, ValueError, "negative"),
    ("an offset into what is appended", lambda p: open(p, "ab"), {"offset": 0}, ValueError, "offset"),
    ("an offset into a device", lambda p: open("/dev/null", "wb"), {"offset": 0}, ValueError, "offset"),
    ("a file for reading", lambda p: open(p, "rb"), {}, ValueError, "open for reading only"),
    ("a closed file", _closed, {}, ValueError, "closed"),
    ("a text file", lambda p: open(p, "a"), {}, TypeError, "text mode"),
    ("text in memory", lambda p: io.StringIO(), {}, TypeError, "text mode"),
    ("a path", lambda p: str(p), {}, TypeError, r"binary file, not a path; open it first: open\('.*', 'wb'\)"),
    ("a buffer", lambda p: bytearray(10), {}, TypeError, "binary file"),
    ("nothing", lambda p: None, {}, TypeError, "binary file"),
    ("a truth value", lambda p: True, {}, TypeError, "binary file"),
    ("a negative descriptor", lambda p: -1, {}, ValueError, "negative"),
    ("no descriptor", lambda p: 999_999, {}, OSError, "Bad file descriptor"),
    ("an offset that is no integer", lambda p: open(p, "r+b"), {"offset": 1.0}, TypeError, "int|float"),
    ("an offset beyond any file", lambda p: open(p, "r+b"), {"offset": 1 << 63}, ValueError, "beyond the end"),
    ("a count that is no integer", lambda p: open(p, "r+b"), {"count": 5.0}, TypeError, "int|float"),
]


@pytest.mark.parametrize(
    ("make", "arguments", "error", "message"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED]
)
async def test_what_cannot_be_received_into_is_refused_and_nothing_is_taken(
    pair: Pair,
    path: Path,
    make: Callable[[Path], Any],
    arguments: dict[str, Any],
    error: type[Exception],
    message: str,
) -> None:
    file = make(path)
    try:
        async with stream_over(pair[0]) as stream:
            send_and_finish(pair[1], b"kept")
            with pytest.raises(error, match=message):
                await stream.receive_file(file, **arguments)
            assert await receive_to_end(stream) == b"kept"
    finally:
        if hasattr(file, "close"):
            file.close()
    assert path.read_bytes() == BEFORE


async def test_a_stream_for_reading_is_refused(pair: Pair, path: Path) -> None:
    async with await FileReadStream.from_path(path) as file, stream_over(pair[0]) as stream:
        send_and_finish(pair[1], b"kept")
        with pytest.raises(TypeError, match="is for reading only"):
            await stream.receive_file(file)
        assert await receive_to_end(stream) == b"kept"


async def test_a_closed_stream_on_either_side_is_closed(pair: Pair, path: Path) -> None:
    file = await FileWriteStream.from_path(path, append=True)
    await file.aclose()
    async with stream_over(pair[0]) as stream:
        pair[1].sendall(b"kept")
        with pytest.raises(ClosedResourceError):
            await stream.receive_file(file)
        assert await stream.receive() == b"kept"
        stream.abort()
        with open(path, "r+b") as plain:
            with pytest.raises(ClosedResourceError):
                await stream.receive_file(plain)


@pytest.mark.parametrize("count", [None, 0, 3])
async def test_in_a_cancelled_scope_nothing_is_taken(pair: Pair, path: Path, route: str, count: int | None) -> None:
    with open(path, "r+b") as file:
        async with stream_over(pair[0]) as stream:
            send_and_finish(pair[1], b"kept")
            with anyio.CancelScope() as scope:
                scope.cancel()
                await stream.receive_file(file, count=count)
            assert scope.cancelled_caught
            assert file.tell() == 0
            assert await receive_to_end(stream) == b"kept"
    assert path.read_bytes() == BEFORE


# --- the route -------------------------------------------------------------------------------------------------------


async def test_the_fast_route_is_splice_and_no_write_runs_in_the_event_loop(
    pair: Pair, path: Path, route: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(monkeypatch, path)

    with open(path, "r+b") as file:
        async with stream_over(pair[0]) as stream:
            with thread(send_and_finish, pair[1], DATA):
                assert await stream.receive_file(file) == len(DATA)
            assert not stream.statistics().fallbacks
    assert disk.written == len(DATA)
    assert set(disk.calls) == ({"splice"} if route == "splice" else {"pwrite"})
    assert threading.get_ident() not in disk.threads


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOSYS], ids=errno.errorcode.get)
@pytest.mark.parametrize("after", [0, 200_000])
@pytest.mark.parametrize("side", ["socket", "file"])
async def test_what_the_kernel_refuses_goes_the_plain_way_without_losing_a_byte(
    pair: Pair, path: Path, monkeypatch: pytest.MonkeyPatch, number: int, after: int, side: str
) -> None:
    real = os.splice
    moved = {"socket": 0, "file": 0}

    def refusing(src: int, dst: int, count: int, *args: Any, **kwargs: Any) -> int:
        is_file = os.fstat(dst).st_ino == path.stat().st_ino
        where = "file" if is_file else "socket"
        if where == side:
            if moved[side] >= after:
                raise OSError(number, os.strerror(number))
            count = min(count, after - moved[side])
        done = real(src, dst, count, *args, **kwargs)
        moved[where] += done
        return done

    monkeypatch.setattr(os, "splice", refusing)

    with open(path, "r+b") as file:
        file.seek(10)
        async with stream_over(pair[0]) as stream:
            with thread(send_and_finish, pair[1], DATA):
                assert await stream.receive_file(file) == len(DATA)
            statistics = stream.statistics()
            assert dict(statistics.fallbacks) == {"splice": 1}
            assert statistics.routes["read-send"] == 1
            assert statistics.received_bytes == len(DATA)
            assert file.tell() == 10 + len(DATA)
    assert moved[side] == after
    assert path.read_bytes() == merged(10, DATA)


@settings(
    max_examples=20,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def test_either_route_gives_the_same_file_and_the_same_numbers(run: Run, path: Path, data: st.DataObject) -> None:
    """Random sizes, offsets, counts, pieces, short writes: the same bytes in the file, the rest still to be read."""
    size = data.draw(st.integers(0, 400_000) | st.integers(0, 3000), "size")
    offset = data.draw(st.none() | st.integers(0, 2000), "offset")
    count = data.draw(st.none() | st.integers(0, size + 10), "count")
    pieces = data.draw(st.lists(st.integers(1, 80_000), min_size=1, max_size=6), "pieces")
    shorts = data.draw(st.none() | st.lists(st.integers(500, 70_000), min_size=1, max_size=5), "short writes")

    def send_in_pieces(sock: socket.socket) -> None:
        at = n = 0
        while at < size:
            sock.sendall(DATA[at : min(size, at + pieces[n % len(pieces)])])
            at += pieces[n % len(pieces)]
            n += 1
        sock.shutdown(socket.SHUT_WR)

    async def transfer() -> tuple[Any, ...]:
        path.write_bytes(BEFORE)
        ours, peer = socket.socketpair()
        peer.settimeout(BOUND)
        with ours, peer, open(path, "r+b") as file:
            file.seek(30)
            async with stream_over(ours) as stream:
                with thread(send_in_pieces, peer):
                    outcome: object
                    try:
                        outcome = await stream.receive_file(file, offset=offset, count=count)
                    except TruncatedError as error:
                        outcome = (error.bytes_moved, error.position, error.path)
                    position = file.tell()
                    rest = await receive_to_end(stream)
        return outcome, position, path.read_bytes(), rest

    async def main() -> None:
        start = 30 if offset is None else offset
        want = size if count is None else min(size, count)
        truncated = count is not None and count > size
        expected = (
            (want, start + want, str(path)) if truncated else want,
            30 + want if offset is None else 30,
            merged(start, DATA[:want]),
            DATA[want:size],
        )
        for is_fast in (True, False):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(splice, "AVAILABLE", is_fast)
                disk = Disk(patch, path)
                if shorts is not None:
                    disk.before = lambda written, count, disk=disk: min(count, shorts[len(disk.calls) % len(shorts)])
                assert await transfer() == expected
                assert disk.written == want
                assert set(disk.calls) <= ({"splice"} if is_fast else {"pwrite"})

    run(main)


# --- failures --------------------------------------------------------------------------------------------------------


async def check_loss(
    stream: SocketStream, error: BrokenResourceError, path: Path, start: int, safe: int, number: int
) -> None:
    """The error says which side failed, what is in the file and what is lost; the rest can still be received."""
    assert error.errno == number
    assert f"[Errno {number}]" in str(error)
    assert "writing" in str(error)
    assert str(path) in str(error)
    assert error.side == "sink"
    assert error.bytes_moved == safe
    told = " ".join([str(error), *getattr(error, "__notes__", [])])
    assert f"{safe} bytes" in told
    assert str(error.bytes_lost) in told
    assert error.bytes_lost > 0
    assert await receive_to_end(stream) == DATA[safe + error.bytes_lost :]
    if path.is_file():
        assert path.read_bytes() == merged(start, DATA[:safe])


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO], ids=errno.errorcode.get)
@pytest.mark.parametrize("room", [0, 300_000])
async def test_a_disk_that_fails_is_named_and_what_is_lost_is_counted(
    pair: Pair, path: Path, route: str, room: int, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(monkeypatch, path)
    disk.before = full_after(room, number)

    with open(path, "r+b", buffering=0) as file:
        file.seek(7)
        async with stream_over(pair[0]) as stream:
            with thread(send_and_finish, pair[1], DATA):
                with pytest.raises(BrokenResourceError) as caught:
                    await stream.receive_file(file)
                assert file.tell() == 7 + room
                await check_loss(stream, caught.value, path, 7, room, number)
            assert not stream.statistics().fallbacks
            await stream.send(b"the connection is as good as ever")
            assert pair[1].recv(100) == b"the connection is as good as ever"


async def test_a_file_size_limit_is_such_a_failure(pair: Pair, path: Path, route: str) -> None:
    """No injection: RLIMIT_FSIZE, the kernel's own EFBIG after a short write."""
    limit = 300_000

    with open(path, "r+b", buffering=0) as file:
        async with stream_over(pair[0]) as stream:
            with thread(send_and_finish, pair[1], DATA):
                soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
                try:
                    with pytest.raises(BrokenResourceError) as caught:
                        await stream.receive_file(file)
                finally:
                    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
                await check_loss(stream, caught.value, path, 0, limit, errno.EFBIG)


async def test_a_full_device_is_such_a_failure(pair: Pair) -> None:
    with open("/dev/full", "wb", buffering=0) as file:
        async with stream_over(pair[0]) as stream:
            with thread(send_and_finish, pair[1], DATA):
                with pytest.raises(BrokenResourceError) as caught:
                    await stream.receive_file(file)
                await check_loss(stream, caught.value, Path("/dev/full"), 0, 0, errno.ENOSPC)


async def test_a_disk_that_fails_when_appending_is_named_too(
    pair: Pair, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Disk(monkeypatch, path).before = full_after(300_000)

    async with await FileWriteStream.from_path(path, append=True) as file, stream_over(pair[0]) as stream:
        with thread(send_and_finish, pair[1], DATA):
            with pytest.raises(BrokenResourceError) as caught:
                await stream.receive_file(file)
            await check_loss(stream, caught.value, path, len(BEFORE), 300_000, errno.ENOSPC)


async def test_a_pipe_whose_reader_is_gone_is_the_sinks_fault(pair: Pair) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "wb", buffering=0) as file:
        async with stream_over(pair[0]) as stream:
            with thread(send_and_finish, pair[1], DATA):
                with pytest.raises(BrokenResourceError) as caught:
                    await stream.receive_file(file)
                error = caught.value
                assert error.errno == errno.EPIPE
                assert error.side == "sink"
                assert await receive_to_end(stream) == DATA[error.bytes_lost :]


@pytest.mark.parametrize("sink", ["file", "appended", "pipe"])
async def test_short_writes_are_completed(
    pair: Pair, path: Path, route: str, sink: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    most = 999
    data = DATA[: most * 300]

    with ExitStack() as stack:
        if sink == "pipe":
            reader, writer = os.pipe()
            outlet = stack.enter_context(open(reader, "rb", buffering=0))
            file = stack.enter_context(open(writer, "wb", buffering=0))
            data_fits = data[:60_000]
        else:
            file = stack.enter_context(open(path, "r+b" if sink == "file" else "ab", buffering=0))
            data_fits = data
        disk = Disk(monkeypatch, path)
        disk.inode = os.fstat(file.fileno()).st_ino
        disk.before = lambda written, count: min(count, most)
        async with stream_over(pair[0]) as stream:
            with thread(send_and_finish, pair[1], data_fits):
                assert await stream.receive_file(file) == len(data_fits)
        assert len(disk.calls) >= len(data_fits) // most
        if sink == "pipe":
            file.close()
            assert outlet.read(MIB) == data_fits
        else:
            assert path.read_bytes() == (merged(0, data) if sink == "file" else BEFORE + data)


@pytest.mark.parametrize("size", [0, len(DATA)])
async def test_a_peer_that_resets_is_the_connections_fault_and_what_came_before_is_in_the_file(
    pair: Pair, path: Path, route: str, size: int
) -> None:
    with open(path, "wb", buffering=0) as file:
        async with stream_over(pair[0]) as stream:
            errors = []

            async def receive() -> None:
                with pytest.raises(BrokenResourceError) as caught:
                    await stream.receive_file(file, count=1 << 40)
                errors.append(caught.value)

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(receive)
                with thread(pair[1].sendall, DATA[:size]) as sent:
                    await until(sent.done)
                await until(lambda: path.stat().st_size == size)
                reset(pair[1])
            (error,) = errors
            assert not isinstance(error, TruncatedError)
            assert "the source is gone" in str(error)
            assert "writing" not in str(error)
            assert error.errno == errno.ECONNRESET
            assert error.side == "source"
            assert error.bytes_moved == size
            told = " ".join([str(error), *getattr(error, "__notes__", [])])
            assert f"{size} bytes" in told
            assert file.tell() == size
            with pytest.raises(BrokenResourceError, match="the connection is gone"):
                await stream.receive_file(file)
    assert path.read_bytes() == DATA[:size]


async def test_what_had_arrived_before_the_reset_is_in_the_file_although_nobody_had_received_it(
    pair: Pair, path: Path, route: str
) -> None:
    with open(path, "wb", buffering=0) as file:
        async with stream_over(pair[0]) as stream:
            pair[1].sendall(DATA[:50_000])
            reset(pair[1])
            with pytest.raises(BrokenResourceError) as caught:
                await stream.receive_file(file)
            assert caught.value.errno == errno.ECONNRESET
    assert path.read_bytes() == DATA[:50_000]


# --- cancellation and close ------------------------------------------------------------------------------------------


async def test_a_wait_for_more_is_cancelled_at_once_and_what_came_is_in_the_file(
    pair: Pair, path: Path, route: str
) -> None:
    with open(path, "wb", buffering=0) as file:
        async with stream_over(pair[0]) as stream:
            pair[1].sendall(DATA[:100_000])
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(stream.receive_file, file)
                await until(lambda: path.stat().st_size == 100_000)
                began = time.monotonic()
                tasks.cancel_scope.cancel()
            assert time.monotonic() - began < 1
            assert file.tell() == 100_000
            assert path.read_bytes() == DATA[:100_000]
            send_and_finish(pair[1], b"more")
            assert await receive_to_end(stream) == b"more"


@pytest.mark.parametrize("append", [False, True])
async def test_transfers_that_are_cancelled_again_and_again_lose_and_repeat_nothing(
    pair: Pair, path: Path, route: str, append: bool
) -> None:
    """The position, or the end, is where the next one goes on: the file is what was sent, wherever each was cut."""
    chance = random.Random(7)
    data = PATTERN * 4

    def send() -> None:
        at = 0
        while at < len(data):
            size = chance.randrange(1, 300_000)
            pair[1].sendall(data[at : at + size])
            at += size
            time.sleep(0.002)  # so that it lasts longer than the transfers
        pair[1].shutdown(socket.SHUT_WR)

    cancelled = 0
    delays = random.Random(8)
    with open(path, "ab" if append else "r+b", buffering=0) as file:
        async with stream_over(pair[0]) as stream:
            with thread(send):
                while True:
                    with anyio.move_on_after(delays.choice([0.0, 0.0002, 0.001, 0.003])) as scope:
                        await stream.receive_file(file)
                    if not scope.cancelled_caught:
                        break
                    cancelled += 1
                    await anyio.lowlevel.checkpoint()
    assert path.read_bytes() == (BEFORE if append else b"") + data
    assert cancelled > 3


async def test_a_cancellation_that_comes_with_the_data_takes_it_or_leaves_it(
    pair: Pair, path: Path, route: str
) -> None:
    """Both in one turn of the loop: the receiver has been woken by the data when another task cancels it."""

    sent = b""
    with open(path, "wb", buffering=0) as file:
        ours, other = socket.socketpair()
        with ours, other:
            async with stream_over(pair[0]) as stream, stream_over(ours) as signal:
                for n in range(15):
                    async with anyio.create_task_group() as tasks:
                        tasks.start_soon(stream.receive_file, file)

                        async def cancel(tasks: Any = tasks) -> None:
                            await signal.receive()
                            tasks.cancel_scope.cancel()

                        tasks.start_soon(cancel)
                        await anyio.wait_all_tasks_blocked()
                        message = b"<%d>" % n
                        pair[1].sendall(message)
                        other.sendall(b"!")
                        sent += message
                pair[1].shutdown(socket.SHUT_WR)
                rest = await receive_to_end(stream)
    assert path.read_bytes() + rest == sent


@pytest.mark.parametrize("interruption", ["cancelled", "closed", "aborted"])
async def test_an_interruption_during_a_write_waits_for_it_and_loses_nothing_that_was_taken(
    pair: Pair, path: Path, route: str, interruption: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(monkeypatch, path)
    release, writing = threading.Event(), threading.Event()

    def wait(written: int, count: int) -> int:
        writing.set()
        assert release.wait(BOUND), "nobody released the disk"
        return count

    disk.before = wait

    release.clear()
    writing.clear()
    ended: list[type[BaseException] | None] = []
    with open(path, "wb", buffering=0) as file:
        async with stream_over(pair[0]) as stream, anyio.create_task_group() as tasks:
            scope = anyio.CancelScope()

            async def receive() -> None:
                with scope:
                    try:
                        await stream.receive_file(file)
                    except ClosedResourceError as error:
                        ended.append(type(error))
                        return
                ended.append(None if scope.cancelled_caught else AssertionError)

            tasks.start_soon(receive)
            pair[1].sendall(b"in flight")
            await until(writing.is_set)
            if interruption == "cancelled":
                scope.cancel()
            elif interruption == "closed":
                tasks.start_soon(stream.aclose)
            else:
                stream.abort()
            for _ in range(20):
                await anyio.lowlevel.checkpoint()
            assert not ended, "the thread still writes"
            release.set()
            await until(lambda: bool(ended))
            assert ended == [None if interruption == "cancelled" else ClosedResourceError]
            assert path.read_bytes() == b"in flight"
            assert file.tell() == 9
            if interruption == "cancelled":
                send_and_finish(pair[1], b"more")
                assert await receive_to_end(stream) == b"more"


async def test_an_abort_in_the_middle_of_a_write_leaves_no_gap_in_the_file(
    pair: Pair, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file has what came first; what the abort dropped comes next, and nothing that came behind that may follow."""
    disk = Disk(monkeypatch, path)
    release, writing = threading.Event(), threading.Event()

    def wait(written: int, count: int) -> int:
        writing.set()
        assert release.wait(BOUND), "nobody released the disk"
        return count

    drop = lingering_room.discard_received

    def drop_while_more_comes(sock: socket.socket, **how: Any) -> Any:
        found = drop(sock, **how)
        if not release.is_set():
            pair[1].sendall(b"behind")
            release.set()
            deadline = time.monotonic() + 0.2  # for a thread that would take it
            while path.stat().st_size <= len(b"first") and time.monotonic() < deadline:
                time.sleep(0.002)
        return found

    disk.before = wait
    monkeypatch.setattr(lingering_room, "discard_received", drop_while_more_comes)

    release.clear()
    writing.clear()
    with open(path, "wb", buffering=0) as file:
        async with stream_over(pair[0]) as stream, anyio.create_task_group() as tasks:

            async def receive() -> None:
                with pytest.raises(ClosedResourceError):
                    await stream.receive_file(file)

            tasks.start_soon(receive)
            pair[1].sendall(b"first")
            await until(writing.is_set)
            pair[1].sendall(b"dropped")
            await until(lambda: tcp.unread_bytes(pair[0]) == len(b"dropped"))
            stream.abort()
    assert path.read_bytes() == b"first"
    assert stream.close_report is not None
    assert stream.close_report.discarded_bytes == len(b"dropped")


@pytest.mark.parametrize("close", ["aclose", "abort"])
async def test_a_close_by_another_task_ends_the_wait(pair: Pair, path: Path, route: str, close: str) -> None:
    errors: list[type[BaseException]] = []
    with open(path, "wb", buffering=0) as file:
        async with stream_over(pair[0]) as stream, anyio.create_task_group() as tasks:

            async def receive() -> None:
                with pytest.raises(ClosedResourceError) as caught:
                    await stream.receive_file(file)
                errors.append(caught.type)

            tasks.start_soon(receive)
            pair[1].sendall(b"some")
            await until(lambda: path.stat().st_size == 4)
            if close == "abort":
                stream.abort()
            else:
                await stream.aclose()
            with anyio.fail_after(2):
                await until(lambda: bool(errors))
    assert path.read_bytes() == b"some"
    if close == "abort":
        with pytest.raises(ConnectionResetError):
            pair[1].recv(1)
    else:
        assert pair[1].recv(1) == b""


async def test_the_loop_goes_on_while_the_disk_is_slow(
    pair: Pair, path: Path, route: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk(monkeypatch, path)
    ticked = threading.Event()

    def wait_for_ticks(written: int, count: int) -> int:
        if len(disk.calls) == 1:
            ticked.clear()
            assert ticked.wait(BOUND), "the event loop stood still while the disk was written"
        return count

    disk.before = wait_for_ticks

    async def tick() -> None:
        while True:
            for _ in range(50):
                await anyio.lowlevel.checkpoint()
            ticked.set()

    with open(path, "wb", buffering=0) as file:
        async with stream_over(pair[0]) as stream, anyio.create_task_group() as tasks:
            tasks.start_soon(tick)
            with thread(send_and_finish, pair[1], DATA):
                assert await stream.receive_file(file) == len(DATA)
            tasks.cancel_scope.cancel()
    assert path.read_bytes() == DATA


# --- one at a time ---------------------------------------------------------------------------------------------------


async def test_while_a_file_is_received_another_receiver_is_busy_and_the_other_way_round(
    pair: Pair, path: Path, route: str
) -> None:
    with open(path, "wb", buffering=0) as file:
        async with stream_over(pair[0]) as stream, anyio.create_task_group() as tasks:
            tasks.start_soon(stream.receive_file, file)
            pair[1].sendall(b"first")
            await until(lambda: path.stat().st_size == 5)
            for call in (
                stream.receive,
                stream.receive_some,
                lambda: stream.receive_into(bytearray(1)),
                lambda: stream.receive_file(file),
            ):
                with pytest.raises(BusyResourceError):
                    await call()
            await stream.send(b"the other direction is free")
            assert pair[1].recv(100) == b"the other direction is free"
            send_and_finish(pair[1], b"second")
    assert path.read_bytes() == b"firstsecond"


async def test_while_a_receive_waits_it_is_busy(pair: Pair, path: Path) -> None:
    received = []

    async def receive() -> None:
        received.append(await stream.receive())

    with open(path, "r+b") as file:
        async with stream_over(pair[0]) as stream, anyio.create_task_group() as tasks:
            tasks.start_soon(receive)
            await anyio.wait_all_tasks_blocked()
            with pytest.raises(BusyResourceError):
                await stream.receive_file(file)
            pair[1].sendall(b"for the first")
    assert received == [b"for the first"]
    assert path.read_bytes() == BEFORE


async def test_a_lent_stream_is_busy_until_it_is_given_back(pair: Pair, path: Path, route: str) -> None:
    async with await FileWriteStream.from_path(path) as file, stream_over(pair[0]) as stream:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(stream.receive_file, file)
            pair[1].sendall(b"first")
            await until(lambda: path.stat().st_size == 5)
            for call in (file.send, file.send_all):
                with pytest.raises(BusyResourceError):
                    await call(b"x")
            tasks.cancel_scope.cancel()
        await file.send(b"|free")
    assert path.read_bytes() == b"first|free"


async def test_closing_a_lent_stream_ends_the_transfer(pair: Pair, path: Path, route: str) -> None:
    errors: list[type[BaseException]] = []
    file = await FileWriteStream.from_path(path)
    async with stream_over(pair[0]) as stream, anyio.create_task_group() as tasks:

        async def receive() -> None:
            with pytest.raises(ClosedResourceError) as caught:
                await stream.receive_file(file)
            errors.append(caught.type)

        tasks.start_soon(receive)
        pair[1].sendall(b"first")
        await until(lambda: path.stat().st_size == 5)
        with anyio.fail_after(5):
            await file.aclose()
        await until(lambda: bool(errors))
        send_and_finish(pair[1], b"second")
        assert await receive_to_end(stream) == b"second"
    assert path.read_bytes() == b"first"


# --- who is woken ----------------------------------------------------------------------------------------------------


async def test_what_arrives_while_a_thread_takes_it_wakes_no_loop(
    pair: Pair, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, peer = pair
    fill, wakes, sends = splice.Pipe.fill, [], 50

    def fill_while_it_comes(pipe: splice.Pipe, sock: int, count: int) -> int:
        if threading.current_thread() is not threading.main_thread() and not wakes:
            wakes.append(0)
            for _ in range(sends):
                peer.send(b"x")
                time.sleep(0.002)  # the peer's pace: enough for a loop that is woken to run
        return fill(pipe, sock, count)

    def counted(epoll: Any) -> None:
        if wakes:
            wakes[0] += 1
        dispatch(epoll)

    dispatch = asyncio._SharedEpoll._dispatch
    monkeypatch.setattr(asyncio._SharedEpoll, "_dispatch", counted)
    monkeypatch.setattr(splice.Pipe, "fill", fill_while_it_comes)

    async with stream_over(ours) as stream:
        with path.open("wb") as file:
            await stream.receive_file(file, count=sends)
        peer.send(b"and then")  # the loop reads again
        assert await stream.receive() == b"and then"
    assert path.read_bytes() == b"x" * sends
    assert wakes[0] < sends / 5
