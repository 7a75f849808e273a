"""``receive_file``: into any file, by either route; what the peer sent is there, still to be read, or accounted for."""

from __future__ import annotations

import io
import os
import select
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import anyio
import pytest
import trio
from support.loops import Run
from support.patterns import DATA, MIB
from support.received_files import BEFORE, Disk, full_after, merged
from support.sockets import Pair, reset, send_and_finish
from support.streams import receive_to_end, stream_over
from support.threads import thread
from support.waiting import AT_ONCE, BOUND, until

from roket_trio import (
    BrokenResourceError,
    ClosedResourceError,
    EndOfStream,
    FileReadStream,
    FileWriteStream,
    TruncatedError,
)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="splice, /dev/full and RST on demand as Linux has them")


# --- the routes ------------------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("size", [400, len(DATA)])
@pytest.mark.parametrize("make", SINKS, ids=[make.__name__[1:] for make in SINKS])
async def test_every_kind_of_file_gets_all_up_to_the_end_and_its_position_moves_along(
    pair: Pair, path: Path, receive_route: str, make: Callable[[ExitStack, Path], Sink], size: int
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
            takes = "read-send" if make in APPENDING else receive_route
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
    pair: Pair, path: Path, receive_route: str, make: Callable[[ExitStack, Path], Sink]
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


async def test_a_stream_opened_by_path_goes_on_where_the_transfer_ended(
    pair: Pair, tmp_path: Path, receive_route: str
) -> None:
    path = tmp_path / "sink"

    async with await FileWriteStream.from_path(path) as file, stream_over(pair[0]) as stream:
        with thread(send_and_finish, pair[1], DATA):
            await file.send(b"head|")
            assert await stream.receive_file(file, count=300_000) == 300_000
            await file.send(b"|middle|")
            assert await stream.receive_file(file) == len(DATA) - 300_000
            await file.send(b"|tail")
        assert dict(stream.statistics().routes) == {receive_route: 2}
    assert path.read_bytes() == b"head|" + DATA[:300_000] + b"|middle|" + DATA[300_000:] + b"|tail"


async def test_a_stream_opened_to_append_appends(pair: Pair, path: Path) -> None:
    async with await FileWriteStream.from_path(path, append=True) as file, stream_over(pair[0]) as stream:
        with thread(send_and_finish, pair[1], DATA):
            assert await stream.receive_file(file, count=10) == 10
            await file.send(b"|")
            assert await stream.receive_file(file) == len(DATA) - 10
    assert path.read_bytes() == BEFORE + DATA[:10] + b"|" + DATA[10:]


async def test_an_atomic_stream_replaces_its_target_on_a_clean_close(
    pair: Pair, path: Path, receive_route: str
) -> None:
    async with stream_over(pair[0]) as stream:
        async with await FileWriteStream.from_path(path, atomic=True) as file:
            with thread(send_and_finish, pair[1], DATA):
                assert await stream.receive_file(file) == len(DATA)
            assert path.read_bytes() == BEFORE
        assert path.read_bytes() == DATA
        assert os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize("how", ["truncated", "reset", "cancelled", "disk full"])
async def test_an_atomic_stream_whose_transfer_failed_never_replaces_its_target(
    pair: Pair, path: Path, receive_route: str, how: str, monkeypatch: pytest.MonkeyPatch
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
                assert time.monotonic() - began < AT_ONCE
                file.close()
                out = b""
                while chunk := outlet.read(MIB):
                    out += chunk
                assert out + await receive_to_end(stream) == DATA


async def test_a_named_temporary_file_and_tmpfs_do_too(pair: Pair, receive_route: str) -> None:
    with tempfile.NamedTemporaryFile(dir="/dev/shm") as file:
        async with stream_over(pair[0]) as stream:
            with thread(send_and_finish, pair[1], DATA):
                assert await stream.receive_file(file) == len(DATA)
            assert file.tell() == len(DATA)
            file.seek(0)
            assert file.read() == DATA
            assert dict(stream.statistics().routes) == {receive_route: 1}


async def test_it_comes_over_a_unix_socket_too(path: Path, receive_route: str) -> None:
    ours, peer = socket.socketpair()
    peer.settimeout(BOUND)
    with ours, peer, open(path, "r+b") as file:
        async with stream_over(ours) as stream:
            with thread(send_and_finish, peer, DATA):
                assert await stream.receive_file(file) == len(DATA)
            assert path.read_bytes() == DATA
            assert dict(stream.statistics().routes) == {receive_route: 1}


async def test_a_device_takes_all(pair: Pair) -> None:
    with open("/dev/null", "wb", buffering=0) as file:
        async with stream_over(pair[0]) as stream:
            with thread(send_and_finish, pair[1], DATA):
                assert await stream.receive_file(file) == len(DATA)


# --- count -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, 4096, 500_000, len(DATA)])
async def test_exactly_count_bytes_are_taken(pair: Pair, path: Path, receive_route: str, count: int) -> None:
    with open(path, "wb") as file:
        async with stream_over(pair[0]) as stream:
            with thread(send_and_finish, pair[1], DATA):
                assert await stream.receive_file(file, count=count) == count
                assert file.tell() == count
                assert await receive_to_end(stream) == DATA[count:]
    assert path.read_bytes() == DATA[:count]


async def test_count_bytes_that_are_there_are_enough_without_an_end(pair: Pair, path: Path, receive_route: str) -> None:
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
    pair: Pair, path: Path, receive_route: str, offset: int | None, position: int, size: int
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
            await stream.receive_file(file)  # type: ignore[arg-type]
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
async def test_in_a_cancelled_scope_nothing_is_taken(
    pair: Pair, path: Path, receive_route: str, count: int | None
) -> None:
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
