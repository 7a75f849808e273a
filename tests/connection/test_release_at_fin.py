"""``release_at_fin``: what a pool needs. The descriptor goes with the peer's end, and what had arrived is served on."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
import trio
import uvloop
from anyio.abc import SocketAttribute
from support.interruptions import Interruption, raising_at_event
from support.sockets import Pair, all_arrived, connected, read_to_end, reset
from support.streams import PATIENT, adopt, report_of
from support.waiting import arrived, until

from roket_trio import (
    BrokenResourceError,
    ClosedResourceError,
    CloseOutcome,
    EndOfStream,
    SocketStream,
)
from roket_trio._connection.release import release

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="a FIN behind unread data is seen on Linux alone")


@contextmanager
def pair_of(kind: str) -> Iterator[Pair]:
    if kind == "tcp":
        with connected() as pair:
            yield pair
    else:
        ours, peer = socket.socketpair()
        with ours, peer:
            yield ours, peer


async def released(stream: SocketStream) -> None:
    """Until the stream has no descriptor, which nobody but the watch takes from it."""
    await until(lambda: stream._raw_socket.fileno() == -1)


async def test_an_idle_stream_has_no_descriptor_after_the_peers_fin(any_pair: Pair) -> None:
    ours, peer = any_pair
    stream = await adopt(ours, PATIENT)
    stream.release_at_fin()
    await stream.send(b"question")
    peer.shutdown(socket.SHUT_WR)
    await released(stream)
    assert ours.fileno() == -1
    assert read_to_end(peer) == (b"question", "FIN")
    for _ in range(2):
        with pytest.raises(EndOfStream):
            await stream.receive()
        assert await stream.receive_some() == b""
    with pytest.raises(BrokenResourceError, match="the peer has finished"):
        await stream.send(b"x")
    await stream.wait_peer_closed()
    assert report_of(stream).peer_closed
    await stream.aclose()
    with pytest.raises(ClosedResourceError):
        await stream.receive()
    with pytest.raises(ClosedResourceError):
        await stream.send(b"x")


@pytest.mark.parametrize("asked_before", [True, False], ids=["asked for before", "never asked for"])
async def test_a_released_stream_knows_its_addresses_and_has_a_closed_socket(
    any_pair: Pair, asked_before: bool
) -> None:
    ours, peer = any_pair
    family, local = ours.family, ours.getsockname()
    stream = await adopt(ours, PATIENT)
    asked = stream.socket if asked_before else None
    stream.release_at_fin()
    peer.shutdown(socket.SHUT_WR)
    await released(stream)
    raw = stream.extra(SocketAttribute.raw_socket)
    assert (raw.fileno(), raw.family, stream.extra(SocketAttribute.family)) == (-1, family, family)
    assert (stream.socket.fileno(), stream.socket.family) == (-1, family)
    assert asked is None or asked is stream.socket
    if family == socket.AF_INET:
        assert stream.extra(SocketAttribute.local_address) == local
        assert stream.extra(SocketAttribute.remote_address) == peer.getsockname()
    with pytest.raises(OSError, match="Bad file descriptor"):
        stream.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    await stream.aclose()


@pytest.mark.parametrize("end", ["FIN", "RST"])
async def test_what_came_before_the_end_is_received_without_a_descriptor(pair: Pair, end: str) -> None:
    ours, peer = pair
    stream = await adopt(ours, PATIENT)
    data = os.urandom(50_000)
    stream.release_at_fin()
    peer.sendall(data)
    if end == "FIN":
        peer.close()
    else:
        await all_arrived(peer)
        reset(peer)
    await released(stream)
    got = await stream.receive(10)
    buffer = bytearray(20_000)
    got += buffer[: await stream.receive_into(buffer)]
    while len(got) < len(data):
        got += await stream.receive()
    assert got == data
    for _ in range(2):
        with pytest.raises(EndOfStream if end == "FIN" else BrokenResourceError):
            await stream.receive()
    assert (report_of(stream).outcome is CloseOutcome.RESET) == (end == "RST")
    assert stream.statistics().received_bytes == len(data)
    await stream.aclose()


async def test_what_came_before_the_end_goes_into_a_file(any_pair: Pair, tmp_path: Path) -> None:
    ours, peer = any_pair
    stream = await adopt(ours, PATIENT)
    data = os.urandom(50_000)
    stream.release_at_fin()
    peer.sendall(data)
    peer.shutdown(socket.SHUT_WR)
    await released(stream)
    with open(tmp_path / "file", "wb") as file:
        assert await stream.receive_file(file) == len(data)
    assert (tmp_path / "file").read_bytes() == data
    await stream.aclose()


async def test_a_receiver_who_waits_gets_everything_and_the_descriptor_goes_after_it(any_pair: Pair) -> None:
    ours, peer = any_pair
    stream = await adopt(ours, PATIENT)
    stream.release_at_fin()
    got = b""

    async def receive() -> None:
        nonlocal got
        got = await stream.receive()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(receive)
        await anyio.wait_all_tasks_blocked()
        peer.sendall(b"answer")
        peer.shutdown(socket.SHUT_WR)
    await released(stream)
    with pytest.raises(EndOfStream):
        await stream.receive()
    assert got == b"answer"
    assert read_to_end(peer) == (b"", "FIN")


async def test_more_than_is_kept_stays_in_the_kernel_until_its_reader_comes_near_the_end() -> None:
    with connected() as (peer, ours):
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        stream = await adopt(ours, PATIENT)
        stream.release_at_fin()
        data = os.urandom(1 << 20)
        await anyio.to_thread.run_sync(peer.sendall, data)
        peer.shutdown(socket.SHUT_WR)
        await stream.wait_peer_closed()
        await anyio.sleep(0.05)
        assert stream._raw_socket.fileno() != -1
        got = bytearray()
        while len(got) < len(data) - (100 << 10):
            got += await stream.receive(50 << 10)
        await released(stream)
        while len(got) < len(data):
            got += await stream.receive()
        assert got == data


async def test_a_send_under_way_is_not_cut_by_the_peers_fin() -> None:
    with connected(send_buffer=65536, receive_buffer=4096) as (ours, peer):
        stream = await adopt(ours, PATIENT)
        stream.release_at_fin()
        data = os.urandom(2 << 20)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(stream.send, data)
            await anyio.wait_all_tasks_blocked()
            peer.sendall(b"early answer")
            peer.shutdown(socket.SHUT_WR)
            await stream.wait_peer_closed()
            assert stream._raw_socket.fileno() != -1
            assert await anyio.to_thread.run_sync(read_to_end, peer) == (data, "FIN")
        await released(stream)
        assert await stream.receive() == b"early answer"


async def test_a_cut_stream_ends_in_a_reset_for_its_peer() -> None:
    with connected(send_buffer=65536, receive_buffer=4096) as (ours, peer):
        stream = await adopt(ours, PATIENT)
        stream.release_at_fin()
        with anyio.move_on_after(0.05):
            await stream.send(bytes(4 << 20))
        peer.shutdown(socket.SHUT_WR)
        await released(stream)
        assert (await anyio.to_thread.run_sync(read_to_end, peer))[1] == "RST"


async def test_it_begins_in_one_task_and_ends_in_another(any_pair: Pair) -> None:
    ours, peer = any_pair
    stream = await adopt(ours, PATIENT)
    watches = []

    async def begin() -> None:
        watches.append(stream.release_at_fin())

    async def end() -> None:
        with watches.pop():
            pass

    for task in (begin, end):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(task)
    peer.shutdown(socket.SHUT_WR)
    await stream.wait_peer_closed()
    await anyio.sleep(0.05)
    assert ours.fileno() != -1
    await stream.aclose()


async def test_a_peer_that_has_finished_already_is_noticed(any_pair: Pair) -> None:
    ours, peer = any_pair
    stream = await adopt(ours, PATIENT)
    peer.shutdown(socket.SHUT_WR)
    await arrived(ours)
    stream.release_at_fin().stop()
    stream.release_at_fin()
    assert ours.fileno() != -1
    await released(stream)


async def test_a_stream_closed_on_this_side_refuses(any_pair: Pair) -> None:
    stream = await adopt(any_pair[0], PATIENT)
    stream.release_at_fin()
    stream.abort()
    with pytest.raises(ClosedResourceError):
        stream.release_at_fin()


async def test_who_asks_is_told_once_and_what_that_raises_is_logged(
    any_pair: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    ours, peer = any_pair
    stream = await adopt(ours, PATIENT)
    told = 0

    def tell() -> None:
        nonlocal told
        told += 1
        raise RuntimeError("no such pool")

    stream.release_at_fin(tell)
    peer.shutdown(socket.SHUT_WR)
    with caplog.at_level(logging.ERROR, "roket_trio"):
        await until(lambda: told)
        await anyio.sleep(0.05)
    assert (told, caplog.text.count("RuntimeError: no such pool")) == (1, 1)
    await stream.aclose()


async def test_a_thousand_idle_streams_have_one_watch_and_take_no_time() -> None:
    with ExitStack() as stack:
        pairs = [stack.enter_context(connected()) for _ in range(1000)]
        streams = [await adopt(ours, PATIENT) for ours, _ in pairs]
        await anyio.sleep(0.01)  # the loop's own descriptors are open now
        before = len(os.listdir("/proc/self/fd"))
        for stream in streams:
            stream.release_at_fin()
        await anyio.sleep(0.05)
        assert len(os.listdir("/proc/self/fd")) <= before + 1
        began = time.thread_time()
        await anyio.sleep(0.5)
        assert time.thread_time() - began < 0.1
        for _, peer in pairs:
            peer.close()
        await until(lambda: all(stream._raw_socket.fileno() == -1 for stream in streams))
        assert len(os.listdir("/proc/self/fd")) <= before - 2000


async def test_a_stream_that_is_dropped_is_not_kept_by_its_watch() -> None:
    with connected() as (ours, peer):
        before = len(os.listdir("/proc/self/fd"))
        stream = await SocketStream.from_socket(ours.detach())
        stream.release_at_fin()
        with pytest.warns(ResourceWarning, match="unclosed"):  # noqa: PT031 - the collector may be what warns
            del stream
            gc.collect()
        assert read_to_end(peer) == (b"", "FIN")
        await anyio.lowlevel.checkpoint()
        assert len(os.listdir("/proc/self/fd")) < before


async def test_a_descriptor_that_other_code_has_closed_harms_nobody() -> None:
    with connected() as (ours, peer), connected() as (others, other_peer):
        stream, other = await adopt(ours, PATIENT), await adopt(others, PATIENT)
        for one in (stream, other):
            one.release_at_fin()
        end = ours.dup()
        os.close(ours.fileno())
        peer.close()
        other_peer.close()
        await released(other)
        await anyio.sleep(0.05)
        # For its owner to close.
        os.dup2(end.fileno(), ours.fileno())
        end.close()
        await stream.aclose()


@pytest.mark.parametrize("run", [trio.run, asyncio.run, uvloop.run])
def test_a_stream_that_outlives_its_loop_is_closed_after_it(run: Callable[..., Any]) -> None:
    with connected() as (ours, peer):
        kept: list[SocketStream] = []

        async def main() -> None:
            kept.append(await adopt(ours, PATIENT))
            kept[0].release_at_fin()

        run(main) if run is trio.run else run(main())
        kept[0].abort()
        assert ours.fileno() == -1
        assert read_to_end(peer)[1] == "RST"


async def test_what_lies_behind_an_urgent_byte_is_received_after_the_release(tcp_pair: Pair) -> None:
    ours, peer = tcp_pair
    stream = await adopt(ours, PATIENT)
    stream.release_at_fin()
    peer.sendall(b"before ")
    peer.send(b"!", socket.MSG_OOB)
    peer.sendall(b"behind")
    peer.shutdown(socket.SHUT_WR)
    await released(stream)
    assert b"".join([data async for data in stream]) == b"before behind"
    await stream.aclose()


async def test_what_lies_behind_passed_descriptors_is_received_after_the_release(unix_pair: Pair) -> None:
    ours, peer = unix_pair
    stream = await adopt(ours, PATIENT)
    stream.release_at_fin()
    peer.sendall(b"before ")
    socket.send_fds(peer, [b"with "], [peer.fileno()])
    peer.sendall(b"behind")
    peer.shutdown(socket.SHUT_WR)
    await released(stream)
    assert b"".join([data async for data in stream]) == b"before with behind"
    await stream.aclose()


@pytest.mark.parametrize("kind", ["tcp", "unix"])
async def test_a_release_that_a_handler_interrupts_lets_no_loss_look_like_the_end(kind: str) -> None:
    places, number, lost = ["before"], 0, 0
    while places:
        number += 1
        with pair_of(kind) as (ours, peer):
            stream = await adopt(ours, PATIENT)
            peer.sendall(b"whole")
            peer.shutdown(socket.SHUT_WR)
            await arrived(ours)
            with raising_at_event(number, Interruption()) as places, suppress(Interruption):
                release(stream._connection)
            received = b""
            try:
                received = b"".join([data async for data in stream])
            except (BrokenResourceError, ClosedResourceError):
                lost += 1
            else:
                assert received == b"whole", places
            await stream.aclose()
            assert ours.fileno() == -1
    assert number > 20
    assert lost > 5


async def test_each_watch_of_a_stream_that_was_not_stopped_tells_of_the_release(any_pair: Pair) -> None:
    ours, peer = any_pair
    stream = await adopt(ours, PATIENT)
    told: list[str] = []

    def first() -> None:
        told.append("first")
        stopped_by_the_first.stop()

    stream.release_at_fin(first)
    stream.release_at_fin(lambda: told.append("second"))
    stopped_by_the_first = stream.release_at_fin(lambda: told.append("stopped by the first"))
    stream.release_at_fin(lambda: told.append("stopped before")).stop()
    peer.shutdown(socket.SHUT_WR)
    await released(stream)
    await until(lambda: len(told) >= 2)
    await anyio.lowlevel.checkpoint()
    assert told == ["first", "second"]
    await stream.aclose()


@pytest.mark.parametrize("end", ["FIN", "RST"])
async def test_a_watch_of_a_released_stream_tells_at_once(tcp_pair: Pair, end: str) -> None:
    ours, peer = tcp_pair
    stream = await adopt(ours, PATIENT)
    stream.release_at_fin()
    if end == "FIN":
        peer.shutdown(socket.SHUT_WR)
    else:
        reset(peer)
    await released(stream)
    told: list[str] = []
    stream.release_at_fin(lambda: told.append("watched"))
    stream.release_at_fin(lambda: told.append("stopped")).stop()
    assert told == []
    await until(lambda: bool(told))
    await anyio.lowlevel.checkpoint()
    assert told == ["watched"]
    await stream.wait_peer_closed()
    stream.release_at_fin(lambda: told.append("closed"))
    await stream.aclose()
    with pytest.raises(ClosedResourceError):
        stream.release_at_fin()
    for _ in range(3):
        await anyio.lowlevel.checkpoint()
    assert told == ["watched"]
