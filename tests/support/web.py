"""A server of static files, and a client that speaks to it over a raw socket."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anyio
from anyio.abc import SocketAttribute

from roket_trio import create_tcp_listener, serve
from roket_trio.staticfiles import Exchange, StaticFiles

from .waiting import BOUND


@asynccontextmanager
async def serving(root: Path, **options: Any) -> AsyncIterator[tuple[int, StaticFiles, list[Exchange]]]:
    """A server until the end of the block: its port, itself, and its log."""
    log: list[Exchange] = []
    with StaticFiles(root, log=log.append, **options) as files:
        async with await create_tcp_listener(local_host="127.0.0.1") as listener:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(partial(serve, files, listener, max_connections=options.get("max_connections")))
                yield listener.extra(SocketAttribute.local_port), files, log
                tasks.cancel_scope.cancel()


def connected(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), BOUND)


def received_all(peer: socket.socket) -> bytes:
    """Everything up to FIN; a reset raises."""
    data = bytearray()
    while more := peer.recv(1 << 20):
        data += more
    return bytes(data)
