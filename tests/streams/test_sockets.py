"""The two faces of ``SocketStream`` and ``UNIXSocketStream``: what programs for AnyIO or Trio rely on."""

from __future__ import annotations

import array
import asyncio
import errno
import hashlib
import os
import random
import select
import socket
import ssl
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import anyio.abc
import anyio.lowlevel
import pytest
import trio
import trio.testing
import trustme
from anyio.abc import SocketAttribute
from anyio.streams.buffered import BufferedByteReceiveStream, BufferedByteStream
from anyio.streams.stapled import StapledByteStream
from anyio.streams.text import TextReceiveStream, TextStream
from anyio.streams.tls import TLSAttribute
from support.loops import Run
from support.sockets import Pair, read_to_fin, reset
from support.streams import adopt, stream_over
from support.threads import thread
from support.waiting import BOUND, until

from roket_trio import (
    BrokenResourceError,
    BusyResourceError,
    ClosedResourceError,
    CloseOutcome,
    EndOfStream,
    SocketStream,
    TLSListener,
    TLSStream,
    UNIXSocketStream,
    connect_tcp,
    create_tcp_listener,
    wrap_tls,
)


def has_arrived(sock: socket.socket) -> bool:
    """Wait until ``sock`` has something to read."""
    return bool(select.select([sock], [], [], BOUND)[0])


def fill(sock: socket.socket) -> int:
    """Send on a non-blocking socket until the kernel has not taken one byte more for 50 ms; returns the count."""
    filled = 0
    refused_at = 0.0
    while not refused_at or time.monotonic() < refused_at + 0.05:
        for size in (65536, 1):
            try:
                filled += sock.send(b"f" * size)
                refused_at = 0.0
            except BlockingIOError:
                refused_at = refused_at or time.monotonic()
        if refused_at:
            time.sleep(0.005)
    return filled


async def receive_exactly(stream: SocketStream, count: int) -> bytes:
    data = b""
    while len(data) < count:
        data += await stream.receive(count - len(data))
    return data


# --- what it is ------------------------------------------------------------------------------------------------------


async def test_a_stream_is_both_libraries_stream(any_pair: Pair) -> None:
    async with stream_over(any_pair[0]) as stream:
        for face in (anyio.abc.SocketStream, anyio.abc.ByteStream, anyio.abc.ByteReceiveStream):
            assert isinstance(stream, face)
        for other in (trio.abc.HalfCloseableStream, trio.abc.Stream, trio.abc.SendStream, trio.abc.ReceiveStream):
            assert isinstance(stream, other)
        assert isinstance(stream, trio.abc.AsyncResource)
        assert isinstance(stream, anyio.abc.AsyncResource)
        assert isinstance(stream, anyio.abc.UNIXSocketStream) == (any_pair[0].family == socket.AF_UNIX)


@pytest.mark.parametrize("library", [anyio, trio], ids=["anyio", "trio"])
@pytest.mark.parametrize("name", ["ClosedResourceError", "BrokenResourceError", "BusyResourceError"])
async def test_either_librarys_except_clause_catches_it(any_pair: Pair, library: Any, name: str) -> None:
    """The clause as a program would write it, around a real call."""
    expected = getattr(library, name)

    async with stream_over(any_pair[0]) as stream:
        async with anyio.create_task_group() as tasks:
            if name == "ClosedResourceError":
                await stream.aclose()
            elif name == "BrokenResourceError":
                await stream.send_eof()
            else:
                tasks.start_soon(stream.send, bytes(20_000_000))
                await anyio.wait_all_tasks_blocked()
            try:
                await stream.send(b"x")
            except expected:
                tasks.cancel_scope.cancel()
            else:
                raise AssertionError("it was sent")


async def test_a_stream_says_what_it_is(any_pair: Pair) -> None:
    async with stream_over(any_pair[0]) as stream:
        assert repr(stream).startswith(f"<{type(stream).__name__} live")
        await stream.aclose()
        assert "closed" in repr(stream)


# --- receiving -------------------------------------------------------------------------------------------------------

Receive = Callable[[SocketStream, int], Awaitable[bytes]]


async def by_receive(stream: SocketStream, count: int) -> bytes:
    return await stream.receive(count)


async def by_receive_into(stream: SocketStream, count: int) -> bytes:
    buffer = bytearray(count)
    return bytes(buffer[: await stream.receive_into(buffer)])


async def by_receive_some(stream: SocketStream, count: int) -> bytes:
    return await stream.receive_some(count)


RECEIVES = [by_receive, by_receive_into, by_receive_some]


@pytest.mark.parametrize("receive", RECEIVES)
async def test_it_receives_what_is_there_and_no_more_than_asked_for(any_pair: Pair, receive: Receive) -> None:
    async with stream_over(any_pair[0]) as stream:
        any_pair[1].sendall(b"abcdefgh")
        assert has_arrived(any_pair[0])
        assert await receive(stream, 3) == b"abc"
        assert await receive(stream, 1) == b"d"
        rest = await receive(stream, 65536)
        assert rest == b"efgh"
        assert type(rest) is bytes


@pytest.mark.parametrize("receive", RECEIVES)
async def test_a_receive_waits_for_the_first_byte(any_pair: Pair, receive: Receive) -> None:
    async with stream_over(any_pair[0]) as stream:
        results = []

        async def receiver() -> None:
            results.append(await receive(stream, 100))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(receiver)
            await anyio.wait_all_tasks_blocked()
            assert not results
            any_pair[1].sendall(b"late")
        assert results == [b"late"]


async def test_without_a_count_it_receives_up_to_64_kib(any_pair: Pair) -> None:
    async with stream_over(any_pair[0]) as stream:
        with thread(any_pair[1].sendall, b"x" * 300_000):
            total = 0
            while total < 300_000:
                for call in (stream.receive, stream.receive_some):
                    if total < 300_000:
                        size = len(await call())
                        assert 1 <= size <= 65536
                        total += size


@pytest.mark.parametrize("count", [0, -1])
async def test_a_count_that_is_not_positive_is_refused_and_takes_nothing(any_pair: Pair, count: int) -> None:
    async with stream_over(any_pair[0]) as stream:
        any_pair[1].sendall(b"kept")
        with pytest.raises(ValueError, match="max_bytes must be a positive integer"):
            await stream.receive(count)
        with pytest.raises(ValueError, match="max_bytes must be"):
            await stream.receive_some(count)
        assert await receive_exactly(stream, 4) == b"kept"


@pytest.mark.parametrize("count", ["7", 1.5])
async def test_a_count_that_is_no_integer_is_refused_and_takes_nothing(any_pair: Pair, count: Any) -> None:
    async with stream_over(any_pair[0]) as stream:
        any_pair[1].sendall(b"kept")
        for call in (stream.receive, stream.receive_some):
            with pytest.raises(TypeError):
                await call(count)
        assert await receive_exactly(stream, 4) == b"kept"


async def test_receive_into_takes_every_writable_contiguous_buffer(any_pair: Pair) -> None:
    async with stream_over(any_pair[0]) as stream:
        data = bytes(range(24))
        plain = bytearray(30)
        views: list[tuple[Any, int]] = [
            (memoryview(plain), 0),
            (memoryview(plain)[3:27], 3),
            (memoryview(plain)[:24].cast("i"), 0),
            (memoryview(plain)[:24].cast("B", [2, 3, 4]), 0),
            (memoryview(plain)[:24].cast("h").cast("B").cast("d", [3, 1]), 0),
        ]
        for view, start in views:
            plain[:] = bytes(30)
            any_pair[1].sendall(data)
            assert has_arrived(any_pair[0])
            assert await stream.receive_into(view) == 24  # bytes, whatever the items are
            assert plain[start : start + 24] == data
        numbers = array.array("i", [0] * 6)
        any_pair[1].sendall(data)
        assert has_arrived(any_pair[0])
        assert await stream.receive_into(memoryview(numbers)) == 24
        assert numbers.tobytes() == data


async def test_receive_into_refuses_what_it_cannot_fill_and_takes_nothing(any_pair: Pair) -> None:
    async with stream_over(any_pair[0]) as stream:
        any_pair[1].sendall(b"kept")
        for empty in (bytearray(), memoryview(bytearray(3))[1:1]):
            with pytest.raises(ValueError, match="empty"):
                await stream.receive_into(empty)
        unfit: list[Any] = [b"read-only", memoryview(b"read-only"), memoryview(bytearray(8))[::2], "text", None, 5]
        for buffer in unfit:
            with pytest.raises((TypeError, BufferError, ValueError)):
                await stream.receive_into(buffer)
        assert await receive_exactly(stream, 4) == b"kept"


async def test_receive_into_lets_go_of_the_buffer(any_pair: Pair) -> None:
    async with stream_over(any_pair[0]) as stream:
        buffer = bytearray(8)
        with anyio.move_on_after(0):
            await stream.receive_into(buffer)
        any_pair[1].sendall(b"12345678")
        await stream.receive_into(buffer)
        buffer.extend(b"9")  # BufferError while anybody still exports it


async def test_the_end_on_each_face_is_that_librarys_end_and_stays(any_pair: Pair) -> None:
    async with stream_over(any_pair[0]) as stream:
        any_pair[1].sendall(b"last")
        any_pair[1].shutdown(socket.SHUT_WR)
        assert await receive_exactly(stream, 4) == b"last"
        for _ in range(3):
            with pytest.raises(EndOfStream):
                await stream.receive()
            assert await stream.receive_some() == b""
            assert await stream.receive_some(1) == b""
            with pytest.raises(anyio.EndOfStream):
                await stream.receive_into(bytearray(1))
        await stream.send(b"the other direction is open")
        assert any_pair[1].recv(100) == b"the other direction is open"


async def test_iterating_ends_at_the_end(any_pair: Pair) -> None:
    async with stream_over(any_pair[0]) as stream:
        go_on = threading.Event()

        def talk() -> None:
            any_pair[1].sendall(b"bl")
            assert go_on.wait(BOUND)
            any_pair[1].sendall(b"ah")
            any_pair[1].shutdown(socket.SHUT_WR)

        chunks = []
        with thread(talk):
            async for chunk in stream:
                chunks.append(chunk)
                go_on.set()
        assert chunks == [b"bl", b"ah"]
        assert [chunk async for chunk in stream] == []


async def test_everything_that_had_arrived_is_received_before_a_reset_is_reported(
    tcp_pair: tuple[socket.socket, socket.socket],
) -> None:
    ours, peer = tcp_pair
    async with stream_over(ours) as stream:
        peer.sendall(b"x" * 50_000)
        # The peer's kernel says when ours has it all: an RST destroys what is still on the way.
        assert has_arrived(ours)
        await until(lambda: len(ours.recv(50_000, socket.MSG_PEEK)) == 50_000)
        reset(peer)
        received = 0
        with pytest.raises(BrokenResourceError) as first:
            while True:
                received += len(await stream.receive(7000))
        assert received == 50_000
        assert first.value.errno == errno.ECONNRESET
        assert isinstance(first.value.__cause__, ConnectionResetError)
        for call in (stream.receive, stream.receive_some):
            with pytest.raises(BrokenResourceError) as again:
                await call()
            assert again.value.errno == errno.ECONNRESET
            assert isinstance(again.value.__cause__, ConnectionResetError)
        with pytest.raises(BrokenResourceError):
            await stream.send(b"x")
        await stream.aclose()
        assert stream.close_report is not None
        assert stream.close_report.outcome is CloseOutcome.RESET


# --- sending ---------------------------------------------------------------------------------------------------------

BUFFERS: dict[str, Callable[[bytes], Any]] = {
    "bytes": bytes,
    "bytearray": bytearray,
    "memoryview": memoryview,
    "a slice": lambda data: memoryview(b"<<" + data + b">>")[2:-2],
    "a view of a bytearray": lambda data: memoryview(bytearray(data)),
    "doubles": lambda data: memoryview(data).cast("d"),
    "three dimensions": lambda data: memoryview(data).cast("B", [2, 4, len(data) // 8]),
    "two dimensions of shorts": lambda data: memoryview(data).cast("h", [4, len(data) // 8]),
    "an array": lambda data: array.array("i", data),
    "a subclass of bytes": type("Bytes", (bytes,), {}),
}


@pytest.mark.parametrize("size", [64, 4_000_000], ids=["at once", "in many pieces"])
async def test_every_kind_of_buffer_arrives_whole(any_pair: Pair, size: int) -> None:
    data = random.Random(size).randbytes(size)
    digest = hashlib.sha256()
    async with stream_over(any_pair[0]) as stream:
        with thread(read_to_fin, any_pair[1]) as arrived:
            for count, make in enumerate(BUFFERS.values(), 1):
                item = make(data)
                await (stream.send(item) if count % 2 else stream.send_all(item))
                digest.update(data)
                assert stream.statistics().sent_bytes == count * size
            assert (stream.statistics().send_calls > len(BUFFERS)) == (size > 64)
            await stream.send_eof()
        assert hashlib.sha256(arrived.result()).digest() == digest.digest()


async def test_a_buffer_can_be_resized_after_the_send_and_after_a_cancelled_one(any_pair: Pair) -> None:
    async with stream_over(any_pair[0]) as stream:
        item = bytearray(20_000_000)
        with anyio.move_on_after(0.05):
            await stream.send(item)
        item.extend(b"x")  # BufferError while anybody still exports it


@pytest.mark.parametrize("item", ["text", None, 5, memoryview(bytes(16))[::2]], ids=["str", "None", "int", "gaps"])
async def test_what_cannot_be_sent_is_refused_and_the_stream_goes_on(any_pair: Pair, item: Any) -> None:
    async with stream_over(any_pair[0]) as stream:
        for call in (stream.send, stream.send_all):
            with pytest.raises((TypeError, BufferError)):
                await call(item)
        await stream.send(b"fine")
        assert any_pair[1].recv(100) == b"fine"
        await stream.aclose()
        assert stream.close_report is not None
        assert stream.close_report.acked
        assert any_pair[1].recv(1) == b""


@pytest.mark.parametrize("empty", [b"", bytearray(), memoryview(b"")], ids=["bytes", "bytearray", "memoryview"])
async def test_sending_nothing_touches_no_wire_and_still_knows_the_state(any_pair: Pair, empty: Any) -> None:
    async with stream_over(any_pair[0]) as stream:
        await stream.send(empty)
        await stream.send_all(empty)
        assert stream.statistics().send_calls == 0
        with anyio.CancelScope() as scope:
            scope.cancel()
            await stream.send(empty)
        assert scope.cancelled_caught
        await stream.send_eof()
        assert read_to_fin(any_pair[1]) == b""
        with pytest.raises(BrokenResourceError):
            await stream.send(empty)
        with pytest.raises(ClosedResourceError):
            await stream.send_all(empty)
        await stream.aclose()
        for call in (stream.send, stream.send_all):
            with pytest.raises(ClosedResourceError):
                await call(empty)


async def test_after_send_eof_each_face_refuses_in_its_librarys_words(any_pair: Pair) -> None:
    async with stream_over(any_pair[0]) as stream:
        await stream.send(b"question")
        await stream.send_eof()
        await stream.send_eof()  # idempotent
        assert read_to_fin(any_pair[1]) == b"question"
        with pytest.raises(anyio.BrokenResourceError):
            await stream.send(b"x")
        with pytest.raises(trio.ClosedResourceError):
            await stream.send_all(b"x")
        any_pair[1].sendall(b"answer")
        assert await receive_exactly(stream, 6) == b"answer"
        await stream.aclose()
        with pytest.raises(ClosedResourceError):
            await stream.send_eof()


async def test_send_eof_waits_behind_no_send_but_says_busy(any_pair: Pair) -> None:
    async with stream_over(any_pair[0]) as stream:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(stream.send, bytes(20_000_000))
            await anyio.wait_all_tasks_blocked()
            with pytest.raises(BusyResourceError):
                await stream.send_eof()
            tasks.cancel_scope.cancel()


async def test_a_send_to_a_peer_that_is_gone_is_broken_and_says_why(any_pair: Pair) -> None:
    async with stream_over(any_pair[0]) as stream:
        reset(any_pair[1])
        with pytest.raises(BrokenResourceError) as caught:
            while True:
                await stream.send(b"x" * 1000)
        assert isinstance(caught.value.__cause__, OSError)
        assert caught.value.errno in (errno.ECONNRESET, errno.EPIPE)
        assert os.strerror(caught.value.errno) in str(caught.value)
        for call in (stream.send, stream.send_all):
            with pytest.raises(BrokenResourceError):
                await call(b"x")


# --- one task a direction --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("holder", RECEIVES)
async def test_a_second_receiver_is_busy_and_the_first_goes_on(any_pair: Pair, holder: Receive) -> None:
    async with stream_over(any_pair[0]) as stream:
        received = []

        async def hold() -> None:
            received.append(await holder(stream, 10))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(hold)
            await anyio.wait_all_tasks_blocked()
            for receive in RECEIVES:
                with pytest.raises(BusyResourceError, match="already receiving from"):
                    await receive(stream, 10)
            any_pair[1].sendall(b"mine")
        assert received == [b"mine"]
        any_pair[1].sendall(b"free again")
        assert await receive_exactly(stream, 10) == b"free again"


async def test_a_second_sender_is_busy_and_the_first_loses_nothing(any_pair: Pair) -> None:
    data = random.Random(1).randbytes(20_000_000)
    async with stream_over(any_pair[0]) as stream:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(stream.send, data)
            await anyio.wait_all_tasks_blocked()
            for call in (stream.send, stream.send_all):
                for item in (b"x", b""):
                    with pytest.raises(BusyResourceError, match="already sending to"):
                        await call(item)
            with pytest.raises(BusyResourceError):
                await stream.wait_send_all_might_not_block()
            with thread(read_to_fin, any_pair[1]) as arrived:
                await until(lambda: stream.statistics().sent_bytes == len(data))
                await anyio.wait_all_tasks_blocked()
                await stream.send_eof()
            assert arrived.result() == data


async def test_one_task_may_send_while_another_receives(any_pair: Pair) -> None:
    data = random.Random(2).randbytes(3_000_000)

    def echo() -> None:
        while chunk := any_pair[1].recv(65536):
            any_pair[1].sendall(chunk)
        any_pair[1].shutdown(socket.SHUT_WR)

    async with stream_over(any_pair[0]) as stream:
        with thread(echo):
            async with anyio.create_task_group() as tasks:

                async def sender() -> None:
                    await stream.send(data)
                    await stream.send_eof()

                tasks.start_soon(sender)
                assert b"".join([chunk async for chunk in stream]) == data


@pytest.mark.parametrize("close", ["aclose", "abort"])
async def test_a_local_close_wakes_whoever_waits_and_is_never_an_end(any_pair: Pair, close: str) -> None:
    outcomes: list[str] = []

    async def waits(call: Callable[..., Awaitable[Any]], *args: object) -> None:
        with pytest.raises(ClosedResourceError):
            await call(*args)
        outcomes.append("closed")

    async with stream_over(any_pair[0]) as stream:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(waits, stream.receive)
            tasks.start_soon(waits, stream.send, bytes(20_000_000))
            tasks.start_soon(waits, stream.wait_peer_closed)
            await anyio.wait_all_tasks_blocked()
            if close == "abort":
                stream.abort()
            else:
                await stream.aclose()
        assert outcomes == ["closed"] * 3
        assert any_pair[0].fileno() == -1
        for call in (stream.receive, stream.receive_some, stream.wait_peer_closed, stream.send_eof):
            with pytest.raises(ClosedResourceError):
                await call()
        with pytest.raises(ClosedResourceError):
            await stream.wait_send_all_might_not_block()


async def test_a_close_at_the_checkpoint_of_a_wait_for_room_is_noticed(any_pair: Pair) -> None:
    async def aborts(stream: SocketStream) -> None:
        stream.abort()

    async with stream_over(any_pair[0]) as stream:

        async def wait() -> None:
            with pytest.raises(ClosedResourceError):
                await stream.wait_send_all_might_not_block()

        for _ in range(2):  # whichever of the two runs first
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(wait)
                tasks.start_soon(aborts, stream)


async def test_a_close_as_room_is_made_is_noticed(any_pair: Pair) -> None:
    """Closed in the turn of the loop in which the waiting task is woken, and before that runs."""

    async with stream_over(any_pair[0]) as stream:
        with pytest.raises(BlockingIOError):
            while True:
                any_pair[0].send(bytes(1 << 20))
        connection = stream._connection
        readiness = connection.readiness

        async def woken_too_late() -> None:
            any_pair[1].setblocking(False)
            with pytest.raises(BlockingIOError):
                while True:
                    any_pair[1].recv(1 << 20)
            await readiness.wait_writable()
            stream.abort()

        connection.readiness = SimpleNamespace(wait_writable=woken_too_late, close=readiness.close)  # type: ignore[assignment]
        with pytest.raises(ClosedResourceError):
            await stream.wait_send_all_might_not_block()


async def test_aclose_by_another_task_wakes_a_receiver(any_pair: Pair) -> None:
    async with stream_over(any_pair[0]) as stream:
        async with anyio.create_task_group() as tasks:

            async def closer() -> None:
                await anyio.wait_all_tasks_blocked()
                await stream.aclose()

            tasks.start_soon(closer)
            with pytest.raises(ClosedResourceError):
                await stream.receive()
        await stream.aclose()  # idempotent
        assert any_pair[0].fileno() == -1
        assert read_to_fin(any_pair[1]) == b""


# --- cancellation ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("receive", RECEIVES)
async def test_cancelled_receives_lose_no_byte(any_pair: Pair, receive: Receive) -> None:
    data = random.Random(3).randbytes(30_000)
    go = threading.Event()

    def dribble() -> None:
        assert go.wait(BOUND)
        for start in range(0, len(data), 200):
            any_pair[1].sendall(data[start : start + 200])
            if start % 1000 == 0:
                time.sleep(0.0005)  # so that bytes and deadlines meet in every order
        any_pair[1].shutdown(socket.SHUT_WR)

    async with stream_over(any_pair[0]) as stream:
        received = bytearray()
        cancelled = 0
        seconds = random.Random(4)
        with thread(dribble):
            ended = False
            while not ended:
                with anyio.move_on_after(seconds.choice([0, 0.0001, 0.001])) as scope:
                    try:
                        while chunk := await receive(stream, 700):
                            received += chunk
                        ended = True
                    except EndOfStream:
                        ended = True
                cancelled += scope.cancelled_caught
                if cancelled == 20:  # these found nothing
                    go.set()
        assert received == data


@pytest.mark.parametrize("receive", RECEIVES)
async def test_a_cancellation_while_data_is_at_hand_takes_it_or_leaves_it(any_pair: Pair, receive: Receive) -> None:
    """Nothing may be taken out of the kernel and then dropped, at whichever schedule point the cancellation arrives."""

    async with stream_over(any_pair[0]) as stream:
        for turns in range(6):
            any_pair[1].sendall(b"precious")
            assert has_arrived(any_pair[0])
            got: list[bytes] = []
            async with anyio.create_task_group() as tasks:

                async def taker(into: list[bytes]) -> None:
                    into.append(await receive(stream, 100))

                tasks.start_soon(taker, got)
                for _ in range(turns):
                    await anyio.lowlevel.cancel_shielded_checkpoint()
                tasks.cancel_scope.cancel()
            assert (b"".join(got) or await receive_exactly(stream, 8)) == b"precious"


@pytest.mark.parametrize("use_uvloop", [False, True], ids=["asyncio", "uvloop"])
def test_a_native_cancellation_loses_no_byte_either(use_uvloop: bool, any_pair: Pair) -> None:
    """``Task.cancel()`` pierces AnyIO's shields: it must not come between a byte and its receiver."""
    if use_uvloop and sys.platform == "win32":
        pytest.skip("uvloop does not exist for Windows")

    async def main() -> None:
        async with stream_over(any_pair[0]) as stream:
            for turns in range(5):
                any_pair[1].sendall(b"precious")
                assert has_arrived(any_pair[0])
                got: list[bytes] = []

                async def taker(into: list[bytes]) -> None:
                    into.append(await stream.receive_some(100))
                    await asyncio.sleep(3600)

                task = asyncio.ensure_future(taker(got))
                for _ in range(turns):
                    await asyncio.sleep(0)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                assert (b"".join(got) or await receive_exactly(stream, 8)) == b"precious"

    anyio.run(main, backend="asyncio", backend_options={"use_uvloop": use_uvloop})


async def test_in_a_cancelled_scope_no_call_moves_a_byte(any_pair: Pair) -> None:
    async with stream_over(any_pair[0]) as stream:
        any_pair[1].sendall(b"kept")
        assert has_arrived(any_pair[0])
        calls: list[Callable[[], Awaitable[Any]]] = [
            stream.receive,
            stream.receive_some,
            lambda: stream.receive_into(bytearray(4)),
            lambda: stream.send(b"x"),
            lambda: stream.send_all(b"x"),
            stream.wait_send_all_might_not_block,
            stream.send_eof,
            stream.wait_peer_closed,
        ]
        for call in calls:
            with anyio.CancelScope() as scope:
                scope.cancel()
                await call()
            assert scope.cancelled_caught
        statistics = stream.statistics()
        assert (statistics.sent_bytes, statistics.received_bytes) == (0, 0)
        assert await receive_exactly(stream, 4) == b"kept"
        await stream.send(b"not cut, no EOF")
        assert any_pair[1].recv(100) == b"not cut, no EOF"


async def test_a_send_that_is_cancelled_before_its_first_byte_has_not_happened(any_pair: Pair) -> None:
    async with stream_over(any_pair[0]) as stream:
        filled = fill(any_pair[0])
        with anyio.move_on_after(0.02) as scope:
            await stream.send(b"never")
        assert scope.cancelled_caught
        assert stream.statistics().sent_bytes == 0
        with thread(read_to_fin, any_pair[1]) as arrived:
            await stream.send(b"later")
            await stream.send_eof()
        assert arrived.result()[filled:] == b"later"


# --- checkpoints -----------------------------------------------------------------------------------------------------


def test_trios_face_makes_a_full_checkpoint_on_each_call(any_pair: Pair) -> None:
    async def main() -> None:
        with trio.testing.assert_checkpoints():
            stream = await adopt(any_pair[0])
        async with stream:
            any_pair[1].sendall(b"0123456789")
            assert has_arrived(any_pair[0])
            for count in (1, 1, 1):  # more than one within a millisecond
                with trio.testing.assert_checkpoints():
                    await stream.receive_some(count)
            for item in (b"x", b"x", b""):
                with trio.testing.assert_checkpoints():
                    await stream.send_all(item)
            for _ in range(2):
                with trio.testing.assert_checkpoints():
                    await stream.wait_send_all_might_not_block()
            for _ in range(2):
                with trio.testing.assert_checkpoints():
                    await stream.send_eof()
            any_pair[1].shutdown(socket.SHUT_WR)
            await receive_exactly(stream, 7)
            for _ in range(2):
                with trio.testing.assert_checkpoints():
                    assert await stream.receive_some() == b""
            for _ in range(2):
                with trio.testing.assert_checkpoints():
                    await stream.wait_peer_closed()
            for _ in range(2):
                with trio.testing.assert_checkpoints():
                    await stream.aclose()

    trio.run(main)


@pytest.mark.parametrize("busy_with", ["send", "send nothing", "receive", "receive_into"])
def test_anyios_face_lets_others_run_although_it_never_waits(run: Run, busy_with: str) -> None:
    ours, peer = socket.socketpair()

    async def main() -> None:
        async with stream_over(ours) as stream:
            ticks = 0
            buffer = bytearray(1)

            async def ticker() -> None:
                nonlocal ticks
                while True:
                    ticks += 1
                    await anyio.lowlevel.checkpoint()

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(ticker)
                await anyio.lowlevel.checkpoint()
                seen = ticks
                until = time.monotonic() + 0.1
                while time.monotonic() < until:
                    if busy_with == "send":
                        await stream.send(b"x")
                        peer.recv(1)
                    elif busy_with == "send nothing":
                        await stream.send(b"")
                    else:
                        peer.send(b"x")
                        await (stream.receive(1) if busy_with == "receive" else stream.receive_into(buffer))
                tasks.cancel_scope.cancel()
            assert ticks - seen >= 10  # once in a millisecond would be 100

    with ours, peer:
        run(main)


# --- statistics and attributes ---------------------------------------------------------------------------------------


async def test_statistics_count_what_moved(any_pair: Pair) -> None:
    async with stream_over(any_pair[0]) as stream:
        before = stream.statistics()
        assert (before.sent_bytes, before.received_bytes, before.send_calls, before.receive_calls) == (0, 0, 0, 0)
        assert not before.routes
        assert not before.fallbacks
        await stream.send(b"12345")
        await stream.send_all(b"678")
        any_pair[1].sendall(b"abcdef")
        assert has_arrived(any_pair[0])
        await stream.receive(1)
        await stream.receive_some(2)
        await stream.receive_into(bytearray(3))
        after = stream.statistics()
        assert (after.sent_bytes, after.received_bytes, after.send_calls, after.receive_calls) == (8, 6, 2, 3)
        assert before.sent_bytes == 0  # a snapshot
        with pytest.raises(TypeError):
            after.routes["x"] = 1  # type: ignore[index]
        await stream.aclose()
        closed = stream.statistics()
        assert (closed.sent_bytes, closed.received_bytes) == (8, 6)
        assert closed.kernel is None


@pytest.mark.skipif(sys.platform != "linux", reason="TCP_INFO as Linux has it")
async def test_statistics_show_the_kernels_own_view_of_tcp(tcp_pair: tuple[socket.socket, socket.socket]) -> None:
    async with stream_over(tcp_pair[0]) as stream:
        tcp_pair[1].sendall(b"unread")
        assert has_arrived(tcp_pair[0])
        before = stream.statistics().kernel
        assert before is not None
        await stream.send(b"x" * 1000)

        def acked() -> int:
            view = stream.statistics().kernel
            assert view is not None
            return view.acked_bytes - before.acked_bytes

        await until(lambda: acked() == 1000)
        view = stream.statistics().kernel
        assert view is not None
        assert view.state.name == "ESTABLISHED"
        assert view.unread_bytes == 6


async def test_a_unix_socket_has_no_kernel_view(unix_pair: Pair) -> None:
    async with stream_over(unix_pair[0]) as stream:
        assert stream.statistics().kernel is None


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_anyios_attributes_of_a_tcp_stream(host: str) -> None:
    if ":" in host and not socket.has_ipv6:
        pytest.skip("no IPv6")

    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as server:
        async with await connect_tcp(host, server.getsockname()[1]) as stream:
            raw = stream.extra(SocketAttribute.raw_socket)
            assert isinstance(raw, socket.socket)
            assert raw.gettimeout() == 0
            assert stream.extra(SocketAttribute.family) == family
            assert stream.extra(SocketAttribute.local_address) == raw.getsockname()[:2]
            assert stream.extra(SocketAttribute.local_port) == raw.getsockname()[1]
            assert stream.extra(SocketAttribute.remote_address) == server.getsockname()[:2]
            assert stream.extra(SocketAttribute.remote_port) == server.getsockname()[1]
            assert raw.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


async def test_anyios_attributes_of_a_unix_stream(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        server.bind(path)
        server.listen()
        client.connect(path)
        async with stream_over(client) as stream:
            assert stream.extra(SocketAttribute.family) == socket.AF_UNIX
            assert stream.extra(SocketAttribute.remote_address) == path
            assert stream.extra(SocketAttribute.local_address) == client.getsockname()
            for attribute in (SocketAttribute.local_port, SocketAttribute.remote_port):
                with pytest.raises(anyio.TypedAttributeLookupError):
                    stream.extra(attribute)
                assert stream.extra(attribute, None) is None


async def test_the_remote_address_is_remembered_when_the_peer_is_gone(
    tcp_pair: tuple[socket.socket, socket.socket],
) -> None:
    ours, peer = tcp_pair
    address = peer.getsockname()
    async with stream_over(ours) as stream:
        reset(peer)
        with pytest.raises(BrokenResourceError):
            await stream.receive()
        with pytest.raises(OSError, match="not connected"):
            ours.getpeername()
        assert stream.extra(SocketAttribute.remote_address) == address
        assert stream.extra(SocketAttribute.remote_port) == address[1]
        await stream.aclose()
        assert stream.extra(SocketAttribute.remote_address) == address


# --- from_socket -----------------------------------------------------------------------------------------------------


async def test_from_socket_takes_a_descriptor(any_pair: Pair) -> None:
    fd = any_pair[0].detach()
    kind = UNIXSocketStream if any_pair[1].family == socket.AF_UNIX else SocketStream
    async with await kind.from_socket(fd) as stream:
        assert type(stream) is kind
        raw = stream.extra(SocketAttribute.raw_socket)
        assert raw.fileno() == fd
        assert not raw.getblocking()
        assert stream.extra(SocketAttribute.family) == any_pair[1].family
        await stream.send(b"by number")
        assert any_pair[1].recv(100) == b"by number"
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


@pytest.mark.parametrize(("family", "protocol"), [(socket.AF_INET, 132), (40, 0)], ids=["SCTP", "AF_VSOCK"])
async def test_from_socket_refuses_what_speaks_neither_tcp_nor_unix(tcp_pair: Pair, family: int, protocol: int) -> None:
    # Not every kernel makes such sockets; this one only says that it is one.
    with socket.socket(family, socket.SOCK_STREAM, protocol, fileno=tcp_pair[0].detach()) as sock:
        with pytest.raises(ValueError, match="expected a TCP or UNIX socket"):
            await SocketStream.from_socket(sock)
        assert sock.fileno() >= 0


@pytest.mark.parametrize(
    ("kind", "bad", "message"),
    [
        (SocketStream, "datagram", "expected a socket of type SOCK_STREAM, not SOCK_DGRAM"),
        (SocketStream, "unconnected", "the socket must be connected"),
        (SocketStream, "listening", "the socket must be connected"),
        (UNIXSocketStream, "datagram", "expected a socket of type SOCK_STREAM, not SOCK_DGRAM"),
        (UNIXSocketStream, "unconnected", "the socket must be connected"),
        (UNIXSocketStream, "other family", "expected a socket of family AF_UNIX, not AF_INET"),
    ],
)
def test_from_socket_refuses_an_unfit_socket_and_leaves_it_alone(
    run: Run, kind: type[SocketStream], bad: str, message: str, tcp_pair: Pair
) -> None:
    family = socket.AF_UNIX if kind is UNIXSocketStream else socket.AF_INET
    if bad == "other family":
        sock = tcp_pair[0]
    elif bad == "datagram":
        sock = socket.socket(family, socket.SOCK_DGRAM)
        if family == socket.AF_INET:
            sock.connect(("127.0.0.1", 9))
    else:
        sock = socket.socket(family, socket.SOCK_STREAM)
        if bad == "listening":
            sock.bind(("127.0.0.1", 0))
            sock.listen()
    sock.setblocking(True)

    async def main() -> None:
        for form in (sock, sock.fileno()):
            with pytest.raises(ValueError, match=message):
                await kind.from_socket(form)

    with sock:
        run(main)
        assert os.get_blocking(sock.fileno())  # open still, and as it was


async def test_from_socket_refuses_what_is_no_socket(tmp_path: Path) -> None:
    for kind in (SocketStream, UNIXSocketStream):
        with open(tmp_path / "file", "wb") as file:
            with pytest.raises(ValueError, match="is not a socket"):
                await kind.from_socket(file.fileno())
            file.write(b"still open")
        closed = socket.socket()
        closed.close()
        with pytest.raises(ValueError, match="closed"):
            await kind.from_socket(closed)
        for number in (-1, 1_000_000):
            with pytest.raises(ValueError, match="not open"):
                await kind.from_socket(number)
        others: list[Any] = [True, False, "foo", b"3", None, 3.0]
        for other in others:
            with pytest.raises(TypeError, match="expected a socket or a descriptor"):
                await kind.from_socket(other)


async def test_from_socket_that_is_cancelled_leaves_the_socket_to_its_owner(any_pair: Pair) -> None:
    for form in (any_pair[0], any_pair[0].fileno()):
        with anyio.CancelScope() as scope:
            scope.cancel()
            await SocketStream.from_socket(form)
        assert scope.cancelled_caught
    any_pair[0].sendall(b"still mine")
    assert any_pair[1].recv(100) == b"still mine"


async def test_from_socket_releases_what_it_took_when_it_fails_late(
    any_pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loop refuses the descriptor: the caller has handed it over, so it is released."""
    import roket_trio._connection.connection

    def refuse() -> Any:
        raise RuntimeError("no loop today")

    monkeypatch.setattr(roket_trio._connection.connection, "current_loop", refuse)
    with pytest.raises(RuntimeError, match="no loop today"):
        await adopt(any_pair[0])
    monkeypatch.undo()
    assert any_pair[0].fileno() == -1


# --- descriptors over UNIX sockets -----------------------------------------------------------------------------------


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


async def test_descriptors_travel_with_a_message(unix_pair: Pair, tmp_path: Path) -> None:
    (tmp_path / "1").write_text("Hello, ")
    (tmp_path / "2").write_text("World!")

    async with await UNIXSocketStream.from_socket(unix_pair[0]) as stream:
        with open(tmp_path / "1") as first, open(tmp_path / "2") as second:
            await stream.send_fds(b"two", [first, second.fileno()])
            first.read(0)  # open still
            message, fds, flags, _ = socket.recv_fds(unix_pair[1], 100, 2)
            assert (message, flags & socket.MSG_CTRUNC) == (b"two", 0)
            assert stream.statistics().sent_bytes == 3
            socket.send_fds(unix_pair[1], [b"back"], fds)
            for fd in fds:
                os.close(fd)
        message, fds = await stream.receive_fds(100, 2)
        assert message == b"back"
        assert [os.get_inheritable(fd) for fd in fds] == [False, False]
        text = ""
        for fd in fds:
            with open(fd) as file:
                text += file.read()
        assert text == "Hello, World!"
        assert stream.statistics().received_bytes == 4


async def test_a_message_without_descriptors_brings_none(unix_pair: Pair) -> None:
    async with await UNIXSocketStream.from_socket(unix_pair[0]) as stream:
        unix_pair[1].sendall(b"plain message")
        assert await stream.receive_fds(5, 1) == (b"plain", [])
        assert await stream.receive() == b" message"
        unix_pair[1].close()
        for _ in range(2):
            with pytest.raises(EndOfStream):
                await stream.receive_fds(5, 1)


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts descriptors in /proc")
async def test_more_descriptors_than_expected_are_an_error_and_no_leak(unix_pair: Pair) -> None:
    async with await UNIXSocketStream.from_socket(unix_pair[0]) as stream:
        for sent, expected in ((3, 1), (3, 2), (10, 1), (4, 3)):
            socket.send_fds(unix_pair[1], [b"m"], [1] * sent)
            before = open_descriptors()
            with pytest.raises(RuntimeError, match="more descriptors than expected"):
                await stream.receive_fds(1, expected)
            assert open_descriptors() == before
        unix_pair[1].sendall(b"and it goes on")
        assert await stream.receive() == b"and it goes on"


async def test_a_plain_receive_drops_descriptors_without_a_leak(unix_pair: Pair) -> None:
    async with await UNIXSocketStream.from_socket(unix_pair[0]) as stream:
        socket.send_fds(unix_pair[1], [b"m"], [1, 2])
        before = open_descriptors()
        assert await stream.receive() == b"m"
        assert open_descriptors() == before


async def test_passing_descriptors_checks_its_arguments_first(unix_pair: Pair) -> None:
    async with await UNIXSocketStream.from_socket(unix_pair[0]) as stream:
        with pytest.raises(ValueError, match="message must not be empty"):
            await stream.send_fds(b"", [0])
        with pytest.raises(ValueError, match="fds must not be empty"):
            await stream.send_fds(b"test", [])
        bad: Any
        for bad in (-1, "foo"):
            with pytest.raises(ValueError, match="msglen must be a non-negative integer"):
                await stream.receive_fds(bad, 1)
        for bad in (0, -1, "foo"):
            with pytest.raises(ValueError, match="maxfds must be a positive integer"):
                await stream.receive_fds(1, bad)
        closed = socket.socket()
        number = closed.fileno()
        closed.close()
        for bad in (number, -1):
            with pytest.raises(OSError, match="Bad file descriptor"):
                await stream.send_fds(b"x", [0, bad])
        with pytest.raises(ValueError, match="at most 253"):
            await stream.send_fds(b"x", [0] * 254)
        # None of this was the connection's fault.
        await stream.send_fds(b"and it goes on", [0] * 253)
        message, fds, _, _ = socket.recv_fds(unix_pair[1], 100, 253)
        for fd in fds:
            os.close(fd)
        assert (message, len(fds)) == (b"and it goes on", 253)


async def test_too_many_descriptors_on_their_way_are_no_fault_of_the_connection(
    unix_pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object) -> int:
        raise OSError(errno.ETOOMANYREFS, os.strerror(errno.ETOOMANYREFS))

    async with await UNIXSocketStream.from_socket(unix_pair[0]) as stream:
        with monkeypatch.context() as patch:
            patch.setattr(socket.socket, "sendmsg", refuse, raising=False)
            with pytest.raises(BrokenResourceError, match="Too many references") as caught:
                await stream.send_fds(b"x", [0])
            assert caught.value.errno == errno.ETOOMANYREFS
        await stream.send(b"and it goes on")
        assert unix_pair[1].recv(100) == b"and it goes on"
    assert stream.close_report is not None
    assert stream.close_report.outcome is CloseOutcome.ACKED


async def test_descriptors_without_a_message_are_no_end(unix_pair: Pair) -> None:
    async with await UNIXSocketStream.from_socket(unix_pair[0]) as stream:
        socket.send_fds(unix_pair[1], [b"message"], [1])
        message, fds = await stream.receive_fds(0, 1)
        for fd in fds:
            os.close(fd)
        assert (message, len(fds)) == (b"", 1)
        assert await stream.receive_fds(0, 1) == (b"", [])
        assert await stream.receive() == b"message"
    assert stream.close_report is not None
    assert stream.close_report.outcome is CloseOutcome.ACKED, "the peer has not finished"


async def test_descriptors_go_once_although_the_message_takes_many_sends(unix_pair: Pair) -> None:
    """They travel with the first byte, also when that had to wait."""
    message = random.Random(5).randbytes(3_000_000)

    def peer(filled: int) -> tuple[bytes, int]:
        left = filled
        while left:
            left -= len(unix_pair[1].recv(left))
        data, fds, _, _ = socket.recv_fds(unix_pair[1], 65536, 10)
        count = len(fds)
        while chunk := unix_pair[1].recvmsg(65536, 1024):
            count += len(chunk[1])
            if not chunk[0]:
                break
            data += chunk[0]
        for fd in fds:
            os.close(fd)
        return data, count

    async with await UNIXSocketStream.from_socket(unix_pair[0]) as stream:
        filled = fill(unix_pair[0])
        async with anyio.create_task_group() as tasks:

            async def sender() -> None:
                await stream.send_fds(message, [1, 2])
                await stream.send_eof()

            tasks.start_soon(sender)
            await anyio.wait_all_tasks_blocked()
            with thread(peer, filled) as seen:
                await until(seen.done)
            assert seen.result() == (message, 2)


async def test_the_guards_hold_for_descriptors_too(unix_pair: Pair) -> None:
    async with await UNIXSocketStream.from_socket(unix_pair[0]) as stream:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(stream.receive_fds, 10, 1)
            await anyio.wait_all_tasks_blocked()
            with pytest.raises(BusyResourceError):
                await stream.receive()
            with pytest.raises(BusyResourceError):
                await stream.receive_fds(10, 1)
            tasks.cancel_scope.cancel()
        await stream.send_eof()
        with pytest.raises(BrokenResourceError):
            await stream.send_fds(b"x", [1])
        await stream.aclose()
        with pytest.raises(ClosedResourceError):
            await stream.send_fds(b"x", [1])
        with pytest.raises(ClosedResourceError):
            await stream.receive_fds(1, 1)


# --- what AnyIO and Trio put over a stream ---------------------------------------------------------------------------


async def test_anyios_buffered_streams_work_over_ours(any_pair: Pair) -> None:
    async with stream_over(any_pair[0]) as stream:
        any_pair[1].sendall(b"header\r\n12345678abcdrest")
        any_pair[1].shutdown(socket.SHUT_WR)
        buffered = BufferedByteStream(stream)
        assert await buffered.receive_until(b"\r\n", 100) == b"header"
        assert await buffered.receive_exactly(8) == b"12345678"
        assert await buffered.receive(4) == b"abcd"
        assert buffered.extra(SocketAttribute.family) == any_pair[0].family
        with pytest.raises(anyio.IncompleteRead):
            await buffered.receive_exactly(100)
        await buffered.send(b"reply")
        await buffered.send_eof()
        assert read_to_fin(any_pair[1]) == b"reply"
        await buffered.aclose()
        assert stream.close_report is not None
        with pytest.raises(anyio.ClosedResourceError):
            await BufferedByteReceiveStream(stream).receive()


async def test_anyios_text_streams_work_over_ours(any_pair: Pair) -> None:
    async with stream_over(any_pair[0]) as stream:
        text = TextStream(stream, encoding="utf-8")
        await text.send("Grüße")
        assert any_pair[1].recv(100) == "Grüße".encode()
        encoded = "über".encode()
        any_pair[1].sendall(encoded[:1])  # a character in two halves
        async with anyio.create_task_group() as tasks:
            received: list[str] = []

            async def reader() -> None:
                received.extend([part async for part in TextReceiveStream(stream)])

            tasks.start_soon(reader)
            await anyio.wait_all_tasks_blocked()
            any_pair[1].sendall(encoded[1:])
            any_pair[1].shutdown(socket.SHUT_WR)
        assert "".join(received) == "über"


def test_anyios_stapled_stream_works_over_two_of_ours(run: Run) -> None:
    out, out_peer = socket.socketpair()
    into, into_peer = socket.socketpair()

    async def main() -> None:
        sending, receiving = await UNIXSocketStream.from_socket(out), await UNIXSocketStream.from_socket(into)
        async with StapledByteStream(sending, receiving) as both:
            await both.send(b"there")
            assert out_peer.recv(100) == b"there"
            into_peer.sendall(b"back")
            assert await both.receive() == b"back"
        assert sending.close_report is not None
        assert receiving.close_report is not None

    with out, out_peer, into, into_peer:
        run(main)


def test_trios_stapled_stream_and_its_buffered_reader_work_over_ours(any_pair: Pair) -> None:
    async def main() -> None:
        async with stream_over(any_pair[0]) as stream:
            both = trio.StapledStream(stream, stream)
            any_pair[1].sendall(b"ping")
            any_pair[1].shutdown(socket.SHUT_WR)
            assert await both.receive_some() == b"ping"
            await both.send_all(b"pong")
            await both.send_eof()
            assert read_to_fin(any_pair[1]) == b"pong"
            assert await both.receive_some() == b""
            await both.aclose()

    trio.run(main)


# --- TLS -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def server_context(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF
    authority.issue_cert("localhost").configure_cert(context)
    return context


@pytest.fixture
def client_context(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF
    authority.configure_trust(context)
    return context


def tls_reversing_server(sock: socket.socket, context: ssl.SSLContext, *, unwrap: bool = True) -> None:
    """One request, its reverse, and close_notify if it is well-behaved."""
    with context.wrap_socket(sock, server_side=True, suppress_ragged_eofs=False) as tls:
        tls.sendall(tls.recv(100)[::-1])
        if unwrap:
            tls.unwrap().close()


@pytest.mark.parametrize("make", [wrap_tls, TLSStream.wrap], ids=["wrap_tls", "TLSStream.wrap"])
async def test_tls_over_a_stream_that_is_open_already(
    any_pair: Pair, make: Callable[..., Any], server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    async with stream_over(any_pair[0]) as stream:
        with thread(tls_reversing_server, any_pair[1], server_context):
            tls = await make(stream, hostname="localhost", ssl_context=client_context)
            assert isinstance(tls, TLSStream)
            await tls.send(b"hello")
            assert await tls.receive() == b"olleh"
            with pytest.raises(anyio.EndOfStream):
                await tls.receive()
            assert tls.extra(SocketAttribute.family) == any_pair[0].family
            assert tls.extra(SocketAttribute.raw_socket) is any_pair[0]
            assert tls.extra(TLSAttribute.server_side) is False
            assert tls.extra(TLSAttribute.tls_version).startswith("TLSv")
            await tls.aclose()
        assert stream.close_report is not None


async def test_tls_can_be_taken_off_again(
    any_pair: Pair, server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    def peer() -> bytes:
        with server_context.wrap_socket(any_pair[1], server_side=True, suppress_ragged_eofs=False) as tls:
            tls.sendall(b"encrypted")
            with tls.unwrap() as plain:
                plain.sendall(b"unencrypted")
                return plain.recv(100)

    async with stream_over(any_pair[0]) as stream:
        with thread(peer) as seen:
            tls = await wrap_tls(stream, hostname="localhost", ssl_context=client_context)
            assert await tls.receive() == b"encrypted"
            plain, rest = await tls.unwrap()
            assert plain is stream
            while len(rest) < len(b"unencrypted"):
                rest += await plain.receive()
            assert rest == b"unencrypted"
            await plain.send(b"so am I")
        assert seen.result() == b"so am I"


def test_tls_that_ends_without_close_notify_is_broken_unless_that_is_allowed(
    run: Run, any_pair: Pair, server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    async def main(standard_compatible: bool) -> None:
        async with stream_over(any_pair[0]) as stream:
            with thread(lambda: tls_reversing_server(any_pair[1], server_context, unwrap=False)):
                tls = await wrap_tls(
                    stream,
                    hostname="localhost",
                    ssl_context=client_context,
                    standard_compatible=standard_compatible,
                )
                await tls.send(b"hello")
                assert await tls.receive() == b"olleh"
                with pytest.raises(anyio.BrokenResourceError if standard_compatible else anyio.EndOfStream):
                    await tls.receive()

    run(main, any_pair[0].family == socket.AF_INET)


async def test_a_failed_handshake_raises_and_leaves_the_stream_to_its_owner(
    any_pair: Pair, server_context: ssl.SSLContext
) -> None:
    def peer() -> None:
        with pytest.raises(ssl.SSLError), server_context.wrap_socket(any_pair[1], server_side=True):
            pass

    async with stream_over(any_pair[0]) as stream:
        with thread(peer):
            with pytest.raises(ssl.SSLCertVerificationError):
                await wrap_tls(stream, hostname="localhost")  # the default context trusts no test authority
            await stream.aclose()
        assert stream.close_report is not None


async def test_a_tls_listener_serves_over_our_listener(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    server_context.set_alpn_protocols(["h2"])
    client_context.set_alpn_protocols(["h2"])

    def client(address: tuple[str, int]) -> bytes:
        with (
            socket.create_connection(address, timeout=BOUND) as plain,
            client_context.wrap_socket(plain, server_hostname="localhost", suppress_ragged_eofs=False) as tls,
        ):
            tls.sendall(b"hello")
            data: bytes = tls.recv(100)
            tls.unwrap()
            return data

    seen: list[Any] = []

    async def handler(stream: TLSStream) -> None:
        async with stream:
            seen.append((stream.extra(TLSAttribute.alpn_protocol), stream.extra(TLSAttribute.server_side)))
            await stream.send((await stream.receive())[::-1])
            with pytest.raises(anyio.EndOfStream):
                await stream.receive()

    listener = await create_tcp_listener(local_host="127.0.0.1")
    address = listener.extra(SocketAttribute.local_address)
    async with TLSListener(listener, server_context) as tls_listener:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(tls_listener.serve, handler)
            with thread(client, address) as answer:
                await until(answer.done)
            assert answer.result() == b"olleh"
            tasks.cancel_scope.cancel()
    assert seen == [("h2", True)]


async def test_a_tls_listener_survives_a_failed_handshake(
    server_context: ssl.SSLContext, caplog: pytest.LogCaptureFixture
) -> None:
    failures: list[tuple[BaseException, object]] = []
    failed = anyio.Event()

    class Listener(TLSListener):
        @staticmethod
        async def handle_handshake_error(exc: BaseException, stream: anyio.abc.AnyByteStream) -> None:
            await TLSListener.handle_handshake_error(exc, stream)
            failures.append((exc, stream))
            failed.set()

    async def handler(stream: TLSStream) -> None:
        raise AssertionError("no handshake was made")

    listener = await create_tcp_listener(local_host="127.0.0.1")
    async with Listener(listener, server_context) as tls_listener:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(tls_listener.serve, handler)
            socket.create_connection(("127.0.0.1", listener.extra(SocketAttribute.local_port))).close()
            await failed.wait()
            tasks.cancel_scope.cancel()
    (failure, stream) = failures[0]
    assert isinstance(failure, anyio.BrokenResourceError)
    assert isinstance(stream, SocketStream)
    assert stream.close_report is not None


def test_trios_ssl_stream_works_over_ours(
    any_pair: Pair, server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    async def main() -> None:
        async with stream_over(any_pair[0]) as stream:
            with thread(tls_reversing_server, any_pair[1], server_context):
                tls = trio.SSLStream(stream, client_context, server_hostname="localhost")
                await tls.send_all(b"hello")
                assert await tls.receive_some() == b"olleh"
                assert await tls.receive_some() == b""
                await tls.aclose()
            assert stream.close_report is not None

    trio.run(main)
