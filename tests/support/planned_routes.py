"""What the tests of all routes share: rows of source and sink, and a kernel that does what a test wants."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import pytest

from roket_trio import (
    BrokenResourceError,
    SocketStream,
    Transfer,
    TruncatedError,
)
from roket_trio._kernel import copy_file_range, sendfile, splice
from support.patterns import MIB, PATTERN
from support.sockets import connected, read_to_end, send_and_finish
from support.streams import receive_to_end, stream_over
from support.threads import thread
from support.waiting import BOUND, until

FAST = {"file-socket": "sendfile", "socket-file": "splice", "socket-socket": "splice", "file-file": "copy_file_range"}
PLAIN = {
    "file-socket": "read-send",
    "socket-file": "read-send",
    "socket-socket": "read-send",
    "file-file": "read-write",
}
MODULES = {"sendfile": sendfile, "splice": splice, "copy_file_range": copy_file_range}
ROWS = list(FAST)


def send_until_it_ends(sock: socket.socket, data: bytes) -> None:
    """Send; the other side may end it."""
    try:
        sock.sendall(data)
    except (ConnectionResetError, BrokenPipeError):
        pass


async def until_stalled(transfer: Transfer) -> int:
    """Wait until the transfer has moved something and moves no more; returns how much.

    It has stalled when it was the same in so many looks. Each of them takes the loop's turn, also on a busy machine.
    """
    seen = looks = 0
    with anyio.fail_after(BOUND):
        while not seen or looks < 25:
            looks += 1
            if transfer.bytes_moved != seen:
                seen, looks = transfer.bytes_moved, 0
            await anyio.sleep(0.002)
    return seen


class Kernel:
    """Stands between the library and its fast system calls: counts them, gives less, refuses."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.moved = dict.fromkeys(MODULES, 0)
        self.calls = 0
        self.told_again = 0
        self.most = 1 << 40
        """The most that one call moves."""
        self.refuse_after: int | None = None
        """How many calls do before the kernel refuses."""
        self.refusal = errno.EINVAL
        self.refused = False
        for name in MODULES:
            monkeypatch.setattr(os, name, self._call(name, getattr(os, name)))

    def _call(self, name: str, real: Callable[..., int]) -> Callable[..., int]:
        count_at = 3 if name == "sendfile" else 2

        def call(*args: Any, **more: Any) -> int:
            if self.refuse_after is not None and self.calls >= self.refuse_after:
                self.refused = True
                raise OSError(self.refusal, os.strerror(self.refusal))
            self.calls += 1
            args = (*args[:count_at], min(args[count_at], self.most), *args[count_at + 1 :])
            try:
                count = real(*args, **more)
            except BlockingIOError:
                self.told_again += 1
                raise
            self.moved[name] += count
            return count

        return call


def turn_off(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in MODULES.values():
        monkeypatch.setattr(module, "AVAILABLE", False)


def failing(name: str, number: int, *, after: int, of: int | None = None) -> Callable[..., int]:
    """The call ``os.name``, which fails once it has moved ``after`` bytes (on the descriptor ``of``).

    Every call before gives little, so that it fails in the middle of something.
    """
    real = getattr(os, name)
    moved = 0

    def call(*args: Any, **more: Any) -> int:
        nonlocal moved
        if of is not None and of not in args[:2]:
            return int(real(*args, **more))
        if moved >= after:
            raise OSError(number, os.strerror(number))
        space = min(after - moved, 9_999)
        if name in ("sendfile", "splice", "copy_file_range"):
            count_at = 3 if name == "sendfile" else 2
            args = (*args[:count_at], min(args[count_at], space), *args[count_at + 1 :])
        elif name == "preadv":
            args = (args[0], (args[1][0][:space],), *args[2:])
        else:
            args = (args[0], memoryview(args[1])[:space], *args[2:])
        count = int(real(*args, **more))
        moved += count
        return count

    return call


@dataclass
class Plan:
    """One transfer, and what shall happen to it."""

    size: int
    count: int | None
    source_at: int = 0
    sink_at: int = 0
    chunk: int = MIB
    most: int = 1 << 40
    off: bool = False
    refuse_after: int | None = None
    refusal: int = errno.EINVAL
    send_buffer: int = 0
    receive_buffer: int = 0
    cancel_after: list[int] = field(default_factory=list)
    """One number for each run that shall be cancelled: after how many turns of the loop."""


# What a sink file has before anything comes.
BEFORE = b"." * 60_000


async def carry_out(row: str, plan: Plan, kernel: Kernel, directory: Path) -> int:
    """Do what the plan says and hold all of it against the model; returns how often it was cancelled."""
    source_is_file, sink_is_file = row.startswith("file"), row.endswith("file")
    kernel.most, kernel.refuse_after, kernel.refusal = plan.most, plan.refuse_after, plan.refusal
    data = PATTERN[: plan.size]
    there = data[plan.source_at :] if source_is_file else data
    expected = there if plan.count is None else there[: plan.count]
    is_short = not source_is_file and plan.count is not None and plan.count > len(there)
    source_path, sink_path = directory / "source", directory / "sink"
    async with AsyncExitStack() as stack:
        source: Any
        sink: Any
        sink_peer: socket.socket | None = None
        if source_is_file:
            source_path.write_bytes(data)
            source = stack.enter_context(open(source_path, "rb"))
            source.seek(plan.source_at)
        else:
            ours, peer = stack.enter_context(connected())
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, plan.receive_buffer or 1 << 18)
            stack.enter_context(thread(send_and_finish, peer, data, plan.chunk))
            source = await stack.enter_async_context(stream_over(ours))
        if sink_is_file:
            sink_path.write_bytes(BEFORE)
            sink = stack.enter_context(open(sink_path, "r+b"))
            sink.seek(plan.sink_at)
        else:
            ours, sink_peer = stack.enter_context(
                connected(send_buffer=plan.send_buffer, receive_buffer=plan.receive_buffer)
            )
            received = stack.enter_context(thread(read_to_end, sink_peer, plan.chunk))
            sink = await stack.enter_async_context(stream_over(ours))

        transfer = Transfer(source, sink, count=plan.count)

        def check_positions() -> None:
            if source_is_file:
                assert source.tell() == plan.source_at + transfer.bytes_moved
            if sink_is_file:
                assert sink.tell() == plan.sink_at + transfer.bytes_moved

        cancels = 0
        for turns in plan.cancel_after:
            before = transfer.bytes_moved
            over = False
            async with anyio.create_task_group() as tasks:

                async def strike(scope: anyio.CancelScope, turns: int = turns) -> None:
                    for _ in range(turns):
                        await anyio.lowlevel.checkpoint()
                    scope.cancel()

                with anyio.CancelScope() as scope:
                    tasks.start_soon(strike, scope)
                    try:
                        await transfer.run()
                        over = True
                    except TruncatedError:
                        over = True
            assert transfer.bytes_moved >= before
            check_positions()
            if over:
                break
            cancels += 1
            if not sink_is_file and transfer.bytes_moved:
                with pytest.raises(BrokenResourceError, match=f"stopped after {transfer.bytes_moved} of"):
                    await sink.send(b"")  # cut until it is resumed

        if is_short:
            with pytest.raises(TruncatedError) as caught:
                await transfer.run()
            assert caught.value.bytes_moved == len(expected)
            assert caught.value.side == "source"
        else:
            report = await transfer.run()
            assert report.bytes_moved == len(expected)
            assert report.route == transfer.route
            assert report.fallbacks == ((FAST[row],) if kernel.refused else ())
            assert report.seconds > 0
        check_positions()
        is_empty_file = source_is_file and not plan.size  # may be generated: only reading tells
        is_plain = plan.off or kernel.refused or is_empty_file
        assert transfer.route == (PLAIN[row] if is_plain else FAST[row])
        assert transfer.bytes_moved == len(expected)
        # Into a pipe and out of it, so twice; what a refusal left in the pipe went the plain way.
        by_kernel = kernel.moved[FAST[row]]
        if plan.off or is_empty_file:
            assert by_kernel == 0
        elif not kernel.refused and not cancels:
            assert by_kernel == len(expected) * (2 if FAST[row] == "splice" else 1)
        for stream in (source, sink):
            if isinstance(stream, SocketStream) and expected:
                assert set(stream.statistics().routes) <= {FAST[row], PLAIN[row]}
                assert stream.statistics().routes[transfer.route]
        if not source_is_file:
            assert source.statistics().received_bytes == len(expected)
            assert await receive_to_end(source) == data[len(expected) :]
        if sink_is_file:
            sink.flush()
            start = plan.sink_at
            padded = BEFORE[:start].ljust(start, b"\0") if expected else BEFORE[:start]
            assert sink_path.read_bytes() == padded + expected + BEFORE[start + len(expected) :]
        else:
            assert sink.statistics().sent_bytes == len(expected)
            if is_short and expected:  # a message that is not whole never ends like one that is
                with pytest.raises(BrokenResourceError):
                    await sink.send_eof()
                sink.abort()
                assert received.result(BOUND)[1] == "RST"
                assert expected.startswith(received.result()[0])
            else:
                await sink.send_eof()  # no cut is left
                await until(received.done)
                assert received.result() == (expected, "FIN")
    return cancels
