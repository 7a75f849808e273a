"""``send_file``: any file, any part of it, by either route; the peer gets exactly what is reported, or RST."""

from __future__ import annotations

import errno
import gzip
import io
import mmap
import os
import re
import select
import socket
import struct
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.loops import Run
from support.sockets import Pair, connected, read_exactly, read_to_end, reset
from support.streams import stream_over
from support.threads import thread
from support.waiting import BOUND, until

from roket_trio import (
    BrokenResourceError,
    BusyResourceError,
    ClosedResourceError,
    CloseOutcome,
    FileReadStream,
    SocketStream,
    TruncatedError,
)
from roket_trio._connection.connection import NOTSENT_LOWAT
from roket_trio._kernel import page_cache, sendfile, tcp
from roket_trio._loops import current_loop
from roket_trio._routes.fair_share import SLOTS_MOST

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="sendfile, /proc and RST on demand as Linux has them")


MIB = 1 << 20

# Where no byte looks like its neighbours, so that a shift by any distance shows.
PATTERN = b"".join(struct.pack(">I", n * 2654435761 % (1 << 32)) for n in range(1 << 18))


def pattern(size: int) -> bytes:
    return (PATTERN * (size // len(PATTERN) + 1))[:size]


# --- peers ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def narrow() -> Iterator[Pair]:
    """A pair between which little can be under way, so that a big file stalls early."""
    with connected(send_buffer=65536, receive_buffer=65536) as sockets:
        yield sockets


async def until_stalled(stream: SocketStream) -> int:
    """Wait until a send has moved something and the kernel takes no more; returns how much it took."""
    poll = select.poll()
    poll.register(stream._raw_socket, select.POLLOUT)
    seen, quiet_since = -1, time.monotonic()
    with anyio.fail_after(BOUND):
        while True:
            sent = stream.statistics().sent_bytes
            if sent != seen or not sent or poll.poll(0):
                seen, quiet_since = sent, time.monotonic()
            elif time.monotonic() - quiet_since > 0.05:
                return sent
            await anyio.sleep(0.005)


async def cut_after(stream: SocketStream) -> tuple[int, int]:
    """The numbers "N of M bytes" by which the stream says that an earlier send was cut."""
    with pytest.raises(BrokenResourceError) as caught:
        await stream.send(b"more")
    numbers = re.search(r"(\d+) of (\d+) bytes", str(caught.value))
    assert numbers is not None, caught.value
    return int(numbers[1]), int(numbers[2])


async def finish_and_read(stream: SocketStream, peer: socket.socket) -> tuple[bytes, str]:
    """Close, and let the peer read to the end meanwhile."""
    with thread(read_to_end, peer) as received:
        await stream.aclose()
    return received.result(0)


# --- the routes -------------------------------------------------------------------------------------------------------


class Spy:
    """Stands for ``os.sendfile``: calls it, notes each call, and does what a test wants done before."""

    def __init__(self) -> None:
        self.real = os.sendfile
        self.moved: list[int] = []
        self.errors: list[int | None] = []
        self.threads: set[int] = set()
        self.before: Callable[[int], int | None] = lambda moved: None
        """Given what was moved so far: raises, returns the most to move now, or None."""

    def __call__(self, sink: int, source: int, offset: int, count: int) -> int:
        self.threads.add(threading.get_ident())
        try:
            most = self.before(sum(self.moved))
            moved = self.real(sink, source, offset, count if most is None else min(count, most))
        except OSError as error:
            self.errors.append(error.errno)
            raise
        self.moved.append(moved)
        return moved


@pytest.fixture
def spy(monkeypatch: pytest.MonkeyPatch) -> Spy:
    spy = Spy()
    monkeypatch.setattr(os, "sendfile", spy)
    return spy


ROUTES = ["sendfile", "read-send"]


@pytest.fixture(params=ROUTES)
def route(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both routes: the fast one, and the plain one with the fast one turned off."""
    name: str = request.param
    if name == "read-send":
        monkeypatch.setattr(sendfile, "AVAILABLE", False)
    return name


def refusing(number: int, *, after: int = 0) -> Callable[[int], int | None]:
    """A kernel that refuses once ``after`` bytes were moved."""

    def before(moved: int) -> int | None:
        if moved >= after:
            raise OSError(number, os.strerror(number))
        return after - moved

    return before


# --- every kind of source ---------------------------------------------------------------------------------------------

DATA = pattern(700_001)
Source = tuple[Any, bytes, Callable[[], bool]]


def _file_of(tmp_path: Path, data: bytes = DATA) -> Path:
    path = tmp_path / "source"
    path.write_bytes(data)
    return path


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
    file = stack.enter_context(tempfile.SpooledTemporaryFile(max_size=2 * MIB, dir=tmp_path))
    file.write(DATA)
    return file, DATA, lambda: file.tell() == len(DATA)


def _spooled_on_disk(stack: ExitStack, tmp_path: Path) -> Source:
    file = stack.enter_context(tempfile.SpooledTemporaryFile(max_size=10, dir=tmp_path))
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
    pair: Pair, tmp_path: Path, route: str, spy: Spy
) -> None:
    async with await FileReadStream.from_path(_file_of(tmp_path)) as file:
        assert await file.receive(100) == DATA[:100]
        async with stream_over(pair[0]) as stream:
            with thread(read_to_end, pair[1]) as received:
                assert await stream.send_file(file) == len(DATA)
                assert await file.receive(50) == DATA[100:150]
                assert await stream.send_file(file, offset=7, count=8) == 8
                assert dict(stream.statistics().routes) == {route: 2}
                await stream.aclose()
            assert received.result(0) == (DATA + DATA[7:15], "FIN")
        assert await file.tell() == 150
        assert bool(spy.moved) == (route == "sendfile")


async def test_it_goes_over_a_unix_socket_too(tmp_path: Path, route: str, spy: Spy) -> None:
    ours, peer = socket.socketpair()
    peer.settimeout(BOUND)
    with ours, peer, open(_file_of(tmp_path), "rb") as file:
        async with stream_over(ours) as stream:
            with thread(read_to_end, peer) as received:
                assert await stream.send_file(file, offset=1) == len(DATA) - 1
                assert dict(stream.statistics().routes) == {route: 1}
                await stream.aclose()
            assert received.result(0) == (DATA[1:], "FIN")
            assert bool(spy.moved) == (route == "sendfile")


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
            with anyio.fail_after(2):
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
    run: Run, pair: Pair, tmp_path: Path, route: str, offset: int
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


# --- offset and count -------------------------------------------------------------------------------------------------

SMALL = pattern(10_000)


PARTS: list[tuple[int, int | None, bytes]] = [
    (0, None, SMALL),
    (0, 0, b""),
    (0, 1, SMALL[:1]),
    (0, 10_000, SMALL),
    (0, 10_001, SMALL),
    (0, 1 << 62, SMALL),
    (1, None, SMALL[1:]),
    (9_999, None, SMALL[9_999:]),
    (9_999, 5, SMALL[9_999:]),
    (10_000, None, b""),
    (10_000, 5, b""),
    (4_096, 4_096, SMALL[4_096:8_192]),
]


@pytest.mark.parametrize("source", ["file", "memory"])
async def test_offset_and_count_say_which_part(pair: Pair, tmp_path: Path, route: str, source: str) -> None:
    with io.BytesIO(SMALL) if source == "memory" else open(_file_of(tmp_path, SMALL), "rb") as file:
        async with stream_over(pair[0]) as stream:
            for offset, count, expected in PARTS:
                sent = await stream.send_file(file, offset=offset, count=count)
                assert (offset, count, sent) == (offset, count, len(expected))
                assert file.tell() == 0
                await stream.send(b"|")  # nothing was cut
                assert read_exactly(pair[1], sent + 1) == expected + b"|"
            assert await finish_and_read(stream, pair[1]) == (b"", "FIN")


def _closed(path: Path) -> Any:
    file = open(path, "rb")
    file.close()
    return file


REFUSED: list[tuple[str, Callable[[Path], Any], dict[str, Any], type[Exception], str]] = [
    ("a negative offset", lambda p: open(p, "rb"), {"offset": -1}, ValueError, "negative"),
    ("a negative count", lambda p: open(p, "rb"), {"count": -1}, ValueError, "negative"),
    ("an offset beyond the end", lambda p: open(p, "rb"), {"offset": 10_001}, ValueError, "beyond the end"),
    ("an offset beyond any file", lambda p: open("/proc/version", "rb"), {"offset": 1 << 63}, ValueError, "beyond"),
    ("a negative offset in memory", lambda p: io.BytesIO(SMALL), {"offset": -1}, ValueError, "negative"),
    ("an offset into a device", lambda p: open("/dev/zero", "rb"), {"offset": 1, "count": 1}, ValueError, "offset"),
    ("a text file", lambda p: open(p), {}, TypeError, "text mode"),
    ("text in memory", lambda p: io.StringIO("x"), {}, TypeError, "text mode"),
    ("a file for writing", lambda p: open(p, "ab"), {}, ValueError, "open for writing only"),
    ("a closed file", _closed, {}, ValueError, "closed"),
    ("a path", lambda p: str(p), {}, TypeError, r"binary file, not a path; open it first: open\('.*', 'rb'\)"),
    ("bytes", lambda p: b"bytes", {}, TypeError, "binary file"),
    ("nothing", lambda p: None, {}, TypeError, "binary file"),
    ("a truth value", lambda p: True, {}, TypeError, "binary file"),
    ("a negative descriptor", lambda p: -1, {}, ValueError, "negative"),
    ("no descriptor", lambda p: 999_999, {}, OSError, "Bad file descriptor"),
    ("an offset that is no integer", lambda p: open(p, "rb"), {"offset": 1.5}, TypeError, "int|float"),
    ("a count that is no integer", lambda p: open(p, "rb"), {"count": "5"}, TypeError, "int|str"),
]


@pytest.mark.parametrize(
    ("make", "arguments", "error", "message"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED]
)
async def test_what_cannot_be_sent_is_refused_before_anything_moves(
    pair: Pair,
    tmp_path: Path,
    make: Callable[[Path], Any],
    arguments: dict[str, Any],
    error: type[Exception],
    message: str,
) -> None:
    file = make(_file_of(tmp_path, SMALL))
    async with stream_over(pair[0]) as stream:
        with pytest.raises(error, match=message):
            await stream.send_file(file, **arguments)
        if hasattr(file, "close"):
            file.close()
        await stream.send(b"still here")
        assert await finish_and_read(stream, pair[1]) == (b"still here", "FIN")


def test_a_directory_is_refused(run: Run, pair: Pair, tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)

    async def main() -> None:
        async with stream_over(pair[0]) as stream:
            with pytest.raises(IsADirectoryError):
                await stream.send_file(fd)
            assert not stream.statistics().sent_bytes

    try:
        run(main)
    finally:
        os.close(fd)


@pytest.mark.parametrize("state", ["closed", "after send_eof"])
async def test_a_stream_that_cannot_send_says_so_whatever_the_file(pair: Pair, tmp_path: Path, state: str) -> None:
    with open(_file_of(tmp_path), "rb") as file:
        async with stream_over(pair[0]) as stream:
            await (stream.aclose() if state == "closed" else stream.send_eof())
            expected = ClosedResourceError if state == "closed" else BrokenResourceError
            for source in (file, "no file at all"):
                with pytest.raises(expected):
                    await stream.send_file(source)
    assert read_to_end(pair[1])[0] == b""


async def test_a_cancelled_scope_moves_nothing_and_cuts_nothing(pair: Pair, tmp_path: Path, route: str) -> None:
    with open(_file_of(tmp_path), "rb") as file:
        async with stream_over(pair[0]) as stream:
            for count in (None, 0):
                with anyio.CancelScope() as scope:
                    scope.cancel()
                    await stream.send_file(file, count=count)
                assert scope.cancelled_caught
            assert not stream.statistics().sent_bytes
            await stream.send(b"whole")
            assert await finish_and_read(stream, pair[1]) == (b"whole", "FIN")


# --- both routes are one ----------------------------------------------------------------------------------------------

KINDS = ["sendfile", "turned off", "refused", "refused in the middle", "partial"]


@settings(
    max_examples=10,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def test_every_route_gives_the_same_bytes_and_the_same_numbers(
    run: Run, tmp_path: Path, spy: Spy, data: st.DataObject
) -> None:
    """Random files, parts, buffers, cancellations: what is reported is what the peer gets, then FIN, or RST if cut."""
    size = data.draw(st.integers(1, 600_000) | st.integers(1, 5_000), "size")
    offset = data.draw(st.integers(0, size), "offset")
    count = data.draw(st.none() | st.integers(0, size + 10), "count")
    buffers = {
        "send_buffer": data.draw(st.sampled_from([0, 20_000, 65_536]), "send buffer"),
        "receive_buffer": data.draw(st.sampled_from([0, 65_536]), "receive buffer"),
    }
    expected = pattern(size)[offset:][:count]
    # How much the peer reads before it stops until the transfer is cancelled; None: it reads all.
    stop_at = data.draw(st.none() | st.integers(0, len(expected)), "stop at")
    middle = data.draw(st.integers(1, max(1, len(expected))), "refused after")
    pieces = data.draw(st.lists(st.integers(1, 70_000), min_size=1, max_size=5), "pieces")
    (tmp_path / "source").write_bytes(pattern(size))

    async def transfer(kind: str) -> int | None:
        """The number returned; None if it was cancelled."""
        sent: int | None = None
        with connected(**buffers) as (ours, peer), open(tmp_path / "source", "rb") as file:
            async with stream_over(ours) as stream:
                with thread(read_exactly, peer, len(expected) if stop_at is None else stop_at) as head:

                    async def cancel_when_stalled() -> None:
                        await until(head.done)
                        if expected:
                            await until_at_rest(stream)
                        scope.cancel()

                    async with anyio.create_task_group() as tasks:
                        with anyio.CancelScope() as scope:
                            if stop_at is not None:
                                tasks.start_soon(cancel_when_stalled)
                            sent = await stream.send_file(file, offset=offset, count=count)
                        tasks.cancel_scope.cancel()
                accepted = stream.statistics().sent_bytes
                assert expected.startswith(head.result(0))
                if sent is None and 0 < accepted < len(expected):
                    assert await cut_after(stream) == (accepted, len(expected))
                rest = read_exactly(peer, accepted - len(head.result(0)))
                assert head.result(0) + rest == expected[:accepted]
                # Not a byte more, and an end that tells.
                end = "RST" if 0 < accepted < len(expected) else "FIN"
                assert await finish_and_read(stream, peer) == (b"", end)
                if sent is not None:
                    assert sent == accepted == len(expected)
                statistics = stream.statistics()
                fell_back = kind.startswith("refused") and bool(spy.errors) and spy.errors[-1] == errno.EINVAL
                assert dict(statistics.fallbacks) == ({"sendfile": 1} if fell_back else {})
                if accepted and kind != "refused in the middle":
                    assert dict(statistics.routes) == {
                        "sendfile" if kind in ("sendfile", "partial") else "read-send": 1
                    }
        return sent

    async def until_at_rest(stream: SocketStream) -> None:
        seen, since = -1, time.monotonic()
        while time.monotonic() - since < 0.02:
            sent = stream.statistics().sent_bytes
            if sent != seen:
                seen, since = sent, time.monotonic()
            await anyio.sleep(0.002)

    async def main() -> None:
        results = {}
        for kind in KINDS:
            spy.moved.clear()
            spy.errors.clear()
            turn = iter(range(1 << 30))
            spy.before = {
                "refused": refusing(errno.EINVAL),
                "refused in the middle": refusing(errno.EINVAL, after=middle),
                "partial": lambda moved, turn=turn: pieces[next(turn) % len(pieces)],
            }.get(kind, lambda moved: None)
            sendfile.AVAILABLE = kind != "turned off"
            try:
                results[kind] = await transfer(kind)
            finally:
                sendfile.AVAILABLE = True
            assert bool(sum(spy.moved)) == (kind in ("sendfile", "partial", "refused in the middle") and bool(expected))
        if stop_at is None:
            assert set(results.values()) == {len(expected)}

    run(main)


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EINVAL], ids=errno.errorcode.get)
@pytest.mark.parametrize("after", [0, 300_000])
async def test_what_the_kernel_refuses_goes_the_plain_way_from_the_byte_reached_and_is_counted(
    pair: Pair, tmp_path: Path, spy: Spy, number: int, after: int
) -> None:
    spy.before = refusing(number, after=after)

    with open(_file_of(tmp_path), "rb") as file:
        async with stream_over(pair[0]) as stream:
            with thread(read_to_end, pair[1]) as received:
                assert await stream.send_file(file) == len(DATA)
                await stream.aclose()
            assert received.result(0) == (DATA, "FIN")
            statistics = stream.statistics()
            assert dict(statistics.fallbacks) == {"sendfile": 1}
            assert statistics.routes["read-send"] == 1
            assert statistics.sent_bytes == len(DATA)
            assert spy.errors[-1] == number
            assert sum(spy.moved) == after


async def test_a_full_socket_is_waited_for_in_the_event_loop(narrow: Pair, tmp_path: Path, spy: Spy) -> None:
    """EAGAIN by the kernel itself: it is met, and all that is sent is sent by the loop's own thread."""
    data = pattern(4 * MIB)

    with open(_file_of(tmp_path, data), "rb") as file:
        async with stream_over(narrow[0]) as stream:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(stream.send_file, file)
                await until_stalled(stream)
                assert errno.EAGAIN in spy.errors
                with thread(read_exactly, narrow[1], len(data)) as received:
                    await until(received.done)
            assert received.result(0) == data
            assert spy.threads == {threading.get_ident()}
            assert await finish_and_read(stream, narrow[1]) == (b"", "FIN")


# --- failures ---------------------------------------------------------------------------------------------------------


def failing_reads(monkeypatch: pytest.MonkeyPatch, path: Path, number: int, after: int) -> None:
    """Every way to read ``path`` by descriptor fails from byte ``after`` on, as a broken disk does."""
    inode = path.stat().st_ino
    real = {name: getattr(os, name) for name in ("sendfile", "preadv", "pread", "read", "readv")}

    def check(fd: int, offset: int, count: int) -> int:
        if os.fstat(fd).st_ino == inode:
            if offset >= after:
                raise OSError(number, os.strerror(number))
            return min(count, after - offset)
        return count

    def fake_sendfile(sink: int, source: int, offset: int, count: int) -> int:
        moved: int = real["sendfile"](sink, source, offset, check(source, offset, count))
        return moved

    def fake_preadv(fd: int, buffers: Any, offset: int, flags: int = 0) -> int:
        (buffer,) = buffers
        if flags and offset >= after:
            raise OSError(errno.EAGAIN, "not cached")
        view = memoryview(buffer)
        count: int = real["preadv"](fd, [view[: check(fd, offset, view.nbytes)]], offset, flags)
        return count

    def fake_pread(fd: int, count: int, offset: int) -> bytes:
        data: bytes = real["pread"](fd, check(fd, offset, count), offset)
        return data

    monkeypatch.setattr(os, "sendfile", fake_sendfile)
    monkeypatch.setattr(os, "preadv", fake_preadv)
    monkeypatch.setattr(os, "pread", fake_pread)


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE], ids=errno.errorcode.get)
async def test_a_disk_that_fails_in_the_middle_is_named_and_cuts_the_stream(
    pair: Pair, tmp_path: Path, route: str, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    path = _file_of(tmp_path)
    failing_reads(monkeypatch, path, number, 300_000)

    with open(path, "rb") as file:
        async with stream_over(pair[0]) as stream:
            with thread(read_exactly, pair[1], 300_000) as received:
                with pytest.raises(BrokenResourceError) as caught:
                    await stream.send_file(file)
            assert received.result(0) == DATA[:300_000]
            assert str(path) in str(caught.value)
            assert "reading" in str(caught.value)
            assert "300000 bytes" in str(caught.value)
            assert caught.value.errno == number
            assert f"[Errno {number}]" in str(caught.value)
            assert isinstance(caught.value.__cause__, OSError)
            assert await cut_after(stream) == (300_000, len(DATA))
            assert await finish_and_read(stream, pair[1]) == (b"", "RST")


async def test_a_sendfile_error_that_is_the_files_is_named_too(pair: Pair, tmp_path: Path, spy: Spy) -> None:
    """The pages were cached when asked for, but the call itself fails."""
    spy.before = refusing(errno.EIO, after=50_000)

    with open(_file_of(tmp_path), "rb") as file:
        async with stream_over(pair[0]) as stream:
            with pytest.raises(BrokenResourceError, match=r"reading .*source failed after 50000 bytes") as caught:
                await stream.send_file(file)
            assert caught.value.errno == errno.EIO
            assert not stream.statistics().fallbacks
            assert await cut_after(stream) == (50_000, len(DATA))


async def test_a_disk_that_fails_at_the_first_byte_cuts_nothing(
    pair: Pair, tmp_path: Path, route: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = _file_of(tmp_path)
    failing_reads(monkeypatch, path, errno.EIO, 0)

    with open(path, "rb") as file:
        async with stream_over(pair[0]) as stream:
            with pytest.raises(BrokenResourceError, match="after 0 bytes"):
                await stream.send_file(file)
            await stream.send(b"an answer all the same")
            assert await finish_and_read(stream, pair[1]) == (b"an answer all the same", "FIN")


async def test_an_object_that_fails_in_the_middle_is_named(pair: Pair, tmp_path: Path) -> None:
    path = tmp_path / "source.gz"
    path.write_bytes(gzip.compress(DATA, 1)[:-8] + bytes(8))  # its checksum is wrong

    with gzip.open(path) as file:
        async with stream_over(pair[0]) as stream:
            with thread(read_to_end, pair[1]) as received:
                with pytest.raises(BrokenResourceError, match="GzipFile"):
                    await stream.send_file(file)
                await stream.aclose()
            data, end = received.result(0)
            assert DATA.startswith(data)
            assert end == "RST"


async def test_a_peer_that_resets_is_the_connections_fault_not_the_files(
    narrow: Pair, tmp_path: Path, route: str
) -> None:
    path = _file_of(tmp_path, pattern(4 * MIB))

    with open(path, "rb") as file:
        async with stream_over(narrow[0]) as stream:
            errors = []

            async def send() -> None:
                with pytest.raises(BrokenResourceError) as caught:
                    await stream.send_file(file)
                errors.append(caught.value)

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(send)
                sent = await until_stalled(stream)
                reset(narrow[1])
            (error,) = errors
            assert "the sink is gone" in str(error)
            assert "reading" not in str(error)
            assert error.errno in (errno.ECONNRESET, errno.EPIPE)
            told = " ".join([str(error), *getattr(error, "__notes__", [])])
            assert f"{sent} bytes" in told
            assert str(path) in told
            for call in (stream.receive, lambda: stream.send_file(file)):
                with pytest.raises(BrokenResourceError, match="the connection is gone"):
                    await call()
            await stream.aclose()
            assert stream.close_report is not None
            assert stream.close_report.outcome is CloseOutcome.RESET


@pytest.mark.parametrize("by", ["sendfile", "send"])
async def test_epipe_is_the_connections_fault(pair: Pair, tmp_path: Path, by: str, spy: Spy) -> None:
    with open(_file_of(tmp_path), "rb") as file:
        async with stream_over(pair[0]) as stream:
            source: Any = file if by == "sendfile" else io.BytesIO(DATA)
            stream._raw_socket.shutdown(socket.SHUT_WR)  # as another holder of the socket may do
            with pytest.raises(BrokenResourceError, match="the sink is gone") as caught:
                await stream.send_file(source)
            assert caught.value.errno == errno.EPIPE
            assert (errno.EPIPE in spy.errors) == (by == "sendfile")


BIG = 4 * MIB + 123


@asynccontextmanager
async def stalled(stream: SocketStream, file: Any, *, count: int | None = None) -> AsyncIterator[Stall]:
    """A transfer that has moved something and waits for its peer, which does not read."""
    stall = Stall()

    async def send() -> None:
        try:
            stall.result = await stream.send_file(file, count=count)
        except Exception as error:
            stall.error = error
        stall.seconds = time.monotonic() - stall.since

    async with anyio.create_task_group() as tasks:
        stall.scope = tasks.cancel_scope
        tasks.start_soon(send)
        stall.sent = await until_stalled(stream)
        stall.since = time.monotonic()
        yield stall


class Stall:
    scope: anyio.CancelScope
    sent = 0
    since = 0.0
    seconds = 0.0
    result: int | None = None
    error: Exception | None = None


async def test_a_file_that_shrinks_is_truncated_and_cuts_the_stream(narrow: Pair, tmp_path: Path, route: str) -> None:
    data = pattern(BIG)
    path = _file_of(tmp_path, data)

    with open(path, "rb") as file:
        async with stream_over(narrow[0]) as stream:
            async with stalled(stream, file) as stall:
                # On a page's edge, and beyond what either route has already taken out of the file.
                left = stall.sent // mmap.PAGESIZE * mmap.PAGESIZE + MIB
                assert left < BIG
                os.truncate(path, left)
                with thread(read_exactly, narrow[1], left) as received:
                    await until(lambda: stall.error is not None)
                assert received.result(0) == data[:left]
            error = stall.error
            assert isinstance(error, TruncatedError)
            assert error.bytes_moved == left
            assert error.path == str(path)
            assert str(path) in str(error)
            assert f"{left} of {BIG} bytes" in str(error)
            assert await cut_after(stream) == (left, BIG)
            assert await finish_and_read(stream, narrow[1]) == (b"", "RST")
            assert stream.close_report is not None
            assert stream.close_report.outcome is CloseOutcome.ABORTED


async def test_a_file_that_grows_is_sent_to_the_size_it_had(narrow: Pair, tmp_path: Path, route: str) -> None:
    data = pattern(BIG)
    path = _file_of(tmp_path, data)

    with open(path, "rb") as file, open(path, "ab", buffering=0) as writer:
        async with stream_over(narrow[0]) as stream:
            async with stalled(stream, file) as stall:
                writer.write(b"more" * 100_000)
                with thread(read_exactly, narrow[1], BIG) as received:
                    await until(received.done)
                assert received.result(0) == data
            assert stall.result == BIG
            assert await finish_and_read(stream, narrow[1]) == (b"", "FIN")


# --- cancellation and close -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["file", "memory", "device"])
async def test_a_cancelled_transfer_returns_at_once_and_the_peer_can_tell(
    narrow: Pair, tmp_path: Path, route: str, source: str
) -> None:
    data = bytes(BIG) if source == "device" else pattern(BIG)

    with ExitStack() as stack:
        if source == "memory":
            file: Any = io.BytesIO(data)
        else:
            file = stack.enter_context(open(_file_of(tmp_path, data) if source == "file" else "/dev/zero", "rb"))
        async with stream_over(narrow[0]) as stream:
            async with stalled(stream, file, count=BIG) as stall:
                stall.scope.cancel()
            assert stall.seconds == 0  # it neither returned nor failed: it was cancelled
            assert time.monotonic() - stall.since < 1
            assert stream.statistics().sent_bytes == stall.sent
            assert await cut_after(stream) == (stall.sent, BIG)
            with pytest.raises(BrokenResourceError, match=f"{stall.sent} of {BIG} bytes"):
                await stream.send_file(file)
            if source == "memory":
                assert file.tell() == 0
            assert read_exactly(narrow[1], stall.sent) == data[: stall.sent]
            narrow[1].sendall(b"receiving still works")
            assert await stream.receive() == b"receiving still works"
            assert await finish_and_read(stream, narrow[1]) == (b"", "RST")


async def test_a_cancelled_transfer_that_is_never_read_is_reset(narrow: Pair, tmp_path: Path, route: str) -> None:
    with open(_file_of(tmp_path, pattern(BIG)), "rb") as file:
        async with stream_over(narrow[0]) as stream:
            async with stalled(stream, file) as stall:
                stall.scope.cancel()
            began = time.monotonic()
            await stream.aclose()
            assert time.monotonic() - began < 1
            assert stream.close_report is not None
            assert stream.close_report.outcome is CloseOutcome.ABORTED
            data, end = read_to_end(narrow[1])
            assert end == "RST"
            assert len(data) <= stall.sent


@pytest.mark.parametrize("close", ["aclose", "abort"])
async def test_a_close_by_another_task_ends_a_transfer_and_cuts_it(
    narrow: Pair, tmp_path: Path, route: str, close: str
) -> None:
    with open(_file_of(tmp_path, pattern(BIG)), "rb") as file:
        async with stream_over(narrow[0]) as stream:
            async with stalled(stream, file) as stall:
                if close == "abort":
                    stream.abort()
                else:
                    await stream.aclose()
            assert isinstance(stall.error, ClosedResourceError)
            assert stall.seconds < 1
            assert stream.close_report is not None
            assert stream.close_report.outcome is CloseOutcome.ABORTED
            assert read_to_end(narrow[1])[1] == "RST"


async def test_a_close_while_a_pipe_is_waited_for_ends_the_transfer(pair: Pair) -> None:
    reader, writer = os.pipe()
    with open(reader, "rb", buffering=0) as file, open(writer, "wb", buffering=0) as feed:
        async with stream_over(pair[0]) as stream:
            errors: list[type[BaseException]] = []

            async def send() -> None:
                try:
                    await stream.send_file(file)
                except ClosedResourceError as error:
                    errors.append(type(error))

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(send)
                feed.write(b"some")
                await until(lambda: stream.statistics().sent_bytes == 4)
                await stream.aclose()
                with anyio.move_on_after(2):
                    await until(lambda: bool(errors))
                tasks.cancel_scope.cancel()
            assert errors == [ClosedResourceError]
        assert read_to_end(pair[1])[1] == "RST"  # the pipe was not at its end


async def test_a_cancellation_while_a_pipe_is_waited_for_loses_none_of_its_bytes(pair: Pair) -> None:
    reader, writer = os.pipe()
    with open(reader, "rb", buffering=0) as file, open(writer, "wb", buffering=0) as feed:
        async with stream_over(pair[0]) as stream:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(stream.send_file, file)
                feed.write(b"some")
                await until(lambda: stream.statistics().sent_bytes == 4)
                await anyio.wait_all_tasks_blocked()
                tasks.cancel_scope.cancel()
            feed.write(b"left")
            assert file.read(10) == b"left"
            with pytest.raises(BrokenResourceError, match="4 of an unknown number of bytes"):
                await stream.send(b"more")
            assert await finish_and_read(stream, pair[1]) == (b"some", "RST")


# --- cold files -------------------------------------------------------------------------------------------------------


# Between the places that the library asks for (each 128 KiB from where it begins): a question brings in its page.
_PROBES = range(64 << 10, 1 << 40, 128 << 10)


def is_cold(fd: int, size: int) -> bool:
    """Whether the kernel says that a read would have to wait for the disk, wherever it is."""
    for offset in _PROBES[: size // (128 << 10)]:
        try:
            os.preadv(fd, [bytearray(1)], offset, os.RWF_NOWAIT)
        except BlockingIOError:
            continue
        return False
    return True


@contextmanager
def cold_file(tmp_path: Path, data: bytes) -> Iterator[io.BufferedReader]:
    """A file whose pages are not cached, proven so."""
    path = _file_of(tmp_path, data)
    with open(path, "rb") as file, open(path, "rb") as probe:
        os.fsync(file.fileno())
        if not page_cache.can_tell(file.fileno()):
            pytest.skip(f"the file system of {tmp_path} does not tell what is cached")
        os.posix_fadvise(probe.fileno(), 0, 0, os.POSIX_FADV_RANDOM)  # no read-ahead
        until_cold = time.monotonic() + BOUND
        while True:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            if is_cold(probe.fileno(), len(data)):
                break
            assert time.monotonic() < until_cold, "the pages stay in the cache"
        yield file


class FetchSpy:
    """Stands for ``pagecache.fetch``."""

    def __init__(self) -> None:
        self.real = page_cache.fetch
        self.threads: list[int] = []
        self.fetched: list[tuple[int, int]] = []
        self.before: Callable[[], None] = lambda: None

    def __call__(self, fd: int, offset: int, count: int) -> int:
        self.threads.append(threading.get_ident())
        self.before()
        self.fetched.append((offset, count))
        return self.real(fd, offset, count)


@pytest.fixture
def fetches(monkeypatch: pytest.MonkeyPatch) -> FetchSpy:
    spy = FetchSpy()
    monkeypatch.setattr(page_cache, "fetch", spy)
    return spy


async def test_a_cold_file_is_fetched_by_a_thread_while_the_loop_goes_on(
    pair: Pair, tmp_path: Path, fetches: FetchSpy, spy: Spy
) -> None:
    data = pattern(6 * MIB + 77)

    ticks = 0
    ticked = threading.Event()

    def wait_for_ticks() -> None:
        # The disk takes as long as the loop needs for 50 more turns: a blocked loop would never make them.
        ticked.clear()
        assert ticked.wait(BOUND), "the event loop stood still while the disk was read"

    async def tick() -> None:
        nonlocal ticks
        while True:
            ticks += 1
            if ticks % 50 == 0:
                ticked.set()
            await anyio.lowlevel.checkpoint()

    fetches.before = wait_for_ticks
    with cold_file(tmp_path, data) as file:
        async with stream_over(pair[0]) as stream, anyio.create_task_group() as tasks:
            tasks.start_soon(tick)
            with thread(read_to_end, pair[1]) as received:
                assert await stream.send_file(file, offset=5) == len(data) - 5
                routes = dict(stream.statistics().routes)
                await stream.aclose()
            tasks.cancel_scope.cancel()
        assert received.result(0) == (data[5:], "FIN")
    assert routes == {"sendfile": 1}
    assert fetches.fetched[0][0] == 5
    assert threading.get_ident() not in fetches.threads
    assert spy.threads == {threading.get_ident()}


async def test_a_cached_file_needs_no_thread(pair: Pair, tmp_path: Path, fetches: FetchSpy) -> None:
    with open(_file_of(tmp_path), "rb") as file:
        if not page_cache.can_tell(file.fileno()):
            pytest.skip(f"the file system of {tmp_path} does not tell what is cached")
        async with stream_over(pair[0]) as stream:
            with thread(read_to_end, pair[1]):
                assert await stream.send_file(file) == len(DATA)
                await stream.aclose()
    assert not fetches.fetched


async def test_a_file_system_that_cannot_tell_is_asked_in_a_thread(
    pair: Pair, tmp_path: Path, fetches: FetchSpy
) -> None:
    with tempfile.NamedTemporaryFile(dir="/dev/shm") as file:
        file.write(DATA)
        async with stream_over(pair[0]) as stream:
            with thread(read_to_end, pair[1]) as received:
                assert await stream.send_file(file) == len(DATA)
                await stream.aclose()
            assert received.result(0) == (DATA, "FIN")
    assert fetches.fetched
    assert threading.get_ident() not in fetches.threads


@pytest.mark.parametrize("interruption", ["cancelled", "closed", "aborted"])
async def test_an_interruption_while_the_disk_is_waited_for_waits_for_the_thread_and_sends_nothing(
    pair: Pair, tmp_path: Path, fetches: FetchSpy, spy: Spy, interruption: str
) -> None:
    release = threading.Event()
    fetches.before = lambda: None if release.wait(BOUND) else pytest.fail("nobody released the disk")
    ended: list[type[BaseException] | None] = []
    with cold_file(tmp_path, DATA) as file:
        async with stream_over(pair[0]) as stream, anyio.create_task_group() as tasks:
            scope = anyio.CancelScope()

            async def send() -> None:
                with scope:
                    try:
                        await stream.send_file(file)
                    except ClosedResourceError as error:
                        ended.append(type(error))
                        return
                ended.append(None if scope.cancelled_caught else AssertionError)

            tasks.start_soon(send)
            await until(lambda: bool(fetches.threads))
            if interruption == "cancelled":
                scope.cancel()
            elif interruption == "aborted":
                stream.abort()
            else:
                await stream.aclose()
            for _ in range(20):
                await anyio.lowlevel.checkpoint()
            assert not ended, "the thread still reads the caller's file"
            release.set()
            await until(lambda: bool(ended))
            assert ended == [None if interruption == "cancelled" else ClosedResourceError]
            assert not spy.moved
            if interruption == "cancelled":
                await stream.send(b"nothing was cut")
                assert await finish_and_read(stream, pair[1]) == (b"nothing was cut", "FIN")
            else:
                assert read_to_end(pair[1]) == (b"", "FIN" if interruption == "closed" else "RST")


async def test_a_page_cache_that_knows_nothing_still_sends_all(
    pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fetches: FetchSpy
) -> None:
    """Python without RWF_NOWAIT, or a kernel before 4.14."""
    monkeypatch.setattr(page_cache, "RWF_NOWAIT", None)

    with open(_file_of(tmp_path), "rb") as file:
        async with stream_over(pair[0]) as stream:
            with thread(read_to_end, pair[1]) as received:
                assert await stream.send_file(file) == len(DATA)
                assert dict(stream.statistics().routes) == {"sendfile": 1}
                await stream.aclose()
            assert received.result(0) == (DATA, "FIN")
    assert fetches.fetched


# --- one at a time ----------------------------------------------------------------------------------------------------


async def test_while_another_task_sends_it_is_busy_and_the_other_way_round(
    narrow: Pair, tmp_path: Path, route: str
) -> None:
    data = pattern(BIG)

    with open(_file_of(tmp_path, data), "rb") as file:
        async with stream_over(narrow[0]) as stream:
            async with stalled(stream, file) as stall:
                for call in (
                    lambda: stream.send(b"x"),
                    lambda: stream.send_file(io.BytesIO(b"x")),
                    lambda: stream.send_file(file),
                    stream.send_eof,
                ):
                    with pytest.raises(BusyResourceError):
                        await call()
                narrow[1].sendall(b"the other direction is free")
                assert await stream.receive() == b"the other direction is free"
                with thread(read_exactly, narrow[1], BIG) as received:
                    await until(received.done)
            assert stall.result == BIG
            assert received.result(0) == data
            assert await finish_and_read(stream, narrow[1]) == (b"", "FIN")


async def test_while_a_send_is_under_way_it_is_busy(narrow: Pair, tmp_path: Path) -> None:
    with open(_file_of(tmp_path), "rb") as file:
        async with stream_over(narrow[0]) as stream, anyio.create_task_group() as tasks:
            item = pattern(BIG)
            tasks.start_soon(stream.send, item)
            await until_stalled(stream)
            with pytest.raises(BusyResourceError):
                await stream.send_file(file)
            with thread(read_exactly, narrow[1], BIG) as received:
                await until(received.done)
            assert received.result(0) == item


async def test_a_lent_stream_is_busy_until_it_is_given_back(
    narrow: Pair, pair: Pair, tmp_path: Path, route: str
) -> None:
    data = pattern(BIG)

    async with await FileReadStream.from_path(_file_of(tmp_path, data)) as file:
        async with stream_over(narrow[0]) as stream, stream_over(pair[0]) as other:
            assert await file.receive(10) == data[:10]
            async with stalled(stream, file) as stall:
                for call in (file.receive, lambda: file.receive_into(bytearray(5)), file.receive_some):
                    with pytest.raises(BusyResourceError):
                        await call()
                with pytest.raises(BusyResourceError):
                    await other.send_file(file)
                await other.send(b"|")
                stall.scope.cancel()
            assert await file.receive(10) == data[10:20]
            assert await other.send_file(file, count=5) == 5
            assert await finish_and_read(other, pair[1]) == (b"|" + data[:5], "FIN")
    ours, peer = socket.socketpair()
    with ours, peer:
        async with stream_over(ours) as stream:
            with pytest.raises(ClosedResourceError):
                await stream.send_file(file)


async def test_a_thousand_small_files_leave_nothing_behind(pair: Pair, tmp_path: Path, route: str) -> None:
    """Position and count hold over many transfers on one connection, and nothing stays open (see conftest)."""

    with open(_file_of(tmp_path, SMALL), "rb") as file:
        async with stream_over(pair[0]) as stream:
            with thread(read_to_end, pair[1]) as received:
                for n in range(1000):
                    assert await stream.send_file(file, offset=n, count=10) == 10
                assert dict(stream.statistics().routes) == {route: 1000}
                await stream.aclose()
            assert received.result(0) == (b"".join(SMALL[n : n + 10] for n in range(1000)), "FIN")


# --- turns of the loop -----------------------------------------------------------------------------------------------


async def test_the_first_slice_waits_for_no_turn_of_the_loop_and_the_turns_come_all_the_same(
    pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thousand transfers that begin in one turn: the receiver has work while they do."""
    path = _file_of(tmp_path, pattern(MIB))
    seen: list[str] = []

    def sent(*arguments: int) -> int:
        seen.append("slice")
        return plain(*arguments)

    plain = sendfile.sendfile
    monkeypatch.setattr(sendfile, "sendfile", sent)

    async with stream_over(pair[0]) as stream:
        loop = current_loop()
        turn = type(loop).checkpoint

        async def checkpoint(loop: Any) -> None:
            seen.append("turn")
            await turn(loop)

        monkeypatch.setattr(type(loop), "checkpoint", checkpoint)
        with thread(read_to_end, pair[1]) as received, path.open("rb") as file:
            loop.yield_at = 0.0  # a schedule point is due
            await stream.send_file(file)
            assert seen[0] == "slice", (seen, stream.statistics())
            for _ in range(20):
                await stream.send_file(file, count=1)
            assert seen.count("turn") >= 20 / SLOTS_MOST
            seen.clear()
            loop.yield_at = 0.0
            await stream.send_file(file, count=0)
            assert seen == ["turn"]
            await stream.aclose()
        assert received.result(0) == (pattern(MIB) + pattern(1) * 20, "FIN")


async def test_a_small_file_leaves_the_limit_of_what_is_unsent_alone(
    pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = _file_of(tmp_path, pattern(MIB))
    limits: list[int] = []
    lift = tcp.limit_unsent

    def limited(sock: socket.socket, count: int) -> None:
        limits.append(count)
        lift(sock, count)

    async with stream_over(pair[0]) as stream:
        monkeypatch.setattr(tcp, "limit_unsent", limited)
        with thread(read_to_end, pair[1]) as received, path.open("rb") as file:
            await stream.send_file(file, count=NOTSENT_LOWAT)
            assert limits == []
            await stream.send_file(file, count=NOTSENT_LOWAT + 1)
            assert limits == [tcp.NO_LIMIT, NOTSENT_LOWAT]
            await stream.aclose()
        assert received.result(0) == (pattern(NOTSENT_LOWAT) + pattern(NOTSENT_LOWAT + 1), "FIN")
