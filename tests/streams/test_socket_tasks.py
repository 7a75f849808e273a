"""``SocketStream`` among tasks: one task a direction, cancellation, checkpoints."""

from __future__ import annotations

import asyncio
import random
import socket
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import anyio
import anyio.abc
import anyio.lowlevel
import pytest
import trio
import trio.testing
from support.loops import Run
from support.socket_streams import RECEIVES, Receive, fill, has_arrived, receive_exactly
from support.sockets import Pair, read_to_fin
from support.streams import adopt, stream_over
from support.threads import thread
from support.waiting import BOUND, until

from roket_trio import (
    BusyResourceError,
    ClosedResourceError,
    EndOfStream,
    SocketStream,
)

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
                with pytest.raises(BusyResourceError, match="Another task is already reading from this resource"):
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
                    with pytest.raises(BusyResourceError, match="Another task is already writing to this resource"):
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
        # Not send_eof(): its FIN comes first, so that a clean-up ends the connection in a cancelled task too.
        calls: list[Callable[[], Awaitable[Any]]] = [
            stream.receive,
            stream.receive_some,
            lambda: stream.receive_into(bytearray(4)),
            lambda: stream.send(b"x"),
            lambda: stream.send_all(b"x"),
            stream.wait_send_all_might_not_block,
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
        await stream.send(b"not cut")
        assert any_pair[1].recv(100) == b"not cut"


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
                until = time.thread_time() + 0.1  # of this thread's own: a machine with a load of 10 gives it a tenth
                while time.thread_time() < until:
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
