"""Descriptors that are passed over UNIX sockets."""

from __future__ import annotations

import errno
import os
import random
import socket
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import anyio.lowlevel
import pytest
from support.socket_streams import fill
from support.sockets import Pair
from support.threads import thread
from support.waiting import until

from roket_trio import (
    BrokenResourceError,
    BusyResourceError,
    ClosedResourceError,
    CloseOutcome,
    EndOfStream,
    UNIXSocketStream,
)

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
