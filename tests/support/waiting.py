"""Waiting for what a peer or the kernel does, within a bound."""

from __future__ import annotations

import select
import socket
import struct
import time
from collections.abc import Awaitable, Callable

import anyio

BOUND = 20.0  # seconds: no peer blocks for longer, and no wait takes longer
PROGRAM_BOUND = 60.0  # seconds, for what another program does
# Seconds, for what waits for nothing: 50 ms are promised, on a machine that is not loaded. What waits all the same
# would do so for ever.
AT_ONCE = 10.0

# struct tcp_info of linux/tcp.h: tcpi_unacked, and tcpi_snd_wnd (Linux 5.4).
_SEGMENTS_UNDER_WAY = 24
_WINDOW = 228


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


async def cancelled_when(
    condition: Callable[[], object], call: Callable[..., Awaitable[object]], *args: object
) -> None:
    """Make a call that does not end by itself, and cancel it once ``condition`` holds, however long that takes."""
    await _cancelled_after(lambda: until(condition), call, *args)


async def cancelled_in_its_wait(call: Callable[..., Awaitable[object]], *args: object) -> None:
    """Make a call that waits, and cancel it there, once all other tasks wait, too."""
    await _cancelled_after(anyio.wait_all_tasks_blocked, call, *args)


async def _cancelled_after(
    moment: Callable[[], Awaitable[None]], call: Callable[..., Awaitable[object]], *args: object
) -> None:
    ended = False

    async def work() -> None:
        nonlocal ended
        await call(*args)
        ended = True

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(work)
        await moment()
        tasks.cancel_scope.cancel()
    assert not ended, "it was not cancelled"


def has_no_window(sock: socket.socket) -> bool:
    """Whether nothing that ``sock`` has sent is under way, and its peer has space for nothing more.

    Silence is no sign of it. On a busy machine the next segment comes later than any silence lasts, and where the
    window is smaller than a segment, the kernel fills it only after 200 ms.
    """
    if sock.family == socket.AF_UNIX:
        return True  # send(2) itself puts it into the peer's queue
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
    return not any(struct.unpack_from("=I", info, at)[0] for at in (_SEGMENTS_UNDER_WAY, _WINDOW))
