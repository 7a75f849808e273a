"""What the tests of ``send_file`` share."""

from __future__ import annotations

import os
import re
import select
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from roket_trio import (
    BrokenResourceError,
    SocketStream,
)
from support.patterns import DATA, MIB, pattern
from support.sockets import read_to_end
from support.threads import thread
from support.waiting import has_no_window, until


async def until_stalled(stream: SocketStream) -> int:
    """Wait until a send has moved something and nothing moves any more; returns how much the kernel took."""
    sock = stream._raw_socket
    poll = select.poll()
    poll.register(sock, select.POLLOUT)
    await until(lambda: stream.statistics().sent_bytes and has_no_window(sock) and not poll.poll(0))
    return stream.statistics().sent_bytes


async def cut_after(stream: SocketStream) -> tuple[int, int]:
    """The numbers "N of M bytes" by which the stream says that an earlier send was cut."""
    with pytest.raises(BrokenResourceError) as caught:
        await stream.send(b"more")
    numbers = re.search(r"(\d+) of (\d+) bytes", str(caught.value))
    assert numbers is not None, caught.value
    return int(numbers[1]), int(numbers[2])


async def finish_and_read(stream: SocketStream, peer: socket.socket) -> tuple[bytes, str]:
    """Close, and let the peer read to the end meanwhile."""
    with thread(read_to_end, peer) as received:
        await stream.aclose()
    return received.result(0)


class Spy:
    """Stands for ``os.sendfile``: calls it, notes each call, and does what a test wants done before."""

    def __init__(self) -> None:
        self.real = os.sendfile
        self.moved: list[int] = []
        self.errors: list[int | None] = []
        self.threads: set[int] = set()
        self.before: Callable[[int], int | None] = lambda moved: None
        """Given what was moved so far: raises, returns the most to move now, or None."""

    def __call__(self, sink: int, source: int, offset: int, count: int) -> int:
        self.threads.add(threading.get_ident())
        try:
            most = self.before(sum(self.moved))
            moved = self.real(sink, source, offset, count if most is None else min(count, most))
        except OSError as error:
            self.errors.append(error.errno)
            raise
        self.moved.append(moved)
        return moved


ROUTES = ["sendfile", "read-send"]


def refusing(number: int, *, after: int = 0) -> Callable[[int], int | None]:
    """A kernel that refuses once ``after`` bytes were moved."""

    def before(moved: int) -> int | None:
        if moved >= after:
            raise OSError(number, os.strerror(number))
        return after - moved

    return before


def _file_of(tmp_path: Path, data: bytes = DATA) -> Path:
    path = tmp_path / "source"
    path.write_bytes(data)
    return path


SMALL = pattern(10_000)

BIG = 4 * MIB + 123


@asynccontextmanager
async def stalled(stream: SocketStream, file: Any, *, count: int | None = None) -> AsyncIterator[Stall]:
    """A transfer that has moved something and waits for its peer, which does not read."""
    stall = Stall()

    async def send() -> None:
        try:
            stall.result = await stream.send_file(file, count=count)
        except Exception as error:
            stall.error = error
        stall.seconds = time.monotonic() - stall.since

    async with anyio.create_task_group() as tasks:
        stall.scope = tasks.cancel_scope
        tasks.start_soon(send)
        stall.sent = await until_stalled(stream)
        stall.since = time.monotonic()
        yield stall


class Stall:
    scope: anyio.CancelScope
    sent = 0
    since = 0.0
    seconds = 0.0
    result: int | None = None
    error: Exception | None = None
