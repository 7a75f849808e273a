"""Servers in a task of their own, and their raw clients."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any

import anyio
import anyio.abc
import anyio.lowlevel
import anyio.to_thread
import pytest
from anyio.abc import SocketAttribute

from roket_trio import (
    create_tcp_listener,
    serve,
)
from roket_trio._kernel import tcp
from roket_trio._serving import watcher as watcher_module
from support.threads import other_side
from support.waiting import BOUND

# A budget that runs out in a test (seconds).
SOON = 0.1


class Oops(Exception):
    pass


class Server:
    """One call of ``serve`` in a task of its own."""

    def __init__(self, listener: Any) -> None:
        self.listener = listener
        self.scope = anyio.CancelScope()
        self.ended = anyio.Event()
        self.error: BaseException | None = None
        self.address: Any = listener.extra(SocketAttribute.local_address)

    async def run(self, handler: Any, options: dict[str, Any], *, task_status: anyio.abc.TaskStatus[Any]) -> None:
        try:
            with self.scope:
                await serve(handler, self.listener, task_status=task_status, **options)
        except (Exception, KeyboardInterrupt, SystemExit) as error:
            self.error = error
        self.ended.set()

    async def wait(self) -> None:
        with anyio.fail_after(BOUND):
            await self.ended.wait()


@asynccontextmanager
async def serving(handler: Any, listener: Any = None, **options: Any) -> AsyncIterator[Server]:
    """A server that is cancelled at the end, if it has not ended by then."""
    if listener is None:
        listener = await create_tcp_listener(local_host="127.0.0.1")
    server = Server(listener)
    async with anyio.create_task_group() as tasks:
        assert await tasks.start(server.run, handler, options) is listener
        try:
            yield server
        finally:
            server.scope.cancel()
    if "handler_nursery" not in options:  # else handlers may go on, and they are watched
        assert watcher_module._watcher.get() is None


async def echo(stream: Any) -> None:
    async for chunk in stream:
        await stream.send(chunk)


@contextmanager
def client_of(address: Any) -> Iterator[socket.socket]:
    """A raw blocking client."""
    with socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET) as sock:
        sock.settimeout(BOUND)
        sock.connect(address)
        yield sock


@contextmanager
def clients_of(address: Any, number: int) -> Iterator[list[socket.socket]]:
    clients: list[socket.socket] = []
    try:
        for _ in range(number):
            client = socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET)
            clients.append(client)
            client.settimeout(BOUND)
            client.connect(address)
        yield clients
    finally:
        for client in clients:
            client.close()


async def receive(client: socket.socket, count: int) -> bytes:
    data: bytes = await other_side(client.recv, count, socket.MSG_WAITALL)
    return data


def states(address: Any) -> list[str]:
    """The states of the server's ends of its connections in /proc/net/tcp; the listening socket itself not.

    Nor what another process holds: once the server is gone, any client may get its port.
    """
    wanted = f":{address[1]:04X}"
    with open("/proc/net/tcp") as table:
        found = [line.split() for line in table]
    listening = f"{tcp.TCPState.LISTEN:02X}"
    ours = {"0", *own_inodes()}
    return [sock[3] for sock in found if sock[1].endswith(wanted) and sock[3] != listening and sock[9] in ours]


def own_inodes() -> Iterator[str]:
    for fd in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):
            yield os.readlink(f"/proc/self/fd/{fd}").removeprefix("socket:[").rstrip("]")


CLOSE_WAIT = f"{tcp.TCPState.CLOSE_WAIT:02X}"
ESTABLISHED = f"{tcp.TCPState.ESTABLISHED:02X}"


def refused(address: Any) -> bool:
    try:
        with client_of(address):
            return False
    except (ConnectionRefusedError, FileNotFoundError):
        return True


def logged(caplog: pytest.LogCaptureFixture, level: int) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.name == "roket_trio" and record.levelno == level]
