"""A reset is no end of the stream, whichever call has taken the kernel's one error; and FIN is one, whatever follows.

sendfile and splice keep to themselves an error that they meet behind the first byte. ``forget`` does the same on
purpose: it asks the kernel for the error and drops it.
"""

from __future__ import annotations

import errno
import os
import socket
import sys
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
from support.close_contract import unread
from support.sockets import Pair, connected, ends_in_fin, reset
from support.streams import PATIENT, adopt, receive_to_end, report_of, stream_over
from support.threads import thread
from support.waiting import BOUND, gone, until

from roket_trio import (
    BrokenResourceError,
    CloseOutcome,
    EndOfStream,
    SocketStream,
    Transfer,
    TruncatedError,
    copy,
    relay,
    supervise,
)
from roket_trio._kernel import tcp

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="what the kernel tells of an end is Linux's")

QUEUED = bytes(range(250)) * 200
FILE = bytes(1 << 20)


def forget(sock: socket.socket) -> int:
    """Take the socket's error, as a system call may that has something else to report."""
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)


async def queued_and_reset(pair: Pair, *, fin: bool) -> None:
    """The peer has sent something (and FIN) and has reset the connection; the error has gone to nobody's call."""
    ours, peer = pair
    peer.sendall(QUEUED)
    if fin:
        peer.shutdown(socket.SHUT_WR)
    await until(lambda: unread(ours) == len(QUEUED))
    if fin:
        await gone(ours)
    reset(peer)
    await until(lambda: tcp.tcp_state(ours) == tcp.TCPState.CLOSE)
    assert forget(ours) == (errno.EPIPE if fin else errno.ECONNRESET)


async def _iterate(stream: SocketStream) -> None:
    async for _ in stream:
        pass
    raise EndOfStream


async def _receive_into_file(stream: SocketStream, path: Path, *, by: str) -> None:
    with open(path, "wb") as file:
        if by == "receive_file":
            await stream.receive_file(file)
        else:
            await Transfer(stream, file).run()
    raise EndOfStream


async def _receive_some(stream: SocketStream) -> None:
    while await stream.receive_some():
        pass
    raise EndOfStream


async def _receive_into(stream: SocketStream) -> None:
    buffer = bytearray(10_000)
    while True:
        await stream.receive_into(buffer)


async def _copy_into_socket(stream: SocketStream) -> None:
    with connected() as (other, _):  # whose peer need not read: all of it fits
        async with stream_over(other) as sink:
            await copy(stream, sink)
    raise EndOfStream


RECEIVERS: dict[str, Callable[[SocketStream, Path], Awaitable[Any]]] = {
    "receive": lambda stream, _: receive_to_end_or_raise(stream),
    "receive_into": lambda stream, _: _receive_into(stream),
    "receive_some": lambda stream, _: _receive_some(stream),
    "iteration": lambda stream, _: _iterate(stream),
    "receive_file": partial(_receive_into_file, by="receive_file"),
    "transfer": partial(_receive_into_file, by="transfer"),
    "copy into a socket": lambda stream, _: _copy_into_socket(stream),
}


async def receive_to_end_or_raise(stream: SocketStream) -> None:
    await receive_to_end(stream)
    raise EndOfStream


SENDERS: dict[str, Callable[[SocketStream, Path], Awaitable[Any]]] = {
    "send": lambda stream, _: stream.send(b"x"),
    "send_all": lambda stream, _: stream.send_all(b"x"),
    "send_eof": lambda stream, _: stream.send_eof(),
    "send_file": lambda stream, path: _send_file(stream, path),
    "transfer": lambda stream, path: _transfer_file(stream, path),
}


async def _send_file(stream: SocketStream, path: Path) -> None:
    with open(path, "rb") as file:
        await stream.send_file(file)


async def _transfer_file(stream: SocketStream, path: Path) -> None:
    with open(path, "rb") as file:
        await Transfer(file, stream).run()


@pytest.mark.parametrize("by", RECEIVERS)
async def test_a_reset_that_no_call_has_reported_is_no_end(pair: Pair, tmp_path: Path, by: str) -> None:
    ours, _ = pair

    async with stream_over(ours, PATIENT) as stream:
        await queued_and_reset(pair, fin=False)
        for _ in range(3):
            with pytest.raises(BrokenResourceError, match="reset") as caught:
                await RECEIVERS[by](stream, tmp_path / "sink")
            assert not isinstance(caught.value, TruncatedError)
            assert caught.value.errno == errno.ECONNRESET
        assert stream.statistics().received_bytes == len(QUEUED)
        await stream.wait_peer_closed()
        await stream.aclose()
        assert (report_of(stream).outcome, report_of(stream).peer_closed) == (CloseOutcome.RESET, False)


@pytest.mark.parametrize("sender", SENDERS)
@pytest.mark.parametrize("fin", [False, True], ids=["RST", "FIN then RST"])
async def test_a_send_that_says_epipe_decides_nothing(pair: Pair, tmp_path: Path, sender: str, fin: bool) -> None:
    ours, _ = pair
    (tmp_path / "source").write_bytes(FILE)

    async with stream_over(ours, PATIENT) as stream:
        await queued_and_reset(pair, fin=fin)
        with pytest.raises(BrokenResourceError) as caught:
            await SENDERS[sender](stream, tmp_path / "source")
        assert caught.value.errno == (errno.ENOTCONN if sender == "send_eof" else errno.EPIPE)
        received = bytearray()
        for _ in range(3):
            with pytest.raises(EndOfStream if fin else BrokenResourceError):
                while True:
                    received += await stream.receive(20_000)
        assert received == QUEUED
        await stream.wait_peer_closed()
        await stream.aclose()
        assert (report_of(stream).outcome, report_of(stream).peer_closed) == (CloseOutcome.RESET, fin)


@pytest.mark.parametrize("fin", [False, True], ids=["RST", "FIN then RST"])
async def test_a_close_finds_out_by_itself_how_the_peer_has_ended(pair: Pair, fin: bool) -> None:
    ours, _ = pair

    async with stream_over(ours, PATIENT) as stream:
        await queued_and_reset(pair, fin=fin)
        await stream.aclose()
        report = report_of(stream)
        assert (report.peer_closed, report.discarded_bytes) == (fin, len(QUEUED))
        if not fin:
            assert report.outcome is CloseOutcome.RESET


async def test_sendfile_keeps_a_reset_to_itself_and_the_end_stays_a_reset(tmp_path: Path) -> None:
    path = tmp_path / "source"
    path.write_bytes(FILE * 4)

    def take_some_and_reset(peer: socket.socket, count: int) -> None:
        peer.sendall(b"half an answer")
        while count > 0:
            count -= len(peer.recv(1 << 16))
        reset(peer)

    for turn in range(25):
        with connected() as (ours, peer), open(path, "rb") as file:
            async with stream_over(ours) as stream:
                with thread(take_some_and_reset, peer, 60_000 * (turn + 1)) as done:
                    with pytest.raises(BrokenResourceError):
                        while True:
                            await stream.send_file(file)
                    received = bytearray()
                    for _ in range(2):
                        with pytest.raises(BrokenResourceError):
                            while True:
                                received += await stream.receive()
                    await until(done.done)
                    assert received == b"half an answer"
                await stream.aclose()
                assert (report_of(stream).outcome, report_of(stream).peer_closed) == (CloseOutcome.RESET, False)


@pytest.mark.parametrize("side", ["left", "right"])
async def test_relay_passes_a_reset_on_as_a_reset_when_another_call_has_taken_it(
    monkeypatch: pytest.MonkeyPatch, side: str
) -> None:
    with ExitStack() as stack:
        inner, resetter = stack.enter_context(connected())
        outer, other = stack.enter_context(connected())
        real = os.splice

        def splice(source: int, *args: Any, **more: Any) -> int:
            if source == inner.fileno():
                forget(inner)  # the other direction's splice may do so
            return real(source, *args, **more)

        monkeypatch.setattr(os, "splice", splice)
        async with stream_over(inner) as one, stream_over(outer) as two:
            errors: list[BrokenResourceError] = []

            async def run() -> None:
                try:
                    await relay(*((one, two) if side == "left" else (two, one)))
                except BrokenResourceError as error:
                    errors.append(error)

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(run)
                resetter.sendall(QUEUED)
                await until(lambda: unread(other) == len(QUEUED))
                assert other.recv(len(QUEUED), socket.MSG_WAITALL) == QUEUED
                reset(resetter)
            (error,) = errors
            assert error.side == "source"
            assert not ends_in_fin(other)


async def test_supervise_and_a_reset_that_was_taken(pair: Pair) -> None:
    ours, _ = pair

    stream = await adopt(ours, PATIENT)
    with pytest.raises(BrokenResourceError, match="reset"):
        async with supervise(stream, close_wait_seconds=BOUND):
            await queued_and_reset(pair, fin=False)
            await receive_to_end(stream)
    assert report_of(stream).outcome is CloseOutcome.RESET


@pytest.mark.parametrize("sender", ["send", "send_file"])
async def test_epipe_of_a_unix_socket_means_that_the_peer_has_closed(
    unix_pair: Pair, tmp_path: Path, sender: str
) -> None:
    ours, peer = unix_pair
    (tmp_path / "source").write_bytes(FILE)

    async with stream_over(ours, PATIENT) as stream:
        peer.sendall(b"last words")
        peer.close()
        await gone(ours)
        with pytest.raises(BrokenResourceError) as caught:
            await SENDERS[sender](stream, tmp_path / "source")
        assert caught.value.errno == errno.EPIPE
        assert await stream.receive() == b"last words"
        for _ in range(2):
            with pytest.raises(EndOfStream):
                await stream.receive()
