"""The five routes of a transfer against a model: any sizes and interruptions, faults in every system call, closes."""

from __future__ import annotations

import errno
import io
import os
import random
import resource
import select
import socket
import ssl
import struct
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import pytest
import trio
import trio.testing
import trustme
from anyio.streams.buffered import BufferedByteReceiveStream
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from support.loops import Run
from support.sockets import connected, read_exactly, read_to_end, reset, send_and_finish
from support.streams import stream_over
from support.threads import thread
from support.waiting import BOUND, until

from roket_trio import (
    BrokenResourceError,
    ClosedResourceError,
    CloseOutcome,
    FileReadStream,
    FileWriteStream,
    SocketStream,
    Transfer,
    TransferReport,
    TruncatedError,
    copy,
    wrap_tls,
)
from roket_trio._files.worker import Worker
from roket_trio._kernel import copy_file_range, sendfile, splice
from roket_trio._loops import current_loop
from roket_trio._routes import fair_share
from roket_trio._routes.fair_share import SLOTS_MOST, scheduler_of

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the fast routes, /dev/full and RST as Linux has them")


MIB = 1 << 20

# Where no byte looks like its neighbours, so that a shift by any distance shows.
PATTERN = b"".join(struct.pack(">I", n * 2654435761 % (1 << 32)) for n in range(1 << 18))

FAST = {"file-socket": "sendfile", "socket-file": "splice", "socket-socket": "splice", "file-file": "copy_file_range"}
PLAIN = {
    "file-socket": "read-send",
    "socket-file": "read-send",
    "socket-socket": "read-send",
    "file-file": "read-write",
}
ROOM = {"sendfile": sendfile, "splice": splice, "copy_file_range": copy_file_range}
ROWS = list(FAST)


# --- peers -----------------------------------------------------------------------------------------------------------


def send_until_it_ends(sock: socket.socket, data: bytes) -> None:
    """Send; the other side may end it."""
    try:
        sock.sendall(data)
    except (ConnectionResetError, BrokenPipeError):
        pass


async def until_stalled(transfer: Transfer) -> int:
    """Wait until the transfer has moved something and moves no more; returns how much."""
    seen, quiet_since = 0, time.monotonic()
    with anyio.fail_after(BOUND):
        while not seen or time.monotonic() - quiet_since < 0.05:
            if transfer.bytes_moved != seen:
                seen, quiet_since = transfer.bytes_moved, time.monotonic()
            await anyio.sleep(0.002)
    return seen


def unread(stream: SocketStream) -> int:
    view = stream.statistics().kernel
    assert view is not None
    return view.unread_bytes


async def rest_of(stream: SocketStream) -> bytes:
    data = b""
    try:
        while True:
            data += await stream.receive(MIB)
    except anyio.EndOfStream:
        return data


# --- a kernel that does what a test wants -----------------------------------------------------------------------------


class Kernel:
    """Stands between the library and its fast system calls: counts them, gives less, refuses."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.moved = dict.fromkeys(ROOM, 0)
        self.calls = 0
        self.told_again = 0
        self.most = 1 << 40
        """The most that one call moves."""
        self.refuse_after: int | None = None
        """How many calls do before the kernel refuses."""
        self.refusal = errno.EINVAL
        self.refused = False
        for name in ROOM:
            monkeypatch.setattr(os, name, self._call(name, getattr(os, name)))

    def _call(self, name: str, real: Callable[..., int]) -> Callable[..., int]:
        count_at = 3 if name == "sendfile" else 2

        def call(*args: Any, **more: Any) -> int:
            if self.refuse_after is not None and self.calls >= self.refuse_after:
                self.refused = True
                raise OSError(self.refusal, os.strerror(self.refusal))
            self.calls += 1
            args = (*args[:count_at], min(args[count_at], self.most), *args[count_at + 1 :])
            try:
                count = real(*args, **more)
            except BlockingIOError:
                self.told_again += 1
                raise
            self.moved[name] += count
            return count

        return call


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    return Kernel(monkeypatch)


@pytest.fixture(params=["fast", "plain"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The kernel's routes, or all of them turned off."""
    name: str = request.param
    if name == "plain":
        turn_off(monkeypatch)
    return name


def turn_off(monkeypatch: pytest.MonkeyPatch) -> None:
    for room in ROOM.values():
        monkeypatch.setattr(room, "AVAILABLE", False)


def failing(name: str, number: int, *, after: int, of: int | None = None) -> Callable[..., int]:
    """The call ``os.name``, which fails once it has moved ``after`` bytes (on the descriptor ``of``).

    Every call before gives little, so that it fails in the middle of something.
    """
    real = getattr(os, name)
    moved = 0

    def call(*args: Any, **more: Any) -> int:
        nonlocal moved
        if of is not None and of not in args[:2]:
            return int(real(*args, **more))
        if moved >= after:
            raise OSError(number, os.strerror(number))
        room = min(after - moved, 9_999)
        if name in ("sendfile", "splice", "copy_file_range"):
            count_at = 3 if name == "sendfile" else 2
            args = (*args[:count_at], min(args[count_at], room), *args[count_at + 1 :])
        elif name == "preadv":
            args = (args[0], (args[1][0][:room],), *args[2:])
        else:
            args = (args[0], memoryview(args[1])[:room], *args[2:])
        count = int(real(*args, **more))
        moved += count
        return count

    return call


# --- any plan against the model ---------------------------------------------------------------------------------------


@dataclass
class Plan:
    """One transfer, and what shall happen to it."""

    size: int
    count: int | None
    source_at: int = 0
    sink_at: int = 0
    chunk: int = MIB
    most: int = 1 << 40
    off: bool = False
    refuse_after: int | None = None
    refusal: int = errno.EINVAL
    send_buffer: int = 0
    receive_buffer: int = 0
    cancel_after: list[int] = field(default_factory=list)
    """One number for each run that shall be cancelled: after how many turns of the loop."""


_plans = st.builds(
    Plan,
    size=st.sampled_from([0, 1, 4095, 65_536, 65_537, 300_001]) | st.integers(0, 600_000),
    count=st.none() | st.sampled_from([0, 1, 65_536]) | st.integers(0, 700_000),
    source_at=st.sampled_from([0, 1, 4096]) | st.integers(0, 50_000),
    sink_at=st.sampled_from([0, 3, 4096]) | st.integers(0, 50_000),
    chunk=st.sampled_from([1 << 20, 65_536, 8191, 1000]),
    most=st.sampled_from([1 << 40, 100_000, 4096, 3001]),
    off=st.booleans(),
    refuse_after=st.none() | st.just(0) | st.integers(1, 12),
    refusal=st.sampled_from([errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EXDEV, errno.EBADF]),
    send_buffer=st.sampled_from([0, 65_536, 262_144]),
    receive_buffer=st.sampled_from([0, 65_536, 262_144]),
    cancel_after=st.lists(st.integers(0, 12), max_size=5),
)

# What a sink file has before anything comes.
BEFORE = b"." * 60_000


async def carry_out(row: str, plan: Plan, kernel: Kernel, directory: Path) -> int:
    """Do what the plan says and hold all of it against the model; returns how often it was cancelled."""
    source_is_file, sink_is_file = row.startswith("file"), row.endswith("file")
    kernel.most, kernel.refuse_after, kernel.refusal = plan.most, plan.refuse_after, plan.refusal
    data = PATTERN[: plan.size]
    there = data[plan.source_at :] if source_is_file else data
    expected = there if plan.count is None else there[: plan.count]
    is_short = not source_is_file and plan.count is not None and plan.count > len(there)
    source_path, sink_path = directory / "source", directory / "sink"
    async with AsyncExitStack() as stack:
        source: Any
        sink: Any
        sink_peer: socket.socket | None = None
        if source_is_file:
            source_path.write_bytes(data)
            source = stack.enter_context(open(source_path, "rb"))
            source.seek(plan.source_at)
        else:
            ours, peer = stack.enter_context(connected())
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, plan.receive_buffer or 1 << 18)
            stack.enter_context(thread(send_and_finish, peer, data, plan.chunk))
            source = await stack.enter_async_context(stream_over(ours))
        if sink_is_file:
            sink_path.write_bytes(BEFORE)
            sink = stack.enter_context(open(sink_path, "r+b"))
            sink.seek(plan.sink_at)
        else:
            ours, sink_peer = stack.enter_context(
                connected(send_buffer=plan.send_buffer, receive_buffer=plan.receive_buffer)
            )
            received = stack.enter_context(thread(read_to_end, sink_peer, plan.chunk))
            sink = await stack.enter_async_context(stream_over(ours))

        transfer = Transfer(source, sink, count=plan.count)

        def check_positions() -> None:
            if source_is_file:
                assert source.tell() == plan.source_at + transfer.bytes_moved
            if sink_is_file:
                assert sink.tell() == plan.sink_at + transfer.bytes_moved

        cancels = 0
        for turns in plan.cancel_after:
            before = transfer.bytes_moved
            over = False
            async with anyio.create_task_group() as tasks:

                async def strike(scope: anyio.CancelScope, turns: int = turns) -> None:
                    for _ in range(turns):
                        await anyio.lowlevel.checkpoint()
                    scope.cancel()

                with anyio.CancelScope() as scope:
                    tasks.start_soon(strike, scope)
                    try:
                        await transfer.run()
                        over = True
                    except TruncatedError:
                        over = True
            assert transfer.bytes_moved >= before
            check_positions()
            if over:
                break
            cancels += 1
            if not sink_is_file and transfer.bytes_moved:
                with pytest.raises(BrokenResourceError, match=f"stopped after {transfer.bytes_moved} of"):
                    await sink.send(b"")  # cut until it is resumed

        if is_short:
            with pytest.raises(TruncatedError) as caught:
                await transfer.run()
            assert caught.value.bytes_moved == len(expected)
            assert caught.value.side == "source"
        else:
            report = await transfer.run()
            assert report.bytes_moved == len(expected)
            assert report.route == transfer.route
            assert report.fallbacks == ((FAST[row],) if kernel.refused else ())
            assert report.seconds > 0
        check_positions()
        is_empty_file = source_is_file and not plan.size  # may be generated: only reading tells
        is_plain = plan.off or kernel.refused or is_empty_file
        assert transfer.route == (PLAIN[row] if is_plain else FAST[row])
        assert transfer.bytes_moved == len(expected)
        # Into a pipe and out of it, so twice; what a refusal left in the pipe went the plain way.
        by_kernel = kernel.moved[FAST[row]]
        if plan.off or is_empty_file:
            assert by_kernel == 0
        elif not kernel.refused and not cancels:
            assert by_kernel == len(expected) * (2 if FAST[row] == "splice" else 1)
        for stream in (source, sink):
            if isinstance(stream, SocketStream) and expected:
                assert set(stream.statistics().routes) <= {FAST[row], PLAIN[row]}
                assert stream.statistics().routes[transfer.route]
        if not source_is_file:
            assert source.statistics().received_bytes == len(expected)
            assert await rest_of(source) == data[len(expected) :]
        if sink_is_file:
            sink.flush()
            start = plan.sink_at
            padded = BEFORE[:start].ljust(start, b"\0") if expected else BEFORE[:start]
            assert sink_path.read_bytes() == padded + expected + BEFORE[start + len(expected) :]
        else:
            assert sink.statistics().sent_bytes == len(expected)
            if is_short and expected:  # a message that is not whole never ends like one that is
                with pytest.raises(BrokenResourceError):
                    await sink.send_eof()
                sink.abort()
                assert received.result(BOUND)[1] == "RST"
                assert expected.startswith(received.result()[0])
            else:
                await sink.send_eof()  # no cut is left
                await until(received.done)
                assert received.result() == (expected, "FIN")
    return cancels


@pytest.mark.parametrize("row", ROWS)
def test_whatever_happens_each_route_and_its_fallback_agree_with_the_model(run: Run, tmp_path: Path, row: str) -> None:
    seen: set[str] = set()

    @settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None)
    @given(plan=_plans)
    @example(plan=Plan(300_001, None))
    @example(plan=Plan(300_001, None, off=True))
    @example(plan=Plan(300_001, None, refuse_after=0))
    @example(plan=Plan(300_001, None, refuse_after=3, most=4096))
    def examples(plan: Plan) -> None:
        with pytest.MonkeyPatch.context() as monkeypatch:
            kernel = Kernel(monkeypatch)
            if plan.off:
                turn_off(monkeypatch)
            run(carry_out, row, plan, kernel, tmp_path)
            seen.add("off" if plan.off else "refused" if kernel.refused else "fast")
            if kernel.refused:
                seen.add("refused at once" if not kernel.calls else "refused in the middle")

    examples()
    assert seen == {"off", "fast", "refused", "refused at once", "refused in the middle"}


@pytest.mark.parametrize("row", ROWS)
def test_cancelled_again_and_again_and_resumed_every_byte_is_where_it_belongs(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kernel: Kernel, way: str, row: str
) -> None:
    """24 kinds of it, 45 cancellations each: more than a thousand."""
    chance = random.Random(row + way)
    cancels = 0
    while cancels < 45:
        plan = Plan(
            size=chance.randrange(1, 900_000),
            count=None,
            chunk=chance.choice([1000, 10_000, 100_000]),
            off=way == "plain",
            most=chance.choice([1000, 10_000, 1 << 20]),
            send_buffer=chance.choice([65_536, 262_144]),
            receive_buffer=chance.choice([65_536, 262_144]),
            cancel_after=[chance.randrange(8) for _ in range(25)],
        )
        kernel.moved = dict.fromkeys(ROOM, 0)
        cancels += run(carry_out, row, plan, kernel, tmp_path)


# --- anything that is a byte stream -----------------------------------------------------------------------------------

DATA = PATTERN[:700_001]


async def test_bytes_that_a_wrapper_holds_come_first_and_no_raw_route_is_taken(kernel: Kernel) -> None:
    with connected() as (ours, peer), connected() as (other, other_peer):
        async with stream_over(ours) as raw, stream_over(other) as sink:
            with thread(send_and_finish, peer, DATA), thread(read_to_end, other_peer) as received:
                buffered = BufferedByteReceiveStream(raw)
                assert await buffered.receive_exactly(10) == DATA[:10]
                report = await copy(buffered, sink)
                assert (report.bytes_moved, report.route, report.fallbacks) == (len(DATA) - 10, "read-send", ())
                assert dict(sink.statistics().routes) == {"read-send": 1}
                await sink.aclose()
            assert received.result(0) == (DATA[10:], "FIN")
    assert not any(kernel.moved.values())


@pytest.mark.parametrize("sink_kind", ["file", "socket", "memory"])
async def test_tls_at_the_source_is_decrypted_whatever_the_sink(tmp_path: Path, kernel: Kernel, sink_kind: str) -> None:
    authority = trustme.CA()
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(server_context)
    client_context = ssl.create_default_context()
    authority.configure_trust(client_context)

    def serve(peer: socket.socket) -> None:
        with server_context.wrap_socket(peer, server_side=True) as tls:
            tls.sendall(DATA)
            tls.unwrap()

    with connected() as (ours, peer), connected() as (other, other_peer):
        async with stream_over(ours) as raw, stream_over(other) as sink:
            with thread(serve, peer), thread(read_to_end, other_peer) as received:
                source = await wrap_tls(raw, hostname="localhost", ssl_context=client_context)
                memory = io.BytesIO()
                with (tmp_path / "out").open("wb+") as file:
                    to: Any = {"file": file, "socket": sink, "memory": memory}[sink_kind]
                    assert (await copy(source, to, count=1000)).bytes_moved == 1000
                    report = await copy(source, to)
                    assert report.bytes_moved == len(DATA) - 1000
                    assert report.route == "read-send"
                await source.aclose()
                await sink.aclose()
            got = {
                "file": (tmp_path / "out").read_bytes(),
                "socket": received.result(0)[0],
                "memory": memory.getvalue(),
            }
            assert got[sink_kind] == DATA
    assert not any(kernel.moved.values())


async def test_a_subclass_of_ours_may_do_anything_so_only_its_own_methods_are_used(kernel: Kernel) -> None:
    class Shouting(SocketStream):
        async def send(self, item: bytes | bytearray | memoryview) -> None:
            await super().send(bytes(item).upper())

    with connected() as (ours, peer), thread(read_to_end, peer) as received:
        stream = await Shouting.from_socket(ours)
        with tempfile.TemporaryFile() as file:
            file.write(b"quiet" * 1000)
            file.seek(0)
            report = await copy(file, stream)
        assert report.route == "read-send"
        await stream.aclose()
    assert received.result(0) == (b"QUIET" * 1000, "FIN")
    assert not any(kernel.moved.values())


async def test_a_process_is_fed_from_a_file_and_its_output_goes_into_one(tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(DATA)

    async with await anyio.open_process([sys.executable, "-c", _UPSIDE_DOWN], stderr=None) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        with (tmp_path / "in").open("rb") as source, (tmp_path / "out").open("wb") as sink:
            report = await copy(source, process.stdin)
            assert (report.bytes_moved, report.route) == (len(DATA), "read-send")
            assert source.tell() == len(DATA)
            await process.stdin.aclose()
            assert (await copy(process.stdout, sink)).bytes_moved == len(DATA)
            assert sink.tell() == len(DATA)
    assert (tmp_path / "out").read_bytes() == DATA[::-1]


_UPSIDE_DOWN = "import sys; sys.stdout.buffer.write(sys.stdin.buffer.read()[::-1])"


def test_trios_own_streams_are_ends_too() -> None:
    async def main() -> None:
        with connected() as (ours, peer), connected() as (other, other_peer):
            source = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
            sink = trio.SocketStream(trio.socket.from_stdlib_socket(other))
            with thread(send_and_finish, peer, DATA), thread(read_to_end, other_peer) as received:
                assert (await copy(source, sink, count=1000)).bytes_moved == 1000
                assert (await copy(source, sink)).bytes_moved == len(DATA) - 1000
                await sink.aclose()
                await source.aclose()
            assert received.result(0) == (DATA, "FIN")

    trio.run(main)


def test_a_failure_of_trios_own_stream_names_the_side(tmp_path: Path) -> None:
    async def main() -> None:
        with connected() as (ours, peer), (tmp_path / "out").open("wb") as file:
            stream = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
            peer.sendall(DATA[:1000])
            transfer = Transfer(stream, file)
            async with trio.open_nursery() as nursery:

                @nursery.start_soon
                async def end() -> None:
                    await until(lambda: transfer.bytes_moved == 1000)
                    reset(peer)

                with pytest.raises(BrokenResourceError) as caught:
                    await transfer.run()
            assert (caught.value.side, caught.value.errno) == ("source", errno.ECONNRESET)
            assert caught.value.bytes_moved == 1000
            await trio.aclose_forcefully(stream)
        assert (tmp_path / "out").read_bytes() == DATA[:1000]

    trio.run(main)


async def test_an_empty_object_is_not_the_end() -> None:
    send, receive = anyio.create_memory_object_stream[bytes](5)
    with send, receive:
        for item in (b"one", b"", b"two"):
            send.send_nowait(item)
        send.close()
        sink = io.BytesIO()
        assert (await copy(receive, sink)).bytes_moved == 6
        assert sink.getvalue() == b"onetwo"


async def test_a_connection_is_its_own_mirror() -> None:
    with connected() as (ours, peer):
        async with stream_over(ours) as stream:
            with thread(send_and_finish, peer, DATA), thread(read_to_end, peer) as received:
                assert (await copy(stream, stream)).bytes_moved == len(DATA)
                await stream.aclose()
            assert received.result(0) == (DATA, "FIN")


async def test_a_cancelled_transfer_from_memory_leaves_the_object_at_the_first_unsent_byte() -> None:
    with connected(send_buffer=4096, receive_buffer=4096) as (ours, peer):
        async with stream_over(ours) as stream:
            source = io.BytesIO(DATA)
            source.seek(10)
            transfer = Transfer(source, stream)
            with anyio.move_on_after(0.1) as scope:
                await transfer.run()
            assert scope.cancelled_caught
            assert 0 < transfer.bytes_moved < len(DATA) - 10
            assert source.tell() == 10 + transfer.bytes_moved
            with thread(read_to_end, peer) as received:
                await transfer.run()
                await stream.aclose()
            assert received.result(0) == (DATA[10:], "FIN")
            assert source.tell() == len(DATA)


async def test_an_object_that_does_not_block_is_asked_again_and_loses_nothing_when_cancelled() -> None:
    class Slow(io.RawIOBase):
        """Takes three bytes, then nothing until it is told."""

        def __init__(self) -> None:
            self.got = bytearray()
            self.room = 3

        def writable(self) -> bool:
            return True

        def write(self, data: Any) -> int | None:
            if not self.room:
                return None
            taken = bytes(data[: self.room])
            self.room -= len(taken)
            self.got += taken
            return len(taken)

    with connected() as (ours, peer):
        async with stream_over(ours) as stream:
            peer.sendall(b"0123456789")
            peer.shutdown(socket.SHUT_WR)
            sink = Slow()
            transfer = Transfer(stream, sink)
            with anyio.move_on_after(0.1) as scope:
                await transfer.run()
            assert scope.cancelled_caught
            assert (bytes(sink.got), transfer.bytes_moved) == (b"012", 3)
            sink.room = 100
            assert (await transfer.run()).bytes_moved == 10
            assert bytes(sink.got) == b"0123456789"


# --- faults ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOMEM])
async def test_a_disk_that_fails_under_a_socket_is_the_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str, number: int
) -> None:
    (tmp_path / "in").write_bytes(DATA)

    with connected() as (ours, peer), (tmp_path / "in").open("rb") as source:
        async with stream_over(ours) as stream:
            if way == "fast":
                monkeypatch.setattr(os, "sendfile", failing("sendfile", number, after=100_000))
            else:
                monkeypatch.setattr(os, "preadv", failing("preadv", number, after=100_000, of=source.fileno()))
            with thread(read_to_end, peer) as received:
                with pytest.raises(BrokenResourceError) as caught:
                    await copy(source, stream)
                error = caught.value
                assert (error.side, error.errno, error.bytes_moved) == ("source", number, 100_000)
                assert source.tell() == 100_000
                await stream.aclose()
            data, end = received.result(0)
            assert end == "RST"
            assert DATA[:100_000].startswith(data)


@pytest.mark.parametrize("source_kind", ["file", "pipe", "socket"])
@pytest.mark.parametrize("number", [errno.EPERM, errno.EIO, errno.EPIPE])
async def test_a_socket_that_fails_is_the_sink_whatever_the_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, source_kind: str
) -> None:
    """EPERM is what a firewall's rule gives to a sender."""
    turn_off(monkeypatch)
    (tmp_path / "in").write_bytes(DATA)
    sent = 0

    def send(sock: socket.socket, data: Any) -> int:
        nonlocal sent
        if sent > 20_000:
            raise OSError(number, os.strerror(number))
        count = super(socket.socket, sock).send(memoryview(data)[:15_000])
        sent += count
        return count

    sent = 0
    with connected() as (ours, peer), connected() as (other, other_peer), (tmp_path / "in").open("rb") as file:
        read_end, write_end = os.pipe()
        other_peer.sendall(DATA[:50_000])
        other_peer.shutdown(socket.SHUT_WR)
        os.write(write_end, DATA[:50_000])
        os.close(write_end)
        async with stream_over(ours) as sink, stream_over(other) as connection:
            with open(read_end, "rb", buffering=0) as pipe, monkeypatch.context() as patch:
                source: Any = {"file": file, "pipe": pipe, "socket": connection}[source_kind]
                patch.setattr(socket.socket, "send", send)
                with pytest.raises(BrokenResourceError) as caught:
                    await copy(source, sink)
                error = caught.value
                assert (error.side, error.errno, error.bytes_moved) == ("sink", number, 30_000)
                # What left the source and reached nobody is counted; a file has it still.
                if source_kind == "file":
                    assert (error.bytes_lost, file.tell()) == (0, 30_000)
                else:
                    left = pipe.read() if source_kind == "pipe" else await rest_of(connection)
                    assert error.bytes_lost == 50_000 - 30_000 - len(left or b"")
            assert read_exactly(peer, 30_000) == DATA[:30_000]


@pytest.mark.parametrize("side", ["source", "sink"])
async def test_a_reset_on_either_side_of_a_relay_is_named_and_every_byte_accounted_for(
    way: str, kernel: Kernel, side: str
) -> None:
    with connected() as (ours, peer), connected(send_buffer=65_536, receive_buffer=65_536) as (other, other_peer):
        async with stream_over(ours) as source, stream_over(other) as sink:
            transfer = Transfer(source, sink)
            caught: list[BrokenResourceError] = []

            async def move() -> None:
                with pytest.raises(BrokenResourceError) as info:
                    await transfer.run()
                caught.append(info.value)

            sender = thread(send_until_it_ends, peer, DATA * 10) if side == "sink" else thread(peer.sendall, DATA)
            with sender:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(move)
                    if side == "sink":
                        await until_stalled(transfer)
                        reset(other_peer)
                    else:
                        reader = thread(read_exactly, other_peer, len(DATA))
                        with reader as received:
                            await until(received.done)
                        reset(peer)
                error = caught[0]
                assert (error.side, error.bytes_moved) == (side, transfer.bytes_moved)
                assert error.errno in (errno.ECONNRESET, errno.EPIPE)
                assert source.statistics().received_bytes == transfer.bytes_moved + error.bytes_lost
                assert sink.statistics().sent_bytes == transfer.bytes_moved
                if side == "source":
                    assert received.result(0) == DATA
                    assert (error.bytes_moved, error.bytes_lost) == (len(DATA), 0)
                    await sink.aclose()
                    assert read_to_end(other_peer) == (b"", "RST")  # an end that was lost is no clean end
                source.abort()


@pytest.mark.parametrize(
    ("call", "number", "side"),
    [
        ("copy_file_range", errno.ENOSPC, "sink"),
        ("copy_file_range", errno.EDQUOT, "sink"),
        ("pwrite", errno.ENOSPC, "sink"),
        ("pwrite", errno.EIO, "sink"),
        ("preadv", errno.EIO, "source"),
    ],
)
async def test_a_copy_of_a_file_that_fails_names_the_side_and_keeps_what_was_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int, side: str
) -> None:
    if call != "copy_file_range":
        turn_off(monkeypatch)
    (tmp_path / "in").write_bytes(DATA)

    with (tmp_path / "in").open("rb") as source, (tmp_path / "out").open("wb") as sink:
        with monkeypatch.context() as patch:
            of = {"source": source, "sink": sink}[side].fileno()
            patch.setattr(os, call, failing(call, number, after=50_000, of=of))
            transfer = Transfer(source, sink)
            with pytest.raises(BrokenResourceError) as caught:
                await transfer.run()
        error = caught.value
        assert (error.side, error.errno, error.bytes_moved, error.bytes_lost) == (side, number, 50_000, 0)
        assert transfer.bytes_moved == source.tell() == sink.tell() == 50_000
        assert (tmp_path / "out").read_bytes() == DATA[:50_000]
        assert (await transfer.run()).bytes_moved == len(DATA)  # there is room again
    assert (tmp_path / "out").read_bytes() == DATA


@pytest.mark.parametrize("row", ["socket-file", "file-file", "stream-file"])
async def test_a_file_size_limit_ends_it_and_the_file_has_what_the_error_says(
    tmp_path: Path, way: str, row: str
) -> None:
    (tmp_path / "in").write_bytes(DATA)

    with connected() as (ours, peer), (tmp_path / "in").open("rb") as file, (tmp_path / "out").open("wb") as sink:
        async with stream_over(ours) as stream:
            with thread(send_until_it_ends, peer, DATA):
                source: Any = {
                    "socket-file": stream,
                    "file-file": file,
                    "stream-file": BufferedByteReceiveStream(stream),
                }[row]
                soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
                resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
                try:
                    with pytest.raises(BrokenResourceError) as caught:
                        await copy(source, sink)
                finally:
                    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
                error = caught.value
                assert (error.side, error.errno, error.bytes_moved) == ("sink", errno.EFBIG, 100_000)
                if row != "file-file":
                    assert stream.statistics().received_bytes == 100_000 + error.bytes_lost
                stream.abort()
        assert sink.tell() == 100_000
    assert (tmp_path / "out").read_bytes() == DATA[:100_000]


@pytest.mark.parametrize("mode", ["wb", "ab"])
async def test_a_file_that_has_room_again_gets_what_had_left_the_socket(tmp_path: Path, way: str, mode: str) -> None:
    with connected() as (ours, peer), (tmp_path / "out").open(mode, buffering=0) as sink:
        async with stream_over(ours) as stream:
            with thread(send_and_finish, peer, DATA):
                transfer = Transfer(stream, sink)
                soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
                resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
                try:
                    for _ in range(2):  # the second time there is still no room
                        with pytest.raises(BrokenResourceError) as caught:
                            await transfer.run()
                        assert (caught.value.errno, caught.value.bytes_moved) == (errno.EFBIG, 100_000)
                        assert caught.value.bytes_lost > 0
                finally:
                    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
                assert (await transfer.run()).bytes_moved == len(DATA)
                assert stream.statistics().received_bytes == len(DATA)
        assert sink.tell() == len(DATA)
    assert (tmp_path / "out").read_bytes() == DATA
    (tmp_path / "out").unlink()


@pytest.mark.parametrize("source_kind", ["socket", "memory"])
async def test_an_object_that_fails_without_saying_how_far_it_came_is_not_written_to_again(source_kind: str) -> None:
    class Packs(io.BufferedIOBase):  # as a GzipFile on a full disk
        def writable(self) -> bool:
            return True

        def write(self, data: Any) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with connected() as (ours, peer):
        async with stream_over(ours) as stream:
            peer.sendall(DATA[:100_000])
            source: Any = {"socket": stream, "memory": io.BytesIO(DATA)}[source_kind]
            transfer = Transfer(source, Packs())
            with pytest.raises(BrokenResourceError) as caught:
                await transfer.run()
            assert (caught.value.side, caught.value.errno) == ("sink", errno.ENOSPC)
            with pytest.raises(BrokenResourceError, match="cannot be resumed: what Packs took"):
                await transfer.run()


@pytest.mark.parametrize("row", ["file-socket", "socket-file", "socket-socket", "memory-socket"])
def test_one_that_ctrl_c_has_ended_is_not_resumed_and_its_socket_stays_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, row: str
) -> None:
    """Trio raises it wherever the task is: here it has sent, and not counted it yet."""
    (tmp_path / "in").write_bytes(DATA)

    async def main() -> None:
        with connected() as (ours, peer), connected() as (other, other_peer), (tmp_path / "in").open("rb") as file:
            async with stream_over(ours) as stream, stream_over(other) as sink:
                with thread(send_until_it_ends, peer, DATA), (tmp_path / "out").open("wb") as out:
                    source: Any = {"file": file, "socket": stream, "memory": io.BytesIO(DATA)}[row.split("-")[0]]
                    transfer = Transfer(source, out if row == "socket-file" else sink)
                    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
                        _interrupt_after_a_step(patch)
                        await transfer.run()
                    with pytest.raises(BrokenResourceError, match="cannot be resumed"):
                        await transfer.run()
                    stream.abort()
                if row != "socket-file":
                    await sink.aclose()
                    assert sink.close_report is not None
                    assert sink.close_report.outcome is CloseOutcome.ABORTED
                    assert read_to_end(other_peer)[1] == "RST"

    anyio.run(main, backend="trio")


def _interrupt_after_a_step(patch: pytest.MonkeyPatch) -> None:
    """Ctrl-C just after a system call, or a worker thread, has moved something."""

    def interrupted(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            result = real(*args)
            if threading.current_thread() is threading.main_thread():
                raise KeyboardInterrupt
            return result

        return call

    async def run_and_be_interrupted(*args: Any) -> None:
        await run(*args)
        raise KeyboardInterrupt

    run = Worker.run
    patch.setattr(Worker, "run", run_and_be_interrupted)
    patch.setattr(os, "sendfile", interrupted(os.sendfile))
    patch.setattr(splice.Pipe, "empty_into_socket", interrupted(splice.Pipe.empty_into_socket))
    patch.setattr(socket.socket, "send", interrupted(socket.socket.send), raising=False)


@pytest.mark.parametrize("source_kind", ["file", "socket", "memory"])
async def test_a_full_device_is_the_sink(tmp_path: Path, source_kind: str) -> None:
    (tmp_path / "in").write_bytes(DATA)

    with connected() as (ours, peer), (tmp_path / "in").open("rb") as file, open("/dev/full", "wb") as sink:
        async with stream_over(ours) as stream:
            peer.sendall(DATA[:1000])
            source: Any = {"file": file, "socket": stream, "memory": io.BytesIO(DATA)}[source_kind]
            with pytest.raises(BrokenResourceError) as caught:
                await copy(source, sink)
            error = caught.value
            assert (error.side, error.errno, error.bytes_moved) == ("sink", errno.ENOSPC, 0)
            assert error.bytes_lost == (1000 if source_kind == "socket" else 0)
            if source_kind != "socket":
                assert source.tell() == 0


async def test_an_object_that_takes_a_part_and_then_fails_has_what_the_error_says() -> None:
    class Fills(io.RawIOBase):
        def __init__(self) -> None:
            self.got = bytearray()

        def writable(self) -> bool:
            return True

        def write(self, data: Any) -> int:
            if len(self.got) >= 5000:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self.got += data[:2500]
            return min(len(data), 2500)

    with connected() as (ours, peer):
        async with stream_over(ours) as stream:
            peer.sendall(DATA[:9000])
            await until(lambda: unread(stream) == 9000)
            for source in (stream, io.BytesIO(DATA[:9000])):
                sink = Fills()
                with pytest.raises(BrokenResourceError) as caught:
                    await copy(source, sink)
                error = caught.value
                assert (error.side, error.errno, error.bytes_moved) == ("sink", errno.ENOSPC, 5000)
                assert sink.got == DATA[:5000]
                assert error.bytes_lost == (4000 if source is stream else 0)


async def test_a_splice_that_moves_nothing_into_a_file_does_not_go_on_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.splice

    def splice_nothing(source: int, sink: int, count: int, *args: Any, **more: Any) -> int:
        return 0 if "offset_dst" in more else real(source, sink, count, *args, **more)

    monkeypatch.setattr(os, "splice", splice_nothing)

    with connected() as (ours, peer), (tmp_path / "out").open("wb") as sink:
        async with stream_over(ours) as stream:
            peer.sendall(b"data")
            with pytest.raises(BrokenResourceError) as caught:
                await copy(stream, sink)
            assert (caught.value.side, caught.value.bytes_moved, caught.value.bytes_lost) == ("sink", 0, 4)


async def test_what_cannot_be_written_is_refused_before_anything_moves(tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(DATA)

    with connected() as (ours, peer), (tmp_path / "in").open("rb") as read_only:
        async with stream_over(ours) as stream, await FileReadStream.from_path(tmp_path / "in") as reader:
            peer.sendall(b"data")
            for end, error in ((read_only, ValueError), (read_only.fileno(), ValueError), (reader, TypeError)):
                with pytest.raises(error):
                    await copy(stream, end)
            assert await stream.receive() == b"data"


async def test_the_kernel_said_try_again_and_the_transfer_waited(tmp_path: Path, kernel: Kernel) -> None:
    """What the plans above inject is no EAGAIN; here the kernel itself says it, on each route that can hear it."""
    (tmp_path / "in").write_bytes(DATA)

    for row in ("file-socket", "socket-socket"):
        kernel.told_again = 0
        with connected() as (ours, peer), connected(send_buffer=4096, receive_buffer=4096) as (other, other_peer):
            async with stream_over(ours) as stream, stream_over(other) as sink:
                with (tmp_path / "in").open("rb") as file, thread(send_and_finish, peer, DATA):
                    transfer = Transfer(file if row == "file-socket" else stream, sink)
                    async with anyio.create_task_group() as tasks:
                        tasks.start_soon(transfer.run)
                        await until_stalled(transfer)
                        with thread(read_exactly, other_peer, len(DATA)) as received:
                            await until(received.done)
                    assert received.result(0) == DATA
                    await rest_of(stream)
        assert kernel.told_again > 1
        assert transfer.route == FAST[row]


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
            assert took < 1, "50 ms are promised, on a machine that is not loaded"
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


# --- while it runs ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", ROWS)
async def test_progress_can_be_read_at_any_time(tmp_path: Path, way: str, row: str) -> None:
    (tmp_path / "in").write_bytes(DATA)

    with connected() as (ours, peer), connected() as (other, other_peer), (tmp_path / "in").open("rb") as file:
        async with (
            stream_over(ours) as stream,
            stream_over(other) as to,
            await FileWriteStream.from_path(tmp_path / "out") as out,
        ):
            source: Any = file if row.startswith("file") else stream
            sink: Any = out if row.endswith("file") else to
            transfer = Transfer(source, sink, count=len(DATA), rate_limit=3_000_000)
            assert (transfer.bytes_moved, transfer.route) == (0, None)
            seen: list[int] = []
            with thread(send_and_finish, peer, DATA), thread(read_to_end, other_peer):
                async with anyio.create_task_group() as tasks:

                    async def watch() -> None:
                        while True:
                            seen.append(transfer.bytes_moved)
                            await anyio.sleep(0.01)

                    tasks.start_soon(watch)
                    report = await transfer.run()
                    tasks.cancel_scope.cancel()
                await rest_of(stream)
                await to.aclose()
            assert seen == sorted(seen)
            assert len(set(seen)) > 5
            route = (FAST if way == "fast" else PLAIN)[row]
            assert report == TransferReport(len(DATA), report.seconds, route, ())
            assert report.seconds >= 0.2


@pytest.mark.parametrize("limit", [0, -1, float("nan")])
def test_a_limit_that_is_none_is_refused(limit: float) -> None:
    with pytest.raises(ValueError, match="rate_limit"):
        Transfer(io.BytesIO(), io.BytesIO(), rate_limit=limit)


async def test_an_infinite_limit_is_no_limit() -> None:
    sink = io.BytesIO()
    assert (await Transfer(io.BytesIO(DATA), sink, rate_limit=float("inf")).run()).bytes_moved == len(DATA)


def arrivals(peer: socket.socket, count: int) -> list[tuple[float, int]]:
    """When each piece came."""
    found = []
    while count:
        chunk = peer.recv(min(count, MIB))
        assert chunk
        found.append((time.monotonic(), len(chunk)))
        count -= len(chunk)
    return found


@pytest.mark.parametrize("row", ["file-socket", "socket-socket"])
async def test_a_limited_transfer_arrives_evenly(tmp_path: Path, way: str, row: str) -> None:
    rate, total = 1_000_000, 300_000
    (tmp_path / "in").write_bytes(DATA)

    with connected() as (ours, peer), connected() as (other, other_peer), (tmp_path / "in").open("rb") as file:
        async with stream_over(ours) as stream, stream_over(other) as sink:
            with thread(arrivals, other_peer, total) as came, thread(send_until_it_ends, peer, DATA):
                await Transfer(file if row == "file-socket" else stream, sink, count=total, rate_limit=rate).run()
                await until(came.done)
                stream.abort()
            pieces = came.result(0)
    took = pieces[-1][0] - pieces[0][0]
    assert took >= total / rate * 0.9
    # In any tenth of a second no more than it allows, and one grain: never a burst, however late it is.
    for start, (began, _) in enumerate(pieces):
        within = sum(size for at, size in pieces[start:] if at < began + 0.1)
        assert within <= rate * 0.1 * 1.6 + rate * 0.02
    assert len(pieces) >= 10


async def test_a_stall_is_not_followed_by_a_burst(tmp_path: Path) -> None:
    rate = 1_000_000
    (tmp_path / "in").write_bytes(DATA)

    with connected() as (ours, peer), connected() as (other, other_peer):
        async with stream_over(ours) as stream, stream_over(other) as sink:
            transfer = Transfer(stream, sink, count=110_000, rate_limit=rate)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(transfer.run)
                peer.sendall(DATA[:10_000])
                await until(lambda: transfer.bytes_moved == 10_000)
                await anyio.sleep(0.2)  # a stall in which 200,000 could have gone
                began = time.monotonic()
                peer.sendall(DATA[10_000:110_000])
            assert time.monotonic() - began >= 100_000 / rate * 0.8
            assert read_exactly(other_peer, 110_000) == DATA[:110_000]


async def test_a_hundred_at_once_are_served_alike_and_leave_the_loop_its_turns(tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(DATA)
    size = len(DATA)

    def drain(peers: list[socket.socket]) -> None:
        """Discard what comes on all of them, as fast as it comes."""
        with select_epoll(peers) as (epoll, by_number):
            while by_number:
                for number, _ in epoll.poll(BOUND):
                    if not by_number[number].recv(MIB, socket.MSG_TRUNC):
                        epoll.unregister(number)
                        del by_number[number]

    async with AsyncExitStack() as stack:
        pairs = [stack.enter_context(connected()) for _ in range(100)]
        streams = [await stack.enter_async_context(stream_over(ours)) for ours, _ in pairs]
        files = [stack.enter_context((tmp_path / "in").open("rb")) for _ in pairs]
        done: list[float] = []
        lags: list[float] = []

        async def tick() -> None:
            last = time.monotonic()
            while True:
                await anyio.lowlevel.checkpoint()
                lags.append(time.monotonic() - last)
                last = time.monotonic()

        async def send(number: int) -> None:
            for _ in range(10):
                files[number].seek(0)
                await copy(files[number], streams[number])
            done.append(time.monotonic() - began)
            await streams[number].send_eof()

        with thread(drain, [peer for _, peer in pairs]):
            async with anyio.create_task_group() as ticking:
                ticking.start_soon(tick)
                began = time.monotonic()
                async with anyio.create_task_group() as tasks:
                    for number in range(100):
                        tasks.start_soon(send, number)
                ticking.cancel_scope.cancel()
        assert len(done) == 100
        assert sum(stream.statistics().sent_bytes for stream in streams) == 100 * 10 * size
        assert done[-1] <= 3 * done[50] + 0.05
        lags.sort()
        # 5 and 25 ms are promised, and measured by the benchmarks; this machine may be loaded.
        assert lags[len(lags) * 99 // 100] < 0.05
        assert lags[-1] < 0.5


@contextmanager
def select_epoll(socks: list[socket.socket]) -> Iterator[tuple[Any, dict[int, socket.socket]]]:
    with select.epoll() as epoll:
        for sock in socks:
            epoll.register(sock, select.EPOLLIN)
        yield epoll, {sock.fileno(): sock for sock in socks}


@pytest.mark.parametrize(("slice_ms", "in_a_turn"), [(2.0, 1), (0.5, 2), (0.3, 3), (0.01, SLOTS_MOST)])
async def test_as_many_slices_as_fit_in_a_millisecond_run_in_a_turn_and_a_cancelled_one_loses_no_place(
    monkeypatch: pytest.MonkeyPatch, slice_ms: float, in_a_turn: int
) -> None:
    now = 0.0
    monkeypatch.setattr(fair_share, "monotonic", lambda: now)

    async def slices(scheduler: fair_share.FairScheduler, count: int, note: Callable[[], None]) -> None:
        nonlocal now
        for _ in range(count):
            await scheduler.acquire()
            note()
            now += slice_ms / 1000
            scheduler.release()

    scheduler = scheduler_of(current_loop())
    turn = 0
    by_turn: dict[int, int] = {}

    async def count_turns() -> None:
        nonlocal turn
        while True:
            await anyio.lowlevel.checkpoint()
            turn += 1

    async def work(scope: anyio.CancelScope) -> None:
        with scope:
            await slices(scheduler, 20, note)

    def note() -> None:
        by_turn[turn] = by_turn.get(turn, 0) + 1

    await slices(scheduler, 100, lambda: None)  # until it knows how long one takes
    async with anyio.create_task_group() as counting:
        counting.start_soon(count_turns)
        async with anyio.create_task_group() as tasks:
            scopes = [anyio.CancelScope() for _ in range(30)]
            for scope in scopes:
                tasks.start_soon(work, scope)
            for scope in scopes[::3]:
                await anyio.lowlevel.checkpoint()
                scope.cancel()
        counting.cancel_scope.cancel()
    # The one that counts runs once in each turn, before some and after others.
    assert in_a_turn <= max(by_turn.values()) <= 2 * in_a_turn
    assert sum(by_turn.values()) >= 20 * 20
    with anyio.fail_after(5):  # no place was lost
        await slices(scheduler, 3 * SLOTS_MOST, lambda: None)


async def test_an_atomic_file_that_was_not_completed_never_replaces_its_target(
    tmp_path: Path, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "target"
    target.write_bytes(b"before")

    for trouble in ("cancelled", "reset", "full", None):
        with connected() as (ours, peer), monkeypatch.context() as patch:
            async with stream_over(ours) as stream:
                sink = await FileWriteStream.from_path(target, atomic=True)
                if trouble == "full":
                    name = "splice" if way == "fast" else "pwrite"
                    number = sink._file.fileno()
                    patch.setattr(os, name, failing(name, errno.ENOSPC, after=10_000, of=number))
                with thread(send_until_it_ends, peer, DATA):
                    transfer = Transfer(stream, sink, count=len(DATA) + (trouble in ("cancelled", "reset")))
                    if trouble is None:
                        await transfer.run()
                        await sink.aclose()
                    else:
                        async with anyio.create_task_group() as tasks:

                            async def strike(
                                transfer: Transfer = transfer,
                                trouble: str = trouble,
                                peer: socket.socket = peer,
                                scope: anyio.CancelScope = tasks.cancel_scope,
                            ) -> None:
                                if trouble != "full":
                                    await until(lambda: transfer.bytes_moved == len(DATA))
                                    if trouble == "reset":
                                        reset(peer)
                                    else:
                                        scope.cancel()

                            tasks.start_soon(strike)
                            if trouble == "cancelled":
                                await transfer.run()
                            else:
                                with pytest.raises(BrokenResourceError):
                                    await transfer.run()
                        with pytest.raises(BrokenResourceError, match="not replaced"):
                            await sink.aclose()
                    stream.abort()
        assert target.read_bytes() == (b"before" if trouble else DATA)
    assert [path.name for path in tmp_path.iterdir()] == ["target"]
    target.write_bytes(b"before")
