"""Waiting for what a peer or the kernel does, within a bound."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable

import anyio

BOUND = 20.0  # seconds: no peer blocks for longer, and no wait takes longer
PROGRAM_BOUND = 60.0  # seconds, for what another program does
# Seconds, for what waits for nothing: 50 ms are promised, on a machine that is not loaded. What waits all the same
# would do so for ever.
AT_ONCE = 4.0


async def until(condition: Callable[[], object]) -> None:
    """Let the loop run until the peer or the kernel has done its part."""
    with anyio.fail_after(BOUND):
        while not condition():  # noqa: ASYNC110 - what is waited for is not a task of this loop
            await anyio.sleep(0.002)


def wait_until(condition: Callable[[], object], what: str = "what is waited for") -> None:
    """Block until a program or the kernel has done its part."""
    deadline = time.monotonic() + PROGRAM_BOUND
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen"
        time.sleep(0.001)


async def arrived(sock: socket.socket) -> None:
    """Until there is something to read at ``sock``: data, or its end."""
    await until(lambda: bool(select.select([sock], [], [], 0)[0]))


async def gone(sock: socket.socket) -> None:
    """Until the peer's FIN or RST has arrived at ``sock``, whatever lies unread there."""
    poll = select.poll()
    poll.register(sock, select.POLLRDHUP)
    await until(lambda: bool(poll.poll(0)))
