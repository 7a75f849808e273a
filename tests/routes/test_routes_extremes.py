"""Routes with very small, very large and changing files, and what they leave behind."""

from __future__ import annotations

import io
import os
import socket
import sys
import threading
import time
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import pytest
from support.loops import Run
from support.patterns import DATA, MIB
from support.planned_routes import ROWS, Kernel, Plan, carry_out, send_until_it_ends, until_stalled
from support.sockets import connected, read_to_end
from support.streams import stream_over
from support.threads import thread
from support.waiting import AT_ONCE, BOUND, until

from roket_trio import (
    ClosedResourceError,
    CloseOutcome,
    FileWriteStream,
    SocketStream,
    Transfer,
    TruncatedError,
    copy,
)
from roket_trio._kernel import splice

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the fast routes, /dev/full and RST as Linux has them")


# --- very small, very large, and not what it was ----------------------------------------------------------------------


def _sparse(path: Path, size: int) -> Path:
    with path.open("wb") as file:
        file.truncate(size)
    return path


@pytest.mark.parametrize("row", ["file-socket", "socket-file", "socket-socket"])
async def test_a_transfer_that_waits_is_cancelled_promptly_with_bytes_in_flight(
    tmp_path: Path, way: str, row: str
) -> None:
    with connected() as (ours, peer), connected() as (other, _), (tmp_path / "out").open("wb") as out:
        async with stream_over(ours) as source, stream_over(other) as sink:
            with open(_sparse(tmp_path / "sparse", 10 << 30), "rb") as file:
                ends: dict[str, tuple[Any, Any]] = {
                    "file-socket": (file, sink),
                    "socket-file": (source, out),
                    "socket-socket": (source, sink),
                }
                transfer = Transfer(*ends[row])
                stop = threading.Event()

                def feed() -> None:
                    """Data without an end, until the other side has gone."""
                    while not stop.is_set():
                        try:
                            peer.send(DATA)
                        except (ConnectionResetError, BrokenPipeError):
                            return

                with thread(feed):
                    async with anyio.create_task_group() as tasks:
                        tasks.start_soon(transfer.run)
                        if row == "socket-file":
                            await until(lambda: transfer.bytes_moved > 5 * MIB)
                        else:
                            await until_stalled(transfer)
                        began = time.monotonic()
                        tasks.cancel_scope.cancel()
                    took = time.monotonic() - began
                    stop.set()
                    source.abort()
            assert took < AT_ONCE
            assert transfer.bytes_moved > 0
            if row == "socket-file":
                assert (tmp_path / "out").stat().st_size == out.tell() == transfer.bytes_moved
                assert source.statistics().received_bytes == transfer.bytes_moved


@pytest.mark.parametrize("size", [0, 1])
@pytest.mark.parametrize("row", ROWS)
def test_nothing_and_almost_nothing(run: Run, tmp_path: Path, kernel: Kernel, way: str, row: str, size: int) -> None:
    run(carry_out, row, Plan(size=size, count=None, off=way == "plain"), kernel, tmp_path)


def test_more_than_two_gibibytes_go_by_sendfile(tmp_path: Path, kernel: Kernel) -> None:
    size = (2 << 30) + 100 * MIB + 1

    def discard(peer: socket.socket) -> int:
        got = 0
        while count := peer.recv_into(scratch, 4 * MIB, socket.MSG_TRUNC):
            got += count
        return got

    scratch = bytearray(4 * MIB)

    async def main() -> None:
        with connected() as (ours, peer), open(_sparse(tmp_path / "sparse", size), "rb") as source:
            async with stream_over(ours) as stream:
                with thread(discard, peer) as got:
                    report = await copy(source, stream)
                    await stream.aclose()
                assert (report.bytes_moved, report.route, got.result(0)) == (size, "sendfile", size)
                assert source.tell() == size
        assert kernel.moved["sendfile"] == size

    anyio.run(main, backend="trio")


async def test_a_file_with_holes_is_copied(tmp_path: Path, way: str) -> None:
    with open(_sparse(tmp_path / "in", 40 * MIB), "r+b") as file:
        for place in (0, 7 * MIB - 3, 33 * MIB):
            file.seek(place)
            file.write(b"island")

    with (tmp_path / "in").open("rb") as source, (tmp_path / "out").open("wb") as sink:
        assert (await copy(source, sink)).bytes_moved == 40 * MIB
    assert (tmp_path / "out").read_bytes() == (tmp_path / "in").read_bytes()


SINK_KINDS = ["socket", "foreign", "file", "memory"]

# Of these fstat says that they have 4096 bytes.
SYSFS = Path("/sys/devices/system/cpu/possible")


@pytest.mark.skipif(not SYSFS.exists(), reason="no sysfs")
@pytest.mark.parametrize("count", [None, 4000])
@pytest.mark.parametrize("kind", SINK_KINDS)
async def test_a_file_whose_size_is_made_up_is_read_to_its_end(
    tmp_path: Path, way: str, kind: str, count: int | None
) -> None:
    expected = SYSFS.read_bytes()
    with connected() as (ours, peer), SYSFS.open("rb") as source, (tmp_path / "out").open("wb") as file:
        async with await SocketStream.from_socket(ours) as stream:
            sink: Any = {"socket": stream, "foreign": _Foreign(stream), "file": file, "memory": io.BytesIO()}[kind]
            assert (await copy(source, sink, count=count)).bytes_moved == len(expected) == source.tell()
        if kind in ("socket", "foreign"):
            assert read_to_end(peer) == (expected, "FIN")
        else:
            file.flush()
            got = (tmp_path / "out").read_bytes() if kind == "file" else sink.getvalue()
            assert got == expected


class _Foreign(anyio.abc.ByteSendStream):
    """Somebody's wrapper."""

    def __init__(self, stream: SocketStream) -> None:
        self._stream = stream

    async def send(self, item: bytes) -> None:
        await self._stream.send(item)

    async def aclose(self) -> None:
        await self._stream.aclose()


@pytest.mark.parametrize("change", ["shrinks", "grows"])
@pytest.mark.parametrize("kind", SINK_KINDS)
async def test_a_file_that_changes_meanwhile_is_truncated_or_sent_to_the_size_it_had(
    tmp_path: Path, way: str, kind: str, change: str
) -> None:
    path = tmp_path / "in"
    path.write_bytes(DATA)
    with connected() as (ours, peer), path.open("rb") as source, (tmp_path / "out").open("wb") as file:
        async with stream_over(ours) as stream:
            memory = io.BytesIO()
            sinks: dict[str, Any] = {"socket": stream, "foreign": _Foreign(stream), "file": file, "memory": memory}
            transfer = Transfer(source, sinks[kind], rate_limit=2_000_000)  # long enough to be changed meanwhile
            with thread(read_to_end, peer) as received:
                async with anyio.create_task_group() as tasks:

                    async def alter() -> None:
                        await until(lambda: transfer.bytes_moved > 0)
                        with path.open("r+b") as changed:
                            if change == "shrinks":
                                changed.truncate(200_000)
                            else:
                                changed.seek(0, os.SEEK_END)
                                changed.write(b"more" * 10_000)

                    tasks.start_soon(alter)
                    if change == "shrinks":
                        with pytest.raises(TruncatedError) as caught:
                            await transfer.run()
                        assert caught.value.bytes_moved == transfer.bytes_moved == 200_000
                    else:
                        assert (await transfer.run()).bytes_moved == len(DATA)
                await stream.aclose()
            data, end = received.result(0)
        assert source.tell() == transfer.bytes_moved
    if kind in ("file", "memory"):
        data = (tmp_path / "out").read_bytes() if kind == "file" else memory.getvalue()
    if kind == "socket" and change == "shrinks":
        assert end == "RST"
        assert DATA[:200_000].startswith(data)
    else:
        assert data == DATA[: transfer.bytes_moved]


# --- descriptors and threads ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["aclose", "abort", "cancel"])
async def test_what_takes_over_a_number_is_never_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str, end: str
) -> None:
    """A write is held in its thread, both ends are closed, and every free number is given to another file."""
    held, go_on = threading.Event(), threading.Event()
    name = "splice" if way == "fast" else "pwrite"
    real = getattr(os, name)

    def hold(*args: Any, **more: Any) -> int:
        if threading.current_thread() is not threading.main_thread() and (name == "pwrite" or "offset_dst" in more):
            held.set()
            assert go_on.wait(BOUND)
        return int(real(*args, **more))

    monkeypatch.setattr(os, name, hold)

    def others() -> list[Any]:
        """Files and sockets on all the numbers that are free now."""
        made: list[Any] = []
        for n in range(20):
            made.append((tmp_path / f"other {n}").open("wb+", buffering=0))
            made.extend(socket.socketpair())
        return made

    def assert_untouched(made: list[Any]) -> None:
        for thing in made:
            if isinstance(thing, socket.socket):
                thing.setblocking(False)
                with pytest.raises(BlockingIOError):
                    thing.recv(1)
            else:
                assert os.fstat(thing.fileno()).st_size == 0
        for thing in made:
            thing.close()

    held.clear()
    go_on.clear()
    with connected() as (ours, peer):
        stream = await SocketStream.from_socket(ours)
        sink = await FileWriteStream.from_path(tmp_path / "out")
        numbers = {stream._raw_socket.fileno(), sink._file.fileno()}
        peer.sendall(b"x" * 1000)
        outcome: list[str] = []

        async def move(scope: anyio.CancelScope) -> None:
            with scope:
                try:
                    await copy(stream, sink)
                except ClosedResourceError:
                    outcome.append("closed")

        async def close(end: Any, *, thread_has_it: bool) -> None:
            await end.aclose()
            assert go_on.is_set() or not thread_has_it, "it did not wait for the thread"

        async with anyio.create_task_group() as tasks:
            scope = anyio.CancelScope()
            tasks.start_soon(move, scope)
            await anyio.to_thread.run_sync(held.wait, BOUND)
            if end == "cancel":
                scope.cancel()
            elif end == "abort":
                stream.abort()
                if way == "fast":
                    with pytest.raises(ConnectionResetError):  # at once, while the thread is still held
                        peer.recv(1)
            if end != "cancel":
                tasks.start_soon(partial(close, stream, thread_has_it=way == "fast"))
                tasks.start_soon(partial(close, sink, thread_has_it=True))
            for _ in range(20):
                await anyio.sleep(0.001)
            first = others()
            taken = {thing.fileno() for thing in first}
            assert sink._file.fileno() not in taken
            if way == "fast":
                assert not numbers & taken, "a thread works on it still"
            go_on.set()
        if end == "cancel":
            await sink.aclose()
            await stream.aclose()
        else:
            assert outcome == ["closed"]
        second = others()
        assert numbers <= {thing.fileno() for thing in (*first, *second)}, "the numbers were not free again"
        peer.close()
        for _ in range(10):
            await anyio.sleep(0.001)
        assert_untouched(first)
        assert_untouched(second)
        assert (tmp_path / "out").read_bytes() == b"x" * 1000  # what had left the socket is in the file


async def test_any_number_of_closes_end_while_a_thread_holds_the_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held, go_on = threading.Event(), threading.Event()
    real = splice.Pipe.empty_into_file

    def hold(pipe: splice.Pipe, fd: int, offset: int) -> int:
        held.set()
        assert go_on.wait(BOUND)
        return real(pipe, fd, offset)

    monkeypatch.setattr(splice.Pipe, "empty_into_file", hold)

    held.clear()
    go_on.clear()
    with connected() as (ours, peer), (tmp_path / "out").open("wb") as sink:
        stream = await SocketStream.from_socket(ours)
        peer.sendall(b"x")

        async def move() -> None:
            with pytest.raises(ClosedResourceError):
                await copy(stream, sink)

        with anyio.fail_after(BOUND):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(move)
                await anyio.to_thread.run_sync(held.wait, BOUND)
                for _ in range(2):
                    tasks.start_soon(stream.aclose)
                await anyio.sleep(0.01)
                stream.abort()
                for _ in range(2):
                    tasks.start_soon(stream.aclose)
                await anyio.sleep(0.01)
                go_on.set()
        assert stream.close_report is not None
        assert stream.close_report.outcome is CloseOutcome.ABORTED


async def test_a_file_stream_that_is_closed_while_bytes_flow_ends_the_transfer(tmp_path: Path, way: str) -> None:
    with connected() as (ours, peer):
        async with stream_over(ours) as stream:
            sink = await FileWriteStream.from_path(tmp_path / "out")
            transfer = Transfer(stream, sink)

            async def close() -> None:
                await until(lambda: transfer.bytes_moved > 3 * MIB)
                await sink.aclose()

            with thread(send_until_it_ends, peer, DATA * 200):
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(close)
                    with pytest.raises(ClosedResourceError):
                        await transfer.run()
                assert (tmp_path / "out").stat().st_size == transfer.bytes_moved
                assert stream.statistics().received_bytes == transfer.bytes_moved
                stream.abort()


async def test_sixty_transfers_at_once_share_few_threads(tmp_path: Path, kernel: Kernel) -> None:
    before, most = threading.active_count(), 0
    data = DATA[:300_000]
    async with AsyncExitStack() as stack:
        transfers, peers, sinks = [], [], []
        for n in range(60):
            ours, peer = stack.enter_context(connected())
            stream = await stack.enter_async_context(stream_over(ours))
            sinks.append(stack.enter_context((tmp_path / f"{n}").open("wb")))
            transfers.append(Transfer(stream, sinks[-1]))
            peers.append(peer)

        def feed() -> None:
            for start in range(0, len(data), 10_000):
                for peer in peers:
                    peer.sendall(data[start : start + 10_000])
            for peer in peers:
                peer.shutdown(socket.SHUT_WR)

        with thread(feed):
            async with anyio.create_task_group() as tasks:
                for transfer in transfers:
                    tasks.start_soon(transfer.run)
                while not all(transfer.bytes_moved == len(data) for transfer in transfers):
                    most = max(most, threading.active_count() - before)
                    await anyio.sleep(0.001)
        assert {(tmp_path / f"{n}").read_bytes() for n in range(60)} == {data}
    # AnyIO allows 40 at a time and Trio 40; our own are 8.
    assert most <= 50
