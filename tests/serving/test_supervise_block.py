"""The block under ``supervise``: what its body does, what it raises, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
from support.sockets import Pair, count_to_end, kernel_state
from support.streams import ENDLESS, adopt
from support.supervised import CLOSE_WAIT, NEVER, SOON, Oops, connected, ends_of, finish
from support.waiting import BOUND, until

from roket_trio import (
    ClosedResourceError,
    CloseOutcome,
    ClosePolicy,
    PeerGoneError,
    SocketStream,
    supervise,
)
from roket_trio._serving import watcher as watcher_module

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="what the kernel tells of a connection is Linux's")


# --- whatever the body does ------------------------------------------------------------------------------------------


async def test_a_body_that_shields_itself_does_not_keep_the_socket(pair: Pair) -> None:
    ours, peer = pair

    ends = ends_of(ours)
    stream = await adopt(ours)
    with pytest.raises(PeerGoneError):
        async with supervise(stream, close_wait_seconds=SOON):
            finish(peer)
            with anyio.CancelScope(shield=True):
                await until(lambda: stream.close_report is not None)
                assert kernel_state(*ends) != CLOSE_WAIT
                assert ours.fileno() == -1
                assert await anyio.to_thread.run_sync(count_to_end, peer) == (0, "FIN")
                with pytest.raises(ClosedResourceError):
                    await stream.receive()


async def test_a_shielded_body_that_waits_in_the_stream_is_woken_and_that_is_the_cause(any_pair: Pair) -> None:
    ours, _ = any_pair

    with pytest.raises(PeerGoneError) as caught:
        async with supervise(await adopt(ours), idle_seconds=SOON) as stream:
            with anyio.CancelScope(shield=True):
                await stream.receive()
    assert type(caught.value.__cause__) is ClosedResourceError


async def test_a_body_that_waits_in_the_stream_is_cancelled_not_told_that_it_is_closed(any_pair: Pair) -> None:
    ours, _ = any_pair

    met: list[type[BaseException]] = []
    with pytest.raises(PeerGoneError):
        async with supervise(await adopt(ours), idle_seconds=SOON) as stream:
            try:
                await stream.receive()
            except BaseException as error:
                met.append(type(error))
                raise
    assert met == [anyio.get_cancelled_exc_class()]


async def test_the_cancellation_is_level_triggered(pair: Pair) -> None:
    ours, peer = pair

    met = 0
    finish(peer)
    with pytest.raises(PeerGoneError):
        async with supervise(await adopt(ours), close_wait_seconds=SOON):
            for _ in range(3):
                try:
                    await anyio.sleep(BOUND)
                except anyio.get_cancelled_exc_class():  # noqa: ASYNC103, RUF100 - that is the point
                    met += 1
                    if met == 3:
                        raise
    assert met == 3


async def test_a_body_that_ends_as_if_nothing_had_happened_is_told_all_the_same(pair: Pair) -> None:
    ours, peer = pair

    stream = await adopt(ours)
    finish(peer)
    with pytest.raises(PeerGoneError):
        async with supervise(stream, close_wait_seconds=SOON):
            with anyio.CancelScope(shield=True):
                await until(lambda: stream.close_report is not None)


@pytest.mark.parametrize("on_error", ["finish", "abort"])
async def test_the_policy_says_what_the_peer_of_a_cut_block_sees(pair: Pair, on_error: Any) -> None:
    ours, peer = pair

    stream = await adopt(ours, ClosePolicy(on_error=on_error))
    finish(peer)
    with pytest.raises(PeerGoneError):
        async with supervise(stream, close_wait_seconds=SOON):
            await stream.send(b"half an answer")
            await anyio.sleep(BOUND)
    assert count_to_end(peer)[1] == ("FIN" if on_error == "finish" else "RST")
    assert stream.close_report is not None
    assert (stream.close_report.outcome is CloseOutcome.ABORTED) == (on_error == "abort")


async def test_a_send_that_is_cut_by_the_budget_ends_in_a_reset(small_pair: Pair) -> None:
    ours, peer = small_pair

    with pytest.raises(PeerGoneError):
        async with supervise(await adopt(ours), idle_seconds=SOON) as stream:
            await stream.send(ENDLESS)
    assert count_to_end(peer)[1] == "RST"


# --- what the block raises -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [Oops("x"), ExceptionGroup("two", [Oops("x"), ValueError("y")]), SystemExit(3)])
@pytest.mark.parametrize("on_error", ["finish", "abort"])
async def test_what_the_body_raises_comes_out_as_it_is(pair: Pair, error: BaseException, on_error: Any) -> None:
    ours, peer = pair

    with pytest.raises(type(error)) as caught:
        async with supervise(await adopt(ours, ClosePolicy(on_error=on_error))):
            raise error
    assert caught.value is error
    assert error.__cause__ is None
    assert error.__context__ is None
    assert count_to_end(peer) == (0, "RST" if on_error == "abort" else "FIN")


async def test_a_group_keeps_its_members_and_loses_only_the_cancellation(pair: Pair) -> None:
    """A task of the body fails while the budget cancels the others."""
    ours, peer = pair

    async def fail() -> None:
        try:
            await anyio.sleep(BOUND)
        finally:
            raise Oops

    finish(peer)
    with pytest.raises(ExceptionGroup) as caught:
        async with supervise(await adopt(ours), close_wait_seconds=SOON):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(anyio.sleep, BOUND)
                tasks.start_soon(fail)
    assert [type(error) for error in caught.value.exceptions] == [Oops]


async def test_what_only_follows_from_the_cut_does_not_hide_it(pair: Pair) -> None:
    ours, peer = pair

    async def receive_when_closed(stream: SocketStream) -> None:
        with anyio.CancelScope(shield=True):
            await until(lambda: stream.close_report is not None)
            await stream.receive()

    finish(peer)
    with pytest.raises(PeerGoneError) as caught:
        async with supervise(await adopt(ours), close_wait_seconds=SOON) as stream:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(receive_when_closed, stream)
    assert isinstance(caught.value.__cause__, ExceptionGroup)


async def test_another_error_after_the_cut_is_not_hidden_by_it(pair: Pair) -> None:
    ours, peer = pair

    finish(peer)
    with pytest.raises(Oops):
        async with supervise(await adopt(ours), close_wait_seconds=SOON):
            try:
                await anyio.sleep(BOUND)
            finally:
                raise Oops


# --- the end of the block --------------------------------------------------------------------------------------------


async def test_the_end_of_the_block_closes_as_the_stream_s_own_does(any_pair: Pair) -> None:
    ours, peer = any_pair

    peer.sendall(b"unread")
    async with supervise(await adopt(ours)) as stream:
        await stream.send(b"answer")
    assert count_to_end(peer) == (6, "FIN")
    assert stream.close_report is not None
    assert stream.close_report.acked
    assert stream.close_report.discarded_bytes == 6


@pytest.mark.parametrize("way", ["aclose", "abort", "async with"])
async def test_the_body_may_close_it_itself_and_go_on(any_pair: Pair, way: str) -> None:
    ours, _ = any_pair

    async with supervise(await adopt(ours), idle_seconds=SOON) as stream:
        if way == "abort":
            stream.abort()
        elif way == "aclose":
            await stream.aclose()
        else:
            async with stream:
                pass
        await anyio.sleep(2 * SOON)


async def test_a_slow_close_is_bounded_by_its_own_policy(small_pair: Pair) -> None:
    """The budget of a peer that has finished does not cut short what the close still delivers."""
    ours, peer = small_pair

    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    stream = await adopt(ours, ClosePolicy(linger_seconds=BOUND))
    finish(peer)
    received: list[Any] = []

    async def read_late() -> None:
        await anyio.sleep(3 * SOON)
        received.append(await anyio.to_thread.run_sync(count_to_end, peer))

    async with anyio.create_task_group() as tasks:
        async with supervise(stream, close_wait_seconds=SOON):
            await stream.send(bytes(100_000))
            tasks.start_soon(read_late)
    assert received == [(100_000, "FIN")]
    assert stream.close_report is not None
    assert stream.close_report.outcome is CloseOutcome.CLEAN


async def test_a_descriptor_s_number_may_be_another_stream_s_at_once(pairs: list[Pair]) -> None:
    """The body closes its stream; the next one gets the same number, and the first block ends before the second."""

    (first, _), (second, second_peer) = pairs[:2]
    number = first.fileno()
    closed, leave, left = anyio.Event(), anyio.Event(), anyio.Event()

    async def other() -> None:
        async with supervise(await adopt(first)) as stream:
            await stream.aclose()
            closed.set()
            await leave.wait()
        left.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(other)
        await closed.wait()
        sock = socket.socket(fileno=os.dup(second.fileno()))
        second.close()
        assert sock.fileno() == number
        with pytest.raises(PeerGoneError):
            async with supervise(await adopt(sock), close_wait_seconds=SOON):
                leave.set()
                await left.wait()
                finish(second_peer)
                await anyio.sleep(BOUND)


async def test_a_socket_that_another_process_shares_does_not_speak_for_its_successor(pairs: list[Pair]) -> None:
    """A closed socket stays in the epoll while a copy of it lives, under a number that is another socket's by then."""
    (first, first_peer), (second, second_peer) = pairs[:2]

    number = first.fileno()
    copy_of_first = first.dup()
    with copy_of_first:
        async with supervise(await adopt(first), close_wait_seconds=NEVER) as outer:
            outer.abort()
            sock = socket.socket(fileno=os.dup(second.fileno()))
            second.close()
            assert sock.fileno() == number
            async with supervise(await adopt(sock), close_wait_seconds=SOON) as stream:
                first_peer.close()
                with contextlib.suppress(OSError):  # the reset has ended the connection for both of them
                    copy_of_first.shutdown(socket.SHUT_RDWR)
                await anyio.sleep(3 * SOON)
                second_peer.sendall(b"alive")
                assert await stream.receive() == b"alive"


# --- cancellation from outside ---------------------------------------------------------------------------------------


async def test_cancellation_passes_through_and_closes_by_the_rules(any_pair: Pair) -> None:
    ours, peer = any_pair

    stream = await adopt(ours)
    with anyio.CancelScope() as scope:
        async with supervise(stream):
            await stream.send(b"whole")
            scope.cancel()
            await anyio.sleep(BOUND)
    assert scope.cancelled_caught
    assert ours.fileno() == -1
    assert count_to_end(peer) == (5, "FIN")


async def test_cancelled_from_outside_and_by_the_budget_it_is_the_outside_that_counts(pair: Pair) -> None:
    ours, peer = pair

    stream = await adopt(ours)
    finish(peer)
    with anyio.CancelScope() as scope:
        async with supervise(stream, close_wait_seconds=SOON):
            with anyio.CancelScope(shield=True):
                await until(lambda: stream.close_report is not None)
                scope.cancel()
            await anyio.lowlevel.checkpoint()
    assert scope.cancelled_caught


@pytest.mark.parametrize("ends", ["normally", "with an error", "by the budget"])
async def test_cancelled_at_any_moment_it_leaves_nothing(family: str, ends: str) -> None:
    """At the first schedule point, the second, and so on; the last time it is not."""

    async def block(stream: SocketStream, endings: list[str]) -> None:
        try:
            async with supervise(stream, idle_seconds=0.01 if ends == "by the budget" else None):
                await stream.send(b"x")
                await anyio.lowlevel.checkpoint()
                if ends == "with an error":
                    raise Oops
                if ends == "by the budget":
                    await anyio.sleep(BOUND)
            endings.append("normally")
        except Oops:
            endings.append("with an error")
        except PeerGoneError:
            endings.append("by the budget")

    turns = 0
    endings: list[str] = []
    while turns < 15:
        ours, peer = connected(family)
        with ours, peer:
            stream = await adopt(ours, ClosePolicy(linger_seconds=0.01))
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(block, stream, endings)
                for _ in range(turns):
                    await anyio.lowlevel.checkpoint()
                if turns == 14:
                    await until(lambda: endings)
                tasks.cancel_scope.cancel()
            assert ours.fileno() == -1
            assert watcher_module._watcher.get() is None
        turns += 1
    assert set(endings) == {ends}


@pytest.mark.loops("asyncio", "uvloop")
async def test_asyncio_s_own_cancellation_passes_too(pairs: list[Pair]) -> None:
    (first, first_peer), (second, second_peer) = pairs[:2]

    async def guarded(ours: socket.socket) -> None:
        async with supervise(await adopt(ours), close_wait_seconds=SOON):
            await anyio.sleep(BOUND)

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(SOON):
            await guarded(first)
    assert count_to_end(first_peer) == (0, "FIN")
    # Cancelled all at once, the watcher too, as at the end of asyncio.run().
    tasks = [asyncio.ensure_future(guarded(second))]
    await anyio.wait_all_tasks_blocked()
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await tasks[0]
    assert count_to_end(second_peer) == (0, "FIN")
    assert watcher_module._watcher.get() is None


@pytest.mark.loops("asyncio", "uvloop")
async def test_the_watcher_survives_asyncio_s_own_cancellation(pair: Pair) -> None:
    ours, peer = pair

    with pytest.raises(PeerGoneError):
        async with supervise(await adopt(ours), close_wait_seconds=SOON):
            await anyio.wait_all_tasks_blocked()
            others = asyncio.all_tasks() - {asyncio.current_task()}
            (watcher,) = (task for task in others if "Watcher.run" in task.get_name())
            watcher.cancel()
            await anyio.sleep(SOON / 2)
            finish(peer)
            await anyio.sleep(BOUND)
