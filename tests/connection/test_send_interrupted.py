"""A signal's handler raises between a system call that sends and its count: the item is a cut, whatever was raised."""

from __future__ import annotations

import array
import fcntl
import io
import mmap
import os
import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import pytest
from support.interruptions import INTERRUPTIONS, Interrupted, interruption
from support.sockets import Pair, connected, count_to_end
from support.streams import ENDLESS, report_of, stream_over
from support.threads import thread
from support.waiting import until

from roket_trio import BrokenResourceError, CloseOutcome, SocketStream, Transfer, UNIXSocketStream, copy, relay
from roket_trio._connection.send_accounting import SendAccounting

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="sendfile, splice and RST as Linux has them")

DATA = bytes(range(256)) * 65536


def interrupt(patch: pytest.MonkeyPatch, name: str, error: BaseException, **when: int) -> Interrupted:
    owner: Any = os if hasattr(os, name) else socket.socket
    interrupted = Interrupted(getattr(owner, name), error, **when)
    patch.setattr(owner, name, interrupted, raising=False)
    return interrupted


def open_pipes() -> set[str]:
    """Every end of a pipe that this process has open."""
    names = set()
    for name in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # the descriptor of this list
            names.add(f"{name} {os.readlink(f'/proc/self/fd/{name}')}")
    return {name for name in names if "pipe:" in name}


def leaves(error: BaseException) -> Iterator[BaseException]:
    """The exceptions of a group, however deep they are; of no group: the exception."""
    if isinstance(error, BaseExceptionGroup):
        for one in error.exceptions:
            yield from leaves(one)
    else:
        yield error


@asynccontextmanager
async def cut(ours: socket.socket, peer: socket.socket, total: int) -> AsyncIterator[SocketStream]:
    """A stream whose item is cut in the block: it takes no other one, and its peer is told (by RST, which TCP has)."""
    with thread(count_to_end, peer) as counted:
        async with stream_over(ours) as stream:
            yield stream
            of = f"({total}|an unknown number of) bytes"
            with pytest.raises(BrokenResourceError, match=f"stopped after at least [0-9]+ of {of}"):
                await stream.send(b"more")
            await stream.aclose()
            assert report_of(stream).outcome is CloseOutcome.ABORTED
    assert counted.result()[1] == ("FIN" if peer.family == socket.AF_UNIX else "RST")


@pytest.mark.parametrize("kind", INTERRUPTIONS)
@pytest.mark.parametrize("size", [8, 4_000_000], ids=["at once", "in pieces"])
async def test_a_send_interrupted_before_its_count_is_a_cut(
    any_pair: Pair, monkeypatch: pytest.MonkeyPatch, kind: str, size: int
) -> None:
    error = interruption(kind)
    async with cut(*any_pair, total=size) as stream:
        with monkeypatch.context() as patch, pytest.raises(type(error)) as caught:
            interrupt(patch, "send", error, at=1 if size == 8 else 2, most=1_000_000)
            await stream.send(bytes(size))
        assert caught.value is error


@pytest.mark.parametrize("kind", INTERRUPTIONS)
async def test_descriptors_whose_message_is_interrupted_are_a_cut(
    unix_pair: Pair, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    error = interruption(kind)
    async with cut(*unix_pair, total=7) as stream:
        assert isinstance(stream, UNIXSocketStream)
        with monkeypatch.context() as patch, pytest.raises(type(error)) as caught:
            interrupt(patch, "sendmsg", error)
            await stream.send_fds(b"message", [0])
        assert caught.value is error


@pytest.mark.parametrize("kind", ["exit", "an OSError", "a pipe of the handler's is full"])
@pytest.mark.parametrize(
    ("row", "call", "at"),
    [
        ("file", "sendfile", 1),
        ("file", "sendfile", 2),
        ("socket", "splice", 2),  # the first one fills the pipe
        ("memory", "send", 1),
        ("memory", "send", 4),
    ],
)
async def test_a_transfer_interrupted_before_its_count_is_a_cut_and_is_not_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, row: str, call: str, at: int
) -> None:
    (tmp_path / "in").write_bytes(DATA)
    error = interruption(kind)
    with connected() as pair, connected() as (other, feeder), (tmp_path / "in").open("rb") as file:
        feeder.sendall(DATA[:100_000])
        async with stream_over(other) as source, cut(*pair, total=len(DATA)) as sink:
            source_of: dict[str, Any] = {"file": file, "socket": source, "memory": io.BytesIO(DATA)}
            transfer = Transfer(source_of[row], sink)
            with monkeypatch.context() as patch, pytest.raises(type(error)) as caught:
                interrupt(patch, call, error, at=at)
                await transfer.run()
            assert caught.value is error
            with pytest.raises(BrokenResourceError, match="cannot be resumed"):
                await transfer.run()


async def test_two_signals_in_a_splice_leave_no_pipe_and_the_second_one_is_raised(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The descriptors are counted after each test."""
    first, second = interruption("exit"), interruption("a program's own")
    with connected() as pair, connected() as (other, feeder):
        feeder.sendall(DATA[:100_000])
        async with stream_over(other) as source, cut(*pair, total=0) as sink:
            with monkeypatch.context() as patch:
                interrupt(patch, "splice", first, at=2)
                limited = interrupt(patch, "setsockopt", second, at=2)  # the clean-up sets a limit back
                with pytest.raises(type(second)) as caught:
                    await copy(source, sink)
            assert limited.raised
            assert caught.value is second
            assert caught.value.__context__ is first


@pytest.mark.parametrize("sink", ["socket", "file"])
@pytest.mark.parametrize("kind", INTERRUPTIONS)
async def test_a_transfer_interrupted_while_it_makes_its_pipe_raises_that_and_leaves_no_pipe(
    pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, sink: str
) -> None:
    error, before = interruption(kind), open_pipes()
    with connected() as (other, feeder), open(tmp_path / "received", "wb") as file:
        feeder.sendall(DATA[:1000])
        feeder.shutdown(socket.SHUT_WR)
        async with stream_over(other) as source, stream_over(pair[0]) as stream:
            target: Any = stream if sink == "socket" else file
            with monkeypatch.context() as patch, pytest.raises(type(error)) as caught:
                limited = Interrupted(fcntl.fcntl, error)
                patch.setattr(fcntl, "fcntl", limited)
                await copy(source, target)
            assert caught.value is error  # whose frames keep the pipe's object
            assert limited.raised
            assert open_pipes() == before
            report = await copy(source, target)  # nothing was taken off the socket, so that it may be tried again
            assert report.bytes_moved == 1000


@pytest.mark.parametrize("kind", INTERRUPTIONS)
async def test_what_a_handler_raises_while_a_limit_is_set_is_not_lost(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    error = interruption(kind)
    with connected() as (other, feeder):
        feeder.sendall(DATA[:1000])
        feeder.shutdown(socket.SHUT_WR)
        async with stream_over(other) as source, stream_over(pair[0]) as sink:
            with monkeypatch.context() as patch, pytest.raises(type(error)) as caught:
                limited = interrupt(patch, "setsockopt", error)
                await copy(source, sink)
            assert limited.raised
            assert caught.value is error


async def test_a_relay_interrupted_in_a_splice_raises_that_alone_and_cuts_its_sink(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    error = interruption("a program's own")
    with connected() as pair, connected() as (other, feeder):
        feeder.sendall(DATA[:100_000])
        async with stream_over(other) as left, cut(*pair, total=0) as right:
            with monkeypatch.context() as patch, pytest.raises(type(error)) as caught:
                interrupt(patch, "splice", error, at=2)
                await relay(left, right)
            assert caught.value is error


@pytest.mark.parametrize("kind", INTERRUPTIONS)
async def test_a_relay_interrupted_in_the_turn_in_which_it_is_cancelled_raises_that_all_the_same(
    monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    error = interruption(kind)
    with connected() as pair, connected() as (other, feeder):
        feeder.sendall(DATA[:1000])
        with thread(count_to_end, pair[1]) as counted:
            async with stream_over(other) as left, stream_over(pair[0]) as right:
                with (
                    monkeypatch.context() as patch,
                    pytest.raises(BaseException) as caught,  # noqa: PT011 - any, and judged below
                    anyio.CancelScope() as scope,
                ):
                    splice = os.splice

                    def cancelling(*args: Any, **more: Any) -> int:
                        if interrupted.calls == 1:
                            scope.cancel()
                        return splice(*args, **more)

                    interrupted = Interrupted(cancelling, error, at=2)
                    patch.setattr(os, "splice", interrupted)
                    await relay(left, right)
                assert list(leaves(caught.value)) == [error]
        assert counted.result()[1] == "RST"


@pytest.mark.parametrize("kind", INTERRUPTIONS)
@pytest.mark.parametrize("how", ["send", "send_file"])
async def test_a_second_signal_while_the_cut_is_noted_leaves_the_cut_and_no_busy_sender(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, how: str, kind: str
) -> None:
    first, second = interruption("exit"), interruption(kind)
    path = tmp_path / "file"
    path.write_bytes(DATA[:1_000_000])
    ours, peer = pair
    stopped = SendAccounting.item_stopped
    signals = [second]

    def item_stopped(*args: Any) -> None:
        if signals:
            raise signals.pop()
        stopped(*args)

    with thread(count_to_end, peer) as counted:
        async with stream_over(ours) as stream:
            with path.open("rb") as file, monkeypatch.context() as patch, pytest.raises(type(second)) as caught:
                interrupt(patch, "send" if how == "send" else "sendfile", first)
                patch.setattr(SendAccounting, "item_stopped", item_stopped)
                await (stream.send(DATA[:1_000_000]) if how == "send" else stream.send_file(file))
            assert caught.value is second
            with pytest.raises(BrokenResourceError, match="stopped after"):
                await stream.send_eof()
            await stream.aclose()
            assert report_of(stream).outcome is CloseOutcome.ABORTED
    assert counted.result()[1] == "RST"


# --- buffers that others resize --------------------------------------------------------------------------------------


class Resizable:
    """A buffer and what its owner does to resize it, which is refused with BufferError while anybody looks at it."""

    def __init__(self, item: Any, *resizes: Callable[[], object]) -> None:
        self.item = item
        self.resizes = resizes


def a_bytearray() -> Resizable:
    item = bytearray(ENDLESS)
    return Resizable(item, item.clear, lambda: item.extend(b"more"), lambda: item.__delitem__(slice(1000, None)))


def an_array() -> Resizable:
    item = array.array("q", ENDLESS)
    return Resizable(item, item.pop, lambda: item.append(1))


def memory_of_bytes_io() -> Resizable:
    file = io.BytesIO(ENDLESS)

    def resize() -> None:
        view.release()  # the buffer is still exported if the send holds it
        file.truncate(10)

    view = file.getbuffer()
    return Resizable(view, resize)


def a_map() -> Resizable:
    item = mmap.mmap(-1, len(ENDLESS))
    return Resizable(item, item.close)


RESIZABLE = [a_bytearray, an_array, memory_of_bytes_io, a_map]


@pytest.mark.parametrize("make", RESIZABLE)
@pytest.mark.parametrize("verb", ["send", "send_all"])
async def test_a_buffer_is_held_while_its_send_waits_and_free_after_it(
    any_pair: Pair, make: Callable[[], Resizable], verb: str
) -> None:
    buffer = make()
    cancellation: BaseException | None = None

    async def send(stream: SocketStream) -> None:
        nonlocal cancellation
        try:
            await getattr(stream, verb)(buffer.item)
        except BaseException as error:
            cancellation = error  # its frames do not hold the buffer either
            raise

    async with stream_over(any_pair[0]) as stream:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(send, stream)
            await until(lambda: stream.statistics().sent_bytes)
            for resize in buffer.resizes:
                with pytest.raises(BufferError):
                    resize()
            tasks.cancel_scope.cancel()
        assert cancellation is not None
        for resize in buffer.resizes:
            resize()
