"""The two faces of ``SocketStream`` and ``UNIXSocketStream``: what programs for AnyIO or Trio rely on."""

from __future__ import annotations

import array
import errno
import hashlib
import os
import random
import socket
import threading
from collections.abc import Callable
from typing import Any

import anyio
import anyio.abc
import anyio.lowlevel
import pytest
import trio
import trio.testing
from support.socket_streams import RECEIVES, Receive, has_arrived, receive_exactly
from support.sockets import Pair, read_to_end, read_to_fin, reset
from support.streams import stream_over
from support.threads import thread
from support.waiting import BOUND, until

from roket_trio import (
    BrokenResourceError,
    BusyResourceError,
    ClosedResourceError,
    CloseOutcome,
    EndOfStream,
)

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


async def test_send_eof_in_a_task_that_is_cancelled_already_sends_fin_first(any_pair: Pair) -> None:
    ours, peer = any_pair

    async with stream_over(ours) as stream:
        await stream.send(b"whole")
        for _ in range(2):
            with anyio.CancelScope() as scope:
                scope.cancel()
                await stream.send_eof()
            assert scope.cancelled_caught
        assert read_to_end(peer) == (b"whole", "FIN")
        peer.sendall(b"answer")
        assert await stream.receive() == b"answer"
        await stream.send_eof()
        with pytest.raises(BrokenResourceError):
            await stream.send(b"more")


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
