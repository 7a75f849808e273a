"""copy and Transfer: each route and its fallback move the same bytes, exactly, however they are interrupted."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import random
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
import trio
import trustme
from anyio.streams.buffered import BufferedByteReceiveStream, BufferedByteStream
from anyio.streams.stapled import StapledByteStream
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.loops import Run
from support.waiting import AT_ONCE, BOUND, cancelled_in_its_wait, cancelled_when, until

from roket_trio import (
    BrokenResourceError,
    BusyResourceError,
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
from roket_trio._kernel import copy_file_range, sendfile, splice, tcp
from roket_trio._kernel.tcp import NOTSENT_LOWAT
from roket_trio._routes.fair_share import SLOTS_MOST

DATA = random.Random(7).randbytes(1_500_001)
ROUTES = {"sendfile": sendfile, "splice": splice, "copy_file_range": copy_file_range}


def socket_pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        server, _ = listener.accept()
    return client, server


@contextmanager
def peer(sock: socket.socket, *, send: bytes | None = None, read: bool = True) -> Iterator[bytearray]:
    """A raw peer in a thread: sends everything, then FIN; reads to the end of the stream, or to a reset."""
    got = bytearray()
    sock.settimeout(30)

    def work() -> None:
        if send is not None:
            sock.sendall(send)
            sock.shutdown(socket.SHUT_WR)
        if read:
            try:
                while chunk := sock.recv(1 << 16):
                    got.extend(chunk)
            except ConnectionResetError:
                got.extend(b"RST")

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield got
    finally:
        thread.join()
        sock.close()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "data"
    path.write_bytes(DATA)
    return path


@pytest.fixture(params=["fast", "off", "refused", "refused later"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The kernel's route, or what makes it the plain one."""
    name: str = request.param
    if name == "off":
        for module in ROUTES.values():
            monkeypatch.setattr(module, "AVAILABLE", False)
    elif name != "fast":
        for call in ("sendfile", "splice", "copy_file_range"):
            monkeypatch.setattr(os, call, _refusing(call, 0 if name == "refused" else 3))
    return name


def _refusing(call: str, after: int) -> Callable[..., int]:
    """The system call, which is refused after so many times; it takes less than asked, so that it comes again."""
    real = getattr(os, call)
    left = after

    def refuse(*args: Any, **more: Any) -> int:
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(22, "Invalid argument")
        count_at = 3 if call == "sendfile" else 2
        args = (*args[:count_at], min(args[count_at], 10_000), *args[count_at + 1 :])
        return int(real(*args, **more))

    return refuse


def check(report: TransferReport, way: str, fast: str, slow: str, size: int) -> None:
    assert report.bytes_moved == size
    assert report.route == (fast if way == "fast" else slow)
    assert report.fallbacks == ((fast,) if way.startswith("refused") else ())


async def test_a_file_goes_to_a_socket(file: Path, way: str) -> None:
    ours, theirs = socket_pair()
    with peer(theirs) as got:
        async with await SocketStream.from_socket(ours) as stream:
            with file.open("rb") as source:
                source.seek(5)
                check(await copy(source, stream), way, "sendfile", "read-send", len(DATA) - 5)
                assert source.tell() == len(DATA)
            assert stream.statistics().routes
    assert got == DATA[5:]


async def test_a_socket_goes_to_a_file(tmp_path: Path, way: str) -> None:
    ours, theirs = socket_pair()
    with peer(theirs, send=DATA):
        async with await SocketStream.from_socket(ours) as stream:
            with (tmp_path / "out").open("wb+") as sink:
                sink.write(b"head")
                check(await copy(stream, sink), way, "splice", "read-send", len(DATA))
                assert sink.tell() == len(DATA) + 4
    assert (tmp_path / "out").read_bytes() == b"head" + DATA


async def test_a_socket_goes_to_a_socket(way: str) -> None:
    (left, source), (right, sink) = socket_pair(), socket_pair()
    with peer(left, send=DATA), peer(right) as got:
        async with await SocketStream.from_socket(source) as a, await SocketStream.from_socket(sink) as b:
            check(await copy(a, b), way, "splice", "read-send", len(DATA))
    assert got == DATA


@pytest.mark.skipif(not splice.AVAILABLE, reason="there is no splice here")
@pytest.mark.parametrize("large", [1, 0])
async def test_only_for_a_large_pipe_may_the_sinks_kernel_hold_more_unsent(
    monkeypatch: pytest.MonkeyPatch, large: int
) -> None:
    """There are a few; a thousand relays to peers that do not read must not hold a GiB."""
    limits: list[int] = []
    limit = tcp.limit_unsent

    def limited(sock: socket.socket, count: int) -> None:
        limits.append(count)
        limit(sock, count)

    monkeypatch.setattr(splice, "_large_tokens", [None] * large)

    limits.clear()
    (left, source), (right, sink) = socket_pair(), socket_pair()
    with peer(left, send=DATA), peer(right) as got:
        async with await SocketStream.from_socket(source) as a, await SocketStream.from_socket(sink) as b:
            with monkeypatch.context() as patch:
                patch.setattr(tcp, "limit_unsent", limited)
                await copy(a, b)
    assert got == DATA
    assert limits == ([splice.PIPE_BYTES, NOTSENT_LOWAT] if large else [])


async def test_a_file_goes_to_a_file(file: Path, tmp_path: Path, way: str) -> None:
    with file.open("rb") as source, (tmp_path / "out").open("wb") as sink:
        source.seek(3)
        sink.write(b"head")
        check(await copy(source, sink), way, "copy_file_range", "read-write", len(DATA) - 3)
        assert (source.tell(), sink.tell()) == (len(DATA), len(DATA) + 1)
    assert (tmp_path / "out").read_bytes() == b"head" + DATA[3:]


def _counting(call: str, ran: dict[str, int]) -> Callable[..., int]:
    real = getattr(os, call)

    def spy(*args: Any, **more: Any) -> int:
        count = int(real(*args, **more))
        ran[call] = ran.get(call, 0) + count
        return count

    return spy


async def test_the_kernels_calls_really_ran(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: dict[str, int] = {}
    for call in ("sendfile", "splice", "copy_file_range"):
        monkeypatch.setattr(os, call, _counting(call, ran))

    async def send(stream: SocketStream) -> None:
        with file.open("rb") as source:
            await copy(source, stream)
        await stream.send_eof()

    ours, theirs = socket_pair()
    async with await SocketStream.from_socket(ours) as a, await SocketStream.from_socket(theirs) as b:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(send, a)
            with (tmp_path / "out").open("wb") as sink:
                await copy(b, sink)
    with file.open("rb") as source, (tmp_path / "out2").open("wb") as sink:
        await copy(source, sink)
    # A pipe's bytes are spliced twice: in and out.
    assert ran == {"sendfile": len(DATA), "splice": 2 * len(DATA), "copy_file_range": len(DATA)}
    assert (tmp_path / "out").read_bytes() == (tmp_path / "out2").read_bytes() == DATA


@pytest.mark.parametrize("count", [0, 1, 1000, len(DATA), len(DATA) + 1])
async def test_count_from_a_file_moves_what_is_there(file: Path, count: int) -> None:
    ours, theirs = socket_pair()
    with peer(theirs) as got:
        async with await SocketStream.from_socket(ours) as stream, await FileReadStream.from_path(file) as source:
            assert (await copy(source, stream, count=count)).bytes_moved == min(count, len(DATA))
            assert await source.tell() == min(count, len(DATA))
    assert got == DATA[:count]


async def test_a_stream_that_ends_early_is_truncated(tmp_path: Path, way: str) -> None:
    for sink_is_file in (True, False):
        (left, source), (right, sink) = socket_pair(), socket_pair()
        with peer(left, send=DATA[:1000]), peer(right):
            async with await SocketStream.from_socket(source) as a, await SocketStream.from_socket(sink) as b:
                with (tmp_path / "out").open("wb") as out, pytest.raises(TruncatedError) as caught:
                    await copy(a, out if sink_is_file else b, count=1001)
                assert caught.value.bytes_moved == 1000
            # A message that is not whole never ends like one that is.
            assert b.close_report is not None
            assert b.close_report.outcome is (CloseOutcome.ACKED if sink_is_file else CloseOutcome.ABORTED) or (
                b.close_report.outcome is CloseOutcome.CLEAN and sink_is_file
            )


async def test_it_goes_through_what_wraps_a_stream(file: Path) -> None:
    authority = trustme.CA()
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(server_context)
    client_context = ssl.create_default_context()
    authority.configure_trust(client_context)

    ours, theirs = socket_pair()
    a, b = await SocketStream.from_socket(ours), await SocketStream.from_socket(theirs)
    got = io.BytesIO()

    async def serve() -> None:
        tls = await wrap_tls(b, server_side=True, ssl_context=server_context, standard_compatible=False)
        buffered = BufferedByteReceiveStream(tls)
        got.write(await buffered.receive_exactly(10))  # what it holds beyond them must come first
        report = await copy(buffered, got)
        assert report.route == "read-send"
        await tls.aclose()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(serve)
        tls = await wrap_tls(a, hostname="localhost", ssl_context=client_context, standard_compatible=False)
        with file.open("rb") as source:
            report = await copy(source, tls)
        assert report == TransferReport(len(DATA), report.seconds, "read-send", ())
        await tls.aclose()
    assert got.getvalue() == DATA


async def test_memory_streams_and_objects_are_ends_too(file: Path) -> None:
    send, receive = anyio.create_memory_object_stream[bytes](100)
    async with send, receive:
        with file.open("rb") as source:
            assert (await copy(source, send)).bytes_moved == len(DATA)
        await send.aclose()
        sink = io.BytesIO()
        with pytest.raises(TypeError, match="count"):
            Transfer(receive, sink, count=10)
        assert (await copy(receive, sink)).bytes_moved == len(DATA)
        assert sink.getvalue() == DATA


async def test_a_transfer_with_a_foreign_stream_cannot_be_resumed() -> None:
    send, receive = anyio.create_memory_object_stream[bytes](0)
    with send, receive:
        transfer = Transfer(io.BytesIO(DATA), send)
        await cancelled_in_its_wait(transfer.run)
        with pytest.raises(BrokenResourceError, match="cannot be resumed"):
            await transfer.run()


async def test_one_with_a_foreign_end_that_did_not_begin_can_be_run_again() -> None:
    class Yields(anyio.abc.ByteReceiveStream):
        async def receive(self, max_bytes: int = 65536) -> bytes:
            if not left:
                raise anyio.EndOfStream
            return left.pop()

        async def aclose(self) -> None: ...

    left: list[bytes] = []

    left[:] = [b"data"]
    ours, theirs = socket_pair()
    async with await SocketStream.from_socket(ours) as stream:
        transfer = Transfer(Yields(), stream)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(stream.send, bytes(20_000_000))
            await anyio.wait_all_tasks_blocked()
            with pytest.raises(BusyResourceError):
                await transfer.run()
            with peer(theirs) as got:
                while len(got) < 20_000_000:  # noqa: ASYNC110
                    await anyio.sleep(0.005)
                with anyio.CancelScope() as scope:
                    scope.cancel()
                    await transfer.run()
                assert (await transfer.run()).bytes_moved == 4
                await stream.aclose()
        assert got.endswith(b"data")


def test_trios_bare_socket_is_refused_since_it_sends_a_part_and_says_so(file: Path) -> None:
    async def main() -> None:
        with trio.socket.socket() as bare, file.open("rb") as good:
            with pytest.raises(TypeError, match="byte stream"):
                Transfer(good, bare)  # type: ignore[arg-type]

    trio.run(main)


async def test_bad_ends_and_numbers_are_refused_before_anything_moves(file: Path, tmp_path: Path) -> None:
    with file.open("rb") as good, (tmp_path / "out").open("wb") as sink, file.open() as text:
        with pytest.raises(ValueError, match="count"):
            Transfer(good, sink, count=-1)
        with pytest.raises(ValueError, match="rate"):
            Transfer(good, sink, rate_limit=0)
        with pytest.raises(TypeError):
            Transfer(good, sink, count=1.5)  # type: ignore[arg-type]
        with socket.socket() as raw:
            for end in (None, object(), "a path", text, raw):
                with pytest.raises(TypeError):
                    Transfer(end, sink)  # type: ignore[arg-type]
                with pytest.raises(TypeError):
                    Transfer(good, end)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="reading only"):
            Transfer(good, good)
        assert (good.tell(), sink.tell()) == (0, 0)


@settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**32))
def _interrupted_chain(loop_name: str, runner: Run, directory: Path, seed: int) -> None:
    """file → socket → socket → file, each transfer cancelled at random and run again."""
    chance = random.Random(seed)
    data = DATA[: chance.randrange(1, len(DATA))]
    path, out = directory / "in", directory / "out"
    path.write_bytes(data)
    cancels = 0

    async def run_until_done(transfer: Transfer) -> None:
        nonlocal cancels
        for _ in range(9):
            before = transfer.bytes_moved
            with anyio.CancelScope() as scope:
                async with anyio.create_task_group() as tasks:

                    async def strike() -> None:
                        for _ in range(chance.randrange(8)):
                            await anyio.lowlevel.checkpoint()
                        scope.cancel()

                    tasks.start_soon(strike)
                    await transfer.run()
                    tasks.cancel_scope.cancel()
            cancels += scope.cancelled_caught
            assert transfer.bytes_moved >= before
        await transfer.run()

    async def main() -> None:
        (c1, s1), (c2, s2) = socket_pair(), socket_pair()
        for sock in (c1, s1, c2, s2):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, chance.choice([4096, 1 << 16, 1 << 20]))
        a, b, c, d = [await SocketStream.from_socket(sock) for sock in (c1, s1, c2, s2)]
        with path.open("rb") as source, out.open("wb") as sink:
            chain = [Transfer(source, a), Transfer(b, c), Transfer(d, sink)]

            async def link(transfer: Transfer, then: SocketStream | None) -> None:
                await run_until_done(transfer)
                if then is not None:
                    await then.send_eof()

            async with anyio.create_task_group() as tasks:
                for transfer, then in zip(chain, (a, c, None), strict=True):
                    tasks.start_soon(link, transfer, then)
            assert [transfer.bytes_moved for transfer in chain] == [len(data)] * 3
            assert (source.tell(), sink.tell()) == (len(data), len(data))
        for stream in (a, b, c, d):
            await stream.aclose()
            assert stream.close_report is not None
            assert stream.close_report.outcome in (CloseOutcome.CLEAN, CloseOutcome.ACKED)

    runner(main)
    assert hashlib.sha256(out.read_bytes()).digest() == hashlib.sha256(data).digest()
    _cancels[loop_name] = _cancels.get(loop_name, 0) + cancels


_cancels: dict[str, int] = {}


def test_cancelled_a_thousand_times_and_resumed_the_hash_is_right(run: Run, loop_name: str, tmp_path: Path) -> None:
    _interrupted_chain(loop_name, run, tmp_path)
    assert _cancels[loop_name] >= 50, "the cancellations came too late to interrupt anything"


async def test_a_cancelled_transfer_cuts_the_socket_until_it_is_resumed(file: Path) -> None:
    ours, theirs = socket_pair()
    stream = await SocketStream.from_socket(ours)
    with file.open("rb") as source:
        async with _large(file) as large:
            big = Transfer(large, stream)
            await cancelled_when(lambda: big.bytes_moved, big.run)
        assert big.bytes_moved > 0
        with pytest.raises(BrokenResourceError, match=f"stopped after {big.bytes_moved} of"):
            await stream.send(b"more")
        with pytest.raises(BrokenResourceError):
            await stream.send_eof()
        with pytest.raises(BrokenResourceError):
            await copy(source, stream)  # another one may not go on
    with peer(theirs) as got:
        await stream.aclose()
    assert stream.close_report is not None
    assert stream.close_report.outcome is CloseOutcome.ABORTED
    assert got.endswith(b"RST")


class Subclass(SocketStream):
    """A transfer goes through its methods, which may do more than ours."""


over_wrappers = pytest.mark.parametrize(
    "wrapper",
    [BufferedByteStream, lambda stream: StapledByteStream(stream, stream), None],
    ids=["buffered", "stapled", "subclass"],
)


@over_wrappers
async def test_a_cancelled_transfer_cuts_the_socket_below_a_wrapper_too(wrapper: Any) -> None:
    ours, theirs = socket_pair()
    stream = await (SocketStream if wrapper else Subclass).from_socket(ours)
    put, source = anyio.create_memory_object_stream[bytes](1)
    transfer = Transfer(source, wrapper(stream) if wrapper else stream)
    with peer(theirs) as got:
        async with put, source, anyio.create_task_group() as tasks:
            tasks.start_soon(transfer.run)
            await put.send(b"a part")
            await until(lambda: transfer.bytes_moved == 6)
            tasks.cancel_scope.cancel()
        await stream.aclose()
    assert got.endswith(b"RST")


@over_wrappers
async def test_a_close_between_two_pieces_of_a_transfer_cuts_the_socket_below_a_wrapper_too(wrapper: Any) -> None:
    ours, theirs = socket_pair()
    stream = await (SocketStream if wrapper else Subclass).from_socket(ours)
    put, source = anyio.create_memory_object_stream[bytes](1)
    sink = wrapper(stream) if wrapper else stream
    transfer = Transfer(source, sink)

    async def run() -> None:
        with pytest.raises(ClosedResourceError):
            await transfer.run()

    with peer(theirs) as got:
        async with put, source, anyio.create_task_group() as tasks:
            tasks.start_soon(run)
            await put.send(b"a part")
            await until(lambda: transfer.bytes_moved == 6)
            words = "Another task is already writing to this resource"
            with pytest.raises(BusyResourceError, match=words):  # as over the bare socket: FIN would end a part
                await stream.send_eof()
            with pytest.raises(BusyResourceError, match=words):
                await copy(io.BytesIO(b"others"), sink)
            await stream.aclose()
            await put.send(b"!")
    assert got.endswith(b"RST")


def _large(file: Path) -> FileReadStream:
    """A file that is larger than what two kernels buffer."""
    large = file.with_name("large")
    with large.open("wb") as out:
        out.truncate(64 << 20)
    return FileReadStream(large.open("rb"))


async def test_a_cancellation_is_prompt_whatever_is_waited_for(tmp_path: Path) -> None:
    sparse = tmp_path / "sparse"
    with sparse.open("wb") as out:
        out.truncate(10 << 30)

    (c1, s1), (c2, s2) = socket_pair(), socket_pair()
    streams = [await SocketStream.from_socket(sock) for sock in (c1, s1, c2, s2)]
    a, b, c, _ = streams
    with sparse.open("rb") as source, (tmp_path / "out").open("wb") as sink:
        for transfer in (Transfer(source, a), Transfer(c, sink), Transfer(b, c)):
            with anyio.move_on_after(0.2) as scope:
                await transfer.run()
            assert scope.cancelled_caught
            assert anyio.current_time() - scope.deadline < AT_ONCE
    for stream in streams:
        stream.abort()


@pytest.mark.parametrize("abort", [False, True], ids=["aclose", "abort"])
async def test_no_thread_writes_to_a_number_that_was_given_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, abort: bool
) -> None:
    held, go_on = threading.Event(), threading.Event()
    real = splice.Pipe.empty_into_file

    def hold(pipe: splice.Pipe, fd: int, offset: int) -> int:
        held.set()
        assert go_on.wait(20)
        return real(pipe, fd, offset)

    monkeypatch.setattr(splice.Pipe, "empty_into_file", hold)

    ours, theirs = socket_pair()
    stream = await SocketStream.from_socket(ours)
    number = ours.fileno()
    theirs.sendall(b"x" * 100)
    outcome: list[BaseException] = []

    async def move() -> None:
        with (tmp_path / "out").open("wb") as sink:
            try:
                await copy(stream, sink)
            except BaseException as error:
                outcome.append(error)
                if not isinstance(error, Exception):
                    raise

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(move)
        await anyio.to_thread.run_sync(held.wait, 20)
        if abort:
            stream.abort()
            theirs.settimeout(10)
            with pytest.raises(ConnectionResetError):  # at once, although the thread still holds the descriptor
                theirs.recv(1)
        else:
            tasks.start_soon(stream.aclose)
            for _ in range(20):
                await anyio.lowlevel.checkpoint()
        assert os.fstat(number), "closed while a thread used it"
        go_on.set()
    assert isinstance(outcome[0], ClosedResourceError)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(number)
    assert (tmp_path / "out").read_bytes() == b"x" * 100
    theirs.close()


async def test_a_file_stream_that_is_closed_ends_the_transfer(tmp_path: Path) -> None:
    ours, theirs = socket_pair()
    stream = await SocketStream.from_socket(ours)
    sink = await FileWriteStream.from_path(tmp_path / "out")

    async def close_soon() -> None:
        await anyio.wait_all_tasks_blocked()
        await sink.aclose()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(close_soon)
        with pytest.raises(ClosedResourceError):
            await copy(stream, sink)
    theirs.close()
    await stream.aclose()


async def test_a_failing_sink_is_named_with_what_it_has_and_what_was_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = splice.Pipe.empty_into_file

    def fill_the_disk(pipe: splice.Pipe, fd: int, offset: int) -> int:
        if offset >= 300_000:
            raise OSError(28, "No space left on device")
        held = pipe.held
        pipe.held = min(held, 300_000 - offset)  # a full disk takes a part, also of a piece that has all
        given = real(pipe, fd, offset)
        pipe.held = held - given
        return given

    monkeypatch.setattr(splice.Pipe, "empty_into_file", fill_the_disk)

    ours, theirs = socket_pair()
    with peer(theirs, send=DATA[:1_000_000], read=False):
        async with await SocketStream.from_socket(ours) as stream:
            with (
                (tmp_path / "out").open("wb") as sink,
                pytest.raises(BrokenResourceError, match="Errno 28") as caught,
            ):
                await copy(stream, sink)
            error = caught.value
            written = (tmp_path / "out").read_bytes()
            assert (error.side, error.errno, error.bytes_moved) == ("sink", 28, len(written))
            assert len(written) == 300_000
            rest = b""
            while len(rest) < 1_000_000 - len(written) - error.bytes_lost:
                rest += await stream.receive()
    assert written == DATA[: len(written)]
    assert rest == DATA[1_000_000 - len(rest) : 1_000_000]


async def test_it_can_be_watched_while_it_runs_but_not_run_twice(
    tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    piece = len(DATA) // 8
    allowed = threading.Semaphore(1)
    copy_range = os.copy_file_range

    def copy_piece(source: int, sink: int, count: int, *offsets: Any, **more: Any) -> int:
        assert allowed.acquire(timeout=BOUND)
        return copy_range(source, sink, min(count, piece), *offsets, **more)

    monkeypatch.setattr(os, "copy_file_range", copy_piece)
    with file.open("rb") as source, (tmp_path / "out").open("wb") as sink:
        transfer = Transfer(source, sink)
        assert (transfer.bytes_moved, transfer.route) == (0, None)
        seen = []

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(transfer.run)
            await until(lambda: transfer.bytes_moved == piece)
            with pytest.raises(BusyResourceError):
                await transfer.run()
            with pytest.raises(BusyResourceError):
                await transfer.run()
            while transfer.bytes_moved < len(DATA):
                seen.append(transfer.bytes_moved)
                allowed.release()
                await until(lambda: transfer.bytes_moved > seen[-1])
            for _ in range(2):  # for whoever looks whether that was all
                allowed.release()
        assert transfer.route == "copy_file_range"
        assert seen == [piece * number for number in range(1, 9)]


async def test_a_rate_limit_is_smooth(file: Path, tmp_path: Path) -> None:
    rate = 4_000_000
    with file.open("rb") as source, (tmp_path / "out").open("wb") as sink:
        transfer = Transfer(source, sink, rate_limit=rate)
        began = anyio.current_time()
        report = await transfer.run()
        took = anyio.current_time() - began
    assert report.bytes_moved == len(DATA)
    assert took >= len(DATA) / rate * 0.9  # never faster; how much slower is the machine's affair


async def test_a_hundred_at_once_leave_the_loop_its_turns(file: Path) -> None:
    streams, peers = [], []
    for _ in range(50):
        ours, theirs = socket_pair()
        streams.append(await SocketStream.from_socket(ours))
        peers.append(await SocketStream.from_socket(theirs))
    turns = 0

    async def tick() -> None:
        nonlocal turns
        while True:
            turns += 1
            await anyio.lowlevel.checkpoint()

    async def send(stream: SocketStream) -> None:
        with file.open("rb") as source:
            await copy(source, stream)
        await stream.send_eof()

    async def receive(stream: SocketStream) -> None:
        with open(os.devnull, "wb") as sink:
            assert (await copy(stream, sink)).bytes_moved == len(DATA)

    threads = threading.active_count()
    most = 0
    async with anyio.create_task_group() as ticking:
        ticking.start_soon(tick)
        async with anyio.create_task_group() as tasks:
            for stream in streams:
                tasks.start_soon(send, stream)
            for stream in peers:
                tasks.start_soon(receive, stream)
            while not turns:
                await anyio.lowlevel.checkpoint()
            most = max(most, threading.active_count() - threads)
        ticking.cancel_scope.cancel()
    assert turns >= len(streams) / SLOTS_MOST  # each file is one slice or more
    assert most <= 60, "a thread for each transfer"
    for stream in (*streams, *peers):
        await stream.aclose()


async def test_what_is_atomic_is_all_or_nothing(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_bytes(b"before")
    for data, count in ((DATA, None), (DATA[:10], 11)):
        ours, theirs = socket_pair()
        with peer(theirs, send=data):
            async with await SocketStream.from_socket(ours) as stream:
                with contextlib.suppress(TruncatedError):
                    async with await FileWriteStream.from_path(target, atomic=True) as sink:
                        await copy(stream, sink, count=count)
                assert sink.statistics().sent_bytes == 0  # it went by splice
        assert target.read_bytes() == DATA
    assert sorted(path.name for path in tmp_path.iterdir()) == ["target"]
