"""``send_file`` and the loop: cold files, one at a time, turns."""

from __future__ import annotations

import io
import socket
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from support.cold_files import make_cold
from support.patterns import DATA, MIB, pattern
from support.sent_files import BIG, SMALL, Spy, _file_of, finish_and_read, stalled, until_stalled
from support.sockets import Pair, read_exactly, read_to_end
from support.streams import stream_over
from support.threads import thread
from support.waiting import BOUND, until

from roket_trio import (
    BusyResourceError,
    ClosedResourceError,
    FileReadStream,
)
from roket_trio._kernel import page_cache, sendfile, tcp
from roket_trio._kernel.tcp import NOTSENT_LOWAT
from roket_trio._loops import current_loop
from roket_trio._routes.fair_share import SLOTS_MOST

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="sendfile, /proc and RST on demand as Linux has them")


# --- cold files -------------------------------------------------------------------------------------------------------


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


@pytest.fixture
def cold_fetches(fetches: FetchSpy, monkeypatch: pytest.MonkeyPatch) -> FetchSpy:
    """The same, of a disk that is slower than a question for a page; not each is (``until_refused``)."""
    real = page_cache.is_cached
    monkeypatch.setattr(page_cache, "is_cached", lambda *asked: bool(fetches.fetched) and real(*asked))
    return fetches


def _cold_file_of(tmp_path: Path, data: bytes) -> Path:
    """A file whose pages are on the disk alone, where the file system has one and tells."""
    path = _file_of(tmp_path, data)
    with open(path, "rb") as file:
        if page_cache.can_tell(file.fileno()):
            make_cold(path)
    return path


async def test_a_cold_file_is_fetched_by_a_thread_while_the_loop_goes_on(
    pair: Pair, tmp_path: Path, cold_fetches: FetchSpy, spy: Spy
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

    cold_fetches.before = wait_for_ticks
    with open(_cold_file_of(tmp_path, data), "rb") as file:
        async with stream_over(pair[0]) as stream, anyio.create_task_group() as tasks:
            tasks.start_soon(tick)
            with thread(read_to_end, pair[1]) as received:
                assert await stream.send_file(file, offset=5) == len(data) - 5
                routes = dict(stream.statistics().routes)
                await stream.aclose()
            tasks.cancel_scope.cancel()
        assert received.result(0) == (data[5:], "FIN")
    assert routes == {"sendfile": 1}
    assert cold_fetches.fetched[0][0] == 5
    assert threading.get_ident() not in cold_fetches.threads
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
    pair: Pair, tmp_path: Path, cold_fetches: FetchSpy, spy: Spy, interruption: str
) -> None:
    release = threading.Event()
    cold_fetches.before = lambda: None if release.wait(BOUND) else pytest.fail("nobody released the disk")
    ended: list[type[BaseException] | None] = []
    with open(_cold_file_of(tmp_path, DATA), "rb") as file:
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
            await until(lambda: bool(cold_fetches.threads))
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
    narrow: Pair, tmp_path: Path, send_route: str
) -> None:
    data = pattern(BIG)

    with open(_cold_file_of(tmp_path, data), "rb") as file:
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
    narrow: Pair, pair: Pair, tmp_path: Path, send_route: str
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


async def test_a_thousand_small_files_leave_nothing_behind(pair: Pair, tmp_path: Path, send_route: str) -> None:
    """Position and count hold over many transfers on one connection, and nothing stays open (see conftest)."""

    with open(_file_of(tmp_path, SMALL), "rb") as file:
        async with stream_over(pair[0]) as stream:
            with thread(read_to_end, pair[1]) as received:
                for n in range(1000):
                    assert await stream.send_file(file, offset=n, count=10) == 10
                assert dict(stream.statistics().routes) == {send_route: 1000}
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
