"""What the tests of the close contract share."""

from __future__ import annotations

import os
import socket

import anyio
import anyio.lowlevel
import anyio.to_thread

from roket_trio import (
    BrokenResourceError,
    ClosedResourceError,
    SocketStream,
)
from roket_trio._kernel import tcp
from support.sockets import read_to_end
from support.streams import ENDLESS
from support.waiting import until

# What the kernel takes at once although the peer does not read, and more than a peer with a small buffer takes.
STUCK = bytes(range(250)) * 400


def unread(sock: socket.socket) -> int:
    """What the peer's kernel holds and its program has not read."""
    return tcp.unread_bytes(sock)


async def start_endless_send(stream: SocketStream, tasks: anyio.abc.TaskGroup, errors: list[Exception]) -> None:
    """A task that is in the middle of an item; what it raises is put into ``errors``."""

    async def send() -> None:
        try:
            await stream.send(ENDLESS)
        except (BrokenResourceError, ClosedResourceError) as error:
            errors.append(error)

    tasks.start_soon(send)
    await until(lambda: stream.statistics().sent_bytes > 0)


async def cut(stream: SocketStream) -> int:
    """Cancel a send in the middle; returns how much of it the kernel had taken."""
    async with anyio.create_task_group() as tasks:
        await start_endless_send(stream, tasks, [])
        tasks.cancel_scope.cancel()
    return stream.statistics().sent_bytes


async def send_stuck(stream: SocketStream, peer: socket.socket) -> int:
    """Send an item that the kernel takes whole and the peer's only in part; returns what the peer's has not."""
    await stream.send(STUCK)

    def is_still() -> bool:
        view = stream.statistics().kernel
        return view is not None and 0 < view.unacked_bytes == len(STUCK) - unread(peer)

    await until(is_still)
    return len(STUCK) - unread(peer)


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def upload_then_read(sock: socket.socket, size: int) -> tuple[bytes, str]:
    """A client that sends everything before it looks at the answer."""
    sock.sendall(bytes(size))
    sock.shutdown(socket.SHUT_WR)
    return read_to_end(sock)
