"""The one watcher of all supervised streams: which it takes, and what it costs."""

from __future__ import annotations

import asyncio
import gc
import math
import random
import socket
import ssl
import sys
import time
import tracemalloc
import weakref
from collections.abc import Callable, Coroutine
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
import trio
import trio.testing
import trustme
from support.sockets import Pair, count_to_end
from support.streams import adopt
from support.supervised import NEVER, SOON, Oops, finish
from support.waiting import BOUND, until

from roket_trio import (
    BusyResourceError,
    ClosedResourceError,
    ClosePolicy,
    PeerGoneError,
    SocketStream,
    supervise,
    wrap_tls,
)
from roket_trio._serving import watcher as watcher_module

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="what the kernel tells of a connection is Linux's")


# --- one watcher for all ---------------------------------------------------------------------------------------------


def living_tasks(loop_name: str) -> int:
    if loop_name == "trio":
        return trio.lowlevel.current_statistics().tasks_living
    return len(asyncio.all_tasks())


async def test_there_is_one_task_for_all_and_none_afterwards(loop_name: str, pairs: list[Pair]) -> None:
    before = living_tasks(loop_name)
    leave = anyio.Event()

    async def block(ours: socket.socket) -> None:
        async with supervise(await adopt(ours)):
            await leave.wait()

    async with anyio.create_task_group() as tasks:
        for ours, _ in pairs:
            tasks.start_soon(block, ours)
        await anyio.wait_all_tasks_blocked()
        assert living_tasks(loop_name) == before + len(pairs) + 1
        leave.set()
    assert living_tasks(loop_name) == before
    assert watcher_module._watcher.get() is None


@pytest.mark.parametrize("order", ["first in first out", "last in first out", "any"])
@pytest.mark.parametrize("way", ["returns", "raises", "is cancelled"])
async def test_whoever_leaves_the_others_are_looked_after(pairs: list[Pair], order: str, way: str) -> None:
    """Every block but one leaves, one after the other; then the last one's peer finishes."""

    leave = [anyio.Event() for _ in pairs]
    left = [anyio.Event() for _ in pairs]
    scopes = [anyio.CancelScope() for _ in pairs]
    entered: list[int] = []
    cut: list[int] = []

    async def block(number: int) -> None:
        stream = await adopt(pairs[number][0], ClosePolicy(linger_seconds=0))
        try:
            with scopes[number]:
                async with supervise(stream, close_wait_seconds=SOON):
                    entered.append(number)
                    await leave[number].wait()
                    if way == "raises":
                        raise Oops
        except PeerGoneError:
            cut.append(number)
        except Oops:
            pass
        left[number].set()

    numbers = list(range(len(pairs)))
    if order == "last in first out":
        numbers.reverse()
    elif order == "any":
        random.Random(7).shuffle(numbers)
    async with anyio.create_task_group() as tasks:
        for number in range(len(pairs)):
            tasks.start_soon(block, number)
            await until(lambda: len(entered) > number)  # noqa: B023
        for number in numbers[:-1]:
            if way == "is cancelled":
                scopes[number].cancel()
            else:
                leave[number].set()
            await left[number].wait()
        finish(pairs[numbers[-1]][1])
    assert cut == [numbers[-1]]


async def test_a_host_that_is_being_cancelled_goes_on_hosting(pairs: list[Pair]) -> None:
    """The watcher lives in the first block's nursery, and is not cancelled with it."""

    release = anyio.Event()
    scope = anyio.CancelScope()

    async def host() -> None:
        with scope:
            async with supervise(await adopt(pairs[0][0])):
                with anyio.CancelScope(shield=True):
                    await release.wait()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(host)
        await anyio.wait_all_tasks_blocked()
        scope.cancel()
        used = time.process_time()
        await anyio.sleep(2 * SOON)
        assert time.process_time() - used < SOON  # it does not spin either
        try:
            async with supervise(await adopt(pairs[1][0]), close_wait_seconds=SOON):
                finish(pairs[1][1])
                await anyio.sleep(BOUND)
        except PeerGoneError:
            release.set()
    assert release.is_set()
    assert scope.cancelled_caught


async def test_a_bound_that_comes_while_the_watcher_sleeps_is_kept(pairs: list[Pair]) -> None:
    async with supervise(await adopt(pairs[0][0]), idle_seconds=NEVER):
        await anyio.sleep(SOON / 4)
        with pytest.raises(PeerGoneError):
            async with supervise(await adopt(pairs[1][0]), idle_seconds=SOON):
                await anyio.sleep(BOUND)


async def test_peers_that_finish_in_every_turn_put_no_bound_off(pair: Pair) -> None:
    """Blocks whose peers have finished open in every turn of the loop until the bound is over."""
    ours, peer = pair
    stream = await adopt(ours)
    is_over = False

    async def finish_in_some_turns(first: int) -> None:
        for _ in range(first):
            await anyio.lowlevel.checkpoint()
        while not is_over:
            one, other = socket.socketpair()
            other.close()
            async with supervise(await adopt(one), close_wait_seconds=NEVER, keepalive=None) as short:
                await anyio.lowlevel.checkpoint()
                await anyio.lowlevel.checkpoint()
                short.abort()

    async with anyio.create_task_group() as others:
        try:
            with anyio.fail_after(BOUND), pytest.raises(PeerGoneError):
                async with supervise(stream, close_wait_seconds=SOON):  # the first: the watcher runs in its nursery
                    finish(peer)
                    for number in range(8):
                        others.start_soon(finish_in_some_turns, number)
                    await anyio.sleep_forever()
        finally:
            is_over = True


async def test_blocks_within_blocks(pairs: list[Pair]) -> None:
    """The inner one is cut, and the outer one goes on; then the outer one is, while an inner one is open."""

    (outer, outer_peer), (inner, inner_peer), (innermost, _) = pairs[:3]
    with pytest.raises(PeerGoneError):
        async with supervise(await adopt(outer), close_wait_seconds=SOON) as stream:
            with pytest.raises(PeerGoneError):
                async with supervise(await adopt(inner), close_wait_seconds=SOON):
                    finish(inner_peer)
                    await anyio.sleep(BOUND)
            await stream.send(b"on it goes")
            finish(outer_peer)
            async with supervise(await adopt(innermost), close_wait_seconds=SOON):
                await anyio.sleep(BOUND)
    assert count_to_end(outer_peer) == (10, "FIN")


async def test_a_thousand_bounds_leave_no_trace_in_the_heap() -> None:
    """Connections that come and go faster than their times run out."""

    async with watcher_module.WatcherHost() as watcher:
        for _ in range(1000):
            ours, peer = socket.socketpair()
            with peer:
                async with supervise(await adopt(ours), idle_seconds=NEVER):
                    pass
        assert len(watcher._queue._heap) < 200


async def test_many_at_once_are_cut_without_holding_up_the_loop(pairs: list[Pair]) -> None:
    cut = 0

    async def block(ours: socket.socket) -> None:
        nonlocal cut
        try:
            async with supervise(await adopt(ours), close_wait_seconds=SOON):
                await anyio.sleep(BOUND)
        except PeerGoneError:
            cut += 1

    async with anyio.create_task_group() as tasks:
        for ours, peer in pairs:
            tasks.start_soon(block, ours)
            finish(peer)
    assert cut == len(pairs)


async def test_leaving_makes_no_garbage(pairs: list[Pair]) -> None:
    """Otherwise a server's memory would wait for a collector that runs seldom."""

    gc.disable()
    try:
        references = []
        for (ours, peer), error in zip(pairs, (None, Oops, PeerGoneError), strict=False):
            stream = await adopt(ours)
            references.append(weakref.ref(stream))
            try:
                async with supervise(stream, close_wait_seconds=SOON):
                    if error is PeerGoneError:
                        finish(peer)
                        await anyio.sleep(BOUND)
                    elif error is not None:
                        raise error
            except (Oops, PeerGoneError):
                pass
            del stream
        await anyio.lowlevel.checkpoint()
        assert [reference() for reference in references] == [None] * 3
    finally:
        gc.enable()


# --- who may be supervised -------------------------------------------------------------------------------------------


async def test_a_stream_that_is_closed_already_is_refused(any_pair: Pair) -> None:
    ours, _ = any_pair

    stream = await adopt(ours)
    await stream.aclose()
    with pytest.raises(ClosedResourceError):
        async with supervise(stream):
            pytest.fail("entered")
    assert watcher_module._watcher.get() is None


async def test_a_second_block_around_the_same_stream_is_busy_and_changes_nothing(any_pair: Pair) -> None:
    ours, peer = any_pair

    async with supervise(await adopt(ours), close_wait_seconds=NEVER) as stream:
        with pytest.raises(BusyResourceError, match="already supervising"):
            async with supervise(stream, idle_seconds=SOON):
                pytest.fail("entered")
        await anyio.sleep(2 * SOON)
        await stream.send(b"x")
    assert count_to_end(peer) == (1, "FIN")


class Foreign:
    async def aclose(self) -> None:
        pytest.fail("touched")


class OverForeign(Foreign):
    transport_stream = Foreign()


@pytest.mark.parametrize("stream", [Foreign(), OverForeign(), None])
def test_a_stream_that_is_not_ours_is_a_type_error_before_anything_happens(stream: Any) -> None:
    with pytest.raises(TypeError, match=f"not {type(stream).__name__}"):
        supervise(stream)


async def test_times_that_are_none_are_value_errors(pair: Pair) -> None:
    stream = await adopt(pair[0])
    wrong: list[dict[str, Any]] = [
        {"close_wait_seconds": 0},
        {"close_wait_seconds": -1},
        {"close_wait_seconds": math.nan},
        {"idle_seconds": 0},
        {"idle_seconds": math.nan},
    ]
    for arguments in wrong:
        with pytest.raises(ValueError, match=next(iter(arguments))):
            supervise(stream, **arguments)
    stream.abort()


async def test_wait_peer_closed_goes_together_with_it(any_pair: Pair) -> None:
    ours, peer = any_pair

    async with supervise(await adopt(ours), close_wait_seconds=NEVER) as stream:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(stream.wait_peer_closed)
            await anyio.wait_all_tasks_blocked()
            finish(peer)
        await stream.wait_peer_closed()
    with pytest.raises(PeerGoneError):
        other, other_peer = socket.socketpair()
        with other_peer:
            async with supervise(await adopt(other), idle_seconds=SOON) as stream:
                await stream.wait_peer_closed()


async def test_a_stream_of_tls_is_watched_at_its_socket(pair: Pair) -> None:
    """When it is cut, the peer can tell: there is no close_notify."""
    ours, peer = pair
    authority = trustme.CA()
    server, client = (ssl.create_default_context(p) for p in (ssl.Purpose.CLIENT_AUTH, ssl.Purpose.SERVER_AUTH))
    authority.issue_cert("localhost").configure_cert(server)
    authority.configure_trust(client)

    async def speak() -> None:
        stream = await wrap_tls(await adopt(peer), hostname="localhost", ssl_context=client)
        assert await stream.receive() == b"over TLS"
        with pytest.raises(anyio.BrokenResourceError):
            while True:
                await stream.receive()
        await anyio.aclose_forcefully(stream)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(speak)
        stream = await wrap_tls(await adopt(ours), server_side=True, ssl_context=server)
        with pytest.raises(PeerGoneError):
            async with supervise(stream, idle_seconds=SOON) as same:
                assert same is stream
                await stream.send(b"over TLS")
                await anyio.sleep(BOUND)
        assert ours.fileno() == -1


# --- what it costs ---------------------------------------------------------------------------------------------------


# Each has two descriptors in this process. The figure for 9,000, as many as the usual limit of 20,000 lets be, differs
# from that for 1,000 by less than a hundredth.
MANY = 1000


async def test_an_idle_connection_costs_little_memory_and_no_cpu() -> None:
    """At most 8 KiB for a stream and its supervision, the task that holds them not counted."""

    fds, peers = [], []
    with socket.create_server(("127.0.0.1", 0), backlog=MANY) as listener:
        for _ in range(MANY):
            peers.append(socket.create_connection(listener.getsockname()))
            fds.append(listener.accept()[0].detach())
    ready = 0

    async def only_a_task(fd: int, leave: anyio.Event) -> None:
        nonlocal ready
        ready += 1
        await leave.wait()

    async def connection(fd: int, leave: anyio.Event) -> None:
        nonlocal ready
        async with supervise(await SocketStream.from_socket(fd)):
            ready += 1
            await leave.wait()

    async def held_by(body: Callable[[int, anyio.Event], Coroutine[Any, Any, None]]) -> float:
        nonlocal ready
        ready = 0
        leave = anyio.Event()
        gc.collect()
        tracemalloc.start(1)
        try:
            before, _ = tracemalloc.get_traced_memory()
            async with anyio.create_task_group() as tasks:
                for fd in fds:
                    tasks.start_soon(body, fd, leave)
                await until(lambda: ready == MANY)
                gc.collect()
                held = tracemalloc.get_traced_memory()[0] - before
                tracemalloc.stop()
                await anyio.sleep(0.1)
                used = time.process_time()
                await anyio.sleep(0.3)
                assert time.process_time() - used < 0.05
                for peer in peers if body is connection else ():
                    peer.close()
                leave.set()
        finally:
            tracemalloc.stop()
        return held / MANY

    tasks_alone = await held_by(only_a_task)
    assert await held_by(connection) - tasks_alone < 8192
